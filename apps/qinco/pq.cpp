// qinco pq recombine: one PQ-QINCo model from separately trained models of the blocks.
#include <memory>
#include <string>
#include <vector>

#include "apps/qinco/command.h"
#include "qinco/io/model_file.h"
#include "qinco/io/product_file.h"
#include "tensor/npy.h"

namespace qinco::app {
namespace {

struct RecombineOptions {
  std::string output, rotation;
  std::vector<std::string> models;
};

void recombine(const RecombineOptions& options, const Common& common) {
  ProductQinco model;
  for (const std::string& path : options.models) model.parts.push_back(load_model(path));
  if (!options.rotation.empty()) {
    const Tensor rotation = read_npy(options.rotation);
    check(rotation.dtype() == DType::f32 && rotation.dim() == 2, "{}: {} {}, expected f32 [{},d]", options.rotation,
          name(rotation.dtype()), rotation.shape(), model.d_out());
    model.rotation = rotation.clone();
  }
  save_product(options.output, model);
  common.print("{}: {} sub-quantizers of {} codes, d={}", options.output, model.nsub(), model.M(), model.d());
  common.report({{"model", options.output},
                 {"variant", model.variant()},
                 {"nsub", model.nsub()},
                 {"d", model.d()},
                 {"M", model.M()},
                 {"K", model.K()},
                 {"parameters", model.parameter_count()}});
}

}  // namespace

void add_pq(Program& program) {
  program.add_group("pq", "PQ-QINCo: recombine models of the blocks of dimensions");
  auto options = std::make_shared<RecombineOptions>();
  CLI::App& command = program.add("pq recombine", "Put separately trained models of the blocks together",
                                  [options](const Common& common) { recombine(*options, common); });
  command.add_option("--models", options->models, "models of the blocks of dimensions, in order")
      ->required()
      ->type_name("FILE...");
  command.add_option("--opq_matrix", options->rotation, "rotation before the blocks, f32 [d_out,d] (.npy)")
      ->type_name("FILE");
  program.add_output(command, "--o", options->output, "the PQ-QINCo model", ".safetensors")->required();
}

}  // namespace qinco::app

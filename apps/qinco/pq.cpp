// qinco pq recombine: one PQ-QINCo model from separately trained models of the blocks.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "apps/qinco/command.h"
#include "qinco/io/model_file.h"
#include "qinco/io/product_file.h"
#include "tensor/npy.h"
#include "tensor/ops.h"

namespace qinco::app {
namespace {

struct RecombineOptions {
  std::string output, rotation;
  std::vector<std::string> models;
};

// A rotation's rows or columns, whichever are fewer, are of length 1 and at right angles: decoding turns back by its
// transpose.
void check_rotation(const std::string& path, const Tensor& rotation) {
  const bool wide = rotation.size(0) <= rotation.size(1);
  const Tensor products = matmul(rotation, rotation, !wide, wide);  // NaN where the rotation holds NaN
  const int64_t n = products.size(0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const float found = products.data<float>()[i * n + j];
      check(std::abs(found - (i == j ? 1.0F : 0.0F)) <= 1e-2F,
            "{}: expected a rotation, found {} {} and {} whose product is {}", path, wide ? "rows" : "columns", i, j,
            found);
    }
}

void recombine(const RecombineOptions& options, const Common& common) {
  ProductQinco model;
  for (const std::string& path : options.models) model.parts.push_back(load_model(path));
  if (!options.rotation.empty()) {
    const Tensor rotation = read_npy(options.rotation);
    check(rotation.dtype() == DType::f32 && rotation.dim() == 2, "{}: {} {}, expected f32 [{},d]", options.rotation,
          name(rotation.dtype()), rotation.shape(), model.d_out());
    if (rotation.size(0) == model.d_out()) check_rotation(options.rotation, rotation);  // else no model
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

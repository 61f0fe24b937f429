// Parameters: whose memory they write to, who shares them, which are frozen, what they are called.
#include <doctest/doctest.h>
#include <utility>

#include "autograd/nn/layers.h"
#include "autograd/optim/optimizer.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

// One step of SGD that subtracts 1 from every element.
void subtract_one(const std::vector<Variable>& parameters) {
  optim::SGD sgd(parameters, {.lr = 1});
  for (Variable parameter : parameters)
    parameter.set_grad(ones(parameter.shape(), parameter.dtype(), parameter.value().device()));
  sgd.step();
}

/// A module whose parameters are given to it.
struct Given : nn::Module {
  template <class... Values>
  explicit Given(const std::string& name, Values&&... values) {
    (register_parameter(name, std::forward<Values>(values)), ...);
  }
};

}  // namespace

TEST_CASE("parameter: tensors of a mapped file can be trained, and the file stays") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("table");
  write_safetensors(path, {{{"table", ones({4, 3})}}, {}});
  const Tensor mapped = read_safetensors(path).tensors.at("table");
  const Variable leaf(mapped, true);
  Variable set(zeros({4, 3}), true);
  set.set_value(mapped);
  const nn::Embedding embedding(mapped);
  const Given module("w", mapped);
  for (const Variable& parameter : {leaf, set, embedding.weight, module.parameters().front()}) {
    subtract_one({parameter});
    CHECK(same_bits(parameter.value(), zeros({4, 3})));
  }
  CHECK(same_bits(mapped, ones({4, 3})));
  CHECK(same_bits(read_safetensors(path).tensors.at("table"), ones({4, 3})));
  CHECK(Variable(mapped).value().shares_storage(mapped));  // nobody writes to a constant
}

TEST_CASE("parameter: a module's memory is its own") {
  Tensor table = ones({4, 3});
  const Tensor rows = table.slice(0, 1, 3), spread = ones({1, 3}).expand({2, 3});
  const Given whole("w", table), view("w", rows), last("w", table.slice(0, 3, 4)), expanded("w", spread);
  const nn::Embedding embedding(table);
  for (const Variable& parameter : {whole.parameters()[0], view.parameters()[0], last.parameters()[0],
                                    expanded.parameters()[0], embedding.weight}) {
    subtract_one({parameter});
    CHECK(same_bits(parameter.value(), zeros(parameter.shape())));
  }
  CHECK(same_bits(table, ones({4, 3})));
  CHECK(same_bits(spread, ones({2, 3})));
  CHECK(contains(error_of([] { Given("w", Tensor()); }), "module: parameter w: the tensor is undefined"));
}

TEST_CASE("parameter: a tensor just made, or moved to a module, is not copied") {
  constexpr int64_t kRows = 1000, kBytes = kRows * 256 * 4;
  const int64_t before = memory_stats().live;
  reset_memory_peak();
  const nn::Embedding made(zeros({kRows, 256}));
  CHECK(memory_stats().peak - before <= kBytes + kBytes / 2);
  Tensor table = zeros({kRows, 256});
  const std::byte* const memory = table.bytes();
  const Given moved("w", std::move(table));
  CHECK(moved.parameters()[0].value().bytes() == memory);
}

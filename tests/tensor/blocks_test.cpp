// Going through tensors piece by piece.
#include "tensor/blocks.h"

#include <doctest/doctest.h>
#include <vector>

#include "tensor/create.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;

namespace {

/// The elements of x in the order that for_blocks gives them; counts the blocks.
std::vector<float> gathered(const Tensor& x, int& blocks) {
  std::vector<float> all;
  blocks = 0;
  for_blocks(x, nullptr, [&](const Tensor& block) {
    CHECK(block.is_contiguous());
    CHECK(block.numel() >= 1);
    CHECK(block.numel() <= 1 << 20);
    all.insert(all.end(), block.data<float>(), block.data<float>() + block.numel());
    ++blocks;
  });
  return all;
}

}  // namespace

TEST_CASE("blocks: every element once, in row-major order, whatever the layout") {
  const Tensor large = normal_vectors(1500, 1500, 1), wide = normal_vectors((1 << 20) + 5, 3, 2);
  int blocks = 0;
  for (const Tensor& x :
       {large, large.transpose(0, 1), large.slice(1, 3, 1400), wide, wide.transpose(0, 1), large.reshape({-1}),
        large.reshape({15, 100, 1500}).transpose(0, 2), full({}, 3), full({1, 1}, 3).expand({3, 4})}) {
    CAPTURE(x.shape().str());
    const std::vector<float> found = gathered(x, blocks);
    const Tensor expected = x.clone();
    REQUIRE(static_cast<int64_t>(found.size()) == x.numel());
    CHECK(std::equal(found.begin(), found.end(), expected.data<float>()));
    CHECK((x.numel() <= 1 << 20 || blocks > 1));
  }
  CHECK(gathered(zeros({0, 4}), blocks).empty());
  CHECK(blocks == 0);
}

TEST_CASE("blocks: those of a contiguous tensor are no copies, and a mapped file stays readable") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("x.safetensors");
  const Tensor x = normal_vectors(3000, 1000, 3);
  write_safetensors(path, {{{"x", x}}, {}});
  const SafetensorsFile file = read_safetensors(path);
  const Tensor& mapped = file.tensors.at("x");
  for_blocks(mapped, file.file.get(), [&](const Tensor& block) { CHECK(block.shares_storage(mapped)); });
  CHECK(same_bits(mapped, x));
}

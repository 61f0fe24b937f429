// Keeps vectors as IVF-QINCo codes in an index file, and finds them again: embed MODEL VECTORS INDEX
#include <cstdio>
#include <exception>
#include <memory>

#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/search/ivf_index.h"

int main(int argc, char** argv) try {
  if (argc != 4) return std::fputs("usage: embed MODEL VECTORS INDEX\n", stderr), 2;
  const auto coder = std::make_shared<const qinco::IvfCoder>(qinco::load_model(argv[1]));
  const qinco::Tensor x = qinco::read_all(argv[2]);
  const std::span<const float> vectors(x.data<float>(), static_cast<size_t>(x.numel()));
  qinco::IvfBuilder builder(coder);
  builder.add(x.size(0), x.data<float>());
  builder.write(argv[3]);
  qinco::IvfIndex index(argv[3], coder);
  index.add(vectors, 0);
  const qinco::IvfResult found = index.search(vectors, {.k = 1, .nprobe = 4, .nshort = 20});
  int64_t hits = 0;
  for (int64_t i = 0; i < x.size(0); ++i) hits += found.ids[static_cast<size_t>(i)] == i;
  std::printf("%ld of %ld vectors are their own nearest neighbour\n", long(hits), long(x.size(0)));
} catch (const std::exception& error) {
  return std::fprintf(stderr, "embed: %s\n", error.what()), 1;
}

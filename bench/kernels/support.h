// What the kernel benchmarks share: one benchmark per available ISA, with its rate and its share of a measured peak.
#pragma once

#include <benchmark/benchmark.h>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace qinco::bench {

using kernels::Context;
using kernels::Isa;
using kernels::Table;

/// What one call of a kernel does: whichever of the two is not 0 is reported, beside the matching peak.
struct Work {
  double flops = 0;
  double bytes = 0;       // read + written, each counted once
  bool products = false;  // the peak is that of the matrix unit where the ISA has one
};

/// A call to time, made once per benchmark: it owns its operands. Empty where the table lacks the kernel.
using Call = std::function<void()>;
using Make = std::function<Call(const Context&, const Table<float>&)>;

/// Registers "<kernel>/<shape>/<isa>" for every available ISA at the default number of threads.
/// `kernel` is the table's name for it: main() fails if a kernel of the table was never registered.
void add(const std::string& kernel, const std::string& shape, Work work, Make make);

/// `size` normal numbers, the same at every call.
std::vector<float> normal(int64_t size);
/// `size` numbers in [0, below), the same at every call.
std::vector<int32_t> ids_below(int64_t size, int32_t below);

/// One function per family: registers its kernels.
void add_matrix_kernels();
void add_elementwise_kernels();
void add_row_kernels();

}  // namespace qinco::bench

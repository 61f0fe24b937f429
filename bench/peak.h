// This machine's ceilings, measured: what the benchmarks' percentages are of.
#pragma once

#include "kernels/dispatch.h"

namespace qinco::bench {

/// fp32 multiply-adds of independent registers, counted as 2 each: GFLOP/s of `threads` threads with the widest vectors
/// of `isa` (reference: scalar code). The best of several short runs, measured once per (isa, threads).
double peak_gflops(kernels::Isa isa, int threads);

/// The same, measured now: for comparing with work timed at the same moment, where the machine's clock moves.
double measure_peak_gflops(kernels::Isa isa, int threads, int runs = 3);

/// What the products of the candidate search and of `linear` run on: the matrix unit's bfloat16 products, on random
/// operands (on zeros it clocks higher), where `isa` is amx; else as peak_gflops.
double product_peak_gflops(kernels::Isa isa, int threads);
double measure_product_peak_gflops(kernels::Isa isa, int threads, int runs = 3);

/// Bytes read plus bytes written per second (in GB/s) by `threads` threads copying arrays far larger than the caches.
double copy_gbytes(int threads);

}  // namespace qinco::bench

// This machine's ceilings, measured: what the benchmarks' percentages are of.
#pragma once

#include "kernels/dispatch.h"

namespace qinco::bench {

/// fp32 multiply-adds of independent registers, counted as 2 each: GFLOP/s of `threads` threads with the widest vectors
/// of `isa` (reference: scalar code). The best of several short runs, measured once per (isa, threads).
double peak_gflops(kernels::Isa isa, int threads);

/// The same, measured now: for comparing with work timed at the same moment, where the machine's clock moves.
double measure_peak_gflops(kernels::Isa isa, int threads, int runs = 3);

/// Bytes read plus bytes written per second (in GB/s) by `threads` threads copying arrays far larger than the caches.
double copy_gbytes(int threads);

}  // namespace qinco::bench

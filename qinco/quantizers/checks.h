// What is asked of codes and vectors in memory; those of files are checked as they are read.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/check.h"

namespace qinco {

/// Throws Error naming `what` and the row unless codes `first` to M-1 of each of n rows, codes_ld apart, are in [0,K).
inline void check_codes(const char* what, int64_t n, int64_t M, int64_t K, const int32_t* codes, int64_t codes_ld,
                        int64_t first = 0) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t m = first; m < M; ++m) {
      const int32_t code = codes[i * codes_ld + m];
      check(code >= 0 && code < K, "{}: row {}: expected codes in [0,{}), found {}", what, i, K, code);
    }
}

/// The same of whole codes: the first of each row in [0,K0), the M-1 others in [0,K).
inline void check_whole_codes(const char* what, int64_t n, int64_t M, int64_t K0, int64_t K, const int32_t* codes,
                              int64_t codes_ld) {
  check_codes(what, n, 1, K0, codes, codes_ld);
  check_codes(what, n, M, K, codes, codes_ld, 1);
}

/// Throws Error naming `what` and the row when one of x [n,d], in the host's memory, is not finite.
inline void check_finite(const char* what, int64_t n, int64_t d, const float* x) {
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < d; ++j)
      check(std::isfinite(x[i * d + j]), "{}: row {} holds {}, expected finite values", what, i, x[i * d + j]);
}

}  // namespace qinco

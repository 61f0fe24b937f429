// Numbers of a pickle.
#pragma once

#include <optional>

#include "qinco/io/torch/pickle.h"

namespace qinco::torch {

/// The value of an integer, a real, a NumPy scalar or a NumPy array of one element (f2 f4 f8 u1 i4 i8, little-endian);
/// none of anything else.
std::optional<double> as_number(const Value& value);

}  // namespace qinco::torch

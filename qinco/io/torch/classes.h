// The classes and functions that a file of a QINCo model names.
#pragma once

#include <string_view>

namespace qinco::torch {

/// Whether `name`, "module.Class", may occur: the reference's modules, torch's modules, optimisers, schedulers,
/// storages, dtypes and functions that rebuild tensors, NumPy's scalars and arrays, plain containers. None of them is
/// ever run.
bool accepts_class(std::string_view name);

/// Whether it is one of the reference's models: QINCo, QINCoLR, IVFQINCo, PQ_QINCo.
bool is_model_class(std::string_view name);

}  // namespace qinco::torch

#include "qinco/io/torch/classes.h"

#include <algorithm>
#include <iterator>

namespace qinco::torch {
namespace {

constexpr std::string_view kModels[] = {"model_qinco.QINCo", "model_qinco.QINCoLR", "model_qinco.IVFQINCo",
                                        "model_qinco.PQ_QINCo"};

constexpr std::string_view kOthers[] = {
    "model_qinco.QINCoStep",
    "collections.OrderedDict",
    "collections.defaultdict",
    "collections.Counter",
    "collections.deque",
    "__builtin__.set",
    "builtins.set",
    "builtins.frozenset",
    // what a defaultdict makes
    "__builtin__.dict",
    "__builtin__.list",
    "__builtin__.int",
    "__builtin__.float",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.numeric._frombuffer",
    "torch.Size",
    "torch.device",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.nn.parallel.distributed._BucketCapacityConfig",
    "torch.distributed.algorithms.join._JoinConfig",
    // dtypes and storages; which of them a tensor may have is the matter of tensors.cpp
    "torch.float32",
    "torch.float64",
    "torch.float16",
    "torch.bfloat16",
    "torch.int64",
    "torch.int32",
    "torch.FloatStorage",
    "torch.DoubleStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.ByteStorage",
    "torch.CharStorage",
    "torch.ShortStorage",
    "torch.IntStorage",
    "torch.LongStorage",
    "torch.BoolStorage",
    "torch.ComplexFloatStorage",
    "torch.ComplexDoubleStorage",
};

/// Whether it is "linear.Linear", say, below `package`: a module and a class, no more.
bool is_class_of(std::string_view package, std::string_view name) {
  if (!name.starts_with(package)) return false;
  name.remove_prefix(package.size());
  const size_t dot = name.find('.');
  return dot != std::string_view::npos && dot + 1 < name.size() && name.find('.', dot + 1) == std::string_view::npos;
}

}  // namespace

bool is_model_class(std::string_view name) {
  return std::find(std::begin(kModels), std::end(kModels), name) != std::end(kModels);
}

bool accepts_class(std::string_view name) {
  return is_model_class(name) || is_class_of("torch.nn.modules.", name) || is_class_of("torch.optim.", name) ||
         std::find(std::begin(kOthers), std::end(kOthers), name) != std::end(kOthers);
}

}  // namespace qinco::torch

#include "qinco/io/torch/tensors.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace qinco::torch {
namespace {

using Kind = Value::Kind;

constexpr int kMaxWrappers = 4;  // parameter(parameter(tensor)): one level is all that torch writes

struct StorageType {
  std::string_view name;
  DType dtype;
};
constexpr StorageType kStorageTypes[] = {{"FloatStorage", DType::f32}, {"DoubleStorage", DType::f64},
                                         {"HalfStorage", DType::f16},  {"BFloat16Storage", DType::bf16},
                                         {"ByteStorage", DType::u8},   {"IntStorage", DType::i32},
                                         {"LongStorage", DType::i64}};

bool is_parameter(const Value& value) {
  return value.is_instance("torch._utils._rebuild_parameter") ||
         value.is_instance("torch._utils._rebuild_parameter_with_state") ||
         value.is_instance("torch.nn.parameter.Parameter");
}

bool is_view(const Value& value) {
  return value.is_instance("torch._utils._rebuild_tensor_v2") || value.is_instance("torch._utils._rebuild_tensor");
}

/// The non-negative integers of a tuple, a list or a torch.Size.
std::vector<int64_t> integers(const Value& value, const char* what) {
  if (value.is_instance("torch.Size") && value.object->items.size() == 1) return integers(value.object->items[0], what);
  check(value.is(Kind::tuple) || value.is(Kind::list), "{} is no tuple", what);
  check(value.object->items.size() <= static_cast<size_t>(kMaxDims), "{} of {} dimensions, expected at most {}", what,
        value.object->items.size(), kMaxDims);
  std::vector<int64_t> values;
  for (const Value& item : value.object->items) {
    check(item.is(Kind::integer), "{} holds something else than integers", what);
    check(item.integer >= 0, "{} holds {}", what, item.integer);
    values.push_back(item.integer);
  }
  return values;
}

}  // namespace

bool TensorReader::is_tensor(const Value& value) {
  return is_view(value) || is_parameter(value);
}

Tensor TensorReader::read(const Value& value, const std::string& name) {
  try {
    const Value* inner = &value;
    for (int i = 0; i < kMaxWrappers && is_parameter(*inner) && !inner->object->items.empty(); ++i)
      inner = &inner->object->items[0];
    check(is_view(*inner), "not a plain tensor");
    return view(*inner);
  } catch (const Error& error) {
    const std::string message = error.what();
    if (message.rfind(archive_.file()->path() + ":", 0) == 0) throw;
    fail("{}: tensor {}: {}", archive_.file()->path(), quote(name), message);
  }
}

Tensor TensorReader::view(const Value& call) {
  const std::vector<Value>& arguments = call.object->items;
  check(arguments.size() >= 4, "{} arguments, expected storage, offset, size and stride", arguments.size());
  const Block& from = block(arguments[0]);
  check(arguments[1].is(Kind::integer) && arguments[1].integer >= 0, "the storage offset is no count");
  const int64_t offset = arguments[1].integer;
  const std::vector<int64_t> sizes = integers(arguments[2], "size"), steps = integers(arguments[3], "stride");
  check(sizes.size() == steps.size(), "{} sizes, {} strides", sizes.size(), steps.size());
  const Shape shape{std::span<const int64_t>(sizes)};
  const int64_t numel = shape.numel();
  check(numel <= from.numel, "{} elements in a storage of {}", numel, from.numel);
  Strides strides{};
  int64_t last = offset;  // the largest index
  for (size_t i = 0; i < sizes.size(); ++i) {
    strides[i] = steps[i];
    if (sizes[i] > 0) last = checked_add(last, checked_mul(sizes[i] - 1, steps[i], "stride"), "stride");
  }
  const int64_t most = 4 * archive_.file()->size();  // shared storages are fine, bombs are not
  bytes_ += numel * static_cast<int64_t>(size_of(from.dtype));
  check(bytes_ <= most, "more than {} bytes of tensors in a file of {}", most, archive_.file()->size());
  check(numel == 0 ? offset <= from.numel : last < from.numel, "element {} of a storage of {}", last, from.numel);
  return Tensor(from.storage, shape, strides, offset, from.dtype);
}

const TensorReader::Block& TensorReader::block(const Value& id) {
  check(id.is(Kind::persistent) && id.object->items.size() >= 5, "its storage is malformed");
  const std::vector<Value>& parts = id.object->items;
  check(parts[0].text() == "storage" && parts[1].is(Kind::global) && parts[2].is(Kind::text) &&
            parts[4].is(Kind::integer) && parts[4].integer >= 0,
        "its storage is malformed");
  const std::string_view type = parts[1].object->name, key = parts[2].text();
  const auto found = blocks_.find(key);
  if (found == blocks_.end()) return blocks_[key] = open_block(type, key, parts[4].integer);
  const Block& known = found->second;
  check(known.numel == parts[4].integer && type.ends_with(known.type), "storage {} is given as {} and as other",
        quote(key), quote(type));
  return known;
}

TensorReader::Block TensorReader::open_block(std::string_view type, std::string_view key, int64_t numel) const {
  const std::string_view last = type.substr(type.rfind('.') + 1);
  const auto* const kind = std::find_if(std::begin(kStorageTypes), std::end(kStorageTypes),
                                        [&](const StorageType& candidate) { return candidate.name == last; });
  check(kind != std::end(kStorageTypes), "unsupported element type: {}", type);
  const ZipEntry* const entry = archive_.find(prefix_ + "data/" + std::string(key));
  check(entry != nullptr, "its storage {} is not in the file", quote(key));
  const int64_t bytes = checked_mul(numel, static_cast<int64_t>(size_of(kind->dtype)), "storage");
  check(entry->data.size() == static_cast<uint64_t>(bytes), "storage {} has {} bytes, expected {} for {} {}",
        quote(key), entry->data.size(), bytes, numel, qinco::name(kind->dtype));
  archive_.check_crc(*entry);
  auto* const data = const_cast<std::byte*>(entry->data.data());
  Block block{nullptr, kind->dtype, kind->name, numel};
  if (reinterpret_cast<uintptr_t>(data) % size_of(kind->dtype) == 0) {
    const std::shared_ptr<void> owner = std::const_pointer_cast<MappedFile>(archive_.file());
    block.storage = std::make_shared<Storage>(data, static_cast<size_t>(bytes), owner);
  } else {  // not aligned to its elements (torch aligns to 64 bytes, others may not): move the bytes to where it is
    block.storage = std::make_shared<Storage>(static_cast<size_t>(bytes), Device{});
    std::memcpy(block.storage->data(), data, static_cast<size_t>(bytes));
  }
  return block;
}

}  // namespace qinco::torch

#include "qinco/io/torch/numbers.h"

#include <cstring>

#include "tensor/dtype.h"

namespace qinco::torch {
namespace {

using Kind = Value::Kind;

template <class T>
std::optional<double> load_as(std::string_view bytes) {
  T value;
  if (bytes.size() != sizeof value) return std::nullopt;
  std::memcpy(&value, bytes.data(), sizeof value);
  if constexpr (std::is_same_v<T, Float16>)
    return f16_value(value.bits);
  else
    return static_cast<double>(value);
}

/// numpy.dtype(TYPE, ...), whose state holds the byte order, and the scalar's bytes.
std::optional<double> numpy_scalar(const Value& dtype, std::string_view bytes) {
  if (!dtype.is_instance("numpy.dtype") || dtype.object->items.empty()) return std::nullopt;
  const Value& state = dtype.object->state;
  const bool big_endian =
      state.is(Kind::tuple) && state.object->items.size() > 1 && state.object->items[1].text() == ">";
  if (big_endian) return std::nullopt;
  const std::string_view type = dtype.object->items[0].text();
  if (type == "f2") return load_as<Float16>(bytes);
  if (type == "f4") return load_as<float>(bytes);
  if (type == "f8") return load_as<double>(bytes);
  if (type == "u1") return load_as<uint8_t>(bytes);
  if (type == "i4") return load_as<int32_t>(bytes);
  if (type == "i8") return load_as<int64_t>(bytes);
  return std::nullopt;
}

}  // namespace

std::optional<double> as_number(const Value& value) {
  if (value.is(Kind::integer)) return static_cast<double>(value.integer);
  if (value.is(Kind::real)) return value.real;
  const bool scalar =
      value.is_instance("numpy.core.multiarray.scalar") || value.is_instance("numpy._core.multiarray.scalar");
  if (!scalar || value.object->items.size() != 2) return std::nullopt;
  return numpy_scalar(value.object->items[0], value.object->items[1].text());
}

}  // namespace qinco::torch

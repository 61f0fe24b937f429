#include "qinco/io/torch/numbers.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "tensor/dtype.h"

namespace qinco::torch {
namespace {

using Kind = Value::Kind;

template <class T>
std::optional<double> number_as(std::string_view bytes) {
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
  if (type == "f2") return number_as<Float16>(bytes);
  if (type == "f4") return number_as<float>(bytes);
  if (type == "f8") return number_as<double>(bytes);
  if (type == "u1") return number_as<uint8_t>(bytes);
  if (type == "i4") return number_as<int32_t>(bytes);
  if (type == "i8") return number_as<int64_t>(bytes);
  return std::nullopt;
}

/// Whether it is what function `name` of NumPy's multiarray makes, of NumPy 1 or 2.
bool is_numpy(const Value& value, std::string_view name) {
  if (!value.is(Kind::instance)) return false;
  std::string_view from = value.object->name;
  for (const std::string_view module : {"numpy.core.multiarray.", "numpy._core.multiarray."})
    if (from.starts_with(module)) return from.substr(module.size()) == name;
  return false;
}

/// The bytes of a value, which protocol 2 writes as _codecs.encode(text, 'latin1'); empty for all others.
std::string bytes_of(const Value& value) {
  if (value.is(Kind::bytes)) return std::string(value.text());
  const bool latin = value.is_instance("_codecs.encode") && value.object->items.size() == 2 &&
                     value.object->items[1].text() == "latin1";
  if (!latin) return {};
  std::string bytes;
  const std::string_view utf8 = value.object->items[0].text();
  for (size_t i = 0; i < utf8.size(); ++i) {
    const auto first = static_cast<uint8_t>(utf8[i]);
    if (first < 0x80) {
      bytes += utf8[i];
    } else if ((first == 0xc2 || first == 0xc3) && i + 1 < utf8.size()) {
      bytes += static_cast<char>((first << 6) | (static_cast<uint8_t>(utf8[++i]) & 0x3f));
    } else {
      return {};  // no latin1
    }
  }
  return bytes;
}

struct Array {
  Value dtype, shape, data;
};

/// An array as protocols 2 to 4 write it, _reconstruct() with state (version, shape, dtype, order, data), or protocol
/// 5, _frombuffer(data, dtype, shape, order).
std::optional<Array> numpy_array(const Value& value) {
  if (is_numpy(value, "_reconstruct") && value.object->state.is(Kind::tuple)) {
    const std::vector<Value>& state = value.object->state.object->items;
    if (state.size() == 5) return Array{state[2], state[1], state[4]};
  }
  if (value.is_instance("numpy.core.numeric._frombuffer") || value.is_instance("numpy._core.numeric._frombuffer")) {
    const std::vector<Value>& items = value.object->items;
    if (items.size() == 4) return Array{items[1], items[2], items[0]};
  }
  return std::nullopt;
}

bool has_one_element(const Value& shape) {
  if (!shape.is(Kind::tuple)) return false;
  const std::vector<Value>& sizes = shape.object->items;
  return std::all_of(sizes.begin(), sizes.end(),
                     [](const Value& size) { return size.is(Kind::integer) && size.integer == 1; });
}

}  // namespace

std::optional<double> as_number(const Value& value) {
  if (value.is(Kind::integer)) return static_cast<double>(value.integer);
  if (value.is(Kind::real)) return value.real;
  if (is_numpy(value, "scalar")) {
    const std::vector<Value>& items = value.object->items;
    return items.size() == 2 ? numpy_scalar(items[0], bytes_of(items[1])) : std::nullopt;
  }
  const std::optional<Array> array = numpy_array(value);
  return array && has_one_element(array->shape) ? numpy_scalar(array->dtype, bytes_of(array->data)) : std::nullopt;
}

}  // namespace qinco::torch

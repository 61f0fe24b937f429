// The bytes of a pickle: opcodes and their operands.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/check.h"

namespace qinco::torch {

/// The opcodes that torch writes, by their names in Python's pickletools.
enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kProto = 0x80,
  kFrame = 0x95,
  kNone = 'N',
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kBinFloat = 'G',
  kBinUnicode = 'X',
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinString = 'T',
  kShortBinString = 'U',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kBinBytes8 = 0x8e,
  kByteArray8 = 0x96,
  kEmptyList = ']',
  kAppend = 'a',
  kAppends = 'e',
  kList = 'l',
  kEmptyTuple = ')',
  kTuple = 't',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kEmptyDict = '}',
  kDict = 'd',
  kSetItem = 's',
  kSetItems = 'u',
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kReduce = 'R',
  kBuild = 'b',
  kNewObj = 0x81,
  kNewObjEx = 0x92,
  kBinPersId = 'Q',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kMemoize = 0x94,
  kBinGet = 'h',
  kLongBinGet = 'j',
};

/// Reads operands from a pickle, never beyond its end; Errors name the file.
class PickleInput {
 public:
  PickleInput(const std::string& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  /// Bytes read so far.
  size_t position() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }

  template <class... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) fail("{}: pickle: {}", path_, fmt::format(format, std::forward<Args>(args)...));
  }

  const std::byte* take(uint64_t count) {
    require(count <= bytes_.size() - at_, "truncated: {} bytes wanted at byte {}, {} left", count, at_,
            bytes_.size() - at_);
    const std::byte* const from = bytes_.data() + at_;
    at_ += count;
    return from;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  uint8_t byte() { return number<uint8_t>(); }
  std::string_view line() {
    const size_t begin = at_;
    while (byte() != '\n') require(at_ - begin <= kMaxLine, "a class name of more than {} characters", kMaxLine);
    return {reinterpret_cast<const char*>(bytes_.data()) + begin, at_ - 1 - begin};
  }
  /// An integer of `size` bytes; none if they are more than 8.
  std::optional<int64_t> long_integer(uint64_t size) {
    uint64_t value = 0;
    const std::byte* const from = take(size);
    if (size > 8) return std::nullopt;
    for (uint64_t i = 0; i < size; ++i) value |= std::to_integer<uint64_t>(from[i]) << (8 * i);
    const bool negative = size > 0 && (std::to_integer<unsigned>(from[size - 1]) & 0x80) != 0;
    if (negative && size < 8) value |= ~uint64_t{0} << (8 * size);
    return static_cast<int64_t>(value);
  }
  double big_endian_double() {
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) bits = bits << 8 | byte();
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }

 private:
  static constexpr size_t kMaxLine = 256;

  const std::string& path_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

}  // namespace qinco::torch

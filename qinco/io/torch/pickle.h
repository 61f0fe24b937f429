// A pickle machine that executes nothing: it builds plain values, and of classes it knows only names.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qinco::torch {

struct Object;

/// A value of a pickle, 16 bytes. Texts and bytes lie on the pickle itself or in its Pickle; objects in its Pickle.
struct Value {
  enum class Kind : uint8_t {
    none,
    boolean,
    integer,
    big_integer,  // of more than 64 bits; its value is not kept
    real,
    text,
    bytes,
    list,
    tuple,
    dict,
    global,
    instance,
    persistent
  };

  Kind kind = Kind::none;
  uint32_t length = 0;  // of text and bytes
  union {
    bool boolean;
    int64_t integer = 0;
    double real;
    const char* chars;
    Object* object;  // list and all kinds after it
  };

  bool is(Kind wanted) const { return kind == wanted; }
  /// The characters of a text or bytes; empty for all others.
  std::string_view text() const;
  /// Whether it is an instance, or the result of a call, of the class or function `name`.
  bool is_instance(std::string_view name) const;
};

struct Object {
  std::string_view name;     // "module.Class" of a global; of the class or function that made an instance
  std::vector<Value> items;  // elements; dict: key, value, key, value ...; instance: arguments; persistent: the id
  Value state;               // what BUILD gave to an instance or a dict
};

/// What a pickle holds. Values may be shared and cyclic.
struct Pickle {
  Value root;
  std::deque<Object> objects;
  std::deque<std::string> texts;
};

/// Whether a pickle may name class or function `name`, "module.Class".
using Accepts = bool (*)(std::string_view name);

/// Reads a pickle of protocols 2 to 5. Calls run nothing: OrderedDict(), defaultdict() and Counter() are dicts, set()
/// and deque() lists, all others an instance with its arguments. Throws Error naming `path` for names that `accepts`
/// refuses, for other opcodes, and for anything malformed, too deep or larger than 48 MB in memory. `bytes` must
/// outlive the result.
Pickle read_pickle(const std::string& path, std::span<const std::byte> bytes, Accepts accepts);

}  // namespace qinco::torch

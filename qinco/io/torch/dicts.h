// The dicts of a pickle, which may be shared and cyclic: a file of kilobytes can ask for days of looking.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "qinco/io/torch/pickle.h"

namespace qinco::torch {

/// Reads dicts within one budget of work for the whole file. Throws Error naming the file once more items were looked
/// at than the file of a model has.
class DictReader {
 public:
  explicit DictReader(const std::string& path) : path_(path) {}

  /// Whether it is a dict or an argparse.Namespace.
  static bool is_dict(const Value& value);
  /// Key, value, key, value ... of a dict, about to be gone through once; none if `value` is no dict.
  const std::vector<Value>& items(const Value& value);
  /// The value of a dict's text key; null if `dict` is none or has no such key. Of several, the last.
  const Value* lookup(const Value& dict, std::string_view key);

 private:
  const std::string& path_;
  int64_t looked_at_ = 0;
};

}  // namespace qinco::torch

#include "qinco/io/torch/dicts.h"

#include "kernels/check.h"

namespace qinco::torch {

const std::vector<Value>& DictReader::items(const Value& dict) {
  constexpr int64_t kMaxLookedAt = 1 << 24;
  static const std::vector<Value> none;
  if (!dict.is(Value::Kind::dict)) return none;
  looked_at_ += static_cast<int64_t>(dict.object->items.size() / 2);
  check(looked_at_ <= kMaxLookedAt, "{}: dicts that hold each other: expected to look at {} items at most, found more",
        path_, kMaxLookedAt);
  return dict.object->items;
}

const Value* DictReader::lookup(const Value& dict, std::string_view key) {
  const std::vector<Value>& all = items(dict);
  for (size_t i = all.size(); i >= 2; i -= 2)
    if (all[i - 2].is(Value::Kind::text) && all[i - 2].text() == key) return &all[i - 1];
  return nullptr;
}

}  // namespace qinco::torch

#include "qinco/io/torch/dicts.h"

#include "kernels/check.h"

namespace qinco::torch {

bool DictReader::is_dict(const Value& value) {
  return value.is(Value::Kind::dict) ||
         (value.is_instance("argparse.Namespace") && value.object->state.is(Value::Kind::dict));
}

const std::vector<Value>& DictReader::items(const Value& value) {
  constexpr int64_t kMaxLookedAt = 1 << 24;
  static const std::vector<Value> none;
  if (!is_dict(value)) return none;
  const Value& dict = value.is(Value::Kind::dict) ? value : value.object->state;
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

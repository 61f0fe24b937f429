#include "qinco/io/torch/module.h"

#include "kernels/check.h"
#include "qinco/io/torch/classes.h"
#include "tensor/file.h"

namespace qinco::torch {
namespace {

using Kind = Value::Kind;

constexpr int kMaxDepth = 32;
constexpr int64_t kMaxModules = 1 << 16;
constexpr size_t kMaxTensors = 1 << 16;
constexpr size_t kMaxParameterName = 512;
constexpr std::string_view kWrappers[] = {"module.", "_orig_mod."};  // of data-parallel and of compiled modules

bool is_scale(std::string_view name) {
  return name == "db_scale" || (name.ends_with(".db_scale") && is_printable(name));
}

/// Takes `wrapper` off every key of a map; false, changing nothing, unless all have it.
template <class Map>
bool unwrap(Map& map, std::string_view wrapper) {
  for (const auto& item : map)
    if (!item.first.starts_with(wrapper)) return false;
  Map inner;
  for (auto& [name, value] : map) inner.emplace(name.substr(wrapper.size()), std::move(value));
  map = std::move(inner);
  return true;
}

}  // namespace

ModuleContents ModuleReader::read_module(const Value& module) {
  visit(module, "", 0);
  return finish();
}

ModuleContents ModuleReader::read_state_dict(const Value& dict) {
  add_tensors(&dict, "");
  return finish();
}

ModuleContents ModuleReader::finish() {
  for (bool unwrapped = !contents_.tensors.empty(); unwrapped;) {
    unwrapped = false;
    for (const std::string_view wrapper : kWrappers) {
      if (!unwrap(contents_.tensors, wrapper)) continue;
      unwrap(contents_.models, wrapper);
      unwrap(contents_.scales, wrapper);
      unwrapped = true;
    }
  }
  return std::move(contents_);
}

std::string ModuleReader::joined(const std::string& prefix, const Value& key) const {
  check(key.is(Kind::text), "{}: a name in module {} is no text", path_, quote(prefix));
  const std::string_view name = key.text();
  check(prefix.size() + name.size() <= kMaxParameterName,
        "{}: a parameter's name of {} characters, expected at most {}", path_, prefix.size() + name.size(),
        kMaxParameterName);
  return prefix + std::string(name);
}

void ModuleReader::visit(const Value& module, const std::string& prefix, int depth) {
  check(depth <= kMaxDepth, "{}: modules nested more than {} deep", path_, kMaxDepth);
  check(++modules_ <= kMaxModules, "{}: more than {} modules", path_, kMaxModules);
  check(module.is(Kind::instance) && module.object->state.is(Kind::dict), "{}: {} is no module", path_,
        quote(prefix.empty() ? "the content" : prefix));
  const Value& state = module.object->state;
  if (is_model_class(module.object->name)) contents_.models.emplace(prefix, module.object);
  add_tensors(dicts_.lookup(state, "_parameters"), prefix);
  add_tensors(dicts_.lookup(state, "_buffers"), prefix);
  const Value* const children = dicts_.lookup(state, "_modules");
  if (children == nullptr) return;
  const std::vector<Value>& items = dicts_.items(*children);
  for (size_t i = 0; i < items.size(); i += 2)
    if (!items[i + 1].is(Kind::none)) visit(items[i + 1], joined(prefix, items[i]) + ".", depth + 1);
}

void ModuleReader::add_tensors(const Value* dict, const std::string& prefix) {
  if (dict == nullptr) return;
  const std::vector<Value>& items = dicts_.items(*dict);
  for (size_t i = 0; i < items.size(); i += 2) {
    if (!TensorReader::is_tensor(items[i + 1])) continue;
    const std::string name = joined(prefix, items[i]);
    const Tensor tensor = tensors_.read(items[i + 1], name);
    if (tensor.numel() == 1 && is_scale(name)) {
      contents_.scales[name] = tensor.item<double>();
      continue;
    }
    check(contents_.tensors.emplace(name, tensor).second, "{}: two tensors are named {}", path_, quote(name));
    check(contents_.tensors.size() <= kMaxTensors, "{}: more than {} tensors", path_, kMaxTensors);
  }
}

}  // namespace qinco::torch

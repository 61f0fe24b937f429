#include "autograd/nn/module.h"

#include <algorithm>
#include <set>

#include "kernels/check.h"
#include "tensor/create.h"

namespace qinco::nn {

namespace {

// Throws unless `name` can be told from all others in a path, and from those in `taken`, pairs that start with a name.
template <class Named>
void check_name(const char* kind, const std::string& name, const std::vector<Named>& taken) {
  check(!name.empty() && name.find('.') == std::string::npos,
        "module: a {} named {}: expected a name that is not empty and without '.'", kind, quote(name));
  for (const auto& [other, value] : taken) check(other != name, "module: two {}s named {}", kind, name);
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous().to(Device{}), y = b.contiguous().to(Device{});
  return std::equal(x.bytes(), x.bytes() + x.numel() * static_cast<int64_t>(size_of(x.dtype())), y.bytes());
}

}  // namespace

void Module::collect(const std::string& prefix, std::vector<NamedParameter>& into) const {
  for (const auto& [name, parameter] : parameters_) into.push_back({prefix + name, parameter});
  for (const auto& [name, child] : children_) child->collect(prefix + name + ".", into);
}

std::vector<NamedParameter> Module::named_parameters() const {
  std::vector<NamedParameter> all;
  collect("", all);
  std::set<const autograd::Node*> seen;
  std::erase_if(all, [&](const NamedParameter& p) { return !seen.insert(p.parameter.node().get()).second; });
  return all;
}

std::vector<Variable> Module::parameters() const {
  std::vector<Variable> all;
  for (const auto& [name, parameter] : named_parameters()) all.push_back(parameter);
  return all;
}

int64_t Module::parameter_count() const {
  int64_t count = 0;
  for (const Variable& parameter : parameters()) count += parameter.value().numel();
  return count;
}

void Module::zero_grad() {
  for (Variable& parameter : parameters()) parameter.zero_grad();
}

void Module::to(Device device) {
  for (Variable& parameter : parameters()) {
    parameter.set_value(parameter.value().to(device));
    parameter.zero_grad();
  }
}

void Module::train(bool on) {
  training_ = on;
  for (const auto& [name, child] : children_) child->train(on);
}

TensorMap Module::state() const {
  TensorMap state;
  for (const auto& [name, parameter] : named_parameters()) state[name] = parameter.value().clone(Device{});
  return state;
}

void Module::load(const TensorMap& state) {
  std::vector<NamedParameter> all;
  collect("", all);
  std::set<std::string> names;
  std::map<const autograd::Node*, const TensorMap::value_type*> chosen;  // what a parameter is set from
  for (const auto& [name, parameter] : all) {
    names.insert(name);
    const auto found = state.find(name);
    if (found == state.end()) continue;
    const Tensor &value = found->second, &own = parameter.value();
    check(value.shape() == own.shape() && value.dtype() == own.dtype(), "load: {}: expected {} {}, found {} {}", name,
          qinco::name(own.dtype()), own.shape(), qinco::name(value.dtype()), value.shape());
    const auto [at, is_first] = chosen.emplace(parameter.node().get(), &*found);
    const auto& [first_name, first] = *at->second;
    check(is_first || same_bytes(first, value), "load: {} and {} are one parameter here, and differ", first_name, name);
  }
  std::vector<NamedParameter> once = named_parameters();
  for (const auto& [name, parameter] : once)
    check(chosen.count(parameter.node().get()) > 0, "load: parameter {} is missing", name);
  for (const auto& [name, value] : state) check(names.count(name) > 0, "load: unexpected parameter {}", name);
  // Of values that lie on parameters copies are made first: those are written to, one after the other.
  std::vector<Tensor> values;
  values.reserve(once.size());
  for (const NamedParameter& each : once) {
    const Tensor& value = chosen.at(each.parameter.node().get())->second;
    const bool shared = !value.owns_storage_alone() && !value.is_external();
    const bool lies_on_one = shared && std::any_of(once.begin(), once.end(), [&](const NamedParameter& other) {
                               return other.parameter.value().shares_storage(value);
                             });
    values.push_back(lies_on_one ? value.clone() : value);
  }
  for (size_t i = 0; i < once.size(); ++i) {
    Variable& parameter = once[i].parameter;
    const Tensor &own = parameter.value(), &value = values[i];
    // A frozen parameter may lie on anything: what cannot be written to, or holds an element twice, is replaced.
    if (own.is_external() || !own.is_contiguous())
      parameter.set_value(value.clone(own.device()));
    else
      own.copy_from(value);
  }
}

void Module::collect_randoms(const std::string& prefix, std::map<std::string, Random*>& into) const {
  for (const auto& [name, random] : randoms_) into[prefix + name] = random.get();
  for (const auto& [name, child] : children_) child->collect_randoms(prefix + name + ".", into);
}

TensorMap Module::random_state() const {
  std::map<std::string, Random*> all;
  collect_randoms("", all);
  TensorMap state;
  for (const auto& [name, random] : all) {
    const RandomState& at = random->state();
    state[name] = from_vector(std::vector<int64_t>{static_cast<int64_t>(at.seed), static_cast<int64_t>(at.stream),
                                                   static_cast<int64_t>(at.position)});
  }
  return state;
}

void Module::load_random_state(const TensorMap& state) {
  std::map<std::string, Random*> all;
  collect_randoms("", all);
  for (const auto& [name, random] : all) {
    const auto found = state.find(name);
    check(found != state.end(), "load_random_state: generator {} is missing", name);
    const Tensor& value = found->second;
    check(value.dtype() == DType::i64 && value.shape() == Shape{3},
          "load_random_state: {}: expected i64 [3], found {} {}", name, qinco::name(value.dtype()), value.shape());
  }
  for (const auto& [name, value] : state)
    check(all.count(name) > 0, "load_random_state: unexpected generator {}", name);
  for (const auto& [name, random] : all) {
    const Tensor value = state.at(name).contiguous().to(Device{});
    const int64_t* const bits = value.data<int64_t>();
    random->set_state({static_cast<uint64_t>(bits[0]), static_cast<uint64_t>(bits[1]), static_cast<uint64_t>(bits[2])});
  }
}

Variable Module::register_parameter(const std::string& name, Tensor value) {
  check(value.defined(), "module: parameter {}: the tensor is undefined", name);
  if (!value.owns_storage_alone() || !value.is_contiguous()) value = value.clone();
  return register_parameter(name, Variable(std::move(value), true));
}

Variable Module::register_parameter(const std::string& name, Variable parameter) {
  check_name("parameter", name, parameters_);
  check(parameter.defined(), "module: parameter {}: the variable is undefined", name);
  check(parameter.is_leaf() && is_floating(parameter.dtype()), "module: parameter {}: expected a leaf of f32 or f64",
        name);
  // load() writes to its memory, and optimisers want it contiguous.
  const Tensor& value = parameter.value();
  if (value.is_external() || !value.is_contiguous()) parameter.set_value(value.clone());
  parameters_.push_back({name, parameter});
  return parameter;
}

Random& Module::register_random(const std::string& name, const Random& random) {
  check_name("generator", name, randoms_);
  randoms_.emplace_back(name, std::make_unique<Random>(random));
  return *randoms_.back().second;
}

void Module::adopt(const std::string& name, std::unique_ptr<Module> module) {
  check_name("module", name, children_);
  children_.emplace_back(name, std::move(module));
}

void save(const Module& module, const std::string& path, const std::map<std::string, std::string>& metadata) {
  write_safetensors(path, {module.state(), metadata});
}

void load(Module& module, const std::string& path) {
  const SafetensorsFile file = read_safetensors(path);
  try {
    module.load(file.tensors);
  } catch (const Error& error) {
    fail("{}: {}", path, error.what());
  }
}

}  // namespace qinco::nn

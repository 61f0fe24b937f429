// Modules: named parameters in a tree, as in PyTorch ("hidden.weight"), saved and loaded as safetensors.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/variable.h"
#include "tensor/random.h"
#include "tensor/safetensors.h"

namespace qinco::nn {

using autograd::Variable;

/// A parameter with its path in the tree. The variable is a handle to the module's own.
struct NamedParameter {
  std::string name;
  Variable parameter;
};

/// Base of everything with parameters. A module owns its children, so references to them survive a move:
///     struct Net : nn::Module {
///       nn::Linear& hidden = register_module("hidden", nn::Linear(2, 64, random));
///     };
/// Names of parameters, generators and modules are not empty and have no '.', which separates them in a path, and a
/// module has each once; Error otherwise.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(Module&&) = default;
  Module& operator=(Module&&) = delete;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// In order of registration, a module's own before its children's. One that is registered more than once (tied
  /// weights) is there once, by its first name: it has one gradient, one update and one entry of state(). Frozen ones
  /// (Variable::set_requires_grad) are there too: files have their values, not that they are frozen.
  std::vector<NamedParameter> named_parameters() const;
  std::vector<Variable> parameters() const;
  /// Number of parameter elements.
  int64_t parameter_count() const;
  void zero_grad();

  /// Training mode, on at first, for this module and its children (Dropout reads it).
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  /// Moves all parameters to `device`, in place of the ones before: handles to them stay valid. Gradients are dropped.
  /// Call before an optimiser is made of them.
  void to(Device device);

  /// Copies of all parameters by name, on the CPU.
  TensorMap state() const;
  /// Sets all parameters from copies, wherever they are, even on parameters of this module. A tied one may be there by
  /// any of its names, or by all, as in PyTorch's state dicts, with the same values. Error if a name is missing or
  /// unexpected, or a shape or dtype differs; then nothing has changed.
  void load(const TensorMap& state);

  /// Where every random generator of the tree is (Dropout's, "2.random"), by name: i64 [3], RandomState's fields as
  /// bits. With state() and the optimiser's, what training needs to go on to the bit; apart from state(), which is
  /// PyTorch's.
  TensorMap random_state() const;
  /// Sets them all. Error if a name is missing or unexpected, or a tensor is another one; then nothing has changed.
  void load_random_state(const TensorMap& state);

 protected:
  /// Adds a parameter (which will require a gradient) and returns the handle to keep. The memory is the parameter's
  /// own: `value`'s if nothing else lies on it (a tensor just made, or moved here), else a copy.
  Variable register_parameter(const std::string& name, Tensor value);
  /// Adds one that exists, of this module or another one, and shares it: a leaf of f32 or f64. A constant is a frozen
  /// parameter.
  Variable register_parameter(const std::string& name, Variable parameter);
  /// Adds a generator, for random_state(), and returns it where it will stay.
  Random& register_random(const std::string& name, const Random& random);
  /// Takes over a child and returns it where it will stay.
  template <class M>
  M& register_module(const std::string& name, M&& module) {
    auto owned = std::make_unique<std::remove_cvref_t<M>>(std::forward<M>(module));
    M& result = *owned;
    adopt(name, std::move(owned));
    return result;
  }

 private:
  void adopt(const std::string& name, std::unique_ptr<Module> module);
  void collect(const std::string& prefix, std::vector<NamedParameter>& into) const;
  void collect_randoms(const std::string& prefix, std::map<std::string, Random*>& into) const;

  std::vector<NamedParameter> parameters_;
  std::vector<std::pair<std::string, std::unique_ptr<Random>>> randoms_;
  std::vector<std::pair<std::string, std::unique_ptr<Module>>> children_;
  bool training_ = true;
};

/// A module that maps one variable to one.
class Layer : public Module {
 public:
  virtual Variable forward(const Variable& x) = 0;
  Variable operator()(const Variable& x) { return forward(x); }
};

/// Writes the module's state to a safetensors file, atomically.
void save(const Module& module, const std::string& path, const std::map<std::string, std::string>& metadata = {});
/// Loads it back; Errors name the file.
void load(Module& module, const std::string& path);

}  // namespace qinco::nn

// Modules and state dicts of a pickle as named tensors.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "qinco/io/torch/dicts.h"
#include "qinco/io/torch/tensors.h"
#include "tensor/safetensors.h"

namespace qinco::torch {

/// The parameters and buffers of a module by their dotted names, as its state_dict() would name them, and the
/// attributes of the models within.
struct ModuleContents {
  TensorMap tensors;
  std::map<std::string, double> scales;  // by name: numbers named db_scale among the tensors, which are no parameters
  std::map<std::string, const Object*> models;  // by prefix ("", "sub_quantizer_0."): the instances of a model's class
};

class ModuleReader {
 public:
  ModuleReader(const std::string& path, TensorReader& tensors, DictReader& dicts)
      : path_(path), tensors_(tensors), dicts_(dicts) {}

  /// An instance of a module class, with all below it. Throws Error naming the file for modules within themselves,
  /// names given twice and more tensors or bytes than a file of this size can mean.
  ModuleContents read_module(const Value& module);
  /// A dict of tensors by name; what else it holds is left out.
  ModuleContents read_state_dict(const Value& dict);

 private:
  void visit(const Value& module, const std::string& prefix, int depth);
  void add_tensors(const Value* dict, const std::string& prefix);
  std::string joined(const std::string& prefix, const Value& key) const;
  ModuleContents finish();

  const std::string& path_;
  TensorReader& tensors_;
  DictReader& dicts_;
  ModuleContents contents_;
  int64_t modules_ = 0;
};

}  // namespace qinco::torch

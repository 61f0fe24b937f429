#include "qinco/io/torch_file.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <fmt/format.h>
#include <optional>

#include "kernels/check.h"
#include "qinco/io/model_sizes.h"
#include "qinco/io/torch/classes.h"
#include "qinco/io/torch/dicts.h"
#include "qinco/io/torch/module.h"
#include "qinco/io/torch/numbers.h"

namespace qinco {
namespace {

using torch::ModuleContents;
using torch::Value;
using Kind = Value::Kind;

// A pickled protocol-2 integer: what files of torch.save begin with when they are no ZIP archive.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14);
constexpr std::string_view kPickle = "/data.pkl";

bool begins_with(const MappedFile& file, std::string_view magic) {
  return file.size() >= static_cast<int64_t>(magic.size()) && std::memcmp(file.data(), magic.data(), magic.size()) == 0;
}

/// "NAME/", the folder of the archive that holds data.pkl.
std::string archive_folder(const torch::ZipArchive& archive) {
  const std::string& path = archive.file()->path();
  const torch::ZipEntry* found = nullptr;
  for (const torch::ZipEntry& entry : archive.entries()) {
    const bool pickle = entry.name.ends_with(kPickle) && entry.name.find('/') + kPickle.size() == entry.name.size();
    if (!pickle) continue;
    check(found == nullptr, "{}: more than one data.pkl", path);
    found = &entry;
  }
  check(found != nullptr, "{}: a ZIP archive without data.pkl: not written by torch.save", path);
  const std::string folder(found->name.substr(0, found->name.size() - kPickle.size() + 1));
  check(archive.find(folder + "constants.pkl") == nullptr, "{}: a TorchScript program, expected a model by torch.save",
        path);
  if (const torch::ZipEntry* order = archive.find(folder + "byteorder")) {
    const std::string_view text(reinterpret_cast<const char*>(order->data.data()), order->data.size());
    check(text == "little", "{}: byte order {}, expected \"little\"", path, quote(text));
  }
  return folder;
}

/// One PyTorch file: its archive, its pickle, its tensors.
class TorchFile {
 public:
  explicit TorchFile(const std::shared_ptr<const MappedFile>& file)
      : path_(file->path()),
        archive_(file),
        folder_(archive_folder(archive_)),
        tensors_(archive_, folder_),
        dicts_(path_) {
    const torch::ZipEntry& entry = *archive_.find(folder_ + "data.pkl");
    archive_.check_crc(entry);
    pickle_ = torch::read_pickle(path_, entry.data, torch::accepts_class);
  }

  ModelContents read() {
    const Value& root = pickle_.root;
    if (root.is(Kind::instance)) {
      ModuleContents module = torch::ModuleReader(path_, tensors_, dicts_).read_module(root);
      const auto model = module.models.find("");  // inside of what wraps it, if anything does
      const std::string_view name = model == module.models.end() ? root.object->name : model->second->name;
      ModelContents contents = described(std::move(module));
      contents.source = fmt::format("PyTorch module {}", name);
      set_unstated(contents.metadata);
      return contents;
    }
    check(root.is(Kind::dict), "{}: expected a module or a dict, found neither", path_);
    if (dicts_.lookup(root, "parameters") && dicts_.lookup(root, "data_dim") && dicts_.lookup(root, "model"))
      return qinco2(root);
    const Value* const inner = dicts_.lookup(root, "state_dict");
    ModelContents contents =
        described(torch::ModuleReader(path_, tensors_, dicts_).read_state_dict(inner ? *inner : root));
    add_db_scale(root, contents.metadata);
    if (inner) add_db_scale(*inner, contents.metadata);
    set_unstated(contents.metadata);
    contents.source = inner ? "PyTorch training checkpoint" : "PyTorch state dict";
    const Value* const epoch = dicts_.lookup(root, "epoch");
    if (inner && epoch && epoch->is(Kind::integer)) contents.source += fmt::format(", epoch {}", epoch->integer);
    return contents;
  }

 private:
  using Metadata = std::map<std::string, std::string>;

  /// A number as Python, NumPy or PyTorch keeps it; none if it is no number.
  std::optional<double> number(const Value& value) {
    if (!torch::TensorReader::is_tensor(value)) return torch::as_number(value);
    const Tensor tensor = tensors_.read(value, "a number");
    return tensor.numel() == 1 ? std::optional(tensor.item<double>()) : std::nullopt;
  }
  /// The float32 of a decimal text.
  static std::optional<double> in_text(std::string_view text) {
    float value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && stop == end ? std::optional<double>(value) : std::nullopt;
  }
  /// What the dict itself says, and what write_torch_file leaves in the attribute _metadata of a state dict.
  void add_db_scale(const Value& dict, Metadata& metadata) {
    if (const Value* const value = dicts_.lookup(dict, "db_scale")) set_db_scale(*value, metadata, "db_scale");
    const Value* const modules = dicts_.lookup(dict.object->state, "_metadata");
    if (modules == nullptr) return;
    const std::vector<Value>& items = dicts_.items(*modules);
    for (size_t i = 0; i < items.size(); i += 2) {
      const std::string_view module = items[i].text();
      if (module.size() > 80 || !is_printable(module)) continue;
      const std::string prefix = std::string(module) + (module.empty() ? "" : ".");
      if (const Value* const value = dicts_.lookup(items[i + 1], "db_scale"))
        set_db_scale(value->is(Kind::text) ? in_text(value->text()) : number(*value), metadata, prefix + "db_scale");
      set_unseen(items[i + 1], metadata, prefix);
    }
  }
  /// With M = 1 no tensor shows L and h: as `dict` has them, if it does.
  void set_unseen(const Value& dict, Metadata& metadata, const std::string& prefix) {
    for (const char* size : {"L", "h"}) {
      const auto known = metadata.find(prefix + size);
      const Value* const stated = known == metadata.end() ? nullptr : dicts_.lookup(dict, size);
      if (stated && stated->is(Kind::integer) && known->second == "0") known->second = fmt::to_string(stated->integer);
    }
  }
  /// Where nothing says them, any valid L and h do: a model with M = 1 has no network.
  static void set_unstated(Metadata& metadata) {
    for (auto& [name, value] : metadata) {
      const std::string prefix = name.substr(0, name.size() - 1);
      if ((name.ends_with("L") || name.ends_with("h")) && value == "0") {
        const auto M = metadata.find(prefix + "M");
        if (M != metadata.end() && M->second == "1") value = "1";
      }
    }
  }
  void set_db_scale(const Value& value, Metadata& metadata, const std::string& key) {
    set_db_scale(number(value), metadata, key);
  }
  void set_db_scale(std::optional<double> stated, Metadata& metadata, const std::string& key) {
    check(stated.has_value(), "{}: {}: expected a number", path_, key);
    const auto scale = static_cast<float>(*stated);  // as models keep it: infinity and 0 may come of this
    check(std::isfinite(scale) && scale > 0, "{}: {}: expected a finite float32 above 0, found {}", path_, key,
          *stated);
    metadata[key] = fmt::to_string(scale);
  }

  ModelContents described(ModuleContents contents);
  void check_attributes(const torch::Object& model, const ModelSizes& sizes);
  ModelContents qinco2(const Value& root);

  const std::string& path_;
  torch::ZipArchive archive_;
  std::string folder_;
  torch::TensorReader tensors_;
  torch::DictReader dicts_;
  torch::Pickle pickle_;
};

/// The model's own attributes must say what its tensors show.
void TorchFile::check_attributes(const torch::Object& model, const ModelSizes& sizes) {
  const std::pair<const char*, int64_t> expected[] = {
      {"d", sizes.d}, {"M", sizes.M}, {"K", sizes.K}, {"L", sizes.L}, {"h", sizes.h}};
  for (const auto& [name, size] : expected) {
    const Value* const stated = dicts_.lookup(model.state, name);
    if (stated == nullptr || !stated->is(Kind::integer) || size == 0) continue;
    check(stated->integer == size, "{}: attribute {} is {}, the tensors have {}", path_, name, stated->integer, size);
  }
}

ModelContents TorchFile::described(ModuleContents module) {
  ModelSizes sizes;
  try {
    sizes = infer_sizes(module.tensors);
  } catch (const Error& error) {
    fail("{}: {}", path_, error.what());
  }
  ModelContents contents;
  Metadata& metadata = contents.metadata;
  const auto whole = module.models.find("");
  if (whole != module.models.end()) {
    if (sizes.variant == "qinco" || sizes.variant == "qinco-lr") check_attributes(*whole->second, sizes);
  }
  metadata = size_metadata(sizes);
  for (const auto& [prefix, model] : module.models) {
    set_unseen(model->state, metadata, prefix);
    if (const Value* const scale = dicts_.lookup(model->state, "db_scale"); scale && !scale->is(Kind::none))
      set_db_scale(*scale, metadata, prefix + "db_scale");
  }
  for (const auto& [name, scale] : module.scales) set_db_scale(std::optional(scale), metadata, name);
  contents.tensors = std::move(module.tensors);
  return contents;
}

/// The numbers and texts of a QINCo2 checkpoint, one level of nesting deep, and how many parameters it has.
ModelContents TorchFile::qinco2(const Value& root) {
  constexpr size_t kMaxShown = 100;
  constexpr int64_t kMaxTensors = 1 << 16;
  ModelContents contents;
  contents.source = "PyTorch QINCo2 checkpoint";
  Metadata& metadata = contents.metadata;
  metadata = {{"format", "qinco"}, {"variant", "qinco2"}};
  int64_t parameters = 0, tensors = 0;
  const auto add = [&](const Value& dict, const std::string& prefix, const auto& self) -> void {
    const std::vector<Value>& items = dicts_.items(dict);
    for (size_t i = 0; i < items.size(); i += 2) {
      const Value &key = items[i], &value = items[i + 1];
      if (!key.is(Kind::text) || key.text().size() > 80 || !is_printable(key.text())) continue;
      const std::string name = prefix + std::string(key.text());
      if (torch::TensorReader::is_tensor(value)) {
        check(++tensors <= kMaxTensors, "{}: more than {} tensors", path_, kMaxTensors);
        parameters = checked_add(parameters, tensors_.read(value, name).numel(), "parameters");
      } else if (torch::DictReader::is_dict(value) && prefix.empty()) {
        self(value, name + ".", self);
      } else if (metadata.size() < kMaxShown) {
        if (value.is(Kind::text) && is_printable(value.text())) metadata[name] = value.text().substr(0, 200);
        if (const std::optional<double> shown = number(value)) metadata[name] = fmt::to_string(*shown);
      }
    }
  };
  add(root, "", add);
  metadata["parameters"] = fmt::to_string(parameters);
  return contents;
}

}  // namespace

bool is_torch_file(const MappedFile& file) {
  return torch::is_zip(file) || begins_with(file, kLegacyMagic);
}

ModelContents read_torch_file(const std::shared_ptr<const MappedFile>& file) {
  check(!begins_with(*file, kLegacyMagic),
        "{}: PyTorch's format before 1.6, expected its ZIP format: torch.save(torch.load(F), F) rewrites it",
        file->path());
  ModelContents contents = TorchFile(file).read();
  contents.file = file;
  return contents;
}

}  // namespace qinco

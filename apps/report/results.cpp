#include "apps/report/results.h"

#include <algorithm>
#include <filesystem>
#include <fmt/format.h>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/report/chart.h"
#include "kernels/check.h"

namespace qinco::report {

namespace {

using Json = nlohmann::json;

/// A JSON object and where it stands, for error messages.
struct Object {
  const Json& json;
  std::string place;

  bool has(const char* key) const { return json.contains(key); }

  const Json& at(const char* key) const {
    check(json.is_object() && json.contains(key), "{}: no \"{}\"", place, key);
    return json.at(key);
  }

  double number(const char* key) const {
    const Json& value = at(key);
    check(value.is_number(), "{}: \"{}\" is a {}, not a number", place, key, value.type_name());
    return value.get<double>();
  }

  Object object(const char* key) const {
    const Json& value = at(key);
    check(value.is_object(), "{}: \"{}\" is a {}, not an object", place, key, value.type_name());
    return {value, fmt::format("{}: {}", place, key)};
  }

  std::vector<Object> array(const char* key) const {
    const Json& value = at(key);
    check(value.is_array(), "{}: \"{}\" is a {}, not an array", place, key, value.type_name());
    std::vector<Object> items;
    for (const Json& item : value) items.push_back({item, fmt::format("{}: {}[{}]", place, key, items.size())});
    return items;
  }
};

Json read_json(const std::string& path) {
  std::ifstream file(path);
  check(file.is_open(), "{}: cannot open", path);
  Json json = Json::parse(file, nullptr, false);
  check(json.is_object(), "{}: no JSON object", path);
  return json;
}

void read_evaluation(const std::string& path, Method& method) {
  const Json json = read_json(path);
  const Object root{json, path};
  method.mse = root.number("mse");
  method.encoding_rate = root.number("vectors_per_second");
  const Object recall = root.object("recall");
  for (size_t i = 0; i < kRecallRanks.size(); ++i) method.recall[i] = recall.number(kRecallRanks[i]);
  if (root.object("seconds").has("train")) method.training_seconds = root.object("seconds").number("train");
  if (!root.has("multirate")) return;
  for (const Object& rate : root.array("multirate"))
    if (rate.has("bytes_per_vector"))  // older files' rates have no place
      method.rates.push_back({rate.number("bytes_per_vector"), rate.number("mse")});
}

void read_training(const std::string& path, Method& method) {
  const Json json = read_json(path);
  const Object root{json, path};
  method.training_rate = root.number("vectors_per_second");
  method.start_mse = root.number(root.has("init_val_mse") ? "init_val_mse" : "rq_val_mse");
  method.training_seconds = 0;
  for (const Object& epoch : root.array("epochs")) {
    method.epochs.push_back(
        {static_cast<int>(epoch.number("epoch")), epoch.number("train_loss"), epoch.number("val_mse")});
    method.training_seconds += epoch.number("seconds");
  }
}

std::string cell(double value, const char* unit = "") {
  return std::isnan(value) ? "-" : number(value) + unit;
}

std::string recall_cell(double value) {
  return fmt::format("{:.3f}", value);
}

}  // namespace

std::array<std::string, 2> files_of(const std::string& stem) {
  return {stem + ".eval.json", stem + ".train.json"};
}

Method read_method(const std::string& label, const std::string& stem) {
  Method method;
  method.label = label;
  const auto [evaluation, training] = files_of(stem);
  read_evaluation(evaluation, method);
  if (std::filesystem::exists(training)) read_training(training, method);
  return method;
}

std::vector<std::vector<std::string>> table_cells(const std::vector<Method>& methods) {
  std::vector<std::vector<std::string>> rows = {
      {"method", "MSE", "1-recall@1", "@10", "@100", "encoding", "training", "training time"}};
  for (const Method& m : methods) {
    rows.push_back({m.label, cell(m.mse), recall_cell(m.recall[0]), recall_cell(m.recall[1]), recall_cell(m.recall[2]),
                    cell(m.encoding_rate, "/s"), cell(m.training_rate, "/s"), cell(m.training_seconds, " s")});
  }
  return rows;
}

std::string text_table(const std::vector<Method>& methods) {
  const std::vector<std::vector<std::string>> rows = table_cells(methods);
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (size_t j = 0; j < row.size(); ++j) widths[j] = std::max(widths[j], row[j].size());
  }
  std::string text;
  for (const auto& row : rows) {
    text += fmt::format("{:<{}}", row[0], widths[0]);
    for (size_t j = 1; j < row.size(); ++j) text += fmt::format("  {:>{}}", row[j], widths[j]);
    text += '\n';
  }
  return text;
}

}  // namespace qinco::report

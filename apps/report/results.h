// The results of the subcommands of bin/qinco, read back from the JSON files that --json wrote.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

namespace qinco::report {

struct Epoch {
  int epoch = 0;
  double train_loss = 0, val_mse = 0;
};

/// The MSE of the reconstruction from the first codes of every vector, which take `bytes`.
struct Rate {
  double bytes = 0, mse = 0;
};

inline constexpr std::array<const char*, 3> kRecallRanks = {"1", "10", "100"};

/// One row of the table. What a method's files do not hold is NaN or empty.
struct Method {
  std::string label;
  double mse = NAN;
  std::array<double, 3> recall = {NAN, NAN, NAN};   // 1-recall@kRecallRanks
  double encoding_rate = NAN, training_rate = NAN;  // vectors per second
  double training_seconds = NAN;
  double start_mse = NAN;  // validation MSE of what training started from
  std::vector<Epoch> epochs;
  std::vector<Rate> rates;
};

/// `stem`.eval.json and `stem`.train.json.
std::array<std::string, 2> files_of(const std::string& stem);

/// Reads `stem`.eval.json (what `eval` or `baseline` wrote) and, where there is one, `stem`.train.json (what `train`
/// wrote). Throws Error naming the file and what is missing or wrong in it.
Method read_method(const std::string& label, const std::string& stem);

/// The table as aligned plain text.
std::string text_table(const std::vector<Method>& methods);

/// The cells of the table, the header row first.
std::vector<std::vector<std::string>> table_cells(const std::vector<Method>& methods);

}  // namespace qinco::report

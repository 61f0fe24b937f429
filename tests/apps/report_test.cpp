// Drives bin/qinco_report: the page and the table from the JSON files of the subcommands, and what it says of bad ones.
#include <cstdlib>
#include <doctest/doctest.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <sys/wait.h>
#include <vector>

#include "tests/support.h"

namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

struct Outcome {
  int status = -1;
  std::string out, err;
};

std::string read(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A folder with the results of one method, "m".
class Folder {
 public:
  Folder() {
    write("m.eval.json", evaluation().dump());
    write("m.train.json", training().dump());
  }

  static Json evaluation() {
    return {{"mse", 26149.25},
            {"recall", {{"1", 0.418}, {"10", 0.917}, {"100", 1.0}}},
            {"seconds", {{"encode", 1.0}, {"decode", 0.1}, {"search", 0.4}}},
            {"vectors_per_second", 1234.5},
            {"M_used", 2},
            {"bytes_per_vector", 2},
            {"multirate",
             {{{"M_used", 1}, {"bytes_per_vector", 0.5}, {"mse", 80000.0}},
              {{"M_used", 2}, {"bytes_per_vector", 1.0}, {"mse", 60000.0}}}}};
  }
  static Json training() {
    return {{"epochs",
             {{{"epoch", 1}, {"lr", 1e-3}, {"train_loss", 0.05}, {"val_mse", 31503.0}, {"seconds", 20.5}},
              {{"epoch", 2}, {"lr", 1e-3}, {"train_loss", 0.04}, {"val_mse", 27800.0}, {"seconds", 21.5}}}},
            {"rq_val_mse", 28350.5},
            {"vectors_per_second", 2345.6}};
  }

  void write(const std::string& name, const std::string& text) const { std::ofstream(path_ / name) << text; }
  fs::path page() const { return path_ / "page.html"; }

  Outcome run(const std::string& label = "Mine", const std::string& out = "page.html") const {
    const std::string command = "cd '" + path_.string() + "' && '" QINCO_REPORT_BINARY "' --out " + out +
                                " --title 'a < b' --command './run demo' '" + label + ":m' > out.txt 2> err.txt";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(path_ / "out.txt"), read(path_ / "err.txt")};
  }

 private:
  qinco::tests::TemporaryDirectory directory_;
  const fs::path& path_ = directory_.path();
};

// The elements of the page that are opened and not closed, or closed and not open; the text inside <style> is skipped.
std::vector<std::string> unbalanced(const std::string& html) {
  std::vector<std::string> open, wrong;
  for (size_t at = html.find('<'); at != std::string::npos; at = html.find('<', at + 1)) {
    const size_t end = html.find('>', at);
    if (end == std::string::npos) return {"< without >"};
    const std::string tag = html.substr(at + 1, end - at - 1);
    const bool closes = tag[0] == '/';
    const std::string name = tag.substr(closes ? 1 : 0, tag.find_first_of(" \n/", 1) - (closes ? 1 : 0));
    if (tag[0] == '!' || name == "meta" || tag.back() == '/') continue;
    if (!closes) {
      open.push_back(name);
      if (name == "style") at = html.find("</style>", end) - 1;
    } else if (!open.empty() && open.back() == tag.substr(1)) {
      open.pop_back();
    } else {
      wrong.push_back(tag);
    }
  }
  wrong.insert(wrong.end(), open.begin(), open.end());
  return wrong;
}

bool one_line(const std::string& text) {
  return !text.empty() && text.find('\n') == text.size() - 1;
}

}  // namespace

TEST_CASE("report: one self-contained page and a table") {
  const Folder folder;
  const Outcome outcome = folder.run();
  CHECK(outcome.err == "");
  REQUIRE(outcome.status == 0);
  CHECK(outcome.out.find("Mine    26,149       0.418  0.917  1.000   1,234/s   2,346/s           42 s") !=
        std::string::npos);

  const std::string page = read(folder.page());
  CHECK(unbalanced(page) == std::vector<std::string>());
  for (const char* part : {"<title>a &lt; b</title>", "26,149", "./run demo", "start 28,350", "</html>"}) {
    CHECK_MESSAGE(page.find(part) != std::string::npos, part);
  }
  for (const char* external : {"http", "src=", "href", "url(", "@import"}) {
    CHECK_MESSAGE(page.find(external) == std::string::npos, external);
  }
  size_t charts = 0;
  for (size_t at = page.find("<svg"); at != std::string::npos; at = page.find("<svg", at + 1)) ++charts;
  CHECK(charts == 4);
}

TEST_CASE("report: a method without training or rates has fewer charts, and dashes in the table") {
  const Folder folder;
  Json evaluation = Folder::evaluation();
  evaluation.erase("multirate");
  folder.write("m.eval.json", evaluation.dump());
  fs::remove(folder.page().parent_path() / "m.train.json");
  const Outcome outcome = folder.run();
  REQUIRE(outcome.status == 0);
  CHECK(outcome.out.find("1,234/s         -              -") != std::string::npos);
  const std::string page = read(folder.page());
  CHECK(unbalanced(page) == std::vector<std::string>());
  CHECK(page.find("<svg") == page.rfind("<svg"));
}

TEST_CASE("report: a training that went on from a model starts at that model's error") {
  const Folder folder;
  Json training = Folder::training();
  training.erase("rq_val_mse");
  training["init_val_mse"] = 29999.0;
  folder.write("m.train.json", training.dump());
  REQUIRE(folder.run().status == 0);
  CHECK(read(folder.page()).find("start 29,999") != std::string::npos);
}

TEST_CASE("report: labels are escaped") {
  const Folder folder;
  REQUIRE(folder.run("<script>&\"x\"").status == 0);
  const std::string page = read(folder.page());
  CHECK(page.find("<script>") == std::string::npos);
  CHECK(page.find("&lt;script&gt;&amp;&quot;x&quot;") != std::string::npos);
}

TEST_CASE("report: a missing or mistyped key is named, and nothing is written") {
  const auto complain = [](const std::string& file, Json json, const std::string& key) {
    const Folder folder;
    folder.write(file, json.dump());
    const Outcome outcome = folder.run();
    CHECK(outcome.status == 1);
    CHECK(one_line(outcome.err));
    CHECK_MESSAGE(outcome.err.find(file) != std::string::npos, outcome.err);
    CHECK_MESSAGE(outcome.err.find("\"" + key + "\"") != std::string::npos, outcome.err);
    CHECK_FALSE(fs::exists(folder.page()));
  };
  for (const char* key : {"mse", "recall", "seconds", "vectors_per_second"}) {
    Json json = Folder::evaluation();
    json.erase(key);
    complain("m.eval.json", json, key);
    json[key] = "text";
    complain("m.eval.json", json, key);
  }
  for (const char* key : {"epochs", "rq_val_mse", "vectors_per_second"}) {
    Json json = Folder::training();
    json.erase(key);
    complain("m.train.json", json, key);
  }
  Json json = Folder::training();
  json["epochs"][1].erase("val_mse");
  complain("m.train.json", json, "val_mse");
  json = Folder::evaluation();
  json["recall"].erase("10");
  complain("m.eval.json", json, "10");
  json = Folder::evaluation();
  json["multirate"][1].erase("mse");
  complain("m.eval.json", json, "mse");
  json = Folder::evaluation();
  json["multirate"][1]["bytes_per_vector"] = "many";
  complain("m.eval.json", json, "bytes_per_vector");
}

TEST_CASE("report: the page does not take the place of what it is made from") {
  const Folder folder;
  const fs::path link = folder.page().parent_path() / "link.html";
  fs::create_symlink("m.train.json", link);
  for (const char* out : {"m.eval.json", "./m.train.json", "link.html"}) {
    const Outcome outcome = folder.run("Mine", out);
    CHECK(outcome.status == 1);
    CHECK(outcome.err == std::string("qinco_report: ") + out + ": given as --out, and read for Mine:m\n");
  }
  CHECK(folder.run().status == 0);
}

TEST_CASE("report: files that are missing or no JSON, and unwritable outputs") {
  const Folder folder;
  for (const char* text : {"", "{", "[1]", "\xff"}) {
    folder.write("m.eval.json", text);
    const Outcome outcome = folder.run();
    CHECK(outcome.status == 1);
    CHECK(outcome.err == "qinco_report: m.eval.json: no JSON object\n");
  }
  folder.write("m.eval.json", Folder::evaluation().dump());
  for (const char* out : {"/dev/full", "no/such/folder.html"}) {
    const Outcome outcome = folder.run("Mine", out);
    CHECK(outcome.status == 1);
    CHECK(one_line(outcome.err));
    CHECK_MESSAGE(outcome.err.find(out) != std::string::npos, outcome.err);
  }
  fs::remove(folder.page().parent_path() / "m.eval.json");
  CHECK(folder.run().err == "qinco_report: m.eval.json: cannot open\n");
}

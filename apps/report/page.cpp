#include "apps/report/page.h"

#include <ctime>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fstream>
#include <thread>

#include "apps/report/chart.h"
#include "kernels/context.h"
#include "kernels/dispatch.h"

namespace qinco::report {

namespace {

constexpr const char* kStyle = R"(
:root { color-scheme: light dark; --ink: #1c2330; --quiet: #667085; --page: #fbfbfc; --card: #fff; --rule: #e2e5ea;
  --c0: #8a94a6; --c1: #1f6feb; --c2: #e07b00; --c3: #1a8f5a; --c4: #b0348f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --quiet: #98a2b3; --page: #11151c; --card: #1a202a;
  --rule: #303846; --c0: #9aa4b5; --c1: #5b9dff; --c2: #ff9f33; --c3: #45c48a; --c4: #e070c4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 0 0 2px; }
p { margin: 0 0 8px; color: var(--quiet); }
.wide { overflow-x: auto; margin: 24px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 14px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 500; font-size: 14px; color: var(--quiet); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 20px; }
figure { margin: 0; padding: 18px 18px 10px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
figure p { font-size: 14px; min-height: 3.1em; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--quiet); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px; vertical-align: -1px; }
.legend span { margin-right: 18px; white-space: nowrap; color: var(--ink); font-size: 14px; }
.grid { stroke: var(--rule); } .base { stroke: var(--quiet); } .axis { font-size: 12.5px; fill: var(--quiet); }
.line { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 5 4; stroke-width: 1.6; }
circle, rect { fill: currentColor; } .name { fill: currentColor; } .value { font-size: 11px; fill: var(--ink); }
.s0 { color: var(--c0); } .s1 { color: var(--c1); } .s2 { color: var(--c2); } .s3 { color: var(--c3); }
.s4 { color: var(--c4); }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 16px; overflow-x: auto; }
footer { margin-top: 32px; } footer p { font-size: 14px; margin: 0; }
)";

int colour(size_t method) {
  return static_cast<int>(method % kColours);
}

std::string figure(const std::string& title, const std::string& text, const std::string& chart) {
  return fmt::format("<figure><h2>{}</h2><p>{}</p>\n{}</figure>\n", title, text, chart);
}

std::string table(const Page& page) {
  const std::vector<std::vector<std::string>> rows = table_cells(page.methods);
  std::string text = "<div class=\"wide\"><table>\n";
  for (size_t i = 0; i < rows.size(); ++i) {
    const char* tag = i == 0 ? "th" : "td";
    text += "<tr>";
    for (size_t j = 0; j < rows[i].size(); ++j) {
      const std::string key =
          i > 0 && j == 0 ? fmt::format("<i class=\"key\" style=\"background: var(--c{})\"></i>", colour(i - 1)) : "";
      text += fmt::format("<{0}>{1}{2}</{0}>", tag, key, escape(rows[i][j]));
    }
    text += "</tr>\n";
  }
  return text + "</table></div>\n";
}

// The two charts of training; empty when no method was trained by epochs.
std::string training_charts(const Page& page) {
  LineChart mse{"epoch", "validation MSE", false, true, {}, {}};
  LineChart loss{"epoch", "training loss", false, true, {}, {}};
  for (size_t i = 0; i < page.methods.size(); ++i) {
    const Method& method = page.methods[i];
    if (method.epochs.empty()) continue;
    Series val{method.label, colour(i), {}}, train{method.label, colour(i), {}};
    for (const Epoch& e : method.epochs) {
      val.points.push_back({static_cast<double>(e.epoch), e.val_mse});
      train.points.push_back({static_cast<double>(e.epoch), e.train_loss});
    }
    mse.series.push_back(val);
    loss.series.push_back(train);
    if (mse.levels.empty()) mse.levels.push_back({"start", 0, method.start_mse});
  }
  if (mse.series.empty()) return "";
  return figure("Learning", "Validation MSE after each epoch, and of the quantizer or model that training starts from.",
                svg(mse)) +
         figure("Training loss",
                "Mean squared error per dimension, in scaled space, summed over the M partial "
                "reconstructions.",
                svg(loss));
}

std::string rate_chart(const Page& page) {
  LineChart chart{"bytes per vector", "MSE", true, true, {}, {}};
  for (size_t i = 0; i < page.methods.size(); ++i) {
    Series series{page.methods[i].label, colour(i), {}};
    for (const Rate& rate : page.methods[i].rates) series.points.push_back({rate.bytes, rate.mse});
    if (!series.points.empty()) chart.series.push_back(series);
  }
  if (chart.series.empty()) return "";
  return figure("Every rate from one model",
                "MSE of the base when only the first codes of each vector are kept and decoded.", svg(chart));
}

std::string recall_chart(const Page& page) {
  BarChart chart;
  chart.y_label = "1-recall@R";
  for (size_t i = 0; i < page.methods.size(); ++i) {
    chart.labels.push_back(page.methods[i].label);
    chart.colours.push_back(colour(i));
  }
  for (size_t r = 0; r < kRecallRanks.size(); ++r) {
    BarChart::Group group{std::string("R = ") + kRecallRanks[r], {}};
    for (const Method& method : page.methods) group.values.push_back(method.recall[r]);
    chart.groups.push_back(group);
  }
  return figure("Search", "How often the true nearest neighbour is among the first R found in the decoded vectors.",
                svg(chart));
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

std::string compiler() {
#ifdef __clang__
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

}  // namespace

std::vector<std::string> machine_facts() {
  return {fmt::format("{}, {} cores, {} threads used", cpu_model(), std::thread::hardware_concurrency(),
                      kernels::default_threads()),
          fmt::format("kernels: {}; compiler: {}", kernels::isa_name(kernels::active_isa()), compiler()),
          fmt::format("{:%Y-%m-%d %H:%M}", fmt::localtime(std::time(nullptr)))};
}

std::string html(const Page& page) {
  std::string legend;
  for (size_t i = 0; i < page.methods.size(); ++i) {
    legend += fmt::format("<span><i class=\"key\" style=\"background: var(--c{})\"></i>{}</span>", colour(i),
                          escape(page.methods[i].label));
  }
  std::string facts;
  for (const std::string& fact : page.facts) facts += fmt::format("<p>{}</p>\n", escape(fact));
  return fmt::format(R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head>
<body><main>
<h1>{title}</h1>
<p>{note}</p>
{table}<p class="legend">{legend}</p>
<div class="charts">
{charts}</div>
<footer><h2>To repeat it</h2><pre>{command}</pre>
{facts}</footer>
</main></body></html>
)",
                     fmt::arg("title", escape(page.title)), fmt::arg("style", kStyle),
                     fmt::arg("note", escape(page.note)), fmt::arg("table", table(page)), fmt::arg("legend", legend),
                     fmt::arg("charts", training_charts(page) + rate_chart(page) + recall_chart(page)),
                     fmt::arg("command", escape(page.command)), fmt::arg("facts", facts));
}

}  // namespace qinco::report

#include "apps/report/chart.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>
#include <iterator>
#include <utility>

#include "kernels/check.h"

namespace qinco::report {

namespace {

// The drawing area inside the viewBox.
constexpr double kWidth = 480, kHeight = 300, kLeft = 64, kRight = 468, kTop = 26, kBottom = 256;

struct Axis {
  double low = 0, high = 1;  // in the axis' own scale: log10 of the value when `log`
  bool log = false;
  std::vector<double> ticks;  // values

  double place(double value) const { return ((log ? std::log10(value) : value) - low) / (high - low); }
};

// The multiples of a round number (1, 2, 2.5 or 5 times a power of ten) in [low, high], `count` of them or fewer.
std::vector<double> round_ticks(double low, double high, int count) {
  const double rough = (high - low) / count;
  const double magnitude = std::pow(10, std::floor(std::log10(rough)));
  double step = magnitude;
  for (double factor : {2.0, 2.5, 5.0, 10.0}) {
    if (step < rough * 0.999) step = factor * magnitude;
  }
  std::vector<double> ticks;
  const auto first = static_cast<int64_t>(std::ceil(low / step - 1e-9));
  const auto last = static_cast<int64_t>(std::floor(high / step + 1e-9));
  for (int64_t i = first; i <= last; ++i) ticks.push_back(static_cast<double>(i) * step);
  return ticks;
}

// The multiples of the powers of ten in [low, high]: 1 to 9 times over one decade or less, else 1, 2 and 5 times.
std::vector<double> log_ticks(double low, double high) {
  const bool narrow = high / low <= 10;
  std::vector<double> ticks;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10) {
    for (int factor = 1; factor <= 9; ++factor) {
      if (!narrow && factor != 1 && factor != 2 && factor != 5) continue;
      if (factor * power >= low && factor * power <= high) ticks.push_back(factor * power);
    }
  }
  return ticks;
}

Axis make_axis(double low, double high, bool log, int ticks) {
  Axis axis;
  axis.log = log;
  if (log) {
    low /= 1.08;
    high *= 1.08;
    axis.ticks = log_ticks(low, high);
    axis.low = std::log10(low);
    axis.high = std::log10(high);
  } else {
    const double pad = high > low ? 0.06 * (high - low) : std::max(1.0, std::abs(low)) * 0.1;
    axis.low = low - pad;
    axis.high = high + pad;
    axis.ticks = round_ticks(axis.low, axis.high, ticks);
  }
  return axis;
}

double x_at(const Axis& axis, double value) {
  return kLeft + axis.place(value) * (kRight - kLeft);
}
double y_at(const Axis& axis, double value) {
  return kBottom - axis.place(value) * (kBottom - kTop);
}

constexpr const char* kFileStyle = R"(<style>svg { font: 12px system-ui, sans-serif; fill: #667085; background: #fff; }
.grid { stroke: #e2e5ea; } .base { stroke: #667085; } .axis { font-size: 12.5px; }
.line { fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 5 4; stroke-width: 1.6; } circle, .name { fill: currentColor; }
.s0 { color: #8a94a6; } .s1 { color: #1f6feb; } .s2 { color: #e07b00; } .s3 { color: #1a8f5a; } .s4 { color: #b0348f; }
</style>)";

using Out = std::back_insert_iterator<std::string>;

void begin(Out out, const std::string& y_label) {
  fmt::format_to(out, "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight, escape(y_label));
  fmt::format_to(out, "<text class=\"axis\" x=\"{}\" y=\"14\">{}</text>\n", kLeft - 50, escape(y_label));
}

void draw_y_axis(Out out, const Axis& axis) {
  for (double tick : axis.ticks) {
    const double y = y_at(axis, tick);
    fmt::format_to(out, "<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>", kLeft, y, kRight);
    fmt::format_to(out, "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 8, y + 4,
                   number(tick));
  }
}

void draw_x_label(Out out, const std::string& label) {
  fmt::format_to(out, "<path class=\"base\" d=\"M{} {}H{}\"/>\n", kLeft, kBottom, kRight);
  fmt::format_to(out, "<text class=\"axis\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", (kLeft + kRight) / 2,
                 kHeight - 8, escape(label));
}

void draw_series(Out out, const Series& series, const Axis& x, const Axis& y) {
  std::string path, marks;
  for (const Point& p : series.points) {
    if (!std::isfinite(p.x) || !std::isfinite(p.y)) continue;
    fmt::format_to(std::back_inserter(path), "{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x_at(x, p.x), y_at(y, p.y));
    fmt::format_to(std::back_inserter(marks),
                   "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"><title>{}: {}</title></circle>", x_at(x, p.x),
                   y_at(y, p.y), escape(series.label), number(p.y));
  }
  fmt::format_to(out, "<g class=\"s{}\"><path class=\"line\" d=\"{}\"/>{}</g>\n", series.colour, path, marks);
}

void draw_level(Out out, const Level& level, const Axis& y) {
  const double at = y_at(y, level.y);
  fmt::format_to(out, "<g class=\"s{}\"><path class=\"line dashed\" d=\"M{} {:.1f}H{}\"/>", level.colour, kLeft, at,
                 kRight);
  fmt::format_to(out, "<text class=\"name\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{} {}</text></g>\n", kRight,
                 at - 6, escape(level.label), number(level.y));
}

/// Both axes of a chart, wide enough for all that is drawn.
std::pair<Axis, Axis> axes_of(const LineChart& chart) {
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
  for (const Series& series : chart.series) {
    for (const Point& p : series.points) {
      if (!std::isfinite(p.x) || !std::isfinite(p.y)) continue;
      x_low = std::min(x_low, p.x);
      x_high = std::max(x_high, p.x);
      y_low = std::min(y_low, p.y);
      y_high = std::max(y_high, p.y);
    }
  }
  check(x_low <= x_high, "chart \"{}\": no finite point to draw", chart.y_label);
  for (const Level& level : chart.levels) {
    y_low = std::min(y_low, level.y);
    y_high = std::max(y_high, level.y);
  }
  return {make_axis(x_low, x_high, false, 12), make_axis(y_low, y_high, chart.log_y && y_low > 0, 7)};
}

void draw(Out out, const LineChart& chart, const Axis& x, const Axis& y) {
  begin(out, chart.y_label);
  draw_y_axis(out, y);
  for (double tick : x.ticks) {
    if (chart.whole_x && tick != std::round(tick)) continue;
    fmt::format_to(out, "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", x_at(x, tick), kBottom + 18,
                   number(tick));
  }
  draw_x_label(out, chart.x_label);
  for (const Level& level : chart.levels) draw_level(out, level, y);
  for (const Series& series : chart.series) draw_series(out, series, x, y);
}

}  // namespace

std::string svg(const LineChart& chart) {
  const auto [x, y] = axes_of(chart);
  std::string text;
  Out out = std::back_inserter(text);
  draw(out, chart, x, y);
  return text + "</svg>\n";
}

std::string svg_file(const LineChart& chart) {
  const auto [x, y] = axes_of(chart);
  std::string text;
  Out out = std::back_inserter(text);
  draw(out, chart, x, y);
  for (const Series& series : chart.series) {
    if (series.points.empty()) continue;
    const Point& last = series.points.back();
    fmt::format_to(out, "<text class=\"s{} name\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
                   series.colour, x_at(x, last.x) - 8, y_at(y, last.y) + 4, escape(series.label));
  }
  const size_t head = text.find('>') + 1;
  const std::string opening = "<svg xmlns=\"http://www.w3.org/2000/svg\"" + text.substr(4, head - 4);
  return opening + kFileStyle + text.substr(head) + "</svg>\n";
}

std::string svg(const BarChart& chart) {
  check(!chart.groups.empty() && !chart.labels.empty(), "chart \"{}\": no bars", chart.y_label);
  Axis y;
  y.ticks = {0, 0.25, 0.5, 0.75, 1};
  std::string text;
  Out out = std::back_inserter(text);
  begin(out, chart.y_label);
  draw_y_axis(out, y);
  const double group_width = (kRight - kLeft) / static_cast<double>(chart.groups.size());
  const double bar_width = 0.8 * group_width / static_cast<double>(chart.labels.size());
  for (size_t g = 0; g < chart.groups.size(); ++g) {
    const BarChart::Group& group = chart.groups[g];
    const double left = kLeft + (static_cast<double>(g) + 0.1) * group_width;
    for (size_t b = 0; b < group.values.size(); ++b) {
      const double at = left + static_cast<double>(b) * bar_width;
      const double top = y_at(y, std::clamp(group.values[b], 0.0, 1.0));
      fmt::format_to(out,
                     "<g class=\"s{}\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"2\">"
                     "<title>{}: {}</title></rect></g>",
                     chart.colours[b], at + 1, top, bar_width - 2, kBottom - top, escape(chart.labels[b]),
                     number(group.values[b]));
      fmt::format_to(out, "<text class=\"value\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{:.2f}</text>\n",
                     at + bar_width / 2, top - 4, group.values[b]);
    }
    fmt::format_to(out, "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n", left + 0.4 * group_width,
                   kBottom + 18, escape(group.label));
  }
  draw_x_label(out, "");
  return text + "</svg>\n";
}

std::string escape(const std::string& text) {
  std::string safe;
  for (char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

std::string number(double value) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  const double size = std::abs(value);
  if (size != 0 && size < 0.1) return fmt::format("{:.3g}", value);
  if (size < 1) return fmt::format("{:.4g}", std::round(value * 1000) / 1000);
  if (size < 1000) return fmt::format("{:.4g}", value);
  std::string digits = fmt::format("{:.0f}", value);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > (value < 0 ? 1 : 0); at -= 3) {
    digits.insert(static_cast<size_t>(at), 1, ',');
  }
  return digits;
}

}  // namespace qinco::report

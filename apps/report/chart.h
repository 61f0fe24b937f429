// Line and bar charts as SVG text, coloured by the page's style sheet (class s0, s1, ... for the series).
#pragma once

#include <string>
#include <vector>

namespace qinco::report {

inline constexpr int kColours = 5;  // the style classes s0..s4

struct Point {
  double x = 0, y = 0;
};

struct Series {
  std::string label;
  int colour = 0;  // the number of its style class
  std::vector<Point> points;
};

/// A level drawn across the whole chart.
struct Level {
  std::string label;
  int colour = 0;
  double y = 0;
};

struct LineChart {
  std::string x_label, y_label;
  bool log_y = false;
  bool whole_x = true;  // epochs and bytes are: ticks at whole numbers only
  std::vector<Series> series;
  std::vector<Level> levels;
};

/// Groups of bars, one bar per label in each group; values lie in [0,1].
struct BarChart {
  std::string y_label;
  std::vector<std::string> labels;  // of the bars
  std::vector<int> colours;         // of the bars
  struct Group {
    std::string label;
    std::vector<double> values;
  };
  std::vector<Group> groups;
};

/// The chart as an <svg> element. Points that are not finite are left out; at least one is required.
std::string svg(const LineChart& chart);
std::string svg(const BarChart& chart);

/// The chart as a file of its own: with colours, and the names of the series beside their last points.
std::string svg_file(const LineChart& chart);

/// `text` with the characters that HTML gives a meaning replaced.
std::string escape(const std::string& text);

/// 26149 -> "26,149", 0.4178 -> "0.418", 7.25e-3 -> "0.00725".
std::string number(double value);

}  // namespace qinco::report

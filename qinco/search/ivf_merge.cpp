#include <algorithm>
#include <deque>
#include <filesystem>
#include <memory>
#include <sys/resource.h>
#include <system_error>

#include "kernels/check.h"
#include "qinco/search/ivf_index.h"
#include "qinco/search/ivf_lock.h"

namespace qinco {
namespace {

/// All inputs stay open, with a few other files.
void check_open_files(size_t inputs) {
  constexpr rlim_t kOthers = 8;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  check(inputs + kOthers <= limit.rlim_cur,
        "merge: {} indexes, ulimit -n allows {} open files: raise it to {}, or merge some of them first", inputs,
        limit.rlim_cur, inputs + kOthers);
}

}  // namespace

void merge_indexes(const std::vector<std::string>& paths, const std::string& output) {
  check(!paths.empty(), "merge: no indexes");
  check_open_files(paths.size());
  const auto is_output = [&](const std::string& path) {
    std::error_code missing;
    return std::filesystem::equivalent(path, output, missing);
  };
  // What somebody added meanwhile would be lost when `output` takes the place of an input, or of another index.
  std::deque<IvfLock> locks;
  const bool in_place = std::any_of(paths.begin(), paths.end(), is_output);
  const std::unique_ptr<IvfLock> lock = in_place ? nullptr : lock_replaced(output, "merge");
  std::vector<IvfFile> files;
  std::vector<IvfSegment> segments;
  std::vector<IdRange> ranges;
  for (const std::string& path : paths) {
    locks.emplace_back(path, is_output(path), "merge");
    files.push_back(IvfFile::open(path));
    check(same_build(files.back().parameters(), files.front().parameters()),
          "{}: not a copy of the index that {} is one of: built apart", path, paths.front());
    for (const IvfSegment& segment : files.back().segments()) {
      check_disjoint(path, ranges, segment.ranges);
      ranges.insert(ranges.end(), segment.ranges.begin(), segment.ranges.end());
      segments.push_back(segment);
    }
  }
  IvfFile::create(output, files.front().parameters(), segments);
}

}  // namespace qinco

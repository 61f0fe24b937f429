#include <deque>
#include <filesystem>
#include <system_error>

#include "kernels/check.h"
#include "qinco/search/ivf_index.h"
#include "qinco/search/ivf_lock.h"

namespace qinco {

void merge_indexes(const std::vector<std::string>& paths, const std::string& output) {
  check(!paths.empty(), "merge: no indexes");
  std::deque<IvfLock> locks;  // what somebody added meanwhile would be lost when `output` takes the place of an input
  std::vector<IvfFile> files;
  std::vector<IvfSegment> segments;
  std::vector<IdRange> ranges;
  for (const std::string& path : paths) {
    std::error_code missing;
    locks.emplace_back(path, std::filesystem::equivalent(path, output, missing), "merge");
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

#include "apps/qinco/progress.h"

#include <algorithm>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace qinco::app {
namespace {

constexpr std::chrono::milliseconds kRedraw{200};
constexpr std::chrono::seconds kFirstLine{10};
constexpr std::chrono::seconds kSlowestLines{300};

std::string duration_text(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
}

std::string rate_text(double rate) {
  if (rate >= 1e6) return fmt::format("{:.2f}M", rate / 1e6);
  if (rate >= 1e4) return fmt::format("{:.1f}k", rate / 1e3);
  return rate >= 10 ? fmt::format("{:.0f}", rate) : fmt::format("{:.2g}", rate);
}

size_t terminal_columns(int fd) {
  winsize size = {};
  const bool known = ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

Progress::Progress(std::FILE* out, std::string title, int64_t total, std::string unit, int64_t before)
    : out_(out),
      title_(std::move(title)),
      unit_(std::move(unit)),
      total_(std::max<int64_t>(total, 1)),
      before_(before),
      terminal_(out != nullptr && isatty(fileno(out)) == 1),
      start_(Clock::now()),
      interval_(terminal_ ? Clock::duration(kRedraw) : Clock::duration(kFirstLine)) {
  next_ = start_ + interval_;
}

void Progress::clear() {
  if (!drawn_) return;
  drawn_ = false;
  std::fputs("\r\033[K", out_);
  std::fflush(out_);
}

std::string Progress::line(int64_t done, double seconds, const std::string& note) const {
  const double rate = seconds > 0 ? static_cast<double>(done - before_) / seconds : 0;
  std::string text = fmt::format("{} {}/{} {} ({:.0f}%)", title_, done, total_, unit_,
                                 100.0 * static_cast<double>(done) / static_cast<double>(total_));
  text += fmt::format("  {}/s", rate_text(rate));
  if (rate > 0) text += fmt::format("  ETA {}", duration_text(static_cast<double>(total_ - done) / rate));
  if (!note.empty()) text += "  " + note;
  return text;
}

void Progress::update(int64_t done, const std::string& note) {
  if (out_ == nullptr) return;
  const Clock::time_point now = Clock::now();
  if (now < next_) return;
  const std::string text = line(done, std::chrono::duration<double>(now - start_).count(), note);
  if (terminal_) {
    const std::string fitting = text.substr(0, terminal_columns(fileno(out_)) - 1);  // a wrapped line cannot be redrawn
    fmt::print(out_, "\r{}\033[K", fitting);
    drawn_ = true;
  } else {
    fmt::print(out_, "{}\n", text);
    interval_ = std::min<Clock::duration>(2 * interval_, kSlowestLines);
  }
  std::fflush(out_);
  next_ = now + interval_;
}

}  // namespace qinco::app

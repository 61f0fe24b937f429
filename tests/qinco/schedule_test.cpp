#include "qinco/training/schedule.h"

#include <cmath>
#include <doctest/doctest.h>
#include <initializer_list>
#include <string>

#include "tests/support.h"

using qinco::PlateauSchedule;

namespace {

// Feeds `count` epochs of `error`; returns how many of them were taken before training was over.
int feed(PlateauSchedule& schedule, double error, int count) {
  int taken = 0;
  while (taken < count && !schedule.finished()) {
    schedule.update(error);
    ++taken;
  }
  return taken;
}

}  // namespace

TEST_CASE("the rate falls after ten epochs none of which beat the best, then ten more each time, until below 2e-6") {
  PlateauSchedule schedule;  // 1e-3
  CHECK(schedule.update(100));
  CHECK(feed(schedule, 100, 9) == 9);  // equal is not better
  CHECK(schedule.lr == doctest::Approx(1e-3));
  CHECK_FALSE(schedule.update(101));
  CHECK(schedule.lr == doctest::Approx(1e-4));
  CHECK(feed(schedule, 100, 9) == 9);
  CHECK(schedule.lr == doctest::Approx(1e-4));
  schedule.update(100);
  CHECK(schedule.lr == doctest::Approx(1e-5));
  CHECK_FALSE(schedule.finished());
  CHECK(feed(schedule, 100, 100) == 10);  // 1e-6 < 2e-6: over
  CHECK(schedule.finished());
  CHECK(schedule.epochs == 31);
  CHECK(schedule.best == 100);
}

TEST_CASE("a better epoch starts the count of ten again") {
  PlateauSchedule schedule;
  schedule.update(100);
  feed(schedule, 100, 9);
  CHECK(schedule.update(99));
  feed(schedule, 99.5, 9);
  CHECK(schedule.lr == doctest::Approx(1e-3));
  schedule.update(99.5);
  CHECK(schedule.lr == doctest::Approx(1e-4));
}

TEST_CASE("fifty epochs without a better one stop training") {
  PlateauSchedule schedule;
  schedule.lr = 1e3;  // too large to reach the smallest rate within fifty epochs
  schedule.update(100);
  CHECK(feed(schedule, 100, 49) == 49);
  CHECK_FALSE(schedule.finished());
  CHECK(feed(schedule, 100, 100) == 1);
  CHECK(schedule.finished());
}

TEST_CASE("max_epochs stops training") {
  PlateauSchedule schedule;
  schedule.max_epochs = 3;
  for (const double error : {3.0, 2.0}) schedule.update(error);
  CHECK_FALSE(schedule.finished());
  schedule.update(1);
  CHECK(schedule.finished());
}

TEST_CASE("a NaN is never better") {
  PlateauSchedule schedule;
  CHECK_FALSE(schedule.update(std::nan("")));
  CHECK(schedule.update(5));
  CHECK_FALSE(schedule.update(std::nan("")));
  CHECK(schedule.best == 5);
}

TEST_CASE("a schedule that says nothing of use is an error that names the value") {
  const auto refused = [](auto set, const std::string& message) {
    PlateauSchedule schedule;
    set(schedule);
    CHECK(qinco::tests::contains(qinco::tests::error_of([&] { schedule.update(1); }), message));
    CHECK(qinco::tests::contains(qinco::tests::error_of([&] { return schedule.finished(); }), message));
  };
  for (const double rate : {std::nan(""), -1e-3, HUGE_VAL}) {
    refused([&](PlateauSchedule& schedule) { schedule.lr = rate; }, fmt::format("found lr {} and min_lr 2e-06", rate));
    refused([&](PlateauSchedule& schedule) { schedule.min_lr = rate; },
            fmt::format("found lr 0.001 and min_lr {}", rate));
  }
  refused([](PlateauSchedule& schedule) { schedule.max_epochs = 0; }, "max_epochs 0");
  refused([](PlateauSchedule& schedule) { schedule.patience = -1; }, "patience -1");
  refused([](PlateauSchedule& schedule) { schedule.stop_after = 0; }, "stop_after 0");
  refused([](PlateauSchedule& schedule) { schedule.best = std::nan(""); }, "best validation error, found nan");
}

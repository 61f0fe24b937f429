#include "autograd/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/create.h"

namespace qinco::optim {

namespace {

template <class T>
T require(const TensorMap& state, const char* name) {
  const auto found = state.find(name);
  check(found != state.end(), "schedule: state {} is missing", name);
  check(found->second.dtype() == dtype_of<T>() && found->second.numel() == 1, "schedule: state {}: expected one {}",
        name, qinco::name(dtype_of<T>()));
  return found->second.item<T>();
}

bool is_rate(double value) {
  return std::isfinite(value) && value >= 0;
}

// The rates that a schedule starts from and goes down to.
void check_rates(const char* schedule, double lr, double min_lr) {
  check(is_rate(lr), "{}: expected a learning rate >= 0, found {}", schedule, lr);
  check(is_rate(min_lr) && min_lr <= lr, "{}: expected min_lr from 0 to the learning rate {}, found {}", schedule, lr,
        min_lr);
}

Tensor one(double value) {
  return scalar(value, DType::f64);
}
Tensor one(int64_t value) {
  return from_vector(std::vector<int64_t>{value});
}

}  // namespace

ReduceOnPlateau::ReduceOnPlateau(double lr, const PlateauOptions& options) : options_(options), lr_(lr) {
  check(options.factor > 0 && options.factor < 1, "plateau: expected a factor between 0 and 1, found {}",
        options.factor);
  check_rates("plateau", lr, options.min_lr);
  check(is_rate(options.threshold), "plateau: expected a threshold >= 0, found {}", options.threshold);
  check(options.patience >= 0 && options.cooldown >= 0,
        "plateau: expected patience and cooldown >= 0, found patience {} and cooldown {}", options.patience,
        options.cooldown);
}

double ReduceOnPlateau::step(double value) {
  const bool better = std::isinf(best_) ? value < best_ : value < best_ - std::abs(best_) * options_.threshold;
  if (better) best_ = value;
  bad_ = better ? 0 : bad_ + 1;
  if (cooldown_left_ > 0) {
    --cooldown_left_;
    bad_ = 0;
  }
  if (bad_ > options_.patience) {
    lr_ = std::max(lr_ * options_.factor, options_.min_lr);
    cooldown_left_ = options_.cooldown;
    bad_ = 0;
  }
  return lr_;
}

TensorMap ReduceOnPlateau::state() const {
  return {{"lr", one(lr_)}, {"best", one(best_)}, {"bad", one(bad_)}, {"cooldown_left", one(cooldown_left_)}};
}

void ReduceOnPlateau::load_state(const TensorMap& state) {
  const double lr = require<double>(state, "lr"), best = require<double>(state, "best");
  const int64_t bad = require<int64_t>(state, "bad"), cooldown = require<int64_t>(state, "cooldown_left");
  check(std::isfinite(lr) && lr >= options_.min_lr, "plateau: state: expected an lr of at least {}, found {}",
        options_.min_lr, lr);
  check(!std::isnan(best) && bad >= 0 && cooldown >= 0,
        "plateau: state: expected a number best and counts >= 0, found best {}, bad {} and cooldown_left {}", best, bad,
        cooldown);
  lr_ = lr;
  best_ = best;
  bad_ = bad;
  cooldown_left_ = cooldown;
}

CosineSchedule::CosineSchedule(double lr, const CosineOptions& options) : options_(options), base_(lr) {
  check(options.steps >= 1 && options.warmup >= 0 && options.warmup < options.steps,
        "cosine: expected 0 <= warmup < steps, found warmup {} and steps {}", options.warmup, options.steps);
  check_rates("cosine", lr, options.min_lr);
}

double CosineSchedule::lr_at(int64_t t) const {
  check(t >= 0, "cosine: expected a step >= 0, found {}", t);
  if (t < options_.warmup) return base_ * static_cast<double>(t + 1) / static_cast<double>(options_.warmup);
  const double done = static_cast<double>(t - options_.warmup) / static_cast<double>(options_.steps - options_.warmup);
  return options_.min_lr + (base_ - options_.min_lr) * (1 + std::cos(std::numbers::pi * std::min(done, 1.0))) / 2;
}

TensorMap CosineSchedule::state() const {
  return {{"t", one(t_)}};
}

void CosineSchedule::load_state(const TensorMap& state) {
  const auto t = require<int64_t>(state, "t");
  check(t >= 0, "cosine: state t: expected a step >= 0, found {}", t);
  t_ = t;
}

}  // namespace qinco::optim

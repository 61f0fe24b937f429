// adam and sgd: against numbers from PyTorch, then every ISA against the reference.
#include <deque>
#include <doctest/doctest.h>

#include "tests/kernels/harness.h"

namespace qinco::kernels::tests {

namespace {

QINCO_COVERS(adam);
QINCO_COVERS(sgd);

// Parameters and moments; sgd's buffer is `m`.
struct State {
  std::vector<float> p, m, v;
};

AdamStep adam_step(double lr, double beta1, double beta2, double eps, double weight_decay, bool decoupled) {
  AdamStep s;
  s.lr = lr;
  s.beta1 = beta1;
  s.beta2 = beta2;
  s.eps = eps;
  s.weight_decay = weight_decay;
  s.decoupled = decoupled;
  return s;
}

SgdStep sgd_step(double lr, double momentum, double weight_decay, bool nesterov) {
  SgdStep s;
  s.lr = lr;
  s.momentum = momentum;
  s.weight_decay = weight_decay;
  s.nesterov = nesterov;
  return s;
}

State run(const Table<float>& t, const Context& context, const AdamStep& s, const State& before,
          const std::vector<float>& g) {
  Buffer<float> p(before.p), gradient(g, 2), m(before.m, 3), v(before.v, 4);
  const AdamParameter<float> all{p.size(), p.data(), gradient.data(), m.data(), v.data()};
  t.adam(context, s, 1, &all);
  CHECK((p.guards_hold() && m.guards_hold() && v.guards_hold()));
  return {p.values(), m.values(), v.values()};
}

State run(const Table<float>& t, const Context& context, const SgdStep& s, const State& before,
          const std::vector<float>& g) {
  Buffer<float> p(before.p), gradient(g, 2), buf(before.m, 3);
  t.sgd(context, s, p.size(), p.data(), gradient.data(), s.momentum == 0 ? nullptr : buf.data());
  CHECK((p.guards_hold() && buf.guards_hold()));
  return {p.values(), buf.values(), before.v};
}

// The gradients of the PyTorch runs below: [0.5, -0.25, 3] * (s + 1) - [0, 0, 6 s] at step s = 0, 1, 2.
template <class StepOf>
std::vector<float> three_steps(const Table<float>& t, const StepOf& step_of) {
  State state{{1, -2, 0.5f}, {0, 0, 0}, {0, 0, 0}};
  for (int s = 0; s < 3; ++s) {
    const float k = static_cast<float>(s);
    state = run(t, TestContext(), step_of(s), state, {0.5f * (k + 1), -0.25f * (k + 1), 3 * (k + 1) - 6 * k});
  }
  return state.p;
}

void check_three(const Table<float>& t, const AdamStep& step, const std::vector<double>& expected) {
  const auto step_of = [&](int i) {
    AdamStep s = step;
    s.step = i + 1;
    return s;
  };
  check_close(
      three_steps(t, step_of), expected, [](int64_t) { return 1e-6; }, "adam");
}

void check_three(const Table<float>& t, const SgdStep& step, const std::vector<double>& expected) {
  check_close(
      three_steps(t, [&](int) { return step; }), expected, [](int64_t) { return 1e-6; }, "sgd");
}

const AdamStep kAdamSteps[] = {adam_step(1e-3, 0.9, 0.999, 1e-8, 0, false), adam_step(0.1, 0.8, 0.95, 1e-3, 0.2, false),
                               adam_step(0.1, 0.9, 0.999, 1e-8, 0.2, true)};
const SgdStep kSgdSteps[] = {sgd_step(0.1, 0, 0, false), sgd_step(0.1, 0.9, 0, false), sgd_step(0.1, 0.9, 0.05, true),
                             sgd_step(0.1, 0.5, 0.1, false), sgd_step(0.01, 0, 0.3, false)};

State make_state(int64_t n) {
  State state{Data(1).normal(n), Data(2).normal(n), Data(3).normal(n)};
  for (float& v : state.v) v = v * v;
  return state;
}

void check_states(const State& actual, const State& expected, const std::vector<double>& scale,
                  const std::string& what) {
  // Each is a short chain of roundings of terms no larger than `scale`.
  const auto bound = [&](int64_t i) { return 12 * kEpsilon * scale[static_cast<size_t>(i)]; };
  check_close(actual.p, expected.p, bound, what + " p");
  check_close(actual.m, expected.m, bound, what + " m");
  check_close(actual.v, expected.v, bound, what + " v");
}

}  // namespace

TEST_CASE("adam and sgd: three steps as PyTorch makes them") {
  // torch.optim.{Adam, AdamW, SGD} in float64, PyTorch 2: p = [1, -2, 0.5].
  for_each_version_and_reference([](const Table<float>& t, const Version&) {
    check_three(t, adam_step(0.1, 0.9, 0.999, 1e-8, 0, false), {0.707681679115, -1.70768168322, 0.341580946645});
    check_three(t, adam_step(0.1, 0.8, 0.95, 1e-3, 0.2, false), {0.701930806168, -1.69951831597, 0.34908738673});
    check_three(t, adam_step(0.1, 0.9, 0.999, 1e-8, 0.2, true), {0.654764043063, -1.59595604707, 0.317477063134});
    check_three(t, sgd_step(0.1, 0, 0, false), {0.7, -1.85, 0.5});
    check_three(t, sgd_step(0.1, 0.9, 0, false), {0.5245, -1.76225, -0.013});
    check_three(t, sgd_step(0.1, 0.9, 0.05, true), {0.236522768875, -1.55841414838, 0.0337464788125});
  });
}

TEST_CASE("adam: within rounding on tail sizes, at early and late steps") {
  for_each_version([](const Table<float>& t, const Version& version) {
    for (AdamStep s : kAdamSteps)
      for (const int64_t step : {1, 2, 10, 100'000})
        for (const int64_t n : kTailSizes) {
          s.step = step;
          const State before = make_state(n);
          const std::vector<float> g = Data(4).normal(n);
          const State expected = run(table<float>(Isa::reference), TestContext(), s, before, g);
          std::vector<double> scale;
          for (size_t i = 0; i < g.size(); ++i) {
            const double update = std::fabs(static_cast<double>(expected.p[i]) - before.p[i]);
            scale.push_back(std::fabs(before.p[i]) + update + std::fabs(before.m[i]) + std::fabs(g[i]) + before.v[i] +
                            g[i] * g[i]);
          }
          check_states(run(t, TestContext(), s, before, g), expected, scale,
                       fmt::format("{} step={} n={}", version.name, step, n));
        }
  });
}

TEST_CASE("adam: the first step has the size of the rate, however large the gradient") {
  AdamStep step = adam_step(0.1, 0.9, 0.999, 1e-8, 0, false);
  step.step = 1;
  const std::vector<float> zero(4), gradient = {1e-4f, 1e18f, 1e20f, -1e20f};
  const std::vector<double> expected = {-0.1, -0.1, -0.1, 0.1};
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    const State after = run(t, TestContext(), step, {zero, zero, zero}, gradient);
    check_close(
        after.p, expected, [](int64_t) { return 2e-5; }, version.name);  // eps: 1e-4 of 1e-4
  });
}

TEST_CASE("adam: many parameters together as one by one") {
  for_each_version_and_reference([](const Table<float>& t, const Version& version) {
    std::deque<Buffer<float>> p, g, m, v;
    std::vector<AdamParameter<float>> all;
    std::vector<State> expected;
    // More than go into a launch on CUDA, among them empty ones and one of several blocks.
    for (int64_t i = 0; i < 150; ++i) {
      const int64_t n = i == 70 ? 10'007 : i % 11 == 0 ? 0 : i * 37 % 300;
      const State before = make_state(n);
      const std::vector<float> gradient = Data(static_cast<uint64_t>(i)).normal(n);
      expected.push_back(run(t, TestContext(), kAdamSteps[0], before, gradient));
      p.emplace_back(before.p), g.emplace_back(gradient, 2), m.emplace_back(before.m, 3), v.emplace_back(before.v, 4);
      all.push_back({n, p.back().data(), g.back().data(), m.back().data(), v.back().data()});
    }
    t.adam(TestContext(), kAdamSteps[0], static_cast<int64_t>(all.size()), all.data());
    t.adam(TestContext(), kAdamSteps[0], 0, nullptr);
    for (size_t i = 0; i < all.size(); ++i) {
      const State& state = expected[i];
      CHECK_MESSAGE((p[i].values() == state.p && m[i].values() == state.m && v[i].values() == state.v),
                    version.name << ": parameter " << i);
      CHECK((p[i].guards_hold() && m[i].guards_hold() && v[i].guards_hold()));
    }
  });
}

TEST_CASE("sgd: within rounding on tail sizes") {
  for_each_version([](const Table<float>& t, const Version& version) {
    for (const SgdStep& s : kSgdSteps)
      for (const int64_t n : kTailSizes) {
        const State before = make_state(n);
        const std::vector<float> g = Data(4).normal(n);
        const State expected = run(table<float>(Isa::reference), TestContext(), s, before, g);
        std::vector<double> scale;
        for (size_t i = 0; i < g.size(); ++i)
          scale.push_back(2 * (std::fabs(before.p[i]) + std::fabs(g[i]) + std::fabs(before.m[i])));
        check_states(run(t, TestContext(), s, before, g), expected, scale, fmt::format("{} n={}", version.name, n));
      }
  });
}

TEST_CASE("adam and sgd: the same bits at any thread count") {
  const State before = make_state(70'003);
  const std::vector<float> g = Data(4).normal(70'003);
  const auto join = [](const State& s) {
    std::vector<float> all(s.p);
    all.insert(all.end(), s.m.begin(), s.m.end());
    all.insert(all.end(), s.v.begin(), s.v.end());
    return all;
  };
  for_each_version_and_reference([&](const Table<float>& t, const Version& version) {
    check_any_thread_count([&](const Context& c) { return join(run(t, c, kAdamSteps[1], before, g)); }, version.name);
    check_any_thread_count([&](const Context& c) { return join(run(t, c, kSgdSteps[2], before, g)); }, version.name);
  });
}

}  // namespace qinco::kernels::tests

// Optimisers and schedules: closed forms, resuming to the bit, errors. PyTorch's trajectories are in golden_test.cpp.
#include <cmath>
#include <doctest/doctest.h>
#include <memory>

#include "autograd/nn/layers.h"
#include "autograd/optim/optimizer.h"
#include "autograd/optim/schedule.h"
#include "kernels/context.h"
#include "kernels/parallel.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tests/support.h"
#include "tests/tensor/layouts.h"

using namespace qinco;
using namespace qinco::tests;
using autograd::Variable;

namespace {

/// A small regression problem and the three optimisers on it.
struct Problem {
  explicit Problem(const std::string& kind) : random(11), optimizer(make(kind)) {
    random.normal(x);
    random.normal(y);
  }
  std::unique_ptr<optim::Optimizer> make(const std::string& kind) {
    if (kind == "sgd")
      return std::make_unique<optim::SGD>(net.parameters(), optim::SgdOptions{.lr = 0.05, .momentum = 0.9});
    if (kind == "adam") return std::make_unique<optim::Adam>(net.parameters(), optim::AdamOptions{.lr = 0.01});
    return std::make_unique<optim::AdamW>(net.parameters());
  }
  double step() {
    optimizer->zero_grad();
    const Variable loss = autograd::mse_loss(net(x), y);
    loss.backward();
    optimizer->step();
    return loss.item();
  }

  Random random;
  Tensor x = Tensor::empty({64, 10}), y = Tensor::empty({64, 3});
  nn::Sequential net{nn::Linear(10, 16, random), nn::ReLU(), nn::Linear(16, 3, random)};
  std::unique_ptr<optim::Optimizer> optimizer;
};

}  // namespace

TEST_CASE("optim: saved, loaded and continued is bit-equal to never stopped") {
  const TemporaryDirectory directory;
  for (const std::string kind : {"sgd", "adam", "adamw"}) {
    CAPTURE(kind);
    Problem whole(kind), first(kind), second(kind);
    for (int i = 0; i < 7; ++i) {
      whole.step();
      first.step();
    }
    first.optimizer->set_lr(0.003);
    whole.optimizer->set_lr(0.003);
    nn::save(first.net, directory.file("net"));
    write_safetensors(directory.file("optimizer"), {first.optimizer->state(), {}});
    second.step();  // a state that loading must replace
    nn::load(second.net, directory.file("net"));
    second.optimizer->load_state(read_safetensors(directory.file("optimizer")).tensors);
    CHECK(second.optimizer->lr() == 0.003);
    for (int i = 0; i < 5; ++i) CHECK(whole.step() == second.step());
    for (const auto& item : whole.net.state()) {
      CAPTURE(item.first);
      CHECK(same_bits(item.second, second.net.state().at(item.first)));
    }
  }
}

TEST_CASE("optim: reset_state is a fresh start") {
  for (const std::string kind : {"sgd", "adam", "adamw"}) {
    Problem used(kind), fresh(kind);
    for (int i = 0; i < 5; ++i) used.step();
    used.optimizer->reset_state();
    fresh.net.load(used.net.state());
    for (int i = 0; i < 3; ++i) CHECK(used.step() == fresh.step());
  }
}

TEST_CASE("optim: the same bits at any thread count") {
  const int threads = kernels::default_threads();
  const Tensor x = normal_vectors(160, 112, 1), y = normal_vectors(160, 150, 2);
  std::vector<double> losses[2];
  std::vector<Tensor> trained[2];
  for (const int n : {1, 3}) {
    kernels::set_default_threads(n);
    const size_t at = n == 1 ? 0 : 1;
    Random random(12);
    nn::Sequential net(nn::Linear(112, 150, random), nn::ReLU(), nn::LayerNorm(150), nn::Linear(150, 150, random));
    optim::AdamW adam(net.parameters(), {.lr = 0.01});
    CHECK(net.parameters()[0].value().numel() > kernels::kElementGrain);  // shared out among threads, as what follows
    CHECK(net.parameters()[4].value().numel() > kernels::kElementGrain);
    CHECK(x.numel() > kernels::kElementGrain);
    for (int i = 0; i < 4; ++i) {
      adam.zero_grad();
      const Variable loss = autograd::mse_loss(net(x), y);
      loss.backward();
      optim::clip_grad_norm(net.parameters(), 0.5);
      adam.step();
      losses[at].push_back(loss.item());
    }
    for (const Variable& parameter : net.parameters()) trained[at].push_back(parameter.value());
  }
  kernels::set_default_threads(threads);
  CHECK(losses[0] == losses[1]);
  CHECK(losses[0].back() < losses[0].front());
  for (size_t i = 0; i < trained[0].size(); ++i) CHECK(same_bits(trained[0][i], trained[1][i]));
}

TEST_CASE("optim: first steps in closed form") {
  const auto stepped = [](auto&& make) {
    Variable x(from_vector<double>({1, 2}), true);
    x.set_grad(from_vector<double>({0.5, -4}));
    auto optimizer = make(std::vector<Variable>{x});
    optimizer.step();
    return x.value().clone();
  };
  // SGD with L2: p - lr (g + wd p).
  const Tensor sgd = stepped([](auto p) { return optim::SGD(p, {.lr = 0.1, .weight_decay = 0.2}); });
  CHECK(worst_difference(sgd, from_vector<double>({1 - 0.1 * 0.7, 2 + 0.1 * 3.6})) <= 1e-15);
  // Adam's first step is lr * sign(g), whatever the gradient's size (eps aside).
  const Tensor adam = stepped([](auto p) { return optim::Adam(p, {.lr = 0.1}); });
  CHECK(worst_difference(adam, from_vector<double>({0.9, 2.1})) <= 1e-8);
  // AdamW also shrinks p by lr * wd.
  const Tensor adamw = stepped([](auto p) { return optim::AdamW(p, {.lr = 0.1, .weight_decay = 0.5}); });
  CHECK(worst_difference(adamw, from_vector<double>({0.9 - 0.05, 2.1 - 0.1})) <= 1e-8);
  const Tensor decayed = stepped([](auto p) { return optim::AdamW(p, {.lr = 0.1}); });  // by 0.01, unless told
  CHECK(worst_difference(decayed, from_vector<double>({0.9 - 0.001, 2.1 - 0.002})) <= 1e-8);
}

TEST_CASE("optim: a parameter that is there twice, and options that make no sense, are refused") {
  Variable x(ones({2}), true);
  x.set_grad(ones({2}));
  CHECK(contains(error_of([&] { optim::SGD({x, x}, {}); }), "parameter 1 is there twice"));
  CHECK(contains(error_of([&] { optim::clip_grad_norm({x, x}, 1); }), "there twice"));
  for (const double norm : {-1.0, double{NAN}})
    CHECK(contains(error_of([&] { optim::clip_grad_norm({x}, norm); }), "expected a norm >= 0"));
  CHECK(contains(error_of([&] { optim::Adam({x}, {.beta1 = -1}); }), "betas in [0,1), found -1"));
  CHECK(contains(error_of([&] { optim::Adam({x}, {.beta2 = 1}); }), "found 0.9 and 1"));
  CHECK(contains(error_of([&] { optim::Adam({x}, {.eps = NAN}); }), "eps >= 0, found nan"));
  CHECK(contains(error_of([&] { optim::AdamW({x}, {.weight_decay = -1}); }), "weight decay >= 0, found -1"));
  for (const double lr : {-1.0, double{NAN}, double{INFINITY}})
    CHECK(contains(error_of([&] { optim::SGD({x}, {.lr = lr}); }), "expected a learning rate >= 0"));
  for (const double momentum : {-0.5, 1.0, double{NAN}})
    CHECK(contains(error_of([&] { optim::SGD({x}, {.momentum = momentum}); }), "sgd: expected a momentum in [0,1)"));
  for (const double decay : {-1.0, double{NAN}, double{INFINITY}})
    CHECK(contains(error_of([&] { optim::SGD({x}, {.weight_decay = decay}); }), "sgd: expected a weight decay >= 0"));
}

TEST_CASE("schedule: options and states that make no sense are refused") {
  const auto plateau = [](double lr, const optim::PlateauOptions& options) {
    return error_of([&] { optim::ReduceOnPlateau(lr, options); });
  };
  const auto cosine = [](double lr, const optim::CosineOptions& options) {
    return error_of([&] { optim::CosineSchedule(lr, options); });
  };
  for (const double bad : {-1.0, double{NAN}, double{INFINITY}}) {
    CHECK(contains(plateau(bad, {}), "plateau: expected a learning rate >= 0"));
    CHECK(contains(plateau(1, {.factor = bad}), "plateau: expected a factor between 0 and 1"));
    CHECK(contains(plateau(1, {.threshold = bad}), "plateau: expected a threshold >= 0"));
    CHECK(contains(plateau(1, {.min_lr = bad}), "plateau: expected min_lr from 0 to the learning rate 1"));
    CHECK(contains(cosine(bad, {.steps = 10}), "cosine: expected a learning rate >= 0"));
    CHECK(contains(cosine(1, {.steps = 10, .min_lr = bad}), "cosine: expected min_lr from 0 to the learning rate 1"));
  }
  CHECK(contains(plateau(1, {.min_lr = 2}), "found 2"));  // which would raise the rate
  CHECK(contains(plateau(1, {.patience = -1}), "found patience -1 and cooldown 0"));
  CHECK(contains(plateau(1, {.cooldown = -2}), "found patience 10 and cooldown -2"));
  CHECK(contains(cosine(1, {.steps = 0}), "cosine: expected 0 <= warmup < steps, found warmup 0 and steps 0"));
  CHECK(contains(cosine(1, {.steps = 5, .warmup = 5}), "found warmup 5 and steps 5"));
  CHECK(contains(cosine(1, {.steps = 5, .warmup = -1}), "found warmup -1"));

  optim::ReduceOnPlateau kept(1);
  TensorMap state = kept.state();
  for (const char* name : {"lr", "best"}) {
    TensorMap changed = state;
    changed[name] = scalar(NAN, DType::f64);
    CHECK(contains(error_of([&] { kept.load_state(changed); }), "plateau: state: expected"));
  }
  for (const char* name : {"bad", "cooldown_left"}) {
    TensorMap changed = state;
    changed[name] = from_vector<int64_t>({-1});
    CHECK(contains(error_of([&] { kept.load_state(changed); }), "counts >= 0, found best"));
  }
  CHECK(kept.lr() == 1);
  optim::ReduceOnPlateau bounded(1, {.min_lr = 0.5});
  state["lr"] = scalar(0.25, DType::f64);  // from which it would rise
  CHECK(contains(error_of([&] { bounded.load_state(state); }), "expected an lr of at least 0.5, found 0.25"));
  optim::CosineSchedule steps(1, {.steps = 5});
  CHECK(contains(error_of([&] { (void)steps.lr_at(-1); }), "cosine: expected a step >= 0, found -1"));
  CHECK(contains(error_of([&] { steps.load_state({{"t", from_vector<int64_t>({-1})}}); }), "found -1"));
}

TEST_CASE("optim: parameters without a gradient stay, and their steps are not counted") {
  Variable used(ones({2}), true), idle(ones({2}), true);
  optim::Adam adam({used, idle});
  used.set_grad(ones({2}));
  adam.step();
  CHECK(!same_bits(used.value(), ones({2})));
  CHECK(same_bits(idle.value(), ones({2})));
  const TensorMap state = adam.state();
  CHECK(same_bits(state.at("steps"), from_vector<int64_t>({1, 0})));
  CHECK(state.count("m.0") == 1);
  CHECK(state.count("m.1") == 0);
}

TEST_CASE("optim: each parameter is at a step of its own") {
  const Tensor grads[] = {from_vector<float>({1, -2}), from_vector<float>({0.5, 3})};
  const auto updated = [&](Variable parameter, std::initializer_list<int> steps) {
    optim::Adam adam({parameter}, {.lr = 0.1});
    for (const int i : steps) {
      parameter.set_grad(grads[i]);
      adam.step();
    }
    return parameter.value();
  };
  Variable early(ones({2}), true), late(ones({2}), true);
  optim::Adam adam({early, late}, {.lr = 0.1});
  early.set_grad(grads[0]);
  adam.step();
  early.set_grad(grads[1]);
  late.set_grad(grads[1]);
  adam.step();
  CHECK(same_bits(early.value(), updated(Variable(ones({2}), true), {0, 1})));
  CHECK(same_bits(late.value(), updated(Variable(ones({2}), true), {1})));
}

TEST_CASE("optim: gradients of any layout") {
  const Tensor grad = positive_values({3, 3}, 1);
  Variable plain(zeros({3, 3}), true), other(zeros({3, 3}), true);
  optim::SGD sgd({plain, other}, {.lr = 1});
  plain.set_grad(grad);
  for (const Layout layout : kLayouts) {
    other.set_grad(laid_out(grad, layout));
    sgd.step();
    CHECK(same_bits(other.value(), plain.value()));
  }
}

TEST_CASE("optim: a state is a copy") {
  for (const std::string kind : {"sgd", "adam"}) {
    Problem problem(kind);
    problem.step();
    const TensorMap state = problem.optimizer->state();
    const std::string moment = kind == "sgd" ? "momentum.0" : "m.0";
    const Tensor at_first = state.at(moment).clone();
    problem.step();
    CHECK(same_bits(state.at(moment), at_first));
    CHECK(!same_bits(problem.optimizer->state().at(moment), at_first));
    problem.optimizer->load_state(state);
    problem.step();
    CHECK(same_bits(state.at(moment), at_first));
  }
}

TEST_CASE("optim: errors") {
  Problem problem("adam");
  problem.step();
  const TensorMap before = problem.optimizer->state();
  TensorMap state = before;
  const auto load = [&] { problem.optimizer->load_state(state); };
  state = {{"steps", zeros({4}, DType::i64)}, {"lr", scalar(std::nan(""), DType::f64)}};
  CHECK(contains(error_of(load), "expected a learning rate >= 0, found nan"));
  for (const auto& item : problem.optimizer->state()) CHECK(same_bits(item.second, before.at(item.first)));
  state = before;
  state["v.1"] = ones({2});
  CHECK(error_of(load) == "optimizer: state v.1: expected f32 [16], found f32 [2]");
  state.erase("v.1");
  CHECK(error_of(load) == "optimizer: state v.1 is missing");
  Problem other("sgd");
  other.step();
  CHECK(error_of([&] { problem.optimizer->load_state(other.optimizer->state()); }) ==
        "optimizer: state m.0 is missing");
  state = problem.optimizer->state();
  state["stray"] = ones({1});
  CHECK(error_of(load) == "optimizer: unexpected state stray");
  optim::SGD plain(other.net.parameters(), {});
  CHECK(error_of([&] { plain.load_state(other.optimizer->state()); }) == "optimizer: unexpected state momentum.0");
  CHECK(contains(error_of([&] { problem.optimizer->set_lr(std::nan("")); }), "expected a learning rate >= 0"));
  const Variable trained(ones({2}), true);
  CHECK(contains(error_of([&] { optim::SGD({trained}, {.nesterov = true}); }), "nesterov needs a momentum"));
  struct : nn::Module {
    nn::Linear forgotten{Tensor(ones({2, 2}))};  // a member, but not a registered one
  } net;
  CHECK(contains(error_of([&] { optim::Adam(net.parameters()); }), "optimizer: no parameters: a module has those"));
  const Variable constant(ones({2})), result = Variable(ones({2}), true) * 2.0;
  CHECK(error_of([&] { optim::Adam({constant}); }) == "optimizer: none of the 1 parameters requires a gradient");
  CHECK(contains(error_of([&] { optim::Adam({result}); }), "optimizer: expected contiguous leaves of f32 or f64"));
  CHECK(contains(error_of([] { optim::Adam({Variable(ones({2}, DType::i32))}); }), "contiguous leaves of f32 or f64"));
}

TEST_CASE("optim: a step that cannot be made changes nothing") {
  Variable good(ones({2}), true), square(ones({3, 3}), true);
  optim::Adam adam({good, square}, {.lr = 0.1});
  square.set_value(ones({3, 1}).expand({3, 3}));  // has the shape, but not the elements
  good.set_grad(ones({2}));
  square.set_grad(ones({3, 3}));
  for (int i = 0; i < 3; ++i)
    CHECK(error_of([&] { adam.step(); }) == "optimizer: parameter 1 of shape [3,3] is not contiguous");
  CHECK(same_bits(good.value(), ones({2})));
  CHECK(same_bits(adam.state().at("steps"), zeros({2}, DType::i64)));
  CHECK(adam.state().size() == 2);  // no moments
  square.set_value(ones({3, 3}));
  adam.step();
  CHECK(worst_difference(good.value(), full({2}, 0.9)) <= 1e-6);  // a first step
  CHECK(worst_difference(square.value(), full({3, 3}, 0.9)) <= 1e-6);
}

TEST_CASE("optim: clip_grad_norm scales to the joint norm") {
  Variable a(zeros({2}, DType::f64), true), b(zeros({1}, DType::f64), true), none(zeros({1}, DType::f64), true);
  a.set_grad(from_vector<double>({3, 0}));
  b.set_grad(from_vector<double>({4}));
  CHECK(optim::clip_grad_norm({a, b, none}, 10) == 5);
  CHECK(same_bits(a.grad(), from_vector<double>({3, 0})));
  CHECK(optim::clip_grad_norm({a, b, none}, 1) == 5);
  CHECK(worst_difference(a.grad(), from_vector<double>({0.6, 0})) <= 1e-15);
  CHECK(worst_difference(b.grad(), from_vector<double>({0.8})) <= 1e-15);
  a.set_grad(from_vector<double>({std::nan(""), 100}));
  CHECK(std::isnan(optim::clip_grad_norm({a, b, none}, 1)));
  for (const Variable& parameter : {a, b})
    for (int64_t i = 0; i < parameter.size(0); ++i) CHECK(std::isnan(parameter.grad().row(i).item<double>()));
}

TEST_CASE("schedule: plateau and cosine resume where they stopped") {
  const optim::PlateauOptions options{.patience = 2, .cooldown = 3};
  const auto loss = [](int i) { return i < 5 ? 10.0 - i : 6.0; };
  for (int stop = 0; stop < 20; ++stop) {  // with some epochs counted as bad, or left of a cooldown
    CAPTURE(stop);
    optim::ReduceOnPlateau whole(1, options), second(123, options);
    optim::CosineSchedule cosine(1, {.steps = 20, .warmup = 4}), resumed(1, {.steps = 20, .warmup = 4});
    for (int i = 0; i < stop; ++i) {
      whole.step(loss(i));
      cosine.step();
    }
    second.load_state(whole.state());
    resumed.load_state(cosine.state());
    for (int i = stop; i < 40; ++i) {
      CHECK(whole.step(loss(i)) == second.step(loss(i)));
      CHECK(cosine.step() == resumed.step());
    }
    CHECK(whole.lr() < 1e-4);
    CHECK(contains(error_of([&] { second.load_state(cosine.state()); }), "state lr is missing"));
  }
}

TEST_CASE("schedule: a NaN counts as bad, warm-up rises in a line") {
  optim::ReduceOnPlateau plateau(1, {.factor = 0.5, .patience = 0});
  CHECK(plateau.step(1) == 1);
  CHECK(plateau.step(std::nan("")) == 0.5);
  CHECK(plateau.step(0.5) == 0.5);
  const optim::CosineSchedule cosine(2, {.steps = 12, .warmup = 4, .min_lr = 0.5});
  CHECK(cosine.lr_at(0) == 0.5);
  CHECK(cosine.lr_at(3) == 2);
  CHECK(cosine.lr_at(4) == 2);
  CHECK(cosine.lr_at(8) == doctest::Approx(1.25));
  CHECK(cosine.lr_at(12) == 0.5);
  CHECK(cosine.lr_at(100) == 0.5);
}

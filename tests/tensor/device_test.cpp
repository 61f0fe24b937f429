// Tensors on the devices besides the CPU: moving, making, computing, writing.
#include <doctest/doctest.h>
#include <functional>
#include <thread>

#include "tensor/create.h"
#include "tensor/npy.h"
#include "tensor/ops.h"
#include "tensor/random.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::tests;

TEST_CASE("device: tensors of every dtype go there and come back") {
  for (const Device device : test_devices())
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::u8, DType::i32, DType::i64}) {
      const Tensor x = arange(60, 0, 1).to(dtype).reshape({3, 4, 5});
      const Tensor there = x.to(device);
      CHECK(there.device() == device);
      CHECK(there.dtype() == dtype);
      CHECK(same_bits(there.to(Device{}), x));
      CHECK(same_bits(there.clone(), x));
      CHECK(there.to(device).shares_storage(there));
      CHECK(there.slice(0, 1, 2).slice(1, 2, 3).slice(2, 3, 4).item<double>() == 33);
      CHECK(same_bits(there.to(DType::f64), x.to(DType::f64)));
      CHECK(there.to(DType::f64).device() == device);
    }
}

TEST_CASE("device: products are fast within a scope of the thread, and exact outside") {
  for (const Device device : test_devices()) {
    const Tensor a = positive_values({5, 7}, 1).to(device), b = positive_values({7, 6}, 2).to(device);
    const auto products = [&] { return concat({matmul(a, b), linear(a, b.transpose(0, 1))}, 0); };
    const Tensor exact = products();
    {
      const MatmulPrecision scope(kernels::Precision::fast);
      const Tensor fast = products();
      CHECK(worst_difference(fast, exact) <= 0x1p-9);
      if (emulated(device)) {
        CHECK_FALSE(same_bits(fast.slice(0, 0, 5), exact.slice(0, 0, 5)));
        CHECK_FALSE(same_bits(fast.slice(0, 5, 10), exact.slice(0, 5, 10)));
      }
      {
        const MatmulPrecision inner(kernels::Precision::exact);
        CHECK(same_bits(products(), exact));
      }
      CHECK(same_bits(products(), fast));
      Tensor elsewhere;
      std::thread([&] { elsewhere = products(); }).join();
      CHECK(same_bits(elsewhere, exact));
    }
    CHECK(same_bits(products(), exact));
  }
}

TEST_CASE("device: views are copied from and written to, within the device and across") {
  for (const Device device : test_devices())
    for (const DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64}) {
      const Tensor x = arange(60, 0, 1).to(dtype).reshape({3, 4, 5}), there = x.to(device);
      CHECK(same_bits(there.transpose(0, 2).contiguous(), x.transpose(0, 2).contiguous()));
      CHECK(same_bits(there.slice(2, 1, 4).to(Device{}), x.slice(2, 1, 4).contiguous()));
      CHECK(same_bits(x.slice(1, 1, 3).to(device), x.slice(1, 1, 3).contiguous()));
      const Tensor expected = x.clone(), written = there.clone();
      const Tensor patch = arange(6, 100, 1).to(dtype).reshape({3, 1, 2});
      expected.slice(2, 1, 3).copy_from(patch);
      written.slice(2, 1, 3).copy_from(patch);  // from the CPU, and repeated along a dimension
      CHECK(same_bits(written, expected));
      written.copy_from(there);
      written.slice(2, 1, 3).copy_from(patch.to(device));
      CHECK(same_bits(written, expected));
      const Tensor back = zeros({5, 4, 3}, dtype);
      back.transpose(0, 2).copy_from(there);
      CHECK(same_bits(back.transpose(0, 2).contiguous(), x));
    }
}

TEST_CASE("device: tensors are made there") {
  for (const Device device : test_devices()) {
    CHECK(same_bits(full({2, 3}, 1.5, DType::f32, device), full({2, 3}, 1.5)));
    CHECK(same_bits(zeros({4}, DType::i32, device), zeros({4}, DType::i32)));
    CHECK(same_bits(arange(5, 1, 2, DType::f64, device), arange(5, 1, 2, DType::f64)));
    CHECK(scalar(2.5, DType::f32, device).item<float>() == 2.5f);
    CHECK(zeros_like(ones({3}, DType::f32, device)).device() == device);
    CHECK(full({2}, 3, DType::f32, device).str() == "f32 [2] on " + device.name() + " 3 3");
  }
}

TEST_CASE("device: random numbers are the CPU's, bit for bit, and leave the same position") {
  using Draw = void (*)(Random&, const Tensor&);
  constexpr Draw kDraws[] = {[](Random& random, const Tensor& out) { random.uniform(out, 0.1, 0.7); },
                             [](Random& random, const Tensor& out) { random.uniform(out, -3, 1e6); },
                             [](Random& random, const Tensor& out) { random.uniform(out, 1, 1 + 0x1p-22); },
                             [](Random& random, const Tensor& out) { random.dropout_mask(out, 0.3); },
                             [](Random& random, const Tensor& out) { random.normal(out, 1, 2); }};
  for (const Device device : test_devices())
    for (const DType dtype : {DType::f32, DType::f64}) {
      // The last size of a real device is more than all threads of a launch draw at once.
      const int64_t most = emulated(device) ? 1'001 : 9'000'001;
      for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{6}, int64_t{33}, most}) {
        Random here(7, 1), there(7, 1);
        here.set_state({7, 1, 0xffffffff});
        there.set_state(here.state());
        for (const Draw draw : kDraws) {
          // Off the alignment of 16 bytes, too, and between values that stay.
          const Tensor expected = ones({n + 3}, dtype), found = ones({n + 3}, dtype, device);
          for (const int64_t first : {0, 1}) {
            draw(here, expected.slice(0, first, first + n));
            draw(there, found.slice(0, first, first + n));
            CHECK(same_bits(found, expected));
            CHECK(here.state() == there.state());
          }
        }
      }
    }
}

TEST_CASE("device: memory is counted") {
  for (const Device device : test_devices()) {
    const int64_t before = memory_stats(device).live;
    reset_memory_peak(device);
    {
      const Tensor x = Tensor::empty({1 << 20}, DType::f32, device);
      CHECK(memory_stats(device).live == before + (4 << 20));
    }
    CHECK(memory_stats(device).live == before);
    CHECK(memory_stats(device).peak == before + (4 << 20));
  }
}

TEST_CASE("device: operations give what they give on the CPU") {
  using Inputs = std::vector<Tensor>;
  const std::vector<std::pair<std::string, std::function<Tensor(const Inputs&)>>> operations = {
      {"exp", [](const Inputs& x) { return exp(x[0]); }},
      {"relu of a view", [](const Inputs& x) { return relu(x[0].transpose(0, 1)); }},
      {"broadcast add", [](const Inputs& x) { return add(x[0], x[2]); }},
      {"broadcast of a view", [](const Inputs& x) { return mul(x[0].transpose(0, 1), x[2].unsqueeze(1)); }},
      {"scale", [](const Inputs& x) { return scale(x[0], -0.5); }},
      {"matmul", [](const Inputs& x) { return matmul(x[0], x[1]); }},
      {"matmul transposed", [](const Inputs& x) { return matmul(x[1], x[0], true, true); }},
      {"linear", [](const Inputs& x) { return linear(x[0], x[1].transpose(0, 1), x[3], {}, true); }},
      {"sum", [](const Inputs& x) { return sum(x[0]); }},
      {"mean first", [](const Inputs& x) { return mean(x[0], 0); }},
      {"sum last", [](const Inputs& x) { return sum(x[0], 1, true); }},
      {"sum_to",
       [](const Inputs& x) {
         return sum_to(x[0], {1, 19});
       }},
      {"squared_error", [](const Inputs& x) { return squared_error(x[0], scale(x[0], 0.9), 0.25); }},
      {"row norms", [](const Inputs& x) { return row_squared_norms(x[0]); }},
      {"argmin", [](const Inputs& x) { return argmin_rows(x[0]); }},
      {"softmax", [](const Inputs& x) { return softmax(x[0]); }},
      {"log_softmax", [](const Inputs& x) { return log_softmax(x[0]); }},
      {"log_sum_exp", [](const Inputs& x) { return log_sum_exp(x[0]); }},
      {"concat",
       [](const Inputs& x) {
         return concat({x[0], scale(x[0], 2)}, 1);
       }},
      {"gather",
       [](const Inputs& x) {
         return gather_rows(x[0], from_vector<int32_t>({3, 0, 3}));
       }},
      {"scatter",
       [](const Inputs& x) {
         const Tensor out = x[0].clone();
         scatter_add_rows(out, from_vector<int32_t>({2, 0, 2}), x[0].slice(0, 3, 6));
         return out;
       }},
  };
  for (const Device device : test_devices())
    for (const DType dtype : {DType::f32, DType::f64}) {
      const Inputs here = {positive_values({7, 19}, 1, dtype), positive_values({19, 5}, 2, dtype),
                           positive_values({19}, 3, dtype), positive_values({5}, 4, dtype)};
      Inputs there;
      for (const Tensor& x : here) there.push_back(x.to(device));
      for (const auto& operation : operations) {
        CAPTURE(operation.first);
        const Tensor found = operation.second(there), expected = operation.second(here);
        CHECK(found.device() == device);
        CHECK(found.dtype() == expected.dtype());
        // Sums of at most 133 terms in another order, and other exponentials.
        CHECK(worst_difference(found, expected) <= (dtype == DType::f32 ? 5e-6 : 1e-14));
      }
      CHECK(same_bits(mean(ones({41, 2}, dtype, device), 0), ones({2}, dtype)));
      CHECK(sum_squared_difference(there[0], zeros_like(there[0])) ==
            doctest::Approx(sum_squared_difference(here[0], zeros_like(here[0]))).epsilon(1e-6));
    }
}

TEST_CASE("device: operands on different devices are an error that names both") {
  for (const Device device : test_devices()) {
    const Tensor here = ones({3, 3}), there = ones({3, 3}, DType::f32, device);
    const std::string both = "cpu and " + device.name();
    CHECK(contains(error_of([&] { add(here, there); }), "add: operands on different devices: " + both));
    CHECK(contains(error_of([&] { matmul(here, there); }), both));
    CHECK(contains(error_of([&] { linear(here, here, there.row(0)); }), both));
    CHECK(contains(error_of([&] { axpby(1, here, 1, there); }), both));
    CHECK(contains(error_of([&] { concat({here, there}, 0); }), both));
    CHECK(contains(error_of([&] { gather_rows(here, zeros({2}, DType::i32, device)); }), device.name()));
    CHECK(contains(error_of([&] { gather_rows(there, full({2}, 3, DType::i32)); }), "id 3"));
  }
}

TEST_CASE("device: files are written from there") {
  const TemporaryDirectory directory;
  for (const Device device : test_devices()) {
    const Tensor x = positive_values({5, 3}, 1), there = x.to(device);
    write_npy(directory.file("x.npy"), there.transpose(0, 1));
    CHECK(same_bits(read_npy(directory.file("x.npy")), x.transpose(0, 1).contiguous()));
    write_safetensors(directory.file("x.safetensors"), {{{"x", there}}, {}});
    CHECK(same_bits(read_safetensors(directory.file("x.safetensors")).tensors.at("x"), x));
  }
}

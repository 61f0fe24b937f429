// Work that is recorded once and queued often, against the same work queued kernel by kernel.
#include "kernels/recording.h"

#include <cmath>
#include <doctest/doctest.h>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "tests/kernels/harness.h"
#include "tests/support.h"

using namespace qinco;
using namespace qinco::kernels;
using qinco::kernels::tests::Data;
using qinco::tests::contains;
using qinco::tests::error_of;
using qinco::tests::test_devices;

namespace {

constexpr int64_t kSize = 1000;

/// n floats on a device.
class Floats {
 public:
  Floats(Device device, int64_t n) : device_(device), n_(n), data_(static_cast<float*>(allocate(device, bytes()))) {}
  ~Floats() { release(device_, data_, bytes()); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;

  float* data() const { return data_; }
  std::vector<float> here() const {
    std::vector<float> values(static_cast<size_t>(n_));
    copy_bytes({}, values.data(), device_, data_, bytes());
    return values;
  }

 protected:
  size_t bytes() const { return static_cast<size_t>(n_) * sizeof(float); }
  Device device_;
  int64_t n_;
  float* data_;
};

/// kSize floats of one value.
class Numbers : public Floats {
 public:
  explicit Numbers(Device device, float value = 0) : Floats(device, kSize) { fill(value); }

  void fill(float value) { table<float>(device_).fill(Context::of(device_), kSize, value, data_); }
  /// The value that all have; NaN where they differ.
  float value() const {
    const std::vector<float> values = here();
    for (const float x : values)
      if (x != values[0]) return std::nanf("");
    return values[0];
  }
};

/// n random floats.
class Values : public Floats {
 public:
  Values(Device device, int64_t n, uint32_t seed) : Floats(device, n) {
    const std::vector<float> drawn = Data(seed).normal(n);
    copy_bytes(device, data_, {}, drawn.data(), bytes());
  }
};

void add(Device device, const float* a, const float* b, float* out) {
  table<float>(device).binary(Context::of(device), BinaryOp::add, 1, kSize, {a, 0, 1}, {b, 0, 1}, out);
}

// out = 3 x + 1, by way of memory that is taken and given back twice, and of scratch memory.
void work_on(Device device, const float* x, float* out) {
  const Context& context = Context::of(device);
  {
    const Numbers twice(device);
    add(device, x, x, twice.data());
    ScratchFrame frame(context);
    float* const thrice = frame.get<float>(kSize);
    add(device, twice.data(), x, thrice);
    copy_bytes(device, out, device, thrice, kSize * sizeof(float));
  }
  const Numbers one(device, 1);
  add(device, out, one.data(), out);
}

}  // namespace

TEST_CASE("device: recorded work is done when it is queued, each time anew, on memory of its own") {
  for (const Device device : test_devices()) {
    Numbers x(device, 5), out(device, -1);
    work_on(device, x.data(), out.data());
    CHECK(out.value() == 16);
    out.fill(-1);
    Recording recording(device, [&] { work_on(device, x.data(), out.data()); });
    CHECK(out.value() == -1);
    recording.queue();
    CHECK(out.value() == 16);
    // What others take now is not what the recording took, nor what its scratch memory was.
    std::vector<std::unique_ptr<Numbers>> others;
    for (int i = 0; i < 20; ++i) others.push_back(std::make_unique<Numbers>(device, 7.0f));
    ScratchFrame frame(Context::of(device));
    float* const scratch = frame.get<float>(kSize);
    copy_bytes(device, scratch, device, others[0]->data(), kSize * sizeof(float));
    x.fill(100);
    recording.queue();
    x.fill(200);
    CHECK(out.value() == 301);
    for (const auto& other : others) CHECK(other->value() == 7);
    copy_bytes(device, others[0]->data(), device, scratch, kSize * sizeof(float));
    CHECK(others[0]->value() == 7);
    std::thread([&] { recording.queue(); }).join();
    CHECK(out.value() == 601);
  }
}

namespace {

// Every way that products take, and what sorts and selects.
void work_of_all_kinds(Device device, const std::vector<std::unique_ptr<Values>>& v, int32_t* ids, int32_t* found) {
  constexpr int64_t kRows = 64, kWide = 128;
  const Context& context = Context::of(device);
  const Table<float>& kernels = table<float>(device);
  const auto product = [&](int64_t m, int64_t n, int64_t k, float* out, bool epilogue) {
    Gemm<float> g;
    g.m = m, g.n = n, g.k = k;
    g.a = v[0]->data(), g.lda = k;
    g.b = v[1]->data(), g.ldb = k, g.trans_b = true;
    g.c = out, g.ldc = n;
    g.relu = epilogue;
    if (epilogue) g.bias = v[0]->data();
    kernels.gemm(context, g);
  };
  product(kRows, kRows, kWide, v[2]->data(), true);
  product(kRows, kRows + 1, 17, v[3]->data(), false);
  product(kRows, kRows + 1, 17, v[4]->data(), true);
  kernels.nearest(context, kRows, 16, kRows, v[0]->data(), v[1]->data(), ids, v[5]->data());
  kernels.scatter_add_rows(context, kRows, 2, 1200, ids, v[0]->data(), v[6]->data());
  kernels.topk(context, 4, 300, 5, v[1]->data(), found, v[7]->data());
}

}  // namespace

TEST_CASE("device: recorded kernels of all kinds give the bits of queued ones, also beside other threads' products") {
  for (const Device device : test_devices()) {
    const auto make = [&] {
      std::vector<std::unique_ptr<Values>> values;
      for (uint32_t i = 0; i < 8; ++i) values.push_back(std::make_unique<Values>(device, 64 * 128, i));
      return values;
    };
    const auto plain = make(), recorded = make();
    const Floats ids(device, 64), found(device, 20);
    const auto ids_of = [](const Floats& v) { return reinterpret_cast<int32_t*>(v.data()); };
    const auto work = [&](const auto& values) { work_of_all_kinds(device, values, ids_of(ids), ids_of(found)); };
    work(plain);
    Recording recording(device, [&] {
      std::thread([&] { work(make()); }).join();
      work(recorded);
      std::thread([&] { work(make()); }).join();
    });
    recording.queue();
    for (size_t i = 0; i < plain.size(); ++i) {
      CAPTURE(i);
      CHECK(recorded[i]->here() == plain[i]->here());
    }
    work(plain);
    recording.queue();
    CHECK(recorded[6]->here() == plain[6]->here());  // added once more
  }
}

TEST_CASE("device: memory of a recording that a later one's work gives back stays with both") {
  for (const Device device : test_devices()) {
    std::unique_ptr<Numbers> made;
    Numbers out(device);
    add(device, out.data(), out.data(), out.data());  // what comes first needs memory of its own
    auto first = std::make_unique<Recording>(device, [&] { made = std::make_unique<Numbers>(device, 3); });
    const float* const was = made->data();
    Recording second(device, [&] {
      add(device, made->data(), made->data(), out.data());
      made.reset();
    });
    first->queue();
    second.queue();
    CHECK(out.value() == 6);
    first.reset();
    std::vector<std::unique_ptr<Numbers>> others;
    for (int i = 0; i < 20; ++i) {
      others.push_back(std::make_unique<Numbers>(device, 7));
      CHECK(others.back()->data() != was);
    }
    out.fill(0);
    second.queue();
    CHECK(out.value() == 6);
  }
}

TEST_CASE("device: memory that outlives a recording is like any other") {
  for (const Device device : test_devices()) {
    std::unique_ptr<Numbers> made, dropped, had = std::make_unique<Numbers>(device, 2);
    const float* const was = had->data();
    {
      Recording recording(device, [&] {
        dropped = std::make_unique<Numbers>(device, 3);
        made = std::make_unique<Numbers>(device);
        add(device, dropped->data(), had->data(), made->data());
        had.reset();  // the recording may read it as long as it lives
      });
      const float* const written = dropped->data();
      dropped.reset();
      std::vector<std::unique_ptr<Numbers>> others;
      for (int i = 0; i < 20; ++i) {
        others.push_back(std::make_unique<Numbers>(device, 7));
        CHECK(others.back()->data() != was);
        CHECK(others.back()->data() != written);
      }
      recording.queue();
      CHECK(made->value() == 5);
      recording.queue();
      CHECK(made->value() == 5);
    }
    CHECK(made->value() == 5);
    made->fill(8);
    const Numbers other(device, 9);
    CHECK(made->value() == 8);
  }
}

TEST_CASE("device: other threads are not recorded") {
  for (const Device device : test_devices()) {
    Numbers mine(device), theirs(device);
    Recording recording(device, [&] {
      mine.fill(1);
      std::thread([&] {
        theirs.fill(2);
        CHECK(theirs.value() == 2);
      }).join();
    });
    theirs.fill(3);
    recording.queue();
    CHECK(mine.value() == 1);
    CHECK(theirs.value() == 3);
  }
}

TEST_CASE("device: what cannot be recorded is an error, after which all works") {
  CHECK(contains(error_of([] { const Recording r({}, [] {}); }), "expected a CUDA device, found cpu"));
  for (const Device device : test_devices()) {
    Numbers x(device, 1);
    float here = 0;
    const std::vector<std::function<void()>> wrong = {
        [&] { copy_bytes({}, &here, device, x.data(), sizeof here); },
        [&] { copy_bytes(device, x.data(), {}, &here, sizeof here); },
        [&] { synchronize(device); },
        [&] { const Recording inner(device, [] {}); },
        [&] { fail("its own"); },
    };
    for (size_t i = 0; i < wrong.size(); ++i) {
      const std::string expected = i < 3 ? "cannot be recorded" : i == 3 ? "records already" : "its own";
      CHECK(contains(error_of([&] {
                       const Recording recording(device, [&] {
                         x.fill(2);
                         wrong[i]();
                       });
                     }),
                     expected));
      CHECK(x.value() == 1);
    }
    Recording recording(device, [&] { x.fill(4); });
    recording.queue();
    CHECK(x.value() == 4);
  }
}

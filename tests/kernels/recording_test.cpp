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
#include "tests/support.h"

using namespace qinco;
using namespace qinco::kernels;

namespace {

constexpr int64_t kSize = 1000;

/// kSize floats on a device.
class Numbers {
 public:
  explicit Numbers(Device device, float value = 0) : device_(device) {
    data_ = static_cast<float*>(allocate(device, kBytes));
    fill(value);
  }
  ~Numbers() { release(device_, data_, kBytes); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;

  float* data() const { return data_; }
  void fill(float value) { table<float>(device_).fill(Context::of(device_), kSize, value, data_); }
  /// The value that all have; NaN where they differ.
  float value() const {
    std::vector<float> here(kSize);
    copy_bytes({}, here.data(), device_, data_, kBytes);
    for (const float x : here)
      if (x != here[0]) return std::nanf("");
    return here[0];
  }

 private:
  static constexpr size_t kBytes = kSize * sizeof(float);
  Device device_;
  float* data_;
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
  for (const Device device : tests::test_devices()) {
    Numbers x(device, 5), out(device, -1);
    work_on(device, x.data(), out.data());
    CHECK(out.value() == 16);
    out.fill(-1);
    const Recording recording(device, [&] { work_on(device, x.data(), out.data()); });
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

TEST_CASE("device: memory that outlives a recording is like any other") {
  for (const Device device : tests::test_devices()) {
    std::unique_ptr<Numbers> made, dropped, had = std::make_unique<Numbers>(device, 2);
    const float* const was = had->data();
    {
      const Recording recording(device, [&] {
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
  for (const Device device : tests::test_devices()) {
    Numbers mine(device), theirs(device);
    const Recording recording(device, [&] {
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
  CHECK(tests::contains(tests::error_of([] { const Recording r({}, [] {}); }), "expected a CUDA device, found cpu"));
  for (const Device device : tests::test_devices()) {
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
      CHECK(tests::contains(tests::error_of([&] {
                              const Recording recording(device, [&] {
                                x.fill(2);
                                wrong[i]();
                              });
                            }),
                            expected));
      CHECK(x.value() == 1);
    }
    const Recording recording(device, [&] { x.fill(4); });
    recording.queue();
    CHECK(x.value() == 4);
  }
}

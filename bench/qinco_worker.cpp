// bin/bench_qinco_worker: our side of bench/peers/*.py; answers the requests that peers/worker.py describes.
#include <CLI/CLI.hpp>
#include <chrono>
#include <exception>
#include <fmt/format.h>
#include <iostream>
#include <memory>
#include <sstream>

#include "apps/qinco/beam.h"
#include "apps/qinco/precision.h"
#include "bench/peak.h"
#include "kernels/check.h"
#include "qinco/codec/codec.h"
#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/training/trainer.h"
#include "tensor/create.h"
#include "tensor/file.h"
#include "tensor/ops.h"

namespace {

using namespace qinco;

template <class Work>
std::string seconds(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return fmt::format("{}", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

class Worker {
 public:
  /// The data is repeated up to `rows` rows, if that is not 0.
  Worker(const std::string& model, const std::string& data, const std::string& codes, int64_t rows,
         kernels::Precision precision, const app::BeamOptions& beam, Device device)
      : model_(load_on(model, device)),
        codec_(model_, precision, device, beam.search(model_.config().K)),
        trainer_(model_, 1e-3, precision, codec_.beam()),
        x_(read_all(data)) {
    if (!codes.empty()) read_codes(codes);
    training_x_ = x_.to(device);
    if (rows == 0) return;
    std::vector<Tensor> copies(static_cast<size_t>((rows + x_.size(0) - 1) / x_.size(0)), x_);
    x_ = concat(copies, 0).slice(0, 0, rows);
    const auto values = static_cast<size_t>(rows * model_.config().M);
    for (size_t i = 0; !codes_.empty() && codes_.size() < values; ++i) codes_.push_back(codes_[i]);
  }

  /// The answer to one request line.
  std::string answer(const std::string& line) {
    std::istringstream words(line);
    std::string command, file;
    int64_t n = 0, batch = 0;
    words >> command >> n;
    if (command == "encode") return seconds([&] { encode(n); });
    if (command == "decode") return seconds([&] { decode(n); });
    if (command == "train" && words >> batch) return seconds([&] { train(n, batch); });
    if (command == "codes" && words >> file) {
      const std::vector<int32_t> codes = encode(n);
      write_file(file, {reinterpret_cast<const char*>(codes.data()), codes.size() * sizeof(int32_t)});
      return "ok";
    }
    if (command == "decoded" && words >> file) {
      const std::unique_ptr<float[]> x = decode(n);
      const auto values = static_cast<size_t>(n * model_.config().d);
      for (size_t i = 0; i < values; ++i) x[i] /= model_.config().db_scale;
      write_file(file, {reinterpret_cast<const char*>(x.get()), values * sizeof(float)});
      return "ok";
    }
    if (command == "peak")  // n threads' GFLOP/s in products
      return fmt::format("{}", bench::measure_product_peak_gflops(kernels::active_isa(), static_cast<int>(n)));
    return "unknown request " + line;
  }

 private:
  static Qinco load_on(const std::string& path, Device device) {
    Qinco model = load_model(path);
    model.to(device);
    return model;
  }

  void read_codes(const std::string& path) {
    const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
    codes_.resize(static_cast<size_t>(file->size()) / sizeof(int32_t));
    std::copy_n(reinterpret_cast<const int32_t*>(file->data()), codes_.size(), codes_.begin());
  }

  std::vector<int32_t> encode(int64_t n) {
    check(n <= x_.size(0), "{} vectors asked for, {} there", n, x_.size(0));
    std::vector<int32_t> codes(static_cast<size_t>(n * model_.config().M));
    codec_.encode(n, x_.data<float>(), codes.data());
    return codes;
  }

  std::unique_ptr<float[]> decode(int64_t n) {
    const QincoConfig& config = model_.config();
    check(n * config.M <= static_cast<int64_t>(codes_.size()), "{} codes asked for, too few there", n);
    auto x = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(n * config.d));
    codec_.decode(n, codes_.data(), config.M, config.M, x.get());
    return x;
  }

  void train(int64_t steps, int64_t batch) {
    for (int64_t i = 0; i < steps; ++i) {
      if (position_ + batch > training_x_.size(0)) position_ = 0;
      trainer_.queue_step(training_x_.slice(0, position_, position_ + batch));
      position_ += batch;
    }
    kernels::synchronize(model_.device());
    check(trainer_.recording_error().empty(), "batches could not be recorded: {}", trainer_.recording_error());
  }

  Qinco model_;
  Codec codec_;
  BatchTrainer trainer_;
  Tensor x_;                    // [n,d], original space
  Tensor training_x_;           // those of the file, on the device
  std::vector<int32_t> codes_;  // [n,M], to be decoded
  int64_t position_ = 0;        // the next training row
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App program("Encodes, decodes and trains on request, for bench/peers/compare.py.");
  std::string model, data, codes, device = "cpu";
  int64_t rows = 0;
  int threads = 1;
  kernels::Precision precision = kernels::Precision::exact;
  program.add_option("--model", model)->required();
  program.add_option("--data", data)->required();
  program.add_option("--codes", codes);
  program.add_option("--rows", rows);
  program.add_option("--device", device);
  program.add_option("--threads", threads)->required();
  app::BeamOptions beam;
  app::add_precision_option(program, precision);
  app::add_beam_options(program, beam);
  CLI11_PARSE(program, argc, argv);
  try {
    kernels::set_default_threads(threads);
    const Device on = Device::parse(device);
    kernels::check_device(on);
    Worker worker(model, data, codes, rows, precision, beam, on);
    std::cout << "ready QINCo (" << kernels::device_description(on) << ")" << std::endl;
    for (std::string line; std::getline(std::cin, line);) std::cout << worker.answer(line) << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "bench_qinco_worker: " << error.what() << "\n";
    return 1;
  }
  return 0;
}

// Trains a multi-layer perceptron to tell ten kinds of clothing apart on 28 x 28 pictures: Fashion-MNIST (Xiao, Rasul,
// Vollgraf 2017). What a program with this engine looks like: read data, define a module, train, evaluate, save.
//
//     apt install dataset-fashion-mnist && build/bin/fashion_mnist
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fmt/core.h>
#include <memory>
#include <string>
#include <vector>
#include <zlib.h>

#include "autograd/nn/layers.h"
#include "autograd/optim/optimizer.h"
#include "autograd/optim/schedule.h"
#include "kernels/context.h"
#include "tensor/create.h"
#include "tensor/ops.h"

using namespace qinco;
using autograd::Variable;

namespace {

struct Options {
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::string model;
  int64_t epochs = 12;
  int64_t batch_size = 128;
  double lr = 2e-3;
  uint64_t seed = 1;
  int threads = 0;
};

/// Pictures as rows of 784 values in 0..1, and their classes 0..9.
struct Dataset {
  Tensor pictures;  // f32 [n,784]
  Tensor labels;    // i32 [n]
};

/// Reads an IDX file, gzipped or not: two zero bytes, a type (8: u8), the number of dimensions, their sizes (big-endian
/// 32-bit), the values. Throws Error naming the file.
Tensor read_idx(const std::string& path) {
  using File = std::unique_ptr<gzFile_s, int (*)(gzFile)>;
  const File file(gzopen(path.c_str(), "rb"), &gzclose);
  check(file != nullptr, "{}: cannot open (Debian's package dataset-fashion-mnist has it; or use --data)", path);
  const auto read = [&](void* into, size_t bytes) {
    const int got = gzread(file.get(), into, static_cast<unsigned>(bytes));
    check(got == static_cast<int>(bytes), "{}: truncated or damaged: expected {} more bytes, found {}", path, bytes,
          got);
  };
  unsigned char magic[4];
  read(magic, sizeof magic);
  check(magic[0] == 0 && magic[1] == 0 && magic[2] == 8 && 1 <= magic[3] && magic[3] <= 3,
        "{}: expected an IDX file of bytes with 1 to 3 dimensions", path);
  Shape shape;
  for (int i = 0; i < magic[3]; ++i) {
    unsigned char size[4];
    read(size, sizeof size);
    shape.push_back((int64_t{size[0]} << 24) | (size[1] << 16) | (size[2] << 8) | size[3]);
  }
  check(shape.numel() <= int64_t{1} << 30, "{}: expected at most 2^30 values, found shape {}", path, shape);
  const Tensor values = Tensor::empty(shape, DType::u8);
  read(values.bytes(), static_cast<size_t>(values.numel()));
  return values;
}

Dataset read_dataset(const std::string& directory, const std::string& name) {
  const Tensor pictures = read_idx(directory + "/" + name + "-images-idx3-ubyte.gz");
  const Tensor labels = read_idx(directory + "/" + name + "-labels-idx1-ubyte.gz");
  check(pictures.dim() == 3 && labels.shape() == Shape{pictures.size(0)},
        "{}: expected as many {} labels as pictures, found {} and {}", directory, name, labels.shape(),
        pictures.shape());
  return {scale(pictures.to(DType::f32), 1.0 / 255).reshape({pictures.size(0), -1}), labels.to(DType::i32)};
}

/// 784 -> 256 -> 128 -> 10 scores.
struct Classifier : nn::Module {
  explicit Classifier(Random& random)
      : layers(register_module(
            "layers", nn::Sequential(nn::Linear(784, 256, random), nn::ReLU(), nn::Linear(256, 128, random), nn::ReLU(),
                                     nn::Linear(128, 10, random)))) {}
  Variable operator()(const Tensor& pictures) { return layers(pictures); }

  nn::Sequential& layers;
};

/// The share of pictures whose highest score is their label's.
double accuracy(Classifier& model, const Dataset& data) {
  const autograd::NoGrad no_grad;
  const Tensor guesses = argmax_rows(model(data.pictures).value());
  const int32_t* const guess = guesses.data<int32_t>();
  const int32_t* const label = data.labels.data<int32_t>();
  const int64_t n = guesses.numel();
  int64_t right = 0;
  for (int64_t i = 0; i < n; ++i) right += guess[i] == label[i];
  return static_cast<double>(right) / static_cast<double>(n);
}

/// One pass over the data in a new random order; returns the mean loss.
double train_epoch(Classifier& model, const Dataset& data, const Options& options, Random& random,
                   optim::Optimizer& optimizer, optim::CosineSchedule& schedule) {
  const int64_t n = data.labels.numel();
  const Tensor order = from_vector(random.permutation(n));
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += options.batch_size) {
    const Tensor ids = order.slice(0, begin, std::min(begin + options.batch_size, n));
    const Tensor targets = gather_rows(data.labels, ids);
    optimizer.set_lr(schedule.lr());
    optimizer.zero_grad();
    const Variable loss = autograd::cross_entropy(model(gather_rows(data.pictures, ids)), targets);
    loss.backward();
    optimizer.step();
    schedule.step();
    total += loss.item() * static_cast<double>(ids.numel());
  }
  return total / static_cast<double>(n);
}

void run(const Options& options) {
  const Dataset train = read_dataset(options.data, "train"), test = read_dataset(options.data, "t10k");
  Random random(options.seed);
  Classifier model(random);
  fmt::print("{} training and {} test pictures, {} parameters, {} threads\n", train.labels.numel(), test.labels.numel(),
             model.parameter_count(), kernels::default_threads());
  optim::Adam adam(model.parameters(), {.lr = options.lr});
  const int64_t batches = (train.labels.numel() + options.batch_size - 1) / options.batch_size;
  optim::CosineSchedule schedule(options.lr, {.steps = options.epochs * batches});

  const auto start = std::chrono::steady_clock::now();
  for (int64_t epoch = 1; epoch <= options.epochs; ++epoch) {
    const double loss = train_epoch(model, train, options, random, adam, schedule);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    fmt::print("epoch {:2}  loss {:.4f}  test accuracy {:.2f}%  {:.1f} s\n", epoch, loss, 100 * accuracy(model, test),
               seconds.count());
    std::fflush(stdout);
  }
  if (!options.model.empty()) nn::save(model, options.model);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a classifier on Fashion-MNIST.");
  app.add_option("--data", options.data, "Directory of the four IDX files")->capture_default_str();
  app.add_option("--model", options.model, "Save the trained parameters here (safetensors)");
  app.add_option("--epochs", options.epochs)->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--batch-size", options.batch_size)->check(CLI::Range(1, 60000))->capture_default_str();
  app.add_option("--lr", options.lr, "Adam's first learning rate; it falls to 0 along a cosine")->capture_default_str();
  app.add_option("--seed", options.seed)->capture_default_str();
  app.add_option("--threads", options.threads, "0: all cores")->check(CLI::Range(0, 4096))->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    if (options.threads > 0) kernels::set_default_threads(options.threads);
    run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "fashion_mnist: {}\n", error.what());
    return 1;
  }
}

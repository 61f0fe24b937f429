// Product quantizers: against plain definitions, and their quality on real data.
#include "qinco/quantizers/pq.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/kernels.h"
#include "qinco/io/vectors.h"
#include "qinco/quantizers/linear_algebra.h"
#include "tensor/create.h"
#include "tensor/ops.h"
#include "tensor/random.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

namespace qinco {
namespace {

using kernels::Context;
using tests::contains;
using tests::error_of;
using tests::normal_vectors;
using tests::same_bits;
using tests::TemporaryDirectory;
using tests::worst_difference;

std::vector<int32_t> encode(const ProductQuantizer& pq, const Tensor& x) {
  std::vector<int32_t> codes(static_cast<size_t>(x.size(0) * pq.M()));
  pq.encode(Context::cpu(), x.size(0), x.data<float>(), codes.data());
  return codes;
}

Tensor decode(const ProductQuantizer& pq, const std::vector<int32_t>& codes) {
  const auto n = static_cast<int64_t>(codes.size()) / pq.M();
  const Tensor x = Tensor::empty({n, pq.d()});
  pq.decode(Context::cpu(), n, codes.data(), x.data<float>());
  return x;
}

double mse(const ProductQuantizer& pq, const Tensor& x) {
  return sum_squared_difference(x, decode(pq, encode(pq, x))) / static_cast<double>(x.size(0));
}

Tensor identity(int64_t d) {
  const Tensor x = zeros({d, d});
  for (int64_t i = 0; i < d; ++i) x.data<float>()[i * d + i] = 1;
  return x;
}

Tensor random_rotation(int64_t d, uint64_t seed) {
  return procrustes(normal_vectors(d, d, seed));
}

TEST_CASE("procrustes: the rotation behind two sets is found, and is orthogonal") {
  const int64_t d = 12, n = 50;
  const Tensor A = random_rotation(d, 1), x = normal_vectors(n, d, 2), y = Tensor::empty({n, d});
  CHECK(worst_difference(matmul(A, A, false, true), identity(d)) < 1e-6);
  rotate(Context::cpu(), A, n, x.data<float>(), y.data<float>());
  CHECK(worst_difference(procrustes(matmul(x, y, true)), A) < 1e-5);
  const Tensor back = Tensor::empty({n, d});
  rotate_back(Context::cpu(), A, n, y.data<float>(), back.data<float>());
  CHECK(worst_difference(back, x) < 1e-6);
}

double trace(const Tensor& x) {
  double sum = 0;
  for (int64_t i = 0; i < x.size(0); ++i) sum += x.row(i).data<float>()[i];
  return sum;
}

TEST_CASE(
    "procrustes: orthogonal and as good as can be, also where data hardly vary in some directions, or not at all") {
  constexpr int64_t d = 24;
  const Tensor u = random_rotation(d, 1), v = random_rotation(d, 2);
  for (const double smallest : {0.1, 1e-4, 1e-12, 0.0}) {
    CAPTURE(smallest);
    const Tensor scaled = u.clone();  // U S, half of S being small
    double sum = 0;
    for (int64_t i = 0; i < d; ++i) {
      const double s = (i % 2 == 0 ? 1 : smallest) * static_cast<double>(i + 1);
      for (int64_t row = 0; row < d; ++row) scaled.data<float>()[row * d + i] *= static_cast<float>(s);
      sum += s;
    }
    const Tensor cross = matmul(scaled, v, false, true), A = procrustes(cross);
    CHECK(worst_difference(matmul(A, A, false, true), identity(d)) < 1e-6);
    CHECK(trace(matmul(A, cross)) == doctest::Approx(sum).epsilon(1e-6));  // no orthogonal A reaches more
  }
  const Tensor one = Tensor::empty({d, d});  // a b^T, exactly: nothing but rounding in the directions but one
  double a_squared = 0, b_squared = 0;
  for (int64_t i = 0; i < d; ++i) {
    a_squared += static_cast<double>((i % 5 - 2) * (i % 5 - 2));
    b_squared += static_cast<double>((i % 7 + 1) * (i % 7 + 1));
    for (int64_t j = 0; j < d; ++j) one.data<float>()[i * d + j] = static_cast<float>((i % 5 - 2) * (j % 7 + 1));
  }
  const Tensor turned = procrustes(one);
  CHECK(worst_difference(matmul(turned, turned, false, true), identity(d)) < 1e-6);
  CHECK(trace(matmul(turned, one)) == doctest::Approx(std::sqrt(a_squared * b_squared)).epsilon(1e-6));

  const Tensor any = procrustes(zeros({d, d}));
  CHECK(worst_difference(matmul(any, any, false, true), identity(d)) < 1e-6);
  one.data<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(error_of([&] { procrustes(one); }), "NaN"));
}

TEST_CASE("PQ: codes are the nearest codewords of each block, decoding puts them side by side") {
  const int64_t M = 3, K = 8, width = 5, n = 70, d = M * width;
  Random random(3);
  ProductQuantizer pq{Tensor::empty({M, K, width}), {}};
  const Tensor x = Tensor::empty({n, d});  // integers: every distance is exact
  for (const Tensor& t : {pq.codebooks, x})
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(random.below(9)) - 4;
  const std::vector<int32_t> codes = encode(pq, x);
  const Tensor decoded = decode(pq, codes);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t m = 0; m < M; ++m) {
      const float* const block = x.data<float>() + i * d + m * width;
      std::vector<float> distances;
      for (int64_t k = 0; k < K; ++k) {
        const float* const c = pq.codebooks.data<float>() + (m * K + k) * width;
        float sum = 0;
        for (int64_t j = 0; j < width; ++j) sum += (block[j] - c[j]) * (block[j] - c[j]);
        distances.push_back(sum);
      }
      const int32_t code = codes[static_cast<size_t>(i * M + m)];
      CHECK(code == std::min_element(distances.begin(), distances.end()) - distances.begin());
      const float* const c = pq.codebooks.data<float>() + (m * K + code) * width;
      CHECK(std::equal(c, c + width, decoded.data<float>() + i * d + m * width));
    }
  }
}

TEST_CASE("PQ: a rotation encodes x A^T and decodes to the space of x") {
  const int64_t n = 5000, d = 8;  // more than one block of rows
  const Tensor x = normal_vectors(n, d, 4), rotated = Tensor::empty({n, d}), expected = Tensor::empty({n, d});
  PqOptions options;
  options.iterations = 3;
  ProductQuantizer plain = train_pq(Context::cpu(), n, d, x.data<float>(), 2, 16, options);
  ProductQuantizer turned = plain;
  turned.rotation = random_rotation(d, 5);
  rotate(Context::cpu(), turned.rotation, n, x.data<float>(), rotated.data<float>());
  const std::vector<int32_t> codes = encode(turned, x);
  CHECK(codes == encode(plain, rotated));
  rotate_back(Context::cpu(), turned.rotation, n, decode(plain, codes).data<float>(), expected.data<float>());
  CHECK(worst_difference(decode(turned, codes), expected) < 1e-6);
}

TEST_CASE("PQ: codebooks and rotations of any strides are what they look like, codes out of range are refused") {
  const Tensor rotation = random_rotation(6, 7), x = normal_vectors(9, 6, 8);
  const Tensor some = normal_vectors(2 * 8, 3, 9).reshape({2, 8, 3}).slice(1, 0, 4);
  const ProductQuantizer strided{some, rotation.transpose(0, 1)};
  const ProductQuantizer plain{some.contiguous(), rotation.transpose(0, 1).contiguous()};
  const std::vector<int32_t> codes = encode(plain, x);
  CHECK(encode(strided, x) == codes);
  CHECK(same_bits(decode(strided, codes), decode(plain, codes)));
  CHECK(contains(error_of([&] { decode(plain, {0, 3, 4, 0}); }), "decode: row 1: expected codes in [0,4), found 4"));
  CHECK(worst_difference(procrustes(rotation.transpose(0, 1)), rotation) < 1e-5);
  CHECK(contains(error_of([&] { procrustes(x); }), "expected a square matrix, found [9,6]"));
}

TEST_CASE("OPQ: undoes a rotation that hides the blocks") {
  // Two blocks, each on 16 points far apart: PQ 2x16 is nearly exact, until the blocks are mixed.
  const int64_t n = 2000, d = 8;
  const Tensor centers = normal_vectors(32, 4, 6), x = normal_vectors(n, d, 7), mixed = Tensor::empty({n, d});
  Random random(8);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t m = 0; m < 2; ++m) {
      const float* const center = centers.data<float>() + (m * 16 + static_cast<int64_t>(random.below(16))) * 4;
      float* const block = x.data<float>() + i * d + m * 4;
      for (int64_t j = 0; j < 4; ++j) block[j] = 0.02f * block[j] + center[j];
    }
  rotate(Context::cpu(), random_rotation(d, 9), n, x.data<float>(), mixed.data<float>());
  const double pq = mse(train_pq(Context::cpu(), n, d, mixed.data<float>(), 2, 16), mixed);
  const ProductQuantizer opq = train_opq(Context::cpu(), n, d, mixed.data<float>(), 2, 16);
  CHECK(mse(opq, mixed) < 0.8 * pq);
  CHECK(worst_difference(matmul(opq.rotation, opq.rotation, false, true), identity(d)) < 1e-5);
}

TEST_CASE("PQ and OPQ: the same bits at any thread count, and steps are counted to the end") {
  const int64_t n = 3000, d = 12;
  const Tensor x = normal_vectors(n, d, 10);
  Context one = Context::cpu(), three = Context::cpu();
  one.threads = 1;
  three.threads = 3;
  PqOptions options;
  options.opq_iterations = 4;
  std::vector<int64_t> steps;
  options.on_step = [&](int64_t done, int64_t total) {
    steps.push_back(done);
    CHECK(total == 7);
  };
  const ProductQuantizer a = train_opq(one, n, d, x.data<float>(), 3, 16, options);
  CHECK(steps == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7});
  const ProductQuantizer b = train_opq(three, n, d, x.data<float>(), 3, 16, options);
  CHECK(same_bits(a.codebooks, b.codebooks));
  CHECK(same_bits(a.rotation, b.rotation));
}

TEST_CASE("PQ: a limit of points that is no limit, times K beyond 64 bits, leaves all") {
  const Tensor x = normal_vectors(500, 4, 5);
  const auto trained = [&](int64_t limit) {
    PqOptions options;
    options.max_points_per_centroid = limit;
    return train_pq(Context::cpu(), 500, 4, x.data<float>(), 2, 8, options).codebooks;
  };
  CHECK(same_bits(trained((int64_t{1} << 61) + 1), trained(0)));
}

TEST_CASE("PQ and OPQ on real data: within 1% of Faiss's error") {
  constexpr double kFaissPq = 35452.5, kFaissOpq = 37864.8;  // Faiss 1.15: tests/golden/quantizers_faiss.py
  const std::string folder = QINCO_SOURCE_DIR "/data/sift-sample/";
  const Tensor learn = read_rows(folder + "learn.bvecs", 0, 4000), base = read_rows(folder + "base.bvecs", 0, 2000);
  PqOptions options;
  options.opq_iterations = 8;
  const double pq = mse(train_pq(Context::cpu(), 4000, 128, learn.data<float>(), 16, 16, options), base);
  const double opq = mse(train_opq(Context::cpu(), 4000, 128, learn.data<float>(), 16, 16, options), base);
  CHECK(pq < 1.01 * kFaissPq);
  CHECK(opq < 1.01 * kFaissOpq);
  CHECK(opq < 0.97 * pq);  // from a random rotation, as in Faiss, OPQ ends above PQ here
}

TEST_CASE("PQ files: what is written is read back, and anything else is refused") {
  const TemporaryDirectory directory;
  const std::string path = directory.file("pq.safetensors");
  const Tensor x = normal_vectors(100, 6, 11);
  PqOptions options;
  options.opq_iterations = 2;
  const ProductQuantizer pq = train_opq(Context::cpu(), 100, 6, x.data<float>(), 2, 4, options);
  save_pq(path, pq);
  const ProductQuantizer loaded = load_pq(path);
  CHECK(same_bits(loaded.codebooks, pq.codebooks));
  CHECK(same_bits(loaded.rotation, pq.rotation));
  const auto message = [&](const SafetensorsFile& file) {
    write_safetensors(path, file);
    return error_of([&] { load_pq(path); });
  };
  CHECK(contains(message({{{"codebooks", pq.codebooks}}, {{"format", "rq"}}}), "metadata format is rq, expected pq"));
  CHECK(contains(message({{}, {{"format", "pq"}}}), "no tensor `codebooks`"));
  CHECK(contains(message({{{"codebooks", zeros({2, 3, 3})}}, {{"format", "pq"}}}), "[2,3,3]"));
  CHECK(contains(message({{{"codebooks", full({2, 4, 3}, NAN)}}, {{"format", "pq"}}}), "NaN"));
  CHECK(contains(message({{{"codebooks", pq.codebooks}, {"opq_matrix", identity(5)}}, {{"format", "pq"}}}),
                 "`opq_matrix` is [5,5], expected [6,6]"));
}

TEST_CASE("PQ: bad sizes are refused") {
  const Tensor x = normal_vectors(20, 6, 12);
  const auto message = [&](int64_t M, int64_t K) {
    return error_of([&] { train_pq(Context::cpu(), 20, 6, x.data<float>(), M, K); });
  };
  CHECK(contains(message(4, 4), "d = 6 is not a multiple of M = 4"));
  CHECK(contains(message(2, 5), "K = 5"));
  CHECK(contains(message(2, 32), "32 codewords need at least as many training vectors, found 20"));
  CHECK(contains(message(0, 4), "M = 0"));
}

}  // namespace
}  // namespace qinco

#include "qinco/search/ivf_coder.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "qinco/quantizers/checks.h"
#include "qinco/search/hnsw.h"
#include "qinco/search/ivf_file.h"
#include "qinco/search/ivf_layout.h"
#include "qinco/search/ivf_lock.h"
#include "tensor/ops.h"

namespace qinco {
namespace {

constexpr int64_t kRows = 4096;  // vectors worked on together

uint64_t fingerprint_of(const Qinco& model) {
  std::vector<uint64_t> sums;
  for (const auto& [name, tensor] : model.state()) {
    sums.push_back(ivf_layout::checksum(name.data(), static_cast<int64_t>(name.size())));
    sums.push_back(ivf_layout::checksum(tensor.bytes(), tensor.numel() * static_cast<int64_t>(sizeof(float))));
  }
  const float scale = model.config().db_scale;
  sums.push_back(ivf_layout::checksum(&scale, sizeof(scale)));
  return ivf_layout::checksum(sums.data(), static_cast<int64_t>(sums.size() * sizeof(uint64_t)));
}

/// Before anything is made for so many codes.
int64_t checked_M_kept(std::optional<int64_t> M_kept, int64_t M) {
  check(!M_kept || *M_kept <= M, "index: {} codes a vector, the model has {}", M_kept.value_or(M), M);
  return M_kept.value_or(M);
}

/// The lock under which an empty index takes the place of the file at `path`, if there is one; a damaged index may hold
/// entries, and is not replaced.
std::unique_ptr<IvfLock> lock_output(const std::string& path) {
  std::unique_ptr<IvfLock> lock = lock_replaced(path, "build");
  if (!lock || !IvfFile::is_index(path)) return lock;
  const int64_t n = IvfFile::open(path).size();
  check(n == 0, "{}: cannot build: an index of {} vectors is there, which would be lost: remove it first", path, n);
  return lock;
}

}  // namespace

IvfCoder::IvfCoder(const Qinco& model, kernels::Precision precision, Device device, const BeamSearch& beam)
    : codec_(model, precision, device, beam), fingerprint_(fingerprint_of(model)) {
  const QincoConfig& config = model.config();
  check(config.K_ivf > 0, "index: a model of variant {}, expected ivf-qinco", config.variant());
  check(config.K <= 256, "index: K = {}, expected at most 256", config.K);
  centroids_ = scale(model.codebook(0).value().to(Device{}), static_cast<double>(config.db_scale));
}

std::shared_ptr<const IvfCoder> given_coder(std::shared_ptr<const IvfCoder> coder) {
  check(coder != nullptr, "index: no coder given");
  return coder;
}

void check_codes(const QincoConfig& config, int64_t n, const int32_t* codes, int64_t entries) {
  check_whole_codes("index", n, entries, config.K_ivf, config.K, codes, entries);
}

void split_codes(int64_t entries, int64_t M_kept, int64_t n, const int32_t* codes, int32_t* lists, int32_t* within) {
  for (int64_t i = 0; i < n; ++i, codes += entries) {
    lists[i] = codes[0];
    within = std::copy_n(codes + 1, M_kept, within);
  }
}

void residual_norms(const IvfCoder& coder, const Tensor& codebooks, int64_t n, const int32_t* lists,
                    const int32_t* within, float* norms) {
  const kernels::Context& context = kernels::Context::cpu();
  const int64_t M = codebooks.size(0), d = codebooks.size(2);
  std::vector<float> residuals(static_cast<size_t>(std::min(n, kRows) * d));
  for (int64_t begin = 0; begin < n; begin += kRows) {
    const int64_t count = std::min(kRows, n - begin);
    additive_decode(context, codebooks, count, within + begin * M, M, M, residuals.data());
    kernels::parallel_for(context, count, 64, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        const float* const c = coder.centroids().data<float>() + lists[begin + i] * d;
        const float* const r = residuals.data() + i * d;
        float sum = 0;
        for (int64_t j = 0; j < d; ++j) sum += (2 * c[j] + r[j]) * r[j];
        norms[begin + i] = sum;
      }
    });
  }
}

IvfBuilder::IvfBuilder(std::shared_ptr<const IvfCoder> coder, std::optional<int64_t> M_kept)
    : coder_(given_coder(std::move(coder))),
      M_kept_(checked_M_kept(M_kept, coder_->config().M)),
      fit_(M_kept_, coder_->config().K, coder_->config().d) {}

void IvfBuilder::add(int64_t n, const float* x, const int32_t* codes) {
  check(!codebooks_.defined(), "index: vectors to fit to come before what is fitted is written");
  const QincoConfig& config = coder_->config();
  const kernels::Context& context = kernels::Context::cpu();
  const int64_t d = config.d, entries = codes ? config.codes() : M_kept_ + 1, rows = std::min(n, kRows);
  check_finite("index", n, d, x);
  if (codes) check_codes(config, n, codes, entries);  // all, before any are taken in
  std::vector<int32_t> coded(static_cast<size_t>(rows * entries));
  std::vector<float> residuals(static_cast<size_t>(rows * d));
  for (int64_t begin = 0; begin < n; begin += kRows) {
    const int64_t count = std::min(kRows, n - begin), before = static_cast<int64_t>(lists_.size());
    const float* const block = x + begin * d;
    if (!codes) coder_->codec().encode(count, block, coded.data(), nullptr, nullptr, entries);
    lists_.resize(static_cast<size_t>(before + count));
    within_.resize(static_cast<size_t>((before + count) * M_kept_));
    int32_t *const lists = lists_.data() + before, *const within = within_.data() + before * M_kept_;
    split_codes(entries, M_kept_, count, codes ? codes + begin * entries : coded.data(), lists, within);
    kernels::table<float>().gather_rows(context, count, d, coder_->centroids().data<float>(), lists, residuals.data());
    kernels::table<float>().axpby(context, count * d, 1.0f, block, -1.0f, residuals.data());
    fit_.add(context, count, residuals.data(), within);
  }
}

void IvfBuilder::check_output(const std::string& path) {
  lock_output(path);
}

void IvfBuilder::write(const std::string& path, int64_t links, int64_t ef_construction,
                       const std::function<void()>& poll) {
  const QincoConfig& config = coder_->config();
  IvfParameters p;
  p.d = config.d, p.M = M_kept_, p.K = config.K, p.K_ivf = config.K_ivf;
  p.model = coder_->fingerprint();
  if (!codebooks_.defined()) codebooks_ = std::move(fit_).solve(poll);
  if (poll) poll();
  p.codebooks = codebooks_;
  std::vector<float> norms(lists_.size());
  residual_norms(*coder_, p.codebooks, static_cast<int64_t>(lists_.size()), lists_.data(), within_.data(),
                 norms.data());
  p.levels = NormQuantizer(static_cast<int64_t>(norms.size()), norms.data()).levels();
  std::vector<std::byte> graph;
  if (links > 0)
    graph =
        Hnsw::build(config.K_ivf, config.d, coder_->centroids().data<float>(), links, ef_construction, poll).bytes();
  p.graph = graph;
  if (poll) poll();
  const std::unique_ptr<IvfLock> lock = lock_output(path);
  IvfFile::create(path, p);
}

}  // namespace qinco

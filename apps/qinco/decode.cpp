// qinco decode: codes, or any prefix of them -> vectors.
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "apps/qinco/command.h"
#include "apps/qinco/precision.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "qinco/codec/product_codec.h"
#include "qinco/io/codes.h"
#include "qinco/io/product_file.h"
#include "qinco/io/vectors.h"

namespace qinco::app {
namespace {

constexpr int64_t kDecodeRows = 4096;

struct DecodeOptions {
  std::string model, input, output;
  bool raw = false;
  kernels::Precision precision = kernels::Precision::exact;
  std::optional<int64_t> M_used, M_stored;
};

void decode(const DecodeOptions& options, const Common& common) {
  const ProductCodec codec(load_product(options.model), options.precision, common.device());
  const int64_t M_stored = options.M_stored.value_or(codec.M());
  check(1 <= M_stored && M_stored <= codec.M(), "--M_stored {}: expected 1 to {}, the codes of {}", M_stored, codec.M(),
        options.model);
  const int64_t M_used =
      checked_M_used(options.M_used, M_stored, options.M_stored ? "--M_stored" : options.model.c_str());
  const CodeFormat format = options.raw ? CodeFormat::raw : CodeFormat::npy;
  const int64_t M = codec.codes_per_vector(M_stored);
  const CodeFile file = CodeFile::open(options.input, format, M, codec.K(), codec.K0());
  const int64_t n = file.size(), d = codec.d(), block = block_rows(d, kDecodeRows, common.device());
  VectorWriter writer(options.output, n, d);

  const StopSignals signals;
  Progress progress(common.text(), "decoding", n);
  const Stopwatch watch;
  std::vector<float> x(static_cast<size_t>(block * d));
  std::vector<int32_t> codes(static_cast<size_t>(block * M));
  for (int64_t i = 0; i < n; i += block) {
    const int64_t count = std::min(block, n - i);
    file.read(i, i + count, codes.data());
    codec.decode(count, codes.data(), M_stored, M_used, x.data());
    check_decoded(options.model, i, count, d, x.data());
    writer.write(count, x.data());
    progress.update(i + count);
    stop_if_asked(signals);
  }
  writer.commit();

  const double seconds = watch.seconds();
  progress.clear();
  common.print("{}: {} vectors of dimension {} from {} of {} codes, {:.1f} s ({:.0f} vectors/s)", options.output, n, d,
               codec.codes_per_vector(M_used), M, seconds, per_second(n, seconds));
  common.report({{"n", n},
                 {"M_used", M_used},
                 {"precision", kernels::name(codec.precision())},
                 {"seconds", seconds},
                 {"vectors_per_second", per_second(n, seconds)}});
}

}  // namespace

void add_decode(Program& program) {
  auto options = std::make_shared<DecodeOptions>();
  CLI::App& command = program.add("decode", "Decode codes, or a prefix of each, into vectors",
                                  [options](const Common& common) { decode(*options, common); });
  command.add_option("--model", options->model, "the model")->required()->type_name("FILE");
  command.add_option("--i", options->input, "codes")->required()->type_name("FILE");
  program.add_output(command, "--o", options->output, "vectors: .fvecs, .fbin or .npy", "")->required();
  command.add_flag("--raw", options->raw, "the codes are packed bits without a header");
  command.add_option("--M_used", options->M_used, "decode this many codes of each (sub-)quantizer (default: all)");
  command.add_option("--M_stored", options->M_stored,
                     "codes of each (sub-)quantizer in the file, where `encode --M_used` wrote fewer than all");
  add_precision_option(command, options->precision, kDecodingPrecision);
}

}  // namespace qinco::app

// qinco encode: vectors -> codes.
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "apps/qinco/beam.h"
#include "apps/qinco/command.h"
#include "apps/qinco/precision.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "qinco/codec/product_codec.h"
#include "qinco/io/codes.h"
#include "qinco/io/vectors.h"

namespace qinco::app {
namespace {

struct EncodeOptions {
  std::string model, input, output;
  bool raw = false;
  std::optional<int64_t> M_used;
  kernels::Precision precision = kernels::Precision::exact;
  BeamOptions beam;
};

void encode(const EncodeOptions& options, const Common& common) {
  check_ending("--o", options.output, options.raw ? "packed bits" : ".npy");
  ProductCodec codec = load_codec(options.model, options.precision, common.device(), options.beam);
  const int64_t M_used = checked_M_used(options.M_used, codec.M(), options.model);
  const VectorFile vectors = VectorFile::open(options.input);
  check(vectors.dim() == codec.d(), "{}: vectors have dimension {}, expected {} as in {}", options.input, vectors.dim(),
        codec.d(), options.model);
  const int64_t n = vectors.size(), d = codec.d(), M = codec.codes_per_vector(M_used),
                block = encode_rows_together(d, codec.encode_flops(), common.device());
  CodeWriter writer(options.output, options.raw ? CodeFormat::raw : CodeFormat::npy, n, M, codec.K(), codec.K0());

  const StopSignals signals;
  codec.set_poll([&] { stop_if_asked(signals); });
  Progress progress(common.text(), "encoding", n);
  const Stopwatch watch;
  std::vector<float> x(static_cast<size_t>(block * d)), xhat(x.size());
  std::vector<int32_t> codes(static_cast<size_t>(block * M));
  double error = 0;
  for (int64_t i = 0; i < n; i += block) {
    const int64_t count = std::min(block, n - i);
    vectors.read(i, i + count, x.data());
    codec.encode(count, x.data(), M_used, codes.data(), xhat.data());
    check_decoded(options.model, i, count, d, xhat.data());
    add_squared_error(count, d, x.data(), xhat.data(), error);
    writer.write(count, codes.data());
    progress.update(i + count);
    stop_if_asked(signals);
  }
  writer.commit();

  const double seconds = watch.seconds(), mse = error / static_cast<double>(n);
  progress.clear();
  common.print("{}: {} codes of {} bytes, MSE {:.6g}, {:.1f} s ({:.0f} vectors/s)", options.output, n,
               packed_code_bytes(M, codec.K(), codec.K0()), mse, seconds, per_second(n, seconds));
  common.report({{"n", n},
                 {"M_used", M_used},
                 {"precision", kernels::name(codec.precision())},
                 {"beam_size", codec.beam().size},
                 {"candidates", codec.beam().candidates},
                 {"mse", mse},
                 {"seconds", seconds},
                 {"vectors_per_second", per_second(n, seconds)}});
}

}  // namespace

void add_encode(Program& program) {
  auto options = std::make_shared<EncodeOptions>();
  CLI::App& command =
      program.add("encode", "Encode vectors into codes", [options](const Common& common) { encode(*options, common); });
  command.add_option("--model", options->model, "the model")->required()->type_name("FILE");
  command.add_option("--i", options->input, "vectors")->required()->type_name("FILE");
  program.add_output(command, "--o", options->output, "codes: .npy int32 [n,nsub*M_used]", "")->required();
  command.add_flag("--raw", options->raw, "write packed bits without a header instead of .npy");
  add_precision_option(command, options->precision);
  add_beam_options(command, options->beam);
  command.add_option("--M_used", options->M_used,
                     "search for only the first codes of each (sub-)quantizer (default: all)");
}

}  // namespace qinco::app

// qinco index build, add, merge, info: the file of an IVF-QINCo index. Its search: index_search.cpp.
#include "apps/qinco/index.h"

#include <algorithm>
#include <charconv>
#include <fmt/format.h>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "apps/qinco/command.h"
#include "apps/qinco/precision.h"
#include "apps/qinco/progress.h"
#include "apps/qinco/stream.h"
#include "qinco/io/codes.h"
#include "qinco/io/model_file.h"
#include "qinco/io/vectors.h"
#include "qinco/search/ivf_index.h"

namespace qinco::app {
namespace {

constexpr int64_t kBatch = 1 << 16;         // rows of a batch, if that is ..
constexpr int64_t kEntriesAList = 16;       // .. so many a list, whose entries are padded to 32
constexpr int64_t kBatchBytes = 2LL << 30;  // what a batch may take while it is added

struct BuildOptions {
  std::string model, training_data, training_codes, output;
  bool raw = false;
  std::optional<int64_t> nt, M_used;
  kernels::Precision precision = kernels::Precision::exact;
  BeamOptions beam;
  int64_t links = 0, ef_construction = 200;
};

struct AddOptions {
  std::string model, index, input, codes, shard = "0/1";
  std::optional<int64_t> first_id;
  std::optional<int64_t> batch;
  kernels::Precision precision = kernels::Precision::exact;
  BeamOptions beam;
  bool resume = false, raw = false;
};

/// Vectors that must have the model's dimension, or their codes, or both: whatever a file is given of.
struct Source {
  std::optional<VectorFile> vectors;
  std::optional<CodeFile> codes;

  int64_t size() const { return codes ? codes->size() : vectors->size(); }
};

Source open_source(const IvfCoder& coder, const std::string& vectors, const std::string& codes, bool raw) {
  const QincoConfig& config = coder.config();
  Source source;
  if (!vectors.empty()) {
    source.vectors = VectorFile::open(vectors);
    check(source.vectors->dim() == config.d, "{}: vectors have dimension {}, expected {} as in the model", vectors,
          source.vectors->dim(), config.d);
  }
  if (!codes.empty())
    source.codes =
        CodeFile::open(codes, raw ? CodeFormat::raw : CodeFormat::npy, config.codes(), config.K, config.K_ivf);
  if (source.vectors && source.codes)
    check(source.codes->size() == source.vectors->size(), "{}: {} rows, expected {} as in {}", codes,
          source.codes->size(), source.vectors->size(), vectors);
  return source;
}

void build(const BuildOptions& options, const Common& common) {
  check(options.links == 0 || options.links >= 2, "--hnsw {}: expected 0 or 2 to 1000", options.links);
  check(options.ef_construction >= 1 && options.ef_construction <= (1 << 20), "--efConstruction {}: expected 1 to {}",
        options.ef_construction, 1 << 20);
  const auto coder = load_coder(options.model, options.precision, common, options.beam);
  const Source source = open_source(*coder, options.training_data, options.training_codes, options.raw);
  const int64_t nt = checked_nt(options.nt, *source.vectors), d = coder->config().d;
  const int64_t M = checked_codes_after_list(options.M_used, coder->config().M, options.model);
  check_writable(options.output);
  IvfBuilder::check_output(options.output);
  IvfBuilder builder(coder, M);
  const double flops = source.codes ? 0 : coder->codec().encode_flops();
  const int64_t block = std::min(nt, encode_rows_together(d, flops, common.device()));
  std::vector<float> x(static_cast<size_t>(block * d));
  std::vector<int32_t> codes(static_cast<size_t>(source.codes ? block * coder->config().codes() : 0));
  const StopSignals signals;
  const auto poll = [&] { stop_if_asked(signals); };
  coder->set_poll(poll);
  Progress progress(common.text(), "fitting fixed codebooks", nt);
  const Stopwatch watch;
  for (int64_t i = 0; i < nt; i += block) {
    const int64_t count = std::min(block, nt - i);
    source.vectors->read(i, i + count, x.data());
    if (source.codes) source.codes->read(i, i + count, codes.data());
    builder.add(count, x.data(), source.codes ? codes.data() : nullptr);
    progress.update(i + count);
    poll();
  }
  progress.clear();
  if (options.links > 0) common.print("linking {} centroids", coder->config().K_ivf);
  builder.write(options.output, options.links, options.ef_construction, poll);
  progress.clear();
  common.print("{}: an empty index of {} lists, fitted to {} vectors in {:.1f} s", options.output,
               coder->config().K_ivf, nt, watch.seconds());
  common.report({{"index", options.output},
                 {"d", d},
                 {"M", M},
                 {"K_ivf", coder->config().K_ivf},
                 {"nt", nt},
                 {"precision", kernels::name(coder->codec().precision())},
                 {"seconds", watch.seconds()}});
}

/// Part i of n of `size` rows, from the text i/n.
IdRange shard_rows(const std::string& text, int64_t size) {
  int64_t i = -1, n = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, i);
  const bool slash = first.ec == std::errc() && first.ptr < end && *first.ptr == '/';
  const auto second = slash ? std::from_chars(first.ptr + 1, end, n) : first;
  if (!slash || second.ec != std::errc() || second.ptr != end || i < 0 || i >= n)
    throw UsageError(fmt::format("--shard {}: expected i/n with 0 <= i < n", text));
  return {checked_mul(size, i, "shard") / n, checked_mul(size, i + 1, "shard") / n};
}

/// The first of ids begin..end-1 that is not in the index yet, and how many after it are not either.
IdRange next_missing(const IvfFile& file, int64_t begin, int64_t end) {
  std::vector<IdRange> present;
  for (const IvfSegment& segment : file.segments())
    present.insert(present.end(), segment.ranges.begin(), segment.ranges.end());
  std::sort(present.begin(), present.end());
  for (const auto& [first, last] : present) {
    if (first <= begin && begin < last) begin = last;
    if (begin < first) end = std::min(end, first);
  }
  return {std::min(begin, end), end};
}

/// Rows of a batch. Every batch brings blocks of its own for the lists it touches: by default it holds so many entries
/// a list that padding does not outweigh them, as far as memory for its codes, and for its part of the file, allows.
int64_t batch_rows(const AddOptions& options, const QincoConfig& config) {
  const int64_t row_bytes = 11 * config.codes() + 24;
  return options.batch.value_or(std::max(kBatch, std::min(kEntriesAList * config.K_ivf, kBatchBytes / row_bytes)));
}

/// Appends the codes of rows first..second-1, of their file or made here, `width` each, to `codes`: block by block,
/// after each of which it calls done(the next row).
template <class Done>
void take_codes(const Source& source, IdRange rows, const IvfCoder& coder, int64_t width, std::vector<int32_t>& codes,
                Done done) {
  const int64_t d = coder.config().d;
  const int64_t most = source.codes ? kBatch : encode_rows_together(d, coder.codec().encode_flops(), coder.device());
  const int64_t block = std::min(most, rows.second - rows.first);
  std::vector<float> x(static_cast<size_t>(source.codes ? 0 : block * d));
  std::vector<int32_t> some(static_cast<size_t>(block * width));
  codes.reserve(static_cast<size_t>((rows.second - rows.first) * width));
  for (int64_t i = rows.first; i < rows.second; i += block) {
    const int64_t count = std::min(block, rows.second - i);
    if (source.codes) {
      source.codes->read(i, i + count, some.data());
    } else {
      source.vectors->read(i, i + count, x.data());
      coder.codec().encode(count, x.data(), some.data(), nullptr, nullptr, width);
    }
    codes.insert(codes.end(), some.begin(), some.begin() + count * width);
    done(i + count);
  }
}

/// Rows begin..end-1 of a file, to be added with the ids offset + row.
struct Rows {
  int64_t begin, end, offset;
};

Rows rows_to_add(const AddOptions& options, const Source& source, const IvfIndex& index) {
  const int64_t size = source.size(), next_id = index.file().next_id();
  const auto [begin, end] = shard_rows(options.shard, size);
  const bool by_row = options.resume || options.shard != "0/1";
  check(!options.resume || options.first_id || next_id <= size,
        "{}: holds ids up to {}, {} has {} rows: --resume needs the --first_id of what was stopped", options.index,
        next_id - 1, options.input.empty() ? options.codes : options.input, size);
  const int64_t offset = options.first_id.value_or(by_row ? 0 : next_id);
  check(0 <= offset && offset <= std::numeric_limits<int64_t>::max() - size, "--first_id {}: expected ids below 2^32",
        offset);
  return {begin, end, offset};
}

/// Before any work: all ids to come are ids, and free.
void check_all_ids(const IvfIndex& index, const Rows& rows, bool resume) {
  const int64_t end = rows.offset + rows.end;
  for (int64_t id = rows.offset + rows.begin; id < end;) {
    const IdRange ids = resume ? next_missing(index.file(), id, end) : IdRange{id, end};
    if (ids.first < ids.second) index.check_ids(ids.second - ids.first, ids.first);
    id = ids.second;
  }
}

/// Adds the rows batch by batch; returns how many. An Error after a batch says what to do about the others.
int64_t add_batches(const AddOptions& options, const Source& source, const IvfCoder& coder, const Rows& all,
                    IvfIndex& index, Progress& progress, const StopSignals& signals) {
  const int64_t batch = std::min(batch_rows(options, coder.config()), source.size());
  const int64_t width = source.codes ? coder.config().codes() : index.file().parameters().M + 1;  // as many as are kept
  int64_t added = 0;
  try {
    for (int64_t row = all.begin; row < all.end;) {
      IdRange rows{row, std::min(all.end, row + batch)};
      if (options.resume) {
        const IdRange ids = next_missing(index.file(), all.offset + row, all.offset + all.end);
        rows = {ids.first - all.offset, std::min(ids.second, ids.first + batch) - all.offset};
        if (rows.first >= all.end) break;
      }
      index.check_ids(rows.second - rows.first, all.offset + rows.first);  // somebody else may have added some
      std::vector<int32_t> codes;
      try {
        take_codes(source, rows, coder, width, codes, [&](int64_t next) {
          progress.update(next - all.begin);
          stop_if_asked(signals);
        });
      } catch (const Stopped&) {  // what is encoded is kept
        rows.second = rows.first + static_cast<int64_t>(codes.size()) / width;
      }
      index.add_codes(codes, all.offset + rows.first, width);
      added += rows.second - rows.first;
      row = rows.second;
      if (signals.requested())
        throw Stopped(signals.received(), fmt::format("stopped; {} holds {} vectors; go on with --resume --first_id {}",
                                                      options.index, index.size(), all.offset));
    }
  } catch (const Error& error) {
    if (added == 0) throw;
    fail("{}; {} vectors had been added by then, with ids from {} on (--resume --first_id {} goes on)", error.what(),
         added, all.offset, all.offset);
  }
  return added;
}

void add(const AddOptions& options, const Common& common) {
  check(options.batch.value_or(1) >= 1, "--batch {}: expected 1 or more", options.batch.value_or(1));
  if (options.input.empty() && options.codes.empty()) throw UsageError("expected --i or --codes");
  const auto coder = load_coder(options.model, options.precision, common, options.beam);
  const Source source = open_source(*coder, options.input, options.codes, options.raw);
  IvfIndex index(options.index, coder);
  const Rows rows = rows_to_add(options, source, index);
  check_all_ids(index, rows, options.resume);
  const StopSignals signals;
  coder->set_poll([&] { stop_if_asked(signals); });
  Progress progress(common.text(), "adding", std::max<int64_t>(rows.end - rows.begin, 1));
  const Stopwatch watch;
  const int64_t added = add_batches(options, source, *coder, rows, index, progress, signals);
  progress.clear();
  const double seconds = watch.seconds();
  common.print("{}: {} vectors added in {:.1f} s ({:.0f} vectors/s), {} in all", options.index, added, seconds,
               per_second(added, seconds), index.size());
  common.report({{"added", added},
                 {"n", index.size()},
                 {"first_id", rows.offset + rows.begin},
                 {"precision", kernels::name(coder->codec().precision())},
                 {"seconds", seconds},
                 {"vectors_per_second", per_second(added, seconds)}});
}

void merge(const std::vector<std::string>& inputs, const std::string& output, const Common& common) {
  std::set<std::string> places;
  for (const std::string& input : inputs)
    if (!places.insert(file_place(input)).second) throw UsageError(fmt::format("--i: {} is named twice", input));
  check_writable(output);
  const Stopwatch watch;
  merge_indexes(inputs, output);
  const IvfFile file = IvfFile::open(output);
  common.print("{}: {} vectors of {} indexes, {:.1f} s", output, file.size(), inputs.size(), watch.seconds());
  common.report({{"n", file.size()}, {"bytes", file.bytes()}, {"seconds", watch.seconds()}});
}

void add_index_build(Program& program) {
  auto options = std::make_shared<BuildOptions>();
  CLI::App& command = program.add("index build", "Make an empty index: fixed codebooks and norms for a model",
                                  [options](const Common& common) { build(*options, common); });
  command.add_option("--model", options->model, "an IVF-QINCo model")->required()->type_name("FILE");
  command.add_option("--training_data", options->training_data, "vectors to fit to")->required()->type_name("FILE");
  command.add_option("--training_codes", options->training_codes, "their codes (.npy, from encode)")->type_name("FILE");
  command.add_flag("--raw", options->raw, "the codes are packed bits without a header");
  command.add_option("--nt", options->nt, "fit to the first nt vectors (default: all)");
  command.add_option("--M_used", options->M_used, "keep only the first codes of a vector, its list among them");
  add_precision_option(command, options->precision);
  add_beam_options(command, options->beam);
  command
      .add_option("--hnsw", options->links, "links a centroid: the coarse quantizer is an HNSW graph (0: it is flat)")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command.add_option("--efConstruction", options->ef_construction, "candidates considered while linking")
      ->capture_default_str();
  program.add_output(command, "--o", options->output, "the index", ".index")->required();
}

void add_index_add(Program& program) {
  auto options = std::make_shared<AddOptions>();
  CLI::App& command = program.add("index add", "Add vectors to an index, batch by batch, each durably or not at all",
                                  [options](const Common& common) { add(*options, common); });
  command.add_option("--index", options->index, "the index")->required()->type_name("FILE");
  command.add_option("--model", options->model, "the model it was built for")->required()->type_name("FILE");
  command.add_option("--i", options->input, "vectors")->type_name("FILE");
  command.add_option("--codes", options->codes, "codes (.npy, from encode) instead, or those of the vectors")
      ->type_name("FILE");
  command.add_flag("--raw", options->raw, "the codes are packed bits without a header");
  command.add_option("--first_id", options->first_id,
                     "id of the file's first row (default: after the last one; with --shard or --resume 0)");
  command.add_option("--shard", options->shard, "i/n: add the i-th of n parts of the file, i from 0")
      ->capture_default_str();
  command.add_option("--batch", options->batch,
                     fmt::format("vectors a batch (default: {}, or {} times the lists where that is more and takes no "
                                 "more than 2 GB)",
                                 kBatch, kEntriesAList));
  add_precision_option(command, options->precision);
  add_beam_options(command, options->beam);
  command.add_flag("--resume", options->resume, "skip rows whose ids are in the index");
}

}  // namespace

Json describe_index(const std::string& path) {
  const IvfFile file = IvfFile::open(path);
  const IvfParameters& p = file.parameters();
  std::vector<int64_t> counts(static_cast<size_t>(p.K_ivf), 0);
  int64_t blocks = 0;
  for (const IvfSegment& segment : file.segments()) {
    for (int64_t i = 0; i < segment.pieces; ++i) counts[segment.lists[i]] += segment.counts[i];
    blocks += segment.blocks;
  }
  const int64_t empty = std::count(counts.begin(), counts.end(), 0);
  return {{"format", "qinco-ivf"},
          {"n", file.size()},
          {"d", p.d},
          {"M", p.M},
          {"K", p.K},
          {"K_ivf", p.K_ivf},
          {"bytes_per_vector", p.width()},
          {"coarse", p.graph.empty() ? "flat" : "hnsw"},
          {"next_id", file.next_id()},
          {"segments", file.segments().size()},
          {"empty_lists", empty},
          {"longest_list", *std::max_element(counts.begin(), counts.end())},
          {"blocks", blocks},
          {"bytes", file.bytes()}};
}

int64_t checked_codes_after_list(std::optional<int64_t> M_used, int64_t M, const std::string& path) {
  const int64_t used = M_used.value_or(M + 1);
  check(2 <= used && used <= M + 1, "--M_used {}: expected 2 to {}, the list and the codes of {}", used, M + 1, path);
  return used - 1;
}

std::shared_ptr<IvfCoder> load_coder(const std::string& path, kernels::Precision precision, const Common& common,
                                     const BeamOptions& beam) {
  const Qinco model = load_model(path);
  try {
    return std::make_shared<IvfCoder>(model, precision, common.device(), beam.search(model.config().K));
  } catch (const Error& error) {
    fail("{}: {}", path, error.what());
  }
}

void add_index(Program& program) {
  program.add_group("index", "IVF-QINCo's index: build, add, merge, search, info");
  add_index_build(program);
  add_index_add(program);
  add_index_search(program);
  auto inputs = std::make_shared<std::vector<std::string>>();
  auto path = std::make_shared<std::string>();
  CLI::App& merging = program.add("index merge", "Put the entries of indexes (or one index's batches) together",
                                  [inputs, path](const Common& common) { merge(*inputs, *path, common); });
  merging.add_option("--i", *inputs, "copies of one built index, each with entries of its own")
      ->required()
      ->type_name("FILE...");
  program.add_output(merging, "--o", *path, "the index; may be one of them", ".index", "--i")->required();
  CLI::App& describing = program.add("index info", "Describe an index, and verify its checksums",
                                     [path](const Common& common) { common.describe(describe_index(*path)); });
  describing.add_option("--index", *path, "the index")->required()->type_name("FILE");
}

}  // namespace qinco::app

// What `eval` and `baseline` do with a codec: encode a base, decode it, search it, count the hits.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "apps/qinco/command.h"
#include "qinco/search/rerank.h"
#include "tensor/tensor.h"

namespace qinco::app {

/// A codec as evaluation sees it.
struct Coder {
  int64_t M = 0, K = 0;
  int64_t nsub = 1;         // sub-quantizers of M codes each
  int64_t coarse = 0;       // codes of those that are a coarse quantizer's: an index keeps them by list, in no bytes
  double encode_flops = 0;  // a vector, about, where they are many
  std::function<void(int64_t n, const float* x, int32_t* codes)> encode;                  // codes [n,nsub*M]
  std::function<void(int64_t n, const int32_t* codes, int64_t M_used, float* x)> decode;  // of such codes
  std::function<void(const std::function<void()>& poll)> set_poll = nullptr;              // as Codec's; may be unset
};

/// The ranks R at which 1-recall@R is told.
inline constexpr std::array<int64_t, 3> kRecallRanks = {1, 10, 100};

/// {"1": .., "10": .., "100": ..} for ids i32 [nq,k] against the ground truth (recall_at).
Json recalls(const Tensor& ids, const Tensor& truth);

/// Such an object as text: three columns.
std::string recall_columns(const Json& recall);

/// --nshort and --npairs of the two searches with re-ranking.
void add_short_list_options(CLI::App& command, std::vector<int64_t>& npairs, std::vector<int64_t>& nshort);

/// A setting of both.
struct ShortList {
  int64_t npairs, nshort;
};

/// The settings of two such lists, without those of fewer pairs than are kept. Throws Error for a number out of range,
/// or where none is left.
std::vector<ShortList> short_lists(const std::vector<int64_t>& npairs, const std::vector<int64_t>& nshort);

/// Whether one of them takes a pairwise decoder.
bool takes_pairs(const std::vector<ShortList>& settings);

/// What the two searches with re-ranking tell of the time that one setting took for nq queries: qps, seconds.
Json search_times(int64_t nq, const SearchSeconds& seconds);

/// Its seconds but for the total as text: four columns.
std::string search_columns(const Json& seconds);

struct EvaluationFiles {
  std::string base, queries, groundtruth;
};

/// Adds --base, --queries and --groundtruth, all required.
void add_evaluation_options(CLI::App& command, EvaluationFiles& files);

/// Checks that the files exist, agree with one another and have dimension d (of `owner`), before any long work.
void check_evaluation_files(const EvaluationFiles& files, int64_t d, const std::string& owner);

/// Encodes and decodes the base block by block and searches the queries in what was decoded. Returns the JSON keys of
/// eval: n, M_used, bytes_per_vector, mse, recall, seconds, vectors_per_second, and with `multirate` the MSE of every
/// prefix of the codes as [{M_used, bytes_per_vector, mse}], with bits / 8 as bytes. Prints the same for
/// people.
Json evaluate(const Common& common, const Coder& coder, const EvaluationFiles& files, int64_t M_used, bool multirate);

}  // namespace qinco::app

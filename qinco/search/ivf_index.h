// Search with IVF-QINCo: vectors lie in the inverted lists of a coarse quantizer's centroids; a query visits the lists
// of the nprobe nearest centroids, look-up tables give a short-list, the network re-ranks it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "qinco/codec/pairwise_decoder.h"
#include "qinco/search/additive_index.h"
#include "qinco/search/hnsw.h"
#include "qinco/search/ivf_coder.h"
#include "qinco/search/ivf_file.h"
#include "qinco/search/rerank.h"

namespace qinco {

struct IvfSearchOptions {
  int64_t k = 10;          // neighbours
  int64_t nprobe = 16;     // lists visited; at most all
  int64_t nshort = 100;    // candidates decoded, at least k
  int64_t ef_search = 64;  // HNSW: candidates kept while looking for lists, if more than nprobe; a flat one ignores it
  int64_t M_used = 0;      // codes of a candidate that are decoded, after its list; 0: all that the index keeps
  int64_t npairs = 0;      // candidates of which the pairwise decoder chooses nshort, or more; 0: the scan does
};

struct IvfResult {
  std::vector<int64_t> ids;         // [nq,k] nearest first, of equals the first in the file; -1 where there are fewer
  std::vector<float> distances;     // [nq,k] squared, +infinity beside -1
  std::vector<int64_t> short_list;  // [nq,k] the first of the short-list, as before re-ranking, equals likewise
  SearchSeconds seconds;            // `scan` includes the coarse quantizer and the look-up tables
};

/// An index file, open. The coder's device searches: a flat coarse quantizer, the scan and the network run there, an
/// HNSW graph and the final order on the CPU. The first search copies the lists to the device if that is not the CPU.
/// Searches may run in many threads at once; each uses the context of its thread.
class IvfIndex {
 public:
  /// Maps the index. Throws Error as IvfFile::open, when it was built for another model, or without a coder.
  IvfIndex(const std::string& path, std::shared_ptr<const IvfCoder> coder);

  const IvfFile& file() const { return file_; }
  int64_t size() const { return file_.size(); }
  int64_t d() const { return file_.parameters().d; }
  /// Whether the coarse quantizer is a graph, for which ef_search matters.
  bool has_graph() const { return graph_.has_value(); }

  /// Adds the vectors x [n,d], as ids first_id, first_id + 1, ..., durably and all or none, by IvfFile::append. Takes
  /// what it has added into this object: no search may run meanwhile.
  void add(std::span<const float> x, int64_t first_id);
  /// The same for vectors known by their codes [n,entries], the list's first: from as many as the index keeps to as
  /// many as the model has, the default. Throws Error for another number.
  void add_codes(std::span<const int32_t> codes, int64_t first_id, std::optional<int64_t> entries = {});
  /// Throws Error where n ids from first_id on are not free, or are no ids, or the file cannot be opened for writing:
  /// what adding them would say after long work.
  void check_ids(int64_t n, int64_t first_id) const;

  /// Makes the pairwise decoder that `npairs` asks for, fitted to the codes of at most `entries` of the index.
  /// No search may run meanwhile. Throws Error as PairwiseDecoder, and where the index is empty.
  void make_pairwise_decoder(int64_t entries = PairwiseDecoder::kMostFitted);

  /// The neighbours of queries [nq,d]. Those with a NaN or an infinity, and lists that are empty, give ids -1. Throws
  /// Error for sizes that do not fit, and for npairs without a pairwise decoder.
  IvfResult search(std::span<const float> queries, const IvfSearchOptions& options = {}) const;

 private:
  struct Piece {
    uint32_t list;
    uint32_t count;
    uint32_t next;         // piece of the list, or kNone
    uint32_t segment;      // where it lies ..
    uint32_t block;        // .. and its first block within that
    uint32_t first_block;  // the same over all segments
  };
  static constexpr uint32_t kNone = ~uint32_t{0};
  /// Where the lists lie.
  struct Directory {
    std::vector<Piece> pieces;          // of all segments, in the order of the file
    std::vector<uint32_t> first, last;  // [K_ivf] piece of each list, or kNone
    int64_t blocks = 0;                 // of all segments
    uint32_t segments = 0;

    explicit Directory(int64_t K_ivf);
    /// Takes in the segments of `file` that follow those it has; leaves it as it is where there is no memory.
    void take(const IvfFile& file);
  };
  /// Copies of the segments' codes on another device than the CPU.
  struct DeviceLists {
    std::mutex mutex;
    std::vector<Tensor> codes;  // u8, one a segment; fewer until a search needs them
  };

  using Visits = std::vector<kernels::ScanList<float>>;  // the pieces of lists that a query visits

  void coarse(int64_t nq, const float* queries, int64_t nprobe, int32_t* lists, float* biases) const;
  void coarse_by_graph(int64_t nq, const float* queries, int64_t nprobe, int64_t ef, int32_t* lists,
                       float* biases) const;
  const std::vector<Tensor>& device_codes() const;
  std::vector<Visits> visits_of(int64_t nq, int64_t nprobe, const int32_t* lists, const float* biases) const;
  void scan(int64_t nq, const float* queries, const IvfSearchOptions& options, int64_t best, int64_t* slots) const;
  const Piece& piece_of(int64_t slot) const;
  const uint8_t* codes_in_file(const Piece& piece) const;
  void codes_of(int64_t slot, int32_t* codes) const;
  int64_t id_of(int64_t slot) const;

  std::shared_ptr<const IvfCoder> coder_;
  IvfFile file_;
  ScanTables tables_;
  std::optional<Hnsw> graph_;
  std::optional<PairwiseDecoder> pairs_;
  const kernels::Table<float>* kernels_;
  PackedLinear coarse_;            // where there is no graph: with -2 c [K_ivf,d] ..
  Tensor centroid_norms_;          // .. and [K_ivf] on the device
  std::vector<float> host_norms_;  // the same, for the graph
  std::unique_ptr<DeviceLists> lists_ = std::make_unique<DeviceLists>();
  Directory directory_;
};

/// Writes one index with the entries of all `paths`, which must have been built for the same model from the same
/// training: lists are whole then, and quicker to scan. Throws Error naming the file that does not fit, or the ids that
/// are in two of them, or `output` where somebody adds to an index of that name.
void merge_indexes(const std::vector<std::string>& paths, const std::string& output);

}  // namespace qinco

// The fast path without gradients: a model compiled for a device (the CPU: its active ISA).
//
// A step's concat block is linear: its codeword half is folded into tables made once, and its xhat half costs one
// product per vector instead of one per candidate. Encoding searches on the candidate kernel; the xhat that it keeps is
// computed by the very code that decodes, so both give the same bits.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/kernels.h"
#include "qinco/codec/packed_linear.h"
#include "qinco/model/qinco.h"
#include "tensor/tensor.h"

namespace qinco {

/// How many of a vector's codes a search keeps under way. The default is the paper's: the nearest candidate of each
/// step, of all. (A beam and candidates that are chosen beforehand are QINCo2's, Vallaeys et al., ICLR 2025, whose
/// networks differ.)
struct BeamSearch {
  int64_t size = 1;        // codes that are kept after each step, those that come nearest so far; 1 to 1024
  int64_t candidates = 0;  // codewords that each of them goes on with: the nearest before a step's blocks; 0: all K

  /// Throws Error naming the value for one out of range, or for more than 2^16 candidates of a vector: a thread of the
  /// CPU needs memory for the activations of all of them.
  void validate(int64_t K) const;
  bool operator==(const BeamSearch&) const = default;
};

class Codec {
 public:
  /// Compiles `model` (f32, on any device) for `device`, on the CPU for the ISA that is active now. Copies what it
  /// needs: the model may change or go. Encoding is by `beam`. `precision` is that of the kernel `candidate_search`, by
  /// which the default search compares candidates, and of `linear`, by which others do and by which all decode: at
  /// `fast`, where 16-bit integers are quicker than float, about 1e-4 of a vector's length beside `exact`, with
  /// networks whose weights' rows are not shorter than 1e-28. Lists of IVF-QINCo are those of the nearest centroids all
  /// the same. Throws Error as BeamSearch::validate.
  explicit Codec(const Qinco& model, kernels::Precision precision = kernels::Precision::exact, Device device = {},
                 const BeamSearch& beam = {});

  /// Takes the present parameters of `model` into the memory there is. Throws Error unless its sizes are those of the
  /// first one.
  void update(const Qinco& model);
  /// The same without IVF-QINCo's centroids (up to 2^20 of them), which training leaves as they are: the model's must
  /// be those of the last update().
  void update_trained(const Qinco& model);

  /// `poll` is called between parts of encoding: on a CPU every `rows` that are searched (0: about a second's of all
  /// threads), on a GPU between blocks of `encode` but not by encode_on_device. It may throw, which ends the encoding;
  /// results are then unspecified.
  void set_poll(std::function<void()> poll, int64_t rows = 0);

  kernels::Precision precision() const { return precision_; }
  /// How it searches, with the number of candidates for 0.
  const BeamSearch& beam() const { return beam_; }
  /// FLOP that encoding takes per vector, about.
  double encode_flops() const;

  const QincoConfig& config() const { return config_; }
  Device device() const { return device_; }

  // All pointers are to the host's memory, but where it is said: blocks of rows are moved to the device and back.

  /// x [n,d] -> codes [n,codes()] and, unless null, their reconstruction xhat [n,d], both x and xhat in the original
  /// space (not divided by db_scale). A row's result does not depend on the other rows; one with a value that is not
  /// finite gets any codes. Needs bounded memory besides.
  /// `first` [n], unless null, are the first codes where they are known (each in [0,K0())). With M_used (1..codes())
  /// only so many codes are searched for, those that the whole begins with: codes [n,M_used]. Throws Error for another
  /// number, and for n < 0.
  void encode(int64_t n, const float* x, int32_t* codes, float* xhat = nullptr, const int32_t* first = nullptr,
              std::optional<int64_t> M_used = {}) const;

  /// The first M_used (1..codes()) codes of every row -> x [n,d] in the original space; row i starts at codes +
  /// i*codes_ld. Throws Error naming the row when a code is outside [0,K), or the first one outside [0,K0()), and for
  /// n < 0. Needs bounded memory besides.
  void decode(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used, float* x) const;
  /// What decode() throws for these codes, if anything.
  void check_codes(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used) const;
  /// The same as decode with x in the device's memory.
  void decode_to_device(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used, float* x) const;

  /// The first codewords f32 [K0(),d] on the codec's device, in the model's own space (divided by db_scale).
  const Tensor& first_codebook() const { return codebook0_; }
  /// xhat [n,d] += what step m (1..codes()-1) adds for its codewords ids [n], each in [0,K), in the model's own space;
  /// both in the device's memory. The ids are not checked.
  void advance_on_device(int64_t m, int64_t n, const int32_t* ids, float* xhat) const;

  /// As encode with x [n,d], codes and `first` in the device's memory, and codes [codes(),n] step by step. Needs memory
  /// for n vectors besides.
  void encode_on_device(int64_t n, const float* x, int32_t* codes, const int32_t* first = nullptr) const;

 private:
  // What ranks codewords c_k by ||x - c_k||^2, but for the ||x||^2 that all have: ||c_k||^2 + <2 c_k, -x>.
  struct Ranking {
    PackedLinear twice;  // [K,d]  2 c_k
    Tensor norms;        // [K]    ||c_k||^2
  };
  // One step, with r = W_x xhat and u = W_up,1 W_x xhat. In the low-rank model, W_x = W_B W_A,x is either multiplied
  // out or, when that is cheaper, kept as w_in = W_A,x: then w_r and w_u apply to w_in xhat [h] instead of xhat [d].
  struct Step {
    Tensor z_table;                  // [K,d]  c + W_c c + b
    Tensor a_table;                  // [K,h]  W_up,1 (c + W_c c + b)
    PackedLinear w_in;               // [h,d], or undefined
    PackedLinear w_r;                // [d,p], p = w_in.defined() ? h : d
    PackedLinear w_u;                // [h,p]
    std::vector<PackedLinear> up;    // L of [h,d]; the first is undefined: a_table and w_u contain it
    std::vector<PackedLinear> down;  // L of [d,h]
    Tensor candidates;               // for a greedy search: the step as the candidate search wants it
    Ranking ranking;                 // for a beam search: that of z_table
    Tensor screen;                   // for a beam search: the step as the screen wants it, where there is one
  };

  struct Beams;  // the codes of some vectors that are under way
  struct Tried;  // the candidates that these are tried with

  void allocate(Step& step) const;
  void check_sizes(const Qinco& model) const;
  void update_rest(const Qinco& model);
  void update_step(const kernels::Context& context, const StepNetwork& network, Step& step) const;
  void fold_concat(const kernels::Context& context, const StepNetwork& network, Step& step) const;
  void fold_lowrank(const kernels::Context& context, const StepNetwork& network, Step& step) const;
  void set_input(const kernels::Context& context, const StepNetwork& network, const float* w, int64_t ldw,
                 Step& step) const;
  int64_t row_block() const;
  int64_t row_block(int64_t n, const kernels::Context& context) const;
  int64_t encode_rows() const;
  void encode_block(const kernels::Context& context, int64_t n, const float* x, int64_t M_used, int32_t* codes,
                    float* xhat, const int32_t* first) const;
  void encode_greedy(const kernels::Context& context, int64_t n, const float* x, int64_t M_used, int32_t* codes,
                     float* xhat, const int32_t* first) const;
  void search(const kernels::Context& context, const Step& step, int64_t n, const float* target, const float* r,
              const float* u, int32_t* ids) const;
  void decode_rows(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used, float* x) const;
  void decode_ids(const kernels::Context& context, int64_t n, const int32_t* ids, int64_t M_used, float* x) const;
  void decode_block(const kernels::Context& context, int64_t n, const int32_t* ids, int64_t ids_ld, int64_t M_used,
                    float* x) const;
  const float* enter(const kernels::Context& context, const Step& step, int64_t n, const float* xhat,
                     float* narrow) const;
  void project(const kernels::Context& context, const Step& step, int64_t n, const float* xhat, float* r,
               float* u) const;
  void advance(const kernels::Context& context, const Step& step, int64_t n, const int32_t* ids, float* xhat) const;
  void run_blocks(const kernels::Context& context, const Step& step, int64_t n, float* z, float* hidden,
                  float* sum) const;

  bool greedy() const { return beam_.size == 1 && beam_.candidates == config_.K; }
  void allocate(Ranking& ranking, int64_t K) const;
  void update_ranking(const kernels::Context& context, const Tensor& codewords, Ranking& ranking) const;
  void rank(const kernels::Context& context, const Ranking& ranking, int64_t n, const float* minus_x, int64_t kept,
            int32_t* ids) const;
  int64_t beam_vectors(int64_t n, const kernels::Context& context) const;
  void encode_beam(const kernels::Context& context, int64_t n, const float* x, int64_t M_used, int32_t* codes,
                   float* xhat, const int32_t* first) const;
  void encode_together(const kernels::Context& context, int64_t n, const float* minus_x, int64_t M_used, int32_t* codes,
                       int64_t codes_ld, const int32_t* first) const;
  void start(const kernels::Context& context, int64_t wanted, const int32_t* first, Beams& beams) const;
  void propose(const kernels::Context& context, int64_t m, const Beams& beams, const Tried& tried) const;
  void compare(const kernels::Context& context, int64_t m, const Beams& beams, const Tried& tried, int64_t count,
               const int32_t* pairs, float* moved, float* distances) const;
  void compare_screened(const kernels::Context& context, int64_t m, int64_t kept, const Beams& beams,
                        const Tried& tried) const;
  void extend(const kernels::Context& context, int64_t m, int64_t wanted, Beams& beams) const;

  QincoConfig config_;
  kernels::Precision precision_;
  BeamSearch beam_;
  Device device_;
  const kernels::Table<float>* kernels_;
  Tensor codebook0_;  // [K0,d]
  Ranking ranking0_;  // of codebook 0, for a beam search that has to find the first code
  Tensor scale_;      // []  db_scale, where kernels find it
  std::vector<Step> steps_;
  std::function<void()> poll_;
  int64_t poll_rows_ = 0;
};

}  // namespace qinco

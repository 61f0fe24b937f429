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

class Codec {
 public:
  /// Compiles `model` (f32, on any device) for `device`, on the CPU for the ISA that is active now. Copies what it
  /// needs: the model may change or go. `precision` is that of encoding's search; decoding is as exact as the kernel
  /// `linear`.
  explicit Codec(const Qinco& model, kernels::Precision precision = kernels::Precision::exact, Device device = {});

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

  /// As encode with x [n,d], codes and `first` in the device's memory, and codes [codes(),n] step by step. Needs memory
  /// for n vectors besides.
  void encode_on_device(int64_t n, const float* x, int32_t* codes, const int32_t* first = nullptr) const;

 private:
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
    Tensor candidates;               // the step as the candidate search wants it
  };

  void allocate(Step& step) const;
  void check_sizes(const Qinco& model) const;
  void update_rest(const Qinco& model);
  void update_step(const kernels::Context& context, const StepNetwork& network, Step& step) const;
  void fold_concat(const kernels::Context& context, const StepNetwork& network, Step& step) const;
  void fold_lowrank(const kernels::Context& context, const StepNetwork& network, Step& step) const;
  void set_input(const kernels::Context& context, const StepNetwork& network, const float* w, int64_t ldw,
                 Step& step) const;
  int64_t encode_rows() const;
  void encode_block(const kernels::Context& context, int64_t n, const float* x, int64_t M_used, int32_t* codes,
                    float* xhat, const int32_t* first) const;
  void search(const kernels::Context& context, const Step& step, int64_t n, const float* target, const float* r,
              const float* u, int32_t* ids) const;
  void decode_rows(int64_t n, const int32_t* codes, int64_t codes_ld, int64_t M_used, float* x) const;
  void decode_block(const kernels::Context& context, int64_t n, const int32_t* ids, int64_t ids_ld, int64_t M_used,
                    float* x) const;
  const float* enter(const kernels::Context& context, const Step& step, int64_t n, const float* xhat,
                     float* narrow) const;
  void project(const kernels::Context& context, const Step& step, int64_t n, const float* xhat, float* r,
               float* u) const;
  void advance(const kernels::Context& context, const Step& step, int64_t n, const int32_t* ids, float* xhat) const;

  QincoConfig config_;
  kernels::Precision precision_;
  Device device_;
  const kernels::Table<float>* kernels_;
  Tensor codebook0_;  // [K0,d]
  Tensor scale_;      // []  db_scale, where kernels find it
  std::vector<Step> steps_;
  std::function<void()> poll_;
  int64_t poll_rows_ = 0;
};

}  // namespace qinco

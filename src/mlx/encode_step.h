// A whole batch of texts in one launch on CUDA (kernels/encode.cuh): no host between its parts.
// Includes MLX: only the sources of this folder include this.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mlx/device_addresses.h"
#include "mlx/host_pages.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {

// What the kernel is compiled for, and what it is given of a model.
struct EncodeForm {
  mx::Dtype type = mx::float16;  // of weights and activations
  int layers = 0, hidden = 0, heads = 0, head_dim = 0, feed_forward = 0;
  int activation = 0;  // GELU by erf, GELU by tanh, ReLU
  float epsilon = 0;
  bool mean = true, normalize = true;
};
// Whether the kernel has a form for such sizes.
bool encode_takes(const EncodeForm& form);

// As kernels/encode.cuh has them: threads of a block, numbers of a tile and of a text in the plan,
// and what a launch says that did all of it.
inline constexpr int kEncodeThreads = 256, kEncodeTilePlan = 5, kEncodeTextPlan = 2, kEncoded = 1;
// Fours of a row that a lane holds, a power of two.
int encode_each(int hidden);

// How a layer's four products are cut, small, medium and large tiles: 0 to 2 each.
using EncodeTilings = std::array<int, 4>;
// Shared memory that a product wants so, of rows that stand there whole or not.
int tiling_bytes(int tiling, bool resident, int columns);
// All that a block wants on a card whose blocks have `most`: for the tilings that fit there.
// nullopt: there is not enough for any.
std::optional<int> encode_shared_bytes(const EncodeForm& form, int most);
// What takes least by reckoning, of those that fit in `memory`.
EncodeTilings encode_tilings(const EncodeForm& form, int rows, int memory, int blocks);

// Where in its scratch memory lies what one part makes for the next: in bytes, in the order of
// EncodePlace in kernels/encode.cuh.
struct EncodeScratchPlan {
  std::vector<int64_t> places;
  int64_t bytes = 0;
};
EncodeScratchPlan encode_scratch(const EncodeForm& form, int rows);

// What the kernel is told of a batch, as kernels/encode.cuh has it.
struct EncodeGiven {
  std::vector<int32_t> values;
  int rows = 0, tiles = 0, texts = 0;
};
EncodeGiven encode_given(const EncoderBatch& batch);

struct EncodeLaunch {
  const int32_t* given = nullptr;  // in pages that stay with the host
  int rows = 0, tiles = 0, texts = 0;
  EncodeTilings tilings = {};
  float* vectors = nullptr;  // [texts, hidden], in such pages, too
  int32_t* status = nullptr;
};

// Where the kernel runs, and its memory. In MLX's turn; throws as MLX does.
class EncodeKernel {
 public:
  virtual ~EncodeKernel() = default;
  // Shared memory that a block may have.
  virtual int shared_bytes_max() = 0;
  // Blocks that run at once with so much of it, by which they are launched.
  virtual int prepare(int shared_bytes) = 0;
  // The table that the kernel goes by, part by part, and scratch memory of zeros in place of what
  // it had.
  virtual void hold(const std::vector<std::vector<AddressOrNumber>>& table,
                    int64_t scratch_bytes) = 0;
  // Waits for the end, as eval_and_spin does.
  virtual void run(const EncodeLaunch& launch, double spin_seconds) = 0;
};
using EncodeKernelMaker = std::function<std::unique_ptr<EncodeKernel>(const EncodeForm& form)>;
std::unique_ptr<EncodeKernel> make_cuda_encode(const EncodeForm& form,
                                               const std::shared_ptr<KernelCode>& code);

// A model's weights, as encoder.cpp holds them; they must outlive the step, at the same addresses.
struct EncodeNorm {
  const mx::array* weight = nullptr;
  const std::optional<mx::array>* bias = nullptr;
};
struct EncodeLayer {
  const Matrix *qkv = nullptr, *output = nullptr, *up = nullptr, *down = nullptr;
  EncodeNorm attention_norm, output_norm;
};
struct EncodeWeights {
  const Matrix *tokens = nullptr, *positions = nullptr, *types = nullptr;  // types: null, none
  EncodeNorm sum_norm;
  std::vector<EncodeLayer> layers;
};

class EncodeStep {
 public:
  // Null where the kernel has no form for the model: dense matrices in 16 bits, as activations.
  static std::unique_ptr<EncodeStep> make(const EncodeKernelMaker& make, const EncodeForm& form,
                                          const EncodeWeights& weights);

  // Of working memory for so many rows.
  int64_t bytes(int rows) const { return encode_scratch(form_, rows).bytes; }
  // So many of a batch at most, from now on.
  void hold(int rows);
  int rows_max() const { return rows_max_; }
  // Texts' vectors, [texts, hidden], where `host` has room until the next run. False: blocks waited
  // in vain for others; `vectors` is nothing then. REQUIRES rows up to rows_max, no empty text.
  bool run(const EncoderBatch& batch, HostPages& host, double spin_seconds,
           std::span<const float>& vectors);

 private:
  EncodeStep() = default;

  EncodeForm form_;
  std::unique_ptr<EncodeKernel> kernel_;
  std::vector<std::vector<AddressOrNumber>> table_;  // the model's part, without where what lies
  int rows_max_ = 0, memory_ = 0, blocks_ = 0;
};

}  // namespace impetus::mlx_backend

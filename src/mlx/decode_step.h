// A whole decode step in one launch on CUDA (kernels/decode_step.cuh): no host between its parts.
// Includes MLX: only the sources of this folder include this.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "mlx/decode_kernels.h"

namespace impetus::mlx_backend {

// What the kernel is compiled for, and what it is given of a model.
struct StepForm {
  DecodeShape shape;
  std::vector<int> formats;  // of its matrices: bits * 1000 + group, dense 16000
  int layers = 0, hidden = 0, feed_forward = 0, vocab = 0, slots = 0;
  float epsilon = 0;
};

// Consumer warps of a block, which multiply, and producers, which ask for weights; rows of a
// launch.
inline constexpr int kStepWarps = 8, kStepProducerWarps = 4, kStepRowsMax = 8;

// Where in its scratch memory a step leaves what one part makes for the next: in bytes, in the
// order of StepPlace in kernels/decode_step.cuh.
struct StepScratchPlan {
  std::vector<int64_t> places;
  int64_t bytes = 0;
};
StepScratchPlan step_scratch(const StepForm& form, int rows, int blocks);
// How many of a block's warps share the columns of a tile of a product's outputs, as a power of
// two: so many that all blocks are busy to the end. `gates`: outputs that are two, one the other's
// gate.
int step_split(int format, int columns, int outputs, bool gates, int blocks);
// The table's numbers, in the order of StepNumber there.
std::vector<int64_t> step_numbers(const StepForm& form);
// Shared memory of a block for so many rows, without the ring of weights; a stage of that.
int step_shared_bytes(const StepForm& form, int rows);
int step_stage_bytes(const StepForm& form);
// All of it, of a card whose blocks have `most`: one of few sizes, each a kernel of its own.
// nullopt: there is not enough.
std::optional<int> step_memory(const StepForm& form, int rows, int most);
// Rows of a launch on such a card; 0: not even one.
int step_rows_max(const StepForm& form, int most);

struct StepInputs {
  mx::array table, pools;  // i64: addresses
  mx::array tokens;        // i32 [rows or more]
  mx::array plan;          // i32 [rows, width], as AttendStep has it
  mx::array scratch;       // u8, written behind MLX's back
  mx::array after;         // i32: what the launch before has made, or they might run at once
};
struct StepOutputs {
  mx::array logits = mx::array(0.0f);  // f32 [rows, vocab]
  // i32 [2] each, which MLX keeps where the host reads it: ids, -1 not finite, -2 blocks gave up.
  std::vector<mx::array> best;
  mx::array next = mx::array(0);  // i32 [rows or more]
};

// Where the kernel runs. Lazy, as MLX's operations are.
class StepKernel {
 public:
  virtual ~StepKernel() = default;
  // Blocks that run at once.
  virtual int blocks() = 0;
  // i64 [of.size()]: where the arrays are, or the numbers themselves.
  virtual mx::array addresses(const std::vector<std::variant<mx::array, int64_t>>& of) = 0;
  // `memory`: of step_memory.
  virtual StepOutputs run(const StepInputs& inputs, int rows, int memory, int blocks) = 0;
};
using StepKernelMaker = std::function<std::unique_ptr<StepKernel>(const StepForm& form)>;
std::unique_ptr<StepKernel> make_cuda_step(const StepForm& form,
                                           const std::shared_ptr<KernelCode>& code);

// A model's weights, as decoder.cpp holds them; they must outlive the step, at the same addresses.
struct StepLayer {
  const Matrix *qkv = nullptr, *output = nullptr, *gate_up = nullptr, *down = nullptr;
  const mx::array *attention_norm = nullptr, *feed_forward_norm = nullptr;
  const mx::array *q_norm = nullptr, *k_norm = nullptr;  // null: none
};
struct StepWeights {
  std::vector<StepLayer> layers;
  const Matrix *embedding = nullptr, *head = nullptr;
  const mx::array* final_norm = nullptr;
};

class DecodeStep {
 public:
  // Null where the kernel has no form for the model: activations in 16 bits; matrices dense in
  // their type or of 4 or 8 bits; no biases but those of q, k and v. `logit_elements`: that may
  // stand.
  static std::unique_ptr<DecodeStep> make(const StepKernelMaker& make, const DecodeShape& shape,
                                          const ModelSpec& spec, const StepWeights& weights,
                                          const KvPool& kv, bool device, int64_t logit_elements);

  // Bytes that the working memory of steps takes.
  int64_t bytes() const { return scratch_plan_.bytes; }
  int rows_max() const { return rows_max_; }  // of one launch
  // Of so many launches, one behind another; REQUIRES two sequences a launch, or one launch.
  int rows_of(int launches) const { return launches == 1 ? rows_max_ : launches * several(); }
  // What `run` takes from now on.
  void set_launches(int launches) { rows_ = rows_of(launches); }
  int rows() const { return rows_; }
  // `plan`: as AttendStep has it, of up to rows(); `tokens`: i32, at least its rows. Writes into
  // the pool behind MLX's back, as DecodeKernels::attend does.
  StepOutputs run(const AttendStep& step, const mx::array& tokens, const KvPool& kv);
  // What the pool's arrays were is no longer so: MLX wrote or moved them.
  void forget_pools() { pools_.reset(); }

 private:
  DecodeStep() = default;
  // Sequences of one launch among several: what the host reads stands in pairs.
  int several() const { return rows_max_ / 2 * 2; }
  StepOutputs launch(const StepInputs& inputs, int rows);

  std::unique_ptr<StepKernel> kernel_;
  mx::array frequencies_ = mx::array(0.0f);  // its address is in the table
  mx::array table_ = mx::array(0), scratch_ = mx::array(0);
  std::optional<mx::array> pools_;
  StepScratchPlan scratch_plan_;
  // Two sizes, so that loading compiles both: one row is the most frequent.
  int memory_of_one_ = 0, memory_ = 0;
  int blocks_ = 0, rows_max_ = 0, rows_ = 0;
};

}  // namespace impetus::mlx_backend

// The executor behind decoder.h: loaded in decoder_load.cpp, stepped in decoder.cpp. Includes MLX:
// only these two include this.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mlx/decode_kernels.h"
#include "mlx/decode_step.h"
#include "mlx/decoder.h"
#include "mlx/host_pages.h"
#include "mlx/kv_pool.h"
#include "mlx/padded_attention.h"
#include "mlx/prefill_kernel.h"
#include "mlx/rotary.h"
#include "mlx/row_kernels.h"
#include "mlx/step_plan.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {

struct Layer {
  mx::array attention_norm = mx::array(0.0f), feed_forward_norm = mx::array(0.0f);
  std::optional<mx::array> q_norm, k_norm;
  std::vector<Matrix> qkv, gate_up;  // each by itself, or joined to one
  Matrix output, down;

  std::vector<Matrix*> matrices() {
    std::vector<Matrix*> all = {&output, &down};
    for (Matrix& matrix : qkv) all.push_back(&matrix);
    for (Matrix& matrix : gate_up) all.push_back(&matrix);
    return all;
  }
};

// Tokens that are none: as kernels/decode_step.cuh has them.
constexpr int32_t kNotFinite = -1, kGaveUp = -2;

// Logits of some rows, not yet evaluated.
struct Logits {
  int64_t first = 0, rows = 0;         // of the plan's outputs
  mx::array values = mx::array(0.0f);  // [rows, vocab] f32
  // i32, `best_rows` each: the likeliest, of equal ones the smallest id; kNotFinite
  // where a logit is infinite or NaN. There when `wanted` is.
  std::vector<mx::array> best, wanted;
  int64_t best_rows = 0;
  int32_t best_of(int64_t row) const {
    return best[static_cast<size_t>(row / best_rows)].data<int32_t>()[row % best_rows];
  }
  // Of a step in one launch.
  bool gave_up() const {
    for (int64_t row = 0; row < rows; ++row) {
      if (best_of(row) == kGaveUp) return true;
    }
    return false;
  }
  // i32 [rows or more]: the tokens of the step after this one. An array of its own: MLX moves what
  // the host reads, and a step that runs ahead might read where it was.
  mx::array next = mx::array(0);
  // How the device draws each row's token; and these, i32 [rows], where not all are the likeliest:
  // ids, or kNotDrawn. There when `wanted` is.
  std::vector<Draw> draws;
  std::optional<mx::array> drawn;
  int32_t token_of(int64_t row) const { return drawn ? drawn->data<int32_t>()[row] : best_of(row); }
};

// A step whose graph is built: what it was planned as, and what will be read of it.
struct Built {
  StepPlan plan;
  std::vector<Logits> logits;
};

// Executor and the Ops of decoder_forward in one: a step's state lives in the members.
class MlxDecoder final : public Executor {
 public:
  MlxDecoder(std::shared_ptr<const Machine> machine, const ModelSpec& spec)
      : machine_(std::move(machine)),
        spec_(spec),
        host_(!machine_->cpu, machine_->cuda || machine_->as_gpu) {}
  ~MlxDecoder() override;

  Result<void> load(const WeightSet& weights, const LoadOptions& options, MemoryLedger& ledger);

  const BackendDescriptor& descriptor() const override { return machine_->descriptor; }
  const KvStorage& kv() const override { return *kv_; }
  KvStorage& kv() override { return *kv_; }
  int64_t step_tokens_max() const override { return step_tokens_max_; }
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override;

  DecoderCounters counters() const {
    return {ahead_used_,   ahead_dropped_, kv_->copies(), own_kernels_, whole_steps_,
            own_prefills_, own_places_,    drawn_,        dequantised_, borrowed_bytes_};
  }

  void embed();
  void attention_inputs(int64_t layer);
  void narrow();
  void attention(int64_t layer);
  void attention_output(int64_t layer);
  void feed_forward(int64_t layer);
  void head();

 private:
  bool gpu_paths() const { return !machine_->cpu || machine_->as_gpu; }
  // One attention for many sequences wants a mask. With one, MLX on CUDA leaves its own kernel for
  // cuDNN's, which is built anew for each length: 16 sequences made 11 tokens a second on an H200.
  bool one_attention() const { return gpu_paths() && !machine_->cuda; }
  Result<std::vector<SequenceResult>> step(std::span<const SequenceStep> batch);
  std::vector<SequenceResult> step(std::span<const SequenceStep> batch, bool look_ahead);
  void check_few_rows();
  void make_whole_step(MemoryLedger& ledger);
  double whole_step_error();
  // How many of its launches make a step of more sequences.
  void choose_step_launches();
  void drop_whole_step();
  std::vector<float> probe(int64_t sequences);
  void run_whole_step();
  void draw(Logits& part);
  mx::array step_tokens();
  void warm();
  bool warm(int64_t sequences, int64_t tokens);
  // `draws`: of each sequence's token, where the batch does not say itself.
  void build(std::span<const SequenceStep> batch, std::vector<Draw> draws = {});
  bool drawn_so(const SequenceStep& step, const Logits& logits, int64_t row) const {
    return draw_of(step, spec_.vocab) == logits.draws[static_cast<size_t>(row)];
  }
  mx::array product(const Matrix& matrix, const mx::array& x);
  void choose_dequantised(MemoryLedger& ledger);
  void keep_pace();
  mx::array normed(const mx::array& weight);
  void add(const mx::array& x, const mx::array& next_norm);
  void enqueue(const std::vector<Logits>& logits);
  bool foresee(std::span<const SequenceStep> batch, const Built& step);
  bool finish(std::span<const SequenceStep> batch, Built& step, bool foreseen,
              std::vector<SequenceResult>& results);
  void finish_row(const SequenceStep& step, int64_t position, int64_t at, const Logits& logits,
                  SequenceResult& result);
  void run_ahead(std::span<const SequenceStep> batch, std::span<const SequenceResult> results);
  void wait();
  void forget();
  void check_whole_step(const Logits& logits);

  mx::array heads_of(const mx::array& rows, int64_t heads) const;

  std::shared_ptr<const Machine> machine_;
  ModelSpec spec_;
  int64_t step_tokens_max_ = 0;
  mx::Dtype type_ = mx::float32;
  Matrix embedding_, head_;
  bool tied_ = false;
  std::vector<Layer> layers_;
  mx::array final_norm_ = mx::array(0.0f);
  std::unique_ptr<Rotary> rotary_;
  std::unique_ptr<KvPool> kv_;
  Reservation weights_reservation_, scratch_reservation_;
  LimitShare limit_;
  int64_t borrowed_bytes_ = 0;
  std::function<std::vector<mx::array>(const std::vector<mx::array>&)> gated_, finite_;
  std::unique_ptr<DecodeKernels> kernels_;
  bool few_rows_ = false;  // whether they multiply, too
  DecodeShape shape_;
  std::unique_ptr<DecodeStep> whole_step_;
  Reservation whole_step_reservation_;
  LimitShare whole_step_limit_;
  Reservation dequantised_reservation_;
  LimitShare dequantised_limit_;
  std::unique_ptr<PrefillKernel> prefill_;
  std::unique_ptr<RowKernels> row_kernels_;
  bool device_draws_ = false;  // whether they draw, too
  SamplerScratch sampler_;

  // The step that is built.
  StepPlan plan_;
  std::vector<Draw> draws_;  // a sequence
  HostPages host_;
  std::optional<mx::array> residual_;  // [active rows, hidden]
  std::optional<mx::array>
      query_;  // one sequence: [1, heads, rows, head_dim]; else [rows, heads, 1, ..]
  std::optional<mx::array> attended_;  // [active rows, heads * head_dim]
  // Where kernels of our own run the step: what they are launched with, what they take of q, k and
  // v, and the residual's norm, where it is made with the sum.
  std::optional<AttendStep> attend_;
  std::optional<mx::array> qkv_, normed_;
  // Where one launch of our own attends to all sequences: the last; those before are held till the
  // step has run.
  std::vector<PrefillStep> prefill_steps_;
  // Where kernels of our own run a prompt's rows, too; and the last queries, where no row's logits
  // are wanted: what must be made for keys and values to be written.
  std::optional<PlaceStep> place_;
  std::optional<mx::array> placed_;
  std::optional<mx::array> slots_;
  std::optional<PaddedStep> padded_;
  // Where matrices are dequantised: whether this layer's are, and the end of the layer before,
  // which the device may still compute.
  bool dequantises_ = false;
  std::optional<mx::array> before_;
  std::optional<mx::array> tokens_;  // i32 [rows], where the device has them before the host
  std::vector<Logits> logits_;

  // The step that runs ahead, if any: what it was built for.
  std::optional<StepKey> ahead_;
  bool in_flight_ = false, next_enqueued_ = false;
  // Steps that are not foreseen yet, after one whose token the host had to draw.
  int not_foreseen_ = 0;
  int64_t ahead_used_ = 0, ahead_dropped_ = 0, own_kernels_ = 0, own_prefills_ = 0;
  int64_t whole_steps_ = 0, own_places_ = 0, drawn_ = 0, dequantised_ = 0;
};

}  // namespace impetus::mlx_backend

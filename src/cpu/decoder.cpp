#include "cpu/decoder.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "architectures/decoder_forward.h"
#include "cpu/kv_storage.h"

namespace impetus::cpu {
namespace {

// Query rows of one attention item: enough to use a key tile well, few enough to share out.
constexpr int64_t kAttentionRows = 64;
// Rows of logits at a time.
constexpr int64_t kLogitRows = 64;

struct Layer {
  std::vector<float> attention_norm, feed_forward_norm, q_norm, k_norm;
  PackedLinear qkv, output, gate_up, down;
};

bool all_finite(std::span<const float> values) {
  uint32_t bad = 0;
  for (const float value : values) {
    bad |= (std::bit_cast<uint32_t>(value) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  }
  return bad == 0;
}

// Executor and the Ops of decoder_forward in one: a step's state lives in the members.
class CpuDecoder final : public Executor {
 public:
  CpuDecoder(std::shared_ptr<Machine> machine, const ModelSpec& spec)
      : machine_(std::move(machine)), spec_(spec), group_(spec.heads / spec.kv_heads) {}

  Result<void> load(const DecoderWeights& tensors, const WeightSet& weights,
                    const LoadOptions& options, MemoryLedger& ledger);

  const BackendDescriptor& descriptor() const override { return machine_->descriptor; }
  const KvStorage& kv() const override { return *kv_; }
  KvStorage& kv() override { return *kv_; }
  int64_t step_tokens_max() const override { return step_tokens_max_; }
  Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) override {
    return guarded(spec_.family, [&] { return step(batch); });
  }

  void embed();
  void attention_inputs(int64_t layer);
  void narrow();
  void attention(int64_t layer);
  void attention_output(int64_t layer);
  void feed_forward(int64_t layer);
  void head();

 private:
  struct Row {
    TokenId token;
    int32_t sequence;
    int64_t position;
  };
  // Consecutive query tokens of one sequence.
  struct AttentionItem {
    int32_t sequence;
    int64_t row;  // in rows_
    int64_t tokens;
  };

  const KernelTable& kernels() const { return *machine_->kernels; }
  Result<std::vector<SequenceResult>> step(std::span<const SequenceStep> batch);
  Result<void> check(std::span<const SequenceStep> batch) const;
  void prepare(std::span<const SequenceStep> batch);
  void plan_attention();
  void carve(std::byte* base, int64_t* bytes);
  void norm_rows(const std::vector<float>& weight, uint8_t forms);
  void finish_row(int64_t output, float* logits, int thread);

  std::shared_ptr<Machine> machine_;
  ModelSpec spec_;
  int64_t group_;
  int64_t step_tokens_max_ = 0;
  ThreadPlan threads_;
  TensorView embedding_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  PackedLinear head_;
  PackedWeights packed_;
  std::vector<float> frequencies_;
  std::unique_ptr<CpuKvStorage> kv_;
  uint8_t forms_ = 0;

  // Working memory, for step_tokens_max_ rows.
  Reservation scratch_reservation_;
  Memory scratch_;
  int64_t residual_stride_ = 0;
  float* residual_ = nullptr;  // [rows, residual_stride_]
  float* qkv_ = nullptr;       // [rows, columns of qkv]
  float* query_ = nullptr;     // [kv_heads, rows of the step, group, head_dim]
  float* attended_ = nullptr;  // the same
  float* cosine_ = nullptr;    // [rows, head_dim / 2]
  float* sine_ = nullptr;
  int32_t* visible_ = nullptr;       // [rows, group]
  float* logits_ = nullptr;          // [kLogitRows, columns of head]
  float* hidden_scratch_ = nullptr;  // [threads, kHiddenScratch]
  Activations wide_;                 // inputs of all products but down
  Activations hidden_;               // input of down

  // The step that runs.
  std::span<const SequenceStep> batch_;
  std::vector<SequenceResult>* results_ = nullptr;
  std::vector<Row> rows_;
  std::vector<int64_t> outputs_;  // rows whose logits are wanted, rising
  std::vector<int64_t> active_;   // row of each row that still runs
  std::vector<AttentionItem> items_;
  struct ThreadState {
    std::vector<const void*> key_blocks, value_blocks;
    SamplerScratch sampler;
  };
  std::vector<ThreadState> thread_states_;
};

Result<void> CpuDecoder::load(const DecoderWeights& tensors, const WeightSet& weights,
                              const LoadOptions& options, MemoryLedger& ledger) {
  if (spec_.activation != Activation::silu) {
    return error(ErrorCode::unsupported, "{}: decoders run with the SiLU activation only",
                 spec_.family);
  }
  if (options.step_tokens_max < 1) {
    return error(ErrorCode::invalid_argument, "a step of at most {} tokens runs nothing",
                 options.step_tokens_max);
  }
  step_tokens_max_ = options.step_tokens_max;
  threads_ = options.threads;
  embedding_ = tensors.embedding->view;
  frequencies_ = spec_.rope_frequencies();

  WeightPacker packer(weights, options.weights, machine_->pool);
  layers_.resize(tensors.layers.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const DecoderWeights::Layer& from = tensors.layers[i];
    Layer& to = layers_[i];
    to.attention_norm = to_floats(*from.attention_norm.weight);
    to.feed_forward_norm = to_floats(*from.feed_forward_norm.weight);
    if (spec_.qk_norm) {
      to.q_norm = to_floats(*from.q_norm.weight);
      to.k_norm = to_floats(*from.k_norm.weight);
    }
    IMPETUS_CHECK(packer.add(to.qkv, std::array{from.q, from.k, from.v}));
    IMPETUS_CHECK(packer.add(to.output, std::array{from.output}));
    IMPETUS_CHECK(packer.add(to.gate_up, std::array{from.gate, from.up}));
    IMPETUS_CHECK(packer.add(to.down, std::array{from.down}));
    forms_ |= to.qkv.forms | to.output.forms | to.gate_up.forms | to.down.forms;
  }
  final_norm_ = to_floats(*tensors.final_norm.weight);
  IMPETUS_CHECK(packer.add(head_, std::array{tensors.head}));
  forms_ |= head_.forms;
  IMPETUS_TRY(packed_, packer.pack(fmt::format("{}: weights", spec_.family), ledger));
  IMPETUS_TRY(kv_, CpuKvStorage::create(spec_, options.kv, options.kv_tokens, ledger));

  int64_t bytes = 0;
  carve(nullptr, &bytes);
  const auto threads = static_cast<size_t>(machine_->pool.capacity());
  // Samplers grow to a few arrays of the vocabulary each.
  const int64_t samplers = static_cast<int64_t>(threads) * spec_.vocab * 44;
  const auto purpose =
      fmt::format("{}: working memory of {} tokens", spec_.family, step_tokens_max_);
  IMPETUS_TRY(scratch_reservation_, ledger.reserve(bytes + samplers, purpose));
  IMPETUS_TRY(scratch_, Memory::map(bytes, purpose, false));
  carve(scratch_.data(), &bytes);
  thread_states_.resize(threads);
  return {};
}

void CpuDecoder::carve(std::byte* base, int64_t* bytes) {
  Carver carver(base);
  const int64_t rows = step_tokens_max_;
  const int64_t all_heads = spec_.heads * spec_.head_dim;
  residual_stride_ = round_up(spec_.hidden, kPanel);
  residual_ = carver.take<float>(rows * residual_stride_);
  qkv_ = carver.take<float>(rows * layers_.front().qkv.columns);
  query_ = carver.take<float>(rows * all_heads);
  attended_ = carver.take<float>(rows * all_heads);
  cosine_ = carver.take<float>(rows * (spec_.head_dim / 2));
  sine_ = carver.take<float>(rows * (spec_.head_dim / 2));
  visible_ = carver.take<int32_t>(rows * group_);
  logits_ = carver.take<float>(std::min(rows, kLogitRows) * head_.columns);
  hidden_scratch_ = carver.take<float>(machine_->pool.capacity() * kHiddenScratch);
  wide_ = Activations(carver, rows, std::max(spec_.hidden, all_heads), forms_);
  hidden_ = Activations(carver, rows, spec_.feed_forward, forms_);
  *bytes = carver.used();
}

Result<void> CpuDecoder::check(std::span<const SequenceStep> batch) const {
  int64_t total = 0;
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const auto count = static_cast<int64_t>(step.tokens.size());
    constexpr auto kBad = ErrorCode::invalid_argument;
    if (count == 0) return error(kBad, "sequence {} of the step has no tokens", s);
    if (step.position < 0) return error(kBad, "sequence {}: position {}", s, step.position);
    total += count;
    if (total > step_tokens_max_) {
      return error(kBad, "a step of more than {} tokens, the most that this model was loaded for",
                   step_tokens_max_);
    }
    if (step.position > spec_.context - count) {
      return error(ErrorCode::context_length,
                   "sequence {}: {} tokens from position {} on exceed the context of {}", s, count,
                   step.position, spec_.context);
    }
    const int64_t needed = (step.position + count - 1) / CpuKvStorage::kBlockTokens + 1;
    if (static_cast<int64_t>(step.blocks.size()) < needed) {
      return error(kBad, "sequence {}: {} KV blocks where {} positions need {}", s,
                   step.blocks.size(), step.position + count, needed);
    }
    for (const BlockId block : step.blocks.first(static_cast<size_t>(needed))) {
      if (block < 0 || block >= kv_->blocks()) {
        return error(kBad, "sequence {}: KV block {} of {}", s, block, kv_->blocks());
      }
    }
    for (const TokenId token : step.tokens) {
      if (token < 0 || token >= spec_.vocab) {
        return error(kBad, "sequence {}: token {} is outside the vocabulary of {}", s, token,
                     spec_.vocab);
      }
    }
    if (step.output == StepOutput::sample && step.sampling == nullptr) {
      return error(kBad, "sequence {} asks for a token without sampling parameters", s);
    }
  }
  return {};
}

void CpuDecoder::prepare(std::span<const SequenceStep> batch) {
  batch_ = batch;
  rows_.clear();
  outputs_.clear();
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const auto first = static_cast<int64_t>(rows_.size());
    for (size_t i = 0; i < step.tokens.size(); ++i) {
      rows_.push_back(
          {step.tokens[i], static_cast<int32_t>(s), step.position + static_cast<int64_t>(i)});
    }
    const auto end = static_cast<int64_t>(rows_.size());
    if (step.output == StepOutput::none) continue;
    for (int64_t r = step.output == StepOutput::logits_all ? first : end - 1; r < end; ++r) {
      outputs_.push_back(r);
    }
    if (step.output != StepOutput::sample) {
      const auto wanted = step.output == StepOutput::logits_all ? step.tokens.size() : 1;
      (*results_)[s].logits.resize(wanted * static_cast<size_t>(spec_.vocab));
    }
  }
  active_.resize(rows_.size());
  for (size_t r = 0; r < active_.size(); ++r) active_[r] = static_cast<int64_t>(r);
  plan_attention();

  int64_t blocks = 0;
  for (const Row& row : rows_) {
    blocks = std::max(blocks, row.position / CpuKvStorage::kBlockTokens + 1);
  }
  for (ThreadState& state : thread_states_) {
    state.key_blocks.resize(static_cast<size_t>(blocks));
    state.value_blocks.resize(static_cast<size_t>(blocks));
  }
  const int64_t half = spec_.head_dim / 2;
  machine_->pool.parallel_ranges(
      static_cast<int64_t>(rows_.size()), 64, [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          const int64_t position = rows_[static_cast<size_t>(r)].position;
          for (int64_t g = 0; g < group_; ++g) {
            visible_[r * group_ + g] = static_cast<int32_t>(position + 1);
          }
          for (int64_t i = 0; i < half; ++i) {
            const double angle = static_cast<double>(position) *
                                 static_cast<double>(frequencies_[static_cast<size_t>(i)]);
            cosine_[r * half + i] = static_cast<float>(std::cos(angle));
            sine_[r * half + i] = static_cast<float>(std::sin(angle));
          }
        }
      });
}

// Groups the active rows into items: runs of one sequence's consecutive tokens.
void CpuDecoder::plan_attention() {
  items_.clear();
  const int64_t most = std::max<int64_t>(1, kAttentionRows / group_);
  for (const int64_t r : active_) {
    const int32_t sequence = rows_[static_cast<size_t>(r)].sequence;
    if (!items_.empty() && items_.back().sequence == sequence && items_.back().tokens < most) {
      ++items_.back().tokens;
    } else {
      items_.push_back({sequence, r, 1});
    }
  }
}

Result<std::vector<SequenceResult>> CpuDecoder::step(std::span<const SequenceStep> batch) {
  IMPETUS_CHECK(check(batch));
  std::vector<SequenceResult> results(batch.size());
  if (batch.empty()) return results;
  results_ = &results;
  const bool decodes =
      std::ranges::all_of(batch, [](const auto& s) { return s.tokens.size() == 1; });
  machine_->pool.set_threads(decodes ? threads_.decode : threads_.prefill);
  prepare(batch);
  decoder_forward(spec_, *this);
  for (SequenceResult& result : results) result.ran_on = &machine_->descriptor;
  return results;
}

void CpuDecoder::embed() {
  const auto rows = static_cast<int64_t>(rows_.size());
  machine_->pool.parallel_ranges(rows, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      float* to = residual_ + r * residual_stride_;
      dequantize_row(embedding_, rows_[static_cast<size_t>(r)].token, to);
      // What stands beyond is never read as a value, but products accumulate onto it.
      std::fill(to + spec_.hidden, to + residual_stride_, 0.0f);
    }
  });
}

// wide_ = norm of the active rows, in the forms asked for.
void CpuDecoder::norm_rows(const std::vector<float>& weight, uint8_t forms) {
  wide_.set_width(spec_.hidden);
  const int64_t grain = std::max<int64_t>(1, 8192 / spec_.hidden);
  machine_->pool.parallel_ranges(
      static_cast<int64_t>(active_.size()), grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          kernels().rms_norm(residual_ + r * residual_stride_, weight.data(), spec_.norm_eps,
                             spec_.hidden, wide_.row(r));
        }
        wide_.convert(kernels(), forms, begin, end);
      });
}

void CpuDecoder::attention_inputs(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const int64_t columns = layer.qkv.columns;
  const auto rows = static_cast<int64_t>(rows_.size());
  norm_rows(layer.attention_norm, layer.qkv.forms);
  multiply(*machine_, layer.qkv, wide_, rows, qkv_, columns, false);

  const int64_t width = spec_.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  const auto rope =
      spec_.rope_pairs == RopePairs::halves ? kernels().rope_halves : kernels().rope_neighbours;
  const auto type = static_cast<size_t>(kv_->kernel_type());
  const int64_t grain = std::max<int64_t>(1, 16384 / columns);
  machine_->pool.parallel_ranges(rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const Row& row = rows_[static_cast<size_t>(r)];
      const float* cosine = cosine_ + r * (width / 2);
      const float* sine = sine_ + r * (width / 2);
      const auto rotate = [&](float* head, const std::vector<float>& norm) {
        if (spec_.qk_norm) kernels().rms_norm(head, norm.data(), spec_.norm_eps, width, head);
        rope(head, cosine, sine, width);
      };
      float* q = qkv_ + r * columns + layer.qkv.segments[0].first_column;
      float* k = qkv_ + r * columns + layer.qkv.segments[1].first_column;
      const float* v = qkv_ + r * columns + layer.qkv.segments[2].first_column;
      for (int64_t h = 0; h < spec_.heads; ++h) {
        rotate(q + h * width, layer.q_norm);
        float* to = query_ + (((h / group_) * rows + r) * group_ + h % group_) * width;
        for (int64_t i = 0; i < width; ++i) to[i] = q[h * width + i] * scale;
      }
      const auto& blocks = batch_[static_cast<size_t>(row.sequence)].blocks;
      const BlockId block = blocks[static_cast<size_t>(row.position / CpuKvStorage::kBlockTokens)];
      const int64_t slot = row.position % CpuKvStorage::kBlockTokens;
      for (int64_t h = 0; h < spec_.kv_heads; ++h) {
        rotate(k + h * width, layer.k_norm);
        kernels().store_key[type](k + h * width, width, slot, kv_->keys(block, index, h));
        kernels().store_value[type](v + h * width, width, slot, kv_->values(block, index, h));
      }
    }
  });
}

void CpuDecoder::narrow() {
  active_ = outputs_;
  for (size_t i = 0; i < active_.size(); ++i) {
    if (active_[i] == static_cast<int64_t>(i)) continue;
    std::memcpy(residual_ + static_cast<int64_t>(i) * residual_stride_,
                residual_ + active_[i] * residual_stride_,
                static_cast<size_t>(residual_stride_) * sizeof(float));
  }
  plan_attention();
}

void CpuDecoder::attention(int64_t index) {
  const auto rows = static_cast<int64_t>(rows_.size());
  const auto type = static_cast<size_t>(kv_->kernel_type());
  const int64_t width = spec_.head_dim;
  const auto run = [&](int64_t work, int thread) {
    // Later tokens see more keys: they go first, so that the last item is a short one.
    const AttentionItem& item =
        items_[items_.size() - 1 - static_cast<size_t>(work / spec_.kv_heads)];
    const int64_t head = work % spec_.kv_heads;
    ThreadState& state = thread_states_[static_cast<size_t>(thread)];
    const auto& blocks = batch_[static_cast<size_t>(item.sequence)].blocks;
    const int64_t last = rows_[static_cast<size_t>(item.row + item.tokens - 1)].position;
    const auto count = static_cast<size_t>(last / CpuKvStorage::kBlockTokens + 1);
    for (size_t b = 0; b < count; ++b) {
      state.key_blocks[b] = kv_->keys(blocks[b], index, head);
      state.value_blocks[b] = kv_->values(blocks[b], index, head);
    }
    const int64_t at = (head * rows + item.row) * group_ * width;
    AttentionArgs args{};
    args.query = query_ + at;
    args.query_stride = width;
    args.out = attended_ + at;
    args.out_stride = width;
    args.rows = static_cast<int32_t>(item.tokens * group_);
    args.visible = visible_ + item.row * group_;
    args.key_blocks = state.key_blocks.data();
    args.value_blocks = state.value_blocks.data();
    args.block_tokens = CpuKvStorage::kBlockTokens;
    args.head_dim = static_cast<int32_t>(width);
    kernels().attention[type](args);
  };
  machine_->pool.parallel_for(static_cast<int64_t>(items_.size()) * spec_.kv_heads, run);
}

void CpuDecoder::attention_output(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const auto rows = static_cast<int64_t>(rows_.size());
  const int64_t group_width = group_ * spec_.head_dim;
  const int64_t all_heads = spec_.heads * spec_.head_dim;
  wide_.set_width(all_heads);
  const int64_t grain = std::max<int64_t>(1, 16384 / all_heads);
  machine_->pool.parallel_ranges(
      static_cast<int64_t>(active_.size()), grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t r = active_[static_cast<size_t>(i)];
          for (int64_t head = 0; head < spec_.kv_heads; ++head) {
            std::memcpy(wide_.row(i) + head * group_width,
                        attended_ + (head * rows + r) * group_width,
                        static_cast<size_t>(group_width) * sizeof(float));
          }
        }
        wide_.convert(kernels(), layer.output.forms, begin, end);
      });
  multiply(*machine_, layer.output, wide_, static_cast<int64_t>(active_.size()), residual_,
           residual_stride_, true);
}

void CpuDecoder::feed_forward(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const auto rows = static_cast<int64_t>(active_.size());
  norm_rows(layer.feed_forward_norm, layer.gate_up.forms);
  hidden_.set_width(spec_.feed_forward);
  multiply_activate(*machine_, layer.gate_up, wide_, rows, nullptr, hidden_, layer.down.forms,
                    hidden_scratch_);
  multiply(*machine_, layer.down, hidden_, rows, residual_, residual_stride_, true);
}

void CpuDecoder::head() {
  const auto rows = static_cast<int64_t>(active_.size());
  norm_rows(final_norm_, 0);
  const int64_t chunk = std::min(step_tokens_max_, kLogitRows);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    // The product reads rows from 0 on.
    if (first > 0) {
      for (int64_t r = 0; r < count; ++r) {
        std::memcpy(wide_.row(r), wide_.row(first + r),
                    static_cast<size_t>(spec_.hidden) * sizeof(float));
      }
    }
    wide_.convert(kernels(), head_.forms, 0, count);
    multiply(*machine_, head_, wide_, count, logits_, head_.columns, false);
    const auto masked = [&](int64_t r) {
      const Row& row = rows_[static_cast<size_t>(outputs_[static_cast<size_t>(first + r)])];
      return batch_[static_cast<size_t>(row.sequence)].context.mask != nullptr;
    };
    machine_->pool.parallel_for(count, [&](int64_t r, int thread) {
      if (!masked(r)) finish_row(first + r, logits_ + r * head_.columns, thread);
    });
    // Masks are called on the driving thread only.
    for (int64_t r = 0; r < count; ++r) {
      if (masked(r)) finish_row(first + r, logits_ + r * head_.columns, 0);
    }
  }
}

// What output row `output` wants of its logits. Runs on any worker, so nothing may be thrown.
void CpuDecoder::finish_row(int64_t output, float* logits, int thread) {
  const int64_t r = outputs_[static_cast<size_t>(output)];
  const Row& row = rows_[static_cast<size_t>(r)];
  const SequenceStep& step = batch_[static_cast<size_t>(row.sequence)];
  SequenceResult& result = (*results_)[static_cast<size_t>(row.sequence)];
  const std::span<float> values(logits, static_cast<size_t>(spec_.vocab));
  const bool sampled = step.output == StepOutput::sample;
  if (!sampled) {
    const int64_t at = step.output == StepOutput::logits_all ? row.position - step.position : 0;
    std::copy(values.begin(), values.end(), result.logits.begin() + at * spec_.vocab);
  }
  if (!all_finite(values)) {
    // Rows of one sequence may run side by side: only the last one's tells of it.
    if (sampled || row.position + 1 == step.position + static_cast<int64_t>(step.tokens.size())) {
      result.token =
          error(ErrorCode::internal,
                "{}: the logits at position {} are not finite; the model's weights or this "
                "prompt overflow its arithmetic",
                spec_.family, row.position);
    }
    return;
  }
  if (!sampled) return;
  result.token = guarded(spec_.family, [&]() -> Result<SampledToken> {
    return sample(values, *step.sampling, step.context,
                  thread_states_[static_cast<size_t>(thread)].sampler);
  });
}

}  // namespace

Result<std::unique_ptr<Executor>> make_decoder(std::shared_ptr<Machine> machine,
                                               const ModelSpec& spec, const DecoderWeights& tensors,
                                               const WeightSet& weights, const LoadOptions& options,
                                               MemoryLedger& ledger) {
  return guarded(spec.family, [&]() -> Result<std::unique_ptr<Executor>> {
    auto decoder = std::make_unique<CpuDecoder>(std::move(machine), spec);
    IMPETUS_CHECK(decoder->load(tensors, weights, options, ledger));
    return std::unique_ptr<Executor>(std::move(decoder));
  });
}

}  // namespace impetus::cpu

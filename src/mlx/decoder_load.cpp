#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <stdexcept>
#include <tuple>

#include "base/guarded.h"
#include "base/log.h"
#include "base/timing.h"
#include "mlx/dequantised.h"
#include "mlx/kernel_check.h"
#include "mlx/mlx_decoder.h"

namespace impetus::mlx_backend {
namespace {

std::vector<mx::array> gated(const std::vector<mx::array>& inputs) {
  return {mx::multiply(mx::multiply(inputs[0], mx::sigmoid(inputs[0])), inputs[1])};
}

std::vector<mx::array> finite(const std::vector<mx::array>& inputs) {
  return {mx::isfinite(inputs[0])};
}

constexpr const char* kWaitedInVain =
    "blocks of threads waited in vain for others; another program may keep a part of this GPU to "
    "itself";

}  // namespace

MlxDecoder::~MlxDecoder() {
  // Arrays go in MLX's turn, and not before what uses them has ended.
  auto done = entered(spec_.family, machine_->cpu, [&]() -> Result<void> {
    forget();
    wait();
    layers_.clear();
    embedding_ = head_ = Matrix();
    final_norm_ = mx::array(0.0f);
    whole_step_.reset();
    kernels_.reset();
    prefill_.reset();
    row_kernels_.reset();
    rotary_.reset();
    kv_.reset();
    host_.clear();
    mx::clear_cache();
    return {};
  });
  (void)done.ok();
}

Result<void> MlxDecoder::load(const WeightSet& weights, const LoadOptions& options,
                              MemoryLedger& ledger) {
  IMPETUS_TRY(const DecoderWeights tensors, resolve_decoder(spec_, weights));
  if (spec_.activation != Activation::silu) {
    return error(ErrorCode::unsupported, "{}: decoders run with the SiLU activation only",
                 spec_.family);
  }
  if (options.step_tokens_max < 1) {
    return error(ErrorCode::invalid_argument, "a step of at most {} tokens runs nothing",
                 options.step_tokens_max);
  }
  step_tokens_max_ = options.step_tokens_max;
  std::vector<const NamedTensor*> matrices;
  for (const auto& layer : tensors.layers) {
    for (const Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down}) {
      matrices.push_back(linear->weight);
    }
  }
  matrices.push_back(tensors.head.weight);
  IMPETUS_TRY(type_, activation_type(matrices, *tensors.final_norm.weight, !machine_->cpu));
  tied_ = tensors.head.weight == tensors.embedding;

  WeightLoader loader(weights, options.weights, type_, machine_->cpu);
  int64_t bytes = 0;
  for (const NamedTensor* tensor : matrices) {
    IMPETUS_TRY(const int64_t one, loader.bytes(*tensor));
    bytes += one;
  }
  if (!tied_ || options.weights == WeightPrecision::int8) {
    bytes += tensors.embedding->view.bytes();
  }
  IMPETUS_TRY(weights_reservation_,
              ledger.reserve(bytes, fmt::format("{}: weights", spec_.family)));
  IMPETUS_TRY(kv_, KvPool::create(spec_, options.kv, type_, options.kv_tokens, machine_->cpu,
                                  !machine_->as_gpu && (machine_->cpu || mx::metal::is_available()),
                                  ledger));
  kv_->set_barrier([this] {
    wait();
    if (whole_step_) whole_step_->forget_pools();
  });
  // The widest that stand at once: a layer's products and their inputs; scores and logits as they
  // are cut; keys and values gathered for a batch; those of three layers, where they are quantised.
  const int64_t widest = 4 * spec_.hidden + 3 * spec_.feed_forward +
                         3 * (spec_.heads + spec_.kv_heads) * spec_.head_dim;
  const int64_t logits =
      std::max(spec_.vocab, std::min(machine_->logit_elements, step_tokens_max_ * spec_.vocab));
  const int64_t layer_kv = 2 * int64_t{kv_->blocks()} * KvPool::kBlockTokens * spec_.kv_heads *
                           spec_.head_dim * static_cast<int64_t>(type_.size());
  const int64_t scratch =
      step_tokens_max_ * widest * static_cast<int64_t>(type_.size()) * 2 +
      (machine_->row_kernels ? 3 : 2) * logits * 4 +
      (gpu_paths() ? 0 : 3 * machine_->score_elements * 4) + host_.bytes() +
      (kv_->quantised() ? 3 * layer_kv : 0) +
      (machine_->row_kernels ? draw_bytes(logits / spec_.vocab, spec_.vocab) : 0);
  IMPETUS_TRY(scratch_reservation_,
              ledger.reserve(scratch, fmt::format("{}: working memory of {} tokens", spec_.family,
                                                  step_tokens_max_)));
  limit_ = LimitShare(bytes + scratch);

  layers_.resize(tensors.layers.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const DecoderWeights::Layer& from = tensors.layers[i];
    Layer& to = layers_[i];
    to.attention_norm = loader.vector(*from.attention_norm.weight);
    to.feed_forward_norm = loader.vector(*from.feed_forward_norm.weight);
    if (spec_.qk_norm) {
      to.q_norm = loader.vector(*from.q_norm.weight);
      to.k_norm = loader.vector(*from.k_norm.weight);
    }
    // Joined where each operation costs the host more than the device; elsewhere they stay where
    // the file is mapped.
    const auto several = [&](std::vector<Matrix>& matrices,
                             std::initializer_list<const Linear*> linears) -> Result<void> {
      for (const Linear* linear : linears) {
        IMPETUS_TRY(Matrix matrix, loader.matrix(*linear));
        matrices.push_back(std::move(matrix));
      }
      if (!machine_->decode_kernels) return {};
      if (auto whole = joined(matrices)) matrices = {std::move(*whole)};
      return {};
    };
    IMPETUS_CHECK(several(to.qkv, {&from.q, &from.k, &from.v}));
    IMPETUS_CHECK(several(to.gate_up, {&from.gate, &from.up}));
    IMPETUS_TRY(to.output, loader.matrix(from.output));
    IMPETUS_TRY(to.down, loader.matrix(from.down));
  }
  final_norm_ = loader.vector(*tensors.final_norm.weight);
  IMPETUS_TRY(head_, loader.matrix(tensors.head));
  if (tied_ && options.weights == WeightPrecision::as_is) {
    embedding_ = head_;
  } else {
    IMPETUS_TRY(embedding_, loader.table(*tensors.embedding));
  }
  borrowed_bytes_ = loader.borrowed_bytes();
  machine_->may_fail("load");
  // MLX's kernel on CUDA is launched with too many threads where heads are small and rows many.
  const bool fused = gpu_paths() && (!machine_->cuda || spec_.head_dim >= 32);
  rotary_ = std::make_unique<Rotary>(spec_, fused);
  gated_ = gated;
  finite_ = finite;
  if (Wall::get().has_gpu() && !machine_->cpu) {
    gated_ = mx::compile(gated, true);
    finite_ = mx::compile(finite, true);
  }
  if (machine_->decode_kernels) {
    shape_ = {static_cast<int>(spec_.heads),
              static_cast<int>(spec_.kv_heads),
              static_cast<int>(spec_.head_dim),
              spec_.rope_pairs == RopePairs::neighbours,
              spec_.qk_norm,
              type_,
              kv_->type()};
    if (kv_->quantised()) {
      log::warn(
          "{}: MLX's operations attend to keys and values in q8_0, not the kernels of our own, "
          "which are faster; --kv f16 uses them",
          spec_.family);
    } else {
      kernels_ = checked_kernels(machine_->decode_kernels, shape_, spec_);
    }
    if (kernels_) check_few_rows();
    if (machine_->row_kernels) {
      row_kernels_ = checked_row_kernels(machine_->row_kernels, shape_, spec_);
      device_draws_ = row_kernels_ && draws_right(*row_kernels_, spec_);
    }
  }
  if (machine_->prefill_kernel && !kv_->quantised()) {
    const PrefillShape shape{static_cast<int>(spec_.heads), static_cast<int>(spec_.kv_heads),
                             static_cast<int>(spec_.head_dim), true, kv_->type()};
    prefill_ = checked_prefill(machine_->prefill_kernel, shape, spec_.family, !machine_->cpu);
  }
  if (kernels_ && machine_->decode_step) make_whole_step(ledger);
  choose_dequantised(ledger);
  warm();
  drop_staging(machine_->cpu);
  return {};
}

// Where it has a form for the model, room, and does here what the operations of a step do.
void MlxDecoder::make_whole_step(MemoryLedger& ledger) {
  StepWeights weights;
  for (const Layer& layer : layers_) {
    if (layer.qkv.size() != 1 || layer.gate_up.size() != 1) return;
    weights.layers.push_back({&layer.qkv.front(), &layer.output, &layer.gate_up.front(),
                              &layer.down, &layer.attention_norm, &layer.feed_forward_norm,
                              layer.q_norm ? &*layer.q_norm : nullptr,
                              layer.k_norm ? &*layer.k_norm : nullptr});
  }
  weights.embedding = &embedding_;
  weights.head = &head_;
  weights.final_norm = &final_norm_;
  const bool right = within(
      spec_.family, "decode steps in one launch", 2 * kernels_error_limit(shape_), [&]() -> double {
        whole_step_ = DecodeStep::make(machine_->decode_step, shape_, spec_, weights, *kv_,
                                       !machine_->cpu, machine_->logit_elements);
        return whole_step_ ? whole_step_error() : 0;
      });
  if (!whole_step_) return;
  auto reserved = ledger.reserve(whole_step_->bytes(),
                                 fmt::format("{}: working memory of decode steps", spec_.family));
  if (!right || !reserved.ok()) {
    whole_step_.reset();
    return;
  }
  whole_step_reservation_ = std::move(*reserved);
  whole_step_limit_ = LimitShare(whole_step_->bytes());
}

// Prompts: from how many rows on matrices of each form (bits, group, mode) are dequantised first,
// by the products of the largest of the form, and room for what then stands of them. Of layers
// alone: few rows reach the head. No plan counts that room: it is left to other models unless there
// is plenty.
void MlxDecoder::choose_dequantised(MemoryLedger& ledger) {
  if (machine_->dequantised_from == 0 && !machine_->product_seconds) return;
  const int64_t fewest =
      machine_->dequantised_from > 0 ? machine_->dequantised_from : kDequantisedRows.back();
  if (step_tokens_max_ < fewest) return;
  std::map<std::tuple<int, int, std::string>, std::vector<Matrix*>> forms;
  for (Layer& layer : layers_) {
    for (Matrix* matrix : layer.matrices()) {
      if (!matrix->dequantisable(type_)) continue;
      forms[{matrix->bits, matrix->group, matrix->mode}].push_back(matrix);
    }
  }
  const auto bytes_of = [&](const Matrix* matrix) { return matrix->dequantised_bytes(type_); };
  bool said = false;
  const auto room = [&](int64_t bytes) -> std::optional<Reservation> {
    constexpr int64_t kShare = 4;  // of what is free
    const int64_t free = ledger.free_bytes();
    if (bytes <= free / kShare) {
      auto reserved =
          ledger.reserve(bytes, fmt::format("{}: dequantised matrices of prompts", spec_.family));
      if (reserved.ok()) return std::move(*reserved);
    }
    if (!std::exchange(said, true)) {
      constexpr double kMiB = 1 << 20;
      log::warn(
          "{}: prompts may be slower than they could be: dequantised matrices would take {:.1f} "
          "MiB, more than a quarter of the {:.1f} MiB that are free",
          spec_.family, static_cast<double>(bytes) / kMiB, static_cast<double>(free) / kMiB);
    }
    return std::nullopt;
  };
  DecodeShape types;
  types.activations = types.kv = type_;
  for (auto& [form, matrices] : forms) {
    int64_t from = machine_->dequantised_from;
    if (from == 0) {
      const Matrix& largest = **std::ranges::max_element(matrices, {}, bytes_of);
      const int64_t bytes = bytes_of(&largest);
      const auto reserved = room(bytes);
      if (!reserved) continue;
      const LimitShare limit(bytes, bytes);  // as prompts have it
      const bool right = within(
          spec_.family, "products with dequantised matrices", kernels_error_limit(types), [&] {
            const DequantisedChoice made =
                dequantised_choice(largest, type_, step_tokens_max_, machine_->product_seconds);
            from = made.from;
            return made.error;
          });
      if (!right) continue;
      const auto& [bits, group, mode] = form;
      log::debug("{}: matrices of {} bits in groups of {} ({}) are dequantised {}", spec_.family,
                 bits, group, mode, from > 0 ? fmt::format("from {} rows on", from) : "never");
    }
    for (Matrix* matrix : matrices) matrix->dequantised_from = from;
  }
  // keep_pace lets two layers' stand, and a third come.
  constexpr int64_t kLayers = 3;
  int64_t most = 0;
  for (Layer& layer : layers_) {
    int64_t bytes = 0;
    for (const Matrix* matrix : layer.matrices()) {
      if (matrix->dequantised_from > 0) bytes += bytes_of(matrix);
    }
    most = std::max(most, kLayers * bytes);
  }
  if (most == 0) return;
  auto reserved = room(most);
  if (!reserved) {
    for (auto& [form, matrices] : forms) {
      for (Matrix* matrix : matrices) matrix->dequantised_from = 0;
    }
    return;
  }
  dequantised_reservation_ = std::move(*reserved);
  dequantised_limit_ = LimitShare(most, most);
}

void MlxDecoder::drop_whole_step() {
  whole_step_.reset();
  whole_step_limit_ = LimitShare();
  whole_step_reservation_ = Reservation();
}

void MlxDecoder::choose_step_launches() {
  constexpr int kLaunchesMax = 8, kTurns = 4;
  if (!whole_step_ || whole_step_->rows_max() < 2) return;
  if (machine_->step_launches > 0) return whole_step_->set_launches(machine_->step_launches);
  if (!machine_->cuda) return;
  for (int launches = 2; launches <= kLaunchesMax; ++launches) {
    const int rows = whole_step_->rows_of(launches);
    if (rows * spec_.vocab > machine_->logit_elements) return;
    double least[2] = {1e9, 1e9};  // by the kernels of its parts, by so many launches
    for (int turn = 0; turn < kTurns; ++turn) {
      for (const bool whole : {false, true}) {
        whole_step_->set_launches(whole ? launches : launches - 1);
        const auto start = std::chrono::steady_clock::now();
        if (!warm(rows, 1)) return whole_step_->set_launches(launches - 1);
        if (!whole_step_) return;  // it gave up
        least[whole] = std::min(least[whole], seconds_since(start));
      }
    }
    log::debug(
        "{}: a decode step of {} sequences takes {:.0f} us in {} launches, {:.0f} us by the "
        "kernels "
        "of its parts",
        spec_.family, rows, least[1] * 1e6, launches, least[0] * 1e6);
    if (least[1] > least[0]) return whole_step_->set_launches(launches - 1);
  }
}

// By both of its kernels, of one row and of more, where there may be so many.
double MlxDecoder::whole_step_error() {
  const int64_t several = std::min(
      {int64_t{5}, int64_t{whole_step_->rows_max()}, int64_t{kv_->blocks()}, step_tokens_max_});
  double worst = 0;
  for (const int64_t sequences : std::set{int64_t{1}, several}) {
    const std::vector<float> made = probe(sequences);
    auto whole_step = std::exchange(whole_step_, nullptr);
    const std::vector<float> wanted = probe(sequences);
    whole_step_ = std::move(whole_step);
    whole_step_->forget_pools();  // the prompt may have moved them
    const mx::Shape all{dim(std::ssize(made))};
    worst = worse(worst, apart(mx::array(made.begin(), all), mx::array(wanted.begin(), all)));
  }
  return worst;
}

// Logits of the first position of some sequences, and of one behind a prompt that is long enough
// for attention in shares. Their keys and values nobody reads.
std::vector<float> MlxDecoder::probe(int64_t sequences) {
  constexpr int64_t kPrompt = 70, kBlock = KvPool::kBlockTokens;
  const int64_t each = std::min(kv_->blocks() / sequences, kPrompt / kBlock + 1);
  const int64_t prompt =
      std::min({kPrompt, each * kBlock - 1, spec_.context - 1, step_tokens_max_ / sequences});
  std::vector<BlockId> blocks(static_cast<size_t>(sequences * each));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<TokenId> tokens(static_cast<size_t>(sequences * std::max<int64_t>(1, prompt)));
  for (size_t t = 0; t < tokens.size(); ++t) {
    tokens[t] = static_cast<TokenId>((7 * t + 3) % static_cast<size_t>(spec_.vocab));
  }
  std::vector<float> logits;
  const auto run = [&](int64_t position, int64_t count) {
    std::vector<SequenceStep> batch(static_cast<size_t>(sequences));
    for (size_t r = 0; r < batch.size(); ++r) {
      const auto length = static_cast<size_t>(count), own = static_cast<size_t>(each);
      batch[r].tokens = std::span(tokens).subspan(r * length, length);
      batch[r].position = position;
      batch[r].blocks = std::span(blocks).subspan(r * own, own);
      batch[r].output = StepOutput::logits_last;
    }
    build(batch);
    enqueue(logits_);
    wait();
    if (whole_step_ && std::ranges::any_of(logits_, &Logits::gave_up)) {
      forget();
      throw std::runtime_error(kWaitedInVain);
    }
    for (Logits& part : logits_) {
      if (count > 1) break;
      part.values.eval();
      const auto* values = part.values.data<float>();
      logits.insert(logits.end(), values, values + part.rows * spec_.vocab);
    }
    forget();
  };
  run(0, 1);
  if (prompt < 1) return logits;
  run(0, prompt);
  run(prompt, 1);
  return logits;
}

void MlxDecoder::check_few_rows() {
  std::vector<std::pair<const Matrix*, bool>> matrices = {{&head_, false}};
  for (const Layer& layer : layers_) {
    for (const Matrix& matrix : layer.qkv) matrices.emplace_back(&matrix, false);
    const Matrix& gate_up = layer.gate_up.front();
    matrices.emplace_back(&gate_up, layer.gate_up.size() == 1 && !gate_up.bias);
    matrices.insert(matrices.end(), {{&layer.output, false}, {&layer.down, false}});
  }
  few_rows_ = few_rows_right(*kernels_, matrices, shape_, spec_);
}

// A first step of each size compiles kernels, MLX's too: now rather than in somebody's answer. What
// it writes of keys and values is read by nobody.
void MlxDecoder::warm() {
  if (kernels_) {
    for (const int64_t sequences : {1, 2, 4, 8, 16, 32}) warm(sequences, 1);
    choose_step_launches();
  }
  if (prefill_) {
    for (const int64_t sequences : {1, 2}) warm(sequences, KvPool::kBlockTokens);
  }
  // As many rows as all forms of matrices are dequantised for, or as there is room for.
  std::set<int64_t, std::greater<>> from;  // the most first
  for (Layer& layer : layers_) {
    for (const Matrix* matrix : layer.matrices()) {
      if (matrix->dequantised_from > 0) from.insert(matrix->dequantised_from);
    }
  }
  for (const int64_t rows : from) {
    if (!warm(1, rows)) continue;
    log::debug("{}: ran a prompt of {} rows with dequantised matrices", spec_.family, rows);
    break;
  }
  own_kernels_ = own_prefills_ = own_places_ = whole_steps_ = dequantised_ = 0;
}

// False where a step or the pool has no room for so many.
bool MlxDecoder::warm(int64_t sequences, int64_t tokens) {
  const int64_t each = (tokens - 1) / KvPool::kBlockTokens + 1;
  if (sequences * tokens > step_tokens_max_ || sequences * each > kv_->blocks() ||
      tokens > spec_.context) {
    return false;
  }
  const std::vector<TokenId> some(static_cast<size_t>(tokens), 0);
  std::vector<BlockId> blocks(static_cast<size_t>(sequences * each));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<SequenceStep> batch(static_cast<size_t>(sequences));
  for (size_t r = 0; r < batch.size(); ++r) {
    const auto own = static_cast<size_t>(each);
    batch[r].tokens = some;
    batch[r].blocks = std::span(blocks).subspan(r * own, own);
    batch[r].output = StepOutput::logits_last;
  }
  build(batch);
  enqueue(logits_);
  wait();
  if (whole_step_ && std::ranges::any_of(logits_, &Logits::gave_up)) {
    log::warn("{}: decode steps in one launch: {}; several launches are used", spec_.family,
              kWaitedInVain);
    drop_whole_step();
  }
  forget();
  return true;
}

}  // namespace impetus::mlx_backend

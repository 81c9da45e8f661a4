#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <stdexcept>

#include "architectures/encoder_forward.h"
#include "base/guarded.h"
#include "base/log.h"
#include "base/timing.h"
#include "mlx/decoder.h"
#include "mlx/encode_step.h"
#include "mlx/kernel_check.h"
#include "mlx/prefill_kernel.h"
#include "mlx/row_kernels.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {
namespace {

constexpr int64_t kWholeRowsMax = 4096;  // of one launch

using Function = std::function<std::vector<mx::array>(const std::vector<mx::array>&)>;

std::vector<mx::array> gelu_erf(const std::vector<mx::array>& in) {
  const mx::array& x = in[0];
  const mx::array half(0.5f, x.dtype()), one(1.0f, x.dtype()), root(std::sqrt(0.5f), x.dtype());
  return {mx::multiply(mx::multiply(half, x), mx::add(one, mx::erf(mx::multiply(x, root))))};
}

std::vector<mx::array> gelu_tanh(const std::vector<mx::array>& in) {
  const mx::array& x = in[0];
  const auto value = [&](float v) { return mx::array(v, x.dtype()); };
  const mx::array cube = mx::multiply(x, mx::multiply(x, x));
  const mx::array inner =
      mx::multiply(value(0.7978845608028654f), mx::add(x, mx::multiply(value(0.044715f), cube)));
  return {mx::multiply(mx::multiply(value(0.5f), x), mx::add(value(1.0f), mx::tanh(inner)))};
}

std::vector<mx::array> relu(const std::vector<mx::array>& in) {
  return {mx::maximum(in[0], mx::array(0.0f, in[0].dtype()))};
}

struct LayerNorm {
  mx::array weight = mx::array(0.0f);
  std::optional<mx::array> bias;
};

struct Layer {
  std::vector<Matrix> qkv;  // each by itself, or joined to one
  Matrix output, up, down;
  LayerNorm attention_norm, output_norm;
};

// Encoder and the Ops of encoder_forward in one: a batch's state lives in the members.
class MlxEncoder final : public Encoder {
 public:
  MlxEncoder(std::shared_ptr<const Machine> machine, const ModelSpec& spec)
      : machine_(std::move(machine)),
        spec_(spec),
        host_(!machine_->cpu, machine_->cuda || machine_->as_gpu) {}
  ~MlxEncoder() override;

  Result<void> load(const WeightSet& weights, const LoadOptions& options, MemoryLedger& ledger);

  const BackendDescriptor& descriptor() const override { return machine_->descriptor; }
  int64_t batch_tokens_max() const override { return rows_max_; }
  Result<Encoded> encode(const EncoderBatch& batch) override;

  void embed();
  void attention_inputs(int64_t layer);
  void attention(int64_t layer);
  void attention_output(int64_t layer);
  void feed_forward(int64_t layer);
  void pool();

  int64_t whole_steps() const { return whole_steps_; }

 private:
  bool gpu_paths() const { return !machine_->cpu || machine_->as_gpu; }
  int64_t rows() const { return static_cast<int64_t>(batch_.tokens.size()); }
  int64_t texts() const { return static_cast<int64_t>(batch_.offsets.size()) - 1; }
  int64_t length(int64_t text) const {
    return batch_.offsets[static_cast<size_t>(text) + 1] -
           batch_.offsets[static_cast<size_t>(text)];
  }
  Result<void> check(const EncoderBatch& batch) const;
  Result<std::vector<float>> run(const EncoderBatch& batch);
  void plan();
  void forget();
  void load_whole_step(MemoryLedger& ledger);
  void run_whole_step();
  // Of random tokens, by `whole_step_` or not.
  std::vector<float> vectors_of(std::span<const int32_t> offsets, bool whole);
  // How far `whole_step_` is from several launches at most, relative to a vector's largest value.
  // `seconds`: becomes less where several launches, or one, took less.
  double whole_step_error(std::span<const int32_t> offsets, double* seconds = nullptr);
  // What rounding explains of it.
  double whole_step_error_limit() const { return type_ == mx::bfloat16 ? 0.1 : 0.03; }
  // Up to how many rows it is faster, and right; of `most`.
  int64_t whole_step_rows(int64_t most);
  void drop_whole_step();
  mx::array norm(const mx::array& x, const LayerNorm& weights) const {
    return mx::fast::layer_norm(x, weights.weight, weights.bias, spec_.norm_eps);
  }
  // The residual with what is added to it, normed.
  void add(const mx::array& x, const LayerNorm& weights) {
    residual_ = row_kernels_
                    ? row_kernels_->add_layer_norm(*residual_, x, weights.weight, weights.bias)
                    : norm(mx::add(*residual_, x), weights);
  }
  mx::array attend(const mx::array& q, const mx::array& k, const mx::array& v, int64_t texts,
                   int64_t longest, const std::optional<mx::array>& mask) const;

  std::shared_ptr<const Machine> machine_;
  ModelSpec spec_;
  int64_t rows_max_ = 0;
  mx::Dtype type_ = mx::float32;
  Function activation_;
  Matrix token_embedding_, position_embedding_;
  std::optional<Matrix> type_embedding_;
  LayerNorm embedding_norm_;
  std::vector<Layer> layers_;
  Reservation weights_reservation_, scratch_reservation_;
  LimitShare limit_;

  EncoderBatch batch_;
  std::vector<float>* results_ = nullptr;
  int64_t longest_ = 0;
  bool equal_lengths_ = false;
  // With kernels of our own qkv_ stands for q_, k_ and v_.
  std::optional<mx::array> residual_, qkv_, q_, k_, v_, attended_;
  // Texts of unequal lengths in one attention: rows to [texts, longest], what of it is text, and
  // back.
  std::optional<mx::array> spread_, mask_, gathered_;
  // Or by a launch of our own, as they stand.
  std::unique_ptr<PrefillKernel> prefill_;
  std::unique_ptr<RowKernels> row_kernels_;
  std::optional<PrefillStep> prefill_step_;
  // Or a whole batch in one launch, of up to its rows.
  std::unique_ptr<EncodeStep> whole_step_;
  Reservation whole_reservation_;
  LimitShare whole_limit_;
  int64_t whole_steps_ = 0;
  bool whole_wanted_ = true;  // not where it is held to several launches
  HostPages host_;
};

MlxEncoder::~MlxEncoder() {
  auto done = entered(spec_.family, machine_->cpu, [&]() -> Result<void> {
    forget();
    layers_.clear();
    token_embedding_ = position_embedding_ = Matrix();
    type_embedding_.reset();
    prefill_.reset();
    row_kernels_.reset();
    whole_step_.reset();
    host_.clear();
    mx::clear_cache();
    return {};
  });
  (void)done.ok();
}

void MlxEncoder::forget() {
  for (auto* array : {&residual_, &qkv_, &q_, &k_, &v_, &attended_, &spread_, &mask_, &gathered_}) {
    array->reset();
  }
  prefill_step_.reset();
}

Result<void> MlxEncoder::load(const WeightSet& weights, const LoadOptions& options,
                              MemoryLedger& ledger) {
  IMPETUS_TRY(const EncoderWeights tensors, resolve_encoder(spec_, weights));
  switch (spec_.activation) {
    case Activation::gelu_erf:
      activation_ = gelu_erf;
      break;
    case Activation::gelu_tanh:
      activation_ = gelu_tanh;
      break;
    case Activation::relu:
      activation_ = relu;
      break;
    default:
      return error(ErrorCode::unsupported, "{}: encoders run with GELU or ReLU only", spec_.family);
  }
  if (options.step_tokens_max < 1) {
    return error(ErrorCode::invalid_argument, "a batch of at most {} tokens runs nothing",
                 options.step_tokens_max);
  }
  // A text cannot be cut: the longest must fit into one batch.
  rows_max_ = std::max(options.step_tokens_max, spec_.context);
  std::vector<const NamedTensor*> matrices;
  for (const auto& layer : tensors.layers) {
    for (const Linear* linear :
         {&layer.q, &layer.k, &layer.v, &layer.output, &layer.up, &layer.down}) {
      matrices.push_back(linear->weight);
    }
  }
  IMPETUS_TRY(type_, activation_type(matrices, *tensors.embedding_norm.weight, !machine_->cpu));
  WeightLoader loader(weights, options.weights, type_, machine_->cpu);
  int64_t bytes = 0;
  for (const NamedTensor* tensor : matrices) {
    IMPETUS_TRY(const int64_t one, loader.bytes(*tensor));
    bytes += one;
  }
  for (const NamedTensor* tensor :
       {tensors.token_embedding, tensors.position_embedding, tensors.type_embedding}) {
    if (tensor != nullptr) bytes += tensor->view.bytes();
  }
  IMPETUS_TRY(weights_reservation_,
              ledger.reserve(bytes, fmt::format("{}: weights", spec_.family)));
  const int64_t widest = 8 * spec_.hidden + 2 * spec_.feed_forward;
  const int64_t scores = gpu_paths() ? 0 : 3 * spec_.heads * spec_.context * spec_.context;
  const int64_t scratch =
      rows_max_ * widest * static_cast<int64_t>(type_.size()) * 2 + scores * 4 + host_.bytes();
  IMPETUS_TRY(scratch_reservation_,
              ledger.reserve(scratch, fmt::format("{}: working memory of {} tokens", spec_.family,
                                                  rows_max_)));
  limit_ = LimitShare(bytes + scratch);

  const auto norm_of = [&](const Norm& norm) {
    LayerNorm made;
    made.weight = loader.vector(*norm.weight);
    if (norm.bias != nullptr) made.bias = loader.vector(*norm.bias);
    return made;
  };
  IMPETUS_TRY(token_embedding_, loader.table(*tensors.token_embedding));
  IMPETUS_TRY(position_embedding_, loader.table(*tensors.position_embedding));
  if (tensors.type_embedding != nullptr) {
    IMPETUS_TRY(type_embedding_, loader.table(*tensors.type_embedding));
  }
  embedding_norm_ = norm_of(tensors.embedding_norm);
  const auto heads = static_cast<int>(spec_.heads), head_dim = static_cast<int>(spec_.head_dim);
  if (machine_->prefill_kernel) {
    const PrefillShape shape{heads, heads, head_dim, false, type_};
    prefill_ = checked_prefill(machine_->prefill_kernel, shape, spec_.family, !machine_->cpu);
  }
  if (machine_->row_kernels) {
    const DecodeShape shape{heads, heads, head_dim, false, false, type_, type_};
    row_kernels_ = checked_row_kernels(machine_->row_kernels, shape, spec_);
  }
  layers_.resize(tensors.layers.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const EncoderWeights::Layer& from = tensors.layers[i];
    Layer& to = layers_[i];
    to.attention_norm = norm_of(from.attention_norm);
    to.output_norm = norm_of(from.output_norm);
    for (const Linear* linear : {&from.q, &from.k, &from.v}) {
      IMPETUS_TRY(Matrix matrix, loader.matrix(*linear));
      to.qkv.push_back(std::move(matrix));
    }
    // Elsewhere they stay where the file is mapped.
    if (prefill_) {
      if (auto whole = joined(to.qkv)) to.qkv = {std::move(*whole)};
    }
    IMPETUS_TRY(to.output, loader.matrix(from.output));
    IMPETUS_TRY(to.up, loader.matrix(from.up));
    IMPETUS_TRY(to.down, loader.matrix(from.down));
  }
  machine_->may_fail("load");
  if (Wall::get().has_gpu() && !machine_->cpu) activation_ = mx::compile(activation_, true);
  drop_staging(machine_->cpu);
  load_whole_step(ledger);
  return {};
}

std::vector<float> MlxEncoder::vectors_of(std::span<const int32_t> offsets, bool whole) {
  std::mt19937 random(3);
  std::vector<TokenId> tokens(static_cast<size_t>(offsets.back()));
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % spec_.vocab);
  whole_wanted_ = whole;
  auto made = guarded(spec_.family, [&] { return run({tokens, offsets, {}}); });
  whole_wanted_ = true;
  if (!made.ok()) throw std::runtime_error(made.error().message);
  return std::move(*made);
}

void MlxEncoder::load_whole_step(MemoryLedger& ledger) {
  if (!machine_->encode_step || !prefill_ || spec_.pooling == Pooling::none) return;
  EncodeForm form;
  form.type = type_;
  form.layers = static_cast<int>(spec_.layers);
  form.hidden = static_cast<int>(spec_.hidden);
  form.heads = static_cast<int>(spec_.heads);
  form.head_dim = static_cast<int>(spec_.head_dim);
  form.feed_forward = static_cast<int>(spec_.feed_forward);
  form.activation = spec_.activation == Activation::gelu_erf    ? 0
                    : spec_.activation == Activation::gelu_tanh ? 1
                                                                : 2;
  form.epsilon = spec_.norm_eps;
  form.mean = spec_.pooling == Pooling::mean;
  form.normalize = spec_.normalize;
  EncodeWeights weights{&token_embedding_,
                        &position_embedding_,
                        type_embedding_ ? &*type_embedding_ : nullptr,
                        {&embedding_norm_.weight, &embedding_norm_.bias},
                        {}};
  for (const Layer& layer : layers_) {
    if (layer.qkv.size() != 1) return;
    weights.layers.push_back({&layer.qkv[0],
                              &layer.output,
                              &layer.up,
                              &layer.down,
                              {&layer.attention_norm.weight, &layer.attention_norm.bias},
                              {&layer.output_norm.weight, &layer.output_norm.bias}});
  }
  const auto hold = [&](int64_t rows) -> bool {
    whole_reservation_ = {};
    const int64_t bytes = whole_step_->bytes(static_cast<int>(rows));
    auto reserved = ledger.reserve(bytes, fmt::format("{}: texts in one launch", spec_.family));
    if (!reserved.ok()) return false;
    whole_reservation_ = std::move(*reserved);
    whole_limit_ = LimitShare(bytes);
    whole_step_->hold(static_cast<int>(rows));
    return true;
  };
  constexpr int64_t kLeast = 64;
  int64_t rows =
      std::min(machine_->encode_rows > 0 ? machine_->encode_rows : kWholeRowsMax, rows_max_);
  bool held = true;
  const bool good = within(spec_.family, "texts in one launch", whole_step_error_limit(), [&] {
    whole_step_ = EncodeStep::make(machine_->encode_step, form, weights);
    if (!whole_step_) return 0.0;
    while (!(held = hold(rows)) && rows > kLeast) rows /= 2;
    if (!held) return 0.0;
    // Texts of a row, of a tile and more, in no order of lengths.
    std::vector<int32_t> offsets = {0};
    for (const int64_t length : {17, 150, 1, 64}) {
      const int64_t end = offsets.back() + std::min(length, spec_.context);
      if (end <= rows) offsets.push_back(static_cast<int32_t>(end));
    }
    const double error = whole_step_error(offsets);
    if (!(error <= whole_step_error_limit()) || machine_->encode_rows > 0) return error;
    const int64_t chosen = whole_step_rows(rows);
    log::debug("{}: texts of up to {} tokens are one launch", spec_.family, chosen);
    if (chosen > 0 && chosen < rows) held = hold(chosen);
    if (chosen == 0) whole_step_.reset();
    return error;
  });
  whole_steps_ = 0;
  if (good && held && whole_step_) return;
  if (!held) {
    log::warn("{}: no memory is left for texts in one launch: they are several", spec_.family);
  }
  drop_whole_step();
  forget();
}

void MlxEncoder::drop_whole_step() {
  whole_step_.reset();
  whole_reservation_ = {};
  whole_limit_ = {};
}

double MlxEncoder::whole_step_error(std::span<const int32_t> offsets, double* seconds) {
  const auto run = [&](bool whole) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<float> made = vectors_of(offsets, whole);
    if (seconds != nullptr) seconds[whole] = std::min(seconds[whole], seconds_since(start));
    return made;
  };
  const std::vector<float> wanted = run(false), made = run(true);
  double error = 0;
  const auto width = static_cast<size_t>(spec_.hidden);
  for (size_t t = 0; t < wanted.size(); t += width) {
    double most = 0, off = 0;
    for (size_t i = t; i < t + width; ++i) {
      most = std::max(most, std::abs(static_cast<double>(wanted[i])));
      off = worse(off, std::abs(static_cast<double>(made[i]) - static_cast<double>(wanted[i])));
    }
    error = worse(error, off / most);
  }
  return error;
}

int64_t MlxEncoder::whole_step_rows(int64_t most) {
  constexpr int64_t kLeast = 64, kText = 128;
  constexpr int kTurns = 4;
  // The least of several launches is the host at its best, whose pace changes by half.
  constexpr double kWorth = 1.25;
  int64_t chosen = 0;
  for (int64_t rows = std::min(kLeast, most);; rows = std::min(2 * rows, most)) {
    std::vector<int32_t> offsets = {0};
    while (offsets.back() < rows) {
      const int64_t left = rows - offsets.back();
      offsets.push_back(offsets.back() +
                        static_cast<int32_t>(std::min({left, kText, spec_.context})));
    }
    double seconds[2] = {1e9, 1e9};  // of several launches, of one
    for (int turn = 0; turn < kTurns; ++turn) {
      // Each size may be made by other tiles.
      if (const double error = whole_step_error(offsets, seconds);
          !(error <= whole_step_error_limit())) {
        log::warn("{}: {} tokens in one launch are {:.2g} off several: not used", spec_.family,
                  rows, error);
        return chosen;
      }
    }
    log::debug("{}: {} tokens take {:.0f} us in one launch, {:.0f} us in several", spec_.family,
               rows, seconds[1] * 1e6, seconds[0] * 1e6);
    if (seconds[1] > kWorth * seconds[0]) return chosen;
    chosen = rows;
    if (rows == most) return chosen;
  }
}

void MlxEncoder::run_whole_step() {
  machine_->may_fail("encode");
  std::span<const float> vectors;
  if (!whole_step_->run(batch_, host_, machine_->spin_seconds, vectors)) {
    drop_whole_step();
    throw std::runtime_error(
        "texts in one launch waited for a part of this GPU in vain, which another program may keep "
        "to itself; the following ones are made of several launches");
  }
  ++whole_steps_;
  std::ranges::copy(vectors, results_->begin());
}

Result<void> MlxEncoder::check(const EncoderBatch& batch) const {
  constexpr auto kBad = ErrorCode::invalid_argument;
  const auto total = static_cast<int64_t>(batch.tokens.size());
  if (batch.offsets.empty() || batch.offsets.front() != 0 || batch.offsets.back() != total) {
    return error(kBad, "the offsets of the batch do not span its {} tokens", total);
  }
  if (total > rows_max_) {
    return error(kBad, "a batch of {} tokens, more than {}", total, rows_max_);
  }
  for (size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
    const int64_t length = int64_t{batch.offsets[i + 1]} - batch.offsets[i];
    if (length < 1) return error(kBad, "text {} of the batch has no tokens", i);
    if (length > spec_.context) {
      return error(ErrorCode::context_length, "text {}: {} tokens, more than the {} of the model",
                   i, length, spec_.context);
    }
  }
  for (const TokenId token : batch.tokens) {
    if (token < 0 || token >= spec_.vocab) {
      return error(kBad, "token {} is outside the vocabulary of {}", token, spec_.vocab);
    }
  }
  if (!batch.token_types.empty() && batch.token_types.size() != batch.tokens.size()) {
    return error(kBad, "{} token types for {} tokens", batch.token_types.size(), total);
  }
  for (const int32_t type : batch.token_types) {
    // A model without types takes type 0, which adds nothing.
    if (type < 0 || type >= std::max<int64_t>(1, spec_.token_types)) {
      return error(kBad, "token type {}: the model has {}", type, spec_.token_types);
    }
  }
  if (batch.output == EncodeOutput::pooled && spec_.pooling == Pooling::none) {
    return error(ErrorCode::unsupported, "{}: the model does not say how to pool its tokens",
                 spec_.family);
  }
  return {};
}

Result<Encoded> MlxEncoder::encode(const EncoderBatch& batch) {
  IMPETUS_CHECK(check(batch));
  auto values = entered(spec_.family, machine_->cpu, [&] { return run(batch); });
  if (!values.ok()) {
    auto cleared = entered(spec_.family, machine_->cpu, [&]() -> Result<void> {
      forget();
      mx::synchronize(Wall::get().stream(machine_->cpu));  // what reads the pages
      return {};
    });
    (void)cleared.ok();
    return std::move(values).error();
  }
  return Encoded{std::move(*values), std::vector(batch.offsets.size() - 1, &machine_->descriptor)};
}

Result<std::vector<float>> MlxEncoder::run(const EncoderBatch& batch) {
  batch_ = batch;
  std::vector<float> results;
  results_ = &results;
  const int64_t vectors = batch.output == EncodeOutput::pooled ? texts() : rows();
  results.resize(static_cast<size_t>(vectors * spec_.hidden));
  if (rows() == 0) return results;
  if (whole_step_ && whole_wanted_ && batch.output == EncodeOutput::pooled &&
      rows() <= whole_step_->rows_max()) {
    run_whole_step();
    return results;
  }
  plan();
  encoder_forward(spec_, *this);
  forget();
  return results;
}

void MlxEncoder::plan() {
  host_.begin();
  if (prefill_) {
    std::vector<PlannedSequence> planned;
    for (int64_t t = 0; t < texts(); ++t) {
      planned.push_back({batch_.offsets[static_cast<size_t>(t)], length(t), 0, {}});
    }
    prefill_step_ = prefill_step(planned, host_);
    return;
  }
  longest_ = 0;
  equal_lengths_ = true;
  for (int64_t t = 0; t < texts(); ++t) {
    longest_ = std::max(longest_, length(t));
    equal_lengths_ = equal_lengths_ && length(t) == length(0);
  }
  if (equal_lengths_ || !gpu_paths()) return;
  std::vector<int32_t> spread, gathered;
  std::vector<uint8_t> seen;
  for (int64_t t = 0; t < texts(); ++t) {
    const int32_t begin = batch_.offsets[static_cast<size_t>(t)];
    for (int64_t i = 0; i < longest_; ++i) {
      const bool text = i < length(t);
      spread.push_back(text ? begin + static_cast<int32_t>(i) : begin);
      seen.push_back(text ? 1 : 0);
      if (text) gathered.push_back(static_cast<int32_t>(t * longest_ + i));
    }
  }
  const auto all = dim(texts() * longest_);
  spread_ = host_.put(spread, {all});
  gathered_ = host_.put(gathered, {dim(rows())});
  mask_ = mx::array(seen.begin(), mx::Shape{dim(texts()), 1, 1, dim(longest_)}, mx::bool_);
}

void MlxEncoder::embed() {
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < texts(); ++t) {
    for (int64_t i = 0; i < length(t); ++i) positions.push_back(static_cast<int32_t>(i));
  }
  const mx::Shape shape{dim(rows())};
  const mx::array tokens = host_.put(batch_.tokens, shape);
  mx::array sum = token_embedding_.rows(tokens, type_);
  if (type_embedding_) {
    std::vector<int32_t> types(batch_.token_types.begin(), batch_.token_types.end());
    types.resize(batch_.tokens.size(), 0);
    sum = mx::add(sum, type_embedding_->rows(host_.put(types, shape), type_));
  }
  sum = mx::add(sum, position_embedding_.rows(host_.put(positions, shape), type_));
  residual_ = norm(sum, embedding_norm_);
}

void MlxEncoder::attention_inputs(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  std::vector<mx::array> made;
  for (const Matrix& matrix : layer.qkv) made.push_back(matrix.apply(*residual_));
  if (prefill_step_) {
    qkv_ = made.size() == 1 ? made[0] : mx::concatenate(made, 1);
    return;
  }
  q_ = std::move(made[0]);
  k_ = std::move(made[1]);
  v_ = std::move(made[2]);
}

// [texts * longest, heads * head_dim] each -> the same.
mx::array MlxEncoder::attend(const mx::array& q, const mx::array& k, const mx::array& v,
                             int64_t texts, int64_t longest,
                             const std::optional<mx::array>& mask) const {
  const auto split = [&](const mx::array& x) {
    return mx::transpose(
        mx::reshape(x, {dim(texts), dim(longest), dim(spec_.heads), dim(spec_.head_dim)}),
        {0, 2, 1, 3});
  };
  const float scale = 1.0f / std::sqrt(static_cast<float>(spec_.head_dim));
  const mx::array out = mx::fast::scaled_dot_product_attention(split(q), split(k), split(v), scale,
                                                               mask ? "array" : "", mask);
  return mx::reshape(mx::transpose(out, {0, 2, 1, 3}),
                     {dim(texts * longest), dim(spec_.heads * spec_.head_dim)});
}

void MlxEncoder::attention(int64_t) {
  if (prefill_step_) {
    attended_ = prefill_->attend_texts(*prefill_step_, *qkv_);
  } else if (spread_) {
    const auto wide = [&](const mx::array& x) { return mx::take(x, *spread_, 0); };
    attended_ =
        mx::take(attend(wide(*q_), wide(*k_), wide(*v_), texts(), longest_, mask_), *gathered_, 0);
  } else if (equal_lengths_ && gpu_paths()) {
    attended_ = attend(*q_, *k_, *v_, texts(), longest_, std::nullopt);
  } else {
    std::vector<mx::array> parts;
    const auto columns = dim(spec_.heads * spec_.head_dim);
    for (int64_t t = 0; t < texts(); ++t) {
      const int64_t begin = batch_.offsets[static_cast<size_t>(t)];
      const auto part = [&](const mx::array& x) {
        return mx::slice(x, {dim(begin), 0}, {dim(begin + length(t)), columns});
      };
      parts.push_back(attend(part(*q_), part(*k_), part(*v_), 1, length(t), std::nullopt));
    }
    attended_ = parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0);
  }
  qkv_.reset();
  q_.reset();
  k_.reset();
  v_.reset();
}

void MlxEncoder::attention_output(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  add(layer.output.apply(*attended_), layer.attention_norm);
  attended_.reset();
}

void MlxEncoder::feed_forward(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const mx::array hidden = activation_({layer.up.apply(*residual_)})[0];
  add(layer.down.apply(hidden), layer.output_norm);
}

void MlxEncoder::pool() {
  if (row_kernels_ && batch_.output == EncodeOutput::pooled) {
    const mx::array out = host_.room({dim(texts()), dim(spec_.hidden)});
    mx::array done =
        row_kernels_->pool({spec_.pooling == Pooling::mean, spec_.normalize}, *residual_,
                           host_.put(batch_.offsets, {dim(std::ssize(batch_.offsets))}), out);
    machine_->may_fail("encode");
    eval_and_spin({done}, machine_->spin_seconds);
    std::copy_n(out.data<float>(), out.size(), results_->begin());
    return;
  }
  mx::array hidden = mx::contiguous(mx::astype(*residual_, mx::float32));
  machine_->may_fail("encode");
  eval_and_spin({hidden}, machine_->spin_seconds);
  const float* values = hidden.data<float>();
  const int64_t width = spec_.hidden;
  if (batch_.output == EncodeOutput::hidden) {
    std::copy(values, values + rows() * width, results_->begin());
    return;
  }
  for (int64_t t = 0; t < texts(); ++t) {
    const float* row = values + batch_.offsets[static_cast<size_t>(t)] * width;
    float* out = results_->data() + t * width;
    std::copy(row, row + width, out);
    if (spec_.pooling == Pooling::mean) {
      for (int64_t r = 1; r < length(t); ++r) {
        for (int64_t i = 0; i < width; ++i) out[i] += row[r * width + i];
      }
      for (int64_t i = 0; i < width; ++i) out[i] /= static_cast<float>(length(t));
    }
    if (!spec_.normalize) continue;
    double square = 0;
    for (int64_t i = 0; i < width; ++i) {
      square += static_cast<double>(out[i]) * static_cast<double>(out[i]);
    }
    const double size = std::max(std::sqrt(square), 1e-12);
    for (int64_t i = 0; i < width; ++i) {
      out[i] = static_cast<float>(static_cast<double>(out[i]) / size);
    }
  }
}

}  // namespace

int64_t whole_steps_of(const Encoder& encoder) {
  const auto* own = dynamic_cast<const MlxEncoder*>(&encoder);
  return own == nullptr ? 0 : own->whole_steps();
}

Result<std::unique_ptr<Encoder>> make_encoder(std::shared_ptr<const Machine> machine,
                                              const ModelSpec& spec, const WeightSet& weights,
                                              const LoadOptions& options, MemoryLedger& ledger) {
  const bool cpu = machine->cpu;
  return entered(spec.family, cpu, [&]() -> Result<std::unique_ptr<Encoder>> {
    auto encoder = std::make_unique<MlxEncoder>(std::move(machine), spec);
    IMPETUS_CHECK(encoder->load(weights, options, ledger));
    return std::unique_ptr<Encoder>(std::move(encoder));
  });
}

}  // namespace impetus::mlx_backend

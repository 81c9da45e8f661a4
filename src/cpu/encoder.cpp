#include "cpu/encoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "architectures/encoder_forward.h"

namespace impetus::cpu {
namespace {

// Positions of one key/value tile of the attention kernel.
constexpr int64_t kTile = 16;

struct LayerNorm {
  std::vector<float> weight, bias;
};
LayerNorm load_norm(const Norm& norm) {
  return {to_floats(*norm.weight),
          norm.bias != nullptr ? to_floats(*norm.bias) : std::vector<float>()};
}

struct Layer {
  PackedLinear qkv, output, up, down;
  LayerNorm attention_norm, output_norm;
};

// Encoder and the Ops of encoder_forward in one: a batch's state lives in the members.
class CpuEncoder final : public Encoder {
 public:
  CpuEncoder(std::shared_ptr<Machine> machine, const ModelSpec& spec)
      : machine_(std::move(machine)), spec_(spec) {}

  Result<void> load(const EncoderWeights& tensors, const WeightSet& weights,
                    const LoadOptions& options, MemoryLedger& ledger);

  const BackendDescriptor& descriptor() const override { return machine_->descriptor; }
  int64_t batch_tokens_max() const override { return rows_max_; }
  Result<Encoded> encode(const EncoderBatch& batch) override {
    auto values = guarded(spec_.family, [&] { return run(batch); });
    if (!values.ok()) return std::move(values).error();
    const BackendDescriptor* self = &machine_->descriptor;
    return Encoded{std::move(*values), std::vector(batch.offsets.size() - 1, self)};
  }

  void embed();
  void attention_inputs(int64_t layer);
  void attention(int64_t layer);
  void attention_output(int64_t layer);
  void feed_forward(int64_t layer);
  void pool();

 private:
  const KernelTable& kernels() const { return *machine_->kernels; }
  int64_t rows() const { return static_cast<int64_t>(batch_.tokens.size()); }
  int64_t texts() const { return static_cast<int64_t>(batch_.offsets.size()) - 1; }
  int64_t grain() const { return std::max<int64_t>(1, 8192 / spec_.hidden); }
  float* residual(int64_t row) const { return residual_ + row * residual_stride_; }

  Result<std::vector<float>> run(const EncoderBatch& batch);
  Result<void> check(const EncoderBatch& batch) const;
  void carve(std::byte* base, int64_t* bytes);
  void norm(const LayerNorm& norm, float* row) const {
    kernels().layer_norm(row, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(),
                         spec_.norm_eps, spec_.hidden, row);
  }
  // Residual rows normed in place, and their copy in wide_ in the forms asked for.
  void norm_and_copy(const LayerNorm& norm_weights, uint8_t forms);
  void copy_residual(uint8_t forms, int64_t begin, int64_t end);

  std::shared_ptr<Machine> machine_;
  ModelSpec spec_;
  int64_t rows_max_ = 0;
  int threads_ = 0;
  ActivationFunction activation_ = nullptr;
  TensorView token_embedding_, position_embedding_, type_embedding_;
  LayerNorm embedding_norm_;
  std::vector<Layer> layers_;
  PackedWeights packed_;
  uint8_t forms_ = 0;

  // Working memory, for rows_max_ rows.
  Reservation scratch_reservation_;
  Memory scratch_;
  int64_t residual_stride_ = 0;
  int64_t tile_floats_ = 0;         // keys, and values, of one head of the longest text
  float* residual_ = nullptr;       // [rows, residual_stride_]
  float* qkv_ = nullptr;            // [rows, columns of qkv]
  float* tiles_ = nullptr;          // [threads, 2, tile_floats_]
  float* embedding_row_ = nullptr;  // [threads, hidden]
  float* hidden_scratch_ = nullptr;
  Activations wide_;    // input of qkv, output and up
  Activations hidden_;  // input of down

  EncoderBatch batch_;
  std::vector<float>* results_ = nullptr;
  std::vector<int32_t> visible_;   // a row: its text's length
  std::vector<int32_t> position_;  // a row: its place in its text
  struct ThreadState {
    std::vector<const void*> key_blocks, value_blocks;
  };
  std::vector<ThreadState> thread_states_;
};

Result<void> CpuEncoder::load(const EncoderWeights& tensors, const WeightSet& weights,
                              const LoadOptions& options, MemoryLedger& ledger) {
  switch (spec_.activation) {
    case Activation::gelu_erf:
      activation_ = kernels().gelu_erf;
      break;
    case Activation::gelu_tanh:
      activation_ = kernels().gelu_tanh;
      break;
    case Activation::relu:
      activation_ = kernels().relu;
      break;
    default:
      return error(ErrorCode::unsupported, "{}: encoders run with GELU or ReLU only", spec_.family);
  }
  if (options.step_tokens_max < 1) {
    return error(ErrorCode::invalid_argument, "a batch of at most {} tokens runs nothing",
                 options.step_tokens_max);
  }
  // A text cannot be cut: the longest must fit into one batch.
  threads_ = options.threads.prefill;
  rows_max_ = std::max(options.step_tokens_max, spec_.context);
  token_embedding_ = tensors.token_embedding->view;
  position_embedding_ = tensors.position_embedding->view;
  if (tensors.type_embedding != nullptr) type_embedding_ = tensors.type_embedding->view;
  embedding_norm_ = load_norm(tensors.embedding_norm);

  WeightPacker packer(weights, options.weights, machine_->pool);
  layers_.resize(tensors.layers.size());
  for (size_t i = 0; i < layers_.size(); ++i) {
    const EncoderWeights::Layer& from = tensors.layers[i];
    Layer& to = layers_[i];
    to.attention_norm = load_norm(from.attention_norm);
    to.output_norm = load_norm(from.output_norm);
    IMPETUS_CHECK(packer.add(to.qkv, std::array{from.q, from.k, from.v}));
    IMPETUS_CHECK(packer.add(to.output, std::array{from.output}));
    IMPETUS_CHECK(packer.add(to.up, std::array{from.up}));
    IMPETUS_CHECK(packer.add(to.down, std::array{from.down}));
    forms_ |= to.qkv.forms | to.output.forms | to.up.forms | to.down.forms;
  }
  IMPETUS_TRY(packed_, packer.pack(fmt::format("{}: weights", spec_.family), ledger));

  int64_t bytes = 0;
  carve(nullptr, &bytes);
  const auto purpose = fmt::format("{}: working memory of {} tokens", spec_.family, rows_max_);
  IMPETUS_TRY(scratch_reservation_, ledger.reserve(bytes, purpose));
  IMPETUS_TRY(scratch_, Memory::map(bytes, purpose, false));
  carve(scratch_.data(), &bytes);
  thread_states_.resize(static_cast<size_t>(machine_->pool.capacity()));
  return {};
}

void CpuEncoder::carve(std::byte* base, int64_t* bytes) {
  Carver carver(base);
  const int64_t threads = machine_->pool.capacity();
  residual_stride_ = round_up(spec_.hidden, kPanel);
  tile_floats_ = round_up(spec_.context, kTile) * spec_.head_dim;
  residual_ = carver.take<float>(rows_max_ * residual_stride_);
  qkv_ = carver.take<float>(rows_max_ * layers_.front().qkv.columns);
  tiles_ = carver.take<float>(threads * 2 * tile_floats_);
  embedding_row_ = carver.take<float>(threads * spec_.hidden);
  hidden_scratch_ = carver.take<float>(threads * kHiddenScratch);
  wide_ =
      Activations(carver, rows_max_, std::max(spec_.hidden, spec_.heads * spec_.head_dim), forms_);
  hidden_ = Activations(carver, rows_max_, spec_.feed_forward, forms_);
  *bytes = carver.used();
}

Result<void> CpuEncoder::check(const EncoderBatch& batch) const {
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

Result<std::vector<float>> CpuEncoder::run(const EncoderBatch& batch) {
  IMPETUS_CHECK(check(batch));
  batch_ = batch;
  machine_->pool.set_threads(threads_);
  std::vector<float> results;
  results_ = &results;
  const int64_t vectors = batch.output == EncodeOutput::pooled ? texts() : rows();
  results.resize(static_cast<size_t>(vectors * spec_.hidden));
  if (rows() == 0) return results;
  visible_.resize(batch.tokens.size());
  position_.resize(batch.tokens.size());
  int64_t longest = 0;
  for (int64_t t = 0; t < texts(); ++t) {
    const int32_t begin = batch.offsets[static_cast<size_t>(t)];
    const int32_t length = batch.offsets[static_cast<size_t>(t) + 1] - begin;
    for (int32_t i = 0; i < length; ++i) {
      visible_[static_cast<size_t>(begin + i)] = length;
      position_[static_cast<size_t>(begin + i)] = i;
    }
    longest = std::max<int64_t>(longest, length);
  }
  for (ThreadState& state : thread_states_) {
    state.key_blocks.resize(static_cast<size_t>((longest + kTile - 1) / kTile));
    state.value_blocks.resize(state.key_blocks.size());
  }
  encoder_forward(spec_, *this);
  return results;
}

void CpuEncoder::copy_residual(uint8_t forms, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    std::memcpy(wide_.row(r), residual(r), static_cast<size_t>(spec_.hidden) * sizeof(float));
  }
  wide_.convert(kernels(), forms, begin, end);
}

void CpuEncoder::norm_and_copy(const LayerNorm& weights, uint8_t forms) {
  wide_.set_width(spec_.hidden);
  machine_->pool.parallel_ranges(rows(), grain(), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) norm(weights, residual(r));
    copy_residual(forms, begin, end);
  });
}

void CpuEncoder::embed() {
  wide_.set_width(spec_.hidden);
  const int64_t width = spec_.hidden;
  machine_->pool.parallel_ranges(rows(), grain(), [&](int64_t begin, int64_t end, int thread) {
    float* row = embedding_row_ + thread * width;
    const auto load = [&](const TensorView& table, int64_t index, float* to) {
      dequantize_row(table, index, to);
    };
    for (int64_t r = begin; r < end; ++r) {
      const auto i = static_cast<size_t>(r);
      float* to = residual(r);
      load(token_embedding_, batch_.tokens[i], to);
      if (type_embedding_.shape.rank() != 0) {
        load(type_embedding_, batch_.token_types.empty() ? 0 : batch_.token_types[i], row);
        kernels().add(to, row, width, to);
      }
      load(position_embedding_, position_[i], row);
      kernels().add(to, row, width, to);
      norm(embedding_norm_, to);
      // What stands beyond is never read as a value, but products accumulate onto it.
      std::fill(to + width, to + residual_stride_, 0.0f);
    }
    copy_residual(layers_.front().qkv.forms, begin, end);
  });
}

void CpuEncoder::attention_inputs(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  multiply(*machine_, layer.qkv, wide_, rows(), qkv_, layer.qkv.columns, false);
}

void CpuEncoder::attention(int64_t index) {
  const PackedLinear& qkv = layers_[static_cast<size_t>(index)].qkv;
  const int64_t width = spec_.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  constexpr auto kType = static_cast<size_t>(KvType::f32);
  wide_.set_width(spec_.heads * width);
  machine_->pool.parallel_for(texts() * spec_.heads, [&](int64_t item, int thread) {
    const int64_t head = item % spec_.heads;
    const auto text = static_cast<size_t>(item / spec_.heads);
    const int64_t begin = batch_.offsets[text];
    const int64_t length = batch_.offsets[text + 1] - begin;
    ThreadState& state = thread_states_[static_cast<size_t>(thread)];
    float* keys = tiles_ + thread * 2 * tile_floats_;
    float* values = keys + tile_floats_;
    for (int64_t b = 0; b * kTile < length; ++b) {
      state.key_blocks[static_cast<size_t>(b)] = keys + b * kTile * width;
      state.value_blocks[static_cast<size_t>(b)] = values + b * kTile * width;
    }
    for (int64_t i = 0; i < length; ++i) {
      float* row = qkv_ + (begin + i) * qkv.columns + head * width;
      float* q = row + qkv.segments[0].first_column;
      for (int64_t j = 0; j < width; ++j) q[j] *= scale;
      const int64_t tile = i / kTile * kTile * width;
      kernels().store_key[kType](row + qkv.segments[1].first_column, width, i % kTile, keys + tile);
      kernels().store_value[kType](row + qkv.segments[2].first_column, width, i % kTile,
                                   values + tile);
    }
    AttentionArgs args{};
    args.query = qkv_ + begin * qkv.columns + qkv.segments[0].first_column + head * width;
    args.query_stride = qkv.columns;
    args.out = wide_.row(begin) + head * width;
    args.out_stride = wide_.stride();
    args.rows = static_cast<int32_t>(length);
    args.visible = visible_.data() + begin;
    args.key_blocks = state.key_blocks.data();
    args.value_blocks = state.value_blocks.data();
    args.block_tokens = static_cast<int32_t>(kTile);
    args.head_dim = static_cast<int32_t>(width);
    kernels().attention[kType](args);
  });
}

void CpuEncoder::attention_output(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  machine_->pool.parallel_ranges(rows(), grain(), [&](int64_t begin, int64_t end, int) {
    wide_.convert(kernels(), layer.output.forms, begin, end);
  });
  multiply(*machine_, layer.output, wide_, rows(), residual_, residual_stride_, true);
  norm_and_copy(layer.attention_norm, layer.up.forms);
}

void CpuEncoder::feed_forward(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  hidden_.set_width(spec_.feed_forward);
  multiply_activate(*machine_, layer.up, wide_, rows(), activation_, hidden_, layer.down.forms,
                    hidden_scratch_);
  multiply(*machine_, layer.down, hidden_, rows(), residual_, residual_stride_, true);
  const auto next = static_cast<size_t>(index) + 1;
  norm_and_copy(layer.output_norm, next < layers_.size() ? layers_[next].qkv.forms : uint8_t{0});
}

void CpuEncoder::pool() {
  const int64_t width = spec_.hidden;
  if (batch_.output == EncodeOutput::hidden) {
    for (int64_t r = 0; r < rows(); ++r) {
      std::copy(residual(r), residual(r) + width, results_->begin() + r * width);
    }
    return;
  }
  machine_->pool.parallel_ranges(texts(), 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t first = batch_.offsets[static_cast<size_t>(t)];
      const int64_t last = batch_.offsets[static_cast<size_t>(t) + 1];
      float* out = results_->data() + t * width;
      std::copy(residual(first), residual(first) + width, out);
      if (spec_.pooling == Pooling::mean) {
        for (int64_t r = first + 1; r < last; ++r) kernels().add(out, residual(r), width, out);
        const auto count = static_cast<float>(last - first);
        for (int64_t i = 0; i < width; ++i) out[i] /= count;
      }
      if (spec_.normalize) {
        double square = 0;
        for (int64_t i = 0; i < width; ++i) {
          square += static_cast<double>(out[i]) * static_cast<double>(out[i]);
        }
        const double length = std::max(std::sqrt(square), 1e-12);
        for (int64_t i = 0; i < width; ++i) {
          out[i] = static_cast<float>(static_cast<double>(out[i]) / length);
        }
      }
    }
  });
}

}  // namespace

Result<std::unique_ptr<Encoder>> make_encoder(std::shared_ptr<Machine> machine,
                                              const ModelSpec& spec, const EncoderWeights& tensors,
                                              const WeightSet& weights, const LoadOptions& options,
                                              MemoryLedger& ledger) {
  return guarded(spec.family, [&]() -> Result<std::unique_ptr<Encoder>> {
    auto encoder = std::make_unique<CpuEncoder>(std::move(machine), spec);
    IMPETUS_CHECK(encoder->load(tensors, weights, options, ledger));
    return std::unique_ptr<Encoder>(std::move(encoder));
  });
}

}  // namespace impetus::cpu

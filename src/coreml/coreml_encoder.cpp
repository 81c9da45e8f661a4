#include "coreml/coreml_encoder.h"

#include <algorithm>
#include <cmath>

#include "base/guarded.h"
#include "base/log.h"
#include "coreml/convert.h"
#include "coreml/strided.h"

namespace impetus::coreml {
namespace {

using Shape4 = std::vector<int64_t>;

struct Program {
  std::unique_ptr<CompiledModel> model;
  BackendDescriptor descriptor;  // with the name of who runs it
  bool told = false;             // of values that are not finite, once
};

class CoremlEncoder final : public Encoder {
 public:
  explicit CoremlEncoder(CoremlEncoderParts parts)
      : descriptor_(std::move(parts.descriptor)),
        spec_(std::move(parts.spec)),
        precision_(std::move(parts.precision)),
        host_(std::move(parts.host)),
        buckets_(std::move(parts.shapes)),
        batch_tokens_max_(std::max(parts.batch_tokens_max, buckets_.largest())),
        keeps_(std::move(parts.keeps)) {
    for (auto& model : parts.programs) programs_.push_back({std::move(model), descriptor_});
  }

  Result<void> bind();

  const BackendDescriptor& descriptor() const override { return descriptor_; }
  int64_t batch_tokens_max() const override { return batch_tokens_max_; }
  int64_t text_tokens_max() const override { return buckets_.largest(); }
  std::string_view precision() const override { return precision_; }
  Result<Encoded> encode(const EncoderBatch& batch) override {
    return guarded(spec_.family, [&] { return encode_all(batch); });
  }

 private:
  Result<Encoded> encode_all(const EncoderBatch& batch);
  Result<void> check(const EncoderBatch& batch) const;
  Shape4 hidden_shape(int64_t tokens) const { return {1, spec_.hidden, 1, tokens}; }
  // The hidden states of one text, [hidden, tokens of the program].
  Result<std::vector<float>> run(Program& program, int64_t shape, std::span<const TokenId> tokens,
                                 std::span<const int32_t> token_types);
  void pool(std::span<const float> states, int64_t shape, int64_t tokens, float* out) const;

  BackendDescriptor descriptor_;
  ModelSpec spec_;
  std::string precision_;
  HostEmbeddings host_;
  Buckets buckets_;
  int64_t batch_tokens_max_;
  std::vector<std::shared_ptr<const void>> keeps_;  // longer than the programs
  std::vector<Program> programs_;
};

const Port* find(const std::vector<Port>& ports, std::string_view name) {
  const auto at = std::ranges::find(ports, name, &Port::name);
  return at == ports.end() ? nullptr : &*at;
}

Result<void> CoremlEncoder::bind() {
  for (size_t b = 0; b < programs_.size(); ++b) {
    Program& program = programs_[b];
    const int64_t tokens = buckets_.shapes()[b];
    const auto place = fmt::format("the program for {} tokens", tokens);
    const auto port = [&](const std::vector<Port>& ports, const char* name,
                          const Shape4& shape) -> Result<void> {
      const Port* found = find(ports, name);
      if (found == nullptr) return error(ErrorCode::corrupt, "{}: has no '{}'", place, name);
      if (found->type.shape != shape) {
        return error(ErrorCode::corrupt, "{}: '{}' is {} instead of {}", place, name,
                     found->type.to_string(),
                     mil::TensorType{found->type.dtype, shape}.to_string());
      }
      return {};
    };
    const Shape4 mask{1, tokens, 1, 1};
    IMPETUS_CHECK(port(program.model->inputs(), "hidden", hidden_shape(tokens)));
    IMPETUS_CHECK(port(program.model->inputs(), "mask", mask));
    IMPETUS_CHECK(port(program.model->outputs(), "hidden_states", hidden_shape(tokens)));
    program.descriptor.backend = std::string(program.model->ran_on());
  }
  return {};
}

Result<void> CoremlEncoder::check(const EncoderBatch& batch) const {
  constexpr auto kBad = ErrorCode::invalid_argument;
  const auto total = static_cast<int64_t>(batch.tokens.size());
  if (batch.offsets.empty() || batch.offsets.front() != 0 || batch.offsets.back() != total) {
    return error(kBad, "the offsets of the batch do not span its {} tokens", total);
  }
  if (total > batch_tokens_max_) {
    return error(kBad, "a batch of {} tokens, more than {}", total, batch_tokens_max_);
  }
  for (size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
    const int64_t length = int64_t{batch.offsets[i + 1]} - batch.offsets[i];
    if (length < 1) return error(kBad, "text {} of the batch has no tokens", i);
    if (length > text_tokens_max()) {
      return error(ErrorCode::context_length, "text {}: {} tokens; {} has programs for {} at most",
                   i, length, descriptor_.backend, text_tokens_max());
    }
  }
  if (!batch.token_types.empty() && batch.token_types.size() != batch.tokens.size()) {
    return error(kBad, "{} token types for {} tokens", batch.token_types.size(), total);
  }
  if (batch.output == EncodeOutput::pooled && spec_.pooling == Pooling::none) {
    return error(ErrorCode::unsupported, "{}: the model does not say how to pool its tokens",
                 spec_.family);
  }
  return {};
}

Result<Encoded> CoremlEncoder::encode_all(const EncoderBatch& batch) {
  IMPETUS_CHECK(check(batch));
  const auto turns = buckets_.order(batch.offsets);
  if (!turns) return error(ErrorCode::internal, "a text fits no program");
  const bool pooled = batch.output == EncodeOutput::pooled;
  const int64_t width = spec_.hidden;
  Encoded encoded;
  encoded.ran_on.resize(turns->size());
  encoded.values.resize((pooled ? turns->size() : batch.tokens.size()) *
                        static_cast<size_t>(width));
  for (const auto& [text, bucket] : *turns) {
    const auto begin = static_cast<size_t>(batch.offsets[text]);
    const auto count = static_cast<size_t>(batch.offsets[text + 1]) - begin;
    const int64_t shape = buckets_.shapes()[bucket];
    Program& program = programs_[bucket];
    const auto types = batch.token_types.empty() ? std::span<const int32_t>()
                                                 : batch.token_types.subspan(begin, count);
    IMPETUS_TRY(const auto states, run(program, shape, batch.tokens.subspan(begin, count), types));
    const auto tokens = static_cast<int64_t>(count);
    if (pooled) {
      pool(states, shape, tokens, encoded.values.data() + static_cast<int64_t>(text) * width);
    } else {
      for (int64_t s = 0; s < tokens; ++s) {
        float* row = encoded.values.data() + (static_cast<int64_t>(begin) + s) * width;
        for (int64_t h = 0; h < width; ++h) row[h] = states[static_cast<size_t>(h * shape + s)];
      }
    }
    encoded.ran_on[text] = &program.descriptor;
  }
  return encoded;
}

Result<std::vector<float>> CoremlEncoder::run(Program& program, int64_t shape,
                                              std::span<const TokenId> tokens,
                                              std::span<const int32_t> token_types) {
  IMPETUS_TRY(const auto hidden, host_.lookup(tokens, token_types, shape));
  std::vector<float> mask(static_cast<size_t>(shape), kMaskValue);
  std::fill_n(mask.begin(), tokens.size(), 0.0f);
  int64_t overflown = 0;
  // A prediction that failed may have spoilt its inputs: each is given them anew.
  const auto predict = [&]() -> Result<void> {
    IMPETUS_TRY(const StridedView hidden_view, program.model->input("hidden"));
    IMPETUS_CHECK(check_view(hidden_view, hidden_shape(shape), "hidden"));
    IMPETUS_TRY(const StridedView mask_view, program.model->input("mask"));
    IMPETUS_CHECK(check_view(mask_view, Shape4{1, shape, 1, 1}, "mask"));
    overflown = write_strided(hidden, hidden_view);
    write_strided(mask, mask_view);
    return program.model->predict();
  };
  auto done = predict();
  if (!done.ok()) {
    // Devices that were asleep or taken away fail once; what fails twice is an error.
    log::warn("{}: {} tokens: {}; once more", program.descriptor.backend, shape,
              done.error().message);
    done = predict();
  }
  if (!done.ok()) {
    return Error(done.error())
        .within(fmt::format("{}: the program for {} tokens", program.descriptor.backend, shape));
  }
  IMPETUS_TRY(const StridedView output, program.model->output("hidden_states"));
  IMPETUS_CHECK(check_view(output, hidden_shape(shape), "hidden_states"));
  std::vector<float> states(hidden.size());
  int64_t odd = read_strided(output, states);
  if (odd > 0) {  // what stands behind the text does not matter
    odd = 0;
    for (size_t i = 0; i < states.size(); ++i) {
      odd += static_cast<int64_t>(i) % shape < static_cast<int64_t>(tokens.size()) &&
             !std::isfinite(states[i]);
    }
  }
  if ((overflown > 0 || odd > 0) && !std::exchange(program.told, true)) {
    log::warn(
        "{}: the program for {} tokens: {} inputs do not fit fp16, {} results are not finite (said "
        "once)",
        program.descriptor.backend, shape, overflown, odd);
  }
  return states;
}

void CoremlEncoder::pool(std::span<const float> states, int64_t shape, int64_t tokens,
                         float* out) const {
  for (int64_t h = 0; h < spec_.hidden; ++h) {
    const float* row = states.data() + h * shape;
    float sum = row[0];
    if (spec_.pooling == Pooling::mean) {
      for (int64_t s = 1; s < tokens; ++s) sum += row[s];
      sum /= static_cast<float>(tokens);
    }
    out[h] = sum;
  }
  if (!spec_.normalize) return;
  double square = 0;
  for (int64_t h = 0; h < spec_.hidden; ++h) square += double{out[h]} * double{out[h]};
  const double length = std::max(std::sqrt(square), 1e-12);
  for (int64_t h = 0; h < spec_.hidden; ++h) out[h] = static_cast<float>(out[h] / length);
}

}  // namespace

Result<std::unique_ptr<Encoder>> make_coreml_encoder(CoremlEncoderParts parts) {
  if (parts.shapes.empty() || parts.shapes.size() != parts.programs.size()) {
    return error(ErrorCode::internal, "{} programs for {} shapes", parts.programs.size(),
                 parts.shapes.size());
  }
  auto encoder = std::make_unique<CoremlEncoder>(std::move(parts));
  IMPETUS_CHECK(encoder->bind());
  return std::unique_ptr<Encoder>(std::move(encoder));
}

}  // namespace impetus::coreml

#include "backend/fake.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <thread>

#include "backend/kv_handoff.h"

namespace impetus {
namespace {

// splitmix64's finaliser (Vigna, public domain): a bijection that spreads every bit.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

uint64_t hash_tokens(std::span<const TokenId> tokens) {
  uint64_t hash = mix(tokens.size());
  for (const TokenId token : tokens) hash = mix(hash ^ static_cast<uint32_t>(token));
  return hash;
}

float unit(uint64_t hash) {
  return static_cast<float>(hash >> 40) * 0x1.0p-24f;
}

BackendDescriptor fake_descriptor(const std::string& name) {
  BackendDescriptor descriptor;
  descriptor.device = name;
  descriptor.backend = name;
  descriptor.name = "fake device";
  descriptor.weights = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0};
  descriptor.kv = {DType::f32};
  return descriptor;
}

void linger(std::chrono::microseconds time) {
  if (time.count() > 0) std::this_thread::sleep_for(time);
}

}  // namespace

std::vector<float> fake_logits(std::span<const TokenId> tokens, int64_t vocab) {
  const uint64_t hash = hash_tokens(tokens);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 8.0f * unit(mix(hash ^ mix(i)));
  return logits;
}

std::vector<TokenId> fake_answer(std::span<const TokenId> prompt, const SamplingParams& params,
                                 int64_t count, int64_t vocab) {
  std::vector<TokenId> tokens(prompt.begin(), prompt.end());
  SamplerScratch scratch;
  for (int64_t i = 0; i < count; ++i) {
    auto logits = fake_logits(tokens, vocab);
    const SamplingContext context{prompt, std::span(tokens).subspan(prompt.size()),
                                  static_cast<int64_t>(tokens.size()), nullptr};
    tokens.push_back(sample(logits, params, context, scratch).id);
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()), tokens.end()};
}

std::vector<float> fake_embedding(std::span<const TokenId> tokens, int64_t dimension) {
  auto vector = fake_logits(tokens, dimension);
  float square = 0;
  for (float& x : vector) {
    x -= 4.0f;
    square += x * x;
  }
  for (float& x : vector) x /= std::max(std::sqrt(square), 1e-12f);
  return vector;
}

Result<void> FakeKvStorage::export_block(BlockId block, int32_t begin, int32_t end,
                                         std::span<std::byte> out) const {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, dtype(), out.size()));
  std::vector<float> values;
  for (int part = 0; part < 2; ++part) {
    for (int32_t slot = begin; slot < end; ++slot) {
      values.push_back(static_cast<float>(at(block, slot)));
    }
  }
  std::memcpy(out.data(), values.data(), out.size());
  return {};
}

Result<void> FakeKvStorage::import_block(BlockId block, int32_t begin, int32_t end, DType type,
                                         std::span<const std::byte> in) {
  IMPETUS_CHECK(check_handoff(*this, block, begin, end, type, in.size()));
  const auto count = static_cast<size_t>(end - begin);
  std::vector<float> values(2 * count);
  convert_kv(type, in, DType::f32, std::as_writable_bytes(std::span(values)));
  for (size_t i = 0; i < count; ++i) {
    // A key without its value is no token.
    at(block, begin + static_cast<int32_t>(i)) =
        values[i] == values[count + i] ? static_cast<TokenId>(values[i]) : -3;
  }
  return {};
}

FakeExecutor::FakeExecutor(const FakeOptions& options)
    : options_(options),
      descriptor_(fake_descriptor(options.name)),
      kv_(options.blocks, options.block_tokens) {}

Result<void> FakeExecutor::check(std::span<const SequenceStep> batch) const {
  constexpr auto kBad = ErrorCode::invalid_argument;
  int64_t total = 0;
  std::map<BlockId, size_t> writer;
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const auto n = static_cast<int64_t>(step.tokens.size());
    const int64_t end = step.position + n;
    total += n;
    if (n == 0 || step.position < 0) return error(kBad, "sequence {} has no tokens to run", s);
    if (static_cast<int64_t>(step.blocks.size()) * options_.block_tokens < end) {
      return error(kBad, "sequence {}: {} blocks do not cover {} positions", s, step.blocks.size(),
                   end);
    }
    for (const TokenId token : step.tokens) {
      if (token < 0 || token >= options_.vocab) return error(kBad, "token {} is no token", token);
    }
    if (step.output == StepOutput::sample && step.sampling == nullptr) {
      return error(kBad, "sequence {} samples without parameters", s);
    }
    std::vector<BlockId> sorted(step.blocks.begin(), step.blocks.end());
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
      return error(kBad, "sequence {} lists a block twice", s);
    }
    if (sorted.front() < 0 || sorted.back() >= options_.blocks) {
      return error(kBad, "sequence {} lists a block that is not there", s);
    }
    for (int64_t b = step.position / options_.block_tokens; b * options_.block_tokens < end; ++b) {
      if (!writer.emplace(step.blocks[static_cast<size_t>(b)], s).second) {
        return error(kBad, "block {} is written by two sequences",
                     step.blocks[static_cast<size_t>(b)]);
      }
    }
  }
  for (size_t s = 0; s < batch.size(); ++s) {
    for (const BlockId block : batch[s].blocks) {
      const auto found = writer.find(block);
      if (found != writer.end() && found->second != s) {
        return error(kBad, "sequence {} lists block {}, which sequence {} writes", s, block,
                     found->second);
      }
    }
  }
  if (total > options_.step_tokens_max) {
    return error(kBad, "{} tokens in a step of at most {}", total, options_.step_tokens_max);
  }
  return {};
}

std::vector<TokenId> FakeExecutor::read_back(const SequenceStep& step, int64_t length) const {
  std::vector<TokenId> tokens(static_cast<size_t>(length));
  for (int64_t p = 0; p < length; ++p) {
    const BlockId block = step.blocks[static_cast<size_t>(p / options_.block_tokens)];
    tokens[static_cast<size_t>(p)] = kv_.at(block, p % options_.block_tokens);
  }
  return tokens;
}

Result<std::vector<SequenceResult>> FakeExecutor::execute(std::span<const SequenceStep> batch) {
  ++steps_;
  if (hook_) hook_(batch);
  linger(options_.step_time);
  IMPETUS_CHECK(check(batch));
  std::optional<Error> failure;
  if (!failures_.empty()) {
    failure = std::move(failures_.front());
    failures_.pop_front();
  } else if (options_.faults) {
    int64_t tokens = 0;
    for (const SequenceStep& step : batch) tokens += static_cast<int64_t>(step.tokens.size());
    // What throws has not touched a block; what fails has scrambled those it was to write.
    if (auto met = options_.faults->meet(tokens); !met.ok()) failure = met.error();
  }
  const bool fails = failure.has_value();
  for (const SequenceStep& step : batch) {
    for (size_t i = 0; i < step.tokens.size(); ++i) {
      const int64_t p = step.position + static_cast<int64_t>(i);
      const BlockId block = step.blocks[static_cast<size_t>(p / options_.block_tokens)];
      kv_.at(block, p % options_.block_tokens) = fails ? -2 : step.tokens[i];
      ++tokens_run_;
    }
  }
  if (fails) return std::move(*failure);
  std::vector<SequenceResult> results(batch.size());
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    results[s].ran_on = &descriptor_;
    const int64_t end = step.position + static_cast<int64_t>(step.tokens.size());
    const auto tokens = read_back(step, end);
    const auto after = [&](int64_t length) {
      auto logits =
          fake_logits(std::span(tokens).first(static_cast<size_t>(length)), options_.vocab);
      if (nan_ && nan_(tokens)) logits[0] = std::numeric_limits<float>::quiet_NaN();
      return logits;
    };
    if (step.output == StepOutput::none) continue;
    auto logits = after(end);
    if (std::isnan(logits[0])) {
      results[s].token = error(ErrorCode::internal, "fake: NaN logits at position {}", end - 1);
    } else if (step.output == StepOutput::sample) {
      results[s].token = sample(logits, *step.sampling, step.context, scratch_);
    } else if (step.output == StepOutput::logits_last) {
      results[s].logits = std::move(logits);
    } else {
      for (int64_t p = step.position; p < end; ++p) {
        const auto row = after(p + 1);
        results[s].logits.insert(results[s].logits.end(), row.begin(), row.end());
      }
    }
  }
  return results;
}

FakeEncoder::FakeEncoder(const FakeOptions& options)
    : options_(options), descriptor_(fake_descriptor(options.name)) {}

Result<Encoded> FakeEncoder::encode(const EncoderBatch& batch) {
  ++batches_;
  if (hook_) hook_(batch);
  linger(options_.step_time);
  if (!failures_.empty()) {
    Error failure = std::move(failures_.front());
    failures_.pop_front();
    return failure;
  }
  constexpr auto kBad = ErrorCode::invalid_argument;
  const auto total = static_cast<int64_t>(batch.tokens.size());
  if (options_.faults) IMPETUS_CHECK(options_.faults->meet(total));
  if (batch.offsets.empty() || batch.offsets.front() != 0 || batch.offsets.back() != total) {
    return error(kBad, "offsets do not span the tokens");
  }
  if (total > options_.step_tokens_max) {
    return error(kBad, "{} tokens in a batch of at most {}", total, options_.step_tokens_max);
  }
  std::vector<float> out;
  for (size_t i = 0; i + 1 < batch.offsets.size(); ++i) {
    const int64_t begin = batch.offsets[i], end = batch.offsets[i + 1];
    if (begin >= end) return error(kBad, "text {} is empty", i);
    if (end - begin > text_tokens_max()) {
      return error(ErrorCode::context_length, "text {} is too long", i);
    }
    const auto text =
        batch.tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    const int64_t rows = batch.output == EncodeOutput::pooled ? 1 : end - begin;
    for (int64_t r = 0; r < rows; ++r) {
      // A hidden row hashes the text from its own token on, so that rows differ.
      const auto vector = fake_embedding(text.subspan(static_cast<size_t>(r)), options_.dimension);
      out.insert(out.end(), vector.begin(), vector.end());
    }
  }
  const BackendDescriptor* self = &descriptor_;
  return Encoded{std::move(out), std::vector(batch.offsets.size() - 1, self)};
}

FakeBackend::FakeBackend(FakeOptions options)
    : options_(std::move(options)), descriptor_(fake_descriptor(options_.name)) {
  descriptor_.emulated = options_.emulated;
  descriptor_.enqueues = options_.enqueues;
}

Result<std::unique_ptr<Executor>> FakeBackend::load_decoder(const ModelSpec& spec, const WeightSet&,
                                                            const LoadOptions& options,
                                                            MemoryLedger&) {
  FakeOptions made = options_;
  made.vocab = spec.vocab;
  made.step_tokens_max = options.step_tokens_max;
  made.blocks =
      static_cast<int32_t>((options.kv_tokens + made.block_tokens - 1) / made.block_tokens);
  return std::unique_ptr<Executor>(std::make_unique<FakeExecutor>(made));
}

Result<std::unique_ptr<Encoder>> FakeBackend::load_encoder(const ModelSpec& spec, const WeightSet&,
                                                           const LoadOptions& options,
                                                           MemoryLedger&) {
  FakeOptions made = options_;
  made.dimension = spec.hidden;
  made.step_tokens_max = options.step_tokens_max;
  return std::unique_ptr<Encoder>(std::make_unique<FakeEncoder>(made));
}

}  // namespace impetus

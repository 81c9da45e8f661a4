#include "engine/split_executor.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "backend/kv_handoff.h"
#include "base/timing.h"

namespace impetus {
namespace {

using Clock = std::chrono::steady_clock;

BackendDescriptor joined(const BackendDescriptor& prefill, const BackendDescriptor& decode) {
  const auto both = [](const std::string& one, const std::string& other) {
    return one == other ? one : one + "+" + other;
  };
  BackendDescriptor pair;
  pair.device = both(prefill.device, decode.device);
  pair.backend = both(prefill.backend, decode.backend);
  pair.name = both(prefill.name, decode.name);
  for (const DType type : prefill.weights) {
    if (std::ranges::find(decode.weights, type) != decode.weights.end()) {
      pair.weights.push_back(type);
    }
  }
  for (const DType type : prefill.kv) {
    if (std::ranges::find(decode.kv, type) != decode.kv.end()) pair.kv.push_back(type);
  }
  pair.threads = std::max(prefill.threads, decode.threads);
  return pair;
}

Error no_place() {
  return error(ErrorCode::unsupported, "the KV of a pair lies on both its sides; ask one of them");
}

}  // namespace

int32_t SplitExecutor::Kv::blocks() const {
  return std::min(prefill_.blocks(), decode_.blocks());
}
Result<void> SplitExecutor::Kv::export_block(BlockId, int32_t, int32_t,
                                             std::span<std::byte>) const {
  return no_place();
}
Result<void> SplitExecutor::Kv::import_block(BlockId, int32_t, int32_t, DType,
                                             std::span<const std::byte>) {
  return no_place();
}

Result<std::unique_ptr<SplitExecutor>> SplitExecutor::create(std::unique_ptr<Executor> prefill,
                                                             std::unique_ptr<Executor> decode) {
  const KvStorage& from = std::as_const(*prefill).kv();
  const KvStorage& to = std::as_const(*decode).kv();
  const std::string pair =
      fmt::format("{} and {}", prefill->descriptor().backend, decode->descriptor().backend);
  if (from.block_tokens() != to.block_tokens()) {
    return error(ErrorCode::unsupported,
                 "{} cannot share KV: their blocks have {} and {} positions", pair,
                 from.block_tokens(), to.block_tokens());
  }
  if (from.shape() != to.shape()) {
    return error(ErrorCode::unsupported, "{} cannot share KV: they hold different models", pair);
  }
  return std::unique_ptr<SplitExecutor>(new SplitExecutor(std::move(prefill), std::move(decode)));
}

SplitExecutor::SplitExecutor(std::unique_ptr<Executor> prefill, std::unique_ptr<Executor> decode)
    : sides_{Side{std::move(prefill), {}}, Side{std::move(decode), {}}},
      kv_(sides_[0].executor->kv(), sides_[1].executor->kv()),
      descriptor_(joined(sides_[0].executor->descriptor(), sides_[1].executor->descriptor())) {
  for (Side& side : sides_) side.valid.resize(static_cast<size_t>(kv_.blocks()), 0);
}

int64_t SplitExecutor::step_tokens_max() const {
  return std::min(sides_[0].executor->step_tokens_max(), sides_[1].executor->step_tokens_max());
}

Result<std::vector<SequenceResult>> SplitExecutor::execute(std::span<const SequenceStep> batch) {
  IMPETUS_CHECK(check(batch));
  std::array<std::vector<SequenceStep>, 2> parts;
  std::array<std::vector<size_t>, 2> places;
  for (size_t i = 0; i < batch.size(); ++i) {
    const auto side = static_cast<size_t>(batch[i].phase);
    parts[side].push_back(batch[i]);
    places[side].push_back(i);
  }
  if (parts[1].empty()) return run(StepPhase::prefill, batch);
  if (parts[0].empty()) return run(StepPhase::decode, batch);

  std::vector<SequenceResult> results(batch.size());
  for (size_t side = 0; side < 2; ++side) {
    auto part = run(static_cast<StepPhase>(side), parts[side]);
    for (size_t i = 0; i < places[side].size(); ++i) {
      SequenceResult& result = results[places[side][i]];
      if (part.ok()) {
        result = std::move((*part)[i]);
      } else {
        result.token = part.error();
        result.ran_on = &sides_[side].executor->descriptor();
      }
    }
  }
  return results;
}

double SplitExecutor::expected_seconds(std::span<const SequenceStep> batch) const {
  double sum = 0;
  for (size_t side = 0; side < 2; ++side) {
    std::vector<SequenceStep> part;
    for (const SequenceStep& step : batch) {
      if (static_cast<size_t>(step.phase) == side) part.push_back(step);
    }
    if (part.empty()) continue;
    const double seconds = sides_[side].executor->expected_seconds(part);
    if (!(seconds > 0)) return 0;
    sum += seconds;
  }
  return sum;
}

// The sides check the rest; here what the book-keeping itself relies on.
Result<void> SplitExecutor::check(std::span<const SequenceStep> batch) const {
  for (size_t s = 0; s < batch.size(); ++s) {
    const SequenceStep& step = batch[s];
    const int64_t end = step.position + static_cast<int64_t>(step.tokens.size());
    if (step.tokens.empty() || step.position < 0 ||
        static_cast<int64_t>(step.blocks.size()) * kv_.block_tokens() < end) {
      return error(ErrorCode::invalid_argument,
                   "sequence {}: {} KV blocks for {} tokens from position {} on", s,
                   step.blocks.size(), step.tokens.size(), step.position);
    }
    for (const BlockId block : step.blocks) {
      if (block < 0 || block >= kv_.blocks()) {
        return error(ErrorCode::invalid_argument, "sequence {}: KV block {} of {}", s, block,
                     kv_.blocks());
      }
    }
  }
  return {};
}

template <typename Touch>
void SplitExecutor::for_written(const SequenceStep& step, Touch&& touch) const {
  const int64_t size = kv_.block_tokens();
  const int64_t end = step.position + static_cast<int64_t>(step.tokens.size());
  for (int64_t b = step.position / size; b * size < end; ++b) {
    touch(static_cast<size_t>(step.blocks[static_cast<size_t>(b)]),
          static_cast<int32_t>(std::max<int64_t>(0, step.position - b * size)),
          static_cast<int32_t>(std::min(size, end - b * size)));
  }
}

Result<void> SplitExecutor::bring(size_t side, const SequenceStep& step) {
  const int64_t size = kv_.block_tokens();
  Side& to = sides_[side];
  const Side& from = sides_[1 - side];
  for (int64_t b = 0; b * size < step.position; ++b) {
    const BlockId block = step.blocks[static_cast<size_t>(b)];
    const auto needed = static_cast<int32_t>(std::min(size, step.position - b * size));
    int32_t& valid = to.valid[static_cast<size_t>(block)];
    if (valid >= needed) continue;
    if (from.valid[static_cast<size_t>(block)] < needed) {
      return error(ErrorCode::invalid_argument,
                   "position {} is read from KV block {}, where it was never computed or was lost",
                   b * size + needed - 1, block);
    }
    IMPETUS_CHECK(hand_over(std::as_const(*from.executor).kv(), to.executor->kv(), block, valid,
                            needed, scratch_));
    handed_over_ += needed - valid;
    valid = needed;
  }
  return {};
}

Result<std::vector<SequenceResult>> SplitExecutor::run(StepPhase phase,
                                                       std::span<const SequenceStep> steps) {
  const auto side = static_cast<size_t>(phase);
  running_.store(side, std::memory_order_relaxed);
  std::vector<double> seconds(steps.size());
  Result<void> brought;
  for (size_t i = 0; i < steps.size() && brought.ok(); ++i) {
    const auto start = Clock::now();
    const int64_t before = handed_over_;
    brought = bring(side, steps[i]);
    if (handed_over_ != before) seconds[i] = seconds_since(start);
  }
  // From here on what is to be written stands nowhere, until it does.
  for (const SequenceStep& step : steps) {
    for_written(step, [&](size_t block, int32_t first, int32_t) {
      for (Side& one : sides_) one.valid[block] = std::min(one.valid[block], first);
    });
  }
  IMPETUS_CHECK(brought);
  IMPETUS_TRY(auto results, sides_[side].executor->execute(steps));
  if (results.size() != steps.size()) {
    return error(ErrorCode::internal, "{} answered {} sequences of {}",
                 sides_[side].executor->descriptor().backend, results.size(), steps.size());
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    for_written(steps[i],
                [&](size_t block, int32_t, int32_t end) { sides_[side].valid[block] = end; });
    results[i].handoff_seconds += seconds[i];
  }
  return results;
}

}  // namespace impetus

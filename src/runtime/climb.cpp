#include "runtime/climb.h"

#include <algorithm>
#include <utility>

#include "backend/kv_handoff.h"
#include "base/log.h"
#include "engine/guard.h"
#include "engine/split_executor.h"

namespace impetus {
namespace {

// One phase's ladder, and what stood in the way so far.
class Climb {
 public:
  Climb(std::string model, const char* phase, std::span<const Rung> rungs, Fallback fallback)
      : model_(std::move(model)), phase_(phase), rungs_(rungs), fallback_(fallback) {}

  // The first rung from here on whose backend is there.
  Result<Backend*> backend() {
    while (at_ < rungs_.size() && !rungs_[at_].backend) {
      IMPETUS_CHECK(pass(error(ErrorCode::unsupported, "{}", rungs_[at_].absent)));
    }
    if (at_ < rungs_.size()) return rungs_[at_].backend;
    return error(last_, "{}: no processor is left for {}: {}", model_, phase_,
                 passed_.empty() ? "none was named" : passed_);
  }

  // Of the rung that backend() gave; what the user fixed stands.
  ThreadPlan threads(const ThreadPlan& given) const {
    const ThreadPlan& planned = rungs_[at_].threads;
    return {given.decode > 0 ? given.decode : planned.decode,
            given.prefill > 0 ? given.prefill : planned.prefill};
  }

  // The backend at hand failed with this.
  Result<void> pass(const Error& failure) {
    if (failure.code != ErrorCode::unsupported && failure.code != ErrorCode::insufficient_memory) {
      return failure;
    }
    if (fallback_ == Fallback::forbid) {
      return error(failure.code, "{}: {} was to run on {}, and no other is allowed: {}", model_,
                   phase_, rungs_[at_].name, failure.message);
    }
    passed_ += fmt::format("{}{} ({})", passed_.empty() ? "" : ", nor on ", rungs_[at_].name,
                           failure.message);
    last_ = failure.code;
    ++at_;
    return {};
  }

  bool left() const { return at_ < rungs_.size(); }
  // To the rung after the one that took it.
  void next() {
    ++at_;
    passed_.clear();
  }

  // "decode runs on cpu-avx2, not on cpu-avx512 (...)"; empty where the first rung held.
  std::string reason() const {
    if (passed_.empty()) return {};
    return fmt::format("{} on {}, not on {}", phase_, rungs_[at_].backend->descriptor().backend,
                       passed_);
  }

 private:
  std::string model_;
  const char* phase_;
  std::span<const Rung> rungs_;
  Fallback fallback_;
  size_t at_ = 0;
  std::string passed_;
  ErrorCode last_ = ErrorCode::unsupported;
};

void tell(const std::string& model, Fallback fallback, const Placed& placed) {
  if (fallback == Fallback::warn && !placed.fallback_reason.empty()) {
    log::warn("{}: {}", model, placed.fallback_reason);
  }
}

// `sides`: how many processors hold the model in this memory.
Result<int64_t> plan_kv_tokens(const std::string& model, const ModelSpec& spec,
                               const WeightSet& weights, DType kv, int64_t sides,
                               const MemoryLedger& ledger) {
  IMPETUS_CHECK(check_kv_type(kv, spec.head_dim));
  const int64_t token_bytes = sides * kv_bytes({spec.layers, spec.kv_heads, spec.head_dim}, 1, kv);
  const int64_t free = ledger.free_bytes();
  const int64_t affordable = (free - sides * weights.bytes()) / 5 * 2 / token_bytes;
  const int64_t tokens = std::min(spec.context * 8, affordable);
  if (tokens >= 1) return tokens;
  return error(ErrorCode::insufficient_memory,
               "{}: {} MiB of weights leave no memory for a KV cache (free: {} MiB)", model,
               sides * weights.bytes() >> 20, free >> 20);
}

// In tokens, of the texts that reach an encoder.
int64_t longest_text(const ModelSpec& spec) {
  return spec.sequence_length_max > 0 ? std::min(spec.sequence_length_max, spec.context)
                                      : spec.context;
}

}  // namespace

Result<Placed> place_decoder(const std::string& model, const ModelSpec& spec,
                             const WeightSet& weights, const Ladders& ladders, Fallback fallback,
                             LoadOptions options, std::optional<int64_t> kv_tokens,
                             MemoryLedger& ledger) {
  Climb prefill(model, "prefill", ladders.prefill, fallback);
  Climb decode(model, "decode", ladders.decode, fallback);
  const ThreadPlan given = options.threads;
  // Positions that the memory of one has room for, before either side of a pair takes its part.
  const auto room = [&](const Backend& of, const Backend& other) -> Result<int64_t> {
    if (kv_tokens) return *kv_tokens;
    const auto memory = [&](const Backend& one) { return one.memory() ? one.memory() : &ledger; };
    const int64_t sides = &of != &other && memory(of) == memory(other) ? 2 : 1;
    return plan_kv_tokens(model, spec, weights, options.kv, sides, *memory(of));
  };
  const auto load = [&](Backend& backend,
                        const ThreadPlan& threads) -> Result<std::unique_ptr<Executor>> {
    options.threads = threads;
    IMPETUS_TRY(auto executor, ladders.run(backend, [&] {
      return guarded([&] { return backend.load_decoder(spec, weights, options, ledger); });
    }));
    return ladders.watch_executor ? ladders.watch_executor(threads, std::move(executor))
                                  : std::move(executor);
  };
  for (;;) {
    IMPETUS_TRY(Backend* const first, prefill.backend());
    IMPETUS_TRY(Backend* const second, decode.backend());
    Placed placed;
    placed.home = second;
    const auto of_first = room(*first, *second), of_second = room(*second, *first);
    if (of_first.ok() && of_second.ok()) options.kv_tokens = std::min(*of_first, *of_second);
    if (first == second) {
      auto executor = of_first.ok() ? load(*first, decode.threads(given))
                                    : Result<std::unique_ptr<Executor>>(of_first.error());
      if (!executor.ok()) {
        IMPETUS_CHECK(prefill.pass(executor.error()));
        IMPETUS_CHECK(decode.pass(executor.error()));
        continue;
      }
      placed.executor = std::move(*executor);
    } else {
      if (!of_first.ok()) {
        IMPETUS_CHECK(prefill.pass(of_first.error()));
        continue;
      }
      if (!of_second.ok()) {
        IMPETUS_CHECK(decode.pass(of_second.error()));
        continue;
      }
      auto one = load(*first, prefill.threads(given));
      if (!one.ok()) {
        IMPETUS_CHECK(prefill.pass(one.error()));
        continue;
      }
      auto other = load(*second, decode.threads(given));
      if (!other.ok()) {
        IMPETUS_CHECK(decode.pass(other.error()));
        continue;
      }
      auto pair = SplitExecutor::create(std::move(*one), std::move(*other));
      if (!pair.ok()) {
        IMPETUS_CHECK(decode.pass(pair.error()));
        continue;
      }
      placed.executor = std::move(*pair);
    }
    placed.devices.prefill = {first->descriptor().backend};
    placed.devices.decode = {second->descriptor().backend};
    for (const std::string& reason : {prefill.reason(), decode.reason()}) {
      if (reason.empty()) continue;
      if (!placed.fallback_reason.empty()) placed.fallback_reason += "; ";
      placed.fallback_reason += reason;
    }
    tell(model, fallback, placed);
    return placed;
  }
}

Result<Placed> place_encoder(const std::string& model, const ModelSpec& spec,
                             const WeightSet& weights, const Ladders& ladders, Fallback fallback,
                             const LoadOptions& options, MemoryLedger& ledger) {
  Climb embeddings(model, "embeddings", ladders.embeddings, fallback);
  // The next rung that takes it.
  const auto take = [&]() -> Result<LongerEncoder> {
    for (;;) {
      IMPETUS_TRY(Backend* const backend, embeddings.backend());
      LoadOptions own = options;
      own.threads = embeddings.threads(options.threads);
      auto encoder = ladders.run(*backend, [&] {
        return guarded([&] { return backend->load_encoder(spec, weights, own, ledger); });
      });
      if (!encoder.ok()) {
        IMPETUS_CHECK(embeddings.pass(encoder.error()));
        continue;
      }
      LongerEncoder taken;
      taken.encoder = ladders.watch_encoder
                          ? ladders.watch_encoder(own.threads, std::move(*encoder))
                          : std::move(*encoder);
      taken.home = backend;
      return taken;
    }
  };
  IMPETUS_TRY(LongerEncoder first, take());
  Placed placed;
  placed.encoder = std::move(first.encoder);
  placed.home = first.home;
  placed.devices.embeddings = {first.home->descriptor().backend};
  placed.fallback_reason = embeddings.reason();
  const int64_t longest = longest_text(spec);
  const Encoder* last = placed.encoder.get();
  while (last->text_tokens_max() < longest) {
    const std::string limit = fmt::format("{} takes texts of at most {} tokens",
                                          last->descriptor().backend, last->text_tokens_max());
    if (fallback == Fallback::forbid) {
      placed.limit_reason = limit + ", and no other processor is allowed";
      break;
    }
    embeddings.next();
    if (!embeddings.left()) {
      placed.limit_reason = limit + ", and no further processor is named";
      break;
    }
    auto taken = take();
    if (!taken.ok()) {
      if (embeddings.left()) return std::move(taken).error();  // no refusal
      placed.limit_reason = fmt::format("{}; {}", limit, taken.error().message);
      break;
    }
    const std::string& name = taken->home->descriptor().backend;
    if (taken->encoder->text_tokens_max() <= last->text_tokens_max()) continue;  // no help
    placed.devices.add({.embeddings = {name}});
    placed.fallback_reason += fmt::format("{}embeddings of longer texts on {}: {}",
                                          placed.fallback_reason.empty() ? "" : "; ", name, limit);
    placed.longer.push_back(std::move(*taken));
    last = placed.longer.back().encoder.get();
  }
  if (!placed.limit_reason.empty()) log::warn("{}: {}", model, placed.limit_reason);
  tell(model, fallback, placed);
  return placed;
}

}  // namespace impetus

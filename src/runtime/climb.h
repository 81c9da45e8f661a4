// One model onto the first processors of its ladders that take it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "backend/executor.h"
#include "runtime/placement.h"
#include "runtime/types.h"

namespace impetus {

struct Placed {
  std::unique_ptr<Executor> executor;  // decoders; a pair where the phases run on two processors
  std::unique_ptr<Encoder> encoder;    // encoders
  const Backend* home = nullptr;       // whose device's loop is to drive it
  // Encoders: for the texts that are too long for those before.
  std::vector<LongerEncoder> longer;
  // Where texts that the model takes are too long for all of them: why there is no further one.
  std::string limit_reason;
  Devices devices;
  std::string fallback_reason;  // empty: the first of each ladder took it
};

// A rung that is absent, or whose backend refuses (unsupported, insufficient_memory), is passed
// over as `fallback` says; any other failure, and a ladder without rungs left, is an error.
// `kv_tokens` unset: enough for eight whole contexts where memory allows, never more than two
// fifths of what is free where it runs, of a pair's memories the least.
Result<Placed> place_decoder(const std::string& model, const ModelSpec& spec,
                             const WeightSet& weights, const Ladders& ladders, Fallback fallback,
                             LoadOptions options, std::optional<int64_t> kv_tokens,
                             MemoryLedger& ledger);
// An encoder that does not take all lengths of the model's texts (Encoder::text_tokens_max) gets
// the next of the ladder beside it for the others, as `fallback` allows.
Result<Placed> place_encoder(const std::string& model, const ModelSpec& spec,
                             const WeightSet& weights, const Ladders& ladders, Fallback fallback,
                             const LoadOptions& options, MemoryLedger& ledger);

}  // namespace impetus

// Decoders on the CPU.
#pragma once

#include <memory>

#include "cpu/product.h"

namespace impetus::cpu {

// `weights` must outlive the executor: embedding rows are read from the mapped file.
Result<std::unique_ptr<Executor>> make_decoder(std::shared_ptr<Machine> machine,
                                               const ModelSpec& spec, const DecoderWeights& tensors,
                                               const WeightSet& weights, const LoadOptions& options,
                                               MemoryLedger& ledger);

}  // namespace impetus::cpu

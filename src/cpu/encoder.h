// Encoders on the CPU.
#pragma once

#include <memory>

#include "cpu/product.h"

namespace impetus::cpu {

// `weights` must outlive the encoder: embedding rows are read from the mapped file.
Result<std::unique_ptr<Encoder>> make_encoder(std::shared_ptr<Machine> machine,
                                              const ModelSpec& spec, const EncoderWeights& tensors,
                                              const WeightSet& weights, const LoadOptions& options,
                                              MemoryLedger& ledger);

}  // namespace impetus::cpu

// The Neural Engine as a processor: encoders converted to Core ML programs, one a length, and run
// by whatever loads them (compiled_model.h). Texts longer than the longest program are the next
// processor's (Encoder::text_tokens_max says where that begins).
//
// What is still to come here: the verdict (a child process that compiles, runs and compares a
// program before it is trusted), the watchdog around each prediction, and decoders.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "backend/executor.h"
#include "coreml/cache.h"
#include "coreml/compiled_model.h"
#include "coreml/convert.h"

namespace impetus::coreml {

struct CoremlOptions {
  Precision precision = Precision::fp16;
  std::vector<int64_t> shapes = ConvertOptions().shapes;  // those past a model's texts are left out
  int macos = 15;                                         // what the programs may use
  ComputeUnits units = ComputeUnits::cpu_and_neural_engine;
  // Where what was converted is kept; empty, or not to be written: in a temporary folder that goes
  // with the encoder.
  std::filesystem::path cache;
  int64_t cache_bytes_max = PackageCache::kBytesMax;
};

// A backend of the loader's name. Decoders are unsupported; encoders too where the check of the
// Neural Engine's rules finds an error in their programs.
Result<std::unique_ptr<Backend>> make_coreml_backend(std::shared_ptr<ModelLoader> loader,
                                                     CoremlOptions options);

// Runs packages by the interpreter of mil/. `threads`: of one prediction.
std::shared_ptr<ModelLoader> make_emulated_loader(int threads);

}  // namespace impetus::coreml

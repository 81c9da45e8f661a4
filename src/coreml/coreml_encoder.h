// An encoder over compiled programs, one a shape. Internal to this folder.
#pragma once

#include <memory>
#include <vector>

#include "backend/executor.h"
#include "coreml/buckets.h"
#include "coreml/compiled_model.h"
#include "coreml/host_embeddings.h"

namespace impetus::coreml {

struct CoremlEncoderParts {
  BackendDescriptor descriptor;
  ModelSpec spec;
  std::string precision;  // of its weights, for people
  HostEmbeddings host;
  std::vector<int64_t> shapes;                           // ascending
  std::vector<std::unique_ptr<CompiledModel>> programs;  // of each shape
  int64_t batch_tokens_max = 512;
  std::vector<std::shared_ptr<const void>> keeps;  // reservations, the cache's entry
};

// Checks the programs' ports against what an encoder's function has (convert.h); `corrupt` names
// the shape and the port that is not as it should be.
Result<std::unique_ptr<Encoder>> make_coreml_encoder(CoremlEncoderParts parts);

}  // namespace impetus::coreml

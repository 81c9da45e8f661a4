// A benchmark's figures with the plan's predictions beside them: what tables show and the history
// keeps.
#pragma once

#include <vector>

#include "backend/profile.h"
#include "runtime/benchmark.h"
#include "runtime/history.h"

namespace impetus {

// One record a phase: "prefill" and "decode", or "embeddings" (a full batch) and "embedding" (one
// text alone; tokens a second as well). `threads` and precision are those the model was loaded
// with.
std::vector<BenchmarkRecord> benchmark_records(
    const Model& model, const BackendDescriptor& descriptor, const DeviceProfile& profile,
    const LoadOptions& load, const BenchmarkOptions& options, const BenchmarkResult& result);

// |predicted / measured - 1|, its median over the records that have a prediction.
double median_prediction_error(const std::vector<BenchmarkRecord>& records);

}  // namespace impetus

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

// Several rounds of one benchmark, each with the same phases, as one: the median of their medians,
// and the least and the most of these. Of even numbers of rounds the mean of the two in the middle.
std::vector<BenchmarkRecord> over_rounds(const std::vector<std::vector<BenchmarkRecord>>& rounds);

// A benchmark that a running server is asked for.
struct BenchmarkRequest {
  std::string model;
  BenchmarkOptions options;
  std::vector<std::string> devices;  // names of backends, or of devices; empty: every backend
};

struct BenchmarkRefusal {
  std::string backend, reason;
};

// Every processor side by side.
struct BenchmarkAnswer {
  std::string model;
  std::vector<BenchmarkRecord> results;
  std::vector<BenchmarkRefusal> refused;  // processors that did not run it
  std::string history_failure;            // why the results are not in the history; empty: they are
};

// |predicted / measured - 1|, its median over the records that have a prediction.
double median_prediction_error(const std::vector<BenchmarkRecord>& records);

}  // namespace impetus

// Counters and histograms in Prometheus' text format
// (https://prometheus.io/docs/instrumenting/exposition_formats/). Thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backend/memory_ledger.h"
#include "runtime/types.h"

namespace impetus {

class Histogram {
 public:
  void observe(double seconds);
  // Lines of one histogram; `labels` is "" or `key="value"`.
  void render(std::string& out, const std::string& name, const std::string& labels) const;

 private:
  static constexpr std::array kBounds{0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
                                      0.5,   1.0,    2.0,   5.0,  10.0, 30.0, 60.0};
  std::array<uint64_t, kBounds.size() + 1> counts_{};
  double sum_ = 0;
};

class Metrics {
 public:
  void request_ended(const std::string& route, int status, double seconds);
  // Time to first token counts for the prompt's processors, time per token for the answer's.
  void answer_ended(const std::string& model, const Devices& devices, const Usage& usage,
                    const Timings& timings);
  void connection(int change);

  std::string render(const std::vector<LaneMetrics>& lanes, const MemoryLedger& ledger,
                     const std::vector<DeviceMemory>& devices,
                     const std::vector<LostProcessor>& lost) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> requests_;
  std::map<std::string, Histogram> latency_;
  std::map<std::pair<std::string, std::string>, Histogram> first_token_, token_time_;
  int64_t connections_ = 0;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace impetus

// What /api/hardware answers, as JSON bodies. Thread-safe.
//
// Probes may wait for drivers and sensors. Those of the metrics are made by a thread of their own,
// once a second, and only while somebody asks: no question waits for one but the first.
#pragma once

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/json.h"

namespace impetus {

class HardwareReports {
 public:
  explicit HardwareReports(std::filesystem::path root = "/") : root_(std::move(root)) {}
  HardwareReports(const HardwareReports&) = delete;
  HardwareReports& operator=(const HardwareReports&) = delete;
  ~HardwareReports();

  // Probes, at most once a second: not for a thread that serves sockets. `lost`: the processors
  // that failed since the start, for they are probed as if nothing had happened.
  std::string info(json::array lost = {});
  // Never waits; nullopt where no fresh reading is there. Then metrics() waits for one.
  std::optional<std::string> fresh_metrics();
  std::string metrics();

 private:
  using Clock = std::chrono::steady_clock;

  void ask();  // REQUIRES: mutex_ is held
  bool fresh() const;
  void guarded_prober();
  void probe_while_asked();

  const std::filesystem::path root_;

  std::mutex info_mutex_;
  json::object info_;
  Clock::time_point info_made_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string metrics_;
  Clock::time_point made_, asked_;
  bool asleep_ = false;
  bool stopping_ = false;
  std::thread prober_;  // started by the first question
};

}  // namespace impetus

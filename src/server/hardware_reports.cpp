#include "server/hardware_reports.h"

#include <ctime>

#include "base/log.h"
#include "hardware/inventory.h"

namespace impetus {
namespace {

using namespace std::chrono_literals;

constexpr auto kEvery = 1s;
constexpr auto kFresh = 3s;          // a probe that takes its time makes nobody wait
constexpr auto kNobodyAsks = 10s;    // then the prober sleeps
constexpr auto kFirstShare = 100ms;  // over which use is measured after a pause
constexpr auto kPatience = 5s;

}  // namespace

HardwareReports::~HardwareReports() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (prober_.joinable()) prober_.join();
}

std::string HardwareReports::info(json::array lost) {
  const std::lock_guard lock(info_mutex_);
  if (info_.empty() || Clock::now() - info_made_ >= kEvery) {
    info_ = to_json(probe_inventory(root_));
    info_made_ = Clock::now();
  }
  info_["lost"] = std::move(lost);
  return json::serialize(info_);
}

bool HardwareReports::fresh() const {
  return !metrics_.empty() && Clock::now() - made_ <= kFresh;
}

void HardwareReports::ask() {
  asked_ = Clock::now();
  if (!prober_.joinable()) prober_ = std::thread([this] { guarded_prober(); });
  if (asleep_) changed_.notify_all();
}

std::optional<std::string> HardwareReports::fresh_metrics() {
  const std::lock_guard lock(mutex_);
  ask();
  return fresh() ? std::optional(metrics_) : std::nullopt;
}

std::string HardwareReports::metrics() {
  std::unique_lock lock(mutex_);
  ask();
  changed_.wait_for(lock, kPatience, [&] { return stopping_ || fresh(); });
  return metrics_.empty() ? R"({"processors":[]})" : metrics_;
}

void HardwareReports::guarded_prober() {
  try {
    probe_while_asked();
  } catch (const std::exception& failure) {  // no memory
    log::warn("the hardware's metrics end here: {}", failure.what());
  }
}

void HardwareReports::probe_while_asked() {
  MetricsProbe probe(root_);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (Clock::now() - asked_ > kNobodyAsks) {
      asleep_ = true;
      changed_.wait(lock, [&] { return stopping_ || Clock::now() - asked_ <= kNobodyAsks; });
      asleep_ = false;
    }
    const bool paused = !fresh();
    lock.unlock();
    if (paused) {
      (void)probe.read();  // what happened before the question is not asked for
      std::this_thread::sleep_for(kFirstShare);
    }
    json::array processors;
    for (const ProcessorMetrics& metrics : probe.read()) processors.push_back(to_json(metrics));
    std::string body = json::serialize(
        json::object{{"time", std::time(nullptr)}, {"processors", std::move(processors)}});
    lock.lock();
    metrics_ = std::move(body);
    made_ = Clock::now();
    changed_.notify_all();
    changed_.wait_for(lock, kEvery, [&] { return stopping_; });
  }
}

}  // namespace impetus

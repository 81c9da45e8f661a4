#include "server/hardware_reports.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/json.h"
#include "hardware/test_support.h"

namespace impetus {
namespace {

using namespace std::chrono_literals;

class HardwareReportsTest : public testing::PlantedRoot {
 protected:
  void SetUp() override {
    PlantedRoot::SetUp();
    write_desktop();
  }
  static json::value parsed(const std::string& body) {
    auto value = parse_json(body);
    EXPECT_TRUE(value.ok()) << body;
    return value.ok() ? std::move(*value) : json::value(nullptr);
  }
};

TEST_F(HardwareReportsTest, Info) {
  HardwareReports reports(root_);
  const auto info = parsed(reports.info());
  EXPECT_EQ(info.at("cpu").at("model"), "Planted CPU @ 3 GHz");
  EXPECT_EQ(info.at("memory").at("total_bytes"), 16 * testing::kGiB);
}

TEST_F(HardwareReportsTest, MetricsAreProbedOnceASecond) {
  HardwareReports reports(root_);
  EXPECT_FALSE(reports.fresh_metrics().has_value());  // it does not wait
  const std::string first = reports.metrics();
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parsed(first).at("processors").at(0).at("id"), "cpu");
  write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 1024 kB\n");
  const auto second = reports.fresh_metrics();
  if (std::chrono::steady_clock::now() - start < 900ms) EXPECT_EQ(second, first);
  const auto used = [&] {
    return parsed(reports.metrics()).at("processors").at(0).at("memory_used_bytes");
  };
  const json::value before = parsed(first).at("processors").at(0).at("memory_used_bytes");
  for (int i = 0; i < 100 && used() == before; ++i) std::this_thread::sleep_for(50ms);
  EXPECT_EQ(used(), 16 * testing::kGiB - testing::kMiB);
}

TEST_F(HardwareReportsTest, ManyAskAtOnce) {
  HardwareReports reports(root_);
  std::atomic<int> answered = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        if (!reports.metrics().empty()) ++answered;
        if (i % 10 == 0 && !reports.info().empty()) ++answered;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, 8 * 55);
}

TEST_F(HardwareReportsTest, EndsAtOnceWhileItProbes) {
  const auto start = std::chrono::steady_clock::now();
  {
    HardwareReports reports(root_);
    EXPECT_FALSE(reports.fresh_metrics().has_value());
  }
  {
    const HardwareReports never_asked(root_);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

}  // namespace
}  // namespace impetus

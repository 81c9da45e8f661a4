#include "cpu/cpu_backend.h"

#include <gtest/gtest.h>

#include "cpu/test_support.h"

namespace impetus::cpu {
namespace {

TEST(CpuBackend, TheForcedInstructionSetRuns) {
  for (const auto& isa : instruction_sets()) {
    EXPECT_EQ(backend_of(isa, 1)->descriptor().backend, "cpu-" + isa);
    ASSERT_EQ(setenv("IMPETUS_CPU_ISA", isa.c_str(), 1), 0);
    EXPECT_EQ(backend_of("", 1)->descriptor().backend, "cpu-" + isa);
    unsetenv("IMPETUS_CPU_ISA");
  }
  EXPECT_EQ(backend_of("", 1)->descriptor().backend, "cpu-" + instruction_sets().back());
}

TEST(CpuBackend, RefusesWhatIsNotThere) {
  const auto made = make_cpu_backend({1, "sse9"});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::unsupported);
  EXPECT_NE(made.error().message.find("sse9"), std::string::npos);
  EXPECT_FALSE(make_cpu_backend({-1, ""}).ok());
  EXPECT_FALSE(make_cpu_backend({1 << 20, ""}).ok());
}

TEST(CpuBackend, DescriptorContract) {
  const auto backend = backend_of("", 2);
  const BackendDescriptor& d = backend->descriptor();
  EXPECT_EQ(d.device, "cpu");
  EXPECT_EQ(d.backend.rfind("cpu-", 0), 0u);
  EXPECT_NE(d.name.find("2 threads"), std::string::npos);
  EXPECT_EQ(d.threads, 2);
  for (const DType type : d.weights) EXPECT_TRUE(is_weight(type));
  EXPECT_EQ(d.kv.size(), 3u);
}

TEST(CpuBackend, PeaksArePlausible) {
  const CpuPeaks peaks = measure_cpu_peaks(*backend_of("", 2), 0.1);
  EXPECT_GT(peaks.read_gigabytes_per_second, 0.1);
  EXPECT_GT(peaks.int8_gigaops_per_second, 0.1);
  EXPECT_GT(peaks.bf16_gigaflops_per_second, 0.1);
  EXPECT_GT(peaks.f32_gigaflops_per_second, 0.1);
}

}  // namespace
}  // namespace impetus::cpu

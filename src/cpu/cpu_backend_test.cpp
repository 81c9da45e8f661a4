#include "cpu/cpu_backend.h"

#include <gtest/gtest.h>

#include "backend/synthetic_model.h"
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

// What backends are measured with stands for files in MLX's groups, so a real one must take it.
TEST(CpuBackend, LoadsGroupsOfRandomWeights) {
  const auto backend = backend_of("", 2);
  for (const int bits : {4, 8}) {
    const auto model =
        synthetic_model(synthetic_decoder_spec(2, 256, 64), DType::grouped, false, bits);
    ASSERT_TRUE(model.ok()) << model.error().message;
    MemoryLedger ledger(int64_t{1} << 30);
    LoadOptions options;
    options.kv_tokens = 64;
    const auto executor = backend->load_decoder(model->spec, *model->weights, options, ledger);
    ASSERT_TRUE(executor.ok()) << executor.error().message;
    const std::vector<TokenId> tokens = {1, 2, 3};
    const std::vector<BlockId> blocks = {0};
    SequenceStep step;
    step.tokens = tokens;
    step.blocks = blocks;
    step.output = StepOutput::logits_last;
    const auto results = (*executor)->execute({&step, 1});
    ASSERT_TRUE(results.ok()) << results.error().message;
    for (const float logit : results->front().logits) ASSERT_TRUE(std::isfinite(logit));
    EXPECT_FALSE(results->front().logits.empty());
  }
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

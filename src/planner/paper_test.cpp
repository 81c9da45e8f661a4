// Every known machine planned on paper.
#include "planner/paper.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "planner/predict.h"
#include "planner/published.h"

namespace impetus {
namespace {

TEST(Paper, NoPredictionExceedsThePhysicalBound) {
  int checked = 0;
  for (const KnownMachine& known : known_machines()) {
    const PlanMachine machine = paper_machine(known);
    for (const Processor& one : machine.processors) {
      for (const char* name : {"llama-3.2-1b", "llama-2-7b", "qwen3-8b", "llama-3.1-70b"}) {
        for (const DType type : {DType::f32, DType::f16, DType::q8_0, DType::q4_0}) {
          const ModelCost model = model_cost(name, *known_shape(name), type);
          const Predictor predictor(one.profile, model, 1 << 20);
          double ops = 0;
          for (const WeightGroup& group : model.layer_weights) {
            ops += 2.0 * static_cast<double>(group.parameters);
          }
          const double token = 1 / predictor.decode(1, 1, DType::f16).seconds;
          EXPECT_LE(token,
                    one.profile.limit_bytes_per_second / static_cast<double>(model.weight_bytes()))
              << known.id << " " << one.device << " " << name;
          const double prefill = 512 / predictor.prefill(512, 0, 512, DType::f16).seconds;
          EXPECT_LE(prefill, one.profile.limit_ops_per_second / ops)
              << known.id << " " << one.device << " " << name;
          ++checked;
        }
      }
    }
  }
  EXPECT_GT(checked, 1000);
  for (const PublishedCheck& check : check_published()) {
    EXPECT_LE(check.predicted, check.bound) << check.published->machine;
  }
}

TEST(Paper, IsNearWhatOthersPublished) {
  const auto checks = check_published();
  EXPECT_GT(checks.size(), 150u);
  EXPECT_LT(median_error(checks), 0.15);
}

// MLX's rule: macOS 26.2 and a GPU of generation 17 (18 where its name ends in p).
TEST(Paper, NeuralAcceleratorsAreUsedExactlyByMlxsRule) {
  int with = 0, without = 0;
  for (const KnownMachine& known : known_machines()) {
    if (known.gpu_generation == 0) continue;
    for (const auto& [major, minor] : {std::pair{15, 7}, {26, 1}, {26, 2}, {27, 0}}) {
      const PaperOptions options{major, minor};
      const bool os = major > 26 || (major == 26 && minor >= 2);
      const bool gpu = known.gpu_generation >= (known.gpu_suffix == 'p' ? 18 : 17);
      EXPECT_EQ(neural_accelerators(known, options).used, os && gpu)
          << known.id << " " << major << "." << minor;
      // And the plan counts on them only then.
      const PlanMachine machine = paper_machine(known, options);
      const auto chip = std::ranges::find(machine.processors, "gpu0", &Processor::device);
      ASSERT_NE(chip, machine.processors.end());
      const auto sheet = std::ranges::find_if(known.processors, [](const KnownProcessor& one) {
        return std::string_view(one.device) == "gpu0";
      });
      const double plain = std::max({sheet->f32_ops, sheet->f16_ops, sheet->bf16_ops});
      if (os && gpu) {
        EXPECT_GT(chip->profile.limit_ops_per_second, plain) << known.id;
        ++with;
      } else {
        EXPECT_LE(chip->profile.limit_ops_per_second, plain) << known.id;
        ++without;
      }
      EXPECT_NE(chip->name.find("neural accelerators"), std::string::npos);
    }
    if (std::string_view(known.id).starts_with("m") && known.id[1] <= '4') {
      EXPECT_FALSE(neural_accelerators(known, {27, 0}).used) << known.id;
    }
  }
  EXPECT_GT(with, 0);
  EXPECT_GT(without, 20);
}

TEST(Paper, AMacPutsEachKindOfWorkWhereTheBlueprintWould) {
  const PlanMachine machine = paper_machine(*find_known_machine("m4-max"));
  const std::vector models{model_cost("chat", *known_shape("llama-3.1-8b"), DType::q4_0),
                           model_cost("embed", *known_shape("minilm-l6"), DType::f16)};
  const Plan plan = make_plan(machine, models, {});
  ASSERT_TRUE(plan.models[0].possible && plan.models[1].possible);
  EXPECT_EQ(plan.models[0].placement(Phase::decode)->device, "gpu0");
  EXPECT_EQ(plan.models[1].placement(Phase::embeddings)->device, "npu0");
  // Decoders never go to an NPU that runs compiled graphs, and the explanation says so.
  const auto npu = std::ranges::find_if(plan.models[0].candidates, [](const Candidate& one) {
    return one.device == "npu0" && one.phase == Phase::decode;
  });
  ASSERT_NE(npu, plan.models[0].candidates.end());
  EXPECT_FALSE(npu->possible);
  EXPECT_NE(npu->reason.find("no decoders"), std::string::npos) << npu->reason;
}

TEST(Paper, EveryKnownMachineCanBePlanned) {
  const std::vector models{model_cost("chat", *known_shape("llama-3.2-1b"), DType::q4_0),
                           model_cost("embed", *known_shape("minilm-l6"), DType::f16)};
  for (const KnownMachine& known : known_machines()) {
    const Plan plan = make_plan(paper_machine(known), models, {});
    for (const ModelPlan& model : plan.models) {
      EXPECT_TRUE(model.possible) << known.id << ": " << model.reason;
    }
  }
}

TEST(Paper, AnEstimateSaysThatItIsOne) {
  CpuInfo cpu;
  cpu.instruction_sets = {"avx2", "avx512f", "avx512_vnni"};
  const DeviceProfile profile = estimated_cpu_profile(cpu, "cpu-avx512", 4);
  EXPECT_FALSE(profile.measured);
  EXPECT_NE(profile.source.find("--measure"), std::string::npos);
  const ModelCost model = model_cost("m", *known_shape("llama-3.2-1b"), DType::q4_0);
  EXPECT_TRUE(std::isfinite(Predictor(profile, model, 4).decode(1, 100, DType::f16).seconds));
}

}  // namespace
}  // namespace impetus

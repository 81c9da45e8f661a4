#include "hardware/known_machines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace impetus {
namespace {

const KnownProcessor* processor(const KnownMachine& machine, std::string_view device) {
  for (const KnownProcessor& one : machine.processors) {
    if (one.device == device) return &one;
  }
  return nullptr;
}
double bandwidth(std::string_view id, std::string_view device) {
  return processor(*find_known_machine(id), device)->memory_bytes_per_second;
}
double f32(std::string_view id, std::string_view device) {
  return processor(*find_known_machine(id), device)->f32_ops;
}
bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}
double fastest_ops(const KnownMachine& machine, const KnownProcessor& one) {
  double ops = std::max({one.f32_ops, one.f16_ops, one.bf16_ops, one.int8_ops});
  if (std::string_view(one.device) == "gpu0") {
    ops = std::max({ops, machine.neural_accelerator_f16_ops, machine.neural_accelerator_int8_ops});
  }
  return ops;
}

// Parameters that a decoded token reads once (all but an input embedding of its own) and those
// that a prefilled token is multiplied with (neither embedding nor head).
struct Model {
  double read, body;
};
const std::map<std::string_view, Model> models = {
    {"tinyllama-1.1b", {1.034e9, 0.969e9}}, {"llama-3.2-1b", {1.236e9, 0.973e9}},
    {"llama-3.2-3b", {3.213e9, 2.819e9}},   {"qwen3-4b", {4.022e9, 3.633e9}},
    {"llama-2-7b", {6.607e9, 6.476e9}},     {"mistral-7b", {7.111e9, 6.980e9}},
    {"qwen2.5-7b", {7.071e9, 6.526e9}},     {"llama-3-8b", {7.505e9, 6.979e9}},
    {"llama-3.1-8b", {7.505e9, 6.979e9}},   {"qwen3-8b", {7.568e9, 6.946e9}},
    {"llama-2-13b", {12.852e9, 12.688e9}},  {"llama-2-70b", {68.715e9, 68.452e9}},
    {"llama-3-70b", {69.503e9, 68.453e9}},  {"llama-3.1-70b", {69.503e9, 68.453e9}},
};
// Of formats that mix, the smallest.
const std::map<std::string_view, double> bits = {
    {"bf16", 16},  {"f16", 16},   {"q8_0", 8.5},   {"mlx-8bit", 8.5}, {"fp8", 8},
    {"q5_0", 5.5}, {"q4_0", 4.5}, {"q4_k_m", 4.5}, {"q4_k_s", 4.5},   {"mlx-4bit", 4.5},
};

TEST(KnownMachines, IdsAreUniqueLowerCaseAndFoundInAnyCase) {
  std::set<std::string> ids;
  for (const KnownMachine& machine : known_machines()) {
    std::string id = machine.id;
    EXPECT_TRUE(ids.insert(id).second) << id;
    EXPECT_TRUE(std::ranges::all_of(id, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    })) << id;
    EXPECT_EQ(find_known_machine(id), &machine);
    std::ranges::transform(id, id.begin(), [](char c) { return c >= 'a' ? c - 32 : c; });
    EXPECT_EQ(find_known_machine(id), &machine);
  }
  EXPECT_GE(ids.size(), 40u);
  EXPECT_EQ(find_known_machine(""), nullptr);
  EXPECT_EQ(find_known_machine("m4-ma"), nullptr);
  EXPECT_EQ(find_known_machine("m4-max "), nullptr);
}

TEST(KnownMachines, FiguresAreThereAndSourced) {
  for (const KnownMachine& machine : known_machines()) {
    SCOPED_TRACE(machine.id);
    EXPECT_NE(std::string_view(machine.name), "");
    EXPECT_GT(machine.memory_bytes, 0);
    EXPECT_GE(machine.link_bytes_per_second, 0);
    ASSERT_FALSE(machine.processors.empty());
    EXPECT_EQ(std::string_view(machine.processors[0].device), "cpu");
    std::set<std::string_view> devices;
    for (const KnownProcessor& one : machine.processors) {
      SCOPED_TRACE(one.device);
      EXPECT_TRUE(devices.insert(one.device).second);
      EXPECT_NE(std::string_view(one.name), "");
      EXPECT_GT(one.cores, 0);
      EXPECT_GT(one.memory_bytes_per_second, 1e9);
      EXPECT_LT(one.memory_bytes_per_second, 1e13);
      for (const double ops : {one.f32_ops, one.f16_ops, one.bf16_ops, one.int8_ops}) {
        EXPECT_TRUE(ops == 0 || (ops > 1e10 && ops < 1e16)) << ops;
      }
      EXPECT_GT(fastest_ops(machine, one), 0);
      EXPECT_GE(one.memory_bytes, 0);
      const std::string_view source = one.source;
      EXPECT_TRUE(has(source, "https://") || has(source, "estimate: ") ||
                  has(source, "measured for this project"))
          << source;
      const std::string_view backend = one.backend;
      EXPECT_TRUE(backend != "" || has(source, "no backend of Impetus")) << source;
    }
  }
}

TEST(KnownMachines, MemoryIsSharedOrBehindALink) {
  for (const KnownMachine& machine : known_machines()) {
    SCOPED_TRACE(machine.id);
    const KnownProcessor* gpu = processor(machine, "gpu0");
    if (!gpu) {
      EXPECT_FALSE(machine.unified);
      continue;
    }
    EXPECT_EQ(machine.unified, machine.link_bytes_per_second == 0);
    EXPECT_EQ(machine.unified, gpu->memory_bytes == 0);
    for (const KnownProcessor& one : machine.processors) {
      EXPECT_LE(one.memory_bytes_per_second, gpu->memory_bytes_per_second) << one.device;
    }
  }
}

TEST(KnownMachines, AppleMachinesHaveThreeProcessorsAndAGpuGeneration) {
  int apples = 0;
  for (const KnownMachine& machine : known_machines()) {
    SCOPED_TRACE(machine.id);
    const bool apple = std::string_view(machine.name).starts_with("Apple M");
    EXPECT_EQ(apple, machine.gpu_generation != 0);
    EXPECT_EQ(apple, machine.gpu_suffix != 0);
    const bool accelerators = machine.gpu_generation >= 17;
    EXPECT_EQ(accelerators, machine.neural_accelerator_f16_ops > 0);
    EXPECT_EQ(accelerators, machine.neural_accelerator_int8_ops > 0);
    if (!apple) continue;
    ++apples;
    EXPECT_TRUE(machine.unified);
    ASSERT_EQ(machine.processors.size(), 3u);
    EXPECT_EQ(std::string_view(machine.processors[0].backend), "cpu-neon");
    EXPECT_EQ(std::string_view(machine.processors[1].backend), "mlx");
    EXPECT_EQ(std::string_view(machine.processors[2].backend), "coreml");
    if (accelerators) {
      EXPECT_GT(machine.neural_accelerator_f16_ops, 2 * machine.processors[1].f16_ops);
    }
  }
  EXPECT_EQ(apples, 21);
}

TEST(KnownMachines, OrderedAsEverybodyKnows) {
  const auto rising = [](const std::vector<std::string_view>& ids, std::string_view device,
                         double (*figure)(std::string_view, std::string_view)) {
    for (size_t i = 1; i < ids.size(); ++i) {
      EXPECT_LT(figure(ids[i - 1], device), figure(ids[i], device)) << ids[i - 1] << " " << ids[i];
    }
  };
  rising({"m1", "m2", "m3", "m4", "m5"}, "cpu", f32);
  rising({"m1", "m2", "m4", "m5"}, "gpu0", f32);
  rising({"m1", "m2", "m4", "m5"}, "gpu0", bandwidth);
  rising({"m2-max", "m4-max-32", "m5-max-32", "m4-max", "m5-max"}, "gpu0", bandwidth);
  rising({"m1", "m1-pro", "m1-max", "m1-ultra"}, "gpu0", f32);
  rising({"m1", "m1-pro", "m1-max", "m1-ultra"}, "gpu0", bandwidth);
  rising({"m2", "m2-pro", "m2-max", "m2-ultra"}, "gpu0", f32);
  rising({"m2", "m2-pro", "m2-max", "m2-ultra"}, "gpu0", bandwidth);
  rising({"m3", "m3-pro", "m3-max-30", "m3-max", "m3-ultra"}, "gpu0", f32);
  rising({"m3", "m3-pro", "m3-max-30", "m3-max", "m3-ultra"}, "gpu0", bandwidth);
  rising({"m4", "m4-pro", "m4-max-32", "m4-max"}, "gpu0", f32);
  rising({"m4", "m4-pro", "m4-max-32", "m4-max"}, "gpu0", bandwidth);
  rising({"m5", "m5-pro", "m5-max-32", "m5-max"}, "gpu0", f32);
  rising({"m5", "m5-pro", "m5-max-32", "m5-max"}, "gpu0", bandwidth);
  rising({"jetson-orin-agx", "dgx-spark", "rtx-3060", "rtx-4080", "l40s", "rtx-3090", "rtx-4090",
          "rtx-5090", "h100-pcie", "a100-80", "h100", "h200", "b200"},
         "gpu0", bandwidth);
  rising({"raspberry-pi-4", "raspberry-pi-5", "core-ultra-258v", "ryzen-7950x", "ryzen-9950x",
          "ryzen-ai-max-395", "ampere-altra", "xeon-8480", "epyc-9654", "graviton4", "epyc-9755",
          "xeon-6"},
         "cpu", bandwidth);
}

TEST(PublishedRates, NameWhatTheTableKnows) {
  std::set<std::string> seen;
  for (const PublishedRate& rate : published_rates()) {
    SCOPED_TRACE(std::string(rate.machine) + " " + rate.model + " " + rate.weights + " " +
                 rate.phase);
    const KnownMachine* machine = find_known_machine(rate.machine);
    ASSERT_NE(machine, nullptr);
    EXPECT_EQ(std::string_view(machine->id), rate.machine);
    EXPECT_NE(processor(*machine, rate.device), nullptr);
    EXPECT_GT(rate.tokens_per_second, 0);
    EXPECT_GE(rate.batch, 1);
    EXPECT_NE(std::string_view(rate.program), "");
    const std::string_view source = rate.source;
    EXPECT_TRUE(source.starts_with("https://") || source.starts_with("measured for this project"));
    EXPECT_TRUE(bits.contains(rate.weights));
    const std::string_view phase = rate.phase;
    EXPECT_TRUE(phase == "decode" || phase == "prefill" || phase == "embeddings");
    EXPECT_TRUE(phase == "decode" || rate.prompt > 0);
    EXPECT_TRUE(phase == "embeddings" || models.contains(rate.model));
    EXPECT_TRUE(seen.insert(std::string(rate.machine) + rate.device + rate.model + rate.weights +
                            rate.phase + std::to_string(rate.prompt) + "x" +
                            std::to_string(rate.batch) + rate.program)
                    .second);
  }
  EXPECT_GE(published_rates().size(), 60u);
}

// A published rate above what memory and arithmetic allow is a mistake of the table or of the
// publisher; either way it would spoil what predictions are held against.
TEST(PublishedRates, AreWithinTheDataSheet) {
  for (const PublishedRate& rate : published_rates()) {
    const std::string_view phase = rate.phase;
    if (phase == "embeddings") continue;
    SCOPED_TRACE(std::string(rate.machine) + " " + rate.device + " " + rate.model + " " +
                 rate.weights + " " + rate.phase);
    const KnownMachine& machine = *find_known_machine(rate.machine);
    const KnownProcessor& one = *processor(machine, rate.device);
    const Model& model = models.at(rate.model);
    if (phase == "decode") {
      const double bytes = model.read * bits.at(rate.weights) / 8;
      EXPECT_LE(rate.tokens_per_second / rate.batch * bytes, one.memory_bytes_per_second);
    } else {
      EXPECT_LE(rate.tokens_per_second * 2 * model.body, fastest_ops(machine, one));
    }
  }
}

}  // namespace
}  // namespace impetus

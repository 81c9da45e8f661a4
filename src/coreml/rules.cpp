#include "coreml/rules.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "coreml/judges.h"

namespace impetus::coreml {
namespace {

#define CATALOG "ANEForge docs/op-catalog.md"
#define CROSS_CHIP "ANEForge docs/cross-chip.md"
#define ROOFLINES "ANEForge bench/results/ROOFLINES.md"
#define APPLE_RULES "apple/coreai-models neural_engine_rules.md"

constexpr std::array kRules = {
    Rule{.id = "D1",
         .level = Level::error,
         .statement = "Compute in fp16 (int8 and int16 possible); fp32, int32, bf16 and bool leave "
                      "the engine",
         .source = "brief D1; " APPLE_RULES,
         .operation = judge_type,
         .function = judge_interface},
    Rule{.id = "D2",
         .level = Level::error,
         .statement = "Rank at most 4; 5 is doubtful, 6 leaves the engine",
         .source = "brief D2; " APPLE_RULES,
         .operation = judge_rank},
    Rule{.id = "D3",
         .level = Level::error,
         .statement = "Width, height and contraction at most 16384 (M1 to M3) or 65536 (M4, M5); "
                      "channels at most 65536",
         .source = "brief D3; " CROSS_CHIP,
         .by_chip = true,
         .operation = judge_extent},
    Rule{.id = "D4",
         .level = Level::warning,
         .statement = "Rows of the last axis are padded to 64 bytes: past 2 times the size is "
                      "waste, at last axis 1 it is 32 times (fp16) or 64 times (int8)",
         .source = "brief D4; " APPLE_RULES,
         .operation = judge_padding},
    Rule{.id = "D5",
         .level = Level::error,
         .statement =
             "Convolutions: strides of factors 2 and 3, at most 2 with palettised weights; "
             "kernels at most 13 (M1 to M3) or 15 (M4, M5) wide",
         .source = "brief D5; " APPLE_RULES "; " CROSS_CHIP,
         .by_chip = true,
         .operation = judge_convolution},
    Rule{.id = "D6",
         .level = Level::warning,
         .statement = "Pools: kernels at most 13, strides at most 2 (sources differ)",
         .source = "brief D6; " CATALOG " says 29",
         .operation = judge_pool},
    Rule{.id = "D7",
         .level = Level::error,
         .statement = "At most 65536 outputs of one convolution: split a vocabulary's head",
         .source = "brief D7",
         .operation = judge_vocabulary},
    Rule{.id = "D8",
         .level = Level::error,
         .statement = "Not on the engine: gather, scatter, cumsum, topk, argsort, argmax, argmin, "
                      "reduce_prod, one_hot, non_zero, shape, band_part, logical_*, mod, cond, "
                      "while_loop, lstm, gru, rnn, random, most trigonometry, cast to int32",
         .source = "brief D8; " CATALOG,
         .operation = judge_operation},
    Rule{.id = "D9",
         .level = Level::error,
         .statement = "Only operations that are known to run there; comparisons only where their "
                      "bool feeds a select; sin and cos from M3 on",
         .source = "brief D9; " CATALOG,
         .by_chip = true,
         .operation = judge_condition},
    Rule{.id = "D10",
         .level = Level::warning,
         .statement = "A slice of the last axis that does not start at 0 saturates values past "
                      "4094 (M1, M2; M3 not measured)",
         .source = "brief D10; " ROOFLINES,
         .by_chip = true,
         .operation = judge_slice},
    Rule{.id = "D11",
         .level = Level::performance,
         .statement = "A core's share of the weights, ceil(outputs / 16) * inputs * kernel * 2 "
                      "bytes, within 16 KiB of whole MiB reads at 17-19 GB/s instead of 45-60",
         .source = "brief D11",
         .operation = judge_payload},
    Rule{.id = "D12",
         .level = Level::error,
         .statement = "No constant below -65504 (masks): -1e4 is enough",
         .source = "brief D12; " APPLE_RULES,
         .constants = true,
         .operation = judge_mask},
    Rule{.id = "D13",
         .level = Level::error,
         .statement = "No epsilon below 1e-7 in fp16: it vanishes",
         .source = "brief D13",
         .operation = judge_epsilon},
    Rule{.id = "D14",
         .level = Level::warning,
         .statement =
             "Squares of values past 256 and exponentials past 11 overflow fp16, as do values "
             "past 65504",
         .source = "brief D14",
         .operation = judge_range},
    Rule{.id = "D15",
         .level = Level::error,
         .statement = "No NaN in constants",
         .source = "brief D15",
         .constants = true,
         .operation = judge_nan},
    Rule{.id = "D16",
         .level = Level::warning,
         .statement = "Packages under 1 GB; past 2 GB they do not load",
         .source = "brief D16; the largest package is open",
         .package = judge_size},
    Rule{.id = "D17",
         .level = Level::info,
         .statement = "Functions of 1 or 2 operations go to the CPU",
         .source = "brief D17",
         .function = judge_length},
    Rule{.id = "D18",
         .level = Level::warning,
         .statement = "Inner dimensions of matrix products are multiples of 32",
         .source = "brief D18",
         .operation = judge_inner},
    Rule{.id = "B1",
         .level = Level::performance,
         .statement = "One whole program on the engine: each change of processor costs a launch "
                      "and copies",
         .source = "brief B",
         .function = judge_partition},
    Rule{.id = "C1",
         .level = Level::error,
         .statement = "Fixed shapes, one function a shape: open dimensions leave the engine, "
                      "enumerated ones may",
         .source = "brief C; coremltools issue 2600",
         .operation = judge_open_shape,
         .function = judge_flexible_shapes},
    Rule{.id = "C2",
         .level = Level::warning,
         .statement = "Attention written out: scaled_dot_product_attention is not to be relied on",
         .source = "brief C",
         .operation = judge_attention},
    Rule{.id = "C3",
         .level = Level::warning,
         .statement = "Dimensions of a state are multiples of 32",
         .source = "brief C; coremltools issue 2631",
         .function = judge_states},
    Rule{.id = "E1",
         .level = Level::warning,
         .statement = "Scales by channel, not by block: blocks are slow or wrong",
         .source = "brief E; coremltools issue 2510",
         .constants = true,
         .operation = judge_blocks},
};

}  // namespace

const ConstantFacts& Constants::facts(const mil::Value& value) {
  static constexpr ConstantFacts kNothing{};
  const std::span<const std::byte> bytes = value.bytes.view;
  if (value.type.kind != mil::ValueType::Kind::tensor || !mil::is_float(value.type.tensor.dtype) ||
      bytes.empty()) {
    return kNothing;
  }
  const auto [entry, added] =
      known_.try_emplace(std::tuple(bytes.data(), bytes.size(), value.type.tensor.dtype));
  if (!added) return entry->second;
  ConstantFacts& facts = entry->second;
  const auto see = [&](float number) {
    if (std::isnan(number)) {
      facts.nan = true;
    } else {
      facts.least = std::min(facts.least, number);
    }
  };
  const size_t halves = bytes.size() / 2, singles = bytes.size() / 4;
  if (value.type.tensor.dtype == mil::DataType::f16) {
    // The most negative finite half has the largest bits; weights are many, so no conversion each.
    uint16_t least = 0;
    for (size_t i = 0; i < halves; ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, bytes.data() + 2 * i, 2);
      if ((bits & 0x7fff) > 0x7c00) {
        facts.nan = true;
      } else if ((bits & 0x8000) != 0) {
        least = std::max(least, bits);
      }
    }
    if (least != 0) see(f16_to_f32(least));
  } else if (value.type.tensor.dtype == mil::DataType::f32) {
    for (size_t i = 0; i < singles; ++i) {
      float number = 0;
      std::memcpy(&number, bytes.data() + 4 * i, 4);
      see(number);
    }
  } else if (const auto numbers = value.as_floats(); numbers.ok()) {
    for (const float number : *numbers) see(number);
  }
  return facts;
}

std::span<const Rule> rules() {
  return kRules;
}

const Rule* find_rule(std::string_view id) {
  const auto found = std::ranges::find(kRules, id, &Rule::id);
  return found == kRules.end() ? nullptr : &*found;
}

std::string rules_markdown() {
  std::string text = "| rule | level | says | by chip | source |\n|---|---|---|---|---|\n";
  for (const Rule& rule : kRules) {
    text += fmt::format("| {} | {} | {} | {} | {} |\n", rule.id, to_string(rule.level),
                        rule.statement, rule.by_chip ? "yes" : "", rule.source);
  }
  return text;
}

}  // namespace impetus::coreml

#include "coreml/convert.h"

#include <algorithm>
#include <array>

#include "base/json.h"
#include "coreml/check.h"
#include "coreml/emulate.h"
#include "coreml/encoder_program.h"
#include "mil/interpreter.h"
#include "mil/operations.h"

namespace impetus::coreml {
namespace {

struct PrecisionRow {
  std::string_view name;
  int macos = 13;  // the first that has its operations
};
constexpr std::array<PrecisionRow, 6> kPrecisions{
    {{"fp16"}, {"int8"}, {"palettized8"}, {"palettized6"}, {"palettized4"}, {"w8a8", 14}}};

// The engine's longest extent on its oldest chips (rule D3).
constexpr int64_t kTokensMax = 16384;
constexpr int kFunctionsMacos = 15;

Result<mil::Opset> opset_of(int macos) {
  switch (macos) {
    case 13:
      return mil::Opset::core_ml6;
    case 14:
      return mil::Opset::core_ml7;
    case 15:
      return mil::Opset::core_ml8;
    default:
      return error(ErrorCode::invalid_argument,
                   "programs are written for macOS 13, 14 or 15, not {}", macos);
  }
}

Result<std::vector<int64_t>> usable_shapes(const ModelSpec& spec, const ConvertOptions& options) {
  std::vector<int64_t> shapes;
  for (const int64_t tokens : options.shapes) {
    if (tokens < 1 || tokens > kTokensMax) {
      return error(ErrorCode::invalid_argument, "a shape of {} tokens is outside 1 to {}", tokens,
                   kTokensMax);
    }
    if (tokens <= spec.context) shapes.push_back(tokens);
  }
  std::ranges::sort(shapes);
  shapes.erase(std::ranges::unique(shapes).begin(), shapes.end());
  if (shapes.empty()) {
    return error(ErrorCode::invalid_argument,
                 "no shape is left: the model has {} positions; name one that is no longer",
                 spec.context);
  }
  return shapes;
}

std::string_view name_of(Activation activation) {
  switch (activation) {
    case Activation::silu:
      return "silu";
    case Activation::gelu_erf:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_tanh";
    case Activation::relu:
      return "relu";
  }
  return "?";
}

std::string_view name_of(Pooling pooling) {
  switch (pooling) {
    case Pooling::none:
      return "none";
    case Pooling::mean:
      return "mean";
    case Pooling::cls:
      return "cls";
  }
  return "?";
}

mil::Metadata metadata_of(const ModelSpec& spec, const ConvertOptions& options,
                          const std::vector<int64_t>& shapes) {
  const json::object model{{"family", spec.family},
                           {"layers", spec.layers},
                           {"hidden", spec.hidden},
                           {"heads", spec.heads},
                           {"feed_forward", spec.feed_forward},
                           {"vocab", spec.vocab},
                           {"context", spec.context},
                           {"activation", std::string(name_of(spec.activation))},
                           {"norm_epsilon", fmt::format("{:g}", spec.norm_eps)},
                           {"pooling", std::string(name_of(spec.pooling))},
                           {"normalize", spec.normalize}};
  mil::Metadata made;
  made.description = fmt::format(
      "{}{}, {} layers of {}: hidden states of a text's tokens. Inputs: hidden, the sum of token, "
      "position and type embeddings; mask, 0 for a token and {:g} for padding.",
      options.name.empty() ? "" : options.name + ": ", spec.family, spec.layers, spec.hidden,
      kMaskValue);
  made.version = std::to_string(kWriterVersion);
  made.author = "Impetus";
  made.license = options.license;
  made.user = {{kModelKey, json::serialize(model)},
               {kPrecisionKey, std::string(to_string(options.precision))},
               {kShapesKey, fmt::format("{}", fmt::join(shapes, ","))},
               {kWriterVersionKey, std::to_string(kWriterVersion)}};
  return made;
}

void add_function(mil::Model& model, const ModelSpec& spec, const Constants& constants,
                  const std::string& name, int64_t tokens, mil::Opset opset,
                  const ActivationRanges& ranges) {
  mil::FunctionDescription description;
  description.name = name;
  description.inputs = {{.name = "hidden", .type = hidden_type(spec, tokens)},
                        {.name = "mask", .type = mask_type(tokens)}};
  description.outputs = {{.name = "hidden_states", .type = hidden_type(spec, tokens)}};
  model.functions.push_back(std::move(description));
  model.program.functions.emplace(name, encoder_function(spec, constants, tokens, opset, ranges));
}

// How large what the convolutions read becomes over the calibration's texts, in the program that
// has their 8-bit weights already.
Result<ActivationRanges> measured_ranges(const ModelSpec& spec, const WeightSet& weights,
                                         const Constants& constants,
                                         const std::vector<int64_t>& shapes, mil::Opset opset,
                                         const ConvertOptions& options) {
  size_t longest = 0;
  for (const auto& text : options.calibration) longest = std::max(longest, text.size());
  if (longest == 0) {
    return error(ErrorCode::invalid_argument,
                 "w8a8 needs texts to calibrate on: how large activations are cannot be told from "
                 "the weights");
  }
  const auto at = std::ranges::lower_bound(shapes, static_cast<int64_t>(longest));
  const int64_t tokens = at == shapes.end() ? shapes.back() : *at;
  mil::Model model;
  model.specification_version = specification_version_of(opset);
  add_function(model, spec, constants, "main", tokens, opset, {});
  IMPETUS_TRY(const auto program, mil::Interpreter::load(model, "main", {.threads = 2}));
  IMPETUS_TRY(const auto embeddings, HostEmbeddings::load(spec, weights));
  IMPETUS_TRY(const auto measured, ranges_over(program, embeddings, options.calibration));
  ActivationRanges ranges;
  for (const std::string& name : quantised_activations(spec)) ranges.emplace(name, 0.0f);
  for (const mil::TensorRange& range : measured) {
    const auto found = ranges.find(range.tensor);
    if (found != ranges.end()) found->second = range.max_abs;
  }
  return ranges;
}

// Why this writer accepts a warning of its own programs.
struct Waiver {
  std::string_view rule, reason;
};
constexpr std::array<Waiver, 2> kWaivers{{
    {"D4",
     "rows shorter than 64 bytes are those of short lengths and narrow heads: a few KiB each, and "
     "fixed lengths are what keeps the program on the engine"},
    {"D18",
     "attention contracts over a head's size and over the function's length, which the model and "
     "its texts give; padding them would cost more than it saves"},
}};

// A program that the types or the engine's rules contradict is this writer's bug, and never leaves.
// Warnings are waived by rule, with the reason, in the metadata.
Result<void> pass_own_check(mil::Model& model) {
  if (auto valid = validate(model, mil::Unknown::refuse, /*every_parameter=*/true); !valid.ok()) {
    return Error{ErrorCode::internal, "the program written is not valid: " + valid.error().message};
  }
  json::object waived;
  for (const Chip& chip : chips()) {
    IMPETUS_TRY(const CheckReport report, check(model, chip));
    for (const Finding& finding : report.findings) {
      if (finding.level != Level::error && finding.level != Level::warning) continue;
      const auto known = std::ranges::find(kWaivers, finding.rule, &Waiver::rule);
      if (finding.level == Level::warning && known != kWaivers.end()) {
        waived[known->rule] = std::string(known->reason);
        continue;
      }
      return error(ErrorCode::unsupported,
                   "the Neural Engine of {} would not take this program: rule {}, {} ({}): {}; {}",
                   chip.name, finding.rule, finding.operation, finding.type, finding.message,
                   finding.mend);
    }
  }
  model.metadata.user[kWaiversKey] = json::serialize(waived);
  return {};
}

}  // namespace

std::string_view to_string(Precision precision) {
  return kPrecisions[static_cast<size_t>(precision)].name;
}

Result<Precision> precision_from(std::string_view name) {
  std::vector<std::string_view> names;
  for (size_t i = 0; i < kPrecisions.size(); ++i) {
    if (kPrecisions[i].name == name) return static_cast<Precision>(i);
    names.push_back(kPrecisions[i].name);
  }
  return error(ErrorCode::invalid_argument, "'{}' is no precision; there are {}", name,
               fmt::join(names, ", "));
}

std::string function_name(int64_t tokens, int macos) {
  return macos >= kFunctionsMacos ? fmt::format("encode_{}", tokens) : "main";
}

Result<std::vector<Converted>> convert_encoder(const ModelSpec& spec, const WeightSet& weights,
                                               const ConvertOptions& options) {
  if (spec.kind != ModelKind::encoder) {
    return error(ErrorCode::unsupported,
                 "{} is a decoder: Core ML programs are written for encoders; decoders come with "
                 "part two of the Neural Engine's backend",
                 spec.family);
  }
  IMPETUS_TRY(const mil::Opset opset, opset_of(options.macos));
  const PrecisionRow& precision = kPrecisions[static_cast<size_t>(options.precision)];
  if (options.macos < precision.macos) {
    return error(ErrorCode::unsupported, "{} needs macOS {} or later, not {}", precision.name,
                 precision.macos, options.macos);
  }
  IMPETUS_TRY(const std::vector<int64_t> shapes, usable_shapes(spec, options));
  IMPETUS_TRY(const Constants constants,
              encoder_constants(spec, weights, options.precision, opset, options.progress));
  ActivationRanges ranges;
  if (options.precision == Precision::w8a8) {
    IMPETUS_TRY(ranges, measured_ranges(spec, weights, constants, shapes, opset, options));
  }

  const auto model_of = [&](const std::vector<int64_t>& lengths) {
    mil::Model model;
    model.specification_version = specification_version_of(opset);
    model.metadata = metadata_of(spec, options, lengths);
    for (const int64_t tokens : lengths) {
      const std::string name = function_name(tokens, options.macos);
      add_function(model, spec, constants, name, tokens, opset, ranges);
    }
    model.default_function = model.functions.front().name;
    return model;
  };
  std::vector<Converted> made;
  if (options.macos >= kFunctionsMacos) {
    made.push_back({shapes, model_of(shapes)});
  } else {
    for (const int64_t tokens : shapes) made.push_back({{tokens}, model_of({tokens})});
  }
  for (Converted& one : made) IMPETUS_CHECK(pass_own_check(one.model));
  return made;
}

}  // namespace impetus::coreml

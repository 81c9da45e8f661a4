#include "cli/conversion_quality.h"

#include <algorithm>
#include <sstream>

#include "backend/executor.h"
#include "base/mapped_file.h"
#include "coreml/emulate.h"
#include "cpu/cpu_backend.h"
#include "hardware/processors.h"

namespace impetus::cli {
namespace {

// The same values in f32: types that the CPU computes with rounded activations are no reference.
struct Twin {
  std::vector<Tensor> storage;
  std::unique_ptr<WeightSet> weights;
};

Result<Twin> in_f32(const WeightSet& weights) {
  Twin twin;
  std::vector<NamedTensor> tensors;
  twin.storage.reserve(weights.tensors().size());
  for (const NamedTensor& tensor : weights.tensors()) {
    if (!is_weight(tensor.view.dtype)) continue;
    IMPETUS_TRY(Tensor copy, convert(tensor.view, DType::f32));
    twin.storage.push_back(std::move(copy));
    tensors.push_back({tensor.name, twin.storage.back().view(), 0});
  }
  IMPETUS_TRY(WeightSet built,
              WeightSet::build({}, std::move(tensors), {}, weights.source() + " in f32"));
  twin.weights = std::make_unique<WeightSet>(std::move(built));
  return twin;
}

bool is_f32(const WeightSet& weights) {
  return std::ranges::all_of(weights.tensors(), [](const NamedTensor& tensor) {
    return tensor.view.dtype == DType::f32 || !is_weight(tensor.view.dtype);
  });
}

// The largest of what norms read.
mil::TensorRange largest_norm_input(const mil::Function& function,
                                    const std::vector<mil::TensorRange>& ranges) {
  std::vector<std::string_view> norm_inputs;
  for (const mil::Operation& operation : function.block()->operations) {
    if (operation.type != "layer_norm") continue;
    norm_inputs.push_back(std::get<std::string>(operation.inputs.find("x")->second.front()));
  }
  mil::TensorRange largest;
  for (const mil::TensorRange& range : ranges) {
    if (range.max_abs > largest.max_abs &&
        std::ranges::find(norm_inputs, range.tensor) != norm_inputs.end()) {
      largest = range;
    }
  }
  return largest;
}

std::vector<std::string> sample_sentences() {
  return {
      "Hello",
      "A kitten rests by the window.",
      "Stock prices fell sharply on Tuesday after the bank raised its rates.",
      "How do I reset my password if I no longer have the old e-mail address?",
      "The train to the coast leaves at 7:45 from platform 3, and it is usually on time.",
      "naïve café façade, 15% off: $3.50 (was $4.25)!!!",
      "for (int i = 0; i < n; ++i) sum += values[i];",
      "Water boils at a lower temperature in the mountains because the air is thinner there.",
      "Der Vogel singt im Garten, und die Kinder hören ihm zu.",
      "supercalifragilisticexpialidocious",
      "She had not been back to the old town by the river since her grandmother sold the house, "
      "and "
      "nothing in the square, not even the clock above the baker's, looked as she remembered it.",
      "yes",
  };
}

}  // namespace

Result<ConversionQuality> measure_conversion(const ModelSpec& spec, const WeightSet& weights,
                                             const mil::Model& program, const std::string& function,
                                             const std::vector<std::vector<TokenId>>& texts,
                                             int threads,
                                             const std::function<void(int64_t)>& done) {
  const auto found = program.program.functions.find(function);
  if (found == program.program.functions.end()) {
    return error(ErrorCode::not_found, "the program has no function '{}'", function);
  }
  Twin twin;
  const bool plain = is_f32(weights);
  if (!plain) {
    IMPETUS_TRY(twin, in_f32(weights));
  }
  const WeightSet& reference_weights = plain ? weights : *twin.weights;
  IMPETUS_TRY(const auto cpu, make_cpu_backend({.threads = threads, .isa = {}}));
  MemoryLedger ledger(int64_t{1} << 40);
  IMPETUS_TRY(const auto reference, cpu->load_encoder(spec, reference_weights, {}, ledger));
  IMPETUS_TRY(const auto embeddings, coreml::HostEmbeddings::load(spec, weights));
  IMPETUS_TRY(const auto emulated,
              mil::Interpreter::load(program, function, {.threads = cpu->descriptor().threads}));
  const auto longest = static_cast<size_t>(found->second.inputs.front().type.tensor.shape.back());

  ConversionQuality quality;
  quality.function = function;
  for (std::vector<TokenId> tokens : texts) {
    if (tokens.empty()) continue;
    tokens.resize(std::min(tokens.size(), longest));
    const std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens.size())};
    IMPETUS_TRY(const Encoded wanted,
                reference->encode({tokens, offsets, {}, EncodeOutput::hidden}));
    IMPETUS_TRY(const coreml::Emulated got, coreml::emulate(emulated, embeddings, tokens, {}));
    const auto alike = coreml::likeness(got.hidden, wanted.values, spec.hidden);
    quality.text_cosine = std::min(quality.text_cosine, alike.text);
    quality.token_cosine = std::min(quality.token_cosine, alike.lowest_token);
    const mil::TensorRange norm_input = largest_norm_input(found->second, got.ranges);
    if (norm_input.max_abs > quality.norm_input_max) {
      quality.norm_input_max = norm_input.max_abs;
      quality.norm_input_tensor = norm_input.tensor;
    }
    if (quality.events.empty()) {
      for (const mil::NumericEvent& event : got.events) {
        quality.events.push_back(fmt::format(
            "{} ({}): {} values {}, the first {:g}", event.operation, event.type, event.count,
            event.kind == mil::NumericEvent::Kind::nan ? "are no numbers" : "overflow",
            event.value));
      }
    }
    quality.tokens += static_cast<int64_t>(tokens.size());
    done(++quality.texts);
  }
  if (quality.texts == 0) {
    return error(ErrorCode::invalid_argument,
                 "none of the texts to compare on has a token; name others with --compare");
  }
  return quality;
}

json::object to_json(const ConversionQuality& quality) {
  return {{"function", quality.function},
          {"texts", quality.texts},
          {"tokens", quality.tokens},
          {"text_cosine_lowest", quality.text_cosine},
          {"token_cosine_lowest", quality.token_cosine},
          {"norm_input_max", quality.norm_input_max},
          {"norm_input_tensor", quality.norm_input_tensor},
          {"events", json::array(quality.events.begin(), quality.events.end())}};
}

Result<ValueRanges> measure_ranges(const ModelSpec& spec, const WeightSet& weights,
                                   const mil::Model& program, const std::string& function,
                                   const std::vector<std::vector<TokenId>>& texts) {
  IMPETUS_TRY(const auto embeddings, coreml::HostEmbeddings::load(spec, weights));
  IMPETUS_TRY(
      const auto emulated,
      mil::Interpreter::load(program, function, {.round_f16 = false, .threads = usable_cores()}));
  ValueRanges measured;
  IMPETUS_TRY(measured.ranges, coreml::ranges_over(emulated, embeddings, texts));
  measured.norm_input =
      largest_norm_input(program.program.functions.find(function)->second, measured.ranges);
  measured.texts = std::ranges::count_if(texts, [](const auto& text) { return !text.empty(); });
  return measured;
}

Trial trial_of(const std::vector<coreml::Converted>& converted) {
  constexpr int64_t kTokens = 64;
  for (const coreml::Converted& one : converted) {
    const auto at = std::ranges::lower_bound(one.shapes, kTokens);
    if (at != one.shapes.end()) return {&one, *at};
  }
  return {&converted.back(), converted.back().shapes.back()};
}

Result<std::vector<std::string>> sample_texts(const std::string& file_name) {
  if (file_name.empty()) return sample_sentences();
  IMPETUS_TRY(const std::string file, read_file(file_name, size_t{16} << 20));
  std::vector<std::string> texts;
  std::istringstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) texts.push_back(std::move(line));
  }
  if (texts.empty()) {
    return error(ErrorCode::invalid_argument, "{}: no text in it; one a line is wanted", file_name);
  }
  return texts;
}

std::vector<std::vector<TokenId>> encoded(const Tokenizer& tokenizer,
                                          const std::vector<std::string>& texts) {
  std::vector<std::vector<TokenId>> all;
  for (const std::string& text : texts)
    all.push_back(tokenizer.encode(text, {.add_special = true}));
  return all;
}

}  // namespace impetus::cli

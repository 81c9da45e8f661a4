// Measuring where steps are enqueued: whole layers, in several moments.
#include <algorithm>
#include <array>
#include <memory>

#include "backend/isotonic.h"
#include "backend/measurer.h"
#include "base/timing.h"

namespace impetus {

constexpr int kMoments = 5;

Result<double> Measurer::moment(const Run& run, bool first) const {
  constexpr int kWarm = 4, kStretches = 2;
  const auto stretch = [&](int steps) -> Result<double> {
    const double from = now();
    for (int i = 0; i < steps; ++i) IMPETUS_CHECK(run.step());
    return now() - from;
  };
  // Caches and clocks, the end of what another model has begun, and what a library keeps of the
  // steps that it has launched.
  IMPETUS_TRY(const double before, stretch(kWarm));
  // Next to nothing beside long steps: these count.
  if (!first && before > kWarm * options_.step_budget_seconds) return before / kWarm;
  double sum = 0;
  int count = 0;
  do {
    IMPETUS_TRY(const double seconds, stretch(run.stretch));
    sum += seconds;
    ++count;
  } while (count < kStretches || sum < options_.step_budget_seconds / 4);
  return sum / (count * run.stretch);
}

Result<void> Measurer::visit(Series& series) const {
  for (Figure& figure : series.figures) {
    if (figure.over) continue;
    const auto took = moment(figure.run(), figure.moments.empty());
    if (took.ok()) {
      figure.moments.push_back(*took);
    } else if (left_out(took.error())) {
      figure.over = true;
    } else {
      return took.error();
    }
  }
  ++series.visits;
  return {};
}

Result<void> Measurer::let_go() {
  Series series = std::move(held_.front());
  held_.pop_front();
  while (series.visits < kMoments) IMPETUS_CHECK(visit(series));
  for (Figure& figure : series.figures) {
    if (figure.moments.empty()) continue;
    figure.run = {};  // its model goes
    done_with_.push_back(std::move(figure));
  }
  return {};
}

Result<void> Measurer::round() {
  // A host's pace stays for seconds, and nothing may have been loaded meanwhile. Busy, so that
  // clocks stay.
  constexpr double kApart = 2;
  while (!held_.empty() && now() - round_ < kApart) {
    IMPETUS_CHECK(moment(steps_.figures.front().run(), false));
  }
  round_ = now();
  IMPETUS_CHECK(visit(steps_));
  for (Series& series : held_) IMPETUS_CHECK(visit(series));
  while (!held_.empty() && held_.front().visits >= kMoments) IMPETUS_CHECK(let_go());
  return {};
}

void Measurer::add_attention(Series& series, ShapeClass shape, double ops, std::function<Run()> few,
                             std::function<Run()> many) {
  const auto early = std::make_shared<double>(0);
  series.figures.emplace_back(std::move(few), [early](double seconds) { *early = seconds; });
  series.figures.emplace_back(std::move(many), [this, shape, ops, early](double late) {
    if (*early == 0) return;  // left out
    profile_.attention.push_back({shape, 1, ops / std::max(late - *early, late / 50)});
  });
}

// Decode steps and prompts with few and with many positions before them.
Result<void> Measurer::hold_attention(int64_t hidden) {
  constexpr int64_t kLayers = 6, kPromptPast = kContext - kRowsMax;
  IMPETUS_TRY(Loaded loaded, decoder(kLayers, hidden, {DType::q8_0}, 1, kContext));
  Executor& executor = *loaded.executor;
  // Written for real, or every read would hit one page of zeros.
  for (int64_t position = 0; position < extent_.past; position += kRowsMax) {
    const int64_t count = std::min(kRowsMax, extent_.past - position);
    IMPETUS_CHECK(run_step(executor, 1, count, position, StepOutput::none));
  }
  const ModelSpec& spec = loaded.spec();
  const double pair = 4.0 * static_cast<double>(spec.heads * spec.head_dim);
  Series series;
  add_attention(
      series, ShapeClass::decode, pair * kLayers * static_cast<double>(extent_.past - kDecodePast),
      [&executor] { return decode_run(executor, 1, true); },
      [this, &executor] { return decode_run(executor, 1, true, extent_.past); });
  // The last layer runs for the row with logits only.
  add_attention(
      series, ShapeClass::prefill,
      pair * static_cast<double>(((kLayers - 1) * kRowsMax + 1) * kPromptPast),
      [&executor] { return at_run(executor, kRowsMax, 0); },
      [&executor] { return at_run(executor, kRowsMax, kPromptPast); });
  series.models.push_back(std::move(loaded));
  held_.push_back(std::move(series));
  return {};
}

// Short texts, and one as long as all of them.
Result<void> Measurer::hold_encoder_attention() {
  constexpr int64_t kLayers = 6;
  IMPETUS_TRY(Loaded loaded, encoder(kLayers, extent_.attention_hidden, encoder_type(), 1));
  Encoder& one = *loaded.encoder;
  Series series;
  add_attention(
      series, ShapeClass::encoder,
      4.0 *
          static_cast<double>(extent_.attention_hidden * kLayers * kRowsMax * (kRowsMax - kBlock)),
      [&one] { return encode_run(one, kRowsMax / kBlock, kBlock); },
      [&one] { return encode_run(one, 1, kRowsMax); });
  series.models.push_back(std::move(loaded));
  held_.push_back(std::move(series));
  return {};
}

constexpr std::array<int64_t, 5> kWidths = {256, 512, 1024, 2048, 4096};
constexpr int64_t kStepWidth = 512;
// Of which a part is timed, beside what a step costs. Enough of them that the device is busy while
// the host is with the next ones, as in a model.
int64_t layers_of(int64_t hidden) {
  return hidden < 4096 ? 6 : 4;
}

// The same layers six and fourteen times: as many as keep the device busy while the host is with
// the next step.
constexpr int64_t kFewLayers = 6, kManyLayers = 14;

Result<void> Measurer::hold_steps() {
  const Kind kind{DType::f16};
  for (const int64_t layers : {kFewLayers, kManyLayers}) {
    IMPETUS_TRY(Loaded loaded, decoder(layers, kStepWidth, kind, 1));
    steps_.models.push_back(std::move(loaded));
  }
  Executor &few = *steps_.models[0].executor, &many = *steps_.models[1].executor;
  const auto add = [&](std::function<Run()> run) { steps_.figures.emplace_back(std::move(run)); };
  for (Executor* one : {&few, &many}) add([one] { return decode_run(*one, 1, true); });
  for (Executor* one : {&few, &many}) add([one] { return prompt_run(*one, 128); });
  for (const int64_t layers : {kFewLayers, kManyLayers}) {
    auto loaded = encoder(layers, extent_.encoder_hidden, kind.type, 1);
    if (!loaded.ok() && loaded.error().code == ErrorCode::unsupported) return {};
    if (!loaded.ok()) return std::move(loaded).error();
    Encoder& one = *loaded->encoder;
    steps_.models.push_back(std::move(*loaded));
    add([&one] { return encode_run(one, 1, kBlock); });
  }
  return {};
}

Result<void> Measurer::keep_steps() {
  constexpr double kMore = kManyLayers - kFewLayers;
  const auto add = [&](ShapeClass shape, size_t at, double layers) {
    const double few = median(steps_.figures[at].moments);
    const double many = median(steps_.figures[at + 1].moments);
    const double once = std::max(0.0, few - (many - few) * layers / kMore);
    profile_.overhead.push_back({shape, 1, once, 0, 0});
  };
  if (steps_.figures[1].moments.empty()) {
    return error(ErrorCode::insufficient_memory, "{} has too little memory to be measured",
                 backend_.descriptor().name);
  }
  add(ShapeClass::decode, 0, kFewLayers);
  // Of a prompt the last layer runs whole for one row only.
  add(ShapeClass::prefill, 2, kFewLayers - 1);
  if (steps_.figures.size() > 5) add(ShapeClass::encoder, 4, kFewLayers);
  return {};
}

Result<void> Measurer::hold_reading() {
  return each_read_shape([&](int64_t layers, int64_t hidden) -> Result<void> {
    IMPETUS_TRY(Loaded loaded, decoder(layers, hidden, {DType::f32}, 1));
    Series series;
    Executor& executor = *loaded.executor;
    series.figures.emplace_back(
        [&executor] { return decode_run(executor, 1, true); },
        [this, spec = loaded.spec()](double seconds) { add_read(spec, 1, seconds); });
    series.models.push_back(std::move(loaded));
    held_.push_back(std::move(series));
    return {};
  });
}

void Measurer::add_layer(Series& series, LayerTime layer, double layers, std::function<Run()> run) {
  series.figures.emplace_back(std::move(run), [this, layer, layers](double seconds) mutable {
    const double beside = step_seconds(layer.shape);
    layer.seconds = std::max(seconds / 2, seconds - beside) / layers;
    profile_.layers.push_back(layer);
  });
  series.figures.back().layer = layer.shape;
}

Result<void> Measurer::hold_layers(Kind kind) {
  const bool quantised = block_elements(kind.type) > 1;
  // Prompts of quantised models may multiply with dequantised matrices from between 128 and 512
  // rows on.
  std::vector<int64_t> prompts = {16, 128, 512};
  if (quantised) prompts = {16, 128, 256, 512};
  for (const int64_t hidden : kWidths) {
    const int64_t layers = layers_of(hidden);
    const int64_t weights = layers * hidden * hidden * 43 / 4;
    // MLX takes those of three layers, in 16 bits, of four times as much that is free.
    const int64_t dequantised = quantised ? 4 * 3 * (weights / layers) * 2 : 0;
    // In groups of 64 a scale and a bias of 16 bits each.
    IMPETUS_TRY(const bool fitting, fits(kind.bits > 0 ? weights * (2 * kind.bits + 1) / 16
                                                       : bytes_of_parameters(weights, kind.type),
                                         dequantised));
    if (!fitting) break;
    auto loaded = decoder(layers, hidden, kind, 1, 64 * (kDecodePast + kDecodePositions));
    if (!loaded.ok() && left_out(loaded.error())) break;
    if (!loaded.ok()) return std::move(loaded).error();
    const ModelSpec& spec = loaded->spec();
    const int64_t parameters = layer_parameters(spec);
    Executor& executor = *loaded->executor;
    Series series;
    for (const int64_t rows : {1, 4, 16, 64}) {
      add_layer(series, {ShapeClass::decode, kind.type, rows, parameters, 0, kind.bits},
                static_cast<double>(layers),
                [&executor, rows] { return decode_run(executor, rows, true); });
    }
    for (const int64_t rows : prompts) {
      // The last layer makes keys and values; what else it does is of one row.
      const double part = static_cast<double>(spec.hidden * 2 * spec.kv_heads * spec.head_dim) /
                          static_cast<double>(parameters);
      add_layer(series, {ShapeClass::prefill, kind.type, rows, parameters, 0, kind.bits},
                static_cast<double>(layers - 1) + part,
                [&executor, rows] { return prompt_run(executor, rows); });
    }
    series.models.push_back(std::move(*loaded));
    held_.push_back(std::move(series));
  }
  return {};
}

Result<void> Measurer::hold_encoder_layers(DType type) {
  for (const int64_t hidden : {192, 384, 768, 1536}) {
    constexpr int64_t kLayers = 6;
    IMPETUS_TRY(const bool fitting,
                fits(bytes_of_parameters(kLayers * hidden * hidden * 12, type)));
    if (!fitting) break;
    auto loaded = encoder(kLayers, hidden, type, 1);
    if (!loaded.ok() && left_out(loaded.error())) break;
    if (!loaded.ok()) return std::move(loaded).error();
    Encoder& one = *loaded->encoder;
    Series series;
    for (const int64_t rows : {16, 128, 512}) {
      const int64_t length = std::min(rows, kLayerTextTokens);
      add_layer(series, {ShapeClass::encoder, type, rows, layer_parameters(loaded->spec())},
                kLayers, [&one, rows, length] { return encode_run(one, rows / length, length); });
    }
    series.models.push_back(std::move(*loaded));
    held_.push_back(std::move(series));
  }
  return {};
}

void Measurer::keep_scatter() {
  for (const ShapeClass shape : {ShapeClass::decode, ShapeClass::prefill, ShapeClass::encoder}) {
    std::vector<double> parts;
    for (const Figure& figure : done_with_) {
      if (figure.layer != shape) continue;
      const double middle = median(figure.moments);
      for (const double one : figure.moments) parts.push_back(one / middle);
    }
    if (parts.empty()) continue;
    std::ranges::sort(parts);
    const size_t tenth = parts.size() / 10;
    profile_.scatter.push_back(
        {shape, std::min(1.0, parts[tenth]), std::max(1.0, parts[parts.size() - 1 - tenth])});
  }
}

Result<DeviceProfile> Measurer::run_enqueued() {
  struct Job {
    std::string what;
    std::function<Result<void>()> measure;
  };
  const auto as_far = [](Result<void> measured) -> Result<void> {
    if (!measured.ok() && !left_out(measured.error())) return measured;
    return {};
  };
  std::vector<Job> jobs;
  jobs.push_back({"steps", [this] { return hold_steps(); }});
  jobs.push_back({"reading", [this] { return hold_reading(); }});
  for (const DType type : backend_.descriptor().weights) {
    if (type == DType::grouped) {
      for (const int bits : {4, 8}) {
        jobs.push_back({fmt::format("layers of {} bits in groups", bits),
                        [this, bits] { return hold_layers({DType::grouped, bits}); }});
      }
      continue;
    }
    jobs.push_back({fmt::format("layers of {}", to_string(type)),
                    [this, type] { return hold_layers({type}); }});
    if (type == DType::q8_0 || type == DType::q4_0) continue;
    jobs.push_back({fmt::format("texts in {}", to_string(type)),
                    [this, type] { return hold_encoder_layers(type); }});
  }
  // Last, since types that are held get their moments beside them.
  jobs.push_back({"attention", [&]() -> Result<void> {
                    // Few heads leave a GPU idle.
                    if (hold_attention(2048).ok()) return {};
                    return as_far(hold_attention(512));
                  }});
  jobs.push_back({"attention of texts", [&] { return as_far(hold_encoder_attention()); }});
  jobs.push_back({"copies", [this] { return measure_copies(); }});
  planned_ = static_cast<double>(jobs.size() + kMoments);
  for (const Job& job : jobs) {
    tell(job.what);
    IMPETUS_CHECK(job.measure());
    IMPETUS_CHECK(round());
  }
  while (!held_.empty()) {
    tell("once more");
    IMPETUS_CHECK(round());
  }
  IMPETUS_CHECK(keep_steps());
  for (const Figure& figure : done_with_) figure.keep(median(figure.moments));
  keep_scatter();
  if (profile_.layers.empty()) {
    return error(ErrorCode::insufficient_memory, "{} has too little memory to be measured",
                 backend_.descriptor().name);
  }
  make_monotone(profile_.layers);
  return std::move(profile_);
}

}  // namespace impetus

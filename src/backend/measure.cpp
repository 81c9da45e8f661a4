#include "backend/measure.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <numeric>

#include "backend/isotonic.h"
#include "backend/measured_runs.h"
#include "backend/synthetic_model.h"
#include "base/timing.h"

namespace impetus {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kRowsMax = 512;
constexpr int64_t kContext = 2304;

// How much a figure is taken from.
struct Extent {
  int64_t rows = kRowsMax;          // of a step of many
  int64_t hidden = 1024;            // of products
  int64_t attention_hidden = 1024;  // heads for sixteen threads
  int64_t encoder_hidden = 384;     // of what encoders do beside products
  int64_t past = 2048;              // earlier positions, where attention is measured
};
// Less on a processor where a step of kRowsMax would take seconds, as it does on one thread without
// vectors: it has no rates that only many rows show.
constexpr Extent kSlow = {64, 512, 256, 128, 512};
constexpr double kSlowSeconds = 1;

// Weights that a token is multiplied with, of one layer and of the head.
int64_t layer_parameters(const ModelSpec& spec) {
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  const int64_t matrices = spec.kind == ModelKind::decoder ? 3 : 2;
  return spec.hidden * (2 * queries + 2 * keys) + matrices * spec.hidden * spec.feed_forward;
}

int64_t bytes_of_parameters(int64_t parameters, DType type) {
  return parameters / block_elements(type) * block_bytes(type);
}

// Weights that layers are timed with: as many as a type has bits, where it is MLX's groups.
struct Kind {
  DType type = DType::f32;
  int bits = 0;
};

// Whether a figure may be missing: the backend has no such thing, or too little memory for it.
bool left_out(const Error& error) {
  return error.code == ErrorCode::unsupported || error.code == ErrorCode::insufficient_memory;
}

class Measurer {
 public:
  Measurer(Backend& backend, MemoryLedger& ledger, const MeasureOptions& options)
      : backend_(backend), ledger_(ledger), options_(options) {}

  Result<DeviceProfile> run();

 private:
  struct Loaded {
    SyntheticModel model;
    std::unique_ptr<Executor> executor;
    std::unique_ptr<Encoder> encoder;
    const ModelSpec& spec() const { return model.spec; }
  };
  // What is timed in several moments.
  struct Figure {
    explicit Figure(std::function<Run()> how, std::function<void(double)> to = {})
        : run(std::move(how)), keep(std::move(to)) {}
    std::function<Run()> run;
    std::function<void(double seconds)> keep;  // told the median, when all is measured
    std::vector<double> moments;               // seconds of a step
    std::optional<ShapeClass> layer;           // a layer's: of what
    bool over = false;                         // it failed
  };
  struct Series {
    std::vector<Loaded> models;
    std::vector<Figure> figures;  // of these models' executors and encoders
    int visits = 0;
  };

  void tell(const std::string& what) {
    if (options_.progress) options_.progress(what, static_cast<double>(done_++) / planned_);
  }
  LoadOptions load_options(int threads, int64_t kv_tokens) const {
    LoadOptions options;
    options.kv_tokens = kv_tokens;
    options.step_tokens_max = kRowsMax;
    options.threads = {threads, threads};
    return options;
  }
  Result<Loaded> decoder(int64_t layers, int64_t hidden, Kind kind, int threads,
                         int64_t kv_tokens = kRowsMax) {
    return load([&]() -> Result<Loaded> {
      Loaded made;
      IMPETUS_TRY(made.model, synthetic_model(synthetic_decoder_spec(layers, hidden, kContext),
                                              kind.type, false, kind.bits));
      IMPETUS_TRY(made.executor, backend_.load_decoder(made.model.spec, *made.model.weights,
                                                       load_options(threads, kv_tokens), ledger_));
      return made;
    });
  }
  Result<Loaded> encoder(int64_t layers, int64_t hidden, DType type, int threads) {
    return load([&]() -> Result<Loaded> {
      Loaded made;
      IMPETUS_TRY(made.model,
                  synthetic_model(synthetic_encoder_spec(layers, hidden, kRowsMax), type));
      IMPETUS_TRY(made.encoder, backend_.load_encoder(made.model.spec, *made.model.weights,
                                                      load_options(threads, 0), ledger_));
      return made;
    });
  }
  // A device's memory may be less than the ledger's: what is held goes before a load fails.
  template <typename Load>
  Result<Loaded> load(Load once) {
    while (true) {
      Result<Loaded> made = once();
      if (made.ok() || made.error().code != ErrorCode::insufficient_memory || held_.empty()) {
        return made;
      }
      IMPETUS_CHECK(let_go());
    }
  }

  double now() const {
    return options_.clock ? options_.clock()
                          : std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
  }
  // The lower quartile of a step's times, in seconds; an error ends it.
  Result<double> time(const Run& run) const;
  Result<double> decode(Loaded& loaded, int64_t rows) const {
    return time(decode_run(*loaded.executor, rows, backend_.descriptor().enqueues));
  }
  Result<double> chunk(Loaded& loaded, int64_t rows, StepOutput output) const {
    return time(chunk_run(*loaded.executor, rows, output));
  }
  Result<double> at(Loaded& loaded, int64_t rows, int64_t past) const {
    return time(at_run(*loaded.executor, rows, past));
  }
  Result<double> encode(Loaded& loaded, int64_t texts, int64_t length) const {
    return time(encode_run(*loaded.encoder, texts, length));
  }

  // A step's time in this moment; `first`: nothing of the kind ran before.
  Result<double> moment(const Run& run, bool first) const;
  Result<void> visit(Series& series) const;
  // A moment of all that is held; what has had enough of them is let go.
  Result<void> round();
  // The oldest that is held, after the moments that it still lacks.
  Result<void> let_go();

  // Works until two stretches are equally fast: clocks rise, and a virtual machine gets its memory.
  Result<void> settle(int threads);
  Result<void> measure_overhead(int threads);
  Result<void> each_read_shape(
      const std::function<Result<void>(int64_t layers, int64_t hidden)>& measure);
  // `seconds`: of a step of one row that reads its weights.
  void add_read(const ModelSpec& spec, int threads, double seconds);
  Result<void> measure_read(int threads);
  Result<void> measure_matrix(DType type, int threads, std::span<const int64_t> rows);
  Result<void> measure_attention(int threads);
  // `ops`: what attention of `many` has to do beside that of `few`; their products are the same.
  void add_attention(Series& series, ShapeClass shape, double ops, std::function<Run()> few,
                     std::function<Run()> many);
  Result<void> hold_attention(int64_t hidden);
  Result<void> hold_encoder_attention();
  Result<void> measure_encoder(int threads);
  Result<void> measure_encoder_attention(int threads);
  // Where steps are enqueued: whole layers in place of products, and of what is beside them.
  Result<DeviceProfile> run_enqueued();
  Result<void> hold_steps();
  Result<void> keep_steps();
  void keep_scatter();
  Result<void> hold_reading();
  Result<void> hold_layers(Kind kind);
  Result<void> hold_encoder_layers(DType type);
  void add_layer(Series& series, LayerTime layer, double layers, std::function<Run()> run);
  Result<void> measure_copies();

  // That most encoders are published in.
  DType encoder_type() const {
    return std::ranges::count(backend_.descriptor().weights, DType::f16) > 0 ? DType::f16
                                                                             : DType::f32;
  }
  const Overhead& overhead(int threads) const {
    return *std::ranges::find_if(profile_.overhead, [&](const Overhead& o) {
      return o.threads == threads && o.shape == ShapeClass::decode;
    });
  }
  double step_seconds(ShapeClass shape) const {
    const auto found = std::ranges::find(profile_.overhead, shape, &Overhead::shape);
    return found == profile_.overhead.end() ? 0 : found->step_seconds;
  }
  // Lets go of what is held for it.
  Result<bool> fits(int64_t bytes) {
    const int64_t needed = bytes * 2 + (int64_t{64} << 20);
    // What is made on the host, in vain where letting go gives nothing back there.
    if (backend_.memory() != nullptr && needed >= ledger_.free_bytes()) return false;
    const auto room = [&] { return needed < memory().free_bytes(); };
    while (!room() && needed < memory().capacity_bytes() && !held_.empty()) IMPETUS_CHECK(let_go());
    return room();
  }
  const MemoryLedger& memory() const { return backend_.memory() ? *backend_.memory() : ledger_; }

  Backend& backend_;
  MemoryLedger& ledger_;
  const MeasureOptions& options_;
  DeviceProfile profile_;
  Extent extent_;
  Series steps_;             // timed with every round
  std::deque<Series> held_;  // rising visits from the back
  std::vector<Figure> done_with_;
  double round_ = 0;  // when the last one began
  int done_ = 0;
  double planned_ = 1;
};

Result<double> Measurer::time(const Run& run) const {
  const auto once = [&]() -> Result<void> {
    for (int i = 0; i < run.stretch; ++i) IMPETUS_CHECK(run.step());
    return {};
  };
  IMPETUS_CHECK(once());  // pages, caches, clocks
  std::vector<double> times;
  const double start = now();
  do {
    const double from = now();
    IMPETUS_CHECK(once());
    times.push_back((now() - from) / run.stretch);
    // A slow processor gets fewer steps, never fewer than two.
  } while ((times.size() < 5 && now() - start < 10 * options_.step_budget_seconds) ||
           times.size() < 2 || now() - start < options_.step_budget_seconds);
  // Not the median: what other programs take now and then is no part of this processor's speed. The
  // median where steps are enqueued, since the host's own pace is part of it.
  const bool enqueues = backend_.descriptor().enqueues;
  const auto middle =
      times.begin() + static_cast<std::ptrdiff_t>(times.size() / (enqueues ? 2 : 4));
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

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

Result<void> Measurer::settle(int threads) {
  constexpr double kAlike = 0.03, kEnough = 2;
  auto loaded = decoder(2, 1024, {DType::f32}, threads);
  if (!loaded.ok()) return {};  // whether that matters, the figures themselves will say
  IMPETUS_TRY(const double few, chunk(*loaded, kBlock, StepOutput::none));
  if (few * kRowsMax / kBlock > kSlowSeconds) {
    extent_ = kSlow;
    return {};
  }
  const double start = now();
  for (double before = 0; now() - start < kEnough;) {
    IMPETUS_TRY(const double after, chunk(*loaded, kRowsMax, StepOutput::none));
    if (std::abs(after - before) < kAlike * before) break;
    before = after;
  }
  return {};
}

// The same bytes in four layers and in one: what differs is layers. With many rows it is their
// elementwise work as well.
Result<void> Measurer::measure_overhead(int threads) {
  Overhead cost{ShapeClass::decode, threads, 0, 0, 0};
  IMPETUS_TRY(Loaded narrow, decoder(4, 256, {DType::q8_0}, threads));
  IMPETUS_TRY(Loaded wide, decoder(1, 512, {DType::q8_0}, threads));
  IMPETUS_TRY(const double narrow_one, decode(narrow, 1));
  IMPETUS_TRY(const double wide_one, decode(wide, 1));
  cost.layer_seconds = std::max(0.0, (narrow_one - wide_one) / 3);
  // Two layers less, taken off twice, leave what a step costs at all.
  IMPETUS_TRY(Loaded two, decoder(2, 256, {DType::q8_0}, threads));
  IMPETUS_TRY(const double two_one, decode(two, 1));
  cost.step_seconds = std::max(0.0, two_one - (narrow_one - two_one));
  IMPETUS_TRY(const double narrow_many, chunk(narrow, extent_.rows, StepOutput::logits_all));
  IMPETUS_TRY(const double wide_many, chunk(wide, extent_.rows, StepOutput::logits_all));
  const double values = static_cast<double>(extent_.rows) * (4 * 256 - 512);
  cost.row_value_seconds =
      std::max(0.0, (narrow_many - wide_many - 3 * cost.layer_seconds) / values);
  profile_.overhead.push_back(cost);
  return {};
}

// Layers x hidden: from 3 MB, which a second-level cache may hold, to 550 MB of f32 weights.
constexpr std::array<std::array<int64_t, 2>, 5> kReadShapes = {
    {{1, 256}, {1, 512}, {1, 1024}, {3, 1024}, {3, 2048}}};

Result<void> Measurer::each_read_shape(
    const std::function<Result<void>(int64_t layers, int64_t hidden)>& measure) {
  for (const auto& [layers, hidden] : kReadShapes) {
    IMPETUS_TRY(const bool fitting, fits(layers * hidden * hidden * 43 / 4 * 4));
    if (!fitting) {
      if (hidden > kReadShapes.front()[1]) break;
      return error(ErrorCode::insufficient_memory,
                   "{} MiB are free, too little to measure with models that hold their own",
                   memory().free_bytes() >> 20);
    }
    IMPETUS_CHECK(measure(layers, hidden));
  }
  return {};
}

void Measurer::add_read(const ModelSpec& spec, int threads, double seconds) {
  const int64_t bytes = (spec.layers * layer_parameters(spec) + spec.vocab * spec.hidden) * 4;
  const Overhead& cost = overhead(threads);
  const double rest =
      std::max(seconds / 2,
               seconds - cost.step_seconds - static_cast<double>(spec.layers) * cost.layer_seconds);
  profile_.read.push_back({threads, bytes, static_cast<double>(bytes) / rest});
}

Result<void> Measurer::measure_read(int threads) {
  return each_read_shape([&](int64_t layers, int64_t hidden) -> Result<void> {
    IMPETUS_TRY(Loaded loaded, decoder(layers, hidden, {DType::f32}, threads));
    IMPETUS_TRY(const double seconds, decode(loaded, 1));
    add_read(loaded.spec(), threads, seconds);
    return {};
  });
}

Result<void> Measurer::measure_matrix(DType type, int threads, std::span<const int64_t> rows) {
  for (const int64_t m : rows) {
    // A row at a time from the caches of the cores that share it, yet enough work for each of them;
    // many rows over matrices as large as real ones.
    if (m > extent_.rows) continue;
    const int64_t hidden = threads > 8 ? 1536 : m > 1 || threads > 2 ? extent_.hidden : 512;
    const bool many = m > kBlock;
    IMPETUS_TRY(const bool fitting,
                fits(bytes_of_parameters(hidden * hidden * (many ? 2 : 1) * 43 / 4, type)));
    if (!fitting) continue;
    // Many rows without their logits, as prompts run: taking those out is one thread's work. What
    // the last layer then does is its keys and values.
    auto loaded = decoder(many ? 2 : 1, hidden, {type}, threads);
    if (!loaded.ok() && loaded.error().code == ErrorCode::unsupported) return {};
    if (!loaded.ok()) return std::move(loaded).error();
    IMPETUS_TRY(const double seconds,
                many ? chunk(*loaded, m, StepOutput::none) : decode(*loaded, m));
    const ModelSpec& spec = loaded->spec();
    const int64_t last =
        many ? spec.hidden * 2 * spec.kv_heads * spec.head_dim : spec.vocab * spec.hidden;
    const double ops = 2.0 * static_cast<double>(m * (layer_parameters(spec) + last));
    const Overhead& cost = overhead(threads);
    const double beside = cost.step_seconds + cost.layer_seconds +
                          static_cast<double>(m * spec.hidden) * cost.row_value_seconds;
    profile_.matrix.push_back({type, m, threads, ops / std::max(seconds / 2, seconds - beside)});
  }
  return {};
}

Result<void> Measurer::measure_attention(int threads) {
  IMPETUS_TRY(Loaded loaded, decoder(3, 512, {DType::q8_0}, threads, kContext));
  // The positions before: written for real, or every read would hit one page of zeros.
  for (int64_t position = 0; position < extent_.past + kRowsMax / 2; position += kRowsMax / 2) {
    const int64_t count = std::min(kRowsMax / 2, kContext - position);
    IMPETUS_CHECK(run_step(*loaded.executor, 1, count, position, StepOutput::none));
  }
  const ModelSpec& spec = loaded.spec();
  const auto rate = [&](ShapeClass shape, int64_t rows) -> Result<void> {
    IMPETUS_TRY(const double late, at(loaded, rows, extent_.past));
    IMPETUS_TRY(const double early, at(loaded, rows, 0));
    // The last layer runs for the row with logits only.
    const double pairs = static_cast<double>(((spec.layers - 1) * rows + 1) * extent_.past);
    const double ops = 4.0 * static_cast<double>(spec.heads * spec.head_dim) * pairs;
    profile_.attention.push_back({shape, threads, ops / std::max(late - early, late / 50)});
    return {};
  };
  IMPETUS_CHECK(rate(ShapeClass::decode, 1));
  return rate(ShapeClass::prefill, 128);
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

Result<void> Measurer::measure_encoder_attention(int threads) {
  IMPETUS_TRY(Loaded loaded, encoder(1, extent_.attention_hidden, encoder_type(), threads));
  IMPETUS_TRY(const double heads_pieces, encode(loaded, kRowsMax / kBlock, kBlock));
  IMPETUS_TRY(const double heads_whole, encode(loaded, 1, kRowsMax));
  const double pairs = static_cast<double>(kRowsMax) * (kRowsMax - kBlock);
  const double ops = 4.0 * static_cast<double>(extent_.attention_hidden) * pairs;
  profile_.attention.push_back(
      {ShapeClass::encoder, threads, ops / std::max(heads_whole - heads_pieces, heads_whole / 20)});
  return {};
}

Result<void> Measurer::measure_encoder(int threads) {
  IMPETUS_CHECK(measure_encoder_attention(threads));
  const DType type = encoder_type();
  IMPETUS_TRY(Loaded loaded, encoder(2, extent_.encoder_hidden, type, threads));
  IMPETUS_TRY(Loaded more, encoder(6, extent_.encoder_hidden, type, threads));
  IMPETUS_TRY(const double short_two, encode(loaded, 1, kBlock));
  IMPETUS_TRY(const double short_six, encode(more, 1, kBlock));
  IMPETUS_TRY(const double pieces, encode(loaded, extent_.rows / kBlock, kBlock));
  const ModelSpec& spec = loaded.spec();
  const auto layers = static_cast<double>(spec.layers);

  Overhead cost{ShapeClass::encoder, threads, 0, 0, 0};
  const auto rate = [&](int64_t rows) {
    double nearest = 1;
    for (const MatrixRate& known : profile_.matrix) {
      if (known.weights == type && known.threads == threads && known.rows <= rows) {
        nearest = known.ops_per_second;
      }
    }
    return nearest;
  };
  const auto products = [&](int64_t rows) {
    return 2.0 * static_cast<double>(layer_parameters(spec) * rows) / rate(rows);
  };
  const double layer = (short_six - short_two) / 4;
  cost.layer_seconds = std::max(0.0, layer - products(kBlock));
  cost.step_seconds = std::max(0.0, short_two - layers * layer);
  cost.row_value_seconds = std::max(
      0.0, (pieces - cost.step_seconds - layers * (cost.layer_seconds + products(extent_.rows))) /
               (layers * static_cast<double>(extent_.rows * spec.hidden)));
  profile_.overhead.push_back(cost);
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
  for (const int64_t hidden : kWidths) {
    const int64_t layers = layers_of(hidden);
    const int64_t weights = layers * hidden * hidden * 43 / 4;
    // In groups of 64 a scale and a bias of 16 bits each.
    IMPETUS_TRY(const bool fitting, fits(kind.bits > 0 ? weights * (2 * kind.bits + 1) / 16
                                                       : bytes_of_parameters(weights, kind.type)));
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
    for (const int64_t rows : {16, 128, 512}) {
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

// One way each: half of a block's way out and in again.
Result<void> Measurer::measure_copies() {
  IMPETUS_TRY(Loaded loaded, decoder(4, 512, {DType::q8_0}, 0, kContext));
  IMPETUS_CHECK(run_step(*loaded.executor, 1, kRowsMax, 0, StepOutput::none));
  KvStorage& kv = loaded.executor->kv();
  const int32_t tokens = kv.block_tokens();
  const auto there_and_back = [&](BlockId blocks, int32_t positions) -> Result<double> {
    const int64_t size = kv.shape().elements() * positions * block_bytes(kv.dtype());
    std::vector<std::byte> bytes(static_cast<size_t>(size));
    return time({[&]() -> Result<void> {
      for (BlockId b = 0; b < blocks; ++b) {
        IMPETUS_CHECK(kv.export_block(b, 0, positions, bytes));
        IMPETUS_CHECK(kv.import_block(b, 0, positions, kv.dtype(), bytes));
      }
      return {};
    }});
  };
  const auto blocks = static_cast<BlockId>(kRowsMax / tokens);
  IMPETUS_TRY(const double whole, there_and_back(blocks, tokens));
  IMPETUS_TRY(const double least, there_and_back(1, 1));
  profile_.copy_seconds = least / 2;
  profile_.copy_bytes_per_second = 2.0 * static_cast<double>(kv.block_bytes() * blocks) / whole;
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

Result<DeviceProfile> Measurer::run() {
  const BackendDescriptor& descriptor = backend_.descriptor();
  profile_.device = descriptor.device;
  profile_.backend = descriptor.backend;
  profile_.measured = true;
  std::vector<int> threads = options_.threads;
  if (threads.empty()) {
    for (int t = 1; t < descriptor.threads; t *= 2) threads.push_back(t);
    threads.push_back(descriptor.threads);
  }
  if (descriptor.enqueues) return run_enqueued();
  constexpr std::array<int64_t, 5> kRows = {1, 4, 16, 64, 512};
  constexpr std::array<int64_t, 2> kFewRows = {1, 512};
  const auto grouped = std::ranges::count(descriptor.weights, DType::grouped);
  planned_ = static_cast<double>(4 * threads.size() + 1 + descriptor.weights.size()) -
             static_cast<double>(grouped);
  IMPETUS_TRY(const bool fitting, fits(int64_t{2} * 1024 * 1024 * 43));
  if (fitting) IMPETUS_CHECK(settle(threads.back()));
  for (const int t : threads) {
    const bool all = t == threads.back();
    const std::string with = fmt::format("{} thread{}", t, t == 1 ? "" : "s");
    tell("layers, " + with);
    IMPETUS_CHECK(measure_overhead(t));
    tell("reading, " + with);
    IMPETUS_CHECK(measure_read(t));
    tell("attention, " + with);
    IMPETUS_CHECK(measure_attention(t));
    tell("products, " + with);
    for (const DType type : descriptor.weights) {
      // Plans take the figures of q4_0 and q8_0 for it (planner/model_cost.h).
      if (type == DType::grouped) continue;
      if (!all && type != DType::f32 && type != DType::q8_0) continue;
      if (all) tell(fmt::format("products of {}, {}", to_string(type), with));
      IMPETUS_CHECK(measure_matrix(
          type, t, all ? std::span<const int64_t>(kRows) : std::span<const int64_t>(kFewRows)));
    }
    if (all) {
      tell("copies");
      IMPETUS_CHECK(measure_copies());
    }
    if (all || t == 1) {
      if (auto encoders = measure_encoder(t); !encoders.ok()) {
        if (encoders.error().code != ErrorCode::unsupported) return std::move(encoders).error();
      }
    }
  }
  return std::move(profile_);
}

}  // namespace

Result<DeviceProfile> measure_backend(Backend& backend, MemoryLedger& ledger,
                                      const MeasureOptions& options) {
  return Measurer(backend, ledger, options).run();
}

}  // namespace impetus

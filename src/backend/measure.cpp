#include "backend/measure.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>

#include "backend/synthetic_model.h"
#include "base/timing.h"

namespace impetus {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kBlock = 16;  // tokens of one sequence in a step of many rows: little attention
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
  Result<Loaded> decoder(int64_t layers, int64_t hidden, DType type, int threads,
                         int64_t kv_tokens = kRowsMax) {
    Loaded loaded;
    IMPETUS_TRY(loaded.model,
                synthetic_model(synthetic_decoder_spec(layers, hidden, kContext), type));
    IMPETUS_TRY(loaded.executor, backend_.load_decoder(loaded.model.spec, *loaded.model.weights,
                                                       load_options(threads, kv_tokens), ledger_));
    return loaded;
  }
  Result<Loaded> encoder(int64_t layers, int64_t hidden, DType type, int threads) {
    Loaded loaded;
    IMPETUS_TRY(loaded.model,
                synthetic_model(synthetic_encoder_spec(layers, hidden, kRowsMax), type));
    IMPETUS_TRY(loaded.encoder, backend_.load_encoder(loaded.model.spec, *loaded.model.weights,
                                                      load_options(threads, 0), ledger_));
    return loaded;
  }

  // The lower quartile of the times of what `once` does; an error ends it.
  // `between` runs after each, untimed.
  Result<double> time(const std::function<Result<void>()>& once,
                      const std::function<Result<void>()>& between = {}) const;
  // rows sequences, a token each, one step after another
  Result<double> decode(Loaded& loaded, int64_t rows) const;
  // rows / 16 sequences of 16
  Result<double> chunk(Loaded& loaded, int64_t rows, StepOutput output) const;
  Result<double> at(Loaded& loaded, int64_t rows, int64_t past) const;  // one sequence
  Result<double> prompt(Loaded& loaded, int64_t rows) const;            // of one sequence
  Result<double> encode(Loaded& loaded, int64_t texts, int64_t length) const;

  // Works until two stretches are equally fast: clocks rise, and a virtual machine gets its memory.
  Result<void> settle(int threads);
  Result<void> measure_overhead(int threads);
  Result<void> measure_read(int threads);
  Result<void> measure_matrix(DType type, int threads, std::span<const int64_t> rows);
  Result<void> measure_attention(int threads, int64_t hidden = 512);
  Result<void> measure_encoder(int threads);
  Result<void> measure_encoder_attention(int threads);
  // Where steps are enqueued: whole layers in place of products, and of what is beside them.
  Result<void> measure_layers(DType type);
  Result<void> measure_encoder_layers(DType type);
  Result<void> measure_step();
  Result<double> attention_of(int threads, int64_t length);
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
  bool fits(int64_t bytes) const {
    return bytes * 2 + (int64_t{64} << 20) < ledger_.capacity_bytes() - ledger_.used_bytes();
  }

  Backend& backend_;
  MemoryLedger& ledger_;
  const MeasureOptions& options_;
  DeviceProfile profile_;
  Extent extent_;
  int done_ = 0;
  double planned_ = 1;
};

Result<double> Measurer::time(const std::function<Result<void>()>& once,
                              const std::function<Result<void>()>& between) const {
  IMPETUS_CHECK(once());  // pages, caches, clocks
  std::vector<double> times;
  const auto start = Clock::now();
  do {
    const auto from = Clock::now();
    IMPETUS_CHECK(once());
    times.push_back(seconds_since(from));
    if (between) IMPETUS_CHECK(between());
    // A slow processor gets fewer steps, never fewer than two.
  } while ((times.size() < 5 && seconds_since(start) < 10 * options_.step_budget_seconds) ||
           times.size() < 2 || seconds_since(start) < options_.step_budget_seconds);
  // Not the median: what other programs take now and then is no part of this processor's speed. The
  // median where steps are enqueued, since the host's own pace is part of it.
  const bool enqueues = backend_.descriptor().enqueues;
  const auto middle =
      times.begin() + static_cast<std::ptrdiff_t>(times.size() / (enqueues ? 2 : 4));
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

// Runs `sequences` sequences of `length` tokens each from position `past` on.
Result<void> step(Executor& executor, int64_t sequences, int64_t length, int64_t past,
                  StepOutput output) {
  SamplingParams greedy;
  greedy.temperature = 0;
  const std::vector<TokenId> tokens(static_cast<size_t>(length), 1);
  const int64_t each = (past + length - 1) / executor.kv().block_tokens() + 1;
  std::vector<BlockId> blocks(static_cast<size_t>(each * sequences));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<SequenceStep> batch(static_cast<size_t>(sequences));
  for (int64_t s = 0; s < sequences; ++s) {
    SequenceStep& one = batch[static_cast<size_t>(s)];
    one.tokens = tokens;
    one.position = past;
    one.blocks =
        std::span(blocks).subspan(static_cast<size_t>(s * each), static_cast<size_t>(each));
    one.output = output;
    one.sampling = &greedy;
    one.context.position = past + length;
  }
  IMPETUS_TRY([[maybe_unused]] const auto results, executor.execute(batch));
  return {};
}

Result<double> Measurer::decode(Loaded& loaded, int64_t rows) const {
  // The tokens that were drawn, at the positions that follow, as the engine goes on: a backend may
  // have begun with the next step. Few positions, so that attention is next to nothing.
  Executor& executor = *loaded.executor;
  const bool enqueues = backend_.descriptor().enqueues;
  const int64_t block_tokens = executor.kv().block_tokens();
  const int64_t most = std::max<int64_t>(1, (enqueues ? 4 : 2) * kBlock / block_tokens);
  SamplingParams greedy;
  greedy.temperature = 0;
  const int64_t each = std::clamp<int64_t>(executor.kv().blocks() / rows, 1, most);
  std::vector<BlockId> blocks(static_cast<size_t>(each * rows));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<TokenId> tokens(static_cast<size_t>(rows), 1);
  int64_t position = 0;
  const auto next = [&]() -> Result<void> {
    std::vector<SequenceStep> batch(static_cast<size_t>(rows));
    for (size_t s = 0; s < batch.size(); ++s) {
      const auto own = static_cast<size_t>(each);
      batch[s].tokens = {&tokens[s], 1};
      batch[s].position = position;
      batch[s].blocks = std::span(blocks).subspan(s * own, own);
      batch[s].output = StepOutput::sample;
      batch[s].sampling = &greedy;
      batch[s].context.position = position + 1;
    }
    IMPETUS_TRY(const auto results, executor.execute(batch));
    for (size_t s = 0; s < results.size(); ++s) {
      tokens[s] = results[s].token.ok() ? results[s].token->id : 1;
    }
    position = (position + 1) % (each * block_tokens);
    return {};
  };
  // Where a step is begun before the one ahead of it is fetched, one alone says little: some are
  // there when they are asked for, and the next takes twice as long.
  const int stretch = enqueues ? 16 : 1;
  IMPETUS_TRY(const double seconds, time([&]() -> Result<void> {
                for (int i = 0; i < stretch; ++i) IMPETUS_CHECK(next());
                return {};
              }));
  return seconds / stretch;
}

Result<double> Measurer::chunk(Loaded& loaded, int64_t rows, StepOutput output) const {
  return time([&] {
    return step(*loaded.executor, std::max<int64_t>(1, rows / kBlock), std::min(rows, kBlock), 0,
                output);
  });
}

Result<double> Measurer::at(Loaded& loaded, int64_t rows, int64_t past) const {
  return time([&] { return step(*loaded.executor, 1, rows, past, StepOutput::logits_last); });
}

Result<double> Measurer::prompt(Loaded& loaded, int64_t rows) const {
  // The token after it is fetched, or the next prompt would wait for what was begun of it.
  Executor& executor = *loaded.executor;
  return time([&] { return step(executor, 1, rows, 0, StepOutput::sample); },
              [&] { return step(executor, 1, 1, rows, StepOutput::logits_last); });
}

Result<double> Measurer::encode(Loaded& loaded, int64_t texts, int64_t length) const {
  const std::vector<TokenId> tokens(static_cast<size_t>(texts * length), 1);
  std::vector<int32_t> offsets;
  for (int64_t i = 0; i <= texts; ++i) offsets.push_back(static_cast<int32_t>(i * length));
  return time([&]() -> Result<void> {
    IMPETUS_TRY([[maybe_unused]] const auto vectors, loaded.encoder->encode({tokens, offsets, {}}));
    return {};
  });
}

// One layer of many heads over the same tokens, in texts of `length`.
Result<double> Measurer::attention_of(int threads, int64_t length) {
  IMPETUS_TRY(Loaded loaded, encoder(1, extent_.attention_hidden, encoder_type(), threads));
  return encode(loaded, kRowsMax / length, length);
}

Result<void> Measurer::settle(int threads) {
  constexpr double kAlike = 0.03, kEnough = 2;
  auto loaded = decoder(2, 1024, DType::f32, threads);
  if (!loaded.ok()) return {};  // whether that matters, the figures themselves will say
  IMPETUS_TRY(const double few, chunk(*loaded, kBlock, StepOutput::none));
  if (few * kRowsMax / kBlock > kSlowSeconds) {
    extent_ = kSlow;
    return {};
  }
  const auto start = Clock::now();
  for (double before = 0; seconds_since(start) < kEnough;) {
    IMPETUS_TRY(const double now, chunk(*loaded, kRowsMax, StepOutput::none));
    if (std::abs(now - before) < kAlike * before) break;
    before = now;
  }
  return {};
}

// The same bytes in four layers and in one: what differs is layers. With many rows it is their
// elementwise work as well.
Result<void> Measurer::measure_overhead(int threads) {
  Overhead cost{ShapeClass::decode, threads, 0, 0, 0};
  IMPETUS_TRY(Loaded narrow, decoder(4, 256, DType::q8_0, threads));
  IMPETUS_TRY(Loaded wide, decoder(1, 512, DType::q8_0, threads));
  IMPETUS_TRY(const double narrow_one, decode(narrow, 1));
  IMPETUS_TRY(const double wide_one, decode(wide, 1));
  cost.layer_seconds = std::max(0.0, (narrow_one - wide_one) / 3);
  // Two layers less, taken off twice, leave what a step costs at all.
  IMPETUS_TRY(Loaded two, decoder(2, 256, DType::q8_0, threads));
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

Result<void> Measurer::measure_read(int threads) {
  // Layers x hidden: from 3 MB, which a second-level cache may hold, to 550 MB of f32 weights.
  constexpr std::array<std::array<int64_t, 2>, 5> kShapes = {
      {{1, 256}, {1, 512}, {1, 1024}, {3, 1024}, {3, 2048}}};
  for (const auto& [layers, hidden] : kShapes) {
    const int64_t estimate = layers * hidden * hidden * 43 / 4 * 4;
    if (!fits(estimate)) {
      if (hidden > kShapes.front()[1]) break;
      return error(ErrorCode::insufficient_memory,
                   "{} MiB are free, too little to measure with models that hold their own",
                   (ledger_.capacity_bytes() - ledger_.used_bytes()) >> 20);
    }
    IMPETUS_TRY(Loaded loaded, decoder(layers, hidden, DType::f32, threads));
    IMPETUS_TRY(const double seconds, decode(loaded, 1));
    const ModelSpec& spec = loaded.spec();
    const int64_t bytes = (layers * layer_parameters(spec) + spec.vocab * spec.hidden) * 4;
    const Overhead& cost = overhead(threads);
    const double rest = std::max(seconds / 2, seconds - cost.step_seconds -
                                                  static_cast<double>(layers) * cost.layer_seconds);
    profile_.read.push_back({threads, bytes, static_cast<double>(bytes) / rest});
  }
  return {};
}

Result<void> Measurer::measure_matrix(DType type, int threads, std::span<const int64_t> rows) {
  for (const int64_t m : rows) {
    // A row at a time from the caches of the cores that share it, yet enough work for each of them;
    // many rows over matrices as large as real ones.
    if (m > extent_.rows) continue;
    const int64_t hidden = threads > 8 ? 1536 : m > 1 || threads > 2 ? extent_.hidden : 512;
    const bool many = m > kBlock;
    if (!fits(bytes_of_parameters(hidden * hidden * (many ? 2 : 1) * 43 / 4, type))) continue;
    // Many rows without their logits, as prompts run: taking those out is one thread's work. What
    // the last layer then does is its keys and values.
    auto loaded = decoder(many ? 2 : 1, hidden, type, threads);
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

Result<void> Measurer::measure_attention(int threads, int64_t hidden) {
  IMPETUS_TRY(Loaded loaded, decoder(3, hidden, DType::q8_0, threads, kContext));
  // The positions before: written for real, or every read would hit one page of zeros.
  for (int64_t position = 0; position < extent_.past + kRowsMax / 2; position += kRowsMax / 2) {
    const int64_t count = std::min(kRowsMax / 2, kContext - position);
    IMPETUS_CHECK(step(*loaded.executor, 1, count, position, StepOutput::none));
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

Result<void> Measurer::measure_encoder_attention(int threads) {
  IMPETUS_TRY(const double heads_pieces, attention_of(threads, kBlock));
  IMPETUS_TRY(const double heads_whole, attention_of(threads, kRowsMax));
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

constexpr std::array<int64_t, 4> kWidths = {512, 1024, 2048, 4096};
// Of which a part is timed, beside what a step costs: many, where they are small.
int64_t layers_of(int64_t hidden) {
  return hidden < 2048 ? 6 : hidden < 4096 ? 4 : 3;
}

// The same layers twice and six times.
Result<void> Measurer::measure_step() {
  const DType type = DType::f16;
  IMPETUS_TRY(Loaded two, decoder(2, kWidths.front(), type, 1));
  IMPETUS_TRY(Loaded six, decoder(6, kWidths.front(), type, 1));
  IMPETUS_TRY(const double few, decode(two, 1));
  IMPETUS_TRY(const double many, decode(six, 1));
  profile_.overhead.push_back({ShapeClass::decode, 1, std::max(0.0, few - (many - few) / 2), 0, 0});
  // Prompts: the last layer runs whole for one row only, so one and five do.
  IMPETUS_TRY(const double few_rows, prompt(two, 128));
  IMPETUS_TRY(const double many_rows, prompt(six, 128));
  profile_.overhead.push_back(
      {ShapeClass::prefill, 1, std::max(0.0, few_rows - (many_rows - few_rows) / 4), 0, 0});
  auto two_texts = encoder(2, extent_.encoder_hidden, type, 1);
  if (!two_texts.ok() && two_texts.error().code == ErrorCode::unsupported) return {};
  if (!two_texts.ok()) return std::move(two_texts).error();
  IMPETUS_TRY(Loaded six_texts, encoder(6, extent_.encoder_hidden, type, 1));
  IMPETUS_TRY(const double few_texts, encode(*two_texts, 1, kBlock));
  IMPETUS_TRY(const double many_texts, encode(six_texts, 1, kBlock));
  profile_.overhead.push_back(
      {ShapeClass::encoder, 1, std::max(0.0, few_texts - (many_texts - few_texts) / 2), 0, 0});
  return {};
}

Result<void> Measurer::measure_layers(DType type) {
  for (const int64_t hidden : kWidths) {
    const int64_t layers = layers_of(hidden);
    if (!fits(bytes_of_parameters(layers * hidden * hidden * 43 / 4, type))) break;
    IMPETUS_TRY(Loaded loaded, decoder(layers, hidden, type, 1, 64 * 4 * kBlock));
    const ModelSpec& spec = loaded.spec();
    const int64_t parameters = layer_parameters(spec);
    const auto add = [&](ShapeClass shape, int64_t rows, double seconds, double count) {
      const double beside = step_seconds(shape);
      profile_.layers.push_back(
          {shape, type, rows, parameters, std::max(seconds / 2, seconds - beside) / count});
    };
    for (const int64_t rows : {1, 4, 16, 64}) {
      IMPETUS_TRY(const double seconds, decode(loaded, rows));
      add(ShapeClass::decode, rows, seconds, static_cast<double>(layers));
    }
    for (const int64_t rows : {16, 128, 512}) {
      IMPETUS_TRY(const double seconds, prompt(loaded, rows));
      // The last layer makes keys and values; what else it does is of one row.
      const double part = static_cast<double>(spec.hidden * 2 * spec.kv_heads * spec.head_dim) /
                          static_cast<double>(parameters);
      add(ShapeClass::prefill, rows, seconds, static_cast<double>(layers - 1) + part);
    }
  }
  return {};
}

Result<void> Measurer::measure_encoder_layers(DType type) {
  const double beside = step_seconds(ShapeClass::encoder);
  for (const int64_t hidden : {384, 768, 1536}) {
    constexpr int64_t kLayers = 6;
    if (!fits(bytes_of_parameters(kLayers * hidden * hidden * 12, type))) break;
    IMPETUS_TRY(Loaded loaded, encoder(kLayers, hidden, type, 1));
    for (const int64_t rows : {16, 128, 512}) {
      const int64_t length = std::min(rows, kLayerTextTokens);
      IMPETUS_TRY(const double seconds, encode(loaded, rows / length, length));
      profile_.layers.push_back({ShapeClass::encoder, type, rows, layer_parameters(loaded.spec()),
                                 std::max(seconds / 2, seconds - beside) / kLayers});
    }
  }
  return {};
}

// One way each: half of a block's way out and in again.
Result<void> Measurer::measure_copies() {
  IMPETUS_TRY(Loaded loaded, decoder(4, 512, DType::q8_0, 0, kContext));
  IMPETUS_CHECK(step(*loaded.executor, 1, kRowsMax, 0, StepOutput::none));
  KvStorage& kv = loaded.executor->kv();
  const int32_t tokens = kv.block_tokens();
  const auto there_and_back = [&](BlockId blocks, int32_t positions) -> Result<double> {
    const int64_t size = kv.shape().elements() * positions * block_bytes(kv.dtype());
    std::vector<std::byte> bytes(static_cast<size_t>(size));
    return time([&]() -> Result<void> {
      for (BlockId b = 0; b < blocks; ++b) {
        IMPETUS_CHECK(kv.export_block(b, 0, positions, bytes));
        IMPETUS_CHECK(kv.import_block(b, 0, positions, kv.dtype(), bytes));
      }
      return {};
    });
  };
  const auto blocks = static_cast<BlockId>(kRowsMax / tokens);
  IMPETUS_TRY(const double whole, there_and_back(blocks, tokens));
  IMPETUS_TRY(const double least, there_and_back(1, 1));
  profile_.copy_seconds = least / 2;
  profile_.copy_bytes_per_second = 2.0 * static_cast<double>(kv.block_bytes() * blocks) / whole;
  return {};
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
  if (descriptor.enqueues) {
    planned_ = static_cast<double>(2 * descriptor.weights.size() + 4);
    tell("steps");
    IMPETUS_CHECK(measure_step());
    tell("reading");
    IMPETUS_CHECK(measure_read(1));
    // Its memory may be less than the ledger's: what does not fit is left out.
    const auto as_far = [](Result<void> measured) -> Result<void> {
      if (measured.ok() || measured.error().code == ErrorCode::unsupported ||
          measured.error().code == ErrorCode::insufficient_memory) {
        return {};
      }
      return measured;
    };
    tell("attention");
    // Few heads leave a GPU idle.
    auto wide = measure_attention(1, 2048);
    if (!wide.ok()) IMPETUS_CHECK(as_far(measure_attention(1)));
    tell("attention of texts");
    IMPETUS_CHECK(as_far(measure_encoder_attention(1)));
    for (const DType type : descriptor.weights) {
      // Plans take the figures of q4_0 and q8_0 for it (planner/model_cost.h).
      if (type == DType::grouped) continue;
      tell(fmt::format("layers of {}", to_string(type)));
      IMPETUS_CHECK(as_far(measure_layers(type)));
      if (type == DType::q8_0 || type == DType::q4_0) continue;
      tell(fmt::format("texts in {}", to_string(type)));
      IMPETUS_CHECK(as_far(measure_encoder_layers(type)));
    }
    if (profile_.layers.empty()) {
      return error(ErrorCode::insufficient_memory, "{} has too little memory to be measured",
                   descriptor.name);
    }
    IMPETUS_CHECK(measure_copies());
    return std::move(profile_);
  }
  constexpr std::array<int64_t, 5> kRows = {1, 4, 16, 64, 512};
  constexpr std::array<int64_t, 2> kFewRows = {1, 512};
  const auto grouped = std::ranges::count(descriptor.weights, DType::grouped);
  planned_ = static_cast<double>(4 * threads.size() + 1 + descriptor.weights.size()) -
             static_cast<double>(grouped);
  if (fits(int64_t{2} * 1024 * 1024 * 43)) IMPETUS_CHECK(settle(threads.back()));
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

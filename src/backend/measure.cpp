#include "backend/measure.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "backend/kv_handoff.h"
#include "backend/measurer.h"

namespace impetus {

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

// One way each: half of a block's way out and in again.
Result<void> Measurer::measure_copies() {
  IMPETUS_TRY(Loaded loaded, decoder(4, 512, {DType::q8_0}, 0, kContext));
  IMPETUS_CHECK(run_step(*loaded.executor, 1, kRowsMax, 0, StepOutput::none));
  KvStorage& kv = loaded.executor->kv();
  const int32_t tokens = kv.block_tokens();
  const auto there_and_back = [&](BlockId blocks, int32_t positions) -> Result<double> {
    const int64_t size = kv_bytes(kv.shape(), positions, kv.dtype());
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

Result<DeviceProfile> measure_backend(Backend& backend, MemoryLedger& ledger,
                                      const MeasureOptions& options) {
  return Measurer(backend, ledger, options).run();
}

}  // namespace impetus

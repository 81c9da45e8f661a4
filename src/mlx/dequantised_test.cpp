// Products with matrices that are dequantised first: from how many rows on, by a clock of the
// test's, in whole models, and the memory for them.
#include "mlx/dequantised.h"

#include <array>
#include <cmath>
#include <limits>

#include "mlx/decoder.h"
#include "mlx/kernel_check.h"
#include "mlx/test_support.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::all_logits;
using conformance::blocks_from;
using conformance::decoder_spec;
using conformance::f32_options;
using conformance::load_decoder_on;
using conformance::random_tokens;
using testing::RandomModel;
using testing::RandomModelBuilder;
using RunAhead = MlxOptions::RunAhead;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::unique_ptr<Backend> backend(MlxOptions options) {
  return std::move(*make_mlx_backend(options));
}

// Three layers of 7 matrices each, with biases; `mixed`: every other one in Q4_0.
RandomModel small_model(bool mixed = false) {
  ModelSpec spec = decoder_spec("qwen2");
  spec.layers = 3;
  RandomModelBuilder builder(spec, 17, DType::q8_0);
  if (mixed) builder.mix_with(DType::q4_0);
  return builder.decoder();
}

// The largest difference relative to the largest value, as apart().
double difference(const std::vector<float>& made, const std::vector<float>& wanted) {
  EXPECT_EQ(made.size(), wanted.size());
  if (made.size() != wanted.size()) return kNaN;
  double largest = 0, worst = 0;
  for (size_t i = 0; i < made.size(); ++i) {
    const auto one = static_cast<double>(made[i]), other = static_cast<double>(wanted[i]);
    if (std::isnan(one)) return kNaN;
    largest = std::max(largest, std::fabs(other));
    worst = std::max(worst, std::fabs(one - other));
  }
  return worst / largest;
}

// Of buffers that MLX may keep.
size_t cache_limit() {
  const Turn turn(true);
  const size_t limit = mx::set_cache_limit(0);
  mx::set_cache_limit(limit);
  return limit;
}

// What a ledger holds for dequantised matrices.
int64_t reserved_in(const MemoryLedger& ledger) {
  int64_t bytes = 0;
  for (const auto& entry : ledger.entries()) {
    if (entry.purpose.find("dequantised") != std::string::npos) bytes += entry.bytes;
  }
  return bytes;
}

Matrix small_matrix() {
  std::mt19937 random(3);
  const auto packed = mx::quantize(random_rows(random, {48, 64}, mx::float32), 32, 4);
  Matrix matrix;
  matrix.weight = packed[0];
  matrix.scales = packed[1];
  matrix.biases = packed[2];
  matrix.bits = 4;
  matrix.group = 32;
  return matrix;
}

constexpr int kTurns = 5;  // how often each product is timed

TEST(MlxDequantised, FromAsManyRowsAsItWasFaster) {
  const Turn turn(true);
  Matrix matrix = small_matrix();
  struct Case {
    // Of 512, 384, 256 and 128 rows, in times of the product of codes.
    std::array<double, 4> took;
    int64_t rows_max, from;
    std::vector<int64_t> timed;
  };
  const Case cases[] = {
      {{0.3, 0.3, 0.4, 0.6}, 512, 128, {512, 384, 256, 128}},
      {{0.3, 0.3, 0.8, 1.2}, 512, 256, {512, 384, 256, 128}},
      {{0.3, 0.3, 1.1, 0.5}, 4096, 384, {512, 384, 256}},  // what is faster again is not believed
      {{0.3, 1.1, 0.5, 0.5}, 512, 512, {512, 384}},
      {{1.1, 0.5, 0.5, 0.5}, 512, 0, {512}},
      {{1.0, 1.0, 1.0, 1.0}, 512, 0, {512}},   // a tie
      {{0.95, 0.9, 0.5, 0.5}, 512, 0, {512}},  // may be chance
      {{0.9, 0.9, 0.9, 0.9}, 512, 128, {512, 384, 256, 128}},
      {{kNaN, 0.5, 0.5, 0.5}, 512, 0, {512}},
      {{0.3, 0.3, 0.4, 0.6}, 511, 128, {384, 256, 128}},
      {{0.3, 0.3, 0.4, 0.6}, 256, 128, {256, 128}},
      {{0.3, 0.3, 0.4, 0.6}, 127, 0, {}},
  };
  for (const Case& one : cases) {
    std::vector<int64_t> timed;
    int products = 0;
    const auto seconds = [&](int64_t rows, bool dequantised, const std::function<void()>& product) {
      product();
      EXPECT_EQ(dequantised, products++ % 2 == 0) << "not by turns";
      if (!dequantised) return 1.0;
      if (timed.empty() || timed.back() != rows) timed.push_back(rows);
      return one.took[static_cast<size_t>(4 - rows / 128)];
    };
    const DequantisedChoice made = dequantised_choice(matrix, mx::float32, one.rows_max, seconds);
    EXPECT_EQ(made.from, one.from);
    EXPECT_EQ(timed, one.timed);
    EXPECT_EQ(products, 2 * kTurns * std::ssize(one.timed));
    EXPECT_LE(made.error, 1e-5);
  }
  int calls = 0;
  EXPECT_GE(product_seconds(512, true, [&] { ++calls; }), 0);
  EXPECT_EQ(calls, 1);
  // A product that is wrong is not the faster one.
  matrix.biases = mx::multiply(*matrix.biases, mx::array(kNaN, mx::float32));
  EXPECT_TRUE(std::isnan(
      dequantised_choice(matrix, mx::float32, 512, [](auto&&...) { return 1.0; }).error));
}

// A host that is slow for a while, whenever that is, changes nothing.
TEST(MlxDequantised, ASlowSpellChoosesNothing) {
  const Turn turn(true);
  const Matrix matrix = small_matrix();
  constexpr int kSpell = 8;  // of products
  for (const double faster : {0.5, 1.5}) {
    for (int begin = 0; begin < 2 * kTurns; ++begin) {
      int products = 0;
      const auto seconds = [&](int64_t, bool dequantised, const std::function<void()>&) {
        const int at = products++;
        const double slow = at >= begin && at < begin + kSpell ? 10 : 1;
        return slow * (dequantised ? faster : 1.0);
      };
      EXPECT_EQ(dequantised_choice(matrix, mx::float32, 128, seconds).from, faster < 1 ? 128 : 0)
          << begin;
    }
  }
}

TEST(MlxDequantised, APromptsLogitsAreThoseOfCodes) {
  const RandomModel model = small_model();
  std::mt19937_64 random(5);
  const auto tokens = random_tokens(random, 37, 101);
  for (const bool as_gpu : {false, true}) {
    const auto run = [&](int64_t from) {
      const auto loaded =
          load_decoder_on(backend({.cpu = true, .as_gpu = as_gpu, .dequantised_from = from}),
                          model.spec, *model.weights);
      const auto logits = all_logits(*loaded.model, tokens);
      return std::pair(logits, counters_of(*loaded.model));
    };
    const auto [wanted, none] = run(0);
    const auto [made, all] = run(1);
    const auto [others, fewer] = run(38);
    EXPECT_EQ(none.dequantised, 0);
    EXPECT_EQ(all.dequantised, 3 * 7);  // the head's 37 rows are none of them
    EXPECT_EQ(all.kv_copies, 0);
    EXPECT_LE(difference(made, wanted), 1e-4);
    EXPECT_EQ(fewer.dequantised, 0);
    EXPECT_EQ(others, wanted);
  }
}

// Prompts beside sequences that decode, with and without kernels of our own.
TEST(MlxDequantised, PromptsAndDecodesInOneStep) {
  const RandomModel model = small_model();
  std::mt19937_64 random(6);
  std::vector<std::vector<TokenId>> prompts;
  for (const size_t length : {21, 9, 40, 33}) prompts.push_back(random_tokens(random, length, 101));
  const auto run = [&](MlxOptions options, int64_t from, DType kv) {
    options.dequantised_from = from;
    LoadOptions load = f32_options();
    load.kv = kv;
    const auto loaded = load_decoder_on(backend(options), model.spec, *model.weights, load);
    const auto step = [&](std::initializer_list<std::pair<size_t, size_t>> parts) {
      std::vector<std::vector<BlockId>> blocks;
      std::vector<SequenceStep> batch(parts.size());
      for (const auto& [s, _] : parts) blocks.push_back(blocks_from(static_cast<int>(s) * 8, 64));
      for (size_t i = 0; i < parts.size(); ++i) {
        const auto [s, position] = parts.begin()[i];
        batch[i].tokens = std::span(prompts[s]).subspan(position);
        if (position == 0 && s < 2) batch[i].tokens = batch[i].tokens.first(prompts[s].size() - 1);
        batch[i].position = static_cast<int64_t>(position);
        batch[i].blocks = blocks[i];
        batch[i].output = StepOutput::logits_last;
      }
      std::vector<float> logits;
      auto results = loaded.model->execute(batch);
      EXPECT_TRUE(results.ok());
      for (const auto& result : *results) {
        logits.insert(logits.end(), result.logits.begin(), result.logits.end());
      }
      return logits;
    };
    auto logits = step({{0, 0}, {1, 0}});
    const auto mixed = step({{0, 20}, {2, 0}, {1, 8}, {3, 0}});
    logits.insert(logits.end(), mixed.begin(), mixed.end());
    return std::pair(logits, counters_of(*loaded.model));
  };
  const MlxOptions plain{.run_ahead = RunAhead::off, .cpu = true, .as_gpu = true};
  const auto [wanted, none] = run(plain, 0, DType::f32);
  EXPECT_EQ(none.dequantised, 0);
  const auto [made, all] = run(plain, 1, DType::f32);
  EXPECT_EQ(all.dequantised, 2 * 3 * 7);
  EXPECT_EQ(all.kv_copies, 0);
  EXPECT_LE(difference(made, wanted), 1e-4);
#if defined(__linux__) && !defined(IMPETUS_SANITIZED)
  if (Wall::get().has_gpu()) return;  // kernels on the host
  // Keys and values in f16, as the kernel of prompts' attention takes them.
  const auto [of_codes, own] = run(with_host_kernels(), 0, DType::f16);
  const auto [by_kernels, all_own] = run(with_host_kernels(), 1, DType::f16);
  EXPECT_EQ(own.dequantised, 0);
  EXPECT_EQ(all_own.dequantised, 2 * 3 * 4);  // of the second step the prompts' part; joined
  EXPECT_EQ(all_own.own_places, 2);
  EXPECT_EQ(all_own.kv_copies, 0);
  EXPECT_LE(difference(by_kernels, of_codes), 2e-3);
#endif
}

// Steps of one row each are built while the device computes: nothing waits there.
TEST(MlxDequantised, StepsOfOneRowEachTakeCodes) {
  const RandomModel model = small_model();
  std::mt19937_64 random(7);
  std::vector<std::vector<TokenId>> prompts;
  for (const size_t length : {5, 17, 3}) prompts.push_back(random_tokens(random, length, 101));
  const auto run = [&](RunAhead ahead, int64_t from) {
    const auto loaded = load_decoder_on(
        backend({.run_ahead = ahead, .cpu = true, .as_gpu = true, .dequantised_from = from}),
        model.spec, *model.weights);
    std::vector<std::vector<BlockId>> blocks;
    for (int i = 0; i < 3; ++i) blocks.push_back(blocks_from(i * 8, 64));
    const auto sequences = side_by_side(*loaded.model, prompts, blocks, 30);
    return std::pair(sequences, counters_of(*loaded.model));
  };
  const auto [wanted, plain] = run(RunAhead::off, 0);
  for (const RunAhead ahead : {RunAhead::off, RunAhead::on}) {
    const auto [tokens, counters] = run(ahead, 1);
    EXPECT_EQ(tokens, wanted);
    EXPECT_EQ(counters.dequantised, 3 * 7);  // the prompts'
    EXPECT_EQ(counters.kv_copies, 0);
    EXPECT_EQ(counters.ahead_used, ahead == RunAhead::on ? 28 : 0);
    EXPECT_EQ(counters.ahead_dropped, 0);
  }
}

// Each form of matrices by its own times, and memory for those alone that are dequantised.
TEST(MlxDequantised, AModelIsTimedWhenItIsLoaded) {
  const RandomModel model = small_model(true);
  std::mt19937_64 random(8);
  const auto tokens = random_tokens(random, 200, 101);
  // Matrices alternate: of 7 a layer, the first and last layer have 3 of 4 bits, and the second 4,
  // which are more elements: q, v, gate, down.
  const int64_t hidden = 64, wide = 96, keys = 32;
  const int64_t four_of_second = hidden * hidden + hidden * keys + 2 * hidden * wide;
  const int64_t all = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * wide;
  const auto run = [&](auto&& faster, int64_t dequantised, int64_t elements) {
    std::vector<std::pair<int64_t, bool>> asked;
    int calls = 0;
    MlxOptions options{.cpu = true, .as_gpu = true};
    const size_t cached = cache_limit();
    options.product_seconds = [&](int64_t rows, bool first, const std::function<void()>& product) {
      product();
      ++calls;
      asked.emplace_back(rows, first);
      // As prompts have it: the largest matrix's memory may be kept.
      EXPECT_EQ(cache_limit(), cached + static_cast<size_t>(hidden * wide * 4));
      return !first || !faster(rows, calls) ? 1.0 : 0.5;
    };
    const auto loaded = load_decoder_on(backend(options), model.spec, *model.weights);
    EXPECT_EQ(counters_of(*loaded.model).dequantised, 0);  // loading is none of its steps
    EXPECT_EQ(reserved_in(*loaded.ledger), 3 * elements * 4);
    EXPECT_EQ(cache_limit(), cached + static_cast<size_t>(3 * elements * 4));
    const auto logits = all_logits(*loaded.model, tokens);
    EXPECT_EQ(counters_of(*loaded.model).dequantised, dequantised);
    all_logits(*loaded.model, std::span(tokens).first(127));
    EXPECT_EQ(counters_of(*loaded.model).dequantised, dequantised);
    return std::pair(logits, asked);
  };
  const auto by_turns = [](std::initializer_list<int64_t> each) {
    std::vector<std::pair<int64_t, bool>> asked;
    for (const int64_t rows : each) {
      for (int i = 0; i < kTurns; ++i) asked.insert(asked.end(), {{rows, true}, {rows, false}});
    }
    return asked;
  };
  const auto [wanted, once] = run([](int64_t, int) { return false; }, 0, 0);
  EXPECT_EQ(once, by_turns({256, 256}));
  // 4 bits are timed before 8.
  const Logged logged;
  const auto [some, asked] =
      run([](int64_t, int call) { return call <= 4 * kTurns; }, 3 + 4 + 3, four_of_second);
  EXPECT_EQ(asked, by_turns({256, 128, 256}));
  EXPECT_EQ(logged.count("4 bits in groups of 32 (affine) are dequantised from 128 rows on"), 1);
  EXPECT_EQ(logged.count("8 bits in groups of 32 (affine) are dequantised never"), 1);
  EXPECT_LE(difference(some, wanted), 1e-4);
  const auto [each, more] = run([](int64_t, int) { return true; }, 3 * 7, all);
  EXPECT_LE(difference(each, wanted), 1e-4);
  run([](int64_t rows, int) { return rows == 256; }, 0, all);  // from 256 on, for prompts of 200
}

TEST(MlxDequantised, WithoutRoomPromptsTakeCodes) {
  const RandomModel model = small_model();
  std::mt19937_64 random(9);
  const auto tokens = random_tokens(random, 200, 101);
  MlxOptions options{.cpu = true, .as_gpu = true};
  int timed = 0;
  std::function<void()> meanwhile;
  options.product_seconds = [&](int64_t, bool first, const std::function<void()>& product) {
    product();
    ++timed;
    if (meanwhile) meanwhile();
    return first ? 0.5 : 1.0;
  };
  const auto made = backend(options);
  MemoryLedger roomy(int64_t{1} << 32);
  std::vector<float> wanted;
  int64_t used = 0, wanted_for_it = 0;
  {
    const auto loaded = made->load_decoder(model.spec, *model.weights, f32_options(), roomy);
    ASSERT_TRUE(loaded.ok());
    wanted = all_logits(**loaded, tokens);
    EXPECT_GT(counters_of(**loaded).dequantised, 0);
    wanted_for_it = reserved_in(roomy);
    used = roomy.used_bytes() - wanted_for_it;
    EXPECT_GT(wanted_for_it, 0);
  }
  EXPECT_EQ(roomy.used_bytes(), 0);
  // Beside the model just four times what it would dequantise; less; less than four matrices; none.
  for (const int64_t beside : {4 * wanted_for_it, 4 * wanted_for_it - 1, wanted_for_it,
                               int64_t{4 * 64 * 96 * 4 - 1}, int64_t{0}}) {
    timed = 0;
    MemoryLedger tight(used + beside);
    const Logged logged;
    const auto loaded = made->load_decoder(model.spec, *model.weights, f32_options(), tight);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    const bool room = beside == 4 * wanted_for_it;
    EXPECT_EQ(tight.used_bytes(), room ? used + wanted_for_it : used);
    EXPECT_EQ(timed > 0, beside >= 4 * 64 * 96 * 4);
    EXPECT_EQ(logged.count("prompts may be slower"), room ? 0 : 1);
    EXPECT_LE(difference(all_logits(**loaded, tokens), wanted), 1e-4);
    EXPECT_EQ(counters_of(**loaded).dequantised > 0, room);
  }
  // Steps of too few rows: nothing to be told of.
  {
    timed = 0;
    MemoryLedger tight(used);
    const Logged logged;
    LoadOptions few = f32_options();
    few.step_tokens_max = 127;
    const auto loaded = made->load_decoder(model.spec, *model.weights, few, tight);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_EQ(timed, 0);
    EXPECT_EQ(logged.text(), "");
  }
  // Room that goes when the first form is chosen: neither the next one nor the first has any, and
  // that is said once.
  {
    const RandomModel mixed = small_model(true);
    MemoryLedger ledger(int64_t{1} << 30);
    Reservation others;
    timed = 0;
    meanwhile = [&] {
      if (others.bytes() == 0) others = std::move(*ledger.reserve(ledger.free_bytes(), "another"));
    };
    const Logged logged;
    const auto loaded = made->load_decoder(mixed.spec, *mixed.weights, f32_options(), ledger);
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    EXPECT_EQ(timed, 2 * 2 * kTurns);
    EXPECT_EQ(logged.count("prompts may be slower"), 1);
    EXPECT_EQ(reserved_in(ledger), 0);
  }
}

// A prompt of as many rows as matrices are dequantised for, while a model is loaded.
TEST(MlxDequantised, LoadingRunsAPromptOfThem) {
  const RandomModel model = small_model(true);
  struct Case {
    int64_t eight, four;  // bits: dequantised from so many rows on; 0: never
    int64_t kv_tokens, rows;
  };
  for (const Case& one : {Case{128, 128, 2048, 128},
                          {0, 128, 2048, 128},
                          {256, 128, 2048, 256},
                          {256, 128, 255, 256},  // whole blocks
                          {256, 128, 240, 128},  // as far as the pool goes
                          {256, 128, 100, 0},
                          {0, 0, 2048, 0}}) {
    int layers = 0, calls = 0;
    MlxOptions options{.cpu = true, .as_gpu = true};
    options.product_seconds = [&](int64_t rows, bool first, const std::function<void()>& product) {
      product();
      ++calls;
      // 4 bits are timed before 8.
      const bool four = calls <= 2 * kTurns * (one.four == 128 ? 2 : 1);
      const int64_t from = four ? one.four : one.eight;
      return first && from > 0 && rows >= from ? 0.5 : 1.0;
    };
    options.fault = [&](std::string_view where) { layers += where == "layer"; };
    LoadOptions load = f32_options();
    load.kv_tokens = one.kv_tokens;
    const Logged logged;
    const auto loaded = load_decoder_on(backend(options), model.spec, *model.weights, load);
    EXPECT_EQ(layers, one.rows > 0 ? 3 : 0);
    EXPECT_EQ(logged.count("ran a prompt"), one.rows > 0 ? 1 : 0);
    EXPECT_EQ(logged.count(fmt::format("ran a prompt of {} rows", one.rows)), one.rows > 0 ? 1 : 0);
    EXPECT_EQ(counters_of(*loaded.model).dequantised, 0);
    EXPECT_EQ(counters_of(*loaded.model).kv_copies, 0);
  }
}

// What stands dequantised is at most what was reserved for it.
TEST(MlxDequantised, NoMoreStandsThanWasReserved) {
  ModelSpec spec = decoder_spec("llama");
  spec.layers = 6;
  spec.hidden = 256;
  spec.feed_forward = 1024;
  const RandomModel model = RandomModelBuilder(spec, 18, DType::q8_0).decoder();
  std::mt19937_64 random(11);
  const auto tokens = random_tokens(random, 16, 101);
  const auto peak = [&](int64_t from) {
    const auto loaded =
        load_decoder_on(backend({.cpu = true, .as_gpu = true, .dequantised_from = from}),
                        model.spec, *model.weights);
    all_logits(*loaded.model, tokens);
    const auto before = static_cast<int64_t>(mx::get_active_memory());
    mx::reset_peak_memory();
    all_logits(*loaded.model, tokens);
    return std::pair(static_cast<int64_t>(mx::get_peak_memory()) - before,
                     reserved_in(*loaded.ledger));
  };
  const auto [of_codes, none] = peak(0);
  const auto [dequantised, reserved] = peak(1);
  EXPECT_EQ(none, 0);
  EXPECT_LE(dequantised, of_codes + reserved);
  EXPECT_GT(dequantised, reserved / 3);  // a layer's
}

// A layer that fails after others were enqueued: these end before what they read goes.
TEST(MlxDequantised, AFailureBetweenLayersIsAnError) {
  const RandomModel model = small_model();
  std::mt19937_64 random(10);
  const auto tokens = random_tokens(random, 60, 101);
  int layers = 0, fails = 0;
  std::optional<mx::array> slow;  // stands in line behind the layers before
  MlxOptions options{.cpu = true, .as_gpu = true, .dequantised_from = 16};
  options.fault = [&](std::string_view where) {
    if (where != "layer" || ++layers != fails) return;
    const mx::array large = mx::ones({512, 512});
    slow = mx::matmul(mx::matmul(large, large), large);
    mx::async_eval({*slow});
    throw std::runtime_error("[matmul] a layer");
  };
  const auto loaded = load_decoder_on(backend(options), model.spec, *model.weights);
  EXPECT_EQ(layers, 3);  // of a prompt while it was loaded
  layers = 0;
  const auto wanted = all_logits(*loaded.model, tokens);
  EXPECT_EQ(layers, 3);
  for (fails = 1; fails <= 3; ++fails) {
    layers = 0;
    const auto blocks = blocks_from(0, 60);
    const SequenceStep step{tokens, 0, blocks, StepOutput::logits_all, nullptr, {}};
    const auto failed = loaded.model->execute({&step, 1});
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code, ErrorCode::internal);
    EXPECT_NE(failed.error().message.find("a layer"), std::string::npos);
    if (fails > 1 && !Wall::get().has_gpu()) EXPECT_TRUE(slow->is_available());
    layers = 100;
    EXPECT_EQ(all_logits(*loaded.model, tokens), wanted);
    const Turn turn(true);
    slow.reset();
  }
}

TEST(MlxDequantised, WhatCannotBeTimedTakesCodes) {
  const RandomModel model = small_model();
  std::mt19937_64 random(12);
  MlxOptions options{.cpu = true, .as_gpu = true};
  options.product_seconds = [](auto&&...) -> double { throw std::runtime_error("no clock"); };
  const auto loaded = load_decoder_on(backend(options), model.spec, *model.weights);
  EXPECT_EQ(reserved_in(*loaded.ledger), 0);
  all_logits(*loaded.model, random_tokens(random, 200, 101));
  EXPECT_EQ(counters_of(*loaded.model).dequantised, 0);
}

}  // namespace
}  // namespace impetus::mlx_backend

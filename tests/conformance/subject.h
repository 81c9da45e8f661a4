// The conformance suite's subject: one backend, whichever. What every backend owes the engine
// (backend/executor.h) is tested in the headers of this folder, once for all of them; a backend's
// folder instantiates the suite with INSTANTIATE_TEST_SUITE_P(Name, Conformance,
// ::testing::Values(...)).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/executor.h"
#include "base/json.h"
#include "tests/support/random_model.h"
#include "tests/support/reference_forward.h"
#include "tests/support/test_data.h"

namespace impetus::conformance {

using testing::RandomModel;
using testing::RandomModelBuilder;
using testing::ReferenceForward;

struct Subject {
  std::string name;
  std::function<std::unique_ptr<Backend>(int threads)> make;
  std::vector<int> threads = {1};
  // Activations have the weights' type, where that is narrower than f32.
  bool narrow_activations = false;
  // Another backend, to hand KV to and take it back from.
  std::function<std::unique_ptr<Backend>()> partner;
};
inline void PrintTo(const Subject& subject, std::ostream* out) {
  *out << subject.name;
}

class Conformance : public ::testing::TestWithParam<Subject> {};
// The suite lives in headers: a folder may take a part of it.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Conformance);

// A loaded model with the ledger its memory is counted in.
template <typename T>
struct Loaded {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<MemoryLedger> ledger = std::make_unique<MemoryLedger>(int64_t{8} << 30);
  std::unique_ptr<T> model;
  T* operator->() const { return model.get(); }
};

inline LoadOptions f32_options() {
  LoadOptions options;
  options.kv = DType::f32;
  options.kv_tokens = 2048;
  options.step_tokens_max = 256;
  return options;
}

inline Loaded<Executor> load_decoder_on(std::unique_ptr<Backend> backend, const ModelSpec& spec,
                                        const WeightSet& weights,
                                        LoadOptions options = f32_options()) {
  Loaded<Executor> loaded;
  loaded.backend = std::move(backend);
  auto made = loaded.backend->load_decoder(spec, weights, options, *loaded.ledger);
  EXPECT_TRUE(made.ok()) << made.error().message;
  if (made.ok()) loaded.model = std::move(*made);
  return loaded;
}

inline Loaded<Encoder> load_encoder_on(std::unique_ptr<Backend> backend, const ModelSpec& spec,
                                       const WeightSet& weights,
                                       LoadOptions options = f32_options()) {
  Loaded<Encoder> loaded;
  loaded.backend = std::move(backend);
  auto made = loaded.backend->load_encoder(spec, weights, options, *loaded.ledger);
  EXPECT_TRUE(made.ok()) << made.error().message;
  if (made.ok()) loaded.model = std::move(*made);
  return loaded;
}

inline std::vector<BlockId> blocks_from(BlockId first, int64_t positions) {
  std::vector<BlockId> blocks;
  for (int64_t p = 0; p < positions; p += 16) blocks.push_back(first++);
  return blocks;
}

// Logits of every position, in one step.
inline std::vector<float> all_logits(Executor& executor, std::span<const TokenId> tokens) {
  const auto blocks = blocks_from(0, static_cast<int64_t>(tokens.size()));
  const SequenceStep step{tokens, 0, blocks, StepOutput::logits_all, nullptr, {}};
  auto results = executor.execute({&step, 1});
  EXPECT_TRUE(results.ok()) << results.error().message;
  if (!results.ok()) return {};
  EXPECT_TRUE((*results)[0].token.ok());
  return std::move((*results)[0].logits);
}

// Greedy ids, prompt included, until there are `total`.
inline std::vector<TokenId> greedy(Executor& executor, std::vector<TokenId> tokens, size_t total,
                                   BlockId first_block = 3) {
  SamplingParams params;
  params.temperature = 0;
  const auto blocks = blocks_from(first_block, static_cast<int64_t>(total));
  size_t position = 0;
  while (tokens.size() < total) {
    const SequenceStep step{std::span(tokens).subspan(position),
                            static_cast<int64_t>(position),
                            blocks,
                            StepOutput::sample,
                            &params,
                            {tokens, {}, static_cast<int64_t>(tokens.size()), nullptr}};
    position = tokens.size();
    auto results = executor.execute({&step, 1});
    if (!results.ok() || !(*results)[0].token.ok()) {
      ADD_FAILURE() << (results.ok() ? (*results)[0].token.error().message
                                     : results.error().message);
      return tokens;
    }
    tokens.push_back((*results)[0].token->id);
  }
  return tokens;
}

inline std::vector<TokenId> random_tokens(std::mt19937_64& random, size_t count, int64_t vocab) {
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens)
    token = static_cast<TokenId>(random() % static_cast<uint64_t>(vocab));
  return tokens;
}

inline std::vector<TokenId> token_list(const json::value& value) {
  std::vector<TokenId> tokens;
  for (const auto& id : value.as_array())
    tokens.push_back(static_cast<TokenId>(id.to_number<int64_t>()));
  return tokens;
}

inline ModelSpec decoder_spec(const std::string& family) {
  ModelSpec spec;
  spec.family = family;
  spec.layers = 2;
  spec.hidden = 64;
  spec.heads = 4;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.feed_forward = 96;
  spec.vocab = 101;
  spec.context = 512;
  spec.qkv_bias = family == "qwen2";
  spec.qk_norm = family == "qwen3";
  if (family == "llama") spec.rope_pairs = RopePairs::neighbours;
  return spec;
}

inline ModelSpec encoder_spec(const std::string& family) {
  ModelSpec spec;
  spec.family = family;
  spec.kind = ModelKind::encoder;
  spec.layers = 2;
  spec.hidden = 64;
  spec.heads = spec.kv_heads = 4;
  spec.head_dim = 16;
  spec.feed_forward = 160;
  spec.vocab = 101;
  spec.context = 128;
  spec.norm_eps = 1e-12f;
  spec.activation = Activation::gelu_erf;
  spec.token_types = family == "bert" ? 2 : 0;
  spec.pooling = Pooling::mean;
  spec.normalize = true;
  return spec;
}

inline constexpr DType kWeightTypes[] = {DType::f32, DType::f16, DType::bf16, DType::q8_0,
                                         DType::q4_0};

// Half the distance of 1 to the next value that the type holds; quantised weights are multiplied in
// f16 at worst.
inline double rounding_of(DType type) {
  if (type == DType::f32) return 0x1p-24;
  return type == DType::bf16 ? 0x1p-9 : 0x1p-12;
}

// Equal rows: bit for bit where the backend promises it. Elsewhere sums are cut elsewhere, so that
// single roundings of activations and of keys and values differ; each of the few dozen on a value's
// way may be one unit of its type off, and their errors add like a random walk (times 8), on the
// scale of the largest value.
inline void expect_same(const Backend& backend, DType weights, DType kv,
                        std::span<const float> wanted, std::span<const float> got,
                        const std::string& what) {
  ASSERT_EQ(wanted.size(), got.size()) << what;
  if (backend.descriptor().batch_invariant) {
    EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), got.begin())) << what;
    return;
  }
  double largest = 1, worst = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto w = static_cast<double>(wanted[i]);
    largest = std::max(largest, std::fabs(w));
    worst = std::max(worst, std::fabs(w - static_cast<double>(got[i])));
  }
  const double unit = 2 * std::max(rounding_of(weights), rounding_of(kv));
  EXPECT_LE(worst, 8 * 6 * unit * largest) << what;
}

// Largest difference of two sets of rows; infinite where one is not a number.
inline double distance(const testing::Matrix& wanted, std::span<const float> got) {
  double worst = 0;
  size_t i = 0;
  for (const auto& row : wanted) {
    for (const double value : row) {
      const double d = std::fabs(value - static_cast<double>(got[i++]));
      worst = std::isnan(d) ? INFINITY : std::max(worst, d);
    }
  }
  EXPECT_EQ(i, got.size());
  return worst;
}

}  // namespace impetus::conformance

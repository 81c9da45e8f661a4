// What the tests of this folder share: loading, running a sequence, and the machines to run on.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "cpu/cpu_backend.h"
#include "cpu/kernels/kernels.h"
#include "formats/gguf.h"
#include "tests/support/random_model.h"
#include "tests/support/reference_forward.h"
#include "tests/support/test_data.h"

namespace impetus::cpu {

inline std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  const KernelTables tables = supported_kernels();
  for (int i = 0; i < tables.count; ++i) names.emplace_back(tables.tables[i]->name);
  return names;
}

inline std::unique_ptr<Backend> backend_of(const std::string& isa, int threads) {
  auto made = make_cpu_backend({threads, isa});
  EXPECT_TRUE(made.ok()) << made.error().message;
  return std::move(*made);
}

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

inline Loaded<Executor> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                     const std::string& isa, int threads,
                                     LoadOptions options = f32_options()) {
  Loaded<Executor> loaded;
  loaded.backend = backend_of(isa, threads);
  auto made = loaded.backend->load_decoder(spec, weights, options, *loaded.ledger);
  EXPECT_TRUE(made.ok()) << made.error().message;
  if (made.ok()) loaded.model = std::move(*made);
  return loaded;
}

inline Loaded<Encoder> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                    const std::string& isa, int threads,
                                    LoadOptions options = f32_options()) {
  Loaded<Encoder> loaded;
  loaded.backend = backend_of(isa, threads);
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
inline std::vector<TokenId> greedy(Executor& executor, std::vector<TokenId> tokens, size_t total) {
  SamplingParams params;
  params.temperature = 0;
  const auto blocks = blocks_from(3, static_cast<int64_t>(total));
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

}  // namespace impetus::cpu

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
#include "tests/conformance/subject.h"
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

using conformance::all_logits;
using conformance::blocks_from;
using conformance::decoder_spec;
using conformance::f32_options;
using conformance::greedy;
using conformance::Loaded;
using conformance::random_tokens;
using conformance::token_list;

inline Loaded<Executor> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                     const std::string& isa, int threads,
                                     LoadOptions options = f32_options()) {
  return conformance::load_decoder_on(backend_of(isa, threads), spec, weights, options);
}

inline Loaded<Encoder> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                    const std::string& isa, int threads,
                                    LoadOptions options = f32_options()) {
  return conformance::load_encoder_on(backend_of(isa, threads), spec, weights, options);
}

}  // namespace impetus::cpu

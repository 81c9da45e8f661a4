// Rows looked up in the model's own bytes, beside tables decoded as wholes.
#include "coreml/host_embeddings.h"

#include <gtest/gtest.h>

#include <random>

#include "coreml/test_support.h"

namespace impetus::coreml {
namespace {

std::vector<float> decoded(const NamedTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.view.shape.elements()));
  dequantize(tensor.view.dtype, tensor.view.data.data(), tensor.view.shape.elements(),
             values.data());
  return values;
}

struct Twin {
  std::vector<Tensor> storage;
  std::unique_ptr<WeightSet> weights;
};

Twin with_tables_of(const WeightSet& weights, DType type) {
  Twin twin;
  std::vector<NamedTensor> tensors;
  for (const NamedTensor& tensor : weights.tensors()) {
    if (tensor.name.find("_embeddings") == std::string::npos) {
      tensors.push_back(tensor);
      continue;
    }
    auto table = convert(tensor.view, type);
    EXPECT_TRUE(table.ok());
    twin.storage.push_back(std::move(*table));
    tensors.push_back({tensor.name, twin.storage.back().view(), 0});
  }
  EXPECT_GE(twin.storage.size(), 2u);
  auto built = WeightSet::build({}, std::move(tensors), {}, "tables");
  EXPECT_TRUE(built.ok());
  twin.weights = std::make_unique<WeightSet>(std::move(*built));
  return twin;
}

TEST(HostEmbeddings, SumsInF32WhateverTypeTheTablesHave) {
  std::mt19937_64 random(21);
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::q8_0}) {
    for (const char* family : {"bert", "distilbert"}) {
      const auto model = testing::random_encoder(testing::small_spec(family), 22);
      const ModelSpec& spec = model.spec;
      const auto twin = with_tables_of(*model.weights, type);
      const auto tensors = resolve_encoder(spec, *twin.weights);
      const auto host = HostEmbeddings::load(spec, *twin.weights);
      ASSERT_TRUE(tensors.ok() && host.ok());
      const auto tokens = decoded(*tensors->token_embedding);
      const auto positions = decoded(*tensors->position_embedding);
      const bool typed = tensors->type_embedding != nullptr;
      const auto types = typed ? decoded(*tensors->type_embedding) : std::vector<float>();
      for (const int64_t count : {int64_t{1}, int64_t{7}, spec.context}) {
        const int64_t padded = count + static_cast<int64_t>(random() % 5);
        std::vector<TokenId> ids;
        std::vector<int32_t> kinds;
        for (int64_t s = 0; s < count; ++s) {
          ids.push_back(static_cast<TokenId>(random() % static_cast<uint64_t>(spec.vocab)));
          kinds.push_back(typed ? static_cast<int32_t>(random() % 2) : 0);
        }
        const auto got = host->lookup(ids, kinds, padded);
        ASSERT_TRUE(got.ok()) << got.error().message;
        for (int64_t h = 0; h < spec.hidden; ++h) {
          for (int64_t s = 0; s < padded; ++s) {
            float wanted = 0;
            if (s < count) {
              const auto i = static_cast<size_t>(s);
              wanted = tokens[static_cast<size_t>(ids[i] * spec.hidden + h)];
              if (typed) wanted += types[static_cast<size_t>(kinds[i] * spec.hidden + h)];
              wanted += positions[static_cast<size_t>(s * spec.hidden + h)];
            }
            ASSERT_EQ((*got)[static_cast<size_t>(h * padded + s)], wanted)
                << family << " " << to_string(type) << " " << h << " " << s;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace impetus::coreml

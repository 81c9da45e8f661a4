// Texts that are too long for the first processor's programs: who takes them, and who is named.
#include "runtime/embedding_lanes.h"

#include <future>

#include <gtest/gtest.h>

#include "backend/fake.h"
#include "runtime/runtime.h"

namespace impetus {
namespace {

using Names = std::vector<std::string>;

constexpr int64_t kShort = 8;

class LongerTexts : public ::testing::Test {
 protected:
  // The fakes "short" (8 tokens a text), "middle" (64) and "long" (all), on the model's own files.
  Result<ModelInfo> load(Names embeddings, Fallback fallback = Fallback::warn) {
    std::vector<std::unique_ptr<Backend>> backends;
    for (const auto& [name, most] :
         {std::pair{"short", kShort}, {"middle", int64_t{64}}, {"long", int64_t{0}}}) {
      backends.push_back(
          std::make_unique<FakeBackend>(FakeOptions{.text_tokens_max = most, .name = name}));
    }
    RuntimeOptions options;
    options.model_folders = {std::filesystem::path(IMPETUS_SOURCE_DIR) / "models"};
    options.placement.embeddings = std::move(embeddings);
    options.fallback = fallback;
    auto runtime = Runtime::create(std::move(options), std::move(backends));
    EXPECT_TRUE(runtime.ok());
    runtime_ = std::move(*runtime);
    return runtime_->load("impetus-tiny-embed");
  }
  Result<EmbedAnswer> embed(std::vector<std::vector<TokenId>> texts, bool truncate = false) {
    EmbedRequest request;
    request.model = "impetus-tiny-embed";
    request.input = std::move(texts);
    request.truncate = truncate;
    request.normalize = false;
    std::promise<Result<EmbedAnswer>> promise;
    auto answer = promise.get_future();
    auto handle = runtime_->embed(std::move(request), [&](Result<EmbedAnswer> result) {
      promise.set_value(std::move(result));
    });
    if (!handle.ok()) return std::move(handle).error();
    return answer.get();
  }
  static std::vector<TokenId> text(int64_t tokens, TokenId salt) {
    std::vector<TokenId> ids;
    for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<TokenId>((i * 7 + salt) % 100));
    return ids;
  }

  std::unique_ptr<Runtime> runtime_;
};

TEST_F(LongerTexts, GoToTheNextThatTakesThem) {
  const auto info = load({"short", "middle", "long"});
  ASSERT_TRUE(info.ok()) << info.error().message;
  EXPECT_EQ(info->devices.embeddings, (Names{"short", "middle", "long"}));
  EXPECT_EQ(info->context, 256);
  EXPECT_EQ(info->fallback_reason,
            "embeddings of longer texts on middle: short takes texts of at most 8 tokens; "
            "embeddings of longer texts on long: middle takes texts of at most 64 tokens");
  const auto devices = [&](std::vector<int64_t> lengths) {
    std::vector<std::vector<TokenId>> texts;
    for (const int64_t length : lengths) {
      texts.push_back(text(length, static_cast<TokenId>(length)));
    }
    const auto answer = embed(texts);
    EXPECT_TRUE(answer.ok()) << answer.error().message;
    EXPECT_EQ(answer->vectors.size(), texts.size());
    for (size_t t = 0; t < texts.size(); ++t) {
      EXPECT_EQ(answer->vectors[t],
                fake_embedding(texts[t], static_cast<int64_t>(answer->vectors[t].size())))
          << lengths[t];
    }
    return answer->devices.text();
  };
  EXPECT_EQ(devices({3, 8}), "short");
  EXPECT_EQ(devices({9}), "middle");
  EXPECT_EQ(devices({65, 256}), "long");
  EXPECT_EQ(devices({3, 70, 8}), "short, long");
  EXPECT_EQ(devices({200, 9, 1, 64, 65}), "long, middle, short");
  EXPECT_EQ(runtime_->metrics().front().embedded_texts, 2 + 1 + 2 + 3 + 5);
  EXPECT_EQ(embed({text(257, 1)}).error().code, ErrorCode::context_length);
}

TEST_F(LongerTexts, AreRefusedWhereNoOtherIsAllowedOrNamed) {
  for (const auto& [names, fallback, why] :
       {std::tuple{Names{"short", "long"}, Fallback::forbid, "no other processor is allowed"},
        {Names{"short"}, Fallback::warn, "no further processor is named"}}) {
    const auto info = load(names, fallback);
    ASSERT_TRUE(info.ok()) << info.error().message;
    EXPECT_EQ(info->devices.embeddings, Names{"short"});
    EXPECT_EQ(info->context, kShort);
    const auto refused = embed({text(9, 1)});
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::context_length);
    EXPECT_EQ(refused.error().param, "input");
    EXPECT_NE(refused.error().message.find(
                  std::string("short takes texts of at most 8 tokens, and ") + why),
              std::string::npos)
        << refused.error().message;
    const auto cut = embed({text(9, 1)}, true);
    ASSERT_TRUE(cut.ok());
    EXPECT_EQ(cut->devices.text(), "short");
  }
}

TEST_F(LongerTexts, WhoTakesAllIsAlone) {
  const auto info = load({"long", "short"});
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->devices.embeddings, Names{"long"});
  EXPECT_EQ(info->fallback_reason, "");
  // Nor is one asked that takes no longer texts than those before.
  const auto middle = load({"middle", "short", "long"});
  ASSERT_TRUE(middle.ok());
  EXPECT_EQ(middle->devices.embeddings, (Names{"middle", "long"}));
}

TEST(EmbeddingLanes, APartThatFailsFailsTheWholeOnce) {
  DeviceLoop one, other;
  const auto encoder = [](int64_t most, const char* name) {
    return std::make_unique<FakeEncoder>(FakeOptions{.text_tokens_max = most, .name = name});
  };
  auto brief = encoder(4, "brief"), full = encoder(0, "full");
  FakeEncoder& failing = *full;
  EmbeddingLanes lanes;
  lanes.add(std::make_unique<EmbeddingLane>(one, std::move(brief), 100, 1));
  lanes.add(std::make_unique<EmbeddingLane>(other, std::move(full), 2, 1));
  const auto run = [&](std::vector<std::vector<TokenId>> texts) -> Result<EmbeddingLane::Answer> {
    std::promise<Result<EmbeddingLane::Answer>> promise;
    auto answer = promise.get_future();
    EmbeddingLane::Request request;
    request.texts = std::move(texts);
    auto cancel = lanes.submit(std::move(request), [&](auto result) {
      promise.set_value(std::move(result));  // a second time would throw
    });
    if (!cancel.ok()) return std::move(cancel).error();
    return answer.get();
  };
  const std::vector<TokenId> small{1, 2}, large{1, 2, 3, 4, 5, 6};
  failing.fail_next(error(ErrorCode::unavailable, "the device was lost"));
  const auto failed = run({small, large});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::unavailable);
  const auto good = run({large, small});
  ASSERT_TRUE(good.ok()) << good.error().message;
  EXPECT_EQ(good->vectors[0], fake_embedding(large, 8));
  EXPECT_EQ(good->ran_on.size(), 2u);
  // What the second lane does not take at all is an error of the call, and done stays silent.
  const auto refused = run({small, large, large, large});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_TRUE(run({small, large}).ok());
  lanes.close();
  EXPECT_EQ(run({small, large}).error().code, ErrorCode::unavailable);
}

TEST(EmbeddingLanes, ClosingEndsWhatIsSplit) {
  for (int round = 0; round < 20; ++round) {
    DeviceLoop one, other;
    std::atomic<int> ended = 0;
    {
      EmbeddingLanes lanes;
      const auto slow = [](int64_t most) {
        return std::make_unique<FakeEncoder>(
            FakeOptions{.text_tokens_max = most, .step_time = std::chrono::microseconds(200)});
      };
      lanes.add(std::make_unique<EmbeddingLane>(one, slow(4), 1000, 1));
      lanes.add(std::make_unique<EmbeddingLane>(other, slow(0), 1000, 1));
      for (int r = 0; r < 10; ++r) {
        EmbeddingLane::Request request;
        request.texts = {{1, 2}, {1, 2, 3, 4, 5, 6}};
        const auto cancel = lanes.submit(std::move(request), [&](auto) { ++ended; });
        ASSERT_TRUE(cancel.ok());
        if (r % 3 == 0) (*cancel)();
      }
    }
    EXPECT_EQ(ended, 10);
  }
}

}  // namespace
}  // namespace impetus

// The backend over the emulator: what it reserves, and what it does without a cache.
#include "coreml/coreml_backend.h"

#include <gtest/gtest.h>

#include <fstream>

#include <unistd.h>

#include "coreml/test_support.h"

namespace impetus::coreml {
namespace {

namespace fs = std::filesystem;

// Compiles as Apple's does: into the cache's entry.
class CompilingLoader final : public ModelLoader {
 public:
  static constexpr size_t kBytes = 3 << 20;

  std::string_view name() const override { return emulated_->name(); }
  std::string description() const override { return emulated_->description(); }
  bool emulated() const override { return true; }
  std::string environment() const override { return emulated_->environment(); }
  Result<int64_t> bytes_needed(const fs::path& package,
                               const std::string& function) const override {
    return emulated_->bytes_needed(package, function);
  }
  Result<std::unique_ptr<CompiledModel>> load(const fs::path& package, const std::string& function,
                                              const fs::path& cache, ComputeUnits units) override {
    fs::create_directories(cache);
    std::ofstream(cache / "compiled") << std::string(kBytes, 'c');
    return emulated_->load(package, function, cache, units);
  }

 private:
  std::shared_ptr<ModelLoader> emulated_ = make_emulated_loader(1);
};

class CoremlBackendTest : public ::testing::Test {
 protected:
  CoremlBackendTest() {
    std::string name = (fs::temp_directory_path() / "impetus-backend-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    options_.shapes = {8, 16};
    options_.cache = folder_ / "cache";
  }
  ~CoremlBackendTest() override { fs::remove_all(folder_); }

  Result<std::unique_ptr<Encoder>> load(
      std::shared_ptr<ModelLoader> loader = make_emulated_loader(1)) {
    auto backend = make_coreml_backend(std::move(loader), options_);
    EXPECT_TRUE(backend.ok());
    return (*backend)->load_encoder(model_.spec, *model_.weights, {}, ledger_);
  }
  static std::vector<float> encoded(Encoder& encoder) {
    const std::vector<TokenId> tokens{3, 9, 27, 4};
    const std::vector<int32_t> offsets{0, 4};
    const auto done = encoder.encode({tokens, offsets, {}});
    EXPECT_TRUE(done.ok()) << done.error().message;
    return done.ok() ? done->values : std::vector<float>();
  }

  fs::path folder_;
  CoremlOptions options_;
  testing::RandomModel model_ = testing::random_encoder(testing::small_spec(), 31);
  MemoryLedger ledger_{int64_t{1} << 30};
};

TEST_F(CoremlBackendTest, ReservesItsProgramsAndNoCopyOfTheTables) {
  const auto encoder = load();
  ASSERT_TRUE(encoder.ok()) << encoder.error().message;
  const auto entries = ledger_.entries();
  EXPECT_EQ(entries.size(), 2u);
  for (const auto& entry : entries) {
    EXPECT_NE(entry.purpose.find("the program for"), std::string::npos) << entry.purpose;
  }
}

// One package holds the functions of all lengths from macOS 15 on; their weights are decoded once.
TEST_F(CoremlBackendTest, LengthsOfOnePackageShareTheirWeights) {
  const auto reserved = [&](std::vector<int64_t> shapes, int macos) {
    options_.shapes = std::move(shapes);
    options_.macos = macos;
    const auto encoder = load();
    EXPECT_TRUE(encoder.ok());
    return ledger_.used_bytes();
  };
  const int64_t one = reserved({8}, 15), few = reserved({6, 7, 8}, 15);
  EXPECT_LT(few, one + one / 2);
  EXPECT_GT(reserved({6, 7, 8}, 13), 2 * one);  // a package for each length
}

TEST_F(CoremlBackendTest, ACacheThatFailsOnlyKeepsNothing) {
  const auto wanted = encoded(**load());
  const std::string key = package_key(model_content(model_.spec, *model_.weights), Precision::fp16,
                                      options_.shapes, options_.macos);
  ASSERT_TRUE(fs::exists(options_.cache / key));
  // Its folder can be opened, and what is to be written there fails: as on a full disk.
  fs::remove_all(options_.cache);
  fs::create_directories(options_.cache / "locks" / (key + ".use"));
  const auto encoder = load();
  ASSERT_TRUE(encoder.ok()) << encoder.error().message;
  EXPECT_EQ(encoded(**encoder), wanted);
  EXPECT_FALSE(fs::exists(options_.cache / key));
  // Nor is a folder needed at all.
  options_.cache.clear();
  EXPECT_EQ(encoded(**load()), wanted);
}

TEST_F(CoremlBackendTest, WhatALoaderCompilesCountsInTheCachesBound) {
  options_.cache_bytes_max = CompilingLoader::kBytes;
  const std::string other(64, 'a');
  {
    auto cache = PackageCache::open(options_.cache, options_.cache_bytes_max);
    ASSERT_TRUE(cache.ok());
    const auto entry = cache->get(other, [](const fs::path& folder) -> Result<void> {
      std::ofstream(folder / "old") << "unused";
      return {};
    });
    ASSERT_TRUE(entry.ok());
  }
  const auto encoder = load(std::make_shared<CompilingLoader>());
  ASSERT_TRUE(encoder.ok()) << encoder.error().message;
  EXPECT_FALSE(fs::exists(options_.cache / other));
  EXPECT_EQ(encoded(**encoder).size(), static_cast<size_t>(model_.spec.hidden));
}

}  // namespace
}  // namespace impetus::coreml

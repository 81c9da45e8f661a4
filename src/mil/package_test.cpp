#include "mil/package.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "mil/codec_test_support.h"
#include "tests/support/bytes.h"

namespace impetus::mil {
namespace {

namespace fs = std::filesystem;

using impetus::testing::TempFolder;
using testing::conv_model;
using testing::difference;
using testing::two_function_model;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& one : fs::directory_iterator(folder)) names.push_back(one.path().filename());
  std::ranges::sort(names);
  return names;
}

std::string text_in(const fs::path& path) {
  const auto text = read_file(path);
  EXPECT_TRUE(text.ok()) << path;
  return text.ok() ? *text : "";
}

TEST(Package, WhatIsWrittenIsOpened) {
  const TempFolder folder;
  const fs::path path = folder.path() / "conv.mlpackage";
  const Model model = conv_model();
  const auto done = write_package(path, model);
  ASSERT_TRUE(done.ok()) << done.error().message;
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"conv.mlpackage"});
  const auto package = open_package(path);
  ASSERT_TRUE(package.ok()) << package.error().message;
  EXPECT_EQ(difference(package->model, model), "");
  const fs::path author = path / "Data/com.apple.CoreML";
  EXPECT_EQ(package->model_bytes, static_cast<int64_t>(fs::file_size(author / "model.mlmodel")));
  EXPECT_EQ(package->weight_bytes,
            static_cast<int64_t>(fs::file_size(author / "weights/weight.bin")));
  const auto bytes = serialize(model);
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(
      text_in(author / "weights/weight.bin"),
      std::string(reinterpret_cast<const char*>(bytes->weights.data()), bytes->weights.size()));
}

TEST(Package, WeightsOutliveTheFile) {
  const TempFolder folder;
  const fs::path path = folder.path() / "conv.mlpackage";
  ASSERT_TRUE(write_package(path, conv_model()).ok());
  const auto package = open_package(path);
  ASSERT_TRUE(package.ok());
  // The model that stands there is written over itself, out of its own mapped weights.
  ASSERT_TRUE(write_package(path, package->model).ok());
  EXPECT_EQ(difference(package->model, conv_model()), "");
  EXPECT_EQ(difference(open_package(path)->model, conv_model()), "");
}

TEST(Package, SameModelSameFolder) {
  const TempFolder folder;
  ASSERT_TRUE(write_package(folder.path() / "a.mlpackage", conv_model()).ok());
  ASSERT_TRUE(write_package(folder.path() / "b.mlpackage/", conv_model()).ok());
  Model other = conv_model();
  other.metadata.version = "2";
  ASSERT_TRUE(write_package(folder.path() / "c.mlpackage", other).ok());
  const auto manifest = [&](const std::string& name) {
    return text_in(folder.path() / name / "Manifest.json");
  };
  EXPECT_EQ(manifest("a.mlpackage"), manifest("b.mlpackage"));
  EXPECT_NE(manifest("a.mlpackage"), manifest("c.mlpackage"));
  EXPECT_EQ(manifest("a.mlpackage"),
            R"({"fileFormatVersion":"1.0.0","itemInfoEntries":)"
            R"({"151ca93c-292e-5514-9de2-9ecebfc3b46d":{"author":"com.apple.CoreML",)"
            R"("description":"CoreML Model Specification","name":"model.mlmodel",)"
            R"("path":"com.apple.CoreML/model.mlmodel"},)"
            R"("182fcebd-c1df-58c9-8bdc-73b8f9931c4d":{"author":"com.apple.CoreML",)"
            R"("description":"CoreML Model Weights","name":"weights",)"
            R"("path":"com.apple.CoreML/weights"}},)"
            R"("rootModelIdentifier":"151ca93c-292e-5514-9de2-9ecebfc3b46d"})"
            "\n");
}

TEST(Package, WithoutWeightsThereIsNoWeightFile) {
  Model model = conv_model();
  model.program.functions["main"].blocks["CoreML6"].operations.clear();
  const TempFolder folder;
  const fs::path path = folder.path() / "empty.mlpackage";
  ASSERT_TRUE(write_package(path, model).ok());
  EXPECT_EQ(names_in(path / "Data/com.apple.CoreML"), std::vector<std::string>{"model.mlmodel"});
  const auto package = open_package(path);
  ASSERT_TRUE(package.ok()) << package.error().message;
  EXPECT_EQ(package->weight_bytes, 0);
  // Its file alone is a model too.
  EXPECT_TRUE(open_package(path / "Data/com.apple.CoreML/model.mlmodel").ok());
}

TEST(Package, BareModelThatNeedsWeights) {
  const TempFolder folder;
  const fs::path path = folder.path() / "conv.mlpackage";
  ASSERT_TRUE(write_package(path, conv_model()).ok());
  const auto bare = open_package(path / "Data/com.apple.CoreML/model.mlmodel");
  ASSERT_FALSE(bare.ok());
  EXPECT_EQ(bare.error().code, ErrorCode::not_found);
  EXPECT_NE(bare.error().message.find("open the .mlpackage"), std::string::npos);
}

TEST(Package, ReplacesOnlyPackages) {
  const TempFolder folder;
  const fs::path path = folder.path() / "conv.mlpackage";
  ASSERT_TRUE(write_package(path, conv_model()).ok());
  ASSERT_TRUE(write_package(path, two_function_model()).ok());
  EXPECT_EQ(difference(open_package(path)->model, two_function_model()), "");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"conv.mlpackage"});

  const auto refused = [&](const fs::path& place) {
    const auto before = names_in(folder.path());
    const auto done = write_package(place, conv_model());
    ASSERT_FALSE(done.ok()) << place;
    EXPECT_EQ(done.error().code, ErrorCode::invalid_argument) << done.error().message;
    EXPECT_EQ(names_in(folder.path()), before);
  };
  refused(folder.write("file", "mine"));
  EXPECT_EQ(text_in(folder.path() / "file"), "mine");
  fs::create_directory(folder.path() / "empty");
  refused(folder.path() / "empty");
  folder.write("folder/letter.txt", "mine");
  folder.write("folder/Manifest.json", R"({"itemInfoEntries":{}})");
  refused(folder.path() / "folder");
  folder.write("other/Manifest.json", R"({"name":"an extension"})");
  refused(folder.path() / "other");
  fs::create_directory_symlink(path, folder.path() / "link");
  refused(folder.path() / "link");
}

TEST(Package, NoPlaceToWrite) {
  const TempFolder folder;
  const auto done = write_package(folder.path() / "absent/conv.mlpackage", conv_model());
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, ErrorCode::io);
}

// The disk is full after some bytes: the old package stands, nothing lies beside it.
TEST(Package, WritingThatFailsLeavesWhatWasThere) {
  const TempFolder folder;
  const fs::path path = folder.path() / "conv.mlpackage";
  Model model = conv_model();
  auto& operations = model.program.functions["main"].blocks["CoreML6"].operations;
  operations.push_back(testing::constant("large", testing::f16_values({5000}, 3)));
  ASSERT_TRUE(write_package(path, conv_model()).ok());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limited = before;
  limited.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limited), 0);
  const auto done = write_package(path, model);
  const auto elsewhere = write_package(folder.path() / "new.mlpackage", model);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, ErrorCode::io) << done.error().message;
  EXPECT_FALSE(elsewhere.ok());
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"conv.mlpackage"});
  EXPECT_EQ(difference(open_package(path)->model, conv_model()), "");
}

// ---- Packages of others

class HostilePackage : public ::testing::Test {
 protected:
  HostilePackage() {
    EXPECT_TRUE(write_package(path_, conv_model()).ok());
    manifest_ = text_in(path_ / "Manifest.json");
  }
  void expect_refused(ErrorCode code, const std::string& says) {
    const auto package = open_package(path_);
    ASSERT_FALSE(package.ok()) << says;
    EXPECT_EQ(package.error().code, code) << package.error().message;
    EXPECT_NE(package.error().message.find(says), std::string::npos) << package.error().message;
  }
  void expect_manifest_refused(const std::string& from, const std::string& to, ErrorCode code,
                               const std::string& says) {
    std::string text = manifest_;
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    folder_.write("a.mlpackage/Manifest.json", text);
    expect_refused(code, says);
  }

  const TempFolder folder_;
  const fs::path path_ = folder_.path() / "a.mlpackage";
  const fs::path author_ = path_ / "Data/com.apple.CoreML";
  std::string manifest_;
};

TEST_F(HostilePackage, Manifest) {
  const auto corrupt = ErrorCode::corrupt;
  const std::string model = "com.apple.CoreML/model.mlmodel";
  expect_manifest_refused("1.0.0", "2.0.0", ErrorCode::unsupported, "format version 2.0.0");
  expect_manifest_refused("fileFormatVersion", "version", corrupt, "fileFormatVersion");
  expect_manifest_refused("itemInfoEntries", "items", corrupt, "itemInfoEntries");
  expect_manifest_refused("rootModelIdentifier", "root", corrupt, "rootModelIdentifier");
  expect_manifest_refused("\"author\"", "\"writer\"", corrupt, "author");
  expect_manifest_refused("{", "", corrupt, "Manifest.json");
  expect_manifest_refused(model, "com.apple.CoreML/absent", ErrorCode::not_found, "lacks it");
  expect_manifest_refused(model, "../../../etc/passwd", corrupt, "leads out of the package");
  expect_manifest_refused(model, "/etc/passwd", corrupt, "leads out of the package");
  expect_manifest_refused(model, "a/../../..", corrupt, "leads out of the package");
  expect_manifest_refused(model, ".", corrupt, "leads out of the package");
  expect_manifest_refused(model, "", corrupt, "leads out of the package");
  expect_manifest_refused(model, "com.apple.CoreML/weights", corrupt, "two items");
  expect_manifest_refused(model, "com.apple.CoreML", ErrorCode::invalid_argument,
                          "not a regular file");
  const size_t at = manifest_.find("rootModelIdentifier") + 22;
  expect_manifest_refused(manifest_.substr(at, 36), "no-such-item", corrupt, "");
  fs::remove(path_ / "Manifest.json");
  expect_refused(ErrorCode::not_found, "Manifest.json");
}

TEST_F(HostilePackage, Files) {
  fs::rename(author_ / "weights/weight.bin", folder_.path() / "weight.bin");
  expect_refused(ErrorCode::not_found, "weight.bin");
  fs::create_symlink(folder_.path() / "weight.bin", author_ / "weights/weight.bin");
  expect_refused(ErrorCode::corrupt, "leads out of the package");
  fs::remove(author_ / "weights/weight.bin");
  fs::create_symlink("weight.bin", author_ / "weights/weight.bin");  // a cycle
  expect_refused(ErrorCode::io, "weight.bin");
  fs::remove(author_ / "weights/weight.bin");
  fs::create_directory(author_ / "weights/weight.bin");
  expect_refused(ErrorCode::invalid_argument, "not a regular file");
  fs::remove_all(author_ / "weights");
  expect_refused(ErrorCode::not_found, "weights");
}

TEST_F(HostilePackage, LinksWithinThePackage) {
  fs::rename(author_ / "weights/weight.bin", path_ / "Data/real.bin");
  fs::create_symlink("../../real.bin", author_ / "weights/weight.bin");
  EXPECT_TRUE(open_package(path_).ok());
}

TEST_F(HostilePackage, OtherThings) {
  EXPECT_EQ(open_package(folder_.path() / "absent").error().code, ErrorCode::not_found);
  EXPECT_EQ(open_package(folder_.path()).error().code, ErrorCode::not_found);
  folder_.write("a.mlpackage/coremldata.bin", "x");
  expect_refused(ErrorCode::unsupported, ".mlmodelc");
}

// ---- The fuzzer's seeds: tests/fuzz/seeds/package. IMPETUS_UPDATE_SEEDS=1 writes them anew.

TEST(PackageSeeds, AreTheWritersOwn) {
  Model enumerated = conv_model();
  enumerated.functions[0].inputs[0].enumerated = {{1, 4, 1, 16}, {1, 4, 1, 32}};
  Model states = two_function_model();
  for (FunctionDescription& one : states.functions) {
    Feature state;
    state.name = "cache";
    state.kind = Feature::Kind::state;
    state.type = {DataType::f16, {1, 4, 1, 16}};
    one.states = {state};
    Function& function = states.program.functions[one.name];
    function.inputs.push_back({"cache", {.kind = ValueType::Kind::state, .tensor = state.type}});
  }
  for (const auto& [name, model] : {std::pair<std::string, Model>{"conv", conv_model()},
                                    {"enumerated", enumerated},
                                    {"two_functions", two_function_model()},
                                    {"states", states}}) {
    const auto bytes = serialize(model);
    ASSERT_TRUE(bytes.ok());
    std::vector<std::byte> seed;
    impetus::testing::append_value(seed, static_cast<uint32_t>(bytes->model.size()));
    impetus::testing::append(seed, bytes->model);
    impetus::testing::append(seed, bytes->weights);
    const fs::path path = fs::path(IMPETUS_SOURCE_DIR) / "tests/fuzz/seeds/package" / name;
    if (std::getenv("IMPETUS_UPDATE_SEEDS") != nullptr) {
      fs::create_directories(path.parent_path());
      std::ofstream(path, std::ios::binary)
          .write(reinterpret_cast<const char*>(seed.data()),
                 static_cast<std::streamsize>(seed.size()));
    }
    EXPECT_EQ(text_in(path), std::string(reinterpret_cast<const char*>(seed.data()), seed.size()))
        << name;
  }
}

}  // namespace
}  // namespace impetus::mil

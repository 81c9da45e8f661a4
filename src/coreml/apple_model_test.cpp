// Core ML's loader over a fake of the C table that a Mac implements.
#include "coreml/apple_model.h"

#include <cstring>
#include <fstream>

#include <unistd.h>

#include <gtest/gtest.h>

#include "base/mapped_file.h"

struct ImpetusModel {
  std::string function;
  std::vector<uint16_t> in = std::vector<uint16_t>(64), out = std::vector<uint16_t>(64);
};

namespace impetus::coreml {
namespace {

namespace fs = std::filesystem;

// What the fake is told and asked; one test at a time.
struct State {
  std::string system = "Version 15.3 (Build 24D60), Apple M3";
  int compiled = 0, loaded = 0, alive = 0;
  int texts = 0;  // handed out and not freed
  const char* compile_fails = nullptr;
  const char* predict_fails = nullptr;
  int loads_fail = 0;  // so many of the next
  bool planned = true;
};
State state;

char* text(const char* bytes) {
  ++state.texts;
  return ::strdup(bytes);
}

const ImpetusCoreml kFake = {
    .environment = [](void* context,
                      void (*tell)(void*, const char*)) { tell(context, state.system.c_str()); },
    .macos_major = [] { return 15; },
    .devices =
        [](void* context, void (*tell)(void*, const char*)) {
          tell(context, "cpu");
          tell(context, "ane, 16 cores");
        },
    .compile =
        [](const char* package, const char* destination, char** failure) {
          if (state.compile_fails) return *failure = text(state.compile_fails), 0;
          EXPECT_TRUE(fs::exists(package));
          EXPECT_FALSE(fs::exists(destination));
          fs::create_directories(destination);
          std::ofstream(fs::path(destination) / "coremldata.bin") << ++state.compiled;
          return 1;
        },
    .load = [](const char* compiled, const char* function, int units,
               char** failure) -> ImpetusModel* {
      EXPECT_TRUE(fs::exists(fs::path(compiled) / "coremldata.bin"));
      ++state.loaded;
      if (state.loads_fail > 0) {
        --state.loads_fail;
        *failure = text("the model is of another version");
        return nullptr;
      }
      ++state.alive;
      return new ImpetusModel{function};
    },
    .release =
        [](ImpetusModel* model) {
          --state.alive;
          delete model;
        },
    .ports =
        [](const ImpetusModel*, int outputs, ImpetusPort* list, int) {
          list[0] = {outputs ? "y" : "x", kImpetusFloat16, 2, {2, 3}};
          return 1;
        },
    .view =
        [](ImpetusModel* model, int output, const char* name, ImpetusView* view, char** failure) {
          if (std::strcmp(name, output ? "y" : "x") != 0) return *failure = text("no such"), 0;
          *view = {output ? model->out.data() : model->in.data(), {32, 1}};
          return 1;
        },
    .predict =
        [](ImpetusModel* model, char** failure) {
          if (state.predict_fails) return *failure = text(state.predict_fails), 0;
          model->out = model->in;
          return 1;
        },
    .placement =
        [](const char*, const char* function, int, void* context,
           void (*visit)(void*, const ImpetusOperation*), char** failure) {
          if (!state.planned) return *failure = text("the compute plan needs macOS 14.4"), 0;
          for (const auto& [type, device] : {std::pair{"const", ""},
                                             {"ios16.gather", "cpu"},
                                             {"ios16.conv", "ane"},
                                             {"ios16.add", "ane"}}) {
            const ImpetusOperation one{function, type, "var", device, 0.25, device[0] == 'a'};
            visit(context, &one);
          }
          return 1;
        },
    .free_text =
        [](char* bytes) {
          --state.texts;
          ::free(bytes);
        },
};

class AppleModelTest : public ::testing::Test {
 protected:
  AppleModelTest() {
    state = {};
    std::string name = (fs::temp_directory_path() / "impetus-apple-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    fs::create_directories(package());
    std::ofstream(package() / "weight.bin") << std::string(1000, 'w');
  }
  ~AppleModelTest() override {
    EXPECT_EQ(state.alive, 0);
    EXPECT_EQ(state.texts, 0);
    fs::remove_all(folder_);
  }
  fs::path package() const { return folder_ / "model.mlpackage"; }
  Result<std::unique_ptr<CompiledModel>> load(
      const std::string& function = "encode_16",
      ComputeUnits units = ComputeUnits::cpu_and_neural_engine) {
    return make_apple_loader(kFake)->load(package(), function, folder_ / "compiled", units);
  }
  fs::path folder_;
};

TEST_F(AppleModelTest, CompilesOnceForASystemAndItsUnits) {
  ASSERT_TRUE(load().ok());
  ASSERT_TRUE(load("encode_32").ok());
  EXPECT_EQ(state.compiled, 1);
  ASSERT_TRUE(load("encode_16", ComputeUnits::cpu_only).ok());
  EXPECT_EQ(state.compiled, 2);
  state.system = "Version 15.4 (Build 24E1), Apple M3";
  ASSERT_TRUE(load().ok());
  EXPECT_EQ(state.compiled, 3);
  EXPECT_EQ(*make_apple_loader(kFake)->bytes_needed(package(), "encode_16"), 2000);
}

TEST_F(AppleModelTest, WhatNoLongerLoadsIsCompiledAnew) {
  ASSERT_TRUE(load().ok());
  state.loads_fail = 1;
  ASSERT_TRUE(load().ok());
  EXPECT_EQ(state.compiled, 2);
  state.loads_fail = 2;
  const auto failed = load();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::unsupported);
  EXPECT_NE(failed.error().message.find("model.mlmodelc, encode_16: the model is of another"),
            std::string::npos)
      << failed.error().message;
}

TEST_F(AppleModelTest, WhatDoesNotCompileLeavesNothing) {
  state.compile_fails = "Required param 'pad' is missing";
  const auto failed = load();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::unsupported);
  EXPECT_NE(failed.error().message.find("'pad'"), std::string::npos);
  state.compile_fails = nullptr;
  EXPECT_TRUE(load().ok());
}

TEST_F(AppleModelTest, TensorsCrossWithTheirStrides) {
  auto model = std::move(load().value());
  ASSERT_EQ(model->inputs().size(), 1u);
  EXPECT_EQ(model->inputs()[0].type.to_string(), "fp16[2, 3]");
  const auto in = model->input("x"), out = model->output("y");
  ASSERT_TRUE(in.ok() && out.ok());
  EXPECT_EQ(in->strides, (std::vector<int64_t>{32, 1}));
  reinterpret_cast<uint16_t*>(in->data)[33] = 0x3c00;
  ASSERT_TRUE(model->predict().ok());
  EXPECT_EQ(reinterpret_cast<const uint16_t*>(model->output("y")->data)[33], 0x3c00);
  EXPECT_EQ(model->input("y").error().code, ErrorCode::not_found);
  state.predict_fails = "ANECCompile failed";
  const auto failed = model->predict();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, ErrorCode::unavailable);
  EXPECT_NE(failed.error().message.find("ANECCompile failed"), std::string::npos);
}

TEST_F(AppleModelTest, IsNamedByTheDevicesOfThePlan) {
  EXPECT_EQ(load().value()->ran_on(), "coreml-ane+cpu");
  state.planned = false;
  EXPECT_EQ(load().value()->ran_on(), "coreml");
}

TEST_F(AppleModelTest, ReportsThePlanAsData) {
  const auto report =
      on_device_report(kFake, package(), "encode_16", ComputeUnits::cpu_and_neural_engine);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->system, state.system);
  EXPECT_EQ(report->devices, (std::vector<std::string>{"cpu", "ane, 16 cores"}));
  ASSERT_EQ(report->operations.size(), 4u);
  EXPECT_EQ(report->operations[1].device, "cpu");
  EXPECT_FALSE(report->operations[1].on_engine);
  EXPECT_EQ(report->operations[2].type, "ios16.conv");
  EXPECT_TRUE(report->operations[2].on_engine);
  state.planned = false;
  const auto refused = on_device_report(kFake, package(), "", ComputeUnits::cpu_and_neural_engine);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("14.4"), std::string::npos);
}

#ifndef __APPLE__
TEST_F(AppleModelTest, ElsewhereThereIsNone) {
  EXPECT_EQ(system_coreml().error().code, ErrorCode::unsupported);
  EXPECT_EQ(on_device_report(package(), "", ComputeUnits::all).error().code,
            ErrorCode::unsupported);
}
#endif

}  // namespace
}  // namespace impetus::coreml

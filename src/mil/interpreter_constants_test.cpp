// Constants that functions of one package share.
#include <thread>

#include <gtest/gtest.h>

#include "mil/interpreter_test_support.h"

namespace impetus::mil {
namespace {

using testing::Dims;
using testing::ProgramBuilder;
using testing::Random;
using testing::tensor_type;

constexpr int64_t kIn = 64, kOut = 48;

// What both functions name, as a package's blobs are: the same bytes in the same place.
struct Blobs {
  Value weight, indices, table;

  explicit Blobs(uint64_t seed = 1) {
    Random random(seed);
    weight = testing::constant(DataType::f16, {kOut, kIn},
                               random.numbers(DataType::f16, {kOut, kIn}).values);
    indices = testing::constant(DataType::u4, {kOut, kOut},
                                random.numbers(DataType::u4, {kOut, kOut}, 0, 15).values);
    table =
        testing::constant(DataType::f16, {1, 1, 16, 1}, random.numbers(DataType::f16, {16}).values);
  }
};

constexpr int64_t kSharedBytes = 4 * (kOut * kIn + kOut * kOut);

// x [tokens, in] -> linear -> linear with a palettised weight, and a position's constant of its
// own.
void add_function(Model& model, const std::string& name, const Blobs& blobs, int64_t tokens) {
  ProgramBuilder b(Opset::core_ml8);
  const auto x = b.input("x", DataType::f16, {tokens, kIn});
  const auto own = b.constant("own", testing::constant(DataType::f16, {tokens, kOut},
                                                       std::vector<double>(tokens * kOut, 0.25)));
  const auto weight = b.constant("weight_of_" + name, blobs.weight);
  const auto hidden = b.op("linear", {{"x", {x}}, {"weight", {weight}}},
                           {{"hidden", tensor_type(DataType::f16, {tokens, kOut})}});
  const auto second =
      b.op("constexpr_lut_to_dense", {{"indices", {blobs.indices}}, {"lut", {blobs.table}}},
           {{"second_of_" + name, tensor_type(DataType::f16, {kOut, kOut})}});
  const auto y = b.op("linear", {{"x", {hidden}}, {"weight", {second}}},
                      {{"y", tensor_type(DataType::f16, {tokens, kOut})}});
  const auto out = b.op("add", {{"x", {y}}, {"y", {own}}},
                        {{"out", tensor_type(DataType::f16, {tokens, kOut})}});
  b.output(out, DataType::f16, {tokens, kOut});
  Model one = b.model();
  model.specification_version = one.specification_version;
  one.functions[0].name = name;
  model.functions.push_back(one.functions[0]);
  model.program.functions[name] = one.program.functions["main"];
  model.default_function = model.functions[0].name;
}

Model two_functions(const Blobs& blobs) {
  Model model;
  add_function(model, "short", blobs, 3);
  add_function(model, "long", blobs, 5);
  return model;
}

std::vector<float> output_of(const Interpreter& interpreter) {
  Random random(4);
  const Dims shape = interpreter.inputs().front().type.tensor.shape;
  const auto run =
      interpreter.run({{"x", testing::value_of(random.numbers(DataType::f16, shape))}});
  return run.ok() ? run->outputs.at("out").floats : std::vector<float>();
}

TEST(SharedConstants, EachIsHeldOnceAndTheResultsStay) {
  const Model model = two_functions(Blobs());
  SharedConstants shared;
  auto first = Interpreter::load(model, "short", {}, &shared);
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(shared.bytes(), kSharedBytes + 4 * 3 * kOut);
  const auto second = Interpreter::load(model, "long", {}, &shared);
  ASSERT_TRUE(second.ok()) << second.error().message;
  EXPECT_EQ(shared.bytes(), kSharedBytes + 4 * (3 + 5) * kOut);
  for (const Interpreter* interpreter :
       std::initializer_list<const Interpreter*>{&*first, &*second}) {
    const auto alone = Interpreter::load(model, interpreter == &*first ? "short" : "long", {});
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ(alone->weight_bytes(), interpreter->weight_bytes());
    const auto wanted = output_of(*alone);
    ASSERT_FALSE(wanted.empty());
    EXPECT_EQ(output_of(*interpreter), wanted);
  }
  // The second goes on without the first, and what nobody uses is let go.
  const auto wanted = output_of(*second);
  {
    const Interpreter gone = *std::move(first);
  }
  EXPECT_EQ(shared.bytes(), kSharedBytes + 4 * 5 * kOut);
  EXPECT_EQ(output_of(*second), wanted);
}

TEST(SharedConstants, OutliveWhatSharedThem) {
  auto shared = std::make_unique<SharedConstants>();
  std::optional<Interpreter> kept;
  std::vector<float> wanted;
  {
    const Model model = two_functions(Blobs());
    const auto first = Interpreter::load(model, "short", {}, shared.get());
    auto second = Interpreter::load(model, "long", {}, shared.get());
    ASSERT_TRUE(first.ok() && second.ok());
    wanted = output_of(*second);
    kept = *std::move(second);
  }
  shared.reset();
  EXPECT_EQ(output_of(*kept), wanted);
}

// Bytes that were freed may come back as another package's: an address alone names nothing.
TEST(SharedConstants, AnotherModelsConstantsAreNotMistaken) {
  SharedConstants shared;
  std::vector<Interpreter> held;  // so that what they decoded is there to be taken
  for (uint64_t seed = 1; seed < 20; ++seed) {
    const Model model = two_functions(Blobs(seed));
    const auto alone = Interpreter::load(model, "short", {});
    auto interpreter = Interpreter::load(model, "short", {}, &shared);
    ASSERT_TRUE(alone.ok() && interpreter.ok());
    ASSERT_EQ(output_of(*interpreter), output_of(*alone)) << seed;
    held.push_back(*std::move(interpreter));
  }
}

// A folded product differs with the options that it was made under.
TEST(SharedConstants, OptionsKeepThemApart) {
  Random random(8);
  ProgramBuilder b(Opset::core_ml8);
  const auto x = b.input("x", DataType::f16, {8, 96});
  const auto left = b.constant(
      "left",
      testing::constant(DataType::f16, {8, 96}, random.numbers(DataType::f16, {8, 96}).values));
  const auto right = b.constant(
      "right",
      testing::constant(DataType::f16, {96, 96}, random.numbers(DataType::f16, {96, 96}).values));
  const auto folded = b.op("matmul", {{"x", {left}}, {"y", {right}}},
                           {{"folded", tensor_type(DataType::f16, {8, 96})}});
  const auto out =
      b.op("add", {{"x", {x}}, {"y", {folded}}}, {{"out", tensor_type(DataType::f16, {8, 96})}});
  b.output(out, DataType::f16, {8, 96});
  const Model model = b.model();
  SharedConstants shared;
  std::vector<Interpreter> held;
  std::vector<std::vector<float>> outputs;
  for (const InterpreterOptions& options :
       {InterpreterOptions{}, InterpreterOptions{.accumulation = Accumulation::f16},
        InterpreterOptions{.round_f16 = false}}) {
    const auto alone = Interpreter::load(model, "", options);
    auto interpreter = Interpreter::load(model, "", options, &shared);
    ASSERT_TRUE(alone.ok() && interpreter.ok());
    outputs.push_back(output_of(*interpreter));
    EXPECT_EQ(outputs.back(), output_of(*alone));
    held.push_back(*std::move(interpreter));
  }
  EXPECT_NE(outputs[0], outputs[1]);
  EXPECT_NE(outputs[0], outputs[2]);
}

TEST(SharedConstants, CountInEachFunctionsMemory) {
  const Model model = two_functions(Blobs());
  SharedConstants shared;
  const auto first = Interpreter::load(model, "short", {}, &shared);
  ASSERT_TRUE(first.ok());
  const auto tight = Interpreter::load(model, "long", {.memory_max = kSharedBytes / 2}, &shared);
  ASSERT_FALSE(tight.ok());
  EXPECT_EQ(tight.error().code, ErrorCode::insufficient_memory);
}

TEST(SharedConstants, EventsOfFoldedConstantsNameTheFunctionsOwnOperations) {
  Model model;
  const Value big = testing::constant(DataType::f16, {200}, std::vector<double>(200, 300));
  for (const std::string name : {"first", "second"}) {
    ProgramBuilder b(Opset::core_ml8);
    const auto x = b.input("x", DataType::f16, {200});
    const auto constant = b.constant("big", big);
    const auto squared = b.op("mul", {{"x", {constant}}, {"y", {constant}}},
                              {{name + "_squared", tensor_type(DataType::f16, {200})}});
    b.output(
        b.op("add", {{"x", {x}}, {"y", {squared}}}, {{"out", tensor_type(DataType::f16, {200})}}),
        DataType::f16, {200});
    Model one = b.model();
    model.specification_version = one.specification_version;
    one.functions[0].name = name;
    model.functions.push_back(one.functions[0]);
    model.program.functions[name] = one.program.functions["main"];
  }
  model.default_function = "first";
  SharedConstants shared;
  for (const std::string name : {"first", "second"}) {
    const auto interpreter = Interpreter::load(model, name, {}, &shared);
    ASSERT_TRUE(interpreter.ok()) << interpreter.error().message;
    const auto run =
        interpreter->run({{"x", {{DataType::f16, {200}}, std::vector<float>(200, 1), {}}}});
    ASSERT_TRUE(run.ok());
    ASSERT_FALSE(run->events.empty());
    EXPECT_EQ(run->events[0].operation, name + "_squared");
  }
}

TEST(SharedConstants, LoadsFromSeveralThreadsAtOnce) {
  const Model model = two_functions(Blobs());
  const auto alone = Interpreter::load(model, "long", {});
  ASSERT_TRUE(alone.ok());
  const auto wanted = output_of(*alone);
  SharedConstants shared;
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        const auto interpreter = Interpreter::load(model, "long", {}, &shared);
        right += interpreter.ok() && output_of(*interpreter) == wanted;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 40);
  EXPECT_EQ(shared.bytes(), 0);
}

// Another function that does not run here, or is ill-typed, is no obstacle to this one.
TEST(Interpreter, JudgesTheFunctionThatItLoads) {
  Model model = two_functions(Blobs());
  auto& block = model.program.functions["long"].blocks.begin()->second;
  block.operations.back().type = "while_loop";
  const auto fine = Interpreter::load(model, "short", {});
  EXPECT_TRUE(fine.ok()) << fine.error().message;
  EXPECT_FALSE(Interpreter::load(model, "long", {}).ok());
}

}  // namespace
}  // namespace impetus::mil

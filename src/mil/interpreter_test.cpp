#include <bit>
#include <chrono>
#include <limits>
#include <thread>

#include <gtest/gtest.h>

#include "mil/interpret.h"
#include "mil/interpreter_test_support.h"
#include "mil/operations.h"

namespace impetus::mil {
namespace {

using testing::ints;
using testing::Numbers;
using testing::OneOperation;
using testing::ProgramBuilder;
using testing::Random;
using testing::tensor_type;

using testing::Dims;

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

// Each upper half of a float with each place around fp16's last bit and its half.
TEST(InterpreterRounding, AgreesWithTheConversionAtEveryBorder) {
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (uint32_t middle = 0; middle < 8; ++middle) {
      for (const uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
        const float v = std::bit_cast<float>(upper << 16 | middle << 13 | low);
        const float wanted = f16_to_f32(f32_to_f16(v));
        ASSERT_TRUE(same_bits(rounded_f16(v), wanted)) << std::hex << std::bit_cast<uint32_t>(v);
      }
    }
  }
}

TEST(InterpreterRounding, AScanFindsCountsAndRounds) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> values(5000, 1.0009765f);
  values[7] = -65504;
  values[2100] = 65504.5f;
  values[4000] = -inf;
  values[4001] = std::numeric_limits<float>::quiet_NaN();
  const Scan found = scan(values, 65504, true);
  EXPECT_EQ(found.overflows, 2);
  EXPECT_EQ(found.first_overflow, 2100);
  EXPECT_EQ(found.overflow_value, 65504.5f);
  EXPECT_EQ(found.nans, 1);
  EXPECT_EQ(found.first_nan, 4001);
  EXPECT_EQ(found.max_abs, 65504.5f);
  EXPECT_EQ(values[2100], 65504.0f);
  EXPECT_EQ(values[4000], -inf);
  EXPECT_EQ(values[0], 1.0009765625f);
}

TEST(InterpreterCrew, EachItemIsDoneOnce) {
  for (const int threads : {1, 2, 5}) {
    Crew crew(threads);
    for (const int64_t count : {0, 1, 7, 1000}) {
      for (int round = 0; round < 50; ++round) {
        std::vector<std::atomic<int>> done(static_cast<size_t>(count));
        crew.ranges(count, 3, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++done[static_cast<size_t>(i)];
        });
        for (const auto& one : done) ASSERT_EQ(one, 1);
      }
    }
  }
}

std::vector<const Kernel*> all_kernels() {
  std::vector<const Kernel*> kernels;
  for (const auto& group :
       {linear_kernels(), convolution_kernels(), elementwise_kernels(), reduce_kernels(),
        norm_kernels(), shape_kernels(), gather_kernels(), constexpr_kernels()}) {
    for (const Kernel& kernel : group) kernels.push_back(&kernel);
  }
  return kernels;
}

TEST(Interpreter, RunsEveryOperationOfTheTableThatHasARule) {
  int ruled = 0;
  for (const OperationSpec& spec : operation_table()) {
    if (spec.infer == nullptr || spec.type == "const") continue;  // constants are decoded at load
    EXPECT_NE(find_kernel(spec.type), nullptr) << spec.type;
    ++ruled;
  }
  EXPECT_GT(ruled, 100);
  for (const Kernel* kernel : all_kernels()) {
    const OperationSpec* spec = find_operation(kernel->type, Opset::core_ml9);
    EXPECT_TRUE(spec != nullptr && spec->infer != nullptr) << kernel->type;
    EXPECT_EQ(find_kernel(kernel->type), kernel) << kernel->type << " stands in two groups";
  }
}

OneOperation square_of(const Numbers& x) {
  return {"square", {{"x", {x}}}, {}, {{x.dtype, x.shape}}};
}

TEST(InterpreterEvents, NamesOverflowAndNan) {
  const auto run = square_of({DataType::f16, {4}, {3, 300, -1000, 2}}).run();
  ASSERT_TRUE(run.ok());
  ASSERT_EQ(run->events.size(), 1u);
  const NumericEvent& event = run->events[0];
  EXPECT_EQ(event.kind, NumericEvent::Kind::overflow);
  EXPECT_EQ(event.operation, "out0");
  EXPECT_EQ(event.type, "square");
  EXPECT_EQ(event.tensor, "out0");
  EXPECT_EQ(event.index, 1);
  EXPECT_EQ(event.count, 2);
  EXPECT_EQ(event.value, 90000.0f);
  EXPECT_TRUE(std::isinf(run->outputs.at("out0").floats[1]));
  ASSERT_EQ(run->ranges.size(), 1u);
  EXPECT_EQ(run->ranges[0].max_abs, 1e6f);

  const auto fine = square_of({DataType::f32, {2}, {300, 1e4}}).run();  // fp32 holds it
  ASSERT_TRUE(fine.ok());
  EXPECT_TRUE(fine->events.empty());

  const auto nan =
      OneOperation{"sqrt", {{"x", {{DataType::f16, {2}, {1, -1}}}}}, {}, {{DataType::f16, {2}}}}
          .run();
  ASSERT_TRUE(nan.ok());
  ASSERT_EQ(nan->events.size(), 1u);
  EXPECT_EQ(nan->events[0].kind, NumericEvent::Kind::nan);
  EXPECT_EQ(nan->events[0].index, 1);
}

TEST(InterpreterEvents, WithoutRoundingValuesPassFp16) {
  InterpreterOptions options;
  options.round_f16 = false;
  const auto run = square_of({DataType::f16, {1}, {300}}).run(options);
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->outputs.at("out0").floats[0], 90000.0f);
  EXPECT_EQ(run->events.size(), 1u);
}

TEST(InterpreterEvents, ConstantsMadeAtLoadAreNamedToo) {
  ProgramBuilder b;
  const auto x = b.input("x", DataType::f16, {1});
  const auto big = b.constant("big", Value::scalar(300.0f, DataType::f16));
  const auto squared =
      b.op("mul", {{"x", {big}}, {"y", {big}}}, {{"squared", tensor_type(DataType::f16, {})}});
  b.op("add", {{"x", {x}}, {"y", {squared}}}, {{"out", tensor_type(DataType::f16, {1})}});
  b.output("out", DataType::f16, {1});
  const auto interpreter = Interpreter::load(b.model(), "main", {});
  ASSERT_TRUE(interpreter.ok()) << interpreter.error().message;
  const auto run = interpreter->run({{"x", {{DataType::f16, {1}}, {1}, {}}}});
  ASSERT_TRUE(run.ok());
  ASSERT_EQ(run->events.size(), 2u);
  EXPECT_EQ(run->events[0].operation, "squared");
  EXPECT_EQ(run->ranges.size(), 1u);  // constants left out
}

// out = x + y of [n], with a chain of `steps` additions.
Model chain(int64_t n, int steps) {
  ProgramBuilder b;
  std::string x = b.input("x", DataType::f16, {n});
  for (int i = 0; i < steps; ++i) {
    x = b.op("add", {{"x", {x}}, {"y", {x}}},
             {{"v" + std::to_string(i), tensor_type(DataType::f16, {n})}});
  }
  b.output(x, DataType::f16, {n});
  return b.model();
}

TEST(InterpreterMemory, DeadTensorsAreFreed) {
  const int64_t n = 10000;
  InterpreterOptions options;
  options.memory_max = 3 * n * 4;  // a value, the next, and room for one
  const auto interpreter = Interpreter::load(chain(n, 50), "", options);
  ASSERT_TRUE(interpreter.ok());
  const TensorValues inputs{
      {"x", {{DataType::f16, {n}}, std::vector<float>(static_cast<size_t>(n)), {}}}};
  EXPECT_TRUE(interpreter->run(inputs).ok());
  options.memory_max = 2 * n * 4 - 1;
  const auto tight = Interpreter::load(chain(n, 50), "", options);
  ASSERT_TRUE(tight.ok());
  const auto run = tight->run(inputs);
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.error().code, ErrorCode::insufficient_memory);
  EXPECT_TRUE(
      run.error().message.starts_with("operation v0 (add): its result [10000] does not fit"))
      << run.error().message;
}

TEST(InterpreterMemory, HugeShapesAreRefusedBeforeTheyAreMade) {
  InterpreterOptions options;
  options.memory_max = 1 << 20;
  for (const Dims& shape :
       {Dims{1 << 30, 1 << 30}, Dims{1 << 20}, Dims{1 << 30, 1 << 30, 1 << 30, 1 << 30}}) {
    OneOperation fill{"fill",
                      {},
                      {{"shape", ints(shape)}, {"value", Value::scalar(1.0f)}},
                      {{DataType::f32, shape}}};
    EXPECT_FALSE(fill.run(options).ok());
    OneOperation tile{"tile",
                      {{"x", {{DataType::f32, {1}, {1}}}}},
                      {{"reps", ints({1 << 30})}},
                      {{DataType::f32, {1 << 30}}}};
    EXPECT_FALSE(tile.run(options).ok());
  }
}

TEST(InterpreterMemory, WorkIsBounded) {
  InterpreterOptions options;
  options.work_max = 1000;
  const Numbers x{DataType::f32, {20, 20}, std::vector<double>(400)};
  const auto run =
      OneOperation{"matmul", {{"x", {x}}, {"y", {x}}}, {}, {{DataType::f32, {20, 20}}}}.run(
          options);
  ASSERT_FALSE(run.ok());
  EXPECT_EQ(run.error().message,
            "operation out0 (matmul): takes more than the work allowed (work_max = 1000)");
}

TEST(InterpreterMemory, FoldedConstantsGiveBackWhatTheyWereMadeOf) {
  ProgramBuilder b(Opset::core_ml6);
  const auto x = b.input("x", DataType::f16, {1, 64});
  b.op("constexpr_affine_dequantize", {}, {{"w", tensor_type(DataType::f16, {32, 64})}},
       {{"quantized_data", testing::constant(DataType::i8, {32, 64}, std::vector<double>(2048, 2))},
        {"zero_point", testing::constant(DataType::i8, {}, {1})},
        {"scale", testing::constant(DataType::f16, {}, {0.5})},
        {"axis", Value::scalar(int32_t{0})}});
  const auto bias =
      b.constant("bias", testing::constant(DataType::f16, {32}, std::vector<double>(32)));
  b.op("linear", {{"x", {x}}, {"weight", {"w"}}, {"bias", {bias}}},
       {{"out", tensor_type(DataType::f16, {1, 32})}});
  b.output("out", DataType::f16, {1, 32});
  const auto interpreter = Interpreter::load(b.model(), "", {});
  ASSERT_TRUE(interpreter.ok()) << interpreter.error().message;
  EXPECT_EQ(interpreter->weight_bytes(), 4 * (32 * 64 + 32));
  const auto run =
      interpreter->run({{"x", {{DataType::f16, {1, 64}}, std::vector<float>(64, 1), {}}}});
  ASSERT_TRUE(run.ok());
  EXPECT_EQ(run->outputs.at("out").floats, std::vector<float>(32, 32));
}

TEST(InterpreterShapes, EmptyTensorsPass) {
  const Numbers none{DataType::f32, {0, 3}, {}};
  EXPECT_EQ(square_of(none).values().size(), 0u);
  EXPECT_EQ((OneOperation{"matmul",
                          {{"x", {none}}, {"y", {{DataType::f32, {3, 2}, std::vector<double>(6)}}}},
                          {},
                          {{DataType::f32, {0, 2}}}}
                 .values()
                 .size()),
            0u);
  const auto zeros = OneOperation{
      "matmul",
      {{"x", {{DataType::f32, {2, 0}, {}}}}, {"y", {{DataType::f32, {0, 2}, {}}}}},
      {},
      {{DataType::f32,
        {2, 2}}}}.values();
  EXPECT_EQ(zeros, std::vector<double>(4, 0));
  EXPECT_EQ((OneOperation{
                "transpose", {{"x", {none}}}, {{"perm", ints({1, 0})}}, {{DataType::f32, {3, 0}}}}
                 .values()
                 .size()),
            0u);
  EXPECT_EQ((OneOperation{"softmax",
                          {{"x", {none}}},
                          {{"axis", Value::scalar(int32_t{0})}},
                          {{DataType::f32, {0, 3}}}}
                 .values()
                 .size()),
            0u);
}

// Nothing to compute, in dimensions whose product no loop would come to the end of.
TEST(InterpreterShapes, EmptyTensorsOfHugeShapesTakeNoTime) {
  constexpr int64_t kMany = int64_t{1} << 38;
  const Numbers wide{DataType::f16, {kMany, 0}, {}};
  const auto last = Value::scalar(int32_t{-1});
  const Numbers spatial{DataType::f16, {1, kMany, 0}, {}};
  const Numbers whole{DataType::i32, {kMany, 0}, {}};
  std::vector<OneOperation> operations{
      {"softmax", {{"x", {wide}}}, {{"axis", last}}, {{DataType::f16, wide.shape}}},
      {"layer_norm", {{"x", {wide}}}, {{"axes", ints({-1})}}, {{DataType::f16, wide.shape}}},
      {"instance_norm", {{"x", {spatial}}}, {}, {{DataType::f16, spatial.shape}}},
      {"linear",
       {{"x", {whole}}},
       {{"weight", testing::constant(DataType::i32, {0, 0}, {})}},
       {{DataType::i32, {kMany, 0}}}},
      // Groups beyond number, of no batch.
      {"conv",
       {{"x", {{DataType::f16, {0, 0, 1}, {}}}}},
       {{"weight", testing::constant(DataType::f16, {int64_t{1} << 31, 0, 1}, {})},
        {"pad_type", Value::scalar(std::string("valid"))},
        {"groups", Value::scalar(int32_t{1 << 30})}},
       {{DataType::f16, {0, int64_t{1} << 31, 1}}}},
  };
  const auto start = std::chrono::steady_clock::now();
  for (const OneOperation& operation : operations) {
    const auto run = operation.run();
    EXPECT_TRUE(run.ok()) << operation.type << ": " << run.error().message;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

// x [1, open] -> relu; the description bounds the open dimension.
ProgramBuilder flexible() {
  ProgramBuilder b;
  const auto x = b.input("x", DataType::f16, {1, kUnknown});
  b.description().inputs[0].type.shape = {1, 4};
  b.op("relu", {{"x", {x}}}, {{"out", tensor_type(DataType::f16, {1, kUnknown})}});
  b.output("out", DataType::f16, {1, 4});
  return b;
}
Result<RunResult> run_with(const Model& model, int64_t length) {
  IMPETUS_TRY(const Interpreter interpreter, Interpreter::load(model, "", {}));
  return interpreter.run(
      {{"x",
        {{DataType::f16, {1, length}}, std::vector<float>(static_cast<size_t>(length), 2), {}}}});
}

TEST(InterpreterShapes, OpenDimensionsAreBoundByTheInput) {
  ProgramBuilder ranged = flexible();
  ranged.description().inputs[0].ranges = {{1, 1}, {2, 6}};
  for (const int64_t length : {2, 5, 6}) {
    const auto run = run_with(ranged.model(), length);
    ASSERT_TRUE(run.ok()) << run.error().message;
    EXPECT_EQ(run->outputs.at("out").type.shape, (Dims{1, length}));
  }
  const auto outside = run_with(ranged.model(), 7);
  ASSERT_FALSE(outside.ok());
  EXPECT_EQ(outside.error().message,
            "input x has shape [1, 7]; the program takes 2 to 6 in dimension 1");
  ProgramBuilder listed = flexible();
  listed.description().inputs[0].enumerated = {{1, 4}, {1, 8}};
  EXPECT_TRUE(run_with(listed.model(), 8).ok());
  const auto other = run_with(listed.model(), 5);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().message, "input x has shape [1, 5]; the program takes [1, 4] or [1, 8]");
}

TEST(InterpreterInputs, AreJudged) {
  const auto interpreter = Interpreter::load(chain(3, 1), "", {});
  ASSERT_TRUE(interpreter.ok());
  const TensorValue right{{DataType::f16, {3}}, {1, 2, 3}, {}};
  EXPECT_TRUE(interpreter->run({{"x", right}}).ok());
  EXPECT_EQ(interpreter->run({}).error().message, "input \"x\" (fp16[3]) is missing");
  EXPECT_EQ(interpreter->run({{"x", right}, {"y", right}}).error().message,
            "there is no input \"y\"; the function takes x");
  EXPECT_EQ(interpreter->run({{"x", {{DataType::f16, {4}}, {1, 2, 3, 4}, {}}}}).error().message,
            "input x has shape [4]; the program takes fp16[3]");
  EXPECT_EQ(interpreter->run({{"x", {{DataType::f16, {3}}, {1, 2}, {}}}}).error().message,
            "input x has 2 floating values for shape [3]");
  EXPECT_EQ(interpreter->run({{"x", right}}).value().outputs.at("v0").floats,
            (std::vector<float>{2, 4, 6}));
  EXPECT_EQ(Interpreter::load(chain(3, 1), "other", {}).error().message,
            "there is no function \"other\"; the program has main");
}

TEST(InterpreterStates, AreReadAndWrittenInARun) {
  ProgramBuilder b;
  const auto x = b.input("x", DataType::f16, {2});
  const auto s = b.state("s", DataType::f16, {2});
  const auto before =
      b.op("read_state", {{"input", {s}}}, {{"before", tensor_type(DataType::f16, {2})}});
  const auto sum =
      b.op("add", {{"x", {x}}, {"y", {before}}}, {{"sum", tensor_type(DataType::f16, {2})}});
  b.op("write_state", {{"input", {s}}, {"data", {sum}}}, {});
  const auto after =
      b.op("read_state", {{"input", {s}}}, {{"after", tensor_type(DataType::f16, {2})}});
  const auto twice =
      b.op("add", {{"x", {after}}, {"y", {x}}}, {{"twice", tensor_type(DataType::f16, {2})}});
  b.output(before, DataType::f16, {2});
  b.output(twice, DataType::f16, {2});
  const auto interpreter = Interpreter::load(b.model(), "", {});
  ASSERT_TRUE(interpreter.ok()) << interpreter.error().message;
  for (int round = 0; round < 2; ++round) {  // a run begins at zero
    const auto run = interpreter->run({{"x", {{DataType::f16, {2}}, {1, 5}, {}}}});
    ASSERT_TRUE(run.ok()) << run.error().message;
    EXPECT_EQ(run->outputs.at("before").floats, (std::vector<float>{0, 0}));
    EXPECT_EQ(run->outputs.at("twice").floats, (std::vector<float>{2, 10}));
  }
}

TEST(Interpreter, RefusesByName) {
  ProgramBuilder b;
  const auto x = b.input("x", DataType::f16, {3});
  b.op("topk", {{"x", {x}}}, {{"out", tensor_type(DataType::f16, {3})}});
  b.output("out", DataType::f16, {3});
  const auto loaded = Interpreter::load(b.model(), "", {});
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, ErrorCode::unsupported);
  EXPECT_NE(loaded.error().message.find("topk"), std::string::npos) << loaded.error().message;
}

TEST(Interpreter, RunsFromSeveralThreadsAtOnce) {
  const auto interpreter = Interpreter::load(chain(1000, 20), "", {.threads = 2});
  ASSERT_TRUE(interpreter.ok());
  const TensorValues inputs{
      {"x", {{DataType::f16, {1000}}, std::vector<float>(1000, 0x1p-10f), {}}}};
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const auto run = interpreter->run(inputs);
      right += run.ok() && run->outputs.begin()->second.floats == std::vector<float>(1000, 1024);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 4);
}

// Operations with operands of wrong kinds, ranks and numbers: an error or a result, never worse.
// Kernels stand on their own here, without validate() before them.
TEST(InterpreterHostile, KernelsJudgeTheirOperands) {
  Random random(17);
  const std::vector<std::string> parameters{"x",
                                            "y",
                                            "weight",
                                            "bias",
                                            "values",
                                            "axis",
                                            "axes",
                                            "shape",
                                            "perm",
                                            "begin",
                                            "end",
                                            "size",
                                            "stride",
                                            "begin_mask",
                                            "end_mask",
                                            "squeeze_mask",
                                            "indices",
                                            "cond",
                                            "a",
                                            "b",
                                            "alpha",
                                            "beta",
                                            "epsilon",
                                            "gamma",
                                            "mean",
                                            "variance",
                                            "pad",
                                            "pad_type",
                                            "mode",
                                            "constant_val",
                                            "reps",
                                            "strides",
                                            "dilations",
                                            "groups",
                                            "kernel_sizes",
                                            "update",
                                            "query",
                                            "key",
                                            "value",
                                            "attn_mask",
                                            "scale",
                                            "zero_point",
                                            "input",
                                            "data",
                                            "offset",
                                            "lut",
                                            "quantized_data",
                                            "mask",
                                            "nonzero_data",
                                            "split_sizes",
                                            "num_splits",
                                            "start",
                                            "step",
                                            "batch_dims",
                                            "one_hot_vector_size",
                                            "on_value",
                                            "off_value",
                                            "equation",
                                            "keep_dims",
                                            "lower",
                                            "upper",
                                            "vector_axis",
                                            "source_val",
                                            "ref_tensor",
                                            "transpose_x",
                                            "transpose_y",
                                            "interleave",
                                            "ceil_mode"};
  const std::vector<std::string> texts{"same",     "custom", "valid",     "reflect", "replicate",
                                       "constant", "EXACT",  "ab,bc->ac", "a,->b",   "int8"};
  InterpreterOptions options;
  options.memory_max = 1 << 20;
  options.work_max = 1 << 20;
  const DataType types[] = {DataType::f16, DataType::f32, DataType::i32,
                            DataType::u8,  DataType::i8,  DataType::boolean};
  Crew crew(1);
  int64_t passed = 0;
  for (const Kernel* kernel : all_kernels()) {
    for (int round = 0; round < 400; ++round) {
      Budget budget(options.memory_max, 0);
      std::vector<Array> slots(1);
      Step step;
      step.kernel = kernel;
      step.type = kernel->type;
      step.name = "hostile";
      for (const std::string& parameter : parameters) {
        if (random.whole(0, 3) == 0) continue;
        BoundParameter bound{parameter, {}};
        for (int64_t n = random.whole(1, parameter == "values" ? 3 : 1); n > 0; --n) {
          bound.slots.push_back(static_cast<int>(slots.size()));
          Array array;
          if (random.whole(0, 5) == 0) {
            array.dtype = DataType::string;
            array.text =
                texts[static_cast<size_t>(random.whole(0, static_cast<int64_t>(texts.size()) - 1))];
            array.buffer = std::make_shared<Buffer>();
          } else {
            const bool tensor = random.whole(0, 2) == 0;
            const Dims shape =
                tensor ? random.shape(random.whole(0, 4), 3)
                       : Dims(static_cast<size_t>(random.whole(0, 1)), random.whole(0, 4));
            Numbers numbers = random.numbers(types[random.whole(0, 5)], shape,
                                             random.whole(0, 3) == 0 ? -2147483648.0 : -3,
                                             random.whole(0, 3) == 0 ? 2147483647.0 : 3);
            const TensorValue value = testing::value_of(numbers);
            array.dtype = numbers.dtype;
            array.shape = shape;
            array.buffer = std::make_shared<Buffer>();
            array.buffer->floats = value.floats;
            array.buffer->ints = value.ints;
          }
          slots.push_back(std::move(array));
        }
        step.parameters.push_back(std::move(bound));
      }
      for (int64_t n = random.whole(0, 2); n > 0; --n) {
        step.results.push_back(
            {"r" + std::to_string(n), tensor_type(types[random.whole(0, 5)], {})});
        step.result_slots.push_back(static_cast<int>(slots.size()));
        slots.emplace_back();
      }
      Machine machine{options, budget, crew, slots,
                      random.whole(0, 1) == 0 ? Opset::core_ml5 : Opset::core_ml8};
      Call call(machine, step);
      passed += kernel->run(call).ok();
    }
  }
  EXPECT_GT(passed, 100);  // not all were turned away at the door
}

}  // namespace
}  // namespace impetus::mil

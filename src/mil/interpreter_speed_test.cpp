#include <chrono>

#include <gtest/gtest.h>

#include "mil/interpreter_test_support.h"

namespace impetus::mil {
namespace {

using testing::constant;
using testing::Dims;
using testing::ProgramBuilder;
using testing::Random;
using testing::tensor_type;

// An encoder's arithmetic as Core ML packages have it: linear layers, heads by reshape and
// transpose, softmax, GELU, layer norms.
struct EncoderShape {
  int64_t layers, hidden, heads, inner, tokens;
};

Model encoder(const EncoderShape& s, DataType type) {
  Random random(11);
  ProgramBuilder b(Opset::core_ml6);
  int number = 0;
  const auto name = [&] { return "v" + std::to_string(number++); };
  const auto weight = [&](Dims shape, double low, double high) {
    return b.constant(name(), constant(type, shape, random.numbers(type, shape, low, high).values));
  };
  const auto linear = [&](const std::string& x, int64_t in, int64_t out) {
    return b.op("linear",
                {{"x", {x}},
                 {"weight", {weight({out, in}, -0.08, 0.08)}},
                 {"bias", {weight({out}, -0.1, 0.1)}}},
                {{name(), tensor_type(type, {1, s.tokens, out})}});
  };
  const Dims hidden{1, s.tokens, s.hidden};
  const auto norm = [&](const std::string& x) {
    return b.op("layer_norm",
                {{"x", {x}},
                 {"axes", {testing::ints({-1})}},
                 {"gamma", {weight({s.hidden}, 0.9, 1.1)}},
                 {"beta", {weight({s.hidden}, -0.1, 0.1)}},
                 {"epsilon", {Value::scalar(1e-5f, type)}}},
                {{name(), tensor_type(type, hidden)}});
  };
  const auto add = [&](const std::string& x, const std::string& y) {
    return b.op("add", {{"x", {x}}, {"y", {y}}}, {{name(), tensor_type(type, hidden)}});
  };
  const int64_t width = s.hidden / s.heads;
  const auto heads = [&](const std::string& x) {
    const auto apart =
        b.op("reshape", {{"x", {x}}, {"shape", {testing::ints(Dims{1, s.tokens, s.heads, width})}}},
             {{name(), tensor_type(type, {1, s.tokens, s.heads, width})}});
    return b.op("transpose", {{"x", {apart}}, {"perm", {testing::ints({0, 2, 1, 3})}}},
                {{name(), tensor_type(type, {1, s.heads, s.tokens, width})}});
  };
  std::string x = b.input("x", type, hidden);
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    const auto q = heads(linear(x, s.hidden, s.hidden)), k = heads(linear(x, s.hidden, s.hidden)),
               v = heads(linear(x, s.hidden, s.hidden));
    const Dims scores{1, s.heads, s.tokens, s.tokens};
    auto a = b.op("matmul",
                  {{"x", {q}},
                   {"y", {k}},
                   {"transpose_x", {Value::scalar(false)}},
                   {"transpose_y", {Value::scalar(true)}}},
                  {{name(), tensor_type(type, scores)}});
    a = b.op("mul", {{"x", {a}}, {"y", {Value::scalar(0.177f, type)}}},
             {{name(), tensor_type(type, scores)}});
    a = b.op("softmax", {{"x", {a}}, {"axis", {Value::scalar(int32_t{-1})}}},
             {{name(), tensor_type(type, scores)}});
    a = b.op("matmul",
             {{"x", {a}},
              {"y", {v}},
              {"transpose_x", {Value::scalar(false)}},
              {"transpose_y", {Value::scalar(false)}}},
             {{name(), tensor_type(type, {1, s.heads, s.tokens, width})}});
    a = b.op("transpose", {{"x", {a}}, {"perm", {testing::ints({0, 2, 1, 3})}}},
             {{name(), tensor_type(type, {1, s.tokens, s.heads, width})}});
    a = b.op("reshape", {{"x", {a}}, {"shape", {testing::ints(hidden)}}},
             {{name(), tensor_type(type, hidden)}});
    x = norm(add(x, linear(a, s.hidden, s.hidden)));
    auto f = linear(x, s.hidden, s.inner);
    f = b.op("gelu", {{"x", {f}}, {"mode", {Value::scalar(std::string("EXACT"))}}},
             {{name(), tensor_type(type, {1, s.tokens, s.inner})}});
    x = norm(add(x, linear(f, s.inner, s.hidden)));
  }
  b.output(x, type, hidden);
  return b.model();
}

double run_once(const Interpreter& interpreter, const TensorValues& inputs, RunResult& result) {
  const auto start = std::chrono::steady_clock::now();
  auto done = interpreter.run(inputs);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  EXPECT_TRUE(done.ok()) << done.error().message;
  if (done.ok()) result = *std::move(done);
  return took.count();
}

TEST(InterpreterSpeed, AnEncoderOfMiniLmsShape) {
  const EncoderShape shape{6, 384, 12, 1536, 128};
  const Model model = encoder(shape, DataType::f16);
  Random random(5);
  const TensorValues inputs{
      {"x", testing::value_of(random.numbers(DataType::f16, {1, shape.tokens, shape.hidden}))}};
  RunResult first;
  for (const auto accumulation : {Accumulation::f32, Accumulation::f16}) {
    for (const int threads : {1, 2}) {
      InterpreterOptions options;
      options.threads = threads;
      options.accumulation = accumulation;
      const auto interpreter = Interpreter::load(model, "", options);
      ASSERT_TRUE(interpreter.ok()) << interpreter.error().message;
      RunResult result;
      double best = 1e9;
      for (int i = 0; i < 3; ++i) best = std::min(best, run_once(*interpreter, inputs, result));
      const auto& values = result.outputs.begin()->second.floats;
      std::printf("%s accumulation, %d threads: %.3f s, %lld bytes of weights\n",
                  accumulation == Accumulation::f32 ? "f32" : "f16", threads, best,
                  static_cast<long long>(interpreter->weight_bytes()));
      EXPECT_TRUE(result.events.empty());
      if (accumulation == Accumulation::f32 && threads == 1) {
        first = result;
      } else if (accumulation == Accumulation::f32) {  // the same bits from two threads
        EXPECT_EQ(first.outputs.begin()->second.floats, values);
      }
      EXPECT_LT(best, accumulation == Accumulation::f32 ? 20.0 : 60.0);  // sanitizers are slow
    }
  }
}

}  // namespace
}  // namespace impetus::mil

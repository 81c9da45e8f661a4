// Every text of a kernel of ours through CUDA's own compiler, for the architectures that it is
// written for. MLX's CPU launches none: its refusal comes after the compilation.
#include <algorithm>
#include <stdexcept>
#include <string_view>

#include <gtest/gtest.h>

#include "mlx/decode_kernels.h"
#include "mlx/decode_step.h"
#include "mlx/encode_step.h"
#include "mlx/kernel_code.h"
#include "mlx/prefill_kernel.h"
#include "mlx/row_kernels.h"
#include "mlx/wall.h"
#include "tests/conformance/subject.h"

namespace impetus::mlx_backend {
namespace {

using conformance::decoder_spec;
using conformance::encoder_spec;

constexpr int kDims[] = {64, 80, 128};

struct Types {
  mx::Dtype activations, kv;
};
const Types kTypes[] = {{mx::float32, mx::float32},   {mx::float16, mx::float16},
                        {mx::bfloat16, mx::bfloat16}, {mx::float32, mx::float16},
                        {mx::float16, mx::float32},   {mx::bfloat16, mx::float16}};

class KernelTexts : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!nvrtc_is_loaded()) {
      // Where it was to be loaded.
      ASSERT_EQ(std::getenv("IMPETUS_TEST_NVRTC"), nullptr) << "NVRTC is not loaded";
      GTEST_SKIP() << "NVRTC is not loaded; LD_PRELOAD of libnvrtc.so does it";
    }
    begin();
  }

  // Nothing is compiled yet.
  void begin() {
    const KernelCompiler nvrtc = nvrtc_compiler(GetParam());
    const auto compile = [this, nvrtc](const std::string& text) {
      return made_.emplace_back(nvrtc.compile(text));
    };
    code_ = std::make_shared<KernelCode>(KernelCompiler{nvrtc.key, compile}, "");
  }

  // Runs an operation, which must compile these kernels, each anew, and may fail then alone.
  template <typename Operation>
  void compiles(std::initializer_list<const char*> names, Operation&& operation) {
    made_.clear();
    try {
      operation();
    } catch (const std::exception& failure) {
      const std::string_view said = failure.what();
      ASSERT_TRUE(said.find("No CUDA back-end") != said.npos ||
                  said.find("loaded no CUDA driver") != said.npos ||
                  said.find("CUDA, loading a kernel") != said.npos)
          << said;
    }
    ASSERT_EQ(made_.size(), names.size());
    for (size_t i = 0; i < made_.size(); ++i) {
      const std::string name = fmt::format("impetus_{}", names.begin()[i]);
      EXPECT_TRUE(
          made_[i].starts_with("\x7f"
                               "ELF"));
      // As a whole word: MLX asks for it by this name.
      EXPECT_NE(made_[i].find('\0' + name + '\0'), std::string::npos) << name;
    }
  }

  static mx::array zeros(const mx::Shape& shape, mx::Dtype type) { return mx::zeros(shape, type); }

  const Turn turn_{true};
  std::shared_ptr<KernelCode> code_;
  std::vector<std::string> made_;
};

DecodeShape shape_of(int dim, int way, const Types& types) {
  return {16, 4, dim, way % 2 == 0, way / 2 % 2 == 0, types.activations, types.kv};
}

ModelSpec spec_of(int dim) {
  ModelSpec spec = decoder_spec("llama");
  spec.head_dim = dim;
  return spec;
}

TEST_P(KernelTexts, OfDecodeSteps) {
  int way = 0;
  for (const Types& types : kTypes) {
    for (const int dim : kDims) {
      begin();  // merge does not know the type of keys and values
      const DecodeShape shape = shape_of(dim, way++, types);
      std::unique_ptr<DecodeKernels> kernels;
      compiles({"merge"}, [&] { kernels = make_cuda_kernels(shape, spec_of(dim), code_); });
      if (HasFatalFailure()) return;
      const mx::array pool = zeros({shape.kv_heads, 32, dim}, types.kv);
      const mx::array qkv = zeros({2, 24 * dim}, types.activations);
      const mx::array norm = zeros({dim}, types.activations);
      AttendStep step;
      step.plan = zeros({2, 2}, mx::int32);
      step.rows = 2;
      compiles({"attend"}, [&] { kernels->attend(step, qkv, pool, pool, norm, norm); });
      step.shares = 3;
      compiles({"attend_shares"}, [&] { kernels->attend(step, qkv, pool, pool, norm, norm); });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(KernelTexts, OfNormsAndFewRows) {
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    const auto kernels = make_cuda_kernels(shape_of(64, 0, {type, type}), spec_of(64), code_);
    const mx::array x = zeros({3, 256}, type);
    compiles({"add_norm"}, [&] { kernels->add_norm(x, x, zeros({256}, type)); });
    if (HasFatalFailure()) return;
    if (type == mx::float32) continue;
    for (const int bits : {4, 8}) {
      for (const int group : {32, 64, 128}) {
        Matrix matrix;
        matrix.weight = zeros({96, 256 * bits / 32}, mx::uint32);
        matrix.scales = matrix.biases = zeros({96, 256 / group}, type);
        matrix.bits = bits;
        matrix.group = group;
        ASSERT_TRUE(few_rows_take(matrix, type, 3));
        for (const bool gated : {false, true}) {
          compiles({"few_rows"}, [&] { kernels->few_rows(x, matrix, gated); });
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(KernelTexts, OfRows) {
  int way = 0;
  for (const Types& types : kTypes) {
    for (const int dim : kDims) {
      const DecodeShape shape = shape_of(dim, way++, types);
      const auto kernels = make_cuda_row_kernels(shape, spec_of(dim), code_);
      const mx::array pool = zeros({shape.kv_heads, 32, dim}, types.kv);
      const mx::array norm = zeros({dim}, types.activations);
      PlaceStep step;
      step.plan = zeros({2, 3}, mx::int32);
      step.rows = 3;
      compiles({"place"}, [&] {
        kernels->place(step, zeros({3, 24 * dim}, types.activations), pool, pool, norm, norm);
      });
      if (HasFatalFailure()) return;
    }
  }
  for (const mx::Dtype type : {mx::float32, mx::float16, mx::bfloat16}) {
    const DecodeShape shape = shape_of(64, 0, {type, type});
    const mx::array x = zeros({3, 256}, type), weight = zeros({256}, type);
    const auto kernels = make_cuda_row_kernels(shape, encoder_spec("bert"), code_);
    compiles({"gated"}, [&] { kernels->gated(x); });
    compiles({"add_layer_norm"}, [&] { kernels->add_layer_norm(x, x, weight, std::nullopt); });
    compiles({"add_layer_norm"}, [&] { kernels->add_layer_norm(x, x, weight, weight); });
    for (const bool mean : {false, true}) {
      for (const bool normalize : {false, true}) {
        compiles({"pool_texts"}, [&] {
          kernels->pool({mean, normalize}, x, zeros({2}, mx::int32), zeros({1, 256}, mx::float32));
        });
      }
    }
    if (HasFatalFailure()) return;
  }
  // The same for all models.
  const auto kernels = make_cuda_row_kernels(shape_of(64, 0, kTypes[0]), spec_of(64), code_);
  for (const mx::Dtype told : {mx::float32, mx::int32}) {
    compiles({"tell"}, [&] { kernels->tell(zeros({9}, told), zeros({9}, told)); });
  }
  compiles({"draw"}, [&] {
    kernels->draw(zeros({2, 1000}, mx::float32), zeros({2}, mx::int32),
                  zeros({2, Draw::kWords}, mx::int32), zeros({2}, mx::int32));
  });
}

TEST_P(KernelTexts, OfTextsInOneLaunch) {
  // Each text takes its time: a type, a head's size and an activation with each other.
  const auto compile = [&](mx::Dtype type, int dim, int heads, int activation) {
    EncodeForm form;
    form.type = type;
    form.head_dim = dim;
    form.heads = heads;
    form.hidden = heads * dim;
    form.feed_forward = 4 * form.hidden;
    form.activation = activation;
    ASSERT_TRUE(encode_takes(form));
    compiles({"encode"}, [&] { make_cuda_encode(form, code_)->prepare(64 << 10); });
  };
  compile(mx::float16, 32, 12, 0);
  compile(mx::bfloat16, 128, 8, 2);
}

TEST_P(KernelTexts, OfPromptsAndTexts) {
  for (const mx::Dtype type : {mx::float16, mx::bfloat16}) {
    for (const int dim : {64, 80, 128, 256}) {
      PrefillShape shape{16, 4, dim, true, type};
      PrefillStep step;
      step.plan = zeros({kTilePlan + 1}, mx::int32);
      step.tiles = 1;
      step.rows = 3;
      ASSERT_TRUE(prefill_takes(shape));
      const mx::array pool = zeros({4, 32, dim}, type);
      compiles({"prefill"}, [&] {
        make_cuda_prefill(shape, code_)->attend(step, zeros({3, 16, 1, dim}, type), pool, pool);
      });
      shape.pool = false;
      compiles({"prefill_texts"}, [&] {
        make_cuda_prefill(shape, code_)->attend_texts(step, zeros({3, 24 * dim}, type));
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(KernelTexts, OfStepsInOneLaunch) {
  const std::vector<int> formats[] = {{4064}, {8064}, {16000}, {4032, 4128, 8032, 16000}};
  int way = 0;
  for (const mx::Dtype type : {mx::float16, mx::bfloat16}) {
    for (size_t i = 0; i < std::size(formats); ++i) {
      // Each type with each head and each format.
      const int dim = kDims[(i + (type == mx::float16 ? 0 : 1)) % std::size(kDims)];
      const mx::Dtype kv = formats[i].size() > 1 ? mx::float32 : type;
      const StepForm form = {.shape = shape_of(dim, way++, {type, kv}),
                             .formats = formats[i],
                             .layers = 2,
                             .hidden = 256,
                             .feed_forward = 512,
                             .vocab = 1000,
                             .slots = 32,
                             .epsilon = 1e-5f};
      const auto kernel = make_cuda_step(form, code_);
      const StepInputs inputs = {zeros({99}, mx::int64),   zeros({4}, mx::int64),
                                 zeros({3}, mx::int32),    zeros({3, 4}, mx::int32),
                                 zeros({4096}, mx::uint8), zeros({8}, mx::int32)};
      const int memory = *step_memory(form, 3, 227 << 10);
      const std::string name = fmt::format("decode_step_{}", memory);
      compiles({name.c_str()}, [&] { kernel->run(inputs, 3, memory, 10); });
      if (HasFatalFailure()) return;
    }
  }
  const auto kernel = make_cuda_step({.shape = shape_of(64, 0, kTypes[1])}, code_);
  const mx::array dense = zeros({4}, mx::float16), packed = zeros({4}, mx::uint32);
  compiles({"addresses"}, [&] { kernel->addresses({dense, packed, int64_t{-1} << 40}); });
  // Once a process, where it runs.
  if (!Wall::get().has_gpu()) compiles({"multiprocessors"}, [&] { kernel->blocks(); });
  // Numbers are no part of the text, types are.
  compiles({}, [&] { kernel->addresses({dense, packed, int64_t{7}}); });
  compiles({"addresses"}, [&] { kernel->addresses({packed, packed, int64_t{7}}); });
}

INSTANTIATE_TEST_SUITE_P(, KernelTexts, ::testing::Values("sm_80", "sm_90", "sm_100"),
                         [](const auto& one) { return std::string(one.param); });

TEST(Nvrtc, SaysWhatIsWrong) {
  const auto failure_of = [](const auto& act) -> std::string {
    try {
      act();
    } catch (const std::runtime_error& failure) {
      return failure.what();
    }
    return "none";
  };
  const auto has = [](const std::string& text, std::string_view part) {
    return text.find(part) != text.npos ? "" : text;
  };
  const std::string said =
      failure_of([] { nvrtc_compiler("sm_90").compile("int none() { return missing; }"); });
  EXPECT_EQ(has(said, nvrtc_is_loaded() ? "\"missing\" is undefined" : "is not loaded"), "");
}

}  // namespace
}  // namespace impetus::mlx_backend

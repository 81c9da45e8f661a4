// The conformance suite over MLX: as this machine runs it, and on its CPU by a GPU's paths (fused
// rotation, batched attention, KV moved by operations, steps run ahead).
#include "cpu/cpu_backend.h"
#include "mlx/mlx_backend.h"
#include "mlx/test_support.h"
#include "tests/conformance/decoders.h"
#include "tests/conformance/encoders.h"
#include "tests/conformance/files.h"

namespace impetus::conformance {
namespace {

std::vector<Subject> subjects() {
  const auto subject = [](std::string name, MlxOptions options) {
    Subject made;
    made.name = std::move(name);
    made.make = [options](int) {
      auto backend = make_mlx_backend(options);
      EXPECT_TRUE(backend.ok()) << backend.error().message;
      return std::move(*backend);
    };
    made.narrow_activations = true;
    made.partner = [] { return std::move(*make_cpu_backend({1, ""})); };
    return made;
  };
  using RunAhead = MlxOptions::RunAhead;
  return {
#if defined(__linux__) && !defined(IMPETUS_SANITIZED)
      // Decode steps by the kernels of CUDA, on the host.
      subject("HostKernels", mlx_backend::with_host_kernels()),
#endif
      subject("Default", {}),
      // Logits and scores in pieces of a few rows.
      subject("InPieces", {.elements_max = 500}),
      subject("AsGpu", {.run_ahead = RunAhead::on, .as_gpu = true, .spin_seconds = 1})};
}

const auto name_of = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Mlx, Conformance, ::testing::ValuesIn(subjects()), name_of);
INSTANTIATE_TEST_SUITE_P(Mlx, Refusals, ::testing::ValuesIn(subjects()), name_of);

}  // namespace
}  // namespace impetus::conformance

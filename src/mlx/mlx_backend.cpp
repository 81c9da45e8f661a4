#include "mlx/mlx_backend.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>
#include <utility>

#include "base/guarded.h"
#include "base/log.h"
#include "base/sha256.h"
#include "mlx/cuda_kernel.h"
#include "mlx/decode_kernels.h"
#include "mlx/decode_step.h"
#include "mlx/decoder.h"
#include "mlx/dequantised.h"
#include "mlx/encode_step.h"
#include "mlx/jit_folder.h"
#include "mlx/kernel_code.h"
#include "mlx/prefill_kernel.h"
#include "mlx/row_kernels.h"
#include "mlx/wall.h"

namespace impetus {
namespace mlx_backend {
namespace {

// MLX's own compiled kernels (CUDA). One for the process, since MLX asks for its folder once; it
// goes when the process ends, and what it needs to be sealed may have gone before.
struct MlxCompiled {
  std::filesystem::path root;
  std::string key, run;  // empty: not ours to keep
  bool opened = false;
  std::unique_ptr<JitFolder> folder;

  static MlxCompiled& get() {
    static MlxCompiled one;
    return one;
  }
};

// MLX looks for code of a kernel's name on disk before it takes what it is given, where others may
// write, unless it is told where to look: here, where no other thread reads the environment yet.
void name_compiled_folder(const std::filesystem::path& root) {
  static constexpr char kFolder[] = "MLX_PTX_CACHE_DIR";
  static std::once_flag once;
  std::call_once(once, [&] {
    if (std::getenv(kFolder) != nullptr) return;  // the user's own
    const auto compiler = guarded("MLX's kernels", []() -> Result<std::string> {
      return Sha256().add(nvrtc_compiler(device_architecture()).key).hex();
    });
    if (!compiler.ok()) {
      log::warn("what MLX compiles is not kept: {}", compiler.error().message);
      setenv(kFolder, "/dev/null/none", 0);
      return;
    }
    MlxCompiled& compiled = MlxCompiled::get();
    compiled.root = root;
    compiled.key = fmt::format("{}-{}", mlx_version(), compiler->substr(0, 16));
    compiled.run = JitFolder::new_run();
    setenv(kFolder, (root / compiled.key / compiled.run).c_str(), 0);
  });
}

// Before the first load, since commands that load nothing need not wait for it.
void open_compiled_folder() {
  const std::lock_guard turn(Wall::get().mutex());
  MlxCompiled& compiled = MlxCompiled::get();
  if (compiled.run.empty() || std::exchange(compiled.opened, true)) return;
  auto made = guarded("MLX's compiled kernels",
                      [&] { return JitFolder::open(compiled.root, compiled.key, compiled.run); });
  if (made.ok()) {
    compiled.folder = std::move(*made);
    return;
  }
  log::warn("MLX compiles its kernels at every start, as what was compiled cannot be kept: {}",
            made.error().message);
}

void seal_what_mlx_compiled() {
  try {
    // Waits for no step: one may hang in the driver.
    const std::unique_lock turn(Wall::get().mutex(), std::try_to_lock);
    const auto& folder = MlxCompiled::get().folder;
    if (turn && folder != nullptr) folder->seal();
  } catch (const std::exception& failure) {
    log::debug("MLX's compiled kernels are not kept: {}", failure.what());
  }
}

class MlxBackend final : public Backend {
 public:
  explicit MlxBackend(std::shared_ptr<const Machine> machine) : machine_(std::move(machine)) {}
  ~MlxBackend() override { seal_what_mlx_compiled(); }

  const BackendDescriptor& descriptor() const override { return machine_->descriptor; }
  const MemoryLedger* memory() const override { return machine_->memory.get(); }
  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger& ledger) override {
    return kept([&] { return make_decoder(machine_, spec, weights, options, ledger_of(ledger)); });
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger& ledger) override {
    return kept([&] { return make_encoder(machine_, spec, weights, options, ledger_of(ledger)); });
  }

 private:
  // What MLX compiles for a load is kept.
  template <typename Load>
  auto kept(Load load) const -> decltype(load()) {
    if (machine_->cuda) open_compiled_folder();
    auto made = load();
    seal_what_mlx_compiled();
    return made;
  }
  MemoryLedger& ledger_of(MemoryLedger& host) const {
    return machine_->memory ? *machine_->memory : host;
  }

  std::shared_ptr<const Machine> machine_;
};

// One for the process and folder, so that models share what was compiled. Throws where the compiler
// is not there; the next call tries again.
std::shared_ptr<KernelCode> code_in(const std::filesystem::path& folder) {
  static std::mutex mutex;
  static std::map<std::filesystem::path, std::shared_ptr<KernelCode>> known;
  const std::lock_guard lock(mutex);
  auto& code = known[folder];
  if (!code) code = std::make_shared<KernelCode>(nvrtc_compiler(device_architecture()), folder);
  return code;
}

}  // namespace
}  // namespace mlx_backend

Result<std::unique_ptr<Backend>> make_mlx_backend(const MlxOptions& options) {
  using namespace mlx_backend;
  return guarded("mlx", [&]() -> Result<std::unique_ptr<Backend>> {
    Wall& wall = Wall::get();
    auto machine = std::make_shared<Machine>();
    machine->cpu = options.cpu || !wall.has_gpu();
    machine->as_gpu = options.as_gpu;
    machine->cuda = wall.backend_name(machine->cpu) == "mlx-cuda";
    if (machine->cuda && !options.kernels_folder.empty()) {
      name_compiled_folder(options.kernels_folder.parent_path() / "mlx");
    }
    const int64_t own = options.memory_bytes > 0 ? options.memory_bytes
                        : machine->cuda          ? wall.memory_for_models()
                                                 : 0;
    if (own > 0) machine->memory = std::make_unique<MemoryLedger>(own);
    constexpr double kSpinSeconds = 2e-3;
    machine->spin_seconds = options.spin_seconds >= 0 ? options.spin_seconds
                            : machine->cuda           ? kSpinSeconds
                                                      : 0;
    machine->dequantised_from = options.dequantised_from;
    machine->fault = options.fault;
    if (options.elements_max > 0) {
      machine->logit_elements = machine->score_elements = options.elements_max;
    }
    using RunAhead = MlxOptions::RunAhead;
    RunAhead wanted = options.run_ahead;
    if (const char* forced = std::getenv("IMPETUS_MLX_RUN_AHEAD");
        wanted == RunAhead::automatic && forced != nullptr) {
      wanted = std::string_view(forced) == "on" ? RunAhead::on : RunAhead::off;
    }
    machine->run_ahead = wanted == RunAhead::on || (wanted == RunAhead::automatic && !machine->cpu);
    machine->decode_kernels = options.decode_kernels;
    machine->decode_step = options.decode_step;
    machine->step_launches = options.step_launches;
    machine->prefill_kernel = options.prefill_kernel;
    machine->row_kernels = options.row_kernels;
    machine->encode_step = options.encode_step;
    machine->encode_rows = options.encode_rows;
    // For comparing them with MLX's operations.
    const char* kernels = std::getenv("IMPETUS_MLX_KERNELS");
    const std::string_view chosen = kernels != nullptr ? kernels : "";
    const bool unwanted = chosen == "off", parts = unwanted || chosen == "parts";
    // Makers may throw: a model's load then goes on with MLX's operations, and a warning says why.
    const auto code = [folder = options.kernels_folder] { return code_in(folder); };
    if (machine->cuda && !machine->decode_kernels && !unwanted) {
      machine->decode_kernels = [code](const DecodeShape& shape, const ModelSpec& spec) {
        return make_cuda_kernels(shape, spec, code());
      };
    }
    if (machine->cuda && !machine->decode_step && !parts) {
      machine->decode_step = [code](const StepForm& form) { return make_cuda_step(form, code()); };
    }
    if (machine->cuda && !machine->prefill_kernel && !unwanted) {
      machine->prefill_kernel = [code](const PrefillShape& shape) {
        return make_cuda_prefill(shape, code());
      };
    }
    if (machine->cuda && !machine->row_kernels && !unwanted) {
      machine->row_kernels = [code](const DecodeShape& shape, const ModelSpec& spec) {
        return make_cuda_row_kernels(shape, spec, code());
      };
    }
    if (machine->cuda && !machine->encode_step && !parts) {
      machine->encode_step = [code](const EncodeForm& form) {
        return make_cuda_encode(form, code());
      };
    }
    machine->product_seconds = options.product_seconds;
    if (machine->cuda && !machine->product_seconds && !unwanted) {
      machine->product_seconds = product_seconds;
    }
    BackendDescriptor& descriptor = machine->descriptor;
    descriptor.device = "mlx";
    descriptor.backend = wall.backend_name(machine->cpu);
    descriptor.name = fmt::format("{}, MLX {}", wall.device_name(machine->cpu), mlx_version());
    descriptor.weights = {DType::f32,  DType::f16,  DType::bf16,
                          DType::q8_0, DType::q4_0, DType::grouped};
    descriptor.kv = {DType::f32, DType::f16, DType::bf16, DType::q8_0};
    descriptor.threads = 1;
    descriptor.enqueues = !machine->cpu;
    // BLAS and MLX's kernels are chosen by the shape of the whole batch.
    descriptor.batch_invariant = false;
    return std::unique_ptr<Backend>(std::make_unique<MlxBackend>(std::move(machine)));
  });
}

std::string mlx_version() {
  return ::mlx::core::version();
}

}  // namespace impetus

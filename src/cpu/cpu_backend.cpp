#include "cpu/cpu_backend.h"

#include <cstdlib>

#include "cpu/decoder.h"
#include "cpu/encoder.h"
#include "cpu/processors.h"
#include "cpu/product.h"

namespace impetus {
namespace cpu {
namespace {

constexpr int kThreadsMax = 1024;

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(std::shared_ptr<Machine> machine) : machine_(std::move(machine)) {}

  const BackendDescriptor& descriptor() const override { return machine_->descriptor; }
  Machine& machine() { return *machine_; }

  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet& weights,
                                                 const LoadOptions& options,
                                                 MemoryLedger& ledger) override {
    IMPETUS_TRY(const DecoderWeights tensors, resolve_decoder(spec, weights));
    return make_decoder(machine_, spec, tensors, weights, options, ledger);
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger& ledger) override {
    IMPETUS_TRY(const EncoderWeights tensors, resolve_encoder(spec, weights));
    return make_encoder(machine_, spec, tensors, weights, options, ledger);
  }

 private:
  std::shared_ptr<Machine> machine_;
};

Result<const KernelTable*> choose_kernels(std::string wanted) {
  const KernelTables tables = supported_kernels();
  if (wanted.empty()) {
    if (const char* forced = std::getenv("IMPETUS_CPU_ISA")) wanted = forced;
  }
  if (wanted.empty()) return tables.tables[tables.count - 1];
  std::string names;
  for (int i = 0; i < tables.count; ++i) {
    if (wanted == tables.tables[i]->name) return tables.tables[i];
    names += (i == 0 ? "" : ", ") + std::string(tables.tables[i]->name);
  }
  return error(ErrorCode::unsupported,
               "instruction set '{}': this machine and build have {} (IMPETUS_CPU_ISA)", wanted,
               names);
}

}  // namespace
}  // namespace cpu

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  IMPETUS_TRY(const cpu::KernelTable* kernels, cpu::choose_kernels(options.isa));
  if (options.threads < 0 || options.threads > cpu::kThreadsMax) {
    return error(ErrorCode::invalid_argument, "{} threads: between 1 and {}, or 0 for all cores",
                 options.threads, cpu::kThreadsMax);
  }
  const int threads = options.threads > 0 ? options.threads : cpu::usable_cores();
  return cpu::guarded("cpu", [&]() -> Result<std::unique_ptr<Backend>> {
    auto machine = std::make_shared<cpu::Machine>(threads);
    machine->kernels = kernels;
    BackendDescriptor& descriptor = machine->descriptor;
    descriptor.device = "cpu";
    descriptor.backend = fmt::format("cpu-{}", kernels->name);
    descriptor.name =
        fmt::format("{}, {} thread{}", cpu::processor_name(), threads, threads == 1 ? "" : "s");
    descriptor.weights = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0};
    descriptor.kv = {DType::f32, DType::f16, DType::bf16};
    descriptor.threads = threads;
    return std::unique_ptr<Backend>(std::make_unique<cpu::CpuBackend>(std::move(machine)));
  });
}

}  // namespace impetus

#include "cpu/cpu_backend.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>

#include "cpu/decoder.h"
#include "cpu/encoder.h"
#include "cpu/kernels/peaks.h"
#include "cpu/product.h"
#include "hardware/processors.h"

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

// The sum over all threads of what `one` measures on each while the others do the same.
template <typename One>
double on_all_threads(ThreadPool& pool, One one) {
  const int threads = pool.threads();
  std::vector<double> each(static_cast<size_t>(threads));
  std::atomic<int> started = 0;
  pool.parallel_for(threads, [&](int64_t item, int) {
    // Nobody takes a second item before everybody has one.
    ++started;
    while (started.load() < threads) std::this_thread::yield();
    each[static_cast<size_t>(item)] = one(item);
  });
  return std::accumulate(each.begin(), each.end(), 0.0);
}

}  // namespace
}  // namespace cpu

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  IMPETUS_TRY(const cpu::KernelTable* kernels, cpu::choose_kernels(options.isa));
  if (options.threads < 0 || options.threads > cpu::kThreadsMax) {
    return error(ErrorCode::invalid_argument, "{} threads: between 1 and {}, or 0 for all cores",
                 options.threads, cpu::kThreadsMax);
  }
  const int threads = options.threads > 0 ? options.threads : usable_cores();
  return guarded("cpu", [&]() -> Result<std::unique_ptr<Backend>> {
    auto machine = std::make_shared<cpu::Machine>(threads);
    machine->kernels = kernels;
    BackendDescriptor& descriptor = machine->descriptor;
    descriptor.device = "cpu";
    descriptor.backend = fmt::format("cpu-{}", kernels->name);
    descriptor.name =
        fmt::format("{}, {} thread{}", processor_name(), threads, threads == 1 ? "" : "s");
    descriptor.weights = {DType::f32,  DType::f16,  DType::bf16,
                          DType::q8_0, DType::q4_0, DType::grouped};
    descriptor.kv = {DType::f32, DType::f16, DType::bf16};
    descriptor.threads = threads;
    return std::unique_ptr<Backend>(std::make_unique<cpu::CpuBackend>(std::move(machine)));
  });
}

CpuPeaks measure_cpu_peaks(Backend& cpu, double seconds) {
  CpuPeaks peaks;
  auto* backend = dynamic_cast<cpu::CpuBackend*>(&cpu);
  if (backend == nullptr) return peaks;
  cpu::ThreadPool& pool = backend->machine().pool;
  pool.set_threads(0);
  const cpu::KernelTable& kernels = *backend->machine().kernels;
  const double part = seconds / 4;
  const auto giga = [&](auto measure) { return cpu::on_all_threads(pool, measure) * 1e-9; };
  peaks.int8_gigaops_per_second = giga([&](int64_t) { return peak_int8_ops(kernels, part); });
  peaks.bf16_gigaflops_per_second = giga([&](int64_t) { return peak_bf16_ops(kernels, part); });
  peaks.f32_gigaflops_per_second = giga([&](int64_t) { return peak_f32_ops(kernels, part); });

  // Far more than any cache; a part a thread.
  constexpr int64_t kReadBytes = int64_t{256} << 20;
  const int64_t share = kReadBytes / pool.threads() / 1024 * 1024;
  auto memory = cpu::Memory::map(kReadBytes, "bandwidth probe", true);
  if (!memory.ok()) return peaks;
  peaks.read_gigabytes_per_second = giga([&](int64_t thread) {
    std::byte* mine = memory->data() + thread * share;
    std::memset(mine, 1, static_cast<size_t>(share));
    return peak_read_bytes(kernels, mine, static_cast<size_t>(share), part);
  });
  return peaks;
}

}  // namespace impetus

// impetus hardware: what this machine is made of, and what of it this process may use.
#include <chrono>
#include <ctime>
#include <set>

#include <fmt/chrono.h>
#include <CLI/CLI.hpp>

#include "backend/measure.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/processors.h"
#include "hardware/inventory.h"
#include "hardware/processors.h"
#include "planner/predict.h"
#include "runtime/profiles.h"

namespace impetus::cli {
namespace {

struct Options {
  bool json = false, measure = false;
  int threads = 0;
  std::vector<std::string> devices;
};

constexpr size_t kLabelWidth = 9;
constexpr size_t kLineWidth = 100;

// Lines beside a label that stands before the first of them.
class Section {
 public:
  explicit Section(std::string label) : label_(std::move(label)) {}

  // Breaks between words where a line would grow too long.
  void line(std::string_view text) {
    while (true) {
      const size_t room = kLineWidth - kLabelWidth;
      size_t end = text.size();
      if (end > room) {
        end = text.rfind(' ', room);
        if (end == std::string_view::npos || end == 0) end = text.size();
      }
      fmt::print("{:<{}}{}\n", label_, kLabelWidth, text.substr(0, end));
      label_.clear();
      if (end == text.size()) return;
      text.remove_prefix(end + 1);
    }
  }

 private:
  std::string label_;
};

std::string bytes_text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  const auto in = [&](int shift) { return value / static_cast<double>(int64_t{1} << shift); };
  if (bytes >= int64_t{100} << 30) return fmt::format("{:.0f} GiB", in(30));
  if (bytes >= int64_t{1} << 30) return fmt::format("{:.1f} GiB", in(30));
  return bytes >= 1 << 20 ? fmt::format("{:.3g} MiB", in(20)) : fmt::format("{:.3g} KiB", in(10));
}

std::string count_text(int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  std::string text;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    if (!text.empty()) text += between;
    text += part;
  }
  return text;
}

void print_cpu(const CpuInfo& cpu) {
  Section section("CPU");
  section.line(cpu.model.empty() ? "unknown" : cpu.model);
  std::string cores = count_text(cpu.physical_cores, "core");
  if (cpu.performance_cores > 0) {
    cores += fmt::format(" ({} performance, {} efficiency)", cpu.performance_cores,
                         cpu.efficiency_cores);
  }
  section.line(joined({cores, count_text(cpu.logical_cores, "thread"),
                       cpu.sockets > 1 ? count_text(cpu.sockets, "socket") : "",
                       cpu.numa_nodes > 1 ? count_text(cpu.numa_nodes, "memory node") : ""},
                      ", "));
  if (!cpu.caches.empty()) {
    std::vector<std::string> caches;
    for (const CacheInfo& cache : cpu.caches) {
      const std::string whose = cache.cores_sharing == 1
                                    ? "a core"
                                    : fmt::format("shared by {} cores", cache.cores_sharing);
      caches.push_back(fmt::format("L{} {} {}", cache.level, bytes_text(cache.bytes), whose));
    }
    section.line("caches: " + joined(caches, ", "));
  }
  section.line(joined(cpu.instruction_sets, " "));
  std::string mine = "this process may use " + count_text(cpu.usable_cores, "thread");
  if (cpu.quota_cores > 0) {
    mine += fmt::format(", by a quota of {:.3g} CPUs", cpu.quota_cores);
  } else if (cpu.allowed_cores < cpu.physical_cores) {
    mine += fmt::format(", by its affinity to {}", count_text(cpu.allowed_cores, "core"));
  }
  section.line(mine);
}

void print_memory(const MemoryInfo& memory) {
  Section section("Memory");
  section.line(joined({memory.total_bytes > 0 ? bytes_text(memory.total_bytes) : "unknown",
                       memory.unified ? "shared with the GPU" : ""},
                      ", "));
  std::string mine =
      fmt::format("this process may use {} of {} available now", bytes_text(memory.usable_bytes),
                  bytes_text(memory.available_bytes));
  if (memory.limit_bytes > 0) {
    mine += fmt::format(", within a limit of {}", bytes_text(memory.limit_bytes));
  }
  section.line(mine);
}

void print_gpu(const GpuInfo& gpu) {
  Section section("GPU");
  section.line(
      joined({gpu.name, gpu.architecture, gpu.driver.empty() ? "" : "driver " + gpu.driver}, ", "));
  std::vector<std::string> facts;
  if (gpu.cores > 0) {
    facts.push_back(count_text(gpu.cores, gpu.vendor == "NVIDIA" ? "multiprocessor" : "core"));
  }
  if (gpu.memory_bytes > 0) facts.push_back(bytes_text(gpu.memory_bytes));
  if (gpu.available_bytes > 0) facts.push_back(bytes_text(gpu.available_bytes) + " available");
  if (gpu.working_set_bytes > 0) {
    facts.push_back("working set " + bytes_text(gpu.working_set_bytes));
  }
  if (gpu.memory_bytes_per_second > 0) {
    facts.push_back(fmt::format("{:.0f} GB/s", gpu.memory_bytes_per_second * 1e-9));
  }
  if (!facts.empty()) section.line(joined(facts, ", "));
  if (gpu.vendor == "Apple") {
    section.line(fmt::format("neural accelerators: {} ({})",
                             !gpu.neural_accelerators ? "none"
                             : mlx_absent().empty()   ? "used by MLX"
                                                      : "present, not used without MLX",
                             gpu.neural_accelerators_why));
  }
}

void print_npu(const NpuInfo& npu) {
  Section("NPU").line(
      joined({npu.name, npu.family, npu.cores > 0 ? count_text(npu.cores, "core") : "",
              npu.driver.empty() ? "no driver" : "driver " + npu.driver},
             ", "));
}

void print_power(const PowerInfo& power) {
  std::vector<std::string> facts{power.source};
  if (power.battery_percent >= 0) {
    facts.push_back(fmt::format("battery at {:.0f} %", power.battery_percent));
  }
  if (!power.thermal.empty()) facts.push_back("heat " + power.thermal);
  const std::string text = joined(facts, ", ");
  if (!text.empty()) Section("Power").line(text);
}

void print_text(const Inventory& inventory) {
  Section("System").line(
      joined({inventory.os.name, inventory.os.kernel.empty() ? "" : "kernel " + inventory.os.kernel,
              inventory.cpu.architecture},
             ", "));
  print_cpu(inventory.cpu);
  print_memory(inventory.memory);
  for (const GpuInfo& gpu : inventory.gpus) print_gpu(gpu);
  if (inventory.gpus.empty()) Section("GPU").line("none");
  for (const NpuInfo& npu : inventory.npus) print_npu(npu);
  if (inventory.npus.empty()) Section("NPU").line("none");
  print_power(inventory.power);
  if (inventory.missing.empty()) return;
  fmt::print("\nNot found or not readable:\n");
  for (const Missing& missing : inventory.missing) {
    fmt::print("  {}: {}\n", missing.what, missing.why);
  }
}

// Rates by thread count: a line each, a column a count.
void print_profile(const DeviceProfile& profile) {
  Section section("Measured");
  section.line(fmt::format("{}, {}", profile.backend, profile.source));
  const std::vector<int> threads = thread_counts(profile);
  const int width = profile.layers.empty() ? 28 : 36;  // of what stands before the figures
  const auto row = [&](const std::string& what, const char* unit, auto value_of) {
    std::string line = fmt::format("{:<{}}", what, width);
    for (const int count : threads) {
      const double value = value_of(count);
      line += value <= 0     ? fmt::format("{:>9}", "")
              : value >= 100 ? fmt::format("{:>9.0f}", value)
                             : fmt::format("{:>9.3g}", value);
    }
    section.line(line + "  " + unit);
  };
  row("threads", "", [](int count) { return static_cast<double>(count); });
  std::set<int64_t> sets;
  for (const ReadRate& rate : profile.read) sets.insert(rate.working_set_bytes);
  for (const int64_t size : sets) {
    row(fmt::format("read weights of {:.0f} MB", static_cast<double>(size) * 1e-6), "GB/s",
        [&](int count) {
          for (const ReadRate& rate : profile.read) {
            if (rate.threads == count && rate.working_set_bytes == size) {
              return rate.bytes_per_second * 1e-9;
            }
          }
          return 0.0;
        });
  }
  std::set<std::pair<DType, int64_t>> products;
  for (const MatrixRate& rate : profile.matrix) products.emplace(rate.weights, rate.rows);
  for (const auto& [type, rows] : products) {
    if (rows != 1 && rows != 16 && rows != 512) continue;  // --json has them all
    row(fmt::format("products of {}, {} row{}", to_string(type), rows, rows == 1 ? "" : "s"),
        "GOP/s", [&](int count) {
          for (const MatrixRate& rate : profile.matrix) {
            if (rate.threads == count && rate.weights == type && rate.rows == rows) {
              return rate.ops_per_second * 1e-9;
            }
          }
          return 0.0;
        });
  }
  for (const ShapeClass shape : {ShapeClass::decode, ShapeClass::prefill, ShapeClass::encoder}) {
    row(fmt::format("attention, {}", to_string(shape)), "GOP/s", [&](int count) {
      for (const AttentionRate& rate : profile.attention) {
        if (rate.threads == count && rate.shape == shape) return rate.ops_per_second * 1e-9;
      }
      return 0.0;
    });
  }
  // Those of a model of about a billion weights; --json has all.
  for (const LayerTime& time : profile.layers) {
    const bool encoder = time.shape == ShapeClass::encoder;
    if (encoder ? time.parameters > 10'000'000 || time.parameters < 5'000'000
                : time.parameters > 100'000'000 || time.parameters < 20'000'000) {
      continue;
    }
    if (time.rows == 4 || (time.rows == 16 && time.shape != ShapeClass::decode)) continue;
    section.line(fmt::format("{:<{}}{:>9.3g}  us",
                             fmt::format("{} layer, {:.0f} M {}, {} row{}", to_string(time.shape),
                                         static_cast<double>(time.parameters) * 1e-6,
                                         weights_name(time), time.rows, time.rows == 1 ? "" : "s"),
                             width, time.seconds * 1e6));
  }
  if (profile.layers.empty()) {
    row("a layer, beside its work", "us", [&](int count) {
      for (const Overhead& cost : profile.overhead) {
        if (cost.threads == count && cost.shape == ShapeClass::decode)
          return cost.layer_seconds * 1e6;
      }
      return 0.0;
    });
  }
  for (const Scatter& one : profile.scatter) {
    section.line(fmt::format("{:<{}}{:>9}  of that",
                             fmt::format("{} layers, by moment", to_string(one.shape)), width,
                             fmt::format("{:.2f}-{:.2f}", one.least, one.most)));
  }
  if (profile.copy_bytes_per_second > 0) {
    section.line(fmt::format("{:<{}}{:>9.3g}  GB/s", "KV out or in", width,
                             profile.copy_bytes_per_second * 1e-9));
  }
}

// How much of the processors' time other programs took between two calls, 0 to 1; negative where
// the system does not say. Figures measured beside a busy program are too low.
class Disturbance {
 public:
  Disturbance() { probe_.read(); }
  double others() {
    const double own = static_cast<double>(std::clock() - own_) / CLOCKS_PER_SEC;
    const double wall =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    for (const ProcessorMetrics& one : probe_.read()) {
      if (one.id != "cpu" || one.used_share < 0 || wall <= 0) continue;
      return std::max(0.0, one.used_share - own / wall / std::max(1, usable_cores()));
    }
    return -1;
  }

 private:
  MetricsProbe probe_;
  std::clock_t own_ = std::clock();
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Measures each backend and keeps it; the profiles in their order.
Result<std::vector<DeviceProfile>> measure(const Inventory& inventory,
                                           std::span<const std::unique_ptr<Backend>> backends) {
  std::vector<DeviceProfile> profiles;
  for (const auto& backend : backends) {
    if (!backend->descriptor().emulated) continue;
    return error(ErrorCode::unsupported,
                 "{} only emulates a processor: there is nothing to measure",
                 backend->descriptor().backend);
  }
  for (const auto& backend : backends) {
    const BackendDescriptor& descriptor = backend->descriptor();
    MemoryLedger ledger(inventory.memory.usable_bytes);
    MeasureOptions options;
    Progress progress("measuring " + descriptor.backend, 100);
    options.progress = [&](const std::string&, double share) {
      progress.step(static_cast<int64_t>(share * 100));
    };
    const auto start = std::chrono::steady_clock::now();
    Disturbance disturbance;
    auto profile = measure_backend(*backend, ledger, options);
    if (!profile.ok()) return std::move(profile).error().within(descriptor.backend);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    profile->source =
        fmt::format("{:%Y-%m-%d}, in {:.1f} s", fmt::gmtime(std::time(nullptr)), seconds);
    if (const double others = disturbance.others(); others > 0.1) {
      profile->source +=
          fmt::format(", beside other programs ({:.0f} % of the processors)", others * 100);
      log::warn(
          "other programs used {:.0f} % of the processors meanwhile: {} will seem slower than it "
          "is; "
          "measure again when they rest",
          others * 100, descriptor.backend);
    }
    if (auto kept = ProfileStore().put(inventory, descriptor, *profile); !kept.ok()) {
      log::warn("not kept for later: {}", kept.error().message);
    }
    profiles.push_back(std::move(*profile));
  }
  return profiles;
}

Result<void> hardware(const Options& options) {
  const Inventory inventory = probe_inventory();
  IMPETUS_TRY(const Processors found, find_processors(options.devices, options.threads));
  std::vector<DeviceProfile> profiles;
  if (options.measure) {
    IMPETUS_TRY(profiles, measure(inventory, found.backends));
  } else {
    for (const auto& backend : found.backends) {
      if (auto kept = ProfileStore().find(inventory, backend->descriptor())) {
        profiles.push_back(std::move(*kept));
      }
    }
  }
  if (options.json) {
    json::object report = to_json(inventory);
    json::array all;
    for (const DeviceProfile& profile : profiles) all.push_back(to_json(profile));
    report["profiles"] = std::move(all);
    print_json(report);
    return {};
  }
  print_text(inventory);
  if (const std::string absent = mlx_absent(); !absent.empty()) {
    Section("MLX").line(absent);
  } else if (auto mlx = find_processors(std::vector<std::string>{"mlx"}, 0); mlx.ok()) {
    Section section("MLX");
    for (const auto& backend : mlx->backends) {
      const BackendDescriptor& descriptor = backend->descriptor();
      section.line(fmt::format(
          "{} on {}{}", descriptor.backend, descriptor.name,
          descriptor.batch_invariant
              ? ""
              : "; a row's bits may depend on its batch, so that equal requests can differ in the "
                "last digits of their probabilities"));
    }
  } else {
    Section("MLX").line(mlx.error().message);
  }
  for (const DeviceProfile& profile : profiles) {
    fmt::print("\n");
    print_profile(profile);
  }
  if (profiles.empty()) {
    fmt::print(
        "\nNot measured yet: `impetus hardware --measure` takes some seconds, and plans rest "
        "on it.\n");
  }
  return {};
}

}  // namespace

void add_hardware(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto* app = commands.add("hardware", "Say what this machine has, and what of it may be used",
                           "impetus hardware --measure", [options] { return hardware(*options); });
  app->add_flag(
      "--measure", options->measure,
      "Measure what the processors achieve (8 to 30 s each on a CPU), and keep it for planning");
  app->add_option("--device", options->devices, "Of these processors, or all (default: the best)")
      ->delimiter(',')
      ->type_name("LIST|all");
  app->add_option("--threads", options->threads, "Threads at most (default: as `serve` takes)")
      ->envname("IMPETUS_THREADS")
      ->check(CLI::Range(0, 1024));
  app->add_flag("--json", options->json, "As JSON");
}

}  // namespace impetus::cli

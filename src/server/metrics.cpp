#include "server/metrics.h"

#include <fstream>

#include <unistd.h>

#include <fmt/ranges.h>

namespace impetus {
namespace {

std::string escape(const std::string& label) {
  std::string text;
  for (const char c : label) {
    if (c == '\\' || c == '"') text += '\\';
    text += c == '\n' ? ' ' : c;
  }
  return text;
}

void family(std::string& out, const char* name, const char* type, const char* help) {
  out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  return file >> total >> resident ? resident * ::sysconf(_SC_PAGESIZE) : 0;
}

}  // namespace

void Histogram::observe(double seconds) {
  size_t bucket = 0;
  while (bucket < kBounds.size() && seconds > kBounds[bucket]) ++bucket;
  ++counts_[bucket];
  sum_ += seconds;
}

void Histogram::render(std::string& out, const std::string& name, const std::string& labels) const {
  const std::string comma = labels.empty() ? "" : labels + ",";
  const std::string braces = labels.empty() ? "" : "{" + labels + "}";
  uint64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf";
    out += fmt::format("{}_bucket{{{}le=\"{}\"}} {}\n", name, comma, bound, total);
  }
  out += fmt::format("{}_sum{} {}\n{}_count{} {}\n", name, braces, sum_, name, braces, total);
}

void Metrics::request_ended(const std::string& route, int status, double seconds) {
  const std::lock_guard lock(mutex_);
  ++requests_[{route, status}];
  latency_[route].observe(seconds);
}

void Metrics::answer_ended(const std::string& model, const Devices& devices, const Usage& usage,
                           const Timings& timings) {
  const std::lock_guard lock(mutex_);
  if (usage.completion_tokens < 1) return;
  const auto label = [](const std::vector<std::string>& names) {
    return fmt::format("{}", fmt::join(names, ","));
  };
  first_token_[{model, label(devices.prefill)}].observe(timings.prefill_seconds);
  if (usage.completion_tokens > 1) {
    token_time_[{model, label(devices.decode)}].observe(
        timings.decode_seconds / static_cast<double>(usage.completion_tokens - 1));
  }
}

void Metrics::connection(int change) {
  const std::lock_guard lock(mutex_);
  connections_ += change;
}

std::string Metrics::render(const std::vector<LaneMetrics>& lanes, const MemoryLedger& ledger,
                            const std::vector<DeviceMemory>& devices,
                            const std::vector<LostProcessor>& lost) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  family(out, "impetus_http_requests_total", "counter", "Requests answered, by route and status.");
  for (const auto& [key, count] : requests_) {
    out += fmt::format("impetus_http_requests_total{{route=\"{}\",status=\"{}\"}} {}\n",
                       escape(key.first), key.second, count);
  }
  family(out, "impetus_http_request_seconds", "histogram", "Request to end of its answer.");
  for (const auto& [route, histogram] : latency_) {
    histogram.render(out, "impetus_http_request_seconds",
                     fmt::format("route=\"{}\"", escape(route)));
  }
  const auto by_model = [&](const char* name, const char* help, const auto& histograms) {
    family(out, name, "histogram", help);
    for (const auto& [key, histogram] : histograms) {
      histogram.render(
          out, name,
          fmt::format("model=\"{}\",device=\"{}\"", escape(key.first), escape(key.second)));
    }
  };
  by_model("impetus_time_to_first_token_seconds", "Request to first token.", first_token_);
  by_model("impetus_time_per_output_token_seconds", "Mean time between an answer's tokens.",
           token_time_);

  const auto gauge = [&](const char* name, const char* type, const char* help, auto member) {
    family(out, name, type, help);
    for (const LaneMetrics& lane : lanes) {
      out += fmt::format("{}{{model=\"{}\"}} {}\n", name, escape(lane.model), lane.*member);
    }
  };
  gauge("impetus_requests_waiting", "gauge", "Queue depth.", &LaneMetrics::waiting);
  gauge("impetus_requests_running", "gauge", "Sequences being generated.", &LaneMetrics::running);
  gauge("impetus_preemptions_total", "counter", "Sequences sent back for want of KV blocks.",
        &LaneMetrics::preemptions);
  gauge("impetus_kv_blocks", "gauge", "KV blocks there are.", &LaneMetrics::kv_blocks_total);
  gauge("impetus_kv_blocks_used", "gauge", "KV blocks in use.", &LaneMetrics::kv_blocks_used);
  gauge("impetus_kv_blocks_cached", "gauge", "Free KV blocks whose prefix can be found again.",
        &LaneMetrics::kv_blocks_cached);
  gauge("impetus_prompt_tokens_total", "counter", "Prompt tokens.", &LaneMetrics::prompt_tokens);
  gauge("impetus_cached_tokens_total", "counter", "Prompt tokens found in the prefix cache.",
        &LaneMetrics::cached_tokens);
  gauge("impetus_generated_tokens_total", "counter", "Tokens generated.",
        &LaneMetrics::generated_tokens);
  gauge("impetus_embedded_texts_total", "counter", "Texts embedded.", &LaneMetrics::embedded_texts);
  gauge("impetus_embedded_tokens_total", "counter", "Tokens embedded.",
        &LaneMetrics::embedded_tokens);

  gauge("impetus_moved_total", "counter",
        "Sequences or texts that another processor took over from one that failed.",
        &LaneMetrics::moved);

  family(out, "impetus_processor_lost", "gauge",
         "Processors that failed while they ran and are not used until the next start.");
  for (const LostProcessor& one : lost) {
    out += fmt::format("impetus_processor_lost{{device=\"{}\"}} 1\n", escape(one.backend));
  }
  const auto single = [&](const char* name, const char* type, const char* help, auto value) {
    family(out, name, type, help);
    out += fmt::format("{} {}\n", name, value);
  };
  single("impetus_processors_lost_total", "counter", "How many of them.", lost.size());
  single("impetus_connections", "gauge", "Open connections.", connections_);
  single("impetus_memory_reserved_bytes", "gauge", "Bytes promised of the host's memory.",
         ledger.used_bytes());
  single("impetus_memory_capacity_bytes", "gauge",
         "Bytes of the host's memory that may be promised.", ledger.capacity_bytes());
  const auto of_devices = [&](const char* name, const char* help, auto bytes) {
    family(out, name, "gauge", help);
    for (const DeviceMemory& one : devices) {
      out += fmt::format("{}{{device=\"{}\"}} {}\n", name, escape(one.backend),
                         (one.ledger->*bytes)());
    }
  };
  of_devices("impetus_device_memory_reserved_bytes",
             "Bytes promised of the memory that a processor has of its own.",
             &MemoryLedger::used_bytes);
  of_devices("impetus_device_memory_capacity_bytes",
             "Bytes that may be promised of the memory that a processor has of its own.",
             &MemoryLedger::capacity_bytes);
  single("process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes());
  single("impetus_uptime_seconds", "gauge", "Since the start.",
         std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count());
  return out;
}

}  // namespace impetus

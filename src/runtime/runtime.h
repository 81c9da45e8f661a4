// The running whole: models by name, tokenise and detokenise around the engine, wiring.
//
// Thread-safe. Receives the concrete backends as a list, best first unless a placement says
// otherwise. Tokenising and templates run
// on the caller's thread; answers come on the device's thread.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/executor.h"
#include "runtime/benchmark_records.h"
#include "runtime/catalogue.h"
#include "runtime/placement.h"
#include "runtime/types.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace impetus {

struct RuntimeOptions {
  LoadOptions load;
  std::optional<int64_t> kv_tokens;  // unset: planned from the context and the memory there is
  std::vector<std::filesystem::path> model_folders;  // where names are looked up, in order
  int64_t running_max = 64;
  int64_t waiting_max = 256;
  int64_t memory_bytes = 0;  // 0: usable_memory_bytes()
  // Which backends are tried for what, in order; a phase without names is ordered by the planner.
  Placement placement;
  Fallback fallback = Fallback::warn;
  // A step that takes longer, and twenty times longer than was expected of it, has lost its
  // processor (runtime/failover.h); 0: none is watched.
  double step_seconds = 30;
};

// Ends its request when destroyed or cancelled: the work stops within one step.
class RequestHandle {
 public:
  RequestHandle() = default;
  explicit RequestHandle(std::function<void()> cancel) : cancel_(std::move(cancel)) {}
  RequestHandle(RequestHandle&& other) noexcept : cancel_(std::exchange(other.cancel_, nullptr)) {}
  RequestHandle& operator=(RequestHandle&& other) noexcept;
  ~RequestHandle() { cancel(); }
  void cancel();
  void detach() { cancel_ = nullptr; }

 private:
  std::function<void()> cancel_;
};

class Runtime {
 public:
  static Result<std::unique_ptr<Runtime>> create(RuntimeOptions options,
                                                 std::vector<std::unique_ptr<Backend>> backends);
  ~Runtime();

  // A path, or a name below the model folders. Loads, warms up, and serves under the folder's
  // (or file's) name. not_found lists what there is; a name already served is refused.
  Result<ModelInfo> load(const std::string& path_or_name);
  std::vector<ModelInfo> models() const;
  Result<ModelInfo> model(const std::string& id) const;
  // Models that could be loaded by name but are not.
  std::vector<ModelLocation> available() const;

  // Checks, tokenises, queues; the answer goes to `sink`. Errors before queueing are returned.
  Result<RequestHandle> generate(GenerateRequest request, std::shared_ptr<AnswerSink> sink);
  using EmbedDone = std::function<void(Result<EmbedAnswer>)>;
  Result<RequestHandle> embed(EmbedRequest request, EmbedDone done);

  // Measures a model, served or to be had by name, on the backends beside what else they run
  // (benchmark_lane.h). Opens files: not for a thread that serves sockets. One at a time, else
  // overloaded. `done` comes on a thread of the benchmark's own and may not begin another.
  using BenchmarkDone = std::function<void(Result<BenchmarkAnswer>)>;
  Result<RequestHandle> benchmark(BenchmarkRequest request, BenchmarkDone done);

  Result<std::vector<TokenId>> tokenize(const std::string& model, std::string_view text,
                                        EncodeOptions options) const;
  Result<std::string> detokenize(const std::string& model, std::span<const TokenId> ids) const;
  Result<std::string> render_template(const std::string& model, const ChatPrompt& prompt) const;
  std::vector<LaneMetrics> metrics() const;
  // What is placed where, how fast it should be, and why; and what else there would be.
  json::object plan() const;
  std::vector<std::string> processors() const;  // their names for people, each once
  std::vector<LostProcessor> lost() const;      // since the start
  MemoryLedger& ledger();  // of the host's memory
  std::vector<DeviceMemory> device_memories() const;
  // Refuses new work (unavailable), lets running work end until the deadline, then cancels it.
  void drain(double seconds);

 private:
  struct State;
  std::unique_ptr<State> state_;
  explicit Runtime(std::unique_ptr<State> state);
};

}  // namespace impetus

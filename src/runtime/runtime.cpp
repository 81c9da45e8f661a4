#include "runtime/runtime.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <numeric>
#include <random>
#include <set>
#include <shared_mutex>

#include <fmt/ranges.h>

#include "base/keep_forever.h"
#include "base/log.h"
#include "engine/runner.h"
#include "hardware/memory.h"
#include "runtime/benchmark_lane.h"
#include "runtime/failover.h"
#include "runtime/generation.h"
#include "runtime/planning.h"
#include "runtime/profiles.h"
#include "runtime/served.h"

namespace impetus {

RequestHandle& RequestHandle::operator=(RequestHandle&& other) noexcept {
  if (this != &other) {
    cancel();
    cancel_ = std::exchange(other.cancel_, nullptr);
  }
  return *this;
}

void RequestHandle::cancel() {
  if (auto cancel = std::exchange(cancel_, nullptr)) cancel();
}

namespace {

// Chat may use this share of a processor's time that embeddings also want, and the other way round.
constexpr double kGenerationShare = 2;
constexpr double kEmbeddingShare = 1;
constexpr int64_t kWaitingTextsMax = 16384;
constexpr int64_t kStepTokens = 512;
// For a move to another processor that is under way at the end.
constexpr double kMoveSeconds = 10;

// Requests in flight, so that a drain can wait for them.
class Flights {
 public:
  // False while draining.
  bool take_off() {
    const std::lock_guard lock(mutex_);
    if (draining_) return false;
    ++count_;
    return true;
  }
  void land() {
    const std::lock_guard lock(mutex_);
    if (--count_ == 0) none_.notify_all();
  }
  bool draining() {
    const std::lock_guard lock(mutex_);
    return draining_;
  }
  // No seconds: nobody waits any longer, those who wait already included.
  void drain(double seconds) {
    std::unique_lock lock(mutex_);
    draining_ = true;
    if (seconds <= 0) {
      hurry_ = true;
      none_.notify_all();
    }
    none_.wait_for(lock, std::chrono::duration<double>(seconds),
                   [&] { return count_ == 0 || hurry_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int64_t count_ = 0;
  bool draining_ = false;
  bool hurry_ = false;
};

Error draining_error() {
  return error(ErrorCode::unavailable, "the server is shutting down and takes no new work");
}

// Counts the request as in flight until its end.
class CountedSink final : public AnswerSink {
 public:
  CountedSink(std::shared_ptr<AnswerSink> sink, std::shared_ptr<Flights> flights)
      : sink_(std::move(sink)), flights_(std::move(flights)) {}
  ~CountedSink() override { land(); }

  void on_started(const Devices& devices) override { sink_->on_started(devices); }
  void on_delta(AnswerDelta delta) override { sink_->on_delta(std::move(delta)); }
  void on_choice_end(int32_t choice, AnswerEnd end) override { sink_->on_choice_end(choice, end); }
  void on_done(const Usage& usage, const Timings& timings, const Devices& devices) override {
    sink_->on_done(usage, timings, devices);
    land();
  }
  void on_error(Error error) override {
    sink_->on_error(std::move(error));
    land();
  }

 private:
  // At the request's end, or with the sink where it never began; a client's handle may live longer.
  void land() {
    if (!landed_.exchange(true)) flights_->land();
  }

  std::atomic<bool> landed_ = false;
  std::shared_ptr<AnswerSink> sink_;
  std::shared_ptr<Flights> flights_;
};

SamplingParams sampling_params(const SamplingOptions& options, const SamplingDefaults& defaults) {
  SamplingParams params;
  params.temperature = options.temperature.value_or(defaults.temperature.value_or(1.0f));
  params.top_k = options.top_k.value_or(defaults.top_k.value_or(0));
  params.top_p = options.top_p.value_or(defaults.top_p.value_or(1.0f));
  params.min_p = options.min_p.value_or(defaults.min_p.value_or(0.0f));
  params.repetition_penalty =
      options.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1.0f));
  params.presence_penalty = options.presence_penalty;
  params.frequency_penalty = options.frequency_penalty;
  params.logit_bias = options.logit_bias;
  params.top_logprobs = options.top_logprobs;
  params.seed = options.seed ? *options.seed : std::random_device{}() * 0x100000001ull;
  return params;
}

Result<void> check_tokens(std::span<const TokenId> ids, const ModelSpec& spec,
                          std::string_view param) {
  for (const TokenId id : ids) {
    if (id < 0 || id >= spec.vocab) {
      Error failure =
          error(ErrorCode::invalid_argument,
                "token id {} is outside the model's vocabulary [0, {})", id, spec.vocab);
      failure.param = std::string(param);
      return failure;
    }
  }
  return {};
}

// A loop for each backend. Those of one device share one, since they share what it has; so do those
// that may run one model together, which one thread drives.
std::vector<std::shared_ptr<DeviceLoop>> make_loops(
    std::span<const std::unique_ptr<Backend>> backends, const Ladders& ladders,
    const Placement& placement) {
  std::map<std::string, std::shared_ptr<DeviceLoop>> by_device;
  for (const auto& backend : backends) {
    auto& loop = by_device[backend->descriptor().device];
    if (!loop) loop = std::make_shared<DeviceLoop>();
  }
  std::set<std::string> together;
  for (const auto* ladder : {&ladders.prefill, &ladders.decode}) {
    for (const Rung& rung : *ladder) {
      if (rung.backend) together.insert(rung.backend->descriptor().device);
    }
  }
  const auto order = [](const std::vector<Rung>& ladder) {
    std::vector<const Backend*> there;
    for (const Rung& rung : ladder) there.push_back(rung.backend);
    return there;
  };
  // Where nobody named the order, each model's plan may pair them.
  const bool planned = placement.prefill.empty() || placement.decode.empty();
  if (planned || order(ladders.prefill) != order(ladders.decode)) {
    for (const std::string& device : together) by_device[device] = by_device[*together.begin()];
  }
  std::vector<std::shared_ptr<DeviceLoop>> loops;
  for (const auto& backend : backends) loops.push_back(by_device[backend->descriptor().device]);
  return loops;
}

void normalize_l2(std::vector<float>& vector) {
  double sum = 0;
  for (const float value : vector) sum += double{value} * value;
  const double scale = sum > 0 ? 1 / std::sqrt(sum) : 0;
  for (float& value : vector) value = static_cast<float>(value * scale);
}

}  // namespace

struct Runtime::State {
  explicit State(RuntimeOptions options)
      : options(std::move(options)),
        ledger(std::make_shared<MemoryLedger>(
            this->options.memory_bytes > 0 ? this->options.memory_bytes : usable_memory_bytes())) {}
  // What a step that hangs stands on stays.
  ~State() {
    benchmarks.reset();
    served.clear();
    loops.clear();
    if (!failover) return;
    for (auto& backend : backends) {
      if (!failover->hangs(backend->descriptor().backend)) continue;
      keep_forever(ledger);
      keep_forever(std::shared_ptr<const Backend>(std::move(backend)));
    }
  }

  RuntimeOptions options;
  std::shared_ptr<MemoryLedger> ledger;
  std::vector<std::unique_ptr<Backend>> backends;
  Ladders ladders;
  std::shared_ptr<Planning> planning;
  std::unique_ptr<Failover> failover;
  std::vector<std::shared_ptr<DeviceLoop>> loops;  // of each backend
  std::shared_ptr<Flights> flights = std::make_shared<Flights>();

  mutable std::shared_mutex mutex;
  std::vector<std::shared_ptr<Served>> served;  // in the order of loading; goes before the loops
  std::unique_ptr<Benchmarks> benchmarks;       // goes before the loops as well

  DeviceLoop& loop_of(const Backend& backend) const {
    const auto at = std::ranges::find(backends, &backend, &std::unique_ptr<Backend>::get);
    return *loops[static_cast<size_t>(at - backends.begin())];
  }

  Result<std::shared_ptr<Served>> find(const std::string& id) const {
    const std::shared_lock lock(mutex);
    for (const auto& entry : served) {
      if (entry->model.info.id == id) return entry;
    }
    std::vector<std::string> names;
    for (const auto& entry : served) names.push_back(entry->model.info.id);
    Error failure =
        id.empty() ? error(ErrorCode::invalid_argument, "the request names no model; served: {}",
                           fmt::join(names, ", "))
                   : error(ErrorCode::not_found, "the model '{}' is not served here; served: {}",
                           id, names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")));
    failure.param = "model";
    return failure;
  }
};

Runtime::Runtime(std::unique_ptr<State> state) : state_(std::move(state)) {}
Runtime::~Runtime() {
  if (!state_ || state_->failover->stop(kMoveSeconds)) return;
  log::warn("a model is still being moved to another processor: the process ends without it");
  (void)state_.release();  // that thread may use all of it
}

Result<std::unique_ptr<Runtime>> Runtime::create(RuntimeOptions options,
                                                 std::vector<std::unique_ptr<Backend>> backends) {
  if (backends.empty()) return error(ErrorCode::invalid_argument, "no processor to run on");
  auto state = std::make_unique<State>(std::move(options));
  state->backends = std::move(backends);
  IMPETUS_TRY(state->ladders, resolve_placement(state->options.placement, state->backends));
  Policy policy;
  policy.kv = state->options.load.kv;
  policy.kv_tokens = state->options.kv_tokens;
  if (state->options.load.weights == WeightPrecision::int8) policy.weights = DType::q8_0;
  state->planning =
      std::make_shared<Planning>(plan_machine(probe_inventory(), state->backends, ProfileStore(),
                                              state->ledger->capacity_bytes()),
                                 std::move(policy));
  state->loops = make_loops(state->backends, state->ladders, state->options.placement);
  state->failover = std::make_unique<Failover>(
      Failover::Setup{.fallback = state->options.fallback,
                      .load = state->options.load,
                      .kv_tokens = state->options.kv_tokens,
                      .step_seconds = state->options.step_seconds,
                      .ledger = state->ledger.get(),
                      .loop_of = [from = state.get()](const Backend& one) -> DeviceLoop& {
                        return from->loop_of(one);
                      }});
  state->benchmarks =
      std::make_unique<Benchmarks>(state->backends, state->loops, state->options.placement,
                                   state->options.load, *state->ledger, *state->failover);
  return std::unique_ptr<Runtime>(new Runtime(std::move(state)));
}

Result<ModelInfo> Runtime::load(const std::string& path_or_name) {
  IMPETUS_TRY(const ModelLocation location,
              locate_model(path_or_name, state_->options.model_folders));
  if (model(location.id).ok()) {
    return error(ErrorCode::invalid_argument,
                 "a model named '{}' is served already; rename the folder of {}", location.id,
                 location.path.string());
  }
  auto entry = std::make_shared<Served>();
  IMPETUS_TRY(entry->text, load_model_text(location));
  IMPETUS_TRY(ModelFiles files, open_model_files(location));
  IMPETUS_TRY(entry->cost, model_cost(location.id, files.spec, *files.weights));
  const ModelCost& cost = *entry->cost;
  Planning& planning = *state_->planning;
  std::map<std::string, int64_t> own_free;
  for (const DeviceMemory& memory : device_memories()) {
    own_free[memory.backend] = memory.ledger->free_bytes();
  }
  const ModelPlan plan = planning.plan(cost, state_->ledger->free_bytes(), own_free);
  Ladders& ladders = entry->ladders;
  ladders = planning.order(state_->ladders, state_->options.placement, plan);
  // Kept with the entry, for when it moves.
  ladders.watch_executor = [&planning, &cost, kv = state_->options.load.kv](
                               const ThreadPlan& threads, auto executor) {
    return planning.watch(cost, threads, kv, std::move(executor));
  };
  ladders.watch_encoder = [&planning, &cost](const ThreadPlan& threads, auto encoder) {
    return planning.watch(cost, threads, std::move(encoder));
  };
  IMPETUS_TRY(entry->model,
              load_model(location, std::move(files), state_->failover->without_lost(ladders),
                         state_->options.fallback, state_->options.load, state_->options.kv_tokens,
                         *state_->ledger));
  Model& loaded = entry->model;
  loaded.info.tokenizer = std::string(entry->text.tokenizer->kind());
  loaded.info.has_chat_template = entry->text.chat_template.has_value();
  if (entry->text.tokenizer->vocab_size() > loaded.spec.vocab) {
    log::warn(
        "{}: the tokenizer knows {} tokens, the model {}; prompts that use the others are refused",
        location.path.string(), entry->text.tokenizer->vocab_size(), loaded.spec.vocab);
  }
  entry->now = std::make_shared<LiveInfo>(loaded.info);
  entry->homes = {loaded.home};
  const LaneGuard guard = state_->failover->guard(entry, ladders);
  DeviceLoop& loop = state_->loop_of(*loaded.home);
  if (loaded.executor) {
    SchedulerLimits& limits = entry->limits;
    // A prompt's chunk keeps running streams waiting no longer than planned, and every one of them
    // still gets its token in each step.
    limits.step_tokens_max =
        std::min(loaded.executor->step_tokens_max(),
                 std::max(plan.chunk_tokens > 0 ? plan.chunk_tokens : kStepTokens,
                          2 * state_->options.running_max));
    limits.running_max = state_->options.running_max;
    limits.waiting_max = state_->options.waiting_max;
    limits.context = loaded.context;
    entry->generation = std::make_unique<GenerationLane>(loop, std::move(loaded.executor), limits,
                                                         kGenerationShare, guard);
  } else {
    entry->embedding.add(std::make_unique<EmbeddingLane>(loop, std::move(loaded.encoder),
                                                         kWaitingTextsMax, kEmbeddingShare, guard));
    for (LongerEncoder& one : loaded.longer) {
      entry->homes.push_back(one.home);
      entry->embedding.add(std::make_unique<EmbeddingLane>(state_->loop_of(*one.home),
                                                           std::move(one.encoder), kWaitingTextsMax,
                                                           kEmbeddingShare, guard));
    }
  }
  state_->failover->add(entry);
  const std::unique_lock lock(state_->mutex);
  state_->served.push_back(entry);
  return entry->now->get();
}

json::object Runtime::plan() const {
  std::vector<Planning::Served> served;
  {
    const std::shared_lock lock(state_->mutex);
    for (const auto& entry : state_->served) {
      if (!entry->cost) continue;
      const Placement& named = state_->options.placement;
      const bool fixed = entry->cost->kind == ModelKind::decoder
                             ? !named.prefill.empty() && !named.decode.empty()
                             : !named.embeddings.empty();
      served.push_back({*entry->cost, entry->now->get().devices, fixed});
    }
  }
  return state_->planning->report(served);
}

std::vector<ModelInfo> Runtime::models() const {
  const std::shared_lock lock(state_->mutex);
  std::vector<ModelInfo> models;
  for (const auto& entry : state_->served) models.push_back(entry->now->get());
  return models;
}

Result<ModelInfo> Runtime::model(const std::string& id) const {
  IMPETUS_TRY(const auto entry, state_->find(id));
  return entry->now->get();
}

std::vector<ModelLocation> Runtime::available() const {
  return list_models(state_->options.model_folders);
}

Result<RequestHandle> Runtime::generate(GenerateRequest request, std::shared_ptr<AnswerSink> sink) {
  if (state_->flights->draining()) return draining_error();
  IMPETUS_TRY(const auto entry, state_->find(request.model));
  const Model& model = entry->model;
  if (!entry->generation) {
    Error failure = error(ErrorCode::invalid_argument,
                          "'{}' is an embedding model: it cannot generate text", model.info.id);
    failure.param = "model";
    return failure;
  }
  const int64_t context = entry->now->context();
  const bool chat = std::holds_alternative<ChatPrompt>(request.prompt);
  IMPETUS_TRY(std::vector<TokenId> prompt, prompt_tokens(entry->text, request.prompt, context));
  const std::string_view param = chat ? "messages" : "prompt";
  IMPETUS_CHECK(check_tokens(prompt, model.spec, param));
  const auto prompt_size = static_cast<int64_t>(prompt.size());
  if (prompt.empty()) {
    Error failure = error(ErrorCode::invalid_argument, "the prompt is empty");
    failure.param = std::string(param);
    return failure;
  }
  if (prompt_size >= context) {
    Error failure = error(ErrorCode::context_length,
                          "the prompt has {} tokens; '{}' serves a context of {} and needs one for "
                          "the answer",
                          prompt_size, model.info.id, context);
    failure.param = std::string(param);
    return failure;
  }
  for (const auto& [id, bias] : request.sampling.logit_bias) {
    IMPETUS_CHECK(check_tokens({&id, 1}, model.spec, "logit_bias"));
  }

  SequenceRequest prototype;
  prototype.sampling = sampling_params(request.sampling, entry->text.defaults);
  prototype.tokens_max = std::min(request.tokens_max.value_or(context), context - prompt_size);
  if (!request.ignore_eos) {
    prototype.stop_tokens = entry->text.tokenizer->special().end_of_generation;
  }

  Generation::Setup setup;
  // A chat answer is a text of its own; a completion goes on with its prompt, if that has any text.
  const auto* text = std::get_if<TextPrompt>(&request.prompt);
  setup.continues_text = !chat && !(text && text->text.empty());
  if (request.echo) setup.echo = text ? text->text : entry->text.tokenizer->decode(prompt, true);
  setup.prompt = std::move(prompt);
  setup.stop = std::move(request.stop);
  setup.n = request.n;
  setup.fallback_reason = [now = entry->now] { return now->fallback_reason(); };
  setup.top_logprobs = request.sampling.top_logprobs;
  if (!state_->flights->take_off()) return draining_error();
  auto counted = std::make_shared<CountedSink>(std::move(sink), state_->flights);
  auto generation = std::make_shared<Generation>(std::move(setup), *entry->text.tokenizer,
                                                 *entry->generation, std::move(counted));
  IMPETUS_CHECK(generation->start(prototype));
  // The handle keeps the model alive, for the generation borrows its tokeniser and lane.
  return RequestHandle([generation, entry] { generation->cancel(); });
}

Result<RequestHandle> Runtime::embed(EmbedRequest request, EmbedDone done) {
  if (state_->flights->draining()) return draining_error();
  IMPETUS_TRY(const auto entry, state_->find(request.model));
  const Model& model = entry->model;
  if (entry->embedding.empty()) {
    Error failure = error(ErrorCode::invalid_argument,
                          "'{}' generates text; embeddings need an embedding model", model.info.id);
    failure.param = "model";
    return failure;
  }
  if (request.dimensions && *request.dimensions != model.spec.hidden) {
    Error failure =
        error(ErrorCode::invalid_argument,
              "'{}' gives vectors of {} dimensions and was not trained to be shortened to {}",
              model.info.id, model.spec.hidden, *request.dimensions);
    failure.param = "dimensions";
    return failure;
  }

  const int64_t context = entry->now->context();
  EmbeddingLane::Request work;
  if (auto* ids = std::get_if<std::vector<std::vector<TokenId>>>(&request.input)) {
    for (const auto& text : *ids) IMPETUS_CHECK(check_tokens(text, model.spec, "input"));
    work.texts = std::move(*ids);
  } else {
    for (const auto& text : std::get<std::vector<std::string>>(request.input)) {
      work.texts.push_back(entry->text.tokenizer->encode(text, {.add_special = true}));
    }
  }
  int64_t tokens = 0;
  for (size_t i = 0; i < work.texts.size(); ++i) {
    auto& text = work.texts[i];
    if (text.empty()) {
      Error failure = error(ErrorCode::invalid_argument, "input {} has no tokens", i);
      failure.param = "input";
      return failure;
    }
    if (static_cast<int64_t>(text.size()) > context) {
      if (!request.truncate) {
        Error failure = error(ErrorCode::context_length,
                              "input {} has {} tokens; '{}' takes {}{}{}. Shorten it, or ask for "
                              "\"truncate\": true",
                              i, text.size(), model.info.id, context,
                              model.limit_reason.empty() ? "" : ": ", model.limit_reason);
        failure.param = "input";
        return failure;
      }
      // The closing special token stays: the model never saw a text without it.
      const TokenId last = text.back();
      text.resize(static_cast<size_t>(context));
      if (entry->text.tokenizer->special().sep == last) text.back() = last;
    }
    IMPETUS_CHECK(check_tokens(text, model.spec, "input"));
    tokens += static_cast<int64_t>(text.size());
  }

  if (!state_->flights->take_off()) return draining_error();
  const bool normalize = request.normalize.value_or(model.normalize);
  const std::shared_ptr<void> flight(nullptr,
                                     [flights = state_->flights](void*) { flights->land(); });
  // Holds no model: the lane's destructor calls it, and may not be called by it.
  auto finish = [id = model.info.id, now = entry->now, flight, normalize, tokens,
                 done = std::move(done)](Result<EmbeddingLane::Answer> result) {
    if (!result.ok()) return done(std::move(result).error());
    EmbedAnswer answer;
    answer.vectors = std::move(result->vectors);
    for (const BackendDescriptor* one : result->ran_on) {
      answer.devices.add({.embeddings = {one->backend}});
    }
    for (auto& vector : answer.vectors) {
      if (normalize) normalize_l2(vector);
      if (!std::all_of(vector.begin(), vector.end(), [](float x) { return std::isfinite(x); })) {
        return done(error(ErrorCode::internal, "'{}' gave a vector that is not finite", id));
      }
    }
    answer.devices.fallback_reason = now->fallback_reason();
    answer.prompt_tokens = tokens;
    done(std::move(answer));
  };
  IMPETUS_TRY(auto cancel, entry->embedding.submit(std::move(work), std::move(finish)));
  return RequestHandle([entry, cancel = std::move(cancel)] { cancel(); });
}

Result<RequestHandle> Runtime::benchmark(BenchmarkRequest request, BenchmarkDone done) {
  std::optional<ModelLocation> location;
  if (const auto entry = state_->find(request.model); entry.ok()) {
    location = (*entry)->model.location;
  } else {
    // By name alone: a client has no business with paths.
    std::vector<std::string> names;
    for (ModelLocation& one : available()) {
      names.push_back(one.id);
      if (one.id == request.model) location = std::move(one);
    }
    if (request.model.empty()) return entry.error();
    if (!location) {
      Error failure = error(ErrorCode::not_found, "there is no model '{}'; there are: {}",
                            request.model, fmt::join(names, ", "));
      failure.param = "model";
      return failure;
    }
  }
  if (!state_->flights->take_off()) return draining_error();
  const std::shared_ptr<void> flight(nullptr,
                                     [flights = state_->flights](void*) { flights->land(); });
  IMPETUS_TRY(auto cancel, state_->benchmarks->start(
                               std::move(*location), std::move(request),
                               [flight, done = std::move(done)](Result<BenchmarkAnswer> answer) {
                                 done(std::move(answer));
                               }));
  return RequestHandle(std::move(cancel));
}

Result<std::vector<TokenId>> Runtime::tokenize(const std::string& model, std::string_view text,
                                               EncodeOptions options) const {
  IMPETUS_TRY(const auto entry, state_->find(model));
  return entry->text.tokenizer->encode(text, options);
}

Result<std::string> Runtime::detokenize(const std::string& model,
                                        std::span<const TokenId> ids) const {
  IMPETUS_TRY(const auto entry, state_->find(model));
  IMPETUS_CHECK(check_tokens(ids, entry->model.spec, "tokens"));
  return entry->text.tokenizer->decode(ids, /*render_special=*/true);
}

Result<std::string> Runtime::render_template(const std::string& model,
                                             const ChatPrompt& prompt) const {
  IMPETUS_TRY(const auto entry, state_->find(model));
  return render_prompt(entry->text, prompt);
}

std::vector<LaneMetrics> Runtime::metrics() const {
  const std::shared_lock lock(state_->mutex);
  std::vector<LaneMetrics> all;
  for (const auto& entry : state_->served) {
    LaneMetrics metrics;
    metrics.model = entry->model.info.id;
    if (entry->generation) {
      const auto counts = entry->generation->counts();
      metrics.waiting = counts.waiting;
      metrics.running = counts.running;
      metrics.preemptions = counts.preemptions;
      metrics.moved = counts.moved;
      metrics.kv_blocks_total = counts.blocks_total;
      metrics.kv_blocks_used = counts.blocks_used;
      metrics.kv_blocks_cached = counts.blocks_cached;
      metrics.prompt_tokens = counts.prompt_tokens;
      metrics.cached_tokens = counts.cached_tokens;
      metrics.generated_tokens = counts.generated_tokens;
    } else {
      const auto counts = entry->embedding.counts();
      metrics.waiting = counts.waiting_texts;
      metrics.moved = counts.moved;
      metrics.embedded_texts = counts.texts;
      metrics.embedded_tokens = counts.tokens;
    }
    all.push_back(std::move(metrics));
  }
  return all;
}

std::vector<std::string> Runtime::processors() const {
  std::vector<std::string> names;
  for (const auto& backend : state_->backends) {
    const std::string& name = backend->descriptor().name;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return names;
}

std::vector<LostProcessor> Runtime::lost() const {
  return state_->failover->lost();
}

MemoryLedger& Runtime::ledger() {
  return *state_->ledger;
}

std::vector<DeviceMemory> Runtime::device_memories() const {
  std::vector<DeviceMemory> memories;
  for (const auto& backend : state_->backends) {
    if (const MemoryLedger* own = backend->memory()) {
      memories.push_back({backend->descriptor().backend, own});
    }
  }
  return memories;
}

void Runtime::drain(double seconds) {
  state_->flights->drain(seconds);
  state_->benchmarks->stop();
  std::vector<std::shared_ptr<Served>> served;
  {
    const std::unique_lock lock(state_->mutex);
    served.swap(state_->served);
  }
  for (const auto& entry : served) {  // clients' handles may keep the models themselves longer
    if (entry->generation) entry->generation->close();
    entry->embedding.close();
  }
}

}  // namespace impetus

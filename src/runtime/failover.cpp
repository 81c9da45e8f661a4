#include "runtime/failover.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <ctime>
#include <exception>

#include "base/keep_forever.h"
#include "base/log.h"

namespace impetus {
namespace {

// Of a device's time, while a model is loaded on it beside others.
constexpr double kLoadShare = 1;

bool uses(const Served& served, const std::string& backend) {
  const auto all = served.now->get().devices.all();
  return std::ranges::find(all, backend) != all.end();
}

bool waits(const Served& served) {
  return served.generation ? served.generation->waits() : served.embedding.waits();
}

// The message of an answer that ends because of `failure`, and the model's from then on.
Error final_error(const Served& served, const DeviceFailure& failure, const Error& why) {
  const ErrorCode code = failure.kind == DeviceFailure::Kind::memory
                             ? ErrorCode::insufficient_memory
                             : ErrorCode::unavailable;
  return error(code, "{}: {}. {}", served.model.info.id, failure.error.message, why.message);
}

}  // namespace

Failover::~Failover() {
  assert(!leading_);
  if (leader_.joinable()) leader_.join();
}

bool Failover::stop(double seconds) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds),
                           [this] { return !leading_; });
}

LaneGuard Failover::guard(const std::shared_ptr<Served>& served, const Ladders& ladders) {
  LaneGuard guard;
  guard.step_seconds = setup_.step_seconds;
  guard.on_failure = [this, weak = std::weak_ptr(served),
                      known = std::make_shared<const Ladders>(ladders)](
                         const DeviceFailure& failure) { return failed({weak, failure}, *known); };
  return guard;
}

void Failover::add(const std::shared_ptr<Served>& served) {
  const std::lock_guard lock(mutex_);
  std::erase_if(served_, [](const auto& one) { return one.expired(); });
  served_.push_back(served);
  // What it was placed on may have been lost meanwhile.
  for (const LostProcessor& one : lost_) {
    if (!uses(*served, one.backend)) continue;
    enqueue({served,
             {one.hangs ? DeviceFailure::Kind::hangs : DeviceFailure::Kind::lost, one.backend,
              error(ErrorCode::unavailable, "{}: {}", one.backend, one.why), one.why}});
  }
}

void Failover::report(const DeviceFailure& failure) {
  const std::lock_guard lock(mutex_);
  lose(failure);
  enqueue({{}, failure});
}

Result<void> Failover::failed(const Task& task, const Ladders& ladders) {
  const DeviceFailure& failure = task.failure;
  const std::lock_guard lock(mutex_);
  if (stopping_) return failure.error;
  // After a hang nothing can go on there, so whether another takes it is the load's to say.
  if (failure.kind != DeviceFailure::Kind::hangs) {
    const auto other = [&](const std::vector<Rung>& rungs) {
      return rungs.empty() || std::ranges::any_of(rungs, [&](const Rung& rung) {
               if (!rung.backend) return false;
               const std::string& name = rung.backend->descriptor().backend;
               return name != failure.backend &&
                      std::ranges::find(lost_, name, &LostProcessor::backend) == lost_.end();
             });
    };
    Error none = failure.error;
    if (setup_.fallback == Fallback::forbid) {
      none.message += "; no other processor is allowed (--fallback forbid)";
      return none;
    }
    if (!other(ladders.prefill) || !other(ladders.decode) || !other(ladders.embeddings)) {
      none.message += "; there is no other processor for it";
      return none;
    }
  }
  if (failure.kind != DeviceFailure::Kind::memory) lose(failure);
  enqueue(task);
  return {};
}

void Failover::lose(const DeviceFailure& failure) {
  const bool hangs = failure.kind == DeviceFailure::Kind::hangs;
  const auto known = std::ranges::find(lost_, failure.backend, &LostProcessor::backend);
  if (known != lost_.end()) {
    known->hangs |= hangs;
    return;
  }
  lost_.push_back({failure.backend, failure.why, hangs, std::time(nullptr)});
  log::warn("{} is lost until the next start: {}", failure.backend, failure.why);
}

void Failover::enqueue(Task task) {
  if (stopping_) return;
  tasks_.push_back(std::move(task));
  changed_.notify_all();
  if (leading_) return;
  try {
    leader_ = std::thread([this] { lead(); });
    leading_ = true;
  } catch (const std::exception& none) {  // the system has no thread left; the next failure may
    log::error("nothing can be moved yet: {}", none.what());
  }
}

void Failover::lead() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
    if (stopping_) break;
    const Task task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    handle(task);
    lock.lock();
  }
  leading_ = false;
  changed_.notify_all();
}

void Failover::handle(const Task& task) {
  const auto own = task.served.lock();
  if (task.failure.kind == DeviceFailure::Kind::memory) {
    if (!own) return;
    own->refused[task.failure.backend] = task.failure.why;
    return move(*own, task.failure);
  }
  std::vector<std::shared_ptr<Served>> all;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& one : served_) {
      if (auto served = one.lock()) all.push_back(std::move(served));
    }
  }
  for (const auto& served : all) {
    if (uses(*served, task.failure.backend) || (served == own && waits(*served))) {
      move(*served, task.failure);
    }
  }
}

void Failover::move(Served& served, const DeviceFailure& failure) {
  const bool hangs = failure.kind == DeviceFailure::Kind::hangs || this->hangs(failure.backend);
  if (hangs) {
    // The step that hangs may read them at any time.
    keep_forever(served.model.weights);
    keep_forever(served.model.gguf);
  }
  if (served.generation) return move_decoder(served, failure, hangs);
  for (size_t lane = 0; lane < served.embedding.size(); ++lane) {
    if (served.homes[lane]->descriptor().backend == failure.backend ||
        served.embedding.lane(lane).waits()) {
      move_encoder(served, lane, failure, hangs);
    }
  }
}

Result<Model> Failover::load(Served& served) {
  Ladders ladders = without_lost(served.ladders);
  for (auto* rungs : {&ladders.prefill, &ladders.decode, &ladders.embeddings}) {
    for (Rung& rung : *rungs) {
      if (!rung.backend) continue;
      const auto why = served.refused.find(rung.backend->descriptor().backend);
      if (why == served.refused.end()) continue;
      rung.backend = nullptr;
      rung.absent = why->second;
    }
  }
  ladders.run_on = [this](const Backend& backend, const std::function<void()>& work) {
    return setup_.loop_of(backend).run(work, kLoadShare);
  };
  return guarded([&] {
    return load_model(served.model.location,
                      {served.model.weights, served.model.gguf, served.model.spec}, ladders,
                      // The move itself is told of.
                      setup_.fallback == Fallback::forbid ? Fallback::forbid : Fallback::allow,
                      setup_.load, setup_.kv_tokens, *setup_.ledger);
  });
}

template <typename T>
void Failover::destroy(const Backend& home, std::shared_ptr<T> what) {
  if (what) setup_.loop_of(home).run([&] { what.reset(); }, kLoadShare);
}

void Failover::move_decoder(Served& served, const DeviceFailure& failure, bool hangs) {
  const bool memory = failure.kind == DeviceFailure::Kind::memory;
  GenerationLane& lane = *served.generation;
  if (!memory) lane.evict(hangs);
  auto loaded = load(served);
  if (!loaded.ok()) {
    const Error none = final_error(served, failure, loaded.error());
    log::warn("{}", none.message);
    return memory ? lane.resume(none) : lane.fail(none);
  }
  std::shared_ptr<Executor> executor = std::move(loaded->executor);
  SchedulerLimits limits = served.limits;
  limits.context = loaded->context;
  auto before = lane.rehome(setup_.loop_of(*loaded->home), executor, limits);
  if (!before.ok()) return destroy(*loaded->home, std::move(executor));  // it is being unloaded
  executor.reset();
  destroy(*served.homes.front(), std::move(*before));
  served.homes.front() = loaded->home;
  ModelInfo info = served.now->get();
  info.devices = loaded->info.devices;
  info.fallback_reason = loaded->info.fallback_reason;
  info.context = loaded->context;
  info.kv = loaded->info.kv;
  log::warn("{}: moved: {}", info.id, info.fallback_reason);
  served.now->set(std::move(info));
}

void Failover::move_encoder(Served& served, size_t at, const DeviceFailure& failure, bool hangs) {
  const bool memory = failure.kind == DeviceFailure::Kind::memory;
  EmbeddingLane& lane = served.embedding.lane(at);
  if (!memory) lane.evict(hangs);
  const int64_t length = lane.text_tokens_max();
  std::shared_ptr<Encoder> encoder;
  const Backend* home = nullptr;
  // One that has the model already, for longer texts.
  for (size_t i = 0; i < served.embedding.size() && !encoder; ++i) {
    const std::string& name = served.homes[i]->descriptor().backend;
    if (i == at || name == failure.backend || !why_lost(name).empty()) continue;
    EmbeddingLane& other = served.embedding.lane(i);
    if (other.waits() || other.text_tokens_max() < length) continue;
    encoder = other.encoder();
    home = served.homes[i];
  }
  if (!encoder) {
    auto loaded = load(served);
    if (!loaded.ok()) {
      const Error none = final_error(served, failure, loaded.error());
      log::warn("{}", none.message);
      return memory ? lane.resume(none) : lane.fail(none);
    }
    encoder = std::move(loaded->encoder);
    home = loaded->home;
    for (LongerEncoder& longer : loaded->longer) {
      std::shared_ptr<Encoder> other = std::move(longer.encoder);
      const Backend* others = longer.home;
      if (encoder->text_tokens_max() < length) {
        std::swap(encoder, other);
        std::swap(home, others);
      }
      destroy(*others, std::move(other));
    }
  }
  auto before = lane.rehome(setup_.loop_of(*home), encoder);
  if (!before.ok()) return destroy(*home, std::move(encoder));  // it is being unloaded
  encoder.reset();
  destroy(*served.homes[at], std::move(*before));
  served.homes[at] = home;
  ModelInfo info = served.now->get();
  info.devices = {};
  int64_t longest = 0;
  for (size_t i = 0; i < served.embedding.size(); ++i) {
    info.devices.add({.embeddings = {served.homes[i]->descriptor().backend}});
    longest = std::max(longest, served.embedding.lane(i).text_tokens_max());
  }
  info.context = std::min(info.context, longest);
  info.fallback_reason +=
      fmt::format("{}embeddings on {}, not on {} ({})", info.fallback_reason.empty() ? "" : "; ",
                  home->descriptor().backend, failure.backend, failure.why);
  log::warn("{}: moved: {}", info.id, info.fallback_reason);
  served.now->set(std::move(info));
}

Ladders Failover::without_lost(Ladders ladders) const {
  const std::lock_guard lock(mutex_);
  for (auto* rungs : {&ladders.prefill, &ladders.decode, &ladders.embeddings}) {
    for (Rung& rung : *rungs) {
      if (!rung.backend) continue;
      const auto gone =
          std::ranges::find(lost_, rung.backend->descriptor().backend, &LostProcessor::backend);
      if (gone == lost_.end()) continue;
      rung.backend = nullptr;
      rung.absent = "lost: " + gone->why;
    }
  }
  return ladders;
}

std::vector<LostProcessor> Failover::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

std::string Failover::why_lost(const std::string& backend) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(lost_, backend, &LostProcessor::backend);
  return found == lost_.end() ? std::string() : found->why;
}

bool Failover::hangs(const std::string& backend) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find(lost_, backend, &LostProcessor::backend);
  return found != lost_.end() && found->hangs;
}

}  // namespace impetus

#include "engine/scheduler.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace impetus {

void RanOn::add(StepPhase phase, const SequenceResult& result) {
  handoff_seconds += result.handoff_seconds;
  auto& list = phase == StepPhase::prefill ? prefill : decode;
  if (!result.ran_on) return;
  // By name, for one that was named before its executor went may come again.
  const auto same = [&](const BackendDescriptor* one) {
    return one == result.ran_on || one->backend == result.ran_on->backend;
  };
  if (std::ranges::none_of(list, same)) list.push_back(result.ran_on);
}

namespace {

// After shrink(), so many steps must go well before they grow.
constexpr int64_t good_steps_to_grow = 32;

// Errors that say nothing against the sequence.
bool is_the_devices(const Error& error) {
  return error.code == ErrorCode::unavailable || error.code == ErrorCode::insufficient_memory;
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, int32_t blocks, int32_t block_tokens)
    : pool_(blocks, block_tokens) {
  restart(limits, blocks, block_tokens);
}

void Scheduler::restart(const SchedulerLimits& limits, int32_t blocks, int32_t block_tokens) {
  assert(!in_flight_);
  send_back_all();
  limits_ = limits;
  limits_.step_tokens_max = std::max<int64_t>(limits_.step_tokens_max, 1);
  // So that decoding can never leave a prompt without a token of the budget.
  limits_.running_max = std::clamp<int64_t>(limits_.running_max, 1, limits_.step_tokens_max);
  step_tokens_now_ = limits_.step_tokens_max;
  running_now_ = limits_.running_max;
  good_steps_ = 0;
  pool_ = BlockPool(blocks, block_tokens);
  capacity_ = int64_t{blocks} * block_tokens;
  if (limits_.context > 0) capacity_ = std::min(capacity_, limits_.context);
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    Sequence& sequence = *at->second;
    if (sequence.size() < capacity_) {
      ++moved_;
      ++at;
      continue;
    }
    end(sequence, FinishReason::error,
        error(ErrorCode::context_length,
              "the answer was moved to another processor, where at most {} tokens fit; it has {}",
              capacity_, sequence.size()));
    at = waiting_.erase(at);
  }
}

Scheduler::~Scheduler() = default;

Result<SequenceId> Scheduler::submit(SequenceRequest request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) return error(ErrorCode::invalid_argument, "the prompt has no tokens");
  if (request.tokens_max < 1) {
    return error(ErrorCode::invalid_argument, "the answer's most tokens must be at least 1, not {}",
                 request.tokens_max);
  }
  if (prompt >= capacity_) {
    return error(ErrorCode::context_length,
                 "the prompt has {} tokens, and with one token of answer at most {} fit "
                 "(context {}, KV cache {} tokens); shorten it",
                 prompt, capacity_, limits_.context > 0 ? limits_.context : capacity_,
                 int64_t{pool_.blocks()} * pool_.block_tokens());
  }
  if (static_cast<int64_t>(waiting_.size()) >= limits_.waiting_max) {
    return error(ErrorCode::overloaded, "{} requests wait already; try again later",
                 waiting_.size());
  }
  auto sequence = std::make_unique<Sequence>();
  sequence->id = next_id_++;
  sequence->tokens = request.prompt;
  sequence->request = std::move(request);
  const SequenceId id = sequence->id;
  waiting_.emplace(id, std::move(sequence));
  return id;
}

void Scheduler::cancel(SequenceId id) {
  end_early(id, FinishReason::cancelled);
}
void Scheduler::stop(SequenceId id) {
  end_early(id, FinishReason::stop);
}

void Scheduler::end_early(SequenceId id, FinishReason reason) {
  if (const auto found = waiting_.find(id); found != waiting_.end()) {
    end(*found->second, reason);
    waiting_.erase(found);
    return;
  }
  const auto found =
      std::ranges::lower_bound(running_, id, {}, [](const auto& sequence) { return sequence->id; });
  if (found == running_.end() || (*found)->id != id) return;
  if (in_flight_) {
    if (!(*found)->ending) (*found)->ending = reason;
    return;
  }
  end(**found, reason);
  running_.erase(found);
}

bool Scheduler::has_work() const {
  return !running_.empty() || !waiting_.empty() || !events_.empty();
}

std::span<const SequenceStep> Scheduler::plan_step() {
  assert(!in_flight_);
  planned_.clear();
  steps_.clear();
  int64_t budget = step_tokens_now_;
  const bool blocks_sufficed = plan_decoding(budget);
  plan_prompts(budget);
  // Whoever was preempted is the head now: what it gave up is for those before it.
  if (blocks_sufficed) admit_waiting(budget);
  in_flight_ = !steps_.empty();
  return steps_;
}

void Scheduler::plan(Sequence& sequence, int64_t count) {
  const int64_t end = sequence.computed + count;
  const std::span<const TokenId> tokens(sequence.tokens);
  SequenceStep step;
  step.tokens = tokens.subspan(sequence.computed, count);
  step.position = sequence.computed;
  // One position more, where its block is there: an executor may run that step ahead.
  const int64_t covering = std::min(pool_.blocks_for(end + 1), std::ssize(sequence.blocks));
  step.blocks = std::span<const BlockId>(sequence.blocks).first(static_cast<size_t>(covering));
  step.output = end == sequence.size() ? StepOutput::sample : StepOutput::none;
  step.sampling = &sequence.request.sampling;
  step.context.prompt = tokens.first(sequence.prompt_size());
  step.context.answer = tokens.subspan(sequence.prompt_size());
  step.context.position = sequence.size();
  step.context.mask = sequence.request.mask.get();
  step.phase = sequence.phase();
  steps_.push_back(step);
  planned_.push_back({&sequence, count});
}

bool Scheduler::plan_decoding(int64_t& budget) {
  bool sufficed = true;
  // From the oldest; a preempted sequence leaves at the end, so it was never planned before.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& sequence = *running_[i];
    if (!sequence.decodes()) continue;
    const bool needs_block =
        pool_.blocks_for(sequence.size()) > static_cast<int64_t>(sequence.blocks.size());
    if (needs_block) {
      auto block = pool_.allocate();
      while (!block && i < running_.size()) {
        preempt_youngest();
        sufficed = false;
        block = i < running_.size() ? pool_.allocate() : std::nullopt;
      }
      if (!block) break;  // it was the youngest itself
      sequence.blocks.push_back(*block);
    }
    // A step early, where nobody goes without for it.
    if (pool_.blocks_for(sequence.size() + 1) > std::ssize(sequence.blocks) &&
        pool_.available() > std::ssize(running_)) {
      sequence.blocks.push_back(*pool_.allocate());
    }
    plan(sequence, 1);
    --budget;
  }
  return sufficed;
}

void Scheduler::plan_prompts(int64_t& budget) {
  for (const auto& sequence : running_) {
    if (budget <= 0) return;
    if (sequence->decodes()) continue;
    const int64_t count = std::min(budget, sequence->missing());
    plan(*sequence, count);
    budget -= count;
  }
}

void Scheduler::admit_waiting(int64_t& budget) {
  if (waiting_.empty() || budget <= 0) return;
  std::vector<uint64_t> being_computed;
  for (const auto& sequence : running_) {
    if (const auto hash = block_being_computed(*sequence)) being_computed.push_back(*hash);
  }
  while (!waiting_.empty() && budget > 0 && static_cast<int64_t>(running_.size()) < running_now_) {
    const auto head = waiting_.begin();
    if (!admit(*head->second, being_computed)) return;
    running_.push_back(std::move(head->second));
    waiting_.erase(head);
    Sequence& sequence = *running_.back();
    if (const auto hash = block_being_computed(sequence)) being_computed.push_back(*hash);
    const int64_t count = std::min(budget, sequence.missing());
    plan(sequence, count);
    budget -= count;
  }
}

bool Scheduler::admit(Sequence& sequence, const std::vector<uint64_t>& being_computed) {
  assert(sequence.blocks.empty() && sequence.computed == 0);
  // The last token is always computed, for its logits.
  const int64_t findable = (sequence.size() - 1) / pool_.block_tokens();
  bool wait = false;
  while (sequence.published < findable) {
    const auto tokens = block_tokens(sequence, sequence.published);
    const auto found = pool_.find(sequence.chain, tokens);
    if (!found) {
      // A collision of hashes only delays.
      wait = std::ranges::find(being_computed, pool_.hash(sequence.chain, tokens)) !=
             being_computed.end();
      break;
    }
    pool_.retain(found->block);
    sequence.blocks.push_back(found->block);
    sequence.chain = found->chain;
    ++sequence.published;
  }
  // One position more than is known: the first step after the prompt preempts nobody.
  const int64_t needed = pool_.blocks_for(sequence.size() + 1);
  const auto held = static_cast<int64_t>(sequence.blocks.size());
  if (wait || needed - held > pool_.available()) {
    release_blocks(sequence);
    return false;
  }
  sequence.computed = held * pool_.block_tokens();
  for (int64_t i = held; i < needed; ++i) sequence.blocks.push_back(*pool_.allocate());
  if (sequence.cached < 0) {
    sequence.cached = std::min(sequence.computed, sequence.prompt_size());
    prompt_tokens_ += sequence.prompt_size();
    cached_tokens_ += sequence.cached;
  }
  return true;
}

std::optional<uint64_t> Scheduler::block_being_computed(const Sequence& sequence) const {
  if ((sequence.published + 1) * pool_.block_tokens() > sequence.size()) return std::nullopt;
  return pool_.hash(sequence.chain, block_tokens(sequence, sequence.published));
}

void Scheduler::preempt_youngest() {
  send_back_youngest();
  ++preemptions_;
}

void Scheduler::send_back_youngest() {
  std::unique_ptr<Sequence> sequence = std::move(running_.back());
  running_.pop_back();
  release_blocks(*sequence);
  const SequenceId id = sequence->id;
  waiting_.emplace_hint(waiting_.begin(), id, std::move(sequence));
}

void Scheduler::send_back_all() {
  while (!running_.empty()) send_back_youngest();
}

std::vector<SequenceEvent> Scheduler::finish_step(std::span<SequenceResult> results, bool again) {
  if (results.size() != planned_.size()) {
    return fail_step(error(ErrorCode::internal, "the executor answered {} sequences of {}",
                           results.size(), planned_.size()));
  }
  bool returned = false;
  for (size_t i = 0; i < planned_.size(); ++i) {
    Sequence& sequence = *planned_[i].sequence;
    if (again && !results[i].token.ok() && is_the_devices(results[i].token.error())) {
      returned = true;
      continue;
    }
    sequence.ran_on.add(steps_[i].phase, results[i]);
    if (!results[i].token.ok()) {
      // What made the logits bad may stand in any of its blocks.
      for (const BlockId block : sequence.blocks) pool_.forget(block);
      if (!sequence.ending) {
        end(sequence, FinishReason::error, std::move(results[i].token).error());
      }
      continue;
    }
    sequence.computed += planned_[i].count;
    publish_full_blocks(sequence);
    if (sequence.ending || steps_[i].output != StepOutput::sample) continue;
    take_token(sequence, std::move(*results[i].token));
  }
  if (!returned) {
    grow();
    return close_step();
  }
  return return_step();
}

std::vector<SequenceEvent> Scheduler::return_step() {
  auto events = close_step();
  send_back_all();  // and not only those of the step: whoever runs is older than whoever waits
  return events;
}

std::vector<SequenceEvent> Scheduler::retry_step(const Error& error) {
  for (const Planned& planned : planned_) {
    Sequence& sequence = *planned.sequence;
    // Whatever was wrong may stand in any of them.
    for (const BlockId block : sequence.blocks) pool_.forget(block);
    if (std::exchange(sequence.failed_before, true) && !sequence.ending) {
      end(sequence, FinishReason::error, error);
    }
  }
  return return_step();
}

bool Scheduler::shrink() {
  assert(in_flight_);
  const auto sequences = static_cast<int64_t>(planned_.size());
  int64_t tokens = 0;
  for (const Planned& planned : planned_) tokens += planned.count;
  if (tokens <= 1) return false;
  running_now_ = std::max<int64_t>(sequences / 2, 1);
  step_tokens_now_ = std::max(tokens / 2, running_now_);
  good_steps_ = 0;
  return true;
}

void Scheduler::grow() {
  if (step_tokens_now_ == limits_.step_tokens_max && running_now_ == limits_.running_max) return;
  if (++good_steps_ < good_steps_to_grow) return;
  good_steps_ = 0;
  step_tokens_now_ = std::min(2 * step_tokens_now_, limits_.step_tokens_max);
  running_now_ = std::min({2 * running_now_, limits_.running_max, step_tokens_now_});
}

std::shared_ptr<const void> Scheduler::abandon_step() {
  struct Step {
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<SequenceStep> steps;
  };
  auto kept = std::make_shared<Step>();
  for (const Planned& planned : planned_) {
    const auto at = std::ranges::find(running_, planned.sequence, &std::unique_ptr<Sequence>::get);
    auto copy = std::make_unique<Sequence>(**at);
    kept->sequences.push_back(std::exchange(*at, std::move(copy)));
  }
  kept->steps = std::move(steps_);
  auto events = return_step();
  events_ = std::move(events);
  return kept;
}

void Scheduler::keep_descriptors() {
  assert(!in_flight_);
  std::map<const BackendDescriptor*, const BackendDescriptor*> copies;
  for (const BackendDescriptor& one : descriptors_) copies.emplace(&one, &one);
  const auto keep = [&](RanOn& ran_on) {
    for (auto* list : {&ran_on.prefill, &ran_on.decode}) {
      for (const BackendDescriptor*& one : *list) {
        auto found = copies.find(one);
        if (found == copies.end()) {
          found = copies.emplace(one, &descriptors_.emplace_back(*one)).first;
        }
        one = found->second;
      }
    }
  };
  for (auto& [id, sequence] : waiting_) keep(sequence->ran_on);
  for (auto& sequence : running_) keep(sequence->ran_on);
  for (SequenceEvent& event : events_) keep(event.ran_on);
}

void Scheduler::end_all(const Error& error) {
  assert(!in_flight_);
  send_back_all();
  for (auto& [id, sequence] : waiting_) end(*sequence, FinishReason::error, error);
  waiting_.clear();
}

void Scheduler::end_oldest(const Error& error) {
  assert(!in_flight_);
  send_back_all();
  if (waiting_.empty()) return;
  end(*waiting_.begin()->second, FinishReason::error, error);
  waiting_.erase(waiting_.begin());
}

std::vector<SequenceEvent> Scheduler::fail_step(const Error& error) {
  // What this step wrote was not published; what stood before it still stands.
  for (const Planned& planned : planned_) {
    if (!planned.sequence->ending) end(*planned.sequence, FinishReason::error, error);
  }
  return close_step();
}

std::vector<SequenceEvent> Scheduler::close_step() {
  for (const auto& sequence : running_) {
    if (!sequence->ended && sequence->ending) end(*sequence, *sequence->ending);
  }
  std::erase_if(running_, [](const auto& sequence) { return sequence->ended; });
  planned_.clear();
  steps_.clear();
  in_flight_ = false;
  return take_events();
}

std::vector<SequenceEvent> Scheduler::take_events() {
  return std::exchange(events_, {});
}

void Scheduler::publish_full_blocks(Sequence& sequence) {
  while ((sequence.published + 1) * pool_.block_tokens() <= sequence.computed) {
    BlockId& block = sequence.blocks[sequence.published];
    const auto [canonical, chain] =
        pool_.publish(block, sequence.chain, block_tokens(sequence, sequence.published));
    block = canonical;
    sequence.chain = chain;
    ++sequence.published;
  }
}

void Scheduler::take_token(Sequence& sequence, SampledToken token) {
  // Not by a good step alone: after a failure its prompt is computed again.
  sequence.failed_before = false;
  if (!sequence.prefilled) {
    sequence.prefilled = true;
    SequenceEvent& event = add_event(SequenceEvent::Kind::prefilled, sequence);
    event.cached_tokens = sequence.cached;
    event.ran_on = sequence.ran_on;
  }
  if (std::ranges::find(sequence.request.stop_tokens, token.id) !=
      sequence.request.stop_tokens.end()) {
    return end(sequence, FinishReason::stop);
  }
  sequence.tokens.push_back(token.id);
  ++generated_tokens_;
  add_event(SequenceEvent::Kind::token, sequence).token = std::move(token);
  if (sequence.size() - sequence.prompt_size() >= sequence.request.tokens_max ||
      sequence.size() >= capacity_) {
    end(sequence, FinishReason::length);
  }
}

void Scheduler::end(Sequence& sequence, FinishReason reason, Error error) {
  release_blocks(sequence);
  sequence.ended = true;
  SequenceEvent& event = add_event(SequenceEvent::Kind::finished, sequence);
  event.reason = reason;
  event.error = std::move(error);
  event.ran_on = std::move(sequence.ran_on);
}

SequenceEvent& Scheduler::add_event(SequenceEvent::Kind kind, const Sequence& sequence) {
  SequenceEvent& event = events_.emplace_back();
  event.kind = kind;
  event.id = sequence.id;
  return event;
}

void Scheduler::release_blocks(Sequence& sequence) {
  for (size_t i = sequence.blocks.size(); i-- > 0;) pool_.release(sequence.blocks[i]);
  sequence.blocks.clear();
  sequence.computed = 0;
  sequence.published = 0;
  sequence.chain = BlockPool::root;
}

Result<std::vector<BlockId>> Scheduler::borrow_blocks(int64_t positions) {
  assert(!in_flight_);
  const int64_t wanted = pool_.blocks_for(positions);
  while (pool_.available() < wanted && !running_.empty()) preempt_youngest();
  if (pool_.available() < wanted) {
    return error(ErrorCode::context_length, "{} positions do not fit the KV cache of {} tokens",
                 positions, int64_t{pool_.blocks()} * pool_.block_tokens());
  }
  std::vector<BlockId> blocks(wanted);
  for (BlockId& block : blocks) block = *pool_.allocate();
  return blocks;
}

void Scheduler::return_blocks(std::span<const BlockId> blocks) {
  for (const BlockId block : blocks) pool_.release(block);
}

std::span<const TokenId> Scheduler::block_tokens(const Sequence& sequence, int64_t block) const {
  return std::span<const TokenId>(sequence.tokens)
      .subspan(block * pool_.block_tokens(), pool_.block_tokens());
}

Scheduler::Counts Scheduler::counts() const {
  Counts counts;
  counts.waiting = static_cast<int64_t>(waiting_.size());
  counts.running = static_cast<int64_t>(running_.size());
  counts.preemptions = preemptions_;
  counts.moved = moved_;
  counts.blocks_total = pool_.blocks();
  counts.blocks_used = pool_.used();
  counts.blocks_cached = pool_.cached();
  counts.prompt_tokens = prompt_tokens_;
  counts.cached_tokens = cached_tokens_;
  counts.generated_tokens = generated_tokens_;
  return counts;
}

}  // namespace impetus

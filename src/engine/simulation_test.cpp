#include "tests/simulation/simulation.h"

#include <algorithm>
#include <set>

#include <gtest/gtest.h>

namespace impetus::simulation {

SchedulerLimits Simulation::limits_of(std::mt19937_64& random) {
  const auto between = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  SchedulerLimits limits;
  limits.step_tokens_max = between(1, 4) == 1 ? between(1, 4) : between(4, 48);
  limits.running_max = between(1, 12);
  limits.waiting_max = between(4, 64);
  limits.context = between(1, 3) == 1 ? 0 : between(12, 80);
  return limits;
}

Simulation::Simulation(const Options& options)
    : options_(options),
      random_(options.seed),
      limits_(limits_of(random_)),
      block_tokens_(static_cast<int32_t>(between(1, 8))),
      blocks_(static_cast<int32_t>(between(2, chance(0.5) ? 12 : 80))),
      arrivals_(chance(0.3) ? 0.9 : 0.25),
      cancels_(options.disturb && chance(0.6) ? 0.06 : 0),
      failures_(options.disturb && chance(0.5) ? 0.03 : 0),
      loans_(options.disturb && chance(0.3) ? 0.02 : 0),
      scheduler_(limits_, blocks_, block_tokens_) {
  make_executor();
  for (int i = 0; i < 3; ++i) prefixes_.push_back(some_tokens(between(1, 30)));
}

void Simulation::make_executor() {
  models_.clear();
  const auto model = [&](const char* name, int32_t blocks) {
    auto made =
        std::make_unique<SimulatedModel>(blocks, block_tokens_, limits_.step_tokens_max, name);
    models_.push_back(made.get());
    return made;
  };
  if (options_.split) {
    // The pair has as many blocks as its smaller side.
    auto prefill = model("prefill", blocks_ + static_cast<int32_t>(options_.seed % 3));
    auto pair = SplitExecutor::create(std::move(prefill), model("decode", blocks_));
    pair_ = pair->get();
    executor_ = std::move(*pair);
  } else {
    executor_ = model("alone", blocks_);
  }
}

std::vector<TokenId> Simulation::some_tokens(int64_t count) {
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(between(0, vocabulary - 1));
  return tokens;
}

std::vector<TokenId> Simulation::some_prompt() {
  std::vector<TokenId> prompt;
  if (!clients_.empty() && chance(0.35)) {
    // The same again (n > 1, a repeated question), or the next turn of a conversation.
    auto client =
        std::next(clients_.begin(), between(0, static_cast<int64_t>(clients_.size()) - 1));
    prompt = client->second.request.prompt;
    if (chance(0.5)) return prompt;
    const auto& answer = client->second.answer;
    prompt.insert(prompt.end(), answer.begin(), answer.end());
  } else if (chance(0.7)) {
    prompt = prefixes_[between(0, 2)];
  }
  const auto tail = some_tokens(between(prompt.empty() ? 1 : 0, 20));
  prompt.insert(prompt.end(), tail.begin(), tail.end());
  return prompt;
}

Simulation::Client* Simulation::some_live_client() {
  std::vector<Client*> live;
  for (auto& [id, client] : clients_) {
    if (!client.ended) live.push_back(&client);
  }
  return live.empty() ? nullptr : live[between(0, static_cast<int64_t>(live.size()) - 1)];
}

void Simulation::arrive() {
  while (submitted_ < options_.requests && chance(arrivals_)) {
    Client client;
    client.request.prompt = some_prompt();
    client.request.tokens_max = between(1, 30);
    client.request.sampling.seed = ++submitted_;
    if (chance(0.4)) client.request.stop_tokens = some_tokens(between(1, 2));
    const auto size = static_cast<int64_t>(client.request.prompt.size());
    const int64_t capacity = scheduler_.capacity();
    const int64_t pool_tokens = int64_t{blocks_} * block_tokens_;
    if (capacity != (limits_.context > 0 ? std::min(limits_.context, pool_tokens) : pool_tokens))
      fail("the capacity is {}", capacity);
    const int64_t waiting = scheduler_.counts().waiting;
    const auto id = scheduler_.submit(client.request);
    if (!id.ok()) {
      ++report_.refused;
      const ErrorCode code = id.error().code;
      const bool right = size + 1 > capacity
                             ? code == ErrorCode::context_length
                             : code == ErrorCode::overloaded && waiting >= limits_.waiting_max;
      if (!right) fail("refused without a reason: {}", id.error().message);
      continue;
    }
    if (size + 1 > capacity) fail("a prompt of {} was taken into {}", size, capacity);
    client.id = *id;
    client.expected = alone(client.request.prompt, client.request.sampling.seed,
                            client.request.tokens_max, client.request.stop_tokens, capacity);
    client.preemptions_before = scheduler_.counts().preemptions;
    // The oldest gets a token in each step and is never sent back, so those before it and it itself
    // take at most a step for each of their tokens.
    client.deadline = report_.steps + client.work() + 2;
    for (const auto& [other_id, other] : clients_) {
      if (!other.ended) client.deadline += other.work();
    }
    clients_.emplace(*id, std::move(client));
  }
}

void Simulation::meddle() {
  if (!chance(cancels_)) return;
  Client* client = some_live_client();
  if (!client) return;
  if (chance(0.5)) {
    client->may_cancel = true;
    scheduler_.cancel(client->id);
  } else {
    client->may_stop = true;
    scheduler_.stop(client->id);
  }
}

void Simulation::lend_and_return() {
  if (!lent_.empty() && chance(0.5)) {
    scheduler_.return_blocks(lent_);
    lent_.clear();
  }
  if (lent_.empty() && chance(loans_)) {
    auto blocks = scheduler_.borrow_blocks(between(1, int64_t{blocks_} * block_tokens_));
    if (!blocks.ok()) return fail("a loan was refused: {}", blocks.error().message);
    lent_ = std::move(*blocks);
    ++report_.loans;
    // A loan may send everybody back.
    int64_t work = 0;
    for (const auto& [id, client] : clients_) {
      if (!client.ended) work += client.work();
    }
    for (auto& [id, client] : clients_) client.deadline += work;
  }
}

void Simulation::step() {
  ++report_.steps;
  lend_and_return();
  arrive();
  meddle();
  if (options_.before_plan) options_.before_plan(scheduler_);
  const auto steps = scheduler_.plan_step();
  if (options_.after_plan) options_.after_plan(scheduler_);
  if (steps.empty()) {
    const bool had_work = scheduler_.has_work();
    auto events = scheduler_.take_events();
    if (events.empty() && had_work && lent_.empty()) fail("there is work, but none is planned");
    if (!lent_.empty()) {  // waiting for the loan is nobody's fault
      for (auto& [id, client] : clients_) ++client.deadline;
    }
    return receive(std::move(events));
  }
  if (options_.look_inside) {
    check_plan(steps);
    check_blocks();
    if (!report_.failure.empty()) return;  // before a bug meets an assertion
  }
  arrive();
  meddle();
  std::set<uint64_t> in_step;
  for (const SequenceStep& step : steps) in_step.insert(step.sampling->seed);
  if (options_.recover && chance(0.05)) return recover(steps);
  if (chance(failures_)) {
    if (chance(0.5)) {
      models_[static_cast<size_t>(between(0, static_cast<int64_t>(models_.size()) - 1))]
          ->fail_next = true;
      for (auto& [id, client] : clients_)
        client.may_fail |= in_step.contains(client.request.sampling.seed);
    } else if (Client* client = some_live_client()) {
      for (SimulatedModel* model : models_) model->nan_seeds = {client->request.sampling.seed};
      client->may_fail |= in_step.contains(client->request.sampling.seed);
    }
  }
  auto results = run_step(steps);
  for (SimulatedModel* model : models_) {
    if (!model->violation.empty()) return fail("{}", model->violation);
    // What was meant for a side that had no part in this step.
    model->fail_next = false;
    model->nan_seeds.clear();
  }
  if (!results.ok() && results.error().code != ErrorCode::unavailable) {
    return fail("{}", results.error().message);
  }
  receive(results.ok() ? scheduler_.finish_step(*results) : scheduler_.fail_step(results.error()));
}

void Simulation::recover(std::span<const SequenceStep> steps) {
  ++report_.recovered;
  // Everybody is sent back, and what stood is computed again.
  int64_t work = 1;
  for (const auto& [id, client] : clients_) {
    if (!client.ended) work += client.work();
  }
  for (auto& [id, client] : clients_) {
    client.deadline += work;
    client.preemptions_before = -1;
  }
  const int64_t how = between(0, 4);
  if (how == 4) {  // the step never ends, and another executor goes on
    const std::vector<SequenceStep> read(steps.begin(), steps.end());
    abandoned_.emplace_back(read, scheduler_.abandon_step());
    receive(scheduler_.take_events());
    arrive();
    meddle();
    scheduler_.keep_descriptors();
    lent_.clear();
    make_executor();
    scheduler_.restart(limits_, blocks_, block_tokens_);
    shrunk_ = false;
    return receive(scheduler_.take_events());
  }
  // Of a pair perhaps one side alone, so that the other's rows come out well.
  models_[static_cast<size_t>(between(0, static_cast<int64_t>(models_.size()) - 1))]->fail_next =
      true;
  auto results = run_step(steps);
  for (SimulatedModel* model : models_) model->fail_next = false;
  if (how == 0) shrunk_ |= scheduler_.shrink();
  if (results.ok()) return receive(scheduler_.finish_step(*results, true));
  if (how > 1) return receive(scheduler_.return_step());
  for (const SequenceStep& step : steps) {
    for (auto& [id, client] : clients_) {
      client.may_fail |= client.request.sampling.seed == step.sampling->seed;
    }
  }
  receive(scheduler_.retry_step(results.error()));
}

Result<std::vector<SequenceResult>> Simulation::run_step(std::span<const SequenceStep> steps) {
  if (pair_ && options_.before_run) options_.before_run(*pair_, steps);
  auto results = executor_->execute(steps);
  if (pair_ && options_.after_run) options_.after_run(*pair_, steps);
  return results;
}

int64_t Simulation::computed(uint64_t seed) {
  int64_t sum = 0;
  for (SimulatedModel* model : models_) sum += model->computed[seed];
  return sum;
}

void Simulation::check_ran_on(const Client& client, const SequenceEvent& event) {
  const auto is = [](const std::vector<const BackendDescriptor*>& list, const char* name) {
    return list.size() == 1 && list[0]->backend == name;
  };
  const bool has_answer = !client.answer.empty();
  if (has_answer && !is(event.ran_on.prefill, options_.split ? "prefill" : "alone"))
    return fail("request {} does not say who ran its prompt", event.id);
  if (client.answer.size() > 1 && !is(event.ran_on.decode, options_.split ? "decode" : "alone"))
    return fail("request {} does not say who ran its answer", event.id);
}

void Simulation::receive(std::vector<SequenceEvent> events) {
  for (const SequenceEvent& event : events) {
    const auto found = clients_.find(event.id);
    if (found == clients_.end()) return fail("an event for nobody ({})", event.id);
    Client& client = found->second;
    if (client.ended) return fail("request {} hears more after its end", event.id);
    const auto prompt = static_cast<int64_t>(client.request.prompt.size());
    switch (event.kind) {
      case SequenceEvent::Kind::prefilled: {
        if (client.prefilled) return fail("request {} is prefilled twice", event.id);
        client.prefilled = true;
        report_.cached_tokens += event.cached_tokens;
        if (event.cached_tokens % block_tokens_ != 0 || event.cached_tokens >= prompt ||
            event.cached_tokens < 0)
          return fail("request {}: {} cached of {}", event.id, event.cached_tokens, prompt);
        const int64_t computed = this->computed(client.request.sampling.seed);
        if (client.preemptions_before == scheduler_.counts().preemptions &&
            computed != prompt - event.cached_tokens)
          return fail("request {}: {} tokens of {} computed, {} said to be cached", event.id,
                      computed, prompt, event.cached_tokens);
        break;
      }
      case SequenceEvent::Kind::token: {
        if (!client.prefilled) return fail("request {} has a token too early", event.id);
        const size_t at = client.answer.size();
        if (at >= client.expected.answer.size())
          return fail("request {} has more tokens than alone", event.id);
        if (event.token.id != client.expected.answer[at])
          return fail("request {}: wrong token {}", event.id, at);
        client.answer.push_back(event.token.id);
        ++report_.tokens;
        break;
      }
      case SequenceEvent::Kind::finished:
        receive_end(client, event);
        break;
    }
  }
}

void Simulation::receive_end(Client& client, const SequenceEvent& event) {
  client.ended = true;
  check_ran_on(client, event);
  const bool whole = client.answer == client.expected.answer;
  switch (event.reason) {
    case FinishReason::stop:
      ++report_.stopped;
      if (!(whole && client.expected.stopped) && !client.may_stop)
        fail("request {} stopped by itself", event.id);
      break;
    case FinishReason::length:
      ++report_.lengths;
      if (!whole || client.expected.stopped) fail("request {} ends as too long", event.id);
      break;
    case FinishReason::cancelled:
      ++report_.cancelled;
      if (!client.may_cancel) fail("request {} cancelled itself", event.id);
      break;
    case FinishReason::error:
      ++report_.errors;
      if (!client.may_fail || event.error.message.empty())
        fail("request {} failed alone", event.id);
      break;
  }
}

void Simulation::check_plan(std::span<const SequenceStep> steps) {
  using Peer = SchedulerTestPeer;
  const auto& running = Peer::running(scheduler_);
  const auto& waiting = Peer::waiting(scheduler_);
  if (static_cast<int64_t>(running.size()) > limits_.running_max) fail("too many run");
  SequenceId before = 0;
  for (const auto& sequence : running) {
    if (sequence->id <= before) fail("the running are out of order");
    before = sequence->id;
  }
  if (!waiting.empty() && waiting.begin()->first <= before) fail("the queue was overtaken");
  std::map<const Peer::Sequence*, int64_t> counts;
  int64_t total = 0;
  for (const auto& [sequence, count] : Peer::planned(scheduler_)) {
    if (!counts.emplace(sequence, count).second) fail("a sequence is planned twice");
    total += count;
    const int64_t first = sequence->computed / block_tokens_;
    const int64_t last = (sequence->computed + count - 1) / block_tokens_;
    for (int64_t i = first; i <= last; ++i) {
      if (i < sequence->published) fail("a findable block is written");
      if (Peer::pool(scheduler_).owners(sequence->blocks[i]) != 1)
        fail("a shared block is written");
    }
  }
  for (const auto& sequence : running) {
    const int64_t missing = sequence->size() - sequence->computed;
    if (missing == 1 && counts[sequence.get()] != 1) fail("a decoding sequence was left out");
    if (counts[sequence.get()] < sequence->missing() && total < limits_.step_tokens_max && !shrunk_)
      fail("the budget is not used");
  }
}

void Simulation::check_blocks() {
  using Peer = SchedulerTestPeer;
  const BlockPool& pool = Peer::pool(scheduler_);
  std::vector<int32_t> owners(blocks_, 0);
  for (const auto& sequence : Peer::running(scheduler_)) {
    for (const BlockId block : sequence->blocks) ++owners[block];
  }
  for (const auto& [id, sequence] : Peer::waiting(scheduler_)) {
    if (!sequence->blocks.empty()) fail("a waiting sequence holds blocks");
  }
  for (const BlockId block : lent_) ++owners[block];
  int32_t used = 0;
  for (BlockId block = 0; block < blocks_; ++block) {
    used += owners[block] > 0;
    if (owners[block] != pool.owners(block))
      fail("block {} has {} owners, but counts {}", block, owners[block], pool.owners(block));
  }
  if (used != pool.used()) fail("{} blocks are used, the pool says {}", used, pool.used());
}

void Simulation::check_deadlines() {
  for (const auto& [id, client] : clients_) {
    if (!client.ended && report_.steps > client.deadline) return fail("request {} starves", id);
  }
}

void Simulation::check_end() {
  for (const auto& [id, client] : clients_) {
    if (!client.ended) return fail("request {} was lost", id);
  }
  if (scheduler_.counts().blocks_used != 0) fail("blocks leaked");
}

Report Simulation::run() {
  while (report_.failure.empty() && (submitted_ < options_.requests || scheduler_.has_work())) {
    step();
    if (options_.look_inside && report_.failure.empty()) check_blocks();
    check_deadlines();
  }
  scheduler_.return_blocks(lent_);
  lent_.clear();
  if (report_.failure.empty()) check_end();
  report_.preemptions = scheduler_.counts().preemptions;
  report_.moved = scheduler_.counts().moved;
  uint64_t digest = 0;
  for (const auto& [steps, kept] : abandoned_) {  // the sanitizers watch
    for (const SequenceStep& step : steps) {
      for (const auto list : {step.tokens, step.context.prompt, step.context.answer}) {
        for (const TokenId token : list) digest = mix(digest, token);
      }
      for (const BlockId block : step.blocks) digest = mix(digest, block);
      digest = mix(digest, step.sampling->seed);
    }
  }
  if (!abandoned_.empty() && digest == 0) fail("a step that never ends read nothing");
  if (pair_) {
    report_.to_prefill = models_[0]->handed_over;
    report_.to_decode = models_[1]->handed_over;
  }
  return report_;
}

namespace {

TEST(Simulation, ThousandsOfSchedulesKeepEveryPromise) {
  Report all;
  for (uint64_t seed = 1; seed <= 4000; ++seed) {
    const Report report = Simulation({.seed = seed}).run();
    ASSERT_EQ(report.failure, "");
    all.steps += report.steps;
    all.tokens += report.tokens;
    all.cached_tokens += report.cached_tokens;
    all.preemptions += report.preemptions;
    all.refused += report.refused;
    all.errors += report.errors;
    all.cancelled += report.cancelled;
    all.stopped += report.stopped;
    all.lengths += report.lengths;
    all.loans += report.loans;
  }
  fmt::print(
      "steps {} tokens {} cached {} preemptions {} refused {} errors {} cancelled {} "
      "stopped {} length {} loans {}\n",
      all.steps, all.tokens, all.cached_tokens, all.preemptions, all.refused, all.errors,
      all.cancelled, all.stopped, all.lengths, all.loans);
  // A simulation in which nothing happens proves nothing.
  EXPECT_GT(all.cached_tokens, 50000);
  EXPECT_GT(all.preemptions, 2000);
  EXPECT_GT(all.refused, 1000);
  EXPECT_GT(all.errors, 500);
  EXPECT_GT(all.cancelled, 500);
  EXPECT_GT(all.loans, 100);
}

TEST(Simulation, APairKeepsThemToo) {
  Report all;
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    const Report report = Simulation({.seed = seed, .split = true}).run();
    ASSERT_EQ(report.failure, "");
    all.cached_tokens += report.cached_tokens;
    all.preemptions += report.preemptions;
    all.errors += report.errors;
    all.cancelled += report.cancelled;
    all.tokens += report.tokens;
    all.to_prefill += report.to_prefill;
    all.to_decode += report.to_decode;
  }
  fmt::print("tokens {} cached {} preemptions {} errors {} handed to prefill {}, to decode {}\n",
             all.tokens, all.cached_tokens, all.preemptions, all.errors, all.to_prefill,
             all.to_decode);
  EXPECT_GT(all.cached_tokens, 30000);
  EXPECT_GT(all.preemptions, 1000);
  EXPECT_GT(all.errors, 300);
  EXPECT_GT(all.cancelled, 300);
  // Prompts that go on from answers which the other side decoded, and every prompt's answer.
  EXPECT_GT(all.to_prefill, 1000);
  EXPECT_GT(all.to_decode, 100000);
}

// Steps fail in every way that need not cost an answer: what is told is right, once and in order.
TEST(Simulation, FailingStepsAndNewExecutorsLoseNothing) {
  for (const bool split : {false, true}) {
    Report all;
    for (uint64_t seed = 1; seed <= 2500; ++seed) {
      const Report report = Simulation({.seed = seed, .split = split, .recover = true}).run();
      ASSERT_EQ(report.failure, "");
      all.recovered += report.recovered;
      all.moved += report.moved;
      all.tokens += report.tokens;
      all.errors += report.errors;
    }
    fmt::print("recovered {} moved {} tokens {} errors {}\n", all.recovered, all.moved, all.tokens,
               all.errors);
    EXPECT_GT(all.recovered, 5000);
    EXPECT_GT(all.moved, 5000);
  }
}

TEST(Simulation, LongSchedulesToo) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    ASSERT_EQ(Simulation({.seed = seed, .requests = 1000}).run().failure, "");
  }
}

// Runs schedules with a bug planted until one is reported; the report, or nothing.
std::string catch_bug(Options options, const std::function<void(Options&)>& plant,
                      int schedules = 200) {
  for (int i = 1; i <= schedules; ++i) {
    options.seed = i;
    plant(options);
    const Report report = Simulation(options).run();
    if (!report.failure.empty()) return report.failure;
  }
  return "";
}

// An answer that is not the answer of the request alone, in any of its forms.
bool seen_in_tokens(const std::string& failure) {
  for (const char* sign : {"wrong token", "more tokens", "stopped by itself", "too long"}) {
    if (failure.find(sign) != failure.npos) return true;
  }
  return false;
}

using Peer = SchedulerTestPeer;

TEST(PlantedBug, KvOfTheExecutorBeforeIsCaughtByItsTokens) {
  // What stood in its blocks is believed to stand in the new one's.
  const auto plant = [](Options& options) {
    options.before_plan = [&, moved = int64_t{0}](Scheduler& scheduler) mutable {
      if (scheduler.counts().moved == moved) return;
      moved = scheduler.counts().moved;
      auto& waiting = Peer::waiting(scheduler);
      if (waiting.empty()) return;
      auto& sequence = *waiting.begin()->second;
      BlockPool& pool = Peer::pool(scheduler);
      if (sequence.size() <= pool.block_tokens()) return;
      const auto block = pool.allocate();
      if (!block) return;
      pool.publish(*block, BlockPool::root,
                   std::span(sequence.tokens).first(static_cast<size_t>(pool.block_tokens())));
      pool.release(*block);
    };
  };
  const auto failure = catch_bug({.look_inside = false, .recover = true}, plant);
  EXPECT_TRUE(seen_in_tokens(failure)) << failure;
}

TEST(PlantedBug, ALostRequestIsCaught) {
  // By its client alone: a preempted or waiting request vanishes once.
  const auto plant = [](Options& options) {
    options.before_plan = [steps = 0](Scheduler& scheduler) mutable {
      if (++steps == 5 && !Peer::waiting(scheduler).empty())
        Peer::waiting(scheduler).erase(Peer::waiting(scheduler).begin());
    };
  };
  const auto failure = catch_bug({.disturb = false, .look_inside = false}, plant);
  EXPECT_TRUE(failure.find("was lost") != failure.npos || failure.find("starves") != failure.npos)
      << failure;
}

TEST(PlantedBug, ABlockFreedTwiceIsCaught) {
  const auto plant = [](Options& options) {
    options.after_plan = [steps = 0](Scheduler& scheduler) mutable {
      if (++steps != 5) return;
      for (const auto& sequence : Peer::running(scheduler)) {
        if (!sequence->blocks.empty())
          return Peer::pool(scheduler).release(sequence->blocks.back());
      }
    };
  };
  const auto failure = catch_bug({.disturb = false}, plant);
  EXPECT_TRUE(failure.find("owners") != failure.npos || failure.find("written") != failure.npos)
      << failure;
}

TEST(PlantedBug, AWrongBlockIsCaughtByItsTokens) {
  // Two sequences' first blocks change places: every count is right, only the content is not.
  const auto plant = [](Options& options) {
    options.before_plan = [planted = false](Scheduler& scheduler) mutable {
      auto& running = Peer::running(scheduler);
      if (planted || running.size() < 2) return;
      auto& one = *running.front();
      auto& other = *running.back();
      if (one.published == 0 || other.published == 0) return;
      planted = one.blocks[0] != other.blocks[0];
      std::swap(one.blocks[0], other.blocks[0]);
    };
  };
  const auto failure = catch_bug({.disturb = false, .look_inside = false}, plant);
  EXPECT_TRUE(seen_in_tokens(failure)) << failure;
}

TEST(PlantedBug, StarvationByOvertakingIsCaught) {
  // Whoever is at the head while others wait is passed over, as by a scheduler that takes what
  // fits.
  const auto plant = [](Options& options) {
    auto hidden = std::make_shared<std::unique_ptr<Peer::Sequence>>();
    options.before_plan = [hidden](Scheduler& scheduler) {
      auto& waiting = Peer::waiting(scheduler);
      if (waiting.size() < 2) return;
      *hidden = std::move(waiting.begin()->second);
      waiting.erase(waiting.begin());
    };
    options.after_plan = [hidden](Scheduler& scheduler) {
      if (!*hidden) return;
      const SequenceId id = (*hidden)->id;
      Peer::waiting(scheduler).emplace(id, std::move(*hidden));
    };
  };
  const auto failure = catch_bug({.requests = 1000, .disturb = false, .look_inside = false}, plant);
  EXPECT_NE(failure.find("starves"), failure.npos) << failure;
  // And at once where one may look inside.
  const auto inside = catch_bug({.disturb = false}, plant);
  EXPECT_NE(inside.find("overtaken"), inside.npos) << inside;
}

// Bugs of the pair's book-keeping, seen in tokens alone.
TEST(PlantedBug, ASkippedCopyBetweenSidesIsCaughtByItsTokens) {
  for (const StepPhase side : {StepPhase::prefill, StepPhase::decode}) {
    const auto plant = [side](Options& options) {
      options.before_run = [side](SplitExecutor& pair, std::span<const SequenceStep> steps) {
        // Full blocks that only the other side has pass for valid.
        for (const SequenceStep& step : steps) {
          if (step.phase != side || step.position < pair.kv().block_tokens()) continue;
          SplitExecutorTestPeer::valid(pair, side)[static_cast<size_t>(step.blocks[0])] =
              pair.kv().block_tokens();
        }
      };
    };
    const auto failure = catch_bug({.disturb = false, .look_inside = false, .split = true}, plant);
    EXPECT_TRUE(seen_in_tokens(failure)) << failure;
  }
}

TEST(PlantedBug, AForgottenInvalidationIsCaughtByItsTokens) {
  for (const StepPhase side : {StepPhase::prefill, StepPhase::decode}) {
    const auto plant = [side](Options& options) {
      auto before = std::make_shared<std::vector<int32_t>>();
      options.before_run = [=](SplitExecutor& pair, std::span<const SequenceStep>) {
        *before = SplitExecutorTestPeer::valid(pair, side);
      };
      // What the other side writes takes nothing from this one.
      options.after_run = [=](SplitExecutor& pair, std::span<const SequenceStep>) {
        auto& valid = SplitExecutorTestPeer::valid(pair, side);
        for (size_t i = 0; i < valid.size(); ++i) valid[i] = std::max(valid[i], (*before)[i]);
      };
    };
    const auto failure = catch_bug({.look_inside = false, .split = true}, plant);
    EXPECT_TRUE(seen_in_tokens(failure)) << failure;
  }
}

TEST(PlantedBug, ABlockFindableBeforeItIsComputedIsCaughtByItsTokens) {
  const auto plant = [](Options& options) {
    options.after_plan = [](Scheduler& scheduler) {
      for (const auto& sequence : Peer::running(scheduler)) {
        const int64_t computed = sequence->computed;
        sequence->computed = sequence->size() - 1;
        Peer::publish(scheduler, *sequence);
        sequence->computed = computed;
      }
    };
  };
  const auto failure = catch_bug({.look_inside = false}, plant);
  EXPECT_TRUE(seen_in_tokens(failure)) << failure;
}

}  // namespace
}  // namespace impetus::simulation

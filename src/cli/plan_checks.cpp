#include "cli/plan.h"

#include <algorithm>
#include <array>

#include "backend/synthetic_model.h"
#include "planner/predict.h"
#include "planner/published.h"

namespace impetus::cli {
namespace {

// A model to run: from its files, or of random weights where only a shape is named.
Result<Model> model_to_run(const std::string& name, Backend& backend, const LoadOptions& load,
                           int64_t kv_tokens, MemoryLedger& ledger) {
  const auto shape = shape_and_type(name);
  if (!shape) {
    IMPETUS_TRY(const ModelLocation location, locate(name));
    return load_model(location, Ladders::only(backend), Fallback::forbid, load, kv_tokens, ledger);
  }
  ModelSpec spec = *shape->first;
  spec.context = std::min<int64_t>(spec.context, 4096);
  IMPETUS_TRY(SyntheticModel made, synthetic_model(spec, shape->second));
  auto kept = std::make_shared<SyntheticModel>(std::move(made));
  Model model;
  model.info.id = name;
  model.info.precision = std::string(to_string(shape->second));
  model.spec = kept->spec;
  model.context = spec.context;
  model.weights = std::shared_ptr<const WeightSet>(kept, kept->weights.get());
  LoadOptions options = load;
  options.kv_tokens = kv_tokens;
  if (spec.kind == ModelKind::decoder) {
    IMPETUS_TRY(model.executor, backend.load_decoder(model.spec, *model.weights, options, ledger));
  } else {
    IMPETUS_TRY(model.encoder, backend.load_encoder(model.spec, *model.weights, options, ledger));
  }
  return model;
}

constexpr std::array<int64_t, 3> kPrompts = {16, 128, 512};
constexpr std::array<int64_t, 3> kAnswers = {1, 32, 256};

struct GridPoint {
  int64_t prompt = 0, answer = 0;
  double chosen = 0, best = 0;  // seconds, measured
  std::string choice, best_choice;
};

Result<std::vector<GridPoint>> walk_grid(const PlanOptions& options, const std::string& name,
                                         const PlanMachine& machine,
                                         std::span<const std::unique_ptr<Backend>> backends) {
  constexpr int64_t kDecoded = 24;
  constexpr size_t kRounds = 3;
  using Rounds = std::array<double, kRounds>;
  struct Way {
    std::string name;
    Backend* backend = nullptr;
    const DeviceProfile* profile = nullptr;
    int threads = 0;
    std::array<Rounds, kPrompts.size()> prefills, decodes;
    std::array<double, kPrompts.size()> prefill, decode, planned_prefill, planned_decode;
  };
  std::vector<Way> ways;
  for (size_t b = 0; b < backends.size(); ++b) {
    const DeviceProfile& profile = machine.processors[b].profile;
    for (const int threads : thread_counts(profile)) {
      Way& way = ways.emplace_back();
      way.name = fmt::format("{}, {} thread{}", profile.backend, threads, threads == 1 ? "" : "s");
      way.backend = backends[b].get();
      way.profile = &profile;
      way.threads = threads;
    }
  }
  // By turns: a machine whose memory or clock drifts slows all of them alike.
  for (size_t round = 0; round < kRounds; ++round) {
    for (Way& way : ways) {
      MemoryLedger ledger(machine.host_memory_bytes);
      LoadOptions load = options.load.load();
      load.threads = {way.threads, way.threads};
      IMPETUS_TRY(Model model, model_to_run(name, *way.backend, load, 1024, ledger));
      if (!model.executor) return std::vector<GridPoint>{};
      IMPETUS_TRY(ModelCost cost, model_cost(name, model.spec, *model.weights));
      if (options.load.weights == "int8") cost = cost.in(DType::q8_0);
      const Predictor predictor(*way.profile, cost, way.threads);
      for (size_t p = 0; p < kPrompts.size(); ++p) {
        IMPETUS_TRY(const BenchmarkResult result, benchmark(model, {kPrompts[p], kDecoded, 1}));
        const auto prompt = static_cast<double>(kPrompts[p]);
        way.prefills[p][round] = prompt / result.prefill_tokens_per_second->median;
        way.decodes[p][round] = 1 / result.decode_tokens_per_second->median;
        way.planned_prefill[p] = predictor.prefill(kPrompts[p], 0, 512, load.kv).seconds;
        way.planned_decode[p] = predictor.decode(1, kPrompts[p] + kDecoded / 2, load.kv).seconds;
      }
    }
  }
  for (Way& way : ways) {
    const auto middle = [](Rounds& rounds) {
      std::ranges::sort(rounds);
      return rounds[kRounds / 2];
    };
    for (size_t p = 0; p < kPrompts.size(); ++p) {
      way.prefill[p] = middle(way.prefills[p]);
      way.decode[p] = middle(way.decodes[p]);
    }
  }
  std::vector<GridPoint> grid;
  for (size_t p = 0; p < kPrompts.size(); ++p) {
    for (const int64_t answer : kAnswers) {
      GridPoint& point = grid.emplace_back();
      point.prompt = kPrompts[p];
      point.answer = answer;
      double planned_least = 1e300;
      point.best = 1e300;
      // Threads are chosen for each phase; the backend for both.
      for (const Way& one : ways) {
        for (const Way& other : ways) {
          const auto backend = [](const Way& way) {
            return way.name.substr(0, way.name.find(','));
          };
          if (backend(one) != backend(other)) continue;
          const auto tokens = static_cast<double>(answer);
          const double measured = one.prefill[p] + tokens * other.decode[p];
          const double planned = one.planned_prefill[p] + tokens * other.planned_decode[p];
          if (planned < planned_least) {
            planned_least = planned;
            point.chosen = measured;
            point.choice = one.name + " / " + other.name;
          }
          if (measured < point.best) {
            point.best = measured;
            point.best_choice = one.name + " / " + other.name;
          }
        }
      }
    }
  }
  return grid;
}

// The threads a plan gives each phase of a model on one backend.
ThreadPlan planned_threads(const ModelCost& model, const PlanMachine& machine, Policy policy,
                           const std::string& backend) {
  policy.devices = {backend};
  const ModelPlan plan = make_plan(machine, {&model, 1}, policy).models.front();
  ThreadPlan threads;
  for (const PhasePlan& one : plan.placements) {
    (one.phase == Phase::decode ? threads.decode : threads.prefill) = one.threads;
  }
  return threads;
}

}  // namespace

Result<std::vector<BenchmarkRecord>> verify_plan(
    const PlanOptions& options, std::span<const ModelCost> models, const PlanMachine& machine,
    const Policy& policy, std::span<const std::unique_ptr<Backend>> backends) {
  constexpr size_t kRounds = 3;
  const int64_t generate = std::min<int64_t>(options.answer, 64);
  // A model on a backend.
  struct Pair {
    size_t model, backend;
    bool refused = false;
    std::vector<std::vector<BenchmarkRecord>> rounds;
  };
  std::vector<Pair> pairs;
  for (size_t m = 0; m < options.models.size(); ++m) {
    for (size_t b = 0; b < backends.size(); ++b) pairs.push_back({m, b, false, {}});
  }
  const auto measure = [&](Pair& pair, Model& model,
                           const LoadOptions& load) -> Result<std::vector<BenchmarkRecord>> {
    BenchmarkOptions run;
    run.prompt =
        model.executor ? std::min(options.prompt, model.context - generate) : options.prompt;
    run.generate = generate;
    run.repeat = 2;
    run.seconds = 1;  // on a fast processor as well
    IMPETUS_TRY(const BenchmarkResult result, benchmark(model, run));
    return benchmark_records(model, backends[pair.backend]->descriptor(),
                             machine.processors[pair.backend].profile, load, run, result);
  };
  Progress progress("measuring", static_cast<int64_t>(kRounds * pairs.size()));
  int64_t done = 0;
  // By turns, so that the rounds of each lie apart: a machine's pace changes for seconds at a time.
  // One model is loaded at a time, as when it was planned.
  for (size_t round = 0; round < kRounds; ++round) {
    for (Pair& pair : pairs) {
      progress.step(++done);
      if (pair.refused || pair.rounds.size() == kRounds) continue;
      const std::string& name = options.models[pair.model];
      const std::string& backend = backends[pair.backend]->descriptor().backend;
      MemoryLedger ledger(machine.host_memory_bytes);
      LoadOptions load = options.load.load();
      load.threads = planned_threads(models[pair.model], machine, policy, backend);
      auto model =
          model_to_run(name, *backends[pair.backend], load, options.prompt + generate + 1, ledger);
      if (!model.ok()) {
        fmt::print(stderr, "{} on {}: {}\n", name, backend, model.error().message);
        pair.refused = true;
        continue;
      }
      do {
        IMPETUS_TRY(auto records, measure(pair, *model, load));
        pair.rounds.push_back(std::move(records));
        // Alone it need not be loaded again.
      } while (pairs.size() == 1 && pair.rounds.size() < kRounds);
    }
  }
  std::vector<BenchmarkRecord> records;
  for (const Pair& pair : pairs) {
    for (BenchmarkRecord& record : over_rounds(pair.rounds)) records.push_back(std::move(record));
  }
  return records;
}

Result<void> print_grid(const PlanOptions& options, const PlanMachine& machine,
                        std::span<const std::unique_ptr<Backend>> backends) {
  json::array rows;
  std::vector<double> losses;
  for (const std::string& name : options.models) {
    IMPETUS_TRY(const auto grid, walk_grid(options, name, machine, backends));
    for (const GridPoint& point : grid) {
      losses.push_back(point.chosen / point.best - 1);
      rows.push_back(json::object{{"model", name},
                                  {"prompt", point.prompt},
                                  {"answer", point.answer},
                                  {"chosen", point.choice},
                                  {"chosen_seconds", point.chosen},
                                  {"best", point.best_choice},
                                  {"best_seconds", point.best}});
      if (options.json) continue;
      fmt::print("  {:<24} prompt {:>4}, answer {:>4}: {:<40} {:>9} {}\n", name, point.prompt,
                 point.answer, point.choice, seconds_text(point.chosen),
                 losses.back() > 0
                     ? fmt::format("{:+.1f} % on {}", losses.back() * 100, point.best_choice)
                     : "the best");
    }
  }
  std::ranges::sort(losses);
  const double median = losses.empty() ? 0 : losses[losses.size() / 2];
  const double most = losses.empty() ? 0 : losses.back();
  if (options.json) {
    print_json(json::object{{"grid", std::move(rows)}, {"median_loss", median}, {"most", most}});
  } else {
    fmt::print(
        "  the choices lose {:.1f} % against the best measured in the middle, {:.1f} % at most\n",
        median * 100, most * 100);
  }
  return {};
}

Result<void> print_published(const PlanOptions& options) {
  const auto checks = check_published();
  json::array rows;
  if (!options.json) {
    fmt::print("{:<22} {:<5} {:<14} {:<9} {:<10} {:>11} {:>11} {:>6}  {}\n", "machine", "on",
               "model", "weights", "phase", "published", "planned", "error", "by");
  }
  for (const PublishedCheck& check : checks) {
    const PublishedRate& rate = *check.published;
    const std::string phase =
        rate.batch > 1 ? fmt::format("{} x{}", rate.phase, rate.batch) : rate.phase;
    if (options.json) {
      rows.push_back(json::object{{"machine", rate.machine},
                                  {"device", rate.device},
                                  {"model", rate.model},
                                  {"weights", rate.weights},
                                  {"phase", rate.phase},
                                  {"batch", rate.batch},
                                  {"published_tokens_per_second", rate.tokens_per_second},
                                  {"planned_tokens_per_second", check.predicted},
                                  {"error", check.error()},
                                  {"program", rate.program},
                                  {"source", rate.source}});
      continue;
    }
    fmt::print("{:<22} {:<5} {:<14} {:<9} {:<10} {:>11.1f} {:>11.1f} {:>+5.0f}%  {}\n",
               rate.machine, rate.device, rate.model, rate.weights, phase, rate.tokens_per_second,
               check.predicted, check.error() * 100, rate.program);
  }
  if (options.json) {
    print_json(
        json::object{{"published", std::move(rows)}, {"median_error", median_error(checks)}});
  } else {
    fmt::print("{} published speeds, median error {:.0f} %\n", checks.size(),
               median_error(checks) * 100);
  }
  return {};
}

}  // namespace impetus::cli

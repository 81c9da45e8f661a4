// The parts of `impetus plan`: what is planned, and how plans are held against measurements.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "planner/plan.h"
#include "runtime/benchmark_records.h"

namespace impetus::cli {

struct PlanOptions {
  std::vector<std::string> models;
  ModelOptions load;
  std::string hardware, macos = "26.2";
  std::vector<std::string> devices;
  int64_t prompt = 512, answer = 128;
  bool explain = false, verify = false, grid = false, published = false, json = false;
};

// SHAPE:TYPE ("llama-3.1-8b:q4_0"), for a model that there are no files of; nothing for a name.
std::optional<std::pair<const ModelSpec*, DType>> shape_and_type(std::string_view name);

std::string seconds_text(double seconds);

// Runs each model on each backend with the threads that the plan gives it there, in three rounds by
// turns, and sets the speed beside the prediction: the median of the rounds, their least and most.
// A backend that refuses a model is named on standard error and left out.
Result<std::vector<BenchmarkRecord>> verify_plan(
    const PlanOptions& options, std::span<const ModelCost> models, const PlanMachine& machine,
    const Policy& policy, std::span<const std::unique_ptr<Backend>> backends);
// How much longer what the planner chooses takes than the best there is, over prompts and answers
// of several lengths, backends and thread counts: all of it measured.
Result<void> print_grid(const PlanOptions& options, const PlanMachine& machine,
                        std::span<const std::unique_ptr<Backend>> backends);
// How near plans on paper come to what others published.
Result<void> print_published(const PlanOptions& options);

}  // namespace impetus::cli

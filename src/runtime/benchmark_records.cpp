#include "runtime/benchmark_records.h"

#include <algorithm>
#include <cmath>
#include <ctime>

#include "base/build_id.h"
#include "base/log.h"
#include "base/timing.h"
#include "planner/predict.h"

namespace impetus {

std::vector<BenchmarkRecord> benchmark_records(
    const Model& model, const BackendDescriptor& descriptor, const DeviceProfile& profile,
    const LoadOptions& load, const BenchmarkOptions& options, const BenchmarkResult& result) {
  auto cost = model_cost(model.info.id, model.spec, *model.weights);
  if (!cost.ok()) {  // it was loaded, so it resolves
    log::warn("{}", cost.error().message);
    return {};
  }
  if (load.weights == WeightPrecision::int8) cost = cost->in(DType::q8_0);
  BenchmarkRecord base;
  base.time = std::time(nullptr);
  base.model = model.info.id;
  base.precision = model.info.precision;
  base.device = descriptor.device;
  base.backend = descriptor.backend;
  base.prompt = options.prompt;
  base.profile_measured = profile.measured;
  base.version = "0.1.0";
  base.build = build_id().substr(0, 12);
  std::vector<BenchmarkRecord> records;
  const auto add = [&](const char* phase, int threads, const Spread& spread, double seconds,
                       double tokens) {
    BenchmarkRecord& record = records.emplace_back(base);
    record.phase = phase;
    record.threads = threads > 0 ? threads : descriptor.threads;
    record.measured = spread.median;
    record.least = spread.least;
    record.most = spread.most;
    record.predicted = seconds > 0 && !profile.empty() ? tokens / seconds : 0;
  };
  const auto predictor = [&](int threads) {
    return Predictor(profile, *cost, threads > 0 ? threads : descriptor.threads);
  };
  if (model.executor) {
    base.generate = options.generate;
    if (result.prefill_tokens_per_second) {
      add("prefill", load.threads.prefill, *result.prefill_tokens_per_second,
          predictor(load.threads.prefill)
              .prefill(options.prompt, 0, model.executor->step_tokens_max(), load.kv)
              .seconds,
          static_cast<double>(options.prompt));
    }
    if (result.decode_tokens_per_second) {
      add("decode", load.threads.decode, *result.decode_tokens_per_second,
          predictor(load.threads.decode)
              .decode(1, options.prompt + options.generate / 2, load.kv)
              .seconds,
          1);
    }
    return records;
  }
  base.prompt = result.tokens_per_text;
  const auto length = static_cast<double>(result.tokens_per_text);
  const Predictor predict = predictor(load.threads.prefill);
  if (result.tokens_per_second) {
    add("embeddings", load.threads.prefill, *result.tokens_per_second,
        predict.encode(result.texts_per_batch, result.tokens_per_text).seconds,
        length * static_cast<double>(result.texts_per_batch));
  }
  if (result.latency_ms) {
    const auto rate = [&](double ms) { return ms > 0 ? length * 1e3 / ms : 0; };
    add("embedding", load.threads.prefill,
        {rate(result.latency_ms->median), rate(result.latency_ms->most),
         rate(result.latency_ms->least)},
        predict.encode(1, result.tokens_per_text).seconds, length);
  }
  return records;
}

std::vector<BenchmarkRecord> over_rounds(const std::vector<std::vector<BenchmarkRecord>>& rounds) {
  if (rounds.empty()) return {};
  std::vector<BenchmarkRecord> records = rounds.back();
  for (BenchmarkRecord& record : records) {
    std::vector<double> speeds;
    for (const auto& round : rounds) {
      const auto same = std::ranges::find(round, record.phase, &BenchmarkRecord::phase);
      if (same != round.end()) speeds.push_back(same->measured);
    }
    const auto [least, most] = std::ranges::minmax(speeds);
    record.least = least;
    record.most = most;
    record.measured = median(std::move(speeds));
  }
  return records;
}

double median_prediction_error(const std::vector<BenchmarkRecord>& records) {
  std::vector<double> errors;
  for (const BenchmarkRecord& record : records) {
    if (record.predicted > 0 && record.measured > 0) {
      errors.push_back(std::abs(record.predicted / record.measured - 1));
    }
  }
  return median(std::move(errors));
}

}  // namespace impetus

// How a backend is measured (measure.h): what measure.cpp and measure_enqueued.cpp share.
#pragma once

#include <array>
#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/measure.h"
#include "backend/measured_runs.h"
#include "backend/memory_ledger.h"
#include "backend/synthetic_model.h"

namespace impetus {

inline constexpr int64_t kRowsMax = 512;
inline constexpr int64_t kContext = 2304;

// How much a figure is taken from.
struct Extent {
  int64_t rows = kRowsMax;          // of a step of many
  int64_t hidden = 1024;            // of products
  int64_t attention_hidden = 1024;  // heads for sixteen threads
  int64_t encoder_hidden = 384;     // of what encoders do beside products
  int64_t past = 2048;              // earlier positions, where attention is measured
};
// Less on a processor where a step of kRowsMax would take seconds, as it does on one thread without
// vectors: it has no rates that only many rows show.
inline constexpr Extent kSlow = {64, 512, 256, 128, 512};
inline constexpr double kSlowSeconds = 1;

// Weights that a token is multiplied with, of one layer and of the head.
inline int64_t layer_parameters(const ModelSpec& spec) {
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  const int64_t matrices = spec.kind == ModelKind::decoder ? 3 : 2;
  return spec.hidden * (2 * queries + 2 * keys) + matrices * spec.hidden * spec.feed_forward;
}

inline int64_t bytes_of_parameters(int64_t parameters, DType type) {
  return parameters / block_elements(type) * block_bytes(type);
}

// Weights that layers are timed with: as many as a type has bits, where it is MLX's groups.
struct Kind {
  DType type = DType::f32;
  int bits = 0;
};

// Whether a figure may be missing: the backend has no such thing, or too little memory for it.
inline bool left_out(const Error& error) {
  return error.code == ErrorCode::unsupported || error.code == ErrorCode::insufficient_memory;
}

class Measurer {
 public:
  Measurer(Backend& backend, MemoryLedger& ledger, const MeasureOptions& options)
      : backend_(backend), ledger_(ledger), options_(options) {}

  Result<DeviceProfile> run();

 private:
  struct Loaded {
    SyntheticModel model;
    std::unique_ptr<Executor> executor;
    std::unique_ptr<Encoder> encoder;
    const ModelSpec& spec() const { return model.spec; }
  };
  // What is timed in several moments.
  struct Figure {
    explicit Figure(std::function<Run()> how, std::function<void(double)> to = {})
        : run(std::move(how)), keep(std::move(to)) {}
    std::function<Run()> run;
    std::function<void(double seconds)> keep;  // told the median, when all is measured
    std::vector<double> moments;               // seconds of a step
    std::optional<ShapeClass> layer;           // a layer's: of what
    bool over = false;                         // it failed
  };
  struct Series {
    std::vector<Loaded> models;
    std::vector<Figure> figures;  // of these models' executors and encoders
    int visits = 0;
  };

  void tell(const std::string& what) {
    if (options_.progress) options_.progress(what, static_cast<double>(done_++) / planned_);
  }
  LoadOptions load_options(int threads, int64_t kv_tokens) const {
    LoadOptions options;
    options.kv_tokens = kv_tokens;
    options.step_tokens_max = kRowsMax;
    options.threads = {threads, threads};
    return options;
  }
  Result<Loaded> decoder(int64_t layers, int64_t hidden, Kind kind, int threads,
                         int64_t kv_tokens = kRowsMax) {
    return load([&]() -> Result<Loaded> {
      Loaded made;
      IMPETUS_TRY(made.model, synthetic_model(synthetic_decoder_spec(layers, hidden, kContext),
                                              kind.type, false, kind.bits));
      IMPETUS_TRY(made.executor, backend_.load_decoder(made.model.spec, *made.model.weights,
                                                       load_options(threads, kv_tokens), ledger_));
      return made;
    });
  }
  Result<Loaded> encoder(int64_t layers, int64_t hidden, DType type, int threads) {
    return load([&]() -> Result<Loaded> {
      Loaded made;
      IMPETUS_TRY(made.model,
                  synthetic_model(synthetic_encoder_spec(layers, hidden, kRowsMax), type));
      IMPETUS_TRY(made.encoder, backend_.load_encoder(made.model.spec, *made.model.weights,
                                                      load_options(threads, 0), ledger_));
      return made;
    });
  }
  // A device's memory may be less than the ledger's: what is held goes before a load fails.
  template <typename Load>
  Result<Loaded> load(Load once) {
    while (true) {
      Result<Loaded> made = once();
      if (made.ok() || made.error().code != ErrorCode::insufficient_memory || held_.empty()) {
        return made;
      }
      IMPETUS_CHECK(let_go());
    }
  }

  double now() const {
    return options_.clock
               ? options_.clock()
               : std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
                     .count();
  }
  // The lower quartile of a step's times, in seconds; an error ends it.
  Result<double> time(const Run& run) const;
  Result<double> decode(Loaded& loaded, int64_t rows) const {
    return time(decode_run(*loaded.executor, rows, backend_.descriptor().enqueues));
  }
  Result<double> chunk(Loaded& loaded, int64_t rows, StepOutput output) const {
    return time(chunk_run(*loaded.executor, rows, output));
  }
  Result<double> at(Loaded& loaded, int64_t rows, int64_t past) const {
    return time(at_run(*loaded.executor, rows, past));
  }
  Result<double> encode(Loaded& loaded, int64_t texts, int64_t length) const {
    return time(encode_run(*loaded.encoder, texts, length));
  }

  // A step's time in this moment; `first`: nothing of the kind ran before.
  Result<double> moment(const Run& run, bool first) const;
  Result<void> visit(Series& series) const;
  // A moment of all that is held; what has had enough of them is let go.
  Result<void> round();
  // The oldest that is held, after the moments that it still lacks.
  Result<void> let_go();

  // Works until two stretches are equally fast: clocks rise, and a virtual machine gets its memory.
  Result<void> settle(int threads);
  Result<void> measure_overhead(int threads);
  Result<void> each_read_shape(
      const std::function<Result<void>(int64_t layers, int64_t hidden)>& measure);
  // `seconds`: of a step of one row that reads its weights.
  void add_read(const ModelSpec& spec, int threads, double seconds);
  Result<void> measure_read(int threads);
  Result<void> measure_matrix(DType type, int threads, std::span<const int64_t> rows);
  Result<void> measure_attention(int threads);
  // `ops`: what attention of `many` has to do beside that of `few`; their products are the same.
  void add_attention(Series& series, ShapeClass shape, double ops, std::function<Run()> few,
                     std::function<Run()> many);
  Result<void> hold_attention(int64_t hidden);
  Result<void> hold_encoder_attention();
  Result<void> measure_encoder(int threads);
  Result<void> measure_encoder_attention(int threads);
  // Where steps are enqueued: whole layers in place of products, and of what is beside them.
  Result<DeviceProfile> run_enqueued();
  Result<void> hold_steps();
  Result<void> keep_steps();
  void keep_scatter();
  Result<void> hold_reading();
  Result<void> hold_layers(Kind kind);
  Result<void> hold_encoder_layers(DType type);
  void add_layer(Series& series, LayerTime layer, double layers, std::function<Run()> run);
  Result<void> measure_copies();

  // That most encoders are published in.
  DType encoder_type() const {
    return std::ranges::count(backend_.descriptor().weights, DType::f16) > 0 ? DType::f16
                                                                             : DType::f32;
  }
  const Overhead& overhead(int threads) const {
    return *std::ranges::find_if(profile_.overhead, [&](const Overhead& o) {
      return o.threads == threads && o.shape == ShapeClass::decode;
    });
  }
  double step_seconds(ShapeClass shape) const {
    const auto found = std::ranges::find(profile_.overhead, shape, &Overhead::shape);
    return found == profile_.overhead.end() ? 0 : found->step_seconds;
  }
  // Lets go of what is held for it, and for what runs faster beside it where that fits, too.
  Result<bool> fits(int64_t bytes, int64_t beside = 0) {
    const int64_t needed = bytes * 2 + (int64_t{64} << 20);
    // What is made on the host, in vain where letting go gives nothing back there.
    if (backend_.memory() != nullptr && needed >= ledger_.free_bytes()) return false;
    const auto room = [&](int64_t wanted) { return wanted < memory().free_bytes(); };
    for (const int64_t wanted : {needed + beside, needed}) {
      const bool ever = wanted < memory().capacity_bytes();
      while (ever && !room(wanted) && !held_.empty()) IMPETUS_CHECK(let_go());
    }
    return room(needed);
  }
  const MemoryLedger& memory() const { return backend_.memory() ? *backend_.memory() : ledger_; }

  Backend& backend_;
  MemoryLedger& ledger_;
  const MeasureOptions& options_;
  DeviceProfile profile_;
  Extent extent_;
  Series steps_;             // timed with every round
  std::deque<Series> held_;  // rising visits from the back
  std::vector<Figure> done_with_;
  double round_ = 0;  // when the last one began
  int done_ = 0;
  double planned_ = 1;
};

}  // namespace impetus

#include "mlx/decoder.h"

#include <algorithm>
#include <array>

#include "architectures/decoder_forward.h"
#include "base/guarded.h"
#include "mlx/mlx_decoder.h"
#include "mlx/sequence_attention.h"

namespace impetus::mlx_backend {
namespace {

// Any array where there is no norm: kernels do not look at it.
const mx::array& q_norm(const Layer& layer) {
  return layer.q_norm ? *layer.q_norm : layer.attention_norm;
}
const mx::array& k_norm(const Layer& layer) {
  return layer.k_norm ? *layer.k_norm : layer.attention_norm;
}

}  // namespace

Result<std::vector<SequenceResult>> MlxDecoder::execute(std::span<const SequenceStep> batch) {
  IMPETUS_CHECK(check_batch(spec_, kv_->blocks(), KvPool::kBlockTokens, step_tokens_max_, batch));
  if (batch.empty()) return std::vector<SequenceResult>{};
  auto results = entered(spec_.family, machine_->cpu, [&] { return step(batch); });
  if (!results.ok()) {
    // A step that runs ahead still writes what it made: that goes when it has ended.
    auto ended = entered(spec_.family, machine_->cpu, [&]() -> Result<void> {
      wait();
      return {};
    });
    auto cleared = entered(spec_.family, machine_->cpu, [&]() -> Result<void> {
      forget();
      kv_->recover();
      return {};
    });
    (void)ended.ok(), (void)cleared.ok();
  }
  return results;
}

// Lets what was enqueued come to its end, so that the pool is nobody else's.
void MlxDecoder::wait() {
  if (!in_flight_) return;
  in_flight_ = false;
  mx::synchronize(Wall::get().stream(machine_->cpu));
}

void MlxDecoder::forget() {
  if (ahead_) ++ahead_dropped_;
  ahead_.reset();
  for (auto* array :
       {&residual_, &query_, &attended_, &slots_, &qkv_, &normed_, &tokens_, &placed_, &before_}) {
    array->reset();
  }
  padded_.reset();
  attend_.reset();
  prefill_steps_.clear();
  place_.reset();
  logits_.clear();
  if (rotary_) rotary_->clear();
}

// Prompts among sequences that decode: each kind by itself, where one kernel attends to all of the
// latter and otherwise several operations would to each.
Result<std::vector<SequenceResult>> MlxDecoder::step(std::span<const SequenceStep> batch) {
  const auto decodes = [](const SequenceStep& step) {
    return step.tokens.size() == 1 && step.output != StepOutput::none;
  };
  const auto count = std::ranges::count_if(batch, decodes);
  if (!kernels_ || count == 0 || count == std::ssize(batch)) {
    return step(batch, machine_->run_ahead);
  }
  std::vector<SequenceResult> results(batch.size());
  for (const bool decoding : {true, false}) {
    std::vector<SequenceStep> part;
    std::vector<size_t> whose;
    for (size_t s = 0; s < batch.size(); ++s) {
      if (decodes(batch[s]) != decoding) continue;
      part.push_back(batch[s]);
      whose.push_back(s);
    }
    auto some = step(part, false);
    for (size_t i = 0; i < some.size(); ++i) results[whose[i]] = std::move(some[i]);
  }
  return results;
}

std::vector<SequenceResult> MlxDecoder::step(std::span<const SequenceStep> batch, bool look_ahead) {
  std::vector<SequenceResult> results(batch.size());
  if (ahead_ && ahead_->matches(batch)) {
    ++ahead_used_;
    ahead_.reset();
  } else {
    forget();
    wait();
    build(batch);
  }
  Built now{std::move(plan_), std::move(logits_)};
  logits_.clear();
  const bool foreseen = look_ahead && foresee(batch, now);
  const bool as_foreseen = finish(batch, now, foreseen, results);
  for (SequenceResult& result : results) result.ran_on = &machine_->descriptor;
  if (foreseen) {
    StepKey key;
    // Wasted where the host drew a token; where that happens, it may again.
    constexpr int kNotForeseen = 8;
    if (!as_foreseen) {
      ++ahead_dropped_;
      not_foreseen_ = kNotForeseen;
    } else if (key.make_next(batch, results, spec_, KvPool::kBlockTokens)) {
      ahead_ = std::move(key);
    }
  } else if (look_ahead) {
    run_ahead(batch, results);
  }
  return results;
}

void MlxDecoder::enqueue(const std::vector<Logits>& logits) {
  std::vector<mx::array> wanted = kv_->arrays();
  for (const Logits& part : logits) {
    wanted.insert(wanted.end(), part.wanted.begin(), part.wanted.end());
    wanted.insert(wanted.end(), {part.values, part.next});
  }
  in_flight_ = true;
  mx::async_eval(std::move(wanted));
}

// Builds the step after this one while the device computes this one, from the tokens that the
// device will draw. By MLX's operations its graph alone: enqueued before this step has
// ended, its writes would find the pool still held by this step's reads, and copy it. Kernels of
// our own write in place whoever reads, so their step stands in line at once.
bool MlxDecoder::foresee(std::span<const SequenceStep> batch, const Built& step) {
  if (not_foreseen_ > 0) {
    --not_foreseen_;
    return false;
  }
  StepKey key;
  if (step.logits.size() != 1 || !key.make_next(batch, {}, spec_, KvPool::kBlockTokens)) {
    return false;
  }
  for (size_t s = 0; s < batch.size(); ++s) {
    if (!drawn_so(batch[s], step.logits.front(), static_cast<int64_t>(s))) return false;
  }
  try {
    if (!in_flight_) enqueue(step.logits);
    tokens_ = step.logits.front().next;
    build(key.steps(), key.draws());
    tokens_.reset();
    next_enqueued_ = attend_.has_value();
    if (next_enqueued_) enqueue(logits_);
    return true;
  } catch (const std::exception&) {
    // This step goes on; the next one meets the failure itself, if it is still there.
    forget();
    kv_->recover();
    return false;
  }
}

void MlxDecoder::build(std::span<const SequenceStep> batch, std::vector<Draw> draws) {
  plan_.make(batch, KvPool::kBlockTokens);
  draws_ = std::move(draws);
  for (size_t s = draws_.size(); s < batch.size(); ++s) {
    draws_.push_back(draw_of(batch[s], spec_.vocab).value_or(Draw{}));
  }
  host_.begin();
  attend_.reset();
  prefill_steps_.clear();
  place_.reset();
  normed_.reset();
  before_.reset();
  dequantises_ = false;
  if (kernels_ && plan_.one_row_each && plan_.outputs.size() == plan_.tokens.size()) {
    attend_ = attend_step(plan_, shape_, host_);
    ++own_kernels_;
    if (whole_step_ && plan_.rows() <= whole_step_->rows()) return run_whole_step();
  } else if (kernels_ && prefill_ && row_kernels_) {
    place_ = place_step(plan_, host_);
    prefill_steps_.push_back(prefill_step(plan_.sequences, host_));
    ++own_prefills_;
    ++own_places_;
  } else {
    // These writes make other arrays, maybe elsewhere; those above write where the pool is.
    if (whole_step_) whole_step_->forget_pools();
    rotary_->begin(plan_);
    if (prefill_ && !plan_.one_row_each) {
      prefill_steps_.push_back(prefill_step(plan_.sequences, host_));
      ++own_prefills_;
    }
  }
  decoder_forward(spec_, *this);
  before_.reset();
}

void MlxDecoder::run_whole_step() {
  StepOutputs made = whole_step_->run(*attend_, step_tokens(), *kv_);
  Logits all;
  all.rows = plan_.rows();
  all.values = std::move(made.logits);
  all.best = all.wanted = std::move(made.best);
  all.best_rows = 2;
  all.next = std::move(made.next);
  draw(all);
  logits_ = {std::move(all)};
  ++whole_steps_;
}

// Has the device draw what rows want that is not the likeliest, where it can.
void MlxDecoder::draw(Logits& part) {
  std::vector<int32_t> words;
  bool any = false;
  for (int64_t row = 0; row < part.rows; ++row) {
    const int32_t sequence = plan_.output_sequence[static_cast<size_t>(part.first + row)];
    part.draws.push_back(draws_[static_cast<size_t>(sequence)]);
    any = any || part.draws.back() != Draw{};
    const auto some = part.draws.back().words();
    words.insert(words.end(), some.begin(), some.end());
  }
  if (!any) return;
  // Parts of one step might be drawn at once, in one scratch memory.
  const bool whole = part.rows == std::ssize(plan_.outputs);
  const auto told = device_draws_ && whole ? host_.slot({dim(part.rows)}) : std::nullopt;
  if (!told) {
    part.draws.assign(part.draws.size(), Draw{});
    return;
  }
  part.next = row_kernels_->draw(part.values, part.next,
                                 host_.put(words, {dim(part.rows), Draw::kWords}), *told);
  part.wanted.push_back(part.next);
  part.drawn = told;
}

mx::array MlxDecoder::step_tokens() {
  const auto rows = dim(plan_.rows());
  if (!tokens_) return host_.put(plan_.tokens, {rows});
  return tokens_->shape(0) == rows ? *tokens_ : mx::slice(*tokens_, {0}, {rows});
}

// Steps of one row each may be built ahead of the device, where nothing may wait for it: matrices
// are dequantised for others alone.
mx::array MlxDecoder::product(const Matrix& matrix, const mx::array& x) {
  const int64_t from = matrix.dequantised_from;
  if (from > 0 && x.shape(0) >= from && !plan_.one_row_each) {
    ++dequantised_;
    dequantises_ = true;
    return matrix.apply_dequantised(x);
  }
  if (!few_rows_ || !few_rows_take(matrix, x.dtype(), x.shape(0))) return matrix.apply(x);
  mx::array made = kernels_->few_rows(x, matrix, false);
  return matrix.bias ? mx::add(made, over_rows(*matrix.bias, x.shape(0))) : made;
}

// MLX lets the host be layers ahead of the device, and of as many the matrices would stand
// dequantised. Here two layers' do, and those of a third come.
void MlxDecoder::keep_pace() {
  if (!std::exchange(dequantises_, false)) return;
  machine_->may_fail("layer");
  in_flight_ = true;  // also where the step's next layers fail: its end is waited for
  mx::async_eval({*residual_});
  if (before_) before_->wait();
  before_ = residual_;
}

// The residual's norm, which may have been made with the last sum.
mx::array MlxDecoder::normed(const mx::array& weight) {
  if (!normed_) return mx::fast::rms_norm(*residual_, weight, spec_.norm_eps);
  mx::array made = std::move(*normed_);
  normed_.reset();
  return made;
}

// Adds to the residual, whose next norm will be that of `next_norm`.
void MlxDecoder::add(const mx::array& x, const mx::array& next_norm) {
  if (!attend_ && !place_) {
    residual_ = mx::add(*residual_, x);
    return;
  }
  auto [sum, norm] = kernels_->add_norm(*residual_, x, next_norm);
  residual_ = std::move(sum);
  normed_ = std::move(norm);
}

void MlxDecoder::embed() {
  residual_ = embedding_.rows(step_tokens(), type_);
  if (plan_.single() || attend_ || place_) return;
  slots_ = host_.put(plan_.slots, {dim(plan_.rows())});
  if (!one_attention() || !plan_.one_row_each) return;
  // As many positions as the pool has are counted, where they are made anew.
  const int64_t gathered = std::ssize(plan_.sequences) * plan_.length_max;
  if (kv_->quantised() && gathered > int64_t{kv_->blocks()} * KvPool::kBlockTokens) return;
  padded_ = padded_step(plan_);
}

// [rows, heads * head_dim] as attention takes it.
mx::array MlxDecoder::heads_of(const mx::array& rows, int64_t heads) const {
  const mx::Shape shape{dim(plan_.rows()), dim(heads), dim(spec_.head_dim)};
  const mx::array split = mx::reshape(rows, shape);
  if (!plan_.single()) return mx::expand_dims(split, 2);
  return mx::expand_dims(mx::transpose(split, {1, 0, 2}), 0);
}

void MlxDecoder::attention_inputs(int64_t index) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const mx::array x = normed(layer.attention_norm);
  const std::array<int64_t, 3> widths = {spec_.heads * spec_.head_dim,
                                         spec_.kv_heads * spec_.head_dim,
                                         spec_.kv_heads * spec_.head_dim};
  const auto multiply = [this](const Matrix& m, const mx::array& rows) { return product(m, rows); };
  if (attend_ || place_) {
    qkv_ = layer.qkv.size() == 1 ? product(layer.qkv.front(), x)
                                 : mx::concatenate(products(layer.qkv, x, widths, multiply), 1);
    if (!place_) return;
    query_ = row_kernels_->place(*place_, *qkv_, kv_->keys(index), kv_->values(index),
                                 q_norm(layer), k_norm(layer));
    qkv_.reset();
    return;
  }
  const auto made = products(layer.qkv, x, widths, multiply);
  mx::array q = heads_of(made[0], spec_.heads);
  mx::array k = heads_of(made[1], spec_.kv_heads);
  mx::array v = heads_of(made[2], spec_.kv_heads);
  if (spec_.qk_norm) {
    q = mx::fast::rms_norm(q, layer.q_norm, spec_.norm_eps);
    k = mx::fast::rms_norm(k, layer.k_norm, spec_.norm_eps);
  }
  q = rotary_->apply(q);
  k = rotary_->apply(k);
  // A GPU's fused attention takes one type and sums in f32; a CPU widens what it reads.
  query_ = gpu_paths() ? mx::astype(q, kv_->type()) : q;
  if (plan_.single()) {
    kv_->write_runs(index, plan_.written, mx::squeeze(k, 0), mx::squeeze(v, 0));
  } else {
    kv_->write_rows(index, *slots_, k, v);
  }
}

void MlxDecoder::narrow() {
  const auto all = plan_.rows(), wanted = static_cast<int64_t>(plan_.outputs.size());
  plan_.narrow();
  if (wanted == 0 && place_) placed_ = *query_;
  if (wanted == all || wanted == 0) return;
  const mx::array rows = host_.put(plan_.outputs, {dim(wanted)});
  residual_ = mx::take(*residual_, rows, 0);
  query_ = mx::take(*query_, rows, plan_.single() && !place_ ? 2 : 0);
  if (!prefill_steps_.empty()) {
    prefill_steps_.push_back(prefill_step(plan_.sequences, host_));
  }
}

void MlxDecoder::attention(int64_t index) {
  if (plan_.idle()) return;
  if (attend_) {
    const Layer& layer = layers_[static_cast<size_t>(index)];
    attended_ = kernels_->attend(*attend_, *qkv_, kv_->keys(index), kv_->values(index),
                                 q_norm(layer), k_norm(layer));
    qkv_.reset();
    return;
  }
  // Keys and values that are made anew stand as matrices do that are dequantised.
  if (kv_->quantised() && gpu_paths() && !plan_.one_row_each) dequantises_ = true;
  mx::array out = mx::array(0.0f);
  if (!prefill_steps_.empty()) {
    // The pool's arrays as the writes before have made them: by MLX's operations, or by `place`,
    // whose queries these are.
    out =
        prefill_->attend(prefill_steps_.back(),
                         plan_.single() && !place_ ? mx::transpose(*query_, {2, 1, 0, 3}) : *query_,
                         kv_->keys(index), kv_->values(index));
  } else if (padded_ && plan_.sequences.size() == static_cast<size_t>(padded_->seen.shape(0))) {
    out = attend_padded(*padded_, *query_, kv_->key_rows(index), kv_->value_rows(index));
  } else {
    // Where all scores are written out, only some rows at a time.
    out = attend_by_sequence(spec_, plan_, *query_, kv_->key_rows(index), kv_->value_rows(index),
                             gpu_paths() ? 0 : machine_->score_elements);
  }
  attended_ = mx::astype(out, type_);
}

void MlxDecoder::attention_output(int64_t index) {
  if (plan_.idle()) return;
  const Layer& layer = layers_[static_cast<size_t>(index)];
  add(product(layer.output, *attended_), layer.feed_forward_norm);
  attended_.reset();
}

void MlxDecoder::feed_forward(int64_t index) {
  if (plan_.idle()) return;
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const mx::array x = normed(layer.feed_forward_norm);
  const std::array<int64_t, 2> widths = {spec_.feed_forward, spec_.feed_forward};
  const auto multiply = [this](const Matrix& m, const mx::array& rows) { return product(m, rows); };
  const Matrix& both = layer.gate_up.front();
  const bool one = layer.gate_up.size() == 1;
  const bool few = few_rows_ && one && !both.bias && few_rows_take(both, x.dtype(), x.shape(0));
  const mx::array hidden = few ? kernels_->few_rows(x, both, true)
                           : row_kernels_ && one
                               ? row_kernels_->gated(product(both, x))
                               : gated_(products(layer.gate_up, x, widths, multiply))[0];
  const bool last = index + 1 == spec_.layers;
  add(product(layer.down, hidden),
      last ? final_norm_ : layers_[static_cast<size_t>(index) + 1].attention_norm);
  keep_pace();
}

void MlxDecoder::head() {
  logits_.clear();
  if (plan_.idle()) return;
  const mx::array x = normed(final_norm_);
  const auto rows = static_cast<int64_t>(plan_.outputs.size());
  const int64_t most = std::max<int64_t>(1, machine_->logit_elements / spec_.vocab);
  for (int64_t first = 0; first < rows; first += most) {
    Logits part;
    part.first = first;
    part.rows = std::min(most, rows - first);
    const mx::array some =
        part.rows == rows
            ? x
            : mx::slice(x, {dim(first), 0}, {dim(first + part.rows), dim(spec_.hidden)});
    part.values = mx::contiguous(mx::astype(product(head_, some), mx::float32));
    part.next = mx::astype(mx::argmax(part.values, -1), mx::int32);
    part.best = {
        mx::where(mx::all(finite_({part.values})[0], -1), part.next, mx::array(kNotFinite))};
    part.wanted = part.best;
    part.best_rows = part.rows;
    // Of up to 8 bytes MLX's own memory stays with the host.
    const bool many = row_kernels_ && part.rows > 2;
    if (auto told = many ? host_.slot({dim(part.rows)}) : std::nullopt) {
      part.wanted = {row_kernels_->tell(part.best.front(), *told)};
      part.best = {std::move(*told)};
    }
    draw(part);
    logits_.push_back(std::move(part));
  }
  residual_.reset();
  query_.reset();
}

// Waits for a step and takes what each sequence wants of it. `foreseen`: the next one is built and
// goes to the device as soon as this one has left it; false where it goes on from other tokens than
// these.
bool MlxDecoder::finish(std::span<const SequenceStep> batch, Built& step, bool foreseen,
                        std::vector<SequenceResult>& results) {
  for (size_t s = 0; s < batch.size(); ++s) {
    if (batch[s].output == StepOutput::logits_last || batch[s].output == StepOutput::logits_all) {
      const size_t rows = batch[s].output == StepOutput::logits_all ? batch[s].tokens.size() : 1;
      results[s].logits.resize(rows * static_cast<size_t>(spec_.vocab));
    }
  }
  machine_->may_fail("step");
  if (step.logits.empty()) {
    std::vector<mx::array> written = kv_->arrays();
    if (placed_) written.push_back(*std::exchange(placed_, std::nullopt));
    eval_and_spin(std::move(written), machine_->spin_seconds);
  }
  bool by_device = true;
  for (Logits& part : step.logits) {
    const auto sequence_of = [&](int64_t row) {
      return static_cast<size_t>(step.plan.output_sequence[static_cast<size_t>(part.first + row)]);
    };
    bool logits_here = false;
    const auto want_logits = [&](std::vector<mx::array>& wanted) {
      by_device = false;
      logits_here = true;
      if (!row_kernels_) return wanted.push_back(part.values);
      mx::array told = host_.room(part.values.shape());
      wanted.push_back(row_kernels_->tell(part.values, told));
      part.values = std::move(told);
    };
    std::vector<mx::array> wanted = part.wanted;
    for (int64_t i = 0; i < part.rows && !logits_here; ++i) {
      if (!drawn_so(batch[sequence_of(i)], part, i)) want_logits(wanted);
    }
    if (&part == &step.logits.front() && !foreseen) {
      wanted.insert(wanted.end(), kv_->arrays().begin(), kv_->arrays().end());
    }
    // Where the next step stands in line the device does not wait for the host.
    const bool in_line = foreseen && next_enqueued_;
    eval_and_spin(std::move(wanted), in_line ? 0 : machine_->spin_seconds);
    check_whole_step(part);
    if (foreseen && !next_enqueued_) {
      mx::synchronize(Wall::get().stream(machine_->cpu));
      enqueue(logits_);
    }
    for (int64_t i = 0; i < part.rows && !logits_here; ++i) {
      if (part.token_of(i) != kNotDrawn) continue;
      wanted.clear();
      want_logits(wanted);
      eval_and_spin(std::move(wanted), machine_->spin_seconds);
    }
    for (int64_t i = 0; i < part.rows; ++i) {
      const auto output = static_cast<size_t>(part.first + i);
      const size_t s = sequence_of(i);
      finish_row(batch[s], step.plan.output_position[output], i, part, results[s]);
    }
    part = Logits();
  }
  if (foreseen) return by_device;
  in_flight_ = false;
  if (!machine_->cpu) mx::synchronize(Wall::get().stream(false));
  kv_->settle();
  return by_device;
}

// Blocks of threads that did not get to run beside one another do not next time, either.
void MlxDecoder::check_whole_step(const Logits& logits) {
  if (!logits.gave_up()) return;
  wait();  // what runs ahead reads what goes
  drop_whole_step();
  throw std::runtime_error(
      "a decode step in one launch waited for a part of this GPU in vain, which another program "
      "may "
      "keep to itself; the following ones are made of several launches");
}

// What output row `at` of a part wants of its logits.
void MlxDecoder::finish_row(const SequenceStep& step, int64_t position, int64_t at,
                            const Logits& logits, SequenceResult& result) {
  const bool sampled = step.output == StepOutput::sample;
  const bool last = position + 1 == step.position + static_cast<int64_t>(step.tokens.size());
  const int32_t best = logits.best_of(at);
  if (!sampled) {
    const float* values = logits.values.data<float>() + at * spec_.vocab;
    const int64_t row = step.output == StepOutput::logits_all ? position - step.position : 0;
    std::copy(values, values + spec_.vocab, result.logits.begin() + row * spec_.vocab);
  }
  if (best < 0) {
    if (sampled || last) {
      result.token =
          error(ErrorCode::internal,
                "{}: the logits at position {} are not finite; the model's weights or this "
                "prompt overflow its arithmetic",
                spec_.family, position);
    }
    return;
  }
  if (!sampled) return;
  if (const int32_t token = logits.token_of(at); token >= 0 && drawn_so(step, logits, at)) {
    result.token = SampledToken{token, 0, {}};
    if (logits.draws[static_cast<size_t>(at)] != Draw{}) ++drawn_;
    return;
  }
  // By the host: what the device does not know, or has no room for.
  auto& mutable_values = const_cast<mx::array&>(logits.values);
  result.token =
      sample({mutable_values.data<float>() + at * spec_.vocab, static_cast<size_t>(spec_.vocab)},
             *step.sampling, step.context, sampler_);
}

// The next step of the same sequences, enqueued while the engine looks at this one's tokens. It
// writes the position after the last one into blocks that the sequences own, where nothing is read
// before it is written again; later steps stand behind it in the stream.
void MlxDecoder::run_ahead(std::span<const SequenceStep> batch,
                           std::span<const SequenceResult> results) {
  StepKey key;
  if (!key.make_next(batch, results, spec_, KvPool::kBlockTokens)) return;
  try {
    build(key.steps(), key.draws());
    enqueue(logits_);
    ahead_ = std::move(key);
  } catch (const std::exception&) {
    // This step's tokens stand; the next one meets the failure itself, if it is still there.
    forget();
    kv_->recover();
  }
}

Result<std::unique_ptr<Executor>> make_decoder(std::shared_ptr<const Machine> machine,
                                               const ModelSpec& spec, const WeightSet& weights,
                                               const LoadOptions& options, MemoryLedger& ledger) {
  const bool cpu = machine->cpu;
  return entered(spec.family, cpu, [&]() -> Result<std::unique_ptr<Executor>> {
    auto decoder = std::make_unique<MlxDecoder>(std::move(machine), spec);
    IMPETUS_CHECK(decoder->load(weights, options, ledger));
    return std::unique_ptr<Executor>(std::move(decoder));
  });
}

DecoderCounters counters_of(const Executor& executor) {
  const auto* decoder = dynamic_cast<const MlxDecoder*>(&executor);
  return decoder != nullptr ? decoder->counters() : DecoderCounters{};
}

}  // namespace impetus::mlx_backend

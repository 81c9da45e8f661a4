#include "mlx/row_kernels.h"

#include <array>
#include <bit>
#include <cmath>
#include <random>

#include "mlx/cuda_kernel.h"
#include "mlx/kernel_check.h"
#include "mlx/rotary.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {
namespace {

class CudaRowKernels final : public RowKernels {
 public:
  CudaRowKernels(const DecodeShape& shape, const ModelSpec& spec,
                 const std::shared_ptr<KernelCode>& code)
      : shape_(shape),
        // By value: an array of one number would be read across the bus by every block.
        epsilon_(spec.norm_eps),
        place_args_{{"T", shape.activations},
                    {"U", shape.kv},
                    {"DIM", shape.head_dim},
                    {"NEIGHBOURS", shape.neighbours},
                    {"NORM", shape.qk_norm}},
        // Not made contiguous: a copy of the pool would take the writes.
        place_({.name = "place",
                .inputs = {"qkv", "plan", "frequencies", "q_norm", "k_norm", "keys", "values"},
                .outputs = {"queries"},
                .numbers = {"heads", "kv_heads", "epsilon", "slots"},
                .body = "impetus::place<T, U, DIM, NEIGHBOURS, NORM>(heads, kv_heads, qkv, plan, "
                        "frequencies, q_norm, k_norm, epsilon, const_cast<U*>(keys), "
                        "const_cast<U*>(values), slots, queries);",
                .text = k_place_text,
                .threads = kPlaceThreads},
               code),
        gated_({.name = "gated",
                .inputs = {"both"},
                .outputs = {"out"},
                .numbers = {"rows", "columns"},
                .body = "impetus::gated<T>(both, rows, columns, out);",
                .text = k_gated_text,
                .threads = kGatedThreads,
                .contiguous = true},
               code),
        add_layer_norm_({.name = "add_layer_norm",
                         .inputs = {"residual", "x", "weight", "bias"},
                         .outputs = {"out"},
                         .numbers = {"epsilon", "columns"},
                         .body = "impetus::add_layer_norm<T, BIAS>(residual, x, weight, bias, "
                                 "epsilon, columns, out);",
                         .text = k_add_layer_norm_text,
                         .threads = kLayerNormThreads,
                         .contiguous = true},
                        code),
        // Not made contiguous: a copy of `out` would take what is written.
        pool_({.name = "pool_texts",
               .inputs = {"rows", "offsets", "out"},
               .outputs = {"done"},
               .numbers = {"columns"},
               .body = "impetus::pool_texts<T, MEAN, NORMALIZE>(rows, offsets, columns, "
                       "const_cast<float*>(out));\n"
                       "if (blockIdx.x == 0 && threadIdx.x == 0) done[0] = 1;",
               .text = k_pool_texts_text,
               .threads = kPoolThreads},
              code),
        tell_({.name = "tell",
               .inputs = {"values", "out"},
               .outputs = {"done"},
               .numbers = {"count"},
               .body = "impetus::tell<T>(values, count, const_cast<T*>(out));\n"
                       "if (blockIdx.x == 0 && threadIdx.x == 0) done[0] = 1;",
               .text = k_tell_text,
               .threads = kTellThreads},
              code),
        draw_({.name = "draw",
               .inputs = {"logits", "likeliest", "draws", "counts", "sums", "out"},
               .outputs = {"next"},
               .numbers = {"vocab"},
               .body =
                   "impetus::draw(logits, likeliest, draws, vocab, const_cast<unsigned*>(counts), "
                   "reinterpret_cast<double*>(const_cast<long long*>(sums)), "
                   "const_cast<int*>(out), next);",
               .text = k_draw_text,
               .threads = kDrawThreads},
              code) {
    const std::vector<float> frequencies = spec.rope_frequencies();
    if (frequencies.empty()) return;  // an encoder
    frequencies_ = settle(mx::array(frequencies.begin(), mx::Shape{dim(spec.head_dim / 2)}), false);
  }

  mx::array place(const PlaceStep& step, const mx::array& qkv, const mx::array& keys,
                  const mx::array& values, const mx::array& q_norm,
                  const mx::array& k_norm) override {
    return place_({qkv, step.plan, frequencies_, q_norm, k_norm, keys, values},
                  {mx::Shape{step.rows, shape_.heads, 1, shape_.head_dim}}, {shape_.kv},
                  {step.rows, 1, 1}, {shape_.heads, shape_.kv_heads, epsilon_, int{keys.shape(1)}},
                  place_args_)[0];
  }

  mx::array gated(const mx::array& both) override {
    const int rows = both.shape(0), columns = both.shape(1) / 2;
    return gated_({both}, {mx::Shape{rows, columns}}, {shape_.activations},
                  {gated_blocks(rows, columns), 1, 1}, {rows, columns},
                  {{"T", shape_.activations}})[0];
  }

  mx::array add_layer_norm(const mx::array& residual, const mx::array& x, const mx::array& weight,
                           const std::optional<mx::array>& bias) override {
    return add_layer_norm_(
        {residual, x, weight, bias ? *bias : weight}, {residual.shape()}, {shape_.activations},
        {residual.shape(0), 1, 1}, {epsilon_, int{x.shape(1)}},
        {{"T", shape_.activations}, {"BIAS", bias.has_value()}}, bias ? 1 : 0)[0];
  }

  mx::array pool(Pool how, const mx::array& rows, const mx::array& offsets,
                 const mx::array& out) override {
    return pool_({mx::contiguous(rows), offsets, out}, {{1}}, {mx::int32}, {out.shape(0), 1, 1},
                 {int{rows.shape(1)}},
                 {{"T", shape_.activations}, {"MEAN", how.mean}, {"NORMALIZE", how.normalize}},
                 (how.mean ? 2 : 0) + (how.normalize ? 1 : 0))[0];
  }

  mx::array tell(const mx::array& values, const mx::array& out) override {
    const auto count = static_cast<int>(values.size());
    return tell_({mx::contiguous(values), out}, {{1}}, {mx::int32}, {tell_blocks(count), 1, 1},
                 {count}, {{"T", values.dtype()}}, values.dtype() == mx::int32 ? 1 : 0)[0];
  }

  mx::array draw(const mx::array& logits, const mx::array& likeliest, const mx::array& draws,
                 const mx::array& out) override {
    const int rows = out.shape(0), vocab = logits.shape(1);
    // In steps, so that they seldom grow. Zeros once: a draw leaves its counts as it found them.
    const auto grow = [&](mx::array& memory, int each) {
      const int count = static_cast<int>(std::bit_ceil(static_cast<unsigned>(rows))) * each;
      if (memory.size() >= static_cast<size_t>(count)) return;
      memory = mx::zeros({count}, memory.dtype());
      memory.eval();
    };
    grow(draw_counts_, kDrawCounts);
    grow(draw_sums_, draw_runs(vocab));
    return draw_({logits, likeliest, draws, draw_counts_, draw_sums_, out}, {{rows}}, {mx::int32},
                 {draw_blocks(vocab), rows, 1}, {vocab}, {})[0];
  }

 private:
  DecodeShape shape_;
  float epsilon_;
  mx::array frequencies_ = mx::array(0.0f);
  mx::array draw_counts_ = mx::array(0u), draw_sums_ = mx::array(int64_t{0});
  Arguments place_args_;
  CudaKernel place_, gated_, add_layer_norm_, pool_, tell_, draw_;
};

bool row_kernels_take(const DecodeShape& shape, const ModelSpec& spec) {
  return spec.kind == ModelKind::decoder ? shape.head_dim % 2 == 0 && spec.feed_forward % 8 == 0
                                         : spec.hidden % 8 == 0 && spec.hidden <= kLayerNormColumns;
}

// How many rows of random logits are drawn otherwise than by the reference sampler.
int unlike_draws(RowKernels& kernels) {
  constexpr int kRows = 64, kVocab = 1700;
  std::mt19937 random(5);
  SamplingParams params[kRows];
  for (int r = 0; r < kRows; ++r) {
    if (r % 4 == 1) params[r].top_p = 0.9f;
    if (r % 4 == 2) params[r].top_k = 40;
    if (r % 8 == 2) params[r].min_p = 0.05f;
    if (r % 16 == 3) params[r].temperature = 0;
  }
  const mx::array logits = settle(
      mx::multiply(random_rows(random, {kRows, kVocab}, mx::float32), mx::array(4.0f)), false);
  std::vector<int32_t> words;
  for (int r = 0; r < kRows; ++r) {
    SequenceStep step;
    step.output = StepOutput::sample;
    step.sampling = &params[r];
    step.context.position = r;
    const auto row = draw_of(step, kVocab)->words();
    words.insert(words.end(), row.begin(), row.end());
  }
  HostPages pages(true, true);
  const mx::array out = pages.slot({kRows}).value();
  kernels
      .draw(logits, mx::astype(mx::argmax(logits, -1), mx::int32),
            pages.put(words, {kRows, Draw::kWords}), out)
      .eval();
  SamplerScratch scratch;
  int unlike = 0;
  for (int r = 0; r < kRows; ++r) {
    const mx::array row = mx::contiguous(mx::slice(logits, {r, 0}, {r + 1, kVocab}));
    mx::eval(row);
    std::vector<float> values(row.data<float>(), row.data<float>() + kVocab);
    const SampledToken token = sample(values, params[r], {{}, {}, r, nullptr}, scratch);
    unlike += token.id == out.data<int32_t>()[r] ? 0 : 1;
  }
  return unlike;
}

// Of place, gated and tell.
double decoder_error(RowKernels& kernels, const DecodeShape& shape, const ModelSpec& spec,
                     std::mt19937& random) {
  constexpr int kBlock = KvPool::kBlockTokens, kSlots = 8 * kBlock;
  // Two sequences: one at its beginning, and one that goes on in blocks out of order.
  const std::vector<BlockId> first = {3}, second = {6, 1, 4};
  const std::vector<TokenId> tokens(19, 0);
  std::vector<SequenceStep> batch(2);
  batch[0].blocks = first;
  batch[0].tokens = std::span(tokens).first(5);
  batch[1].blocks = second;
  batch[1].tokens = tokens;
  batch[1].position = kBlock + 7;
  StepPlan plan;
  plan.make(batch, kBlock);
  const auto rows = dim(plan.rows());
  const int width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
  const auto rows_of = [&](const mx::Shape& extents, mx::Dtype type) {
    return random_rows(random, extents, type);
  };
  const mx::array qkv = rows_of({rows, width}, shape.activations);
  const mx::Shape pool{shape.kv_heads, kSlots, shape.head_dim};
  const mx::array keys = rows_of(pool, shape.kv), values = rows_of(pool, shape.kv);
  const mx::array q_norm = rows_of({shape.head_dim}, shape.activations);
  const mx::array k_norm = rows_of({shape.head_dim}, shape.activations);
  Rotary rotary(spec, false);
  rotary.begin(plan);
  // [rows, n, 1, head_dim] of heads [from, from + n).
  const auto part = [&](int from, int n, const mx::array* norm) {
    mx::array heads =
        mx::reshape(mx::slice(qkv, {0, from * shape.head_dim}, {rows, (from + n) * shape.head_dim}),
                    {rows, n, 1, shape.head_dim});
    if (norm == nullptr) return mx::astype(heads, shape.kv);
    if (shape.qk_norm) heads = mx::fast::rms_norm(heads, *norm, spec.norm_eps);
    return mx::astype(rotary.apply(heads), shape.kv);
  };
  // The pool as MLX writes it. In a copy: the kernels write to where the pool is.
  const mx::array slots(plan.slots.begin(), mx::Shape{rows}, mx::int32);
  const auto written = [&](const mx::array& into, const mx::array& from) {
    mx::array made = mx::scatter(into, slots, from, 1);
    made.eval();
    return made;
  };
  const mx::array wanted_keys = written(keys, part(shape.heads, shape.kv_heads, &k_norm));
  const mx::array wanted_values =
      written(values, part(shape.heads + shape.kv_heads, shape.kv_heads, nullptr));
  HostPages host(true);
  double worst = apart(kernels.place(place_step(plan, host), qkv, keys, values, q_norm, k_norm),
                       part(0, shape.heads, &q_norm));
  const auto compare = [&](const mx::array& made, const mx::array& wanted) {
    worst = worse(worst, apart(made, wanted));
  };
  compare(keys, wanted_keys);
  compare(values, wanted_values);

  const auto columns = dim(spec.feed_forward);
  const mx::array both = rows_of({3, 2 * columns}, shape.activations);
  const mx::array gate = mx::astype(mx::slice(both, {0, 0}, {3, columns}), mx::float32);
  compare(kernels.gated(both), mx::multiply(mx::multiply(gate, mx::sigmoid(gate)),
                                            mx::slice(both, {0, columns}, {3, 2 * columns})));
  const mx::array some = mx::astype(both, mx::float32), told = host.room(some.shape());
  kernels.tell(some, told).eval();
  compare(mx::array(told.data<float>(), told.shape()), some);
  const mx::array few = mx::slice(some, {0, 0}, {3, 8});
  const mx::array ids = mx::astype(mx::multiply(few, mx::array(1000.0f)), mx::int32);
  HostPages pages(true, true);
  const mx::array slot = pages.slot(ids.shape()).value();
  kernels.tell(ids, slot).eval();
  compare(mx::array(slot.data<int32_t>(), slot.shape()), ids);
  return worst;
}

// Of add_layer_norm and pool.
double encoder_error(RowKernels& kernels, const DecodeShape& shape, const ModelSpec& spec,
                     std::mt19937& random) {
  const auto columns = dim(spec.hidden);
  const auto rows_of = [&](const mx::Shape& extents) {
    return random_rows(random, extents, shape.activations);
  };
  const mx::array residual = rows_of({3, columns}), x = rows_of({3, columns});
  const mx::array weight = rows_of({columns}), offset = rows_of({columns});
  const mx::array sum = mx::add(mx::astype(residual, mx::float32), mx::astype(x, mx::float32));
  double worst = 0;
  for (const bool with : {false, true}) {
    const auto bias = with ? std::optional(offset) : std::nullopt;
    worst = worse(worst, apart(kernels.add_layer_norm(residual, x, weight, bias),
                               mx::fast::layer_norm(sum, weight, bias, spec.norm_eps)));
  }
  const mx::array rows = rows_of({23, columns}), wide = mx::astype(rows, mx::float32);
  HostPages host(true);
  const mx::array offsets = host.put(std::array<int32_t, 3>{0, 4, 23}, {3});
  for (const auto& [mean, normalize] :
       {std::pair{true, true}, {false, true}, {true, false}, {false, false}}) {
    std::vector<mx::array> wanted;
    for (const auto& [first, last] : {std::pair{0, 4}, {4, 23}}) {
      mx::array one = mx::slice(wide, {first, 0}, {mean ? last : first + 1, columns});
      one = mx::mean(one, 0, true);
      wanted.push_back(normalize ? mx::divide(one, mx::sqrt(mx::sum(mx::square(one)))) : one);
    }
    const mx::array out = host.room({2, columns});
    kernels.pool({mean, normalize}, rows, offsets, out).eval();
    const auto* made = out.data<float>();
    worst = worse(worst, apart(mx::array(made, out.shape()), mx::concatenate(wanted, 0)));
  }
  return worst;
}

}  // namespace

std::unique_ptr<RowKernels> make_cuda_row_kernels(const DecodeShape& shape, const ModelSpec& spec,
                                                  const std::shared_ptr<KernelCode>& code) {
  return std::make_unique<CudaRowKernels>(shape, spec, code);
}

PlaceStep place_step(const StepPlan& plan, HostPages& host) {
  PlaceStep step;
  std::vector<int32_t> values = plan.positions;
  values.insert(values.end(), plan.slots.begin(), plan.slots.end());
  step.host = host.put(values, {2, dim(plan.rows())});
  step.plan = host.moved(step.host);
  step.rows = static_cast<int>(plan.rows());
  return step;
}

double row_kernels_error(RowKernels& kernels, const DecodeShape& shape, const ModelSpec& spec) {
  std::mt19937 random(3);
  return spec.kind == ModelKind::decoder ? decoder_error(kernels, shape, spec, random)
                                         : encoder_error(kernels, shape, spec, random);
}

bool draws_right(RowKernels& kernels, const ModelSpec& spec) {
  if (spec.vocab > int64_t{Draw::kMost} * kDrawThreads) return false;
  return within(
      spec.family, "the kernel that draws tokens", 0,
      [&] { return static_cast<double>(unlike_draws(kernels)); }, "the reference sampler");
}

std::unique_ptr<RowKernels> checked_row_kernels(const RowKernelMaker& make,
                                                const DecodeShape& shape, const ModelSpec& spec) {
  if (!row_kernels_take(shape, spec)) return nullptr;
  std::unique_ptr<RowKernels> kernels;
  const bool good =
      within(spec.family,
             spec.kind == ModelKind::decoder ? "kernels for the rows of prompts"
                                             : "the kernels for norms and vectors of texts",
             kernels_error_limit(shape), [&] {
               kernels = make(shape, spec);
               return kernels ? row_kernels_error(*kernels, shape, spec) : 0.0;
             });
  return good ? std::move(kernels) : nullptr;
}

}  // namespace impetus::mlx_backend

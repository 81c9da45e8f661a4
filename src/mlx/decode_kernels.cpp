#include "mlx/decode_kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <random>
#include <set>

#include "mlx/cuda_kernel.h"
#include "mlx/kernel_check.h"
#include "mlx/rotary.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {
namespace {

constexpr int kHeadDimMax = 256;
// Blocks of threads that keep a large GPU busy, and positions that are worth one.
constexpr int64_t kBlocksWanted = 1024, kSharePositions = 64, kSharesMax = 64;
// From which on an H200 multiplies one row faster than MLX does.
constexpr int64_t kFewRowsWeights = int64_t{1} << 24;

class CudaKernels final : public DecodeKernels {
 public:
  CudaKernels(const DecodeShape& shape, const ModelSpec& spec,
              const std::shared_ptr<KernelCode>& code)
      : shape_(shape),
        // By value: an array of one number would be read across the bus by every block.
        epsilon_(spec.norm_eps),
        attend_args_{{"T", shape.activations},
                     {"U", shape.kv},
                     {"GROUP", shape.heads / shape.kv_heads},
                     {"DIM", shape.head_dim},
                     {"BLOCK", int{KvPool::kBlockTokens}},
                     {"NEIGHBOURS", shape.neighbours},
                     {"NORM", shape.qk_norm}},
        merge_args_{{"T", shape.activations}, {"DIM", shape.head_dim}},
        attend_(attend_text("attend", "false", "out"), code),
        attend_shares_(attend_text("attend_shares", "true", "partial"), code),
        merge_({.name = "merge",
                .inputs = {"partial"},
                .outputs = {"out"},
                .numbers = {"heads", "shares"},
                .body = "impetus::merge<T, DIM>(partial, heads, shares, out);",
                .text = std::string(k_tensor_core_text) + k_attend_text,
                .threads = kAttendThreads},
               code),
        add_norm_(
            {.name = "add_norm",
             .inputs = {"residual", "x", "weight"},
             .outputs = {"sum", "normed"},
             .numbers = {"epsilon", "columns"},
             .body = "impetus::add_norm<T>(residual, x, weight, epsilon, columns, sum, normed);",
             .text = k_add_norm_text,
             .threads = kNormThreads},
            code),
        few_rows_({.name = "few_rows",
                   .inputs = {"x", "weight", "scales", "biases"},
                   .outputs = {"out"},
                   .numbers = {"rows", "columns", "outputs"},
                   .body = "impetus::few_rows<T, BF16, BITS, GROUP, GATED>(x, weight, "
                           "reinterpret_cast<const unsigned short*>(scales), "
                           "reinterpret_cast<const unsigned short*>(biases), rows, columns, "
                           "outputs, out);",
                   .text = std::string(k_tensor_core_text) + k_few_rows_text,
                   .threads = kFewRowsThreads,
                   .contiguous = true},
                  code) {
    const std::vector<float> frequencies = spec.rope_frequencies();
    frequencies_ = settle(mx::array(frequencies.begin(), mx::Shape{dim(spec.head_dim / 2)}), false);
    merge_.compile({mx::float32}, {shape.activations}, {shape.heads, 1}, merge_args_);
  }

  mx::array attend(const AttendStep& step, const mx::array& qkv, const mx::array& keys,
                   const mx::array& values, const mx::array& q_norm,
                   const mx::array& k_norm) override {
    const std::vector<mx::array> inputs = {qkv,          keys,   values, step.plan,
                                           frequencies_, q_norm, k_norm};
    const std::array grid{shape_.kv_heads * pieces_of(shape_.heads, shape_.kv_heads), step.rows,
                          step.shares};
    const Numbers numbers = {shape_.kv_heads, int{keys.shape(1)}, int{step.plan.shape(1)},
                             epsilon_};
    const mx::Shape out{step.rows, shape_.heads * shape_.head_dim};
    if (step.shares == 1) {
      return attend_(inputs, {out}, {shape_.activations}, grid, numbers, attend_args_)[0];
    }
    const mx::Shape shares{step.rows, shape_.heads, step.shares, shape_.head_dim + 2};
    const mx::array partial =
        attend_shares_(inputs, {shares}, {mx::float32}, grid, numbers, attend_args_)[0];
    return merge_({partial}, {out}, {shape_.activations}, {shape_.heads, step.rows, 1},
                  {shape_.heads, step.shares}, merge_args_)[0];
  }

  std::pair<mx::array, mx::array> add_norm(const mx::array& residual, const mx::array& x,
                                           const mx::array& weight) override {
    const auto made =
        add_norm_({residual, x, weight}, {residual.shape(), residual.shape()},
                  {shape_.activations, shape_.activations}, {int{residual.shape(0)}, 1, 1},
                  {epsilon_, int{residual.shape(1)}}, {{"T", shape_.activations}});
    return {made[0], made[1]};
  }

  mx::array few_rows(const mx::array& x, const Matrix& matrix, bool gated) override {
    const int rows = x.shape(0), tiles = few_rows_tiles(matrix, gated);
    const int outputs = matrix.weight.shape(0) / (gated ? 2 : 1);
    const int blocks = (tiles * few_rows_split(tiles) + kFewRowsWarps - 1) / kFewRowsWarps;
    return few_rows_({x, matrix.weight, *matrix.scales, *matrix.biases}, {{rows, outputs}},
                     {shape_.activations}, {blocks, 1, 1}, {rows, int{x.shape(1)}, outputs},
                     {{"T", shape_.activations},
                      {"BF16", shape_.activations == mx::bfloat16},
                      {"BITS", matrix.bits},
                      {"GROUP", matrix.group},
                      {"GATED", gated}},
                     (matrix.group * 16 + matrix.bits) * 2 + (gated ? 1 : 0))[0];
  }

 private:
  // Not made contiguous: a copy of the pool would take the writes.
  static KernelText attend_text(const char* name, const char* partial, const char* out) {
    return {.name = name,
            .inputs = {"qkv", "keys", "values", "plan", "frequencies", "q_norm", "k_norm"},
            .outputs = {out},
            .numbers = {"kv_heads", "slots", "plan_width", "epsilon"},
            .body = fmt::format("impetus::attend<T, U, GROUP, DIM, BLOCK, NEIGHBOURS, NORM, {}>("
                                "kv_heads, qkv, const_cast<U*>(keys), const_cast<U*>(values), "
                                "slots, plan, plan_width, frequencies, q_norm, k_norm, epsilon, "
                                "{});",
                                partial, out),
            .text = std::string(k_tensor_core_text) + k_attend_text,
            .threads = kAttendThreads};
  }

  DecodeShape shape_;
  float epsilon_;
  mx::array frequencies_ = mx::array(0.0f);
  Arguments attend_args_, merge_args_;
  CudaKernel attend_, attend_shares_, merge_, add_norm_, few_rows_;
};

}  // namespace

bool kernels_take(const DecodeShape& shape, const ModelSpec& spec) {
  return shape.head_dim % 8 == 0 && shape.head_dim <= kHeadDimMax && spec.hidden % 8 == 0;
}

std::unique_ptr<DecodeKernels> make_cuda_kernels(const DecodeShape& shape, const ModelSpec& spec,
                                                 const std::shared_ptr<KernelCode>& code) {
  return std::make_unique<CudaKernels>(shape, spec, code);
}

int few_rows_tiles(const Matrix& matrix, bool gated) {
  const auto outputs = static_cast<int>(matrix.weight.shape(0)) / (gated ? 2 : 1);
  const int each = few_rows_outputs(gated);
  return (outputs + each - 1) / each;
}

bool few_rows_take(const Matrix& matrix, mx::Dtype activations, int64_t rows) {
  if (activations != mx::float16 && activations != mx::bfloat16) return false;
  if (rows > kFewRowsMax || (matrix.bits != 4 && matrix.bits != 8) || matrix.mode != "affine" ||
      matrix.scales->dtype() != activations || matrix.group % 32 != 0) {
    return false;
  }
  // One row of fewer weights, or of 8 bits, is as fast by MLX's kernel.
  const int64_t columns = int64_t{matrix.scales->shape(1)} * matrix.group;
  return rows > 1 || (matrix.bits == 4 && columns * matrix.weight.shape(0) >= kFewRowsWeights);
}

AttendStep attend_step(const StepPlan& plan, const DecodeShape& shape, HostPages& host) {
  const auto rows = static_cast<int64_t>(plan.sequences.size());
  constexpr int64_t kBlock = KvPool::kBlockTokens;
  // Few widths: each is a launch of its own.
  const auto blocks = static_cast<uint64_t>((plan.length_max + kBlock - 1) / kBlock);
  const auto width = static_cast<int64_t>(std::bit_ceil(1 + blocks));
  std::vector<int32_t> values(static_cast<size_t>(rows * width), 0);
  for (int64_t r = 0; r < rows; ++r) {
    const PlannedSequence& sequence = plan.sequences[static_cast<size_t>(r)];
    int32_t* to = values.data() + r * width;
    *to++ = static_cast<int32_t>(sequence.position);
    // Runs begin at blocks' beginnings: they are of positions from 0 on.
    for (const SlotRun& run : sequence.runs) {
      for (int64_t slot = run.begin; slot < run.end; slot += kBlock) {
        *to++ = static_cast<int32_t>(slot / kBlock);
      }
    }
  }
  AttendStep step;
  step.host = host.put(values, {dim(rows), dim(width)});
  step.plan = host.moved(step.host);
  step.rows = static_cast<int>(rows);
  const int64_t busy = rows * shape.kv_heads * pieces_of(shape.heads, shape.kv_heads);
  const int64_t worth = (plan.length_max + kSharePositions - 1) / kSharePositions;
  step.shares =
      static_cast<int>(std::clamp(kBlocksWanted / busy, int64_t{1}, std::min(worth, kSharesMax)));
  return step;
}

double kernels_error(DecodeKernels& kernels, const DecodeShape& shape, const ModelSpec& spec) {
  constexpr int kBlock = KvPool::kBlockTokens;
  constexpr int kSlots = 16 * kBlock;
  std::mt19937 random(1);
  const auto rows_of = [&](const mx::Shape& shape_of_rows, mx::Dtype type) {
    return random_rows(random, shape_of_rows, type);
  };
  // Two sequences: one at its beginning, and one of many blocks, not in order.
  StepPlan plan;
  const std::vector<BlockId> first = {3}, second = {9, 1, 14, 5, 11, 2, 0, 7, 12, 4};
  const TokenId token = 0;
  std::vector<SequenceStep> batch(2);
  batch[0].blocks = first;
  batch[1].blocks = second;
  batch[1].position = static_cast<int64_t>(second.size()) * kBlock - 3;
  for (SequenceStep& step : batch) step.tokens = {&token, 1};
  plan.make(batch, kBlock);

  const int width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
  const mx::array qkv = rows_of({2, width}, shape.activations);
  const mx::Shape pool{shape.kv_heads, kSlots, shape.head_dim};
  const mx::array keys = rows_of(pool, shape.kv), values = rows_of(pool, shape.kv);
  const mx::array q_norm = rows_of({shape.head_dim}, shape.activations);
  const mx::array k_norm = rows_of({shape.head_dim}, shape.activations);
  Rotary rotary(spec, false);
  rotary.begin(plan);

  // [2, n, 1, head_dim] of heads [from, from + n).
  const auto part = [&](int from, int n, const mx::array* norm) {
    const mx::array heads =
        mx::reshape(mx::slice(qkv, {0, from * shape.head_dim}, {2, (from + n) * shape.head_dim}),
                    {2, n, 1, shape.head_dim});
    if (norm == nullptr) return heads;
    return rotary.apply(shape.qk_norm ? mx::fast::rms_norm(heads, *norm, spec.norm_eps) : heads);
  };
  const mx::array query = part(0, shape.heads, &q_norm);
  const mx::array key = mx::astype(part(shape.heads, shape.kv_heads, &k_norm), shape.kv);
  const mx::array value =
      mx::astype(part(shape.heads + shape.kv_heads, shape.kv_heads, nullptr), shape.kv);
  std::vector<mx::array> expected;
  for (int r = 0; r < 2; ++r) {
    const PlannedSequence& sequence = plan.sequences[static_cast<size_t>(r)];
    const auto all = [&](const mx::array& stored, const mx::array& own) {
      std::vector<mx::array> parts;
      int64_t left = sequence.position;
      for (const SlotRun& run : sequence.runs) {
        const int64_t count = std::min(left, run.end - run.begin);
        if (count > 0) {
          parts.push_back(mx::slice(stored, {0, dim(run.begin), 0},
                                    {shape.kv_heads, dim(run.begin + count), shape.head_dim}));
        }
        left -= count;
      }
      parts.push_back(
          mx::reshape(mx::slice(own, {r, 0, 0, 0}, {r + 1, shape.kv_heads, 1, shape.head_dim}),
                      {shape.kv_heads, 1, shape.head_dim}));
      const mx::array joined = mx::concatenate(parts, 1);
      return mx::expand_dims(mx::astype(joined, mx::float32), 0);
    };
    const mx::array one = mx::slice(query, {r, 0, 0, 0}, {r + 1, shape.heads, 1, shape.head_dim});
    const mx::array out = mx::fast::scaled_dot_product_attention(
        mx::astype(one, mx::float32), all(keys, key), all(values, value),
        1.0f / std::sqrt(static_cast<float>(shape.head_dim)));
    expected.push_back(mx::reshape(out, {1, shape.heads * shape.head_dim}));
  }
  mx::array attention = mx::concatenate(expected, 0);
  attention.eval();  // before the kernels write the rows' own keys

  double worst = 0;
  const auto compare = [&](const mx::array& made, const mx::array& wanted) {
    worst = worse(worst, apart(made, wanted));
  };
  HostPages host(true);
  for (const int shares : {1, 4}) {
    AttendStep step = attend_step(plan, shape, host);
    step.shares = shares;
    compare(kernels.attend(step, qkv, keys, values, q_norm, k_norm), attention);
    for (int r = 0; r < 2; ++r) {
      const auto slot = dim(plan.slots[static_cast<size_t>(r)]);
      for (const auto& [stored, own] : {std::pair{&keys, &key}, {&values, &value}}) {
        compare(
            mx::slice(*stored, {0, slot, 0}, {shape.kv_heads, slot + 1, shape.head_dim}),
            mx::reshape(mx::slice(*own, {r, 0, 0, 0}, {r + 1, shape.kv_heads, 1, shape.head_dim}),
                        {shape.kv_heads, 1, shape.head_dim}));
      }
    }
  }
  const mx::Shape hidden{2, dim(spec.hidden)};
  const mx::array residual = rows_of(hidden, shape.activations);
  const mx::array x = rows_of(hidden, shape.activations);
  const mx::array weight = rows_of({dim(spec.hidden)}, shape.activations);
  const auto [sum, normed] = kernels.add_norm(residual, x, weight);
  const mx::array added = mx::add(residual, x);
  compare(sum, added);
  compare(normed, mx::fast::rms_norm(added, weight, spec.norm_eps));
  return worst;
}

double kernels_error_limit(const DecodeShape& shape) {
  const auto is = [&](mx::Dtype type) { return shape.activations == type || shape.kv == type; };
  return is(mx::bfloat16) ? 0.05 : is(mx::float16) ? 0.01 : 1e-4;
}

namespace {

// The error of few_rows with a matrix of the model and random rows.
double few_rows_error(DecodeKernels& kernels, const Matrix& matrix, bool gated, int rows,
                      mx::Dtype activations) {
  std::mt19937 random(2);
  const mx::array x =
      random_rows(random, {rows, matrix.scales->shape(1) * matrix.group}, activations);
  Matrix plain = matrix;
  plain.bias.reset();
  mx::array wanted = plain.apply(x);
  if (gated) {
    const auto half = wanted.shape(1) / 2;
    const mx::array gate = mx::astype(mx::slice(wanted, {0, 0}, {rows, half}), mx::float32);
    const mx::array up = mx::slice(wanted, {0, half}, {rows, 2 * half});
    wanted = mx::multiply(mx::multiply(gate, mx::sigmoid(gate)), up);
  }
  return apart(kernels.few_rows(x, matrix, gated), wanted);
}

}  // namespace

std::unique_ptr<DecodeKernels> checked_kernels(const DecodeKernelMaker& make,
                                               const DecodeShape& shape, const ModelSpec& spec) {
  if (!kernels_take(shape, spec)) return nullptr;
  std::unique_ptr<DecodeKernels> kernels;
  const bool good =
      within(spec.family, "kernels for decode steps", kernels_error_limit(shape), [&] {
        kernels = make(shape, spec);
        return kernels ? kernels_error(*kernels, shape, spec) : 0.0;
      });
  return good ? std::move(kernels) : nullptr;
}

bool few_rows_right(DecodeKernels& kernels,
                    std::span<const std::pair<const Matrix*, bool>> matrices,
                    const DecodeShape& shape, const ModelSpec& spec) {
  std::set<std::tuple<int, int, bool, int>> done;
  return std::ranges::all_of(matrices, [&](const auto& one) {
    const auto& [matrix, gated] = one;
    if (!few_rows_take(*matrix, shape.activations, kFewRowsMax)) return true;
    const int split = few_rows_split(few_rows_tiles(*matrix, gated));
    if (!done.emplace(matrix->bits, matrix->group, gated, split).second) return true;
    return within(spec.family, "kernels for products of few rows", kernels_error_limit(shape), [&] {
      double worst = 0;
      for (const int rows : {1, 3, kFewRowsMax}) {
        if (!few_rows_take(*matrix, shape.activations, rows)) continue;
        worst = worse(worst, few_rows_error(kernels, *matrix, gated, rows, shape.activations));
      }
      return worst;
    });
  });
}

}  // namespace impetus::mlx_backend

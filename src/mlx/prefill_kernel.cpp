#include "mlx/prefill_kernel.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <tuple>

#include "mlx/cuda_kernel.h"
#include "mlx/kernel_check.h"
#include "mlx/weights.h"

namespace impetus::mlx_backend {
namespace {

constexpr int kHeadDimMax = 256;

// Blocks of threads on a multiprocessor: so many leave registers to load fragments ahead of the
// products that wait for them (ptxas: about 150 for heads of 64, 216 for 128); one more, and each
// load stands before its product.
int blocks_of(const PrefillShape& shape) {
  return shape.head_dim <= 80 ? 3 : 2;
}

KernelText text_of(const PrefillShape& shape) {
  KernelText text = {.name = "prefill",
                     .inputs = {"queries", "keys", "values", "plan"},
                     .outputs = {"out"},
                     .numbers = {"slots"},
                     .body =
                         "impetus::prefill<T, BF16, HEADS, KV_HEADS, DIM, BLOCK, true>("
                         "queries, HEADS * DIM, DIM, keys, values, slots, plan, out);",
                     .text = std::string(k_tensor_core_text) + k_tiles_text + k_prefill_text,
                     .threads = kPrefillThreads,
                     .blocks = blocks_of(shape),
                     .contiguous = true};
  if (shape.pool) return text;
  text.name = "prefill_texts";
  text.inputs = {"qkv", "plan"};
  text.numbers = {};
  text.body =
      "impetus::prefill<T, BF16, HEADS, KV_HEADS, DIM, 0, false>("
      "qkv, (HEADS + 2 * KV_HEADS) * DIM, DIM, qkv + HEADS * DIM, "
      "qkv + (HEADS + KV_HEADS) * DIM, 0, plan, out);";
  return text;
}

class CudaPrefill final : public PrefillKernel {
 public:
  CudaPrefill(const PrefillShape& shape, const std::shared_ptr<KernelCode>& code)
      : shape_(shape),
        arguments_{{"T", shape.type},       {"BF16", shape.type == mx::bfloat16},
                   {"HEADS", shape.heads},  {"KV_HEADS", shape.kv_heads},
                   {"DIM", shape.head_dim}, {"BLOCK", int{KvPool::kBlockTokens}}},
        kernel_(text_of(shape), code) {}

  mx::array attend(const PrefillStep& step, const mx::array& queries, const mx::array& keys,
                   const mx::array& values) override {
    return run(step, {queries, keys, values, step.plan}, {int{keys.shape(1)}});
  }

  mx::array attend_texts(const PrefillStep& step, const mx::array& qkv) override {
    return run(step, {qkv, step.plan}, {});
  }

 private:
  mx::array run(const PrefillStep& step, const std::vector<mx::array>& inputs,
                const Numbers& numbers) {
    return kernel_(inputs, {{step.rows, shape_.heads * shape_.head_dim}}, {shape_.type},
                   {shape_.heads * step.tiles, 1, 1}, numbers, arguments_)[0];
  }

  PrefillShape shape_;
  Arguments arguments_;
  CudaKernel kernel_;
};

}  // namespace

bool prefill_takes(const PrefillShape& shape) {
  return shape.head_dim % 16 == 0 && shape.head_dim <= kHeadDimMax &&
         (shape.type == mx::float16 || shape.type == mx::bfloat16);
}

std::unique_ptr<PrefillKernel> make_cuda_prefill(const PrefillShape& shape,
                                                 const std::shared_ptr<KernelCode>& code) {
  return std::make_unique<CudaPrefill>(shape, code);
}

PrefillStep prefill_step(std::span<const PlannedSequence> sequences, HostPages& host) {
  constexpr int64_t kBlock = KvPool::kBlockTokens;
  struct Tile {
    size_t sequence;
    int64_t first, rows, keys;
  };
  std::vector<Tile> tiles;
  PrefillStep step;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const PlannedSequence& sequence = sequences[s];
    for (int64_t first = 0; first < sequence.count; first += kTileRows) {
      const int64_t rows = std::min<int64_t>(kTileRows, sequence.count - first);
      const int64_t keys =
          sequence.runs.empty() ? sequence.count : sequence.position + first + rows;
      tiles.push_back({s, first, rows, keys});
    }
    step.rows += static_cast<int>(sequence.count);
  }
  // The longest first: a long one that begins last would run alone.
  std::ranges::sort(tiles, std::greater<>(), [](const Tile& tile) {
    return std::tuple(tile.keys, tile.sequence, tile.first);
  });
  std::vector<int32_t> values(tiles.size() * kTilePlan);
  std::vector<int32_t> starts;
  for (const PlannedSequence& sequence : sequences) {
    starts.push_back(static_cast<int32_t>(
        sequence.runs.empty() ? sequence.row : static_cast<int64_t>(values.size())));
    // Runs begin at blocks' beginnings: they are of positions from 0 on.
    for (const SlotRun& run : sequence.runs) {
      for (int64_t slot = run.begin; slot < run.end; slot += kBlock) {
        values.push_back(static_cast<int32_t>(slot / kBlock));
      }
    }
  }
  for (size_t t = 0; t < tiles.size(); ++t) {
    const Tile& tile = tiles[t];
    const PlannedSequence& sequence = sequences[tile.sequence];
    int32_t* to = values.data() + t * kTilePlan;
    to[0] = static_cast<int32_t>(sequence.row + tile.first);
    to[1] = static_cast<int32_t>(tile.rows);
    to[2] = static_cast<int32_t>(sequence.position + tile.first);
    to[3] = static_cast<int32_t>(tile.keys);
    to[4] = starts[tile.sequence];
  }
  step.tiles = static_cast<int>(tiles.size());
  step.host = host.put(values, {dim(std::ssize(values))});
  step.plan = host.moved(step.host);
  return step;
}

double prefill_error(PrefillKernel& kernel, const PrefillShape& shape, bool device) {
  constexpr int kBlock = KvPool::kBlockTokens, kBlocks = 24;
  std::mt19937 random(2);
  const auto rows_of = [&](const mx::Shape& extents) {
    return random_rows(random, extents, shape.type);
  };
  // A sequence of some tiles of keys, at a position in the middle of a block; and a short one.
  const int64_t position = shape.pool ? 55 : 0;
  const int64_t lengths[] = {device ? 151 : shape.pool ? 20 : 70, 3};
  const int64_t rows = lengths[0] + lengths[1];
  std::vector<BlockId> blocks(kBlocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::ranges::shuffle(blocks, random);
  std::vector<PlannedSequence> sequences = {{0, lengths[0], position, {}},
                                            {lengths[0], lengths[1], 0, {}}};
  if (shape.pool) {
    sequences[0].runs =
        runs_of(std::span(blocks).first(kBlocks - 1), 0, position + lengths[0], kBlock);
    sequences[1].runs = runs_of(std::span(blocks).last(1), 0, lengths[1], kBlock);
  }
  const int width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  const mx::array queries = rows_of({dim(rows), width});
  const mx::Shape stored = shape.pool ? mx::Shape{shape.kv_heads, kBlocks * kBlock, shape.head_dim}
                                      : mx::Shape{dim(rows), kv_width};
  const mx::array keys = rows_of(stored), values = rows_of(stored);

  std::vector<mx::array> expected;
  for (const PlannedSequence& sequence : sequences) {
    // [1, heads, n, head_dim] in f32.
    const auto heads_of = [&](const mx::array& from, int heads) {
      const mx::array part =
          mx::slice(from, {dim(sequence.row), 0},
                    {dim(sequence.row + sequence.count), heads * shape.head_dim});
      return mx::astype(
          mx::transpose(mx::reshape(part, {1, dim(sequence.count), heads, shape.head_dim}),
                        {0, 2, 1, 3}),
          mx::float32);
    };
    const auto all = [&](const mx::array& from) {
      if (!shape.pool) return heads_of(from, shape.kv_heads);
      std::vector<mx::array> parts;
      for (const SlotRun& run : sequence.runs) {
        parts.push_back(mx::slice(from, {0, dim(run.begin), 0},
                                  {shape.kv_heads, dim(run.end), shape.head_dim}));
      }
      return mx::expand_dims(mx::astype(mx::concatenate(parts, 1), mx::float32), 0);
    };
    const mx::array out = mx::fast::scaled_dot_product_attention(
        heads_of(queries, shape.heads), all(keys), all(values),
        1.0f / std::sqrt(static_cast<float>(shape.head_dim)), shape.pool ? "causal" : "");
    expected.push_back(mx::reshape(mx::transpose(out, {0, 2, 1, 3}), {dim(sequence.count), width}));
  }
  const mx::array wanted = mx::concatenate(expected, 0);
  HostPages host(device);
  const PrefillStep step = prefill_step(sequences, host);
  if (!shape.pool) {
    return apart(kernel.attend_texts(step, mx::concatenate({queries, keys, values}, 1)), wanted);
  }
  // As a prompt's queries lie by MLX's operations: head by head.
  const mx::array split = mx::reshape(queries, {1, dim(rows), shape.heads, shape.head_dim});
  const mx::array in =
      mx::transpose(mx::contiguous(mx::transpose(split, {0, 2, 1, 3})), {2, 1, 0, 3});
  return apart(kernel.attend(step, in, keys, values), wanted);
}

double prefill_error_limit(const PrefillShape& shape) {
  return shape.type == mx::bfloat16 ? 0.05 : 0.01;
}

std::unique_ptr<PrefillKernel> checked_prefill(const PrefillMaker& make, const PrefillShape& shape,
                                               const std::string& family, bool device) {
  if (!prefill_takes(shape)) return nullptr;
  std::unique_ptr<PrefillKernel> kernel;
  const bool good = within(family, "the kernel for attention of prompts and texts",
                           prefill_error_limit(shape), [&] {
                             kernel = make(shape);
                             return kernel ? prefill_error(*kernel, shape, device) : 0.0;
                           });
  return good ? std::move(kernel) : nullptr;
}

}  // namespace impetus::mlx_backend

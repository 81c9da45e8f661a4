#include "mlx/encode_step.h"

#include <algorithm>
#include <bit>

#include "base/log.h"
#include "mlx/cuda_context.h"
#include "mlx/cuda_kernel.h"
#include "mlx/prefill_kernel.h"

namespace impetus::mlx_backend {
namespace {

constexpr int kHiddenMax = 2048, kHeadDimMax = 128, kWarps = kEncodeThreads / 32;

// Of kernels/tile_products.cuh, and multiprocessors' cycles that a column of a tile takes: reckoned
// from what is read, for little is multiplied at a time.
struct TilingSizes {
  int rows, outputs, depth, stages;
  double cycles;
};
constexpr TilingSizes kTilings[] = {
    {32, 32, 128, 3, 3.3}, {64, 64, 64, 4, 7}, {64, 128, 64, 3, 13}};
constexpr double kTileCycles = 2000;  // of any: memory's answers, one after another

class CudaEncode final : public EncodeKernel {
 public:
  CudaEncode(const EncodeForm& form, const std::shared_ptr<KernelCode>& code)
      : form_(form), code_(code), addresses_(code) {}

  int shared_bytes_max() override {
    const CudaContext* cuda = CudaContext::get();
    if (cuda == nullptr) throw std::runtime_error("this program has loaded no CUDA driver");
    return cuda->shared_bytes_max();
  }

  int prepare(int shared_bytes) override {
    const char* type = form_.type == mx::bfloat16 ? "__nv_bfloat16" : "__half";
    // Without the model's sizes: models of one kind share what was compiled.
    const std::string text = fmt::format(
        "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n{}{}{}{}{}{}{}\n"
        "extern \"C\" __global__ void __launch_bounds__({}, 1) impetus_encode("
        "const long long* table, char* scratch, const int* given, float* vectors, int* status, "
        "int rows, int tiles, int texts, int tilings) {{\n"
        "extern __shared__ uint4 memory[];\n"
        "using Model = impetus::EncodeModel<{}, {}, {}, {}, {}>;\n"
        "impetus::Encode<Model>(table, scratch, reinterpret_cast<char*>(memory), rows, tiles, "
        "texts).run(given, tilings, vectors, status);\n}}\n",
        k_common_text, k_tensor_core_text, k_tiles_text, k_prefill_text, k_grid_barrier_text,
        k_tile_products_text, k_encode_text, kEncodeThreads, type, form_.type == mx::bfloat16,
        form_.head_dim, encode_each(form_.hidden), form_.activation);
    kernel_.emplace(*code_->of(text), "impetus_encode", kEncodeThreads, shared_bytes);
    return kernel_->blocks();
  }

  void hold(const std::vector<std::vector<AddressOrNumber>>& table,
            int64_t scratch_bytes) override {
    std::vector<mx::array> parts;
    for (const auto& part : table) parts.push_back(addresses_.of(part));
    table_ = mx::concatenate(parts);
    scratch_.reset();
    scratch_ = settle(mx::zeros({dim(scratch_bytes)}, mx::uint8), false);
    mx::eval(*table_, *scratch_);
    mx::array places = addresses_.of({*table_, *scratch_});
    places.eval();
    table_at_ = places.data<int64_t>()[0];
    scratch_at_ = places.data<int64_t>()[1];
  }

  void run(const EncodeLaunch& launch, double spin_seconds) override {
    EncodeLaunch given = launch;
    int tilings = 0;
    for (size_t i = 0; i < launch.tilings.size(); ++i) tilings |= launch.tilings[i] << 2 * i;
    kernel_->run({&table_at_, &scratch_at_, &given.given, &given.vectors, &given.status,
                  &given.rows, &given.tiles, &given.texts, &tilings},
                 spin_seconds);
  }

 private:
  EncodeForm form_;
  std::shared_ptr<KernelCode> code_;
  DeviceAddresses addresses_;
  std::optional<DirectKernel> kernel_;
  std::optional<mx::array> table_, scratch_;
  int64_t table_at_ = 0, scratch_at_ = 0;
};

int padded(int columns, int depth) {
  return (columns + depth - 1) / depth * depth;
}

// A norm's weight and bias stand before rows that are normed.
int norm_bytes(const EncodeForm& form) {
  return 2 * form.hidden * 2;
}

int product_bytes(int tiling, const EncodeForm& form, bool resident) {
  return tiling_bytes(tiling, resident, form.hidden) + (resident ? norm_bytes(form) : 0);
}

bool fits(int tiling, const EncodeForm& form, bool resident, int memory) {
  return product_bytes(tiling, form, resident) <= memory;
}

}  // namespace

int encode_each(int hidden) {
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>((hidden + 127) / 128)));
}

bool encode_takes(const EncodeForm& form) {
  return (form.type == mx::float16 || form.type == mx::bfloat16) &&
         prefill_takes({form.heads, form.heads, form.head_dim, false, form.type}) &&
         form.head_dim <= kHeadDimMax && form.hidden == form.heads * form.head_dim &&
         form.hidden <= kHiddenMax && form.feed_forward % 8 == 0;
}

int tiling_bytes(int tiling, bool resident, int columns) {
  const TilingSizes& sizes = kTilings[tiling];
  const int stage = (sizes.outputs + (resident ? 0 : sizes.rows)) * (sizes.depth + 8) * 2;
  return (resident ? sizes.rows * (padded(columns, sizes.depth) + 8) * 2 : 0) +
         sizes.stages * stage;
}

std::optional<int> encode_shared_bytes(const EncodeForm& form, int most) {
  constexpr int kKeys = 64;  // of a tile
  // As kernels/prefill.cuh has it: keys, values and two numbers, for each half of the threads.
  const int attention =
      kEncodeThreads / kPrefillThreads * (2 * kKeys * (form.head_dim + 8) * 2 + 16);
  const int pooling = norm_bytes(form) + kWarps * form.hidden * 4;
  int all = std::max(attention, pooling);
  if (all > most || !fits(0, form, true, most) || !fits(0, form, false, most)) return std::nullopt;
  for (int t = 0; t < std::ssize(kTilings); ++t) {
    for (const bool resident : {false, true}) {
      if (fits(t, form, resident, most)) all = std::max(all, product_bytes(t, form, resident));
    }
  }
  return all;
}

EncodeTilings encode_tilings(const EncodeForm& form, int rows, int memory, int blocks) {
  const auto best = [&](int columns, int outputs, bool resident) {
    int chosen = 0;
    double least = 0;
    for (int t = 0; t < std::ssize(kTilings); ++t) {
      if (!fits(t, form, resident, memory)) continue;
      const TilingSizes& sizes = kTilings[t];
      const auto up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
      const int64_t tiles = up(rows, sizes.rows) * up(outputs, sizes.outputs);
      const double cycles =
          static_cast<double>(up(tiles, blocks)) * (kTileCycles + columns * sizes.cycles);
      if (t > 0 && cycles >= least) continue;
      chosen = t;
      least = cycles;
    }
    return chosen;
  };
  return {best(form.hidden, 3 * form.hidden, true), best(form.hidden, form.hidden, false),
          best(form.hidden, form.feed_forward, true), best(form.feed_forward, form.hidden, false)};
}

EncodeScratchPlan encode_scratch(const EncodeForm& form, int rows) {
  EncodeScratchPlan plan;
  const auto add = [&](int64_t bytes) {
    plan.places.push_back(plan.bytes);
    plan.bytes += (bytes + 255) / 256 * 256;
  };
  const int64_t all = rows, hidden = form.hidden;
  add(all * hidden * 4);
  add(all * hidden * 2);
  add(all * std::max<int64_t>(3 * hidden, form.feed_forward) * 2);
  add(all * hidden * 2);
  add(all * hidden * 4);  // a tile and a text have a row at least
  add(all * (kEncodeTilePlan + kEncodeTextPlan) * 4);
  add(3 * 4);
  return plan;
}

EncodeGiven encode_given(const EncoderBatch& batch) {
  EncodeGiven given;
  given.rows = static_cast<int>(batch.tokens.size());
  given.texts = static_cast<int>(batch.offsets.size()) - 1;
  std::vector<int32_t>& values = given.values;
  values.assign(batch.tokens.begin(), batch.tokens.end());
  values.insert(values.end(), batch.token_types.begin(), batch.token_types.end());
  values.resize(batch.tokens.size() * 2, 0);
  struct Tile {
    int32_t first, rows, text, length, place;
  };
  std::vector<Tile> tiles;
  std::vector<int32_t> texts;
  for (int t = 0; t < given.texts; ++t) {
    const int32_t begin = batch.offsets[static_cast<size_t>(t)];
    const int32_t length = batch.offsets[static_cast<size_t>(t) + 1] - begin;
    texts.insert(texts.end(), {static_cast<int32_t>(tiles.size()), length});
    for (int32_t at = 0; at < length; ++at) values.push_back(at);
    for (int32_t at = 0; at < length; at += kTileRows) {
      tiles.push_back({begin + at, std::min<int32_t>(kTileRows, length - at), begin, length,
                       static_cast<int32_t>(tiles.size())});
    }
  }
  given.tiles = static_cast<int>(tiles.size());
  // The longest first: one that begins last would run alone.
  std::ranges::sort(tiles, std::greater<>(),
                    [](const Tile& tile) { return std::pair(tile.length, tile.place); });
  for (const Tile& tile : tiles) {
    values.insert(values.end(), {tile.first, tile.rows, tile.text, tile.length, tile.place});
  }
  values.insert(values.end(), texts.begin(), texts.end());
  return given;
}

std::unique_ptr<EncodeKernel> make_cuda_encode(const EncodeForm& form,
                                               const std::shared_ptr<KernelCode>& code) {
  return std::make_unique<CudaEncode>(form, code);
}

std::unique_ptr<EncodeStep> EncodeStep::make(const EncodeKernelMaker& make, const EncodeForm& form,
                                             const EncodeWeights& weights) {
  if (!encode_takes(form)) return nullptr;
  const auto dense = [&](const Matrix& matrix) {
    return matrix.bits == 0 && matrix.weight.dtype() == form.type &&
           matrix.weight.flags().row_contiguous &&
           (!matrix.bias || matrix.bias->dtype() == form.type);
  };
  for (const EncodeLayer& layer : weights.layers) {
    for (const Matrix* matrix : {layer.qkv, layer.output, layer.up, layer.down}) {
      if (matrix == nullptr || !dense(*matrix)) return nullptr;
    }
  }
  std::unique_ptr<EncodeStep> step(new EncodeStep());
  step->form_ = form;
  const auto entry = [](const std::optional<mx::array>& array) {
    return array ? AddressOrNumber(*array) : AddressOrNumber(int64_t{0});
  };
  int64_t wide = 0, bit = 1;
  std::vector<AddressOrNumber>& head = step->table_.emplace_back();
  for (const Matrix* table : {weights.tokens, weights.positions, weights.types}) {
    if (table == nullptr) {
      head.emplace_back(int64_t{0});
    } else {
      if (table->bits != 0 || !table->weight.flags().row_contiguous) return nullptr;
      if (table->weight.dtype() == mx::float32) {
        wide |= bit;
      } else if (table->weight.dtype() != form.type) {
        return nullptr;
      }
      head.emplace_back(table->weight);
    }
    bit *= 2;
  }
  head.insert(
      head.end(),
      {*weights.sum_norm.weight, entry(*weights.sum_norm.bias), wide, int64_t{form.layers},
       int64_t{form.hidden}, int64_t{form.heads}, int64_t{form.feed_forward},
       int64_t{std::bit_cast<int32_t>(form.epsilon)}, int64_t{form.mean}, int64_t{form.normalize}});
  for (const EncodeLayer& layer : weights.layers) {
    std::vector<AddressOrNumber>& words = step->table_.emplace_back();
    for (const Matrix* matrix : {layer.qkv, layer.output, layer.up, layer.down}) {
      words.insert(words.end(), {matrix->weight, entry(matrix->bias)});
    }
    for (const EncodeNorm& norm : {layer.attention_norm, layer.output_norm}) {
      words.insert(words.end(), {*norm.weight, entry(*norm.bias)});
    }
  }
  step->kernel_ = make(form);
  if (!step->kernel_) return nullptr;
  const auto memory = encode_shared_bytes(form, step->kernel_->shared_bytes_max());
  if (!memory) return nullptr;
  step->memory_ = *memory;
  step->blocks_ = step->kernel_->prepare(*memory);
  return step;
}

void EncodeStep::hold(int rows) {
  const EncodeScratchPlan plan = encode_scratch(form_, rows);
  auto table = table_;
  table.front().insert(table.front().end(), plan.places.begin(), plan.places.end());
  kernel_->hold(table, plan.bytes);
  rows_max_ = rows;
}

bool EncodeStep::run(const EncoderBatch& batch, HostPages& host, double spin_seconds,
                     std::span<const float>& vectors) {
  const EncodeGiven given = encode_given(batch);
  host.begin();
  const mx::array numbers = host.put(given.values, {dim(std::ssize(given.values))});
  const int values = given.texts * form_.hidden;
  mx::array room = host.room({values + 1});
  auto* out = room.data<float>();
  auto* status = reinterpret_cast<int32_t*>(out + values);
  *status = 0;
  kernel_->run({numbers.data<int32_t>(), given.rows, given.tiles, given.texts,
                encode_tilings(form_, given.rows, memory_, blocks_), out, status},
               spin_seconds);
  vectors = {out, static_cast<size_t>(values)};
  return *status == kEncoded;
}

}  // namespace impetus::mlx_backend

#include "mlx/decode_step.h"

#include <algorithm>
#include <bit>
#include <map>
#include <set>

#include "base/log.h"
#include "mlx/cuda_kernel.h"
#include "mlx/device_addresses.h"

namespace impetus::mlx_backend {
namespace {

constexpr int kDense = 16000, kWide = 32000;  // formats; kWide: an embedding in f32
constexpr int kRingHeadBytes = 256;           // as kernels/weight_ring.cuh has it
// Of weights on their way; more makes all else wait longer than it saves.
constexpr int kRingBytes = 96 << 10;

int format_of(const Matrix& matrix, mx::Dtype activations) {
  if (matrix.bits == 0) return matrix.weight.dtype() == activations ? kDense : 0;
  const bool taken = matrix.mode == "affine" && (matrix.bits == 4 || matrix.bits == 8) &&
                     matrix.group % 32 == 0 && matrix.group < 1000 &&
                     std::has_single_bit(static_cast<unsigned>(matrix.group)) && matrix.biases &&
                     matrix.scales->dtype() == activations;
  return taken ? matrix.bits * 1000 + matrix.group : 0;
}

class CudaStep final : public StepKernel {
 public:
  CudaStep(const StepForm& form, std::shared_ptr<KernelCode> code)
      : form_(form), code_(code), addresses_(std::move(code)) {}

  // Each block leaves the number of the multiprocessor that it ran on.
  int blocks() override {
    static const int seats = [&] {
      constexpr int kProbes = 4096;
      CudaKernel probe({.name = "multiprocessors",
                        .inputs = {"ignored"},
                        .outputs = {"out"},
                        .body = "const long long begin = impetus::nanoseconds();\n"
                                "while (impetus::nanoseconds() - begin < 2000) {}\n"
                                "unsigned id;\n"
                                "asm volatile(\"mov.u32 %0, %%smid;\" : \"=r\"(id));\n"
                                "if (threadIdx.x == 0) out[blockIdx.x] = id;",
                        .text = k_tensor_core_text,
                        .threads = 1024},
                       code_);
      mx::array made =
          probe({mx::array({0, 0, 0})}, {{kProbes}}, {mx::int32}, {kProbes, 1, 1}, {}, {})[0];
      made.eval();
      const auto* ids = made.data<int32_t>();
      return static_cast<int>(std::set<int32_t>(ids, ids + kProbes).size());
    }();
    return seats;
  }

  mx::array addresses(const std::vector<std::variant<mx::array, int64_t>>& of) override {
    return addresses_.of(of);
  }

  StepOutputs run(const StepInputs& inputs, int rows, int memory, int blocks) override {
    constexpr int kPairs = kStepRowsMax / 2;
    auto& kernel = kernels_[memory];
    if (!kernel) kernel = kernel_of(memory);
    std::vector<mx::Shape> shapes = {{rows, form_.vocab}};
    std::vector<mx::Dtype> types = {mx::float32};
    shapes.insert(shapes.end(), kPairs, {2});
    shapes.push_back({kStepRowsMax});
    types.insert(types.end(), kPairs + 1, mx::int32);
    auto made = (*kernel)(
        {inputs.table, inputs.pools, inputs.tokens, inputs.plan, inputs.scratch, inputs.after},
        shapes, types, {blocks, 1, 1}, {int{inputs.plan.shape(1)}, rows},
        {{"T", form_.shape.activations}, {"U", form_.shape.kv}});
    StepOutputs outputs;
    outputs.logits = made.front();
    outputs.next = made.back();
    outputs.best.assign(made.begin() + 1, made.end() - 1);
    return outputs;
  }

 private:
  std::unique_ptr<CudaKernel> kernel_of(int memory) const {
    std::vector<std::string> outputs = {"logits"}, best;
    for (int i = 0; i < kStepRowsMax / 2; ++i) best.push_back(fmt::format("best{}", i));
    outputs.insert(outputs.end(), best.begin(), best.end());
    outputs.push_back("next");
    const DecodeShape& shape = form_.shape;
    // Without the model's sizes: models of one kind share what was compiled.
    const std::string body = fmt::format(
        "extern __shared__ uint4 memory[];\n"
        "using Model = impetus::StepModel<T, {}, U, {}, {}, {}, {}, {}, {}>;\n"
        "int* const best[] = {{{}}};\n"
        "impetus::decode_step<Model, {}>(reinterpret_cast<const long long*>(table),\n"
        "reinterpret_cast<const long long*>(pools), tokens, plan, plan_width, rows,\n"
        "reinterpret_cast<char*>(const_cast<unsigned char*>(scratch)),\n"
        "reinterpret_cast<char*>(memory), {}, logits, best, next);",
        shape.activations == mx::bfloat16, shape.heads / shape.kv_heads, shape.head_dim,
        int{KvPool::kBlockTokens}, shape.neighbours, shape.qk_norm, fmt::join(form_.formats, ", "),
        fmt::join(best, ", "), kStepWarps, memory);
    // MLX allows a kernel of a name and code its shared memory at its first launch, once for all
    // models: a size is another name.
    // The bounds say how many threads the compiler must leave each its share of registers.
    return std::make_unique<CudaKernel>(
        KernelText{.name = fmt::format("decode_step_{}", memory),
                   .inputs = {"table", "pools", "tokens", "plan", "scratch", "after"},
                   .outputs = outputs,
                   .numbers = {"plan_width", "rows"},
                   .body = body,
                   .text = fmt::format("{}{}{}{}{}{}{}", k_tensor_core_text, k_tiles_text,
                                       k_attend_text, k_few_rows_text, k_weight_ring_text,
                                       k_grid_barrier_text, k_decode_step_text),
                   .threads = (kStepWarps + kStepProducerWarps) * 32,
                   .blocks = 1,
                   .shared_bytes = memory},
        code_);
  }

  StepForm form_;
  std::shared_ptr<KernelCode> code_;
  DeviceAddresses addresses_;
  std::map<int, std::unique_ptr<CudaKernel>> kernels_;  // by their shared memory
};

int head_parts(const DecodeShape& shape) {
  return shape.kv_heads * pieces_of(shape.heads, shape.kv_heads);
}

// Shared memory that a block may have (CUDA's programming guide, "Technical Specifications per
// Compute Capability").
int shared_bytes_of_card() {
  const auto& info = mx::device_info(mx::Device(mx::Device::gpu));
  const auto found = info.find("architecture");
  const auto* name = found == info.end() ? nullptr : std::get_if<std::string>(&found->second);
  const auto is = [&](std::initializer_list<std::string_view> names) {
    return name != nullptr && std::ranges::find(names, *name) != names.end();
  };
  if (is({"sm_90", "sm_100", "sm_103"})) return 227 << 10;
  if (is({"sm_80", "sm_87"})) return 163 << 10;
  return 99 << 10;
}

}  // namespace

// As kernels/decode_step.cuh lays it out: words, rotations, a norm, keys on their way; then
// products, attention or ids.
int step_shared_bytes(const StepForm& form, int rows) {
  const DecodeShape& shape = form.shape;
  const int group = shape.heads / shape.kv_heads, pieces = pieces_of(shape.heads, shape.kv_heads);
  const int heads = (group + pieces - 1) / pieces;
  constexpr int kWords = (2 * 30 + 30) * 8, kThreads = kStepWarps * 32, kKeysRing = kThreads * 128;
  const int columns = std::max({form.hidden, form.feed_forward, shape.heads * shape.head_dim});
  const int padded = (columns + 255) / 256 * 256;
  const int products = kStepWarps * (kStepRowsMax * 16 + 1) * 4 + rows * (padded + 8) * 2;
  const int attends =
      ((heads + 2) * shape.head_dim + kStepWarps * heads * (shape.head_dim + 2)) * 4;
  const int all = kWords + rows * shape.head_dim * 4 + form.hidden * 2 + kKeysRing +
                  std::max({products, attends, kThreads * 8});
  return (all + 127) / 128 * 128;
}

// As kernels/weight_ring.cuh: 16 rows of 128 bytes, and two arrays of 32 bytes a row.
int step_stage_bytes(const StepForm& form) {
  const bool codes = std::ranges::any_of(form.formats, [](int format) { return format < kDense; });
  return kStepWarps * 16 * (128 + (codes ? 2 * 32 : 0));
}

std::optional<int> step_memory(const StepForm& form, int rows, int most) {
  const int fixed = step_shared_bytes(form, rows) + kRingHeadBytes, stage = step_stage_bytes(form);
  if (fixed + stage > most) return std::nullopt;
  // What a multiprocessor can be set to, less what CUDA takes: the rest is its L1 cache.
  const int wanted = fixed + kRingBytes / stage * stage;
  for (const int size : {99 << 10, 131 << 10, 163 << 10, 195 << 10}) {
    if (size >= wanted && size <= most) return size;
  }
  return most;
}

int step_rows_max(const StepForm& form, int most) {
  int rows = 0;
  while (rows < kStepRowsMax && step_memory(form, rows + 1, most)) ++rows;
  return rows;
}

int step_split(int format, int columns, int outputs, bool gates, int blocks) {
  const int stages = (columns * (format / 1000) / 8 + 127) / 128, wide = gates ? 8 : 16;
  const int tiles = (outputs + wide - 1) / wide;
  int split = 0;
  int64_t least = 0;
  for (int power = 0; 1 << power <= kStepWarps; ++power) {
    const int warps = 1 << power, at_once = blocks * (kStepWarps / warps);
    // A tile costs half a stage beside its own: the sum over warps.
    const int64_t time =
        int64_t{(tiles + at_once - 1) / at_once} * (2 * ((stages + warps - 1) / warps) + 1);
    if (power > 0 && time >= least) continue;
    split = power;
    least = time;
  }
  return split;
}

StepScratchPlan step_scratch(const StepForm& form, int rows, int blocks) {
  const DecodeShape& shape = form.shape;
  StepScratchPlan plan;
  const auto take = [&](int64_t bytes) {
    plan.places.push_back(plan.bytes);
    plan.bytes += (bytes + 255) / 256 * 256;
  };
  const int64_t wide = int64_t{shape.heads} * shape.head_dim;
  const auto type = static_cast<int64_t>(shape.activations.size());
  take(int64_t{rows} * form.hidden * type);
  take(rows * (wide + 2 * int64_t{shape.kv_heads} * shape.head_dim) * type);
  take(rows * wide * type);
  take(int64_t{rows} * form.feed_forward * type);
  const int64_t shares = std::max(rows, blocks / head_parts(shape));  // of all rows together
  take(shares * shape.heads * (shape.head_dim + 2) * 4);
  take(int64_t{blocks} * rows * 8);
  take(12);
  take(4 * (4 * int64_t{form.layers} + 1));
  return plan;
}

std::vector<int64_t> step_numbers(const StepForm& form) {
  return {form.layers,
          form.hidden,
          form.feed_forward,
          form.vocab,
          form.slots,
          form.shape.kv_heads,
          std::bit_cast<int32_t>(form.epsilon)};
}

std::unique_ptr<StepKernel> make_cuda_step(const StepForm& form,
                                           const std::shared_ptr<KernelCode>& code) {
  return std::make_unique<CudaStep>(form, code);
}

std::unique_ptr<DecodeStep> DecodeStep::make(const StepKernelMaker& make, const DecodeShape& shape,
                                             const ModelSpec& spec, const StepWeights& weights,
                                             const KvPool& kv, bool device,
                                             int64_t logit_elements) {
  const mx::Dtype type = shape.activations;
  if ((type != mx::float16 && type != mx::bfloat16) || !kernels_take(shape, spec)) return nullptr;
  StepForm form;
  form.shape = shape;
  form.layers = static_cast<int>(spec.layers);
  form.hidden = static_cast<int>(spec.hidden);
  form.feed_forward = static_cast<int>(spec.feed_forward);
  form.vocab = static_cast<int>(spec.vocab);
  form.slots = static_cast<int>(kv.keys(0).shape(1));
  form.epsilon = spec.norm_eps;
  if (form.feed_forward % 32 != 0 || form.hidden % 32 != 0 ||
      shape.heads * shape.head_dim % 32 != 0) {
    return nullptr;
  }
  std::set<int> formats;
  const auto known = [&](const Matrix* matrix, bool bias) {
    int format = matrix == nullptr ? 0 : format_of(*matrix, type);
    // The kernel counts bytes of scales in 32 bits.
    if (format != 0 && matrix->scales && matrix->scales->nbytes() > size_t{1} << 30) format = 0;
    if (format != 0) formats.insert(format);
    return format != 0 && (bias || !matrix->bias);
  };
  // Looked up rather than multiplied with.
  const int looked_up =
      weights.embedding->bits == 0 && weights.embedding->weight.dtype() == mx::float32
          ? kWide
          : format_of(*weights.embedding, type);
  bool all = looked_up != 0 && known(weights.head, false) && weights.final_norm->dtype() == type;
  for (const StepLayer& layer : weights.layers) {
    all = all && known(layer.qkv, true) && known(layer.output, false) &&
          known(layer.gate_up, false) && known(layer.down, false) &&
          layer.attention_norm->dtype() == type && layer.feed_forward_norm->dtype() == type;
  }
  if (!all) return nullptr;
  form.formats.assign(formats.begin(), formats.end());

  std::unique_ptr<DecodeStep> step(new DecodeStep());
  step->kernel_ = make(form);
  if (!step->kernel_) return nullptr;
  step->blocks_ = step->kernel_->blocks();
  const int most = device ? shared_bytes_of_card() : 227 << 10;
  step->rows_max_ =
      static_cast<int>(std::min<int64_t>(step_rows_max(form, most), logit_elements / spec.vocab));
  log::debug("{}: decode steps of up to {} sequences are one launch ({} KB of shared memory)",
             spec.family, step->rows_max_, most >> 10);
  if (step->rows_max_ == 0) return nullptr;
  step->rows_ = step->rows_max_;
  step->memory_of_one_ = *step_memory(form, 1, most);
  step->memory_ = *step_memory(form, step->rows_max_, most);
  step->scratch_plan_ = step_scratch(form, kStepRowsMax, step->blocks_);
  step->scratch_ =
      settle(mx::zeros({static_cast<int>(step->scratch_plan_.bytes)}, mx::uint8), !device);
  const std::vector<float> frequencies = spec.rope_frequencies();
  step->frequencies_ = settle(
      mx::array(frequencies.begin(), mx::Shape{static_cast<int>(frequencies.size())}), !device);

  using Entry = std::variant<mx::array, int64_t>;
  const auto entry = [](const std::optional<mx::array>& array) {
    return array ? Entry(*array) : Entry(int64_t{0});
  };
  const auto add = [&](std::vector<Entry>& to, const Matrix& matrix, int format,
                       bool gates = false) {
    const int columns =
        static_cast<int>(matrix.weight.shape(1)) * (matrix.bits == 0 ? 1 : 32 / matrix.bits);
    const int outputs = static_cast<int>(matrix.weight.shape(0)) / (gates ? 2 : 1);
    to.insert(to.end(), {matrix.weight, entry(matrix.scales), entry(matrix.biases),
                         entry(matrix.bias), int64_t{format},
                         int64_t{step_split(format, columns, outputs, gates, step->blocks_)}});
  };
  std::vector<Entry> words;
  add(words, *weights.embedding, looked_up);
  add(words, *weights.head, format_of(*weights.head, type));
  words.insert(words.end(), {*weights.final_norm, step->frequencies_});
  for (const int64_t number : step_numbers(form)) words.push_back(number);
  for (const int64_t place : step->scratch_plan_.places) words.push_back(place);
  std::vector<mx::array> parts = {step->kernel_->addresses(words)};
  for (const StepLayer& layer : weights.layers) {
    words.clear();
    for (const Matrix* matrix : {layer.qkv, layer.output, layer.gate_up, layer.down}) {
      add(words, *matrix, format_of(*matrix, type), matrix == layer.gate_up);
    }
    for (const mx::array* norm :
         {layer.attention_norm, layer.feed_forward_norm, layer.q_norm, layer.k_norm}) {
      words.push_back(norm != nullptr ? Entry(*norm) : Entry(int64_t{0}));
    }
    parts.push_back(step->kernel_->addresses(words));
  }
  step->table_ = mx::concatenate(parts);
  mx::eval(step->table_, step->scratch_);
  return step;
}

StepOutputs DecodeStep::run(const AttendStep& step, const mx::array& tokens, const KvPool& kv) {
  if (!pools_) {
    const std::vector<mx::array>& arrays = kv.arrays();
    pools_ = kernel_->addresses({arrays.begin(), arrays.end()});
  }
  if (step.rows <= rows_max_) {
    return launch({table_, *pools_, tokens, step.plan, scratch_, tokens}, step.rows);
  }
  StepOutputs all;
  std::vector<mx::array> logits, next;
  mx::array after = tokens;
  const int width = step.plan.shape(1);
  for (int first = 0; first < step.rows; first += several()) {
    const int end = std::min(first + several(), step.rows);
    StepOutputs made = launch({table_, *pools_, mx::slice(tokens, {first}, {end}),
                               mx::slice(step.plan, {first, 0}, {end, width}), scratch_, after},
                              end - first);
    after = made.next;
    logits.push_back(std::move(made.logits));
    next.push_back(mx::slice(made.next, {0}, {end - first}));
    all.best.insert(all.best.end(), made.best.begin(), made.best.begin() + (end - first + 1) / 2);
  }
  all.logits = mx::concatenate(logits, 0);
  all.next = mx::concatenate(next, 0);
  return all;
}

StepOutputs DecodeStep::launch(const StepInputs& inputs, int rows) {
  return kernel_->run(inputs, rows, rows == 1 ? memory_of_one_ : memory_, blocks_);
}

}  // namespace impetus::mlx_backend

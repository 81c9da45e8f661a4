// The seam between engine and processor: a batch of tokens, not an op.
//
// Threads: an Executor or Encoder is driven by one thread at a time (its device's loop);
// descriptor() may be read from any. Ownership: spans in a batch are the caller's and live until
// the call returns. Failure: Result; after an error the KV blocks that the batch wrote are
// undefined and the engine must treat them as lost, everything else stands. Two codes say nothing
// against the batch: insufficient_memory (less at once may do) and unavailable (the device is gone;
// another may do). No exception leaves a backend; one that does is caught as the backend's bug.
//
// Rule of every implementation: a row's result does not depend on its batch, on the chunking of its
// prompt, on a cached prefix or on the number of threads, bit for bit. A backend whose library
// picks its kernels by shape cannot promise the bits: it says so (`batch_invariant`), and its
// results agree within the rounding of its arithmetic.
//
// Proof: whoever computes a result says so in it (`ran_on`). Nobody else does, and nobody copies it
// from a plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "architectures/model_spec.h"
#include "backend/memory_ledger.h"
#include "backend/sampling.h"
#include "base/result.h"
#include "base/token_id.h"

namespace impetus {

// Index of a physical KV block, 0 <= id < KvStorage::blocks(). The engine owns the numbering.
using BlockId = int32_t;

// What a backend is, as data: planner, CLI and docs read the same record.
struct BackendDescriptor {
  std::string device;   // "cpu"
  std::string backend;  // "cpu-avx512"
  std::string name;     // "AMD EPYC ..., 2 threads"
  std::vector<DType> weights;
  std::vector<DType> kv;
  int threads = 1;
  // It computes as another processor would, which is not here. Its speed says nothing, so that it
  // is neither measured nor chosen by a plan: only by its name.
  bool emulated = false;
  // Steps are enqueued and run while the host goes on, as on a GPU.
  bool enqueues = false;
  // A row's result does not depend on its batch, bit for bit.
  bool batch_invariant = true;
};

// What one position of a sequence is in KV, the same for every processor that runs the model.
struct KvShape {
  int64_t layers = 0, kv_heads = 0, head_dim = 0;

  int64_t elements() const { return layers * 2 * kv_heads * head_dim; }  // of one position
  bool operator==(const KvShape&) const = default;
};

// Physical KV memory, in blocks of `block_tokens` positions over all layers.
//
// Handoff: KV leaves one storage and enters another in a neutral layout, packed without padding,
//   [layers][2: keys, then values][kv_heads][end - begin][head_dim], little-endian,
// keys as attention reads them (normed and rotated); in q8_0 as its blocks along head_dim. Between
// storages of one dtype the values pass bit for bit; else they are rounded once, on their way in.
// By the thread that drives the executor, and not while it runs; the other methods may be called
// from any.
class KvStorage {
 public:
  virtual ~KvStorage() = default;
  virtual int32_t blocks() const = 0;
  virtual int32_t block_tokens() const = 0;
  virtual int64_t block_bytes() const = 0;  // keys and values of all layers
  virtual DType dtype() const = 0;
  virtual KvShape shape() const = 0;

  // Positions [begin, end) of a block, in the storage's own dtype. REQUIRES (else
  // invalid_argument): a block of this storage, 0 <= begin < end <= block_tokens(), and `out` of
  // exactly the bytes that kv_bytes(shape(), end - begin, dtype()) says.
  virtual Result<void> export_block(BlockId block, int32_t begin, int32_t end,
                                    std::span<std::byte> out) const = 0;
  // The same positions from values of `type` (of check_kv_type; else unsupported); others stand.
  virtual Result<void> import_block(BlockId block, int32_t begin, int32_t end, DType type,
                                    std::span<const std::byte> in) = 0;
};

enum class StepOutput : uint8_t {
  none,         // a prompt chunk that is not the last
  sample,       // one token from the last position's logits
  logits_last,  // [vocab]
  logits_all,   // [tokens, vocab]
};

// Which kind of work a step is. Its border is the prompt's end and nothing else, so that a position
// is computed as the same kind whatever the chunking, and again after a preemption.
enum class StepPhase : uint8_t { prefill, decode };

// One sequence's part of a step.
struct SequenceStep {
  std::span<const TokenId> tokens;  // to run now, at positions [position, position + tokens.size())
  int64_t position = 0;
  // Cover positions [0, position + tokens.size()), and one more where it has its block already: an
  // executor that runs ahead may write there.
  std::span<const BlockId> blocks;
  StepOutput output = StepOutput::none;
  const SamplingParams* sampling = nullptr;  // REQUIRED for sample
  SamplingContext context;                   // for sample: the history before the drawn token
  StepPhase phase = StepPhase::prefill;  // prefill: all tokens are the prompt's; decode: none is
};

struct SequenceResult {
  Result<SampledToken> token =
      SampledToken{};         // for sample; an error fails this sequence alone (NaN)
  std::vector<float> logits;  // for logits_*, row-major
  // Who computed this part of the sequence; set whether it came out well or not, and valid as long
  // as the executor.
  const BackendDescriptor* ran_on = nullptr;
  double handoff_seconds = 0;  // spent on bringing this sequence's KV to where it ran
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const BackendDescriptor& descriptor() const = 0;
  virtual const KvStorage& kv() const = 0;
  virtual KvStorage& kv() = 0;
  // Most tokens in one step, over all sequences.
  virtual int64_t step_tokens_max() const = 0;
  // Runs the batch; results stand in the order of `batch`. An error is of the whole step.
  virtual Result<std::vector<SequenceResult>> execute(std::span<const SequenceStep> batch) = 0;

  // Which processor the present step is on, or was last; from any thread, for a step that does not
  // end can be asked nothing else.
  virtual const BackendDescriptor& at_work() const { return descriptor(); }
  // How long the batch should take, as planned; 0: nobody knows.
  virtual double expected_seconds(std::span<const SequenceStep>) const { return 0; }
};

enum class EncodeOutput : uint8_t { pooled, hidden };

// Ragged, without padding: text i is tokens[offsets[i], offsets[i + 1]).
struct EncoderBatch {
  std::span<const TokenId> tokens;
  std::span<const int32_t> offsets;      // n + 1
  std::span<const int32_t> token_types;  // empty (all 0) or one a token
  EncodeOutput output = EncodeOutput::pooled;
};

struct Encoded {
  // pooled: [n, hidden], pooled and normalised as the spec says. hidden: [tokens, hidden].
  std::vector<float> values;
  // Who computed each text of the batch; valid as long as the encoder.
  std::vector<const BackendDescriptor*> ran_on;
};

class Encoder {
 public:
  virtual ~Encoder() = default;
  virtual const BackendDescriptor& descriptor() const = 0;
  virtual int64_t batch_tokens_max() const = 0;  // over all texts of one call
  // Of one text: what compiled programs have a shape for, where that is less. Longer ones are
  // context_length.
  virtual int64_t text_tokens_max() const { return batch_tokens_max(); }
  // Of its weights as run ("palettized6"), where that is the backend's own choice; else empty.
  virtual std::string_view precision() const { return {}; }
  // Values that are not finite stay in their text's vector: the caller judges each text alone.
  virtual Result<Encoded> encode(const EncoderBatch& batch) = 0;
  // How long the batch should take, as planned; 0: nobody knows.
  virtual double expected_seconds(const EncoderBatch&) const { return 0; }
};

enum class WeightPrecision : uint8_t { as_is, int8 };

// Threads by kind of step, on processors that have a choice; 0: all that the backend has.
struct ThreadPlan {
  int decode = 0;   // steps of at most a token a sequence
  int prefill = 0;  // all others, and encoders
};

struct LoadOptions {
  // int8: f32, f16 and bf16 become Q8_0 while packing; what is quantised already stays as it is.
  WeightPrecision weights = WeightPrecision::as_is;
  DType kv = DType::f16;     // f16, bf16, f32
  int64_t kv_tokens = 8192;  // positions over all sequences; rounded up to whole blocks
  int64_t step_tokens_max = 512;
  ThreadPlan threads;
};

// One processor with its kernels. Loads models; owns the threads they share.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual const BackendDescriptor& descriptor() const = 0;
  // Of a device with memory of its own, which models are loaded to: there their bytes are reserved.
  // Null: in the host's, the ledger that they are loaded with.
  virtual const MemoryLedger* memory() const { return nullptr; }
  // `weights` may be released (unmapped pages) once packed, and must outlive the executor.
  virtual Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec,
                                                         const WeightSet& weights,
                                                         const LoadOptions& options,
                                                         MemoryLedger& ledger) = 0;
  virtual Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec,
                                                        const WeightSet& weights,
                                                        const LoadOptions& options,
                                                        MemoryLedger& ledger) = 0;
};

}  // namespace impetus

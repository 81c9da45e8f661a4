#include "coreml/coreml_backend.h"

#include <algorithm>
#include <chrono>

#include <unistd.h>

#include <fmt/ranges.h>

#include "base/guarded.h"
#include "base/log.h"
#include "base/timing.h"
#include "coreml/coreml_encoder.h"
#include "mil/package.h"

namespace impetus::coreml {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Shapes for texts of at most `longest` tokens: those below it, and itself in place of the next.
std::vector<int64_t> shapes_for(std::vector<int64_t> shapes, int64_t longest) {
  std::ranges::sort(shapes);
  std::vector<int64_t> kept;
  for (const int64_t shape : shapes) {
    if (shape < 1) continue;
    const int64_t cut = std::min(shape, longest);
    if (kept.empty() || kept.back() != cut) kept.push_back(cut);
  }
  return kept;
}

// The package of a shape within a cache's entry.
fs::path package_path(const fs::path& content, int64_t shape, bool shared) {
  return content / (shared ? "model.mlpackage" : fmt::format("encode_{}.mlpackage", shape));
}

// A folder that goes with its last user.
std::shared_ptr<const fs::path> temporary_folder() {
  std::error_code code;
  std::string name = (fs::temp_directory_path(code) / "impetus-coreml-XXXXXX").string();
  if (code || ::mkdtemp(name.data()) == nullptr) return nullptr;
  return {new fs::path(name), [](const fs::path* path) {
            std::error_code ignored;
            fs::remove_all(*path, ignored);
            delete path;
          }};
}

class CoremlBackend final : public Backend {
 public:
  CoremlBackend(std::shared_ptr<ModelLoader> loader, CoremlOptions options)
      : loader_(std::move(loader)), options_(std::move(options)) {
    descriptor_.device = descriptor_.backend = std::string(loader_->name());
    descriptor_.name = loader_->description();
    descriptor_.weights = {DType::f32, DType::f16, DType::bf16};
    descriptor_.emulated = loader_->emulated();
  }

  const BackendDescriptor& descriptor() const override { return descriptor_; }

  Result<std::unique_ptr<Executor>> load_decoder(const ModelSpec& spec, const WeightSet&,
                                                 const LoadOptions&, MemoryLedger&) override {
    return error(ErrorCode::unsupported,
                 "{} runs encoders only: prefill and decoding come with a later version",
                 descriptor_.backend);
  }
  Result<std::unique_ptr<Encoder>> load_encoder(const ModelSpec& spec, const WeightSet& weights,
                                                const LoadOptions& options,
                                                MemoryLedger& ledger) override {
    return guarded(descriptor_.backend, [&] { return load(spec, weights, options, ledger); });
  }

 private:
  Result<std::unique_ptr<Encoder>> load(const ModelSpec& spec, const WeightSet& weights,
                                        const LoadOptions& options, MemoryLedger& ledger);
  Result<CacheEntry> converted(const ModelSpec& spec, const WeightSet& weights,
                               const ConvertOptions& options, MemoryLedger& ledger,
                               std::vector<std::shared_ptr<const void>>& keeps) const;

  std::shared_ptr<ModelLoader> loader_;
  CoremlOptions options_;
  BackendDescriptor descriptor_;
};

// The packages of a model: from the cache, or made now.
Result<CacheEntry> CoremlBackend::converted(const ModelSpec& spec, const WeightSet& weights,
                                            const ConvertOptions& options, MemoryLedger& ledger,
                                            std::vector<std::shared_ptr<const void>>& keeps) const {
  const auto start = Clock::now();
  const std::string key =
      package_key(model_content(spec, weights), options.precision, options.shapes, options.macos);
  const auto make = [&](const fs::path& folder) -> Result<void> {
    // The programs' constants, and the bytes of the files.
    IMPETUS_TRY(const auto held, ledger.reserve(2 * weights.bytes(), "conversion to Core ML"));
    IMPETUS_TRY(const auto programs, convert_encoder(spec, weights, options));
    const bool shared = programs.size() == 1 && options.shapes.size() > 1;
    for (const Converted& one : programs) {
      IMPETUS_CHECK(mil::write_package(
          package_path(folder, one.shapes.empty() ? 0 : one.shapes.front(), shared), one.model));
    }
    return {};
  };
  const auto from = [&](const fs::path& folder) -> Result<CacheEntry> {
    IMPETUS_TRY(PackageCache cache, PackageCache::open(folder, options_.cache_bytes_max));
    return cache.get(key, make);
  };
  auto found = options_.cache.empty()
                   ? Result<CacheEntry>(error(ErrorCode::io, "no folder is named"))
                   : from(options_.cache);
  if (!found.ok() && found.error().code == ErrorCode::io) {
    // A cache that cannot be written, or whose disk is full, costs a conversion, not the model.
    log::warn("what is converted for {} is not kept: {}", descriptor_.backend,
              found.error().message);
    const auto folder = temporary_folder();
    if (!folder) return error(ErrorCode::io, "no temporary folder can be made");
    keeps.push_back(folder);
    found = from(*folder);
  }
  IMPETUS_TRY(CacheEntry entry, std::move(found));
  log::info("{}: {} for {} in {:.2f} s: {} for {} tokens ({})", weights.source(),
            entry.made ? "converted" : "taken from the cache", descriptor_.backend,
            seconds_since(start), to_string(options.precision), fmt::join(options.shapes, ", "),
            entry.content.parent_path().string());
  return entry;
}

Result<std::unique_ptr<Encoder>> CoremlBackend::load(const ModelSpec& spec,
                                                     const WeightSet& weights,
                                                     const LoadOptions& options,
                                                     MemoryLedger& ledger) {
  ConvertOptions convert;
  convert.precision = options_.precision;
  if (options.weights == WeightPrecision::int8 && convert.precision == Precision::fp16) {
    convert.precision = Precision::int8;
  }
  if (convert.precision == Precision::w8a8) {
    return error(ErrorCode::unsupported,
                 "{}: w8a8 needs texts to measure activations on: `impetus convert` takes them",
                 descriptor_.backend);
  }
  convert.macos = options_.macos;
  const int64_t longest = spec.sequence_length_max > 0
                              ? std::min(spec.sequence_length_max, spec.context)
                              : spec.context;
  convert.shapes = shapes_for(options_.shapes, longest);
  if (convert.shapes.empty()) {
    return error(ErrorCode::invalid_argument, "{}: no shape is named", descriptor_.backend);
  }

  CoremlEncoderParts parts;
  const auto reserve = [&](int64_t bytes, std::string what) -> Result<void> {
    IMPETUS_TRY(auto held, ledger.reserve(bytes, fmt::format("{}: {}", spec.family, what)));
    parts.keeps.push_back(std::make_shared<const Reservation>(std::move(held)));
    return {};
  };
  IMPETUS_TRY(parts.host, HostEmbeddings::load(spec, weights));
  IMPETUS_TRY(CacheEntry entry, converted(spec, weights, convert, ledger, parts.keeps));
  for (const NamedTensor& tensor : weights.tensors()) weights.release(tensor);

  const auto start = Clock::now();
  const bool shared = fs::exists(package_path(entry.content, 0, true));
  for (const int64_t shape : convert.shapes) {
    const fs::path package = package_path(entry.content, shape, shared);
    const std::string function = function_name(shape, options_.macos);
    IMPETUS_TRY(const int64_t bytes, loader_->bytes_needed(package, function));
    IMPETUS_CHECK(reserve(bytes, fmt::format("the program for {} tokens", shape)));
    IMPETUS_TRY(auto program, loader_->load(package, function, entry.compiled, options_.units));
    parts.programs.push_back(std::move(program));
  }
  // What the loader compiled counts, too.
  if (auto cache =
          PackageCache::open(entry.content.parent_path().parent_path(), options_.cache_bytes_max);
      cache.ok()) {
    cache->trim();
  }
  log::info("{}: {} programs loaded on {} in {:.2f} s", weights.source(), parts.programs.size(),
            descriptor_.backend, seconds_since(start));
  parts.keeps.push_back(std::make_shared<const CacheEntry>(std::move(entry)));
  parts.descriptor = descriptor_;
  parts.spec = spec;
  parts.precision = to_string(convert.precision);
  parts.shapes = convert.shapes;
  parts.batch_tokens_max = options.step_tokens_max;
  return make_coreml_encoder(std::move(parts));
}

}  // namespace

Result<std::unique_ptr<Backend>> make_coreml_backend(std::shared_ptr<ModelLoader> loader,
                                                     CoremlOptions options) {
  if (options.shapes.empty() || std::ranges::min(options.shapes) < 1) {
    return error(ErrorCode::invalid_argument, "{}: shapes are numbers of tokens, 1 or more",
                 loader->name());
  }
  return std::unique_ptr<Backend>(
      std::make_unique<CoremlBackend>(std::move(loader), std::move(options)));
}

}  // namespace impetus::coreml

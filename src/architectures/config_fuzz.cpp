// A config.json, or the metadata of a GGUF file, to a spec that keeps its promises.
// Seeds: tests/fuzz/seeds/config.
#include <cmath>
#include <cstdlib>

#include "architectures/model_spec.h"

namespace {

using namespace impetus;

void must(bool holds) {
  if (!holds) std::abort();
}

void check(const ModelSpec& spec, const WeightSet& weights) {
  must(spec.heads > 0 && spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0);
  must(spec.hidden > 0 && spec.head_dim > 0 && spec.layers > 0 && spec.vocab > 0);
  must(spec.context > 0 && spec.feed_forward > 0 && spec.norm_eps > 0);
  int64_t product = 0;
  must(!__builtin_mul_overflow(spec.heads * spec.head_dim, spec.feed_forward, &product));
  must(!__builtin_mul_overflow(spec.vocab, spec.hidden, &product));
  if (spec.kind == ModelKind::encoder) {
    must(spec.heads * spec.head_dim == spec.hidden);
    (void)resolve_encoder(spec, weights).ok();
    return;
  }
  (void)resolve_decoder(spec, weights).ok();
  if (spec.head_dim > 4096) return;  // only to keep each run short
  for (const float frequency : spec.rope_frequencies()) {
    must(std::isfinite(frequency) && frequency >= 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.starts_with("GGUF")) {
    const auto file = GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    if (!file.ok()) return 0;
    const auto spec = spec_from_gguf(*file);
    if (spec.ok()) check(*spec, file->weights());
    return 0;
  }
  const auto document = parse_json(text);
  if (!document.ok() || !document->is_object()) return 0;
  const auto spec = spec_from_config(document->get_object());
  if (spec.ok()) check(*spec, WeightSet{});
  return 0;
}

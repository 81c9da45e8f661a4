// Seeds: tests/fuzz/seeds/safetensors.
#include <cstdlib>

#include "formats/mlx_quantised.h"
#include "tests/support/weights_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  auto weights = impetus::parse_safetensors(bytes, "fuzz");
  if (!weights.ok()) return 0;
  if (!impetus::testing::contradiction(*weights, bytes).empty()) std::abort();
  // Layers that look as MLX's do are joined, and what comes out decodes within its bytes.
  static const auto config = *impetus::parse_json(R"({"quantization": {"group_size": 64, "bits": 4,
        "b": {"group_size": 32, "bits": 3}, "c": {"group_size": 32, "bits": 4, "mode": "mxfp4"}}})");
  const auto joined = impetus::join_quantised(std::move(*weights), config.as_object());
  if (!joined.ok()) return 0;
  if (!impetus::testing::contradiction(*joined, bytes).empty()) std::abort();
  for (const impetus::NamedTensor& tensor : joined->tensors()) {
    if (tensor.view.dtype != impetus::DType::grouped) continue;
    std::vector<float> row(static_cast<size_t>(tensor.view.shape.columns()));
    for (int64_t r = 0; r < tensor.view.shape.rows(); ++r) {
      impetus::dequantize_row(tensor.view, r, row.data());
    }
  }
  return 0;
}

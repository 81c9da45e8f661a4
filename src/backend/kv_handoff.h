// KV on its way from one storage to another: what every KvStorage and whoever moves between them
// share. The layout stands at KvStorage.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "backend/executor.h"

namespace impetus {

// Bytes of `positions` positions in the neutral layout.
int64_t kv_bytes(const KvShape& shape, int64_t positions, DType type);

// unsupported for a type that KV is not kept in, and where a head's values are no whole blocks.
Result<void> check_kv_type(DType type, int64_t head_dim);

// What KvStorage's export and import require of their arguments.
Result<void> check_handoff(const KvStorage& kv, BlockId block, int32_t begin, int32_t end,
                           DType type, size_t bytes);

// Between f32, f16, bf16 and q8_0: equal types pass bit for bit, others round to nearest even, to
// q8_0 as quantize_q8_0 (tensor.h) does; what is not finite stays so. REQUIRES: the same number of
// whole elements on both sides, in whole blocks.
void convert_kv(DType from, std::span<const std::byte> in, DType to, std::span<std::byte> out);

// Copies positions [begin, end) of block `id` of `from` to the same block of `to`. `scratch` is
// reused across calls to avoid allocating. REQUIRES: equal shapes.
Result<void> hand_over(const KvStorage& from, KvStorage& to, BlockId id, int32_t begin, int32_t end,
                       std::vector<std::byte>& scratch);

}  // namespace impetus

// What host and device tell one another of a step: tokens, positions, blocks of the KV pool; logits
// and vectors.
//
// MLX's arrays of the host are CUDA's managed memory, and so is what the host reads of the device:
// a page moves to whoever touches it, and pages that the host has left serve the device's own
// arrays later, so that they move in every step. Here numbers stand in pages of their own, which
// stay with the host and which the device reaches across the bus
// (https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__UNIFIED.html, cuMemAdvise).
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "mlx/wall.h"

namespace impetus::mlx_backend {

// Within MLX's turn.
class HostPages {
 public:
  // Steps whose numbers stand at once: one runs, one is in line, one is put together.
  static constexpr int kSteps = 4;
  static_assert(kSteps >= 3);
  static constexpr int64_t kBytes = int64_t{1} << 20;  // of all of them, if `pages`

  // `device`: kernels read the numbers where they run. `pages`: in memory of their own.
  explicit HostPages(bool device = false, bool pages = false) : device_(device), pages_(pages) {}

  // A step begins; the one kSteps before it has ended, failed or not, and its numbers are
  // overwritten.
  void begin();
  // An array of i32. What does not fit the step's part becomes an array of MLX's.
  mx::array put(std::span<const int32_t> values, const mx::Shape& shape);
  // Room of i32 in the step's part for what the device tells the host; none where it does not fit.
  std::optional<mx::array> slot(const mx::Shape& shape);
  // What was put, on the device, for what many kernels read; `host` is held until the step has run,
  // or the copy would take its place over.
  mx::array moved(const mx::array& host) const;
  // Room of f32 for what the device tells the host, however much; the one before it is no more.
  mx::array room(const mx::Shape& shape);
  int64_t bytes() const { return pages_ ? kBytes : 0; }  // beside the room
  // Gives the memory back; no step runs.
  void clear() {
    memory_.reset();
    room_.reset();
  }

 private:
  mx::array pages(int64_t bytes) const;
  // Where so many bytes of the step's part stand, in values of 4 bytes.
  std::optional<int64_t> take(int64_t bytes);

  bool device_, pages_;
  std::optional<mx::array> memory_;  // u8 [kBytes]
  std::optional<mx::array> room_;    // u8, as many as were needed at most
  int64_t step_ = 0, used_ = 0;      // used_: of this step's part, in bytes
};

}  // namespace impetus::mlx_backend

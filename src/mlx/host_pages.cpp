#include "mlx/host_pages.h"

#include <algorithm>
#include <new>

#include "base/log.h"
#include "mlx/cuda_context.h"

namespace impetus::mlx_backend {
namespace {

constexpr int64_t kValue = 4;  // bytes of an i32 and of an f32

int64_t count_of(const mx::Shape& shape) {
  int64_t count = 1;
  for (const auto extent : shape) count *= extent;
  return count;
}

// Values of `memory` from value `at` on.
mx::array view_of(const mx::array& memory, int64_t at, const mx::Shape& shape, mx::Dtype type) {
  mx::Strides strides(shape.size());
  int64_t count = 1;
  for (size_t i = shape.size(); i-- > 0; count *= shape[i]) strides[i] = count;
  auto flags = memory.flags();
  flags.contiguous = flags.row_contiguous = true;
  flags.col_contiguous = std::ranges::count_if(shape, [](auto extent) { return extent > 1; }) <= 1;
  mx::array view(shape, type, nullptr, {});
  view.copy_shared_buffer(memory, strides, flags, static_cast<size_t>(count), at);
  view.set_status(mx::array::Status::available);
  return view;
}

}  // namespace

mx::array HostPages::pages(int64_t bytes) const {
  // Whole pages of any system, so that no other allocation stands in them.
  constexpr int64_t kWhole = 64 << 10;
  const int64_t whole = (bytes + kWhole - 1) / kWhole * kWhole;
  mx::allocator::Allocator& allocator = mx::allocator::allocator();
  mx::allocator::Buffer buffer = allocator.malloc(static_cast<size_t>(whole));
  if (buffer.ptr() == nullptr) throw std::bad_alloc();
  const bool cuda = device_ && Wall::get().has_gpu() && !mx::metal::is_available();
  const CudaContext* driver = cuda ? CudaContext::get() : nullptr;
  if (driver != nullptr &&
      !driver->keep_with_host(buffer.raw_ptr(), allocator.size(buffer), true)) {
    driver = nullptr;
  }
  if (cuda && driver == nullptr) {
    log::debug("MLX: pages that a step's numbers stand in may move between host and GPU");
  }
  const auto release = [driver](mx::allocator::Buffer gone) {
    mx::allocator::Allocator& to = mx::allocator::allocator();
    // Or the next array that MLX makes of it would stay with the host.
    if (driver != nullptr) driver->keep_with_host(gone.raw_ptr(), to.size(gone), false);
    to.free(gone);
  };
  return mx::array(mx::allocator::Data(buffer, release), mx::Shape{dim(whole)}, mx::uint8);
}

void HostPages::begin() {
  step_ = (step_ + 1) % kSteps;
  used_ = 0;
}

std::optional<int64_t> HostPages::take(int64_t bytes) {
  constexpr int64_t kPart = kBytes / kSteps, kAligned = 64;
  if (!pages_ || used_ + bytes > kPart) return std::nullopt;
  if (!memory_) memory_ = pages(kBytes);
  const int64_t at = step_ * kPart + used_;
  used_ += (bytes + kAligned - 1) / kAligned * kAligned;
  return at / kValue;
}

mx::array HostPages::put(std::span<const int32_t> values, const mx::Shape& shape) {
  const auto at = take(static_cast<int64_t>(values.size_bytes()));
  if (!at) return mx::array(values.begin(), shape, mx::int32);
  std::ranges::copy(values, memory_->data<int32_t>() + *at);
  return view_of(*memory_, *at, shape, mx::int32);
}

std::optional<mx::array> HostPages::slot(const mx::Shape& shape) {
  const auto at = take(kValue * count_of(shape));
  return at ? std::optional(view_of(*memory_, *at, shape, mx::int32)) : std::nullopt;
}

mx::array HostPages::room(const mx::Shape& shape) {
  const int64_t bytes = kValue * count_of(shape);
  if (!room_ || static_cast<int64_t>(room_->nbytes()) < bytes) {
    room_.reset();
    room_ = pages(bytes);
  }
  return view_of(*room_, 0, shape, mx::float32);
}

mx::array HostPages::moved(const mx::array& host) const {
  return device_ ? mx::bitwise_or(host, mx::array(0)) : host;
}

}  // namespace impetus::mlx_backend

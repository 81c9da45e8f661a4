// One of kernels/*.cuh as an operation of MLX. Includes MLX: only the sources of this folder
// include this.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "mlx/kernel_texts.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

using Arguments = std::vector<std::pair<std::string, mx::fast::TemplateArg>>;

class CudaKernel {
 public:
  // `text`: what `body` calls, behind common.cuh. `contiguous`: inputs that are not are copied.
  // `shared_bytes`: of memory that a block shares, beside what the text declares.
  CudaKernel(const std::string& name, const std::vector<std::string>& inputs,
             const std::vector<std::string>& outputs, const std::string& body,
             const std::string& text, bool contiguous = false, int shared_bytes = 0)
      : make_(mx::fast::cuda_kernel("impetus_" + name, inputs, outputs, body, k_common_text + text,
                                    contiguous, shared_bytes)) {}

  // `grid`: in blocks of `threads`. `form`: a number of its own for each list of arguments.
  // REQUIRES: inputs of the same types and ranks in every call with a grid and form, on one stream:
  // the text is made of them.
  std::vector<mx::array> operator()(const std::vector<mx::array>& inputs,
                                    const std::vector<mx::Shape>& shapes,
                                    const std::vector<mx::Dtype>& types, std::array<int, 3> grid,
                                    int threads, const Arguments& arguments, int form = 0) {
    // MLX puts the text together anew for each call: that of an earlier one serves.
    if (launches_.size() > kLaunchesMax) launches_.clear();
    auto& known = launches_[{grid[0], grid[1], grid[2], form}];
    if (known) return mx::array::make_arrays(shapes, types, known, inputs);
    auto made = make_(inputs, shapes, types, {grid[0] * threads, grid[1], grid[2]}, {threads, 1, 1},
                      arguments, {}, false, {});
    known = made.front().primitive_ptr();
    return made;
  }

 private:
  static constexpr size_t kLaunchesMax = 512;
  mx::fast::CustomKernelFunction make_;
  std::map<std::array<int, 4>, std::shared_ptr<mx::Primitive>> launches_;
};

}  // namespace impetus::mlx_backend

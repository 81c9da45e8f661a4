// One of kernels/*.cuh as an operation of MLX. Includes MLX: only the sources of this folder
// include this.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "mlx/kernel_code.h"
#include "mlx/kernel_texts.h"
#include "mlx/wall.h"

namespace impetus::mlx_backend {

// What a text is compiled with: numbers and types by their names.
using Arguments = std::vector<std::pair<std::string, std::variant<int, bool, mx::Dtype>>>;
// What a launch is given beside arrays, by value.
using Numbers = std::vector<mx::fast::ScalarArg>;

struct KernelText {
  std::string name;  // of the kernel, behind "impetus_"
  std::vector<std::string> inputs = {}, outputs = {}, numbers = {};
  std::string body = {};  // what each thread runs; sees the names above and those of Arguments
  std::string text = {};  // what `body` calls, behind common.cuh
  int threads = 0;        // of a block
  // At least so many blocks run on a multiprocessor, as far as registers go; 0: left to the
  // compiler.
  int blocks = 0;
  bool contiguous = false;  // inputs that are not are copied
  int shared_bytes = 0;     // of memory that a block shares, beside what the text declares
};

// Compiled by `code` at the first call of a form; MLX launches what was compiled. REQUIRES: one
// thread at a time, in MLX's turn.
class CudaKernel {
 public:
  CudaKernel(KernelText text, std::shared_ptr<KernelCode> code)
      : text_(std::move(text)), code_(std::move(code)) {}

  // What a call with these does before MLX is asked; for kernels that run behind others.
  void compile(const std::vector<mx::Dtype>& inputs, const std::vector<mx::Dtype>& outputs,
               const Numbers& numbers, const Arguments& arguments, int form = 0);

  // `grid`: in blocks. `form`: a number of its own for each list of arguments.
  // REQUIRES: inputs of the same types in every call with a form, numbers of the same types in
  // every call, all on one stream. Throws std::runtime_error where the text does not compile.
  std::vector<mx::array> operator()(const std::vector<mx::array>& inputs,
                                    const std::vector<mx::Shape>& shapes,
                                    const std::vector<mx::Dtype>& types, std::array<int, 3> grid,
                                    const Numbers& numbers, const Arguments& arguments,
                                    int form = 0);

 private:
  using Launch = std::tuple<std::array<int, 3>, int, Numbers>;  // grid, form
  // Each holds a copy of the code.
  static constexpr size_t kLaunchesMax = 64;

  std::string whole(const std::vector<mx::Dtype>& inputs, const std::vector<mx::Dtype>& outputs,
                    const Numbers& numbers, const Arguments& arguments) const;

  KernelText text_;
  std::shared_ptr<KernelCode> code_;
  std::map<int, std::shared_ptr<const std::string>> compiled_;  // by form
  std::map<Launch, std::shared_ptr<mx::Primitive>> launches_;
};

// As nvrtc_compiler takes it: "sm_90". Throws where MLX has no CUDA device.
std::string device_architecture();

}  // namespace impetus::mlx_backend

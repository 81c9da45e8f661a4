#include "mlx/cuda_kernel.h"

#include <cassert>
#include <stdexcept>

#include <fmt/ranges.h>

namespace impetus::mlx_backend {
namespace {

const char* cuda_type(mx::Dtype type) {
  switch (type.val()) {
    case mx::Dtype::Val::bool_:
      return "bool";
    case mx::Dtype::Val::uint8:
      return "unsigned char";
    case mx::Dtype::Val::uint16:
      return "unsigned short";
    case mx::Dtype::Val::uint32:
      return "unsigned";
    case mx::Dtype::Val::int32:
      return "int";
    case mx::Dtype::Val::int64:
      return "long long";
    case mx::Dtype::Val::float16:
      return "__half";
    case mx::Dtype::Val::bfloat16:
      return "__nv_bfloat16";
    case mx::Dtype::Val::float32:
      return "float";
    default:
      throw std::logic_error("a kernel of our own takes no such type");
  }
}

}  // namespace

std::string CudaKernel::whole(const std::vector<mx::Dtype>& inputs,
                              const std::vector<mx::Dtype>& outputs, const Numbers& numbers,
                              const Arguments& arguments) const {
  assert(inputs.size() == text_.inputs.size() && outputs.size() == text_.outputs.size() &&
         numbers.size() == text_.numbers.size());
  std::vector<std::string> parameters;
  for (size_t i = 0; i < inputs.size(); ++i) {
    parameters.push_back(fmt::format("const {}* {}", cuda_type(inputs[i]), text_.inputs[i]));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    parameters.push_back(fmt::format("{}* {}", cuda_type(outputs[i]), text_.outputs[i]));
  }
  for (size_t i = 0; i < numbers.size(); ++i) {
    const char* type = std::holds_alternative<float>(numbers[i]) ? "float"
                       : std::holds_alternative<int>(numbers[i]) ? "int"
                                                                 : "bool";
    parameters.push_back(fmt::format("{} {}", type, text_.numbers[i]));
  }
  std::string known;
  for (const auto& [name, value] : arguments) {
    if (const auto* type = std::get_if<mx::Dtype>(&value)) {
      known += fmt::format("using {} = {};\n", name, cuda_type(*type));
    } else if (const auto* yes = std::get_if<bool>(&value)) {
      known += fmt::format("constexpr bool {} = {};\n", name, *yes);
    } else {
      known += fmt::format("constexpr int {} = {};\n", name, std::get<int>(value));
    }
  }
  const std::string blocks = text_.blocks > 0 ? fmt::format(", {}", text_.blocks) : "";
  return fmt::format(
      "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n{}{}\n"
      "extern \"C\" __global__ void __launch_bounds__({}{}) impetus_{}({}) {{\n{}{}\n}}\n",
      k_common_text, text_.text, text_.threads, blocks, text_.name, fmt::join(parameters, ", "),
      known, text_.body);
}

void CudaKernel::compile(const std::vector<mx::Dtype>& inputs,
                         const std::vector<mx::Dtype>& outputs, const Numbers& numbers,
                         const Arguments& arguments, int form) {
  auto& code = compiled_[form];
  if (!code) code = code_->of(whole(inputs, outputs, numbers, arguments));
}

std::vector<mx::array> CudaKernel::operator()(const std::vector<mx::array>& inputs,
                                              const std::vector<mx::Shape>& shapes,
                                              const std::vector<mx::Dtype>& types,
                                              std::array<int, 3> grid, const Numbers& numbers,
                                              const Arguments& arguments, int form) {
  // An operation of an earlier call serves: MLX would copy the code for each.
  const Launch launch(grid, form, numbers);
  if (const auto found = launches_.find(launch); found != launches_.end()) {
    return mx::array::make_arrays(shapes, types, found->second, inputs);
  }
  std::vector<mx::Dtype> input_types;
  for (const mx::array& input : inputs) input_types.push_back(input.dtype());
  compile(input_types, types, numbers, arguments, form);
  auto made = mx::fast::precompiled_cuda_kernel(
      "impetus_" + text_.name, *compiled_[form], inputs, shapes, types, numbers,
      {grid[0] * text_.threads, grid[1], grid[2]}, {text_.threads, 1, 1}, text_.shared_bytes,
      std::nullopt, text_.contiguous, {});
  if (launches_.size() >= kLaunchesMax) launches_.clear();
  launches_.emplace(launch, made.front().primitive_ptr());
  return made;
}

std::string device_architecture() {
  const auto& info = mx::device_info(mx::Device(mx::Device::gpu));
  const auto number = [&](const char* name) {
    const auto found = info.find(name);
    if (found == info.end() || !std::holds_alternative<size_t>(found->second)) {
      throw std::runtime_error(fmt::format("MLX does not say the GPU's {}", name));
    }
    return std::get<size_t>(found->second);
  };
  return fmt::format("sm_{}{}", number("compute_capability_major"),
                     number("compute_capability_minor"));
}

}  // namespace impetus::mlx_backend

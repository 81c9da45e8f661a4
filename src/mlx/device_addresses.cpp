#include "mlx/device_addresses.h"

#include "mlx/cuda_kernel.h"

namespace impetus::mlx_backend {

DeviceAddresses::DeviceAddresses(std::shared_ptr<KernelCode> code) : code_(std::move(code)) {}
DeviceAddresses::~DeviceAddresses() = default;

mx::array DeviceAddresses::of(const std::vector<AddressOrNumber>& words) {
  std::vector<mx::array> inputs;
  Numbers numbers;
  KernelText text = {.name = "addresses", .outputs = {"out"}, .threads = 32};
  text.body = "if (threadIdx.x == 0) {\n";
  // The text depends on what is an array, and of which type; numbers come as halves.
  std::string key;
  for (size_t i = 0; i < words.size(); ++i) {
    if (const auto* number = std::get_if<int64_t>(&words[i])) {
      key += '.';
      text.numbers.insert(text.numbers.end(), {fmt::format("low{}", i), fmt::format("high{}", i)});
      numbers.emplace_back(static_cast<int>(*number & 0xffffffff));
      numbers.emplace_back(static_cast<int>(*number >> 32));
      text.body += fmt::format(
          "out[{0}] = static_cast<long long>(static_cast<unsigned long long>("
          "static_cast<unsigned>(high{0})) << 32 | static_cast<unsigned>(low{0}));\n",
          i);
      continue;
    }
    inputs.push_back(std::get<mx::array>(words[i]));
    key += static_cast<char>('a' + static_cast<int>(inputs.back().dtype().val()));
    text.inputs.push_back(fmt::format("a{}", i));
    text.body += fmt::format("out[{0}] = reinterpret_cast<long long>(a{0});\n", i);
  }
  text.body += '}';
  auto& kernel = kernels_[key];
  if (!kernel) kernel = std::make_unique<CudaKernel>(std::move(text), code_);
  return (*kernel)(inputs, {{static_cast<int>(words.size())}}, {mx::int64}, {1, 1, 1}, numbers,
                   {})[0];
}

}  // namespace impetus::mlx_backend

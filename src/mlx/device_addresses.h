// Where MLX's arrays lie on the device, which only a kernel is told. Includes MLX: only the sources
// of this folder include this.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "mlx/wall.h"

namespace impetus::mlx_backend {

class CudaKernel;
class KernelCode;

// An array, of which the address is wanted, or a number.
using AddressOrNumber = std::variant<mx::array, int64_t>;

// Lazy, as MLX's operations are.
class DeviceAddresses {
 public:
  explicit DeviceAddresses(std::shared_ptr<KernelCode> code);
  ~DeviceAddresses();

  // i64 [of.size()]. An array's address stands as long as the host does not read it.
  mx::array of(const std::vector<AddressOrNumber>& words);

 private:
  std::shared_ptr<KernelCode> code_;
  std::map<std::string, std::unique_ptr<CudaKernel>> kernels_;  // by what each word is
};

}  // namespace impetus::mlx_backend

// Tensors by name, whatever file they came from. The files stay mapped as long as the set lives;
// views borrow from it. Immutable after open: any thread may read.
//
// Every opener treats its bytes as hostile: counts, offsets and sizes are checked with overflow-safe
// arithmetic, tensors may not overlap or leave the file, and the first contradiction is one Error
// (corrupt, or unsupported for types and versions outside this build) naming file, tensor and reason.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace impetus {

struct NamedTensor {
  std::string name;
  TensorView view;
  size_t file = 0;  // index into WeightSet::files
};

class WeightSet {
 public:
  // nullptr where absent.
  const NamedTensor* find(std::string_view name) const;
  // not_found error naming the file(s) and the tensor.
  Result<const NamedTensor*> require(std::string_view name) const;
  const std::vector<NamedTensor>& tensors() const { return tensors_; }
  const std::vector<MappedFile>& files() const { return files_; }
  std::string path_of(const NamedTensor& tensor) const;
  int64_t bytes() const;  // of all tensors
  // After a backend has packed a tensor its mapped pages are dead weight: lets them go.
  void release(const NamedTensor& tensor) const;

  // For the openers: takes files and tensors; refuses a name that occurs twice.
  static Result<WeightSet> build(std::vector<MappedFile> files, std::vector<NamedTensor> tensors);

 private:
  std::vector<MappedFile> files_;
  std::vector<NamedTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
};

// One .safetensors file (https://huggingface.co/docs/safetensors): F32, F16, BF16, and I64, I32, I8,
// U8 as opaque. Other dtypes make the tensor's presence an error only when it is required.
Result<WeightSet> open_safetensors(const std::filesystem::path& path);

// A folder: model.safetensors, or the shards that model.safetensors.index.json names.
Result<WeightSet> open_safetensors_folder(const std::filesystem::path& folder);

}  // namespace impetus

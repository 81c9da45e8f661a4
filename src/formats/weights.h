// Tensors by name, whatever file they came from. The files stay mapped as long as the set lives;
// views borrow from it. Immutable after open: any thread may read.
//
// Every opener treats its bytes as hostile: counts, offsets and sizes are checked with
// overflow-safe arithmetic, tensors may not overlap or leave the file, and the first contradiction
// is one Error (corrupt, or unsupported for types and versions outside this build) naming file,
// tensor and reason.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/mapped_file.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace impetus {

struct NamedTensor {
  std::string name;
  TensorView view;
  size_t file = 0;  // index into WeightSet::files
};

// A tensor that is in the file but that this build cannot compute on: its bytes were bounded like
// every other's where its type is known, and asking for it is the error.
struct UnusableTensor {
  std::string name;
  std::string why;  // "has type Q4_K, which this version does not run; it runs F32, ..."
  std::string type;
  Shape shape;  // rank 0 where it has more dimensions than Shape holds
  size_t file = 0;
};

class WeightSet {
 public:
  // nullptr where absent or unusable.
  const NamedTensor* find(std::string_view name) const;
  // Whether the files have it, usable or not: the question to ask before an optional tensor.
  bool contains(std::string_view name) const;
  // Absent: a corrupt error naming the file(s) and the tensor. Unusable: unsupported, with the
  // type.
  Result<const NamedTensor*> require(std::string_view name) const;
  const std::vector<NamedTensor>& tensors() const { return tensors_; }
  const std::vector<UnusableTensor>& unusable() const { return unusable_; }
  const std::vector<MappedFile>& files() const { return files_; }
  std::string path_of(const NamedTensor& tensor) const;
  int64_t bytes() const;  // of all tensors
  // After a backend has packed a tensor its mapped pages are dead weight: lets them go.
  void release(const NamedTensor& tensor) const;
  void release(std::span<const std::byte> bytes) const;  // nothing where no file holds them

  // The file, or "FILE and N more", for messages.
  std::string source() const;

  // For the openers: takes files and tensors; refuses a name that occurs twice. `name` stands for
  // the file in messages where the bytes are the caller's and there are no files.
  static Result<WeightSet> build(std::vector<MappedFile> files, std::vector<NamedTensor> tensors,
                                 std::vector<UnusableTensor> unusable = {}, std::string name = {});

  // The set with the tensors of MLX's quantised layers joined (mlx_quantised.h).
  friend Result<WeightSet> join_quantised(WeightSet set, const json::object& config);

 private:
  std::string file_name(size_t file) const;

  std::vector<MappedFile> files_;
  std::vector<NamedTensor> tensors_;
  std::vector<UnusableTensor> unusable_;
  std::string name_;
  std::vector<std::unique_ptr<const GroupQuantised>> groups_;  // what views of tensors_ point to
  std::map<std::string, size_t, std::less<>> index_;           // past tensors_: into unusable_
};

// One .safetensors file (https://huggingface.co/docs/safetensors): F32, F16, BF16, and I64, I32,
// I8, U32, U8 as opaque. Tensors of other dtypes are listed as unusable.
Result<WeightSet> open_safetensors(const std::filesystem::path& path);
// Parses bytes that the caller keeps alive (fuzzing, tests). `name` stands for the path in errors.
Result<WeightSet> parse_safetensors(std::span<const std::byte> bytes, std::string_view name);

// A folder: model.safetensors, or else the shards that model.safetensors.index.json names. Shards
// must lie in the folder, and every tensor of the index in the shard it names.
Result<WeightSet> open_safetensors_folder(const std::filesystem::path& folder);

}  // namespace impetus

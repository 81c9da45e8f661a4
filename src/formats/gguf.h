// GGUF versions 2 and 3, little-endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):
// metadata and tensors of type F32, F16, BF16, Q8_0 and Q4_0 (and I64, I32, I8 as opaque). Tensors
// of other types are listed as unusable, and refused by name and type when a model requires them,
// so a file can be inspected, or its vocabulary used, whatever its weights are. A vocabulary-only
// file has no tensors. A file whose type numbers are unknown is refused whole: its sizes cannot be
// checked.
//
// GGUF lists dimensions fastest first; shapes here are reversed to row-major [out, in].
// Immutable after open: any thread may read. Strings are views into the mapped file. Keys and
// tensor names are valid UTF-8; string values are any bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "formats/weights.h"

namespace impetus {

// Array of strings or numbers, decoded. Nested arrays are refused.
struct GgufArray {
  std::variant<std::vector<std::string_view>, std::vector<int64_t>, std::vector<double>,
               std::vector<bool>>
      values;
};

// Integers of every width arrive as int64 (u64 past int64 is refused), f32 and f64 as double.
using GgufValue = std::variant<int64_t, double, bool, std::string_view, GgufArray>;

class GgufFile {
 public:
  static Result<GgufFile> open(const std::filesystem::path& path);
  // Parses bytes that the caller keeps alive (fuzzing, tests). `name` stands for the path in
  // errors.
  static Result<GgufFile> parse(std::span<const std::byte> bytes, std::string_view name);

  const GgufValue* find(std::string_view key) const;
  // Typed access: nullopt where absent, an error naming file and key where of another type.
  Result<std::optional<int64_t>> integer(std::string_view key) const;
  Result<std::optional<double>> number(std::string_view key) const;
  Result<std::optional<bool>> boolean(std::string_view key) const;
  Result<std::optional<std::string_view>> string(std::string_view key) const;
  Result<const std::vector<std::string_view>*> strings(std::string_view key) const;  // null: absent
  Result<const std::vector<int64_t>*> integers(std::string_view key) const;
  Result<const std::vector<double>*> numbers(std::string_view key) const;

  const std::vector<std::pair<std::string_view, GgufValue>>& metadata() const { return metadata_; }
  const WeightSet& weights() const { return weights_; }
  const std::string& name() const { return name_; }

 private:
  static Result<GgufFile> read(std::span<const std::byte> bytes, std::string name,
                               std::vector<MappedFile> files);

  std::string name_;
  std::vector<std::pair<std::string_view, GgufValue>> metadata_;
  WeightSet weights_;
};

}  // namespace impetus

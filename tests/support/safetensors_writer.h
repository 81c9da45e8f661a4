// Writes safetensors in memory (https://huggingface.co/docs/safetensors). Tests only: nothing is
// checked; for files that lie, write the header by hand with safetensors_bytes.
#pragma once

#include <string>
#include <vector>

#include "tests/support/bytes.h"

namespace impetus::testing {

inline Bytes safetensors_bytes(std::string_view header, const Bytes& data) {
  Bytes out;
  append_value<uint64_t>(out, header.size());
  append(out, header);
  append(out, data);
  return out;
}

class SafetensorsWriter {
 public:
  // `dtype` as the format spells it: "F32", "BF16", ...
  SafetensorsWriter& tensor(std::string_view name, std::string_view dtype,
                            const std::vector<uint64_t>& shape, const Bytes& data) {
    std::string dims;
    for (const uint64_t dim : shape) dims += (dims.empty() ? "" : ",") + std::to_string(dim);
    add("\"" + std::string(name) + "\":{\"dtype\":\"" + std::string(dtype) + "\",\"shape\":[" +
        dims + "],\"data_offsets\":[" + std::to_string(data_.size()) + "," +
        std::to_string(data_.size() + data.size()) + "]}");
    append(data_, data);
    return *this;
  }
  SafetensorsWriter& f32_tensor(std::string_view name, const std::vector<uint64_t>& shape,
                                uint32_t seed = 1) {
    uint64_t elements = 1;
    for (const uint64_t dim : shape) elements *= dim;
    return tensor(name, "F32", shape, bytes_of_values(random_floats(elements, seed)));
  }
  SafetensorsWriter& metadata(std::string_view key, std::string_view value) {
    add("\"__metadata__\":{\"" + std::string(key) + "\":\"" + std::string(value) + "\"}");
    return *this;
  }

  // The header is padded with spaces to a multiple of 8, as the reference writer does.
  Bytes finish() const {
    std::string header = "{" + header_ + "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    return safetensors_bytes(header, data_);
  }

 private:
  void add(const std::string& entry) { header_ += (header_.empty() ? "" : ",") + entry; }

  std::string header_;
  Bytes data_;
};

}  // namespace impetus::testing

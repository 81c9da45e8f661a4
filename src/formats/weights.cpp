#include "formats/weights.h"

#include "formats/bytes.h"

namespace impetus {

Result<WeightSet> WeightSet::build(std::vector<MappedFile> files, std::vector<NamedTensor> tensors,
                                   std::vector<UnusableTensor> unusable, std::string name) {
  WeightSet set;
  set.files_ = std::move(files);
  set.tensors_ = std::move(tensors);
  set.unusable_ = std::move(unusable);
  set.name_ = std::move(name);
  const auto add = [&](const std::string& tensor, size_t file, size_t at) -> Result<void> {
    const auto [entry, fresh] = set.index_.emplace(tensor, at);
    if (fresh) return {};
    const size_t first = entry->second < set.tensors_.size()
                             ? set.tensors_[entry->second].file
                             : set.unusable_[entry->second - set.tensors_.size()].file;
    if (first == file) {
      return error(ErrorCode::corrupt, "{}: tensor {} occurs twice", set.file_name(file),
                   printable(tensor));
    }
    return error(ErrorCode::corrupt, "{}: tensor {} is in {} too", set.file_name(file),
                 printable(tensor), set.file_name(first));
  };
  size_t at = 0;
  for (const NamedTensor& tensor : set.tensors_) IMPETUS_CHECK(add(tensor.name, tensor.file, at++));
  for (const UnusableTensor& tensor : set.unusable_) {
    IMPETUS_CHECK(add(tensor.name, tensor.file, at++));
  }
  return set;
}

const NamedTensor* WeightSet::find(std::string_view name) const {
  const auto entry = index_.find(name);
  return entry == index_.end() || entry->second >= tensors_.size() ? nullptr
                                                                   : &tensors_[entry->second];
}

bool WeightSet::contains(std::string_view name) const {
  return index_.contains(name);
}

Result<const NamedTensor*> WeightSet::require(std::string_view name) const {
  const auto entry = index_.find(name);
  if (entry == index_.end()) {
    return error(ErrorCode::corrupt, "{}: tensor {} is missing", source(), name);
  }
  if (entry->second < tensors_.size()) return &tensors_[entry->second];
  const UnusableTensor& tensor = unusable_[entry->second - tensors_.size()];
  return error(ErrorCode::unsupported, "{}: tensor {} {}", file_name(tensor.file), name,
               tensor.why);
}

std::string WeightSet::file_name(size_t file) const {
  return file < files_.size() ? files_[file].path().string() : name_;
}

std::string WeightSet::path_of(const NamedTensor& tensor) const {
  return file_name(tensor.file);
}

std::string WeightSet::source() const {
  std::string name = file_name(0);
  if (files_.size() > 1) name += fmt::format(" and {} more", files_.size() - 1);
  return name;
}

int64_t WeightSet::bytes() const {
  int64_t sum = 0;  // bounded by the mapped files: tensors do not overlap
  for (const NamedTensor& tensor : tensors_) sum += tensor.view.bytes();
  return sum;
}

void WeightSet::release(const NamedTensor& tensor) const {
  release(tensor.view.data);
  if (tensor.view.grouped == nullptr) return;
  release(tensor.view.grouped->scales);
  release(tensor.view.grouped->biases);
}

// A layer's codes and scales may lie in two shards.
void WeightSet::release(std::span<const std::byte> bytes) const {
  for (const MappedFile& file : files_) {
    const auto all = file.bytes();
    if (bytes.data() >= all.data() && bytes.data() + bytes.size() <= all.data() + all.size()) {
      file.release(bytes);
      return;
    }
  }
}

}  // namespace impetus

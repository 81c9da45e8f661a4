// Constants that several functions share (SharedConstants).
#include "mil/interpret.h"

namespace impetus::mil {

int64_t ConstantStore::id_of(const std::string& key, const std::shared_ptr<const void>& owner) {
  const std::lock_guard lock(mutex_);
  if (owner != nullptr) owners_.insert(owner);
  return ids_.emplace(key, static_cast<int64_t>(ids_.size())).first->second;
}

ConstantStore::Kept ConstantStore::find(int64_t id) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return {};
  return {found->second.dtype, found->second.shape, found->second.buffer.lock()};
}

ConstantStore::Kept ConstantStore::keep(int64_t id, Kept made) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[id];
  if (auto before = entry.buffer.lock()) return {entry.dtype, entry.shape, std::move(before)};
  entry = {made.dtype, made.shape, made.buffer};
  return made;
}

int64_t ConstantStore::bytes() const {
  const std::lock_guard lock(mutex_);
  int64_t bytes = 0;
  for (const auto& [id, entry] : entries_) {
    if (const auto buffer = entry.buffer.lock()) bytes += buffer->bytes;
  }
  return bytes;
}

SharedConstants::SharedConstants() : store_(std::make_unique<ConstantStore>()) {}
SharedConstants::~SharedConstants() = default;

int64_t SharedConstants::bytes() const {
  return store_->bytes();
}

}  // namespace impetus::mil

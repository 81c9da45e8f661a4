#include "text/vocabulary.h"

#include <algorithm>

namespace impetus {

Result<Vocabulary> Vocabulary::build(const std::vector<std::string_view>& pieces) {
  if (pieces.empty()) return error(ErrorCode::corrupt, "the vocabulary is empty");
  if (static_cast<int64_t>(pieces.size()) > vocabulary_size_max) {
    return error(ErrorCode::corrupt, "the vocabulary has {} entries, more than the {} allowed",
                 pieces.size(), vocabulary_size_max);
  }
  Vocabulary vocabulary;
  size_t bytes = 0;
  for (const auto piece : pieces) bytes += piece.size();
  vocabulary.pieces_.reserve(pieces.size(), bytes);
  vocabulary.slots_.resize(std::bit_ceil(pieces.size() * 2 + 8));
  const size_t mask = vocabulary.slots_.size() - 1;
  for (size_t id = 0; id < pieces.size(); ++id) {
    vocabulary.pieces_.push(pieces[id]);
    if (pieces[id].data() == nullptr) continue;
    const uint64_t hash = hash_bytes(pieces[id]);
    size_t i = hash & mask;
    for (; vocabulary.slots_[i].id >= 0; i = (i + 1) & mask) {
      const Slot& other = vocabulary.slots_[i];
      if (other.hash == static_cast<uint32_t>(hash >> 32) &&
          vocabulary.piece(other.id) == pieces[id]) {
        return error(ErrorCode::corrupt, "piece \"{}\" occurs twice, as token {} and token {}",
                     pieces[id], other.id, id);
      }
    }
    vocabulary.slots_[i] = {static_cast<uint32_t>(hash >> 32), static_cast<TokenId>(id)};
  }
  return vocabulary;
}

TokenId Vocabulary::find(std::string_view piece) const {
  if (slots_.empty()) return -1;
  const uint64_t hash = hash_bytes(piece);
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask; slots_[i].id >= 0; i = (i + 1) & mask) {
    if (slots_[i].hash == static_cast<uint32_t>(hash >> 32) && this->piece(slots_[i].id) == piece) {
      return slots_[i].id;
    }
  }
  return -1;
}

Result<std::vector<std::string_view>> by_id(
    const std::vector<std::pair<std::string_view, int64_t>>& entries) {
  int64_t size = 0;
  // Holes are few in real files; one far id must not make us allocate for all those before it.
  const int64_t end =
      std::min(vocabulary_size_max, static_cast<int64_t>(entries.size()) * 8 + 65536);
  for (const auto& [piece, id] : entries) {
    if (id < 0 || id >= end) {
      return error(ErrorCode::corrupt, "piece \"{}\" has the id {}, outside 0 to {} for {} pieces",
                   piece, id, end - 1, entries.size());
    }
    size = std::max(size, id + 1);
  }
  std::vector<std::string_view> pieces(static_cast<size_t>(size), std::string_view{});
  for (const auto& [piece, id] : entries) {
    auto& slot = pieces[static_cast<size_t>(id)];
    const std::string_view named = piece.data() == nullptr ? std::string_view("") : piece;
    if (slot.data() != nullptr && slot != named) {
      return error(ErrorCode::corrupt, "pieces \"{}\" and \"{}\" both have the id {}", slot, piece,
                   id);
    }
    slot = named;
  }
  return pieces;
}

void ByteTrie::insert(std::string_view key, int32_t value) {
  if (key.empty()) return;
  starts_[static_cast<uint8_t>(key[0])] = true;
  uint64_t node = 0;
  for (const char c : key) {
    const uint64_t edge = node << 8 | static_cast<uint8_t>(c);
    if (const uint32_t* next = edges_.find(edge)) {
      node = *next;
    } else {
      node = values_.size();
      edges_.set(edge, static_cast<uint32_t>(node));
      values_.push_back(-1);
    }
  }
  values_[node] = value;
}

ByteTrie::Match ByteTrie::longest(std::string_view text) const {
  Match best;
  uint64_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint32_t* next = edges_.find(node << 8 | static_cast<uint8_t>(text[i]));
    if (next == nullptr) break;
    node = *next;
    if (values_[node] >= 0) best = {i + 1, values_[node]};
  }
  return best;
}

}  // namespace impetus

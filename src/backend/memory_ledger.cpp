#include "backend/memory_ledger.h"

#include <algorithm>
#include <utility>

namespace impetus {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

std::string mebibytes(int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / static_cast<double>(kMiB));
}

}  // namespace

Reservation::Reservation(Reservation&& other) noexcept
    : ledger_(std::exchange(other.ledger_, nullptr)),
      id_(std::exchange(other.id_, 0)),
      bytes_(std::exchange(other.bytes_, 0)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  Reservation taken(std::move(other));
  std::swap(ledger_, taken.ledger_);
  std::swap(id_, taken.id_);
  std::swap(bytes_, taken.bytes_);
  return *this;  // what this one held goes with `taken`
}

Reservation::~Reservation() {
  if (ledger_ != nullptr) ledger_->give_back(id_);
}

Result<Reservation> MemoryLedger::reserve(int64_t bytes, std::string purpose) {
  if (bytes < 0) {
    return error(ErrorCode::invalid_argument, "cannot reserve {} bytes for {}", bytes, purpose);
  }
  const std::lock_guard lock(mutex_);
  if (bytes > capacity_ - used_) {
    std::string holder;
    const auto most = std::max_element(
        entries_.begin(), entries_.end(),
        [](const auto& a, const auto& b) { return a.second.bytes < b.second.bytes; });
    if (most != entries_.end()) {
      holder = fmt::format("; the most, {}, is held by {}", mebibytes(most->second.bytes),
                           most->second.purpose);
    }
    return error(ErrorCode::insufficient_memory, "{} asks for {}, but only {} of {} are free{}",
                 purpose, mebibytes(bytes), mebibytes(capacity_ - used_), mebibytes(capacity_),
                 holder);
  }
  Reservation reservation;
  reservation.ledger_ = this;
  reservation.id_ = next_id_++;
  reservation.bytes_ = bytes;
  entries_.emplace(reservation.id_, Entry{std::move(purpose), bytes});
  used_ += bytes;
  return reservation;
}

std::vector<MemoryLedger::Entry> MemoryLedger::entries() const {
  const std::lock_guard lock(mutex_);
  std::vector<Entry> list;
  for (const auto& [id, entry] : entries_) list.push_back(entry);
  return list;
}

int64_t MemoryLedger::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

void MemoryLedger::give_back(int64_t id) {
  const std::lock_guard lock(mutex_);
  const auto entry = entries_.find(id);
  if (entry == entries_.end()) return;
  used_ -= entry->second.bytes;
  entries_.erase(entry);
}

}  // namespace impetus

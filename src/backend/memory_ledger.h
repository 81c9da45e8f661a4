// What memory is promised to whom. A backend reserves here before it allocates, so that running out
// is an error with figures and never a killed process. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"

namespace impetus {

class MemoryLedger;

// Gives its bytes back when it goes. Movable; empty after a move.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();
  int64_t bytes() const { return bytes_; }

 private:
  friend class MemoryLedger;
  MemoryLedger* ledger_ = nullptr;
  int64_t id_ = 0;
  int64_t bytes_ = 0;
};

class MemoryLedger {
 public:
  explicit MemoryLedger(int64_t capacity_bytes) : capacity_(capacity_bytes) {}

  // insufficient_memory naming what was asked, what is free, and who holds the most.
  Result<Reservation> reserve(int64_t bytes, std::string purpose);

  struct Entry {
    std::string purpose;
    int64_t bytes;
  };
  std::vector<Entry> entries() const;
  int64_t capacity_bytes() const { return capacity_; }
  int64_t used_bytes() const;
  int64_t free_bytes() const { return capacity_ - used_bytes(); }

 private:
  friend class Reservation;
  void give_back(int64_t id);

  mutable std::mutex mutex_;
  std::map<int64_t, Entry> entries_;
  int64_t capacity_;
  int64_t used_ = 0;
  int64_t next_id_ = 1;
};

// Memory that a device has beside the host's, of a backend's models. Borrowed.
struct DeviceMemory {
  std::string backend;
  const MemoryLedger* ledger = nullptr;
};

}  // namespace impetus

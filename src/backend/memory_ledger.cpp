#include "backend/memory_ledger.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace impetus {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

std::string mebibytes(int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / static_cast<double>(kMiB));
}

std::optional<int64_t> parse_bytes(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  // "max" and cgroup v1's huge "no limit" both mean none.
  if (code != std::errc() || value < 0) return std::nullopt;
  return value;
}

std::optional<int64_t> read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return parse_bytes(line);
}

struct MemInfo {
  int64_t total = std::numeric_limits<int64_t>::max();
  int64_t available = std::numeric_limits<int64_t>::max();
};

MemInfo read_meminfo(const std::filesystem::path& path) {
  MemInfo info;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const auto take = [&](std::string_view key, int64_t& into) {
      if (!line.starts_with(key)) return;
      if (const auto kib = parse_bytes(std::string_view(line).substr(key.size())))
        into = *kib * 1024;
    };
    take("MemTotal:", info.total);
    take("MemAvailable:", info.available);
  }
  return info;
}

// The least limit of this process's cgroup and its parents (v2: "0::/path"; v1: "5:memory:/path").
int64_t cgroup_limit(const std::filesystem::path& root) {
  int64_t limit = std::numeric_limits<int64_t>::max();
  const auto walk = [&](const std::filesystem::path& mount, std::string path, const char* name) {
    // Inside a container the path may be the host's: then only the mount's own file is there.
    while (true) {
      const auto file = mount / std::filesystem::path(path).relative_path() / name;
      if (const auto bytes = read_bytes(file)) limit = std::min(limit, *bytes);
      if (path.empty() || path == "/") return;
      path = std::filesystem::path(path).parent_path().string();
    }
  };
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      walk(root / "sys/fs/cgroup", path, "memory.max");
    } else if (controllers.find(",memory,") != std::string::npos) {
      walk(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes");
    }
  }
  return limit;
}

int64_t usable(int64_t total, int64_t available) {
  const int64_t reserve = std::min(std::max(total / 16, 256 * kMiB), total / 2);
  return std::min(total - reserve, available);
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

int64_t usable_memory_bytes_below(const std::filesystem::path& root) {
  const MemInfo info = read_meminfo(root / "proc/meminfo");
  return usable(std::min(info.total, cgroup_limit(root)), info.available);
}

int64_t usable_memory_bytes() {
#if defined(__APPLE__)
  int64_t total = 0;
  size_t size = sizeof(total);
  if (sysctlbyname("hw.memsize", &total, &size, nullptr, 0) != 0) total = 4096 * kMiB;
  return usable(total, total);
#else
  return usable_memory_bytes_below("/");
#endif
}

}  // namespace impetus

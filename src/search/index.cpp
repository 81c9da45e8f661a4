#include "search/index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

#include "base/mapped_file.h"
#include "base/replace_file.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

// magic; key size and key; entries; per entry: hash, used, passages, numbers, then these; and the
// hash of all before. Integers are little-endian, as on every machine that this is built for.
static_assert(std::endian::native == std::endian::little);
constexpr std::string_view kMagic = "impetus passages 2\n";
constexpr size_t kTail = sizeof(ContentHash);
constexpr size_t kEntryHead = sizeof(ContentHash) + 3 * sizeof(uint64_t);

class Writer {
 public:
  template <typename T>
  void add(const T& value) {
    add(std::span(&value, 1));
  }
  template <typename T>
  void add(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  }
  std::string bytes;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  bool take(T& value) {
    return take(std::span(&value, 1));
  }
  template <typename T>
  bool take(std::span<T> values) {
    if (bytes_.size() < values.size_bytes()) return false;
    if (values.empty()) return true;  // nowhere to copy to
    std::memcpy(values.data(), bytes_.data(), values.size_bytes());
    bytes_.remove_prefix(values.size_bytes());
    return true;
  }
  // A count of things of `size` bytes each, which the rest must have room for.
  bool take_count(uint64_t& count, size_t size) {
    return take(count) && count <= bytes_.size() / size;
  }
  bool empty() const { return bytes_.empty(); }

 private:
  std::string_view bytes_;
};

int64_t bytes_of(const IndexEntry& entry) {
  return static_cast<int64_t>(kEntryHead + entry.passages.size() * sizeof(Passage) +
                              entry.vectors.size() * sizeof(uint16_t));
}

}  // namespace

Result<void> PassageIndex::load(const fs::path& path) {
  entries_.clear();
  std::error_code code;
  if (!fs::exists(path, code)) return {};
  IMPETUS_TRY(const MappedFile file, MappedFile::open(path));
  const std::string_view all(reinterpret_cast<const char*>(file.bytes().data()),
                             file.bytes().size());
  const auto broken = [&](std::string_view what) {
    entries_.clear();
    return error(ErrorCode::corrupt, "{}: {}", path.string(), what);
  };
  if (!all.starts_with(kMagic) || all.size() < kMagic.size() + kTail) {
    return broken("this is no index of passages, or its beginning is lost");
  }
  const std::string_view body = all.substr(0, all.size() - kTail);
  ContentHash written;
  std::memcpy(&written, all.data() + body.size(), kTail);
  if (written != sha256(body)) return broken("bytes were lost or changed");
  Reader in(body.substr(kMagic.size()));
  uint64_t key_bytes = 0, entries = 0;
  if (!in.take_count(key_bytes, 1)) return broken("the key is cut");
  std::string key(key_bytes, '\0');
  if (!in.take(std::span(key)) || key != key_) return broken("it belongs to another model");
  if (!in.take_count(entries, kEntryHead)) return broken("the count of entries is impossible");
  for (uint64_t i = 0; i < entries; ++i) {
    ContentHash content;
    IndexEntry entry;
    uint64_t passages = 0, numbers = 0;
    if (!in.take(content) || !in.take(entry.used) || !in.take_count(passages, sizeof(Passage)) ||
        !in.take_count(numbers, sizeof(uint16_t))) {
      return broken(fmt::format("entry {} is cut", i));
    }
    if (passages == 0 ? numbers != 0 : numbers % passages != 0) {
      return broken(fmt::format("entry {} has {} numbers for {} passages", i, numbers, passages));
    }
    entry.passages.resize(passages);
    entry.vectors.resize(numbers);
    if (!in.take(std::span(entry.passages)) || !in.take(std::span(entry.vectors))) {
      return broken(fmt::format("entry {} is cut", i));
    }
    entries_.emplace(content, std::move(entry));
  }
  if (!in.empty()) return broken("something follows the last entry");
  return {};
}

Result<int64_t> PassageIndex::save(const fs::path& path, int64_t bytes_max) const {
  std::vector<const std::pair<const ContentHash, IndexEntry>*> kept;
  for (const auto& entry : entries_) kept.push_back(&entry);
  std::ranges::sort(kept, std::greater{}, [](const auto* entry) { return entry->second.used; });
  int64_t bytes = static_cast<int64_t>(kMagic.size() + key_.size() + kTail + 16);
  size_t count = 0;
  while (count < kept.size() && bytes + bytes_of(kept[count]->second) <= bytes_max) {
    bytes += bytes_of(kept[count++]->second);
  }
  const auto left_out = static_cast<int64_t>(kept.size() - count);
  kept.resize(count);

  Writer out;
  out.bytes.reserve(static_cast<size_t>(bytes));
  out.add(std::span(kMagic.data(), kMagic.size()));
  out.add(uint64_t{key_.size()});
  out.add(std::span(key_.data(), key_.size()));
  out.add(uint64_t{kept.size()});
  for (const auto* one : kept) {
    const IndexEntry& entry = one->second;
    out.add(one->first);
    out.add(entry.used);
    out.add(uint64_t{entry.passages.size()});
    out.add(uint64_t{entry.vectors.size()});
    out.add(std::span<const Passage>(entry.passages));
    out.add(std::span<const uint16_t>(entry.vectors));
  }
  out.add(sha256(out.bytes));

  IMPETUS_CHECK(replace_file(path, out.bytes, Readable::by_user));
  return left_out;
}

const IndexEntry* PassageIndex::find(const ContentHash& content) const {
  const auto found = entries_.find(content);
  return found == entries_.end() ? nullptr : &found->second;
}

void PassageIndex::put(const ContentHash& content, IndexEntry entry) {
  entries_[content] = std::move(entry);
}

void PassageIndex::touch(const ContentHash& content, int64_t now) {
  if (const auto found = entries_.find(content); found != entries_.end()) found->second.used = now;
}

}  // namespace impetus

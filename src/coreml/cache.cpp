#include "coreml/cache.h"

#include <algorithm>
#include <fstream>
#include <map>

#include <unistd.h>

#include <fmt/ranges.h>

#include "base/json.h"
#include "base/log.h"
#include "base/sha256.h"

namespace impetus::coreml {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDigests = "digests.json";

struct FileDigest {
  int64_t bytes = 0;
  std::string sha256;
  bool operator==(const FileDigest&) const = default;
};
using Digests = std::map<std::string, FileDigest>;  // by path below the folder

// Of all files below `folder`; whatever is neither file nor folder is corrupt. `sizes_only` leaves
// the hashes out.
Result<Digests> digests_of(const fs::path& folder, bool sizes_only) {
  Digests digests;
  std::error_code code;
  fs::recursive_directory_iterator at(folder, code), end;
  for (; !code && at != end; at.increment(code)) {
    const fs::file_status status = at->symlink_status(code);
    if (code) break;
    if (fs::is_directory(status)) continue;
    const std::string path = at->path().lexically_relative(folder).generic_string();
    if (!fs::is_regular_file(status)) return error(ErrorCode::corrupt, "{} is no file", path);
    FileDigest digest;
    digest.bytes = static_cast<int64_t>(at->file_size(code));
    if (code) break;
    if (!sizes_only) {
      IMPETUS_TRY(digest.sha256, sha256_of_file(at->path()));
    }
    digests.emplace(path, std::move(digest));
  }
  if (code) return error(ErrorCode::io, "{}: {}", folder.string(), code.message());
  return digests;
}

Result<Digests> read_digests(const fs::path& path) {
  IMPETUS_TRY(const json::value value, read_json_file(path.string()));
  const json::object* object = value.if_object();
  const json::value* files = object ? object->if_contains("files") : nullptr;
  if (files == nullptr || !files->is_object()) {
    return error(ErrorCode::corrupt, "{}: there are no 'files' in it", path.string());
  }
  Digests digests;
  for (const auto& [name, entry] : files->get_object()) {
    const json::object* file = entry.if_object();
    if (file == nullptr) return error(ErrorCode::corrupt, "{}: {}", path.string(), name);
    IMPETUS_TRY(const auto bytes, int_field(*file, "bytes"));
    IMPETUS_TRY(const auto sha256, string_field(*file, "sha256"));
    digests[name] = {bytes.value_or(-1), sha256.value_or("")};
  }
  return digests;
}

Result<void> write_digests(const fs::path& path, const Digests& digests) {
  json::object files;
  for (const auto& [name, digest] : digests) {
    files[name] = json::object{{"bytes", digest.bytes}, {"sha256", digest.sha256}};
  }
  std::ofstream out(path, std::ios::binary);
  out << json::serialize(json::object{{"files", std::move(files)}});
  out.close();
  if (!out) return error(ErrorCode::io, "{} cannot be written", path.string());
  return {};
}

// not_found where there is no entry; corrupt, saying what, where it is damaged.
Result<void> verify(const fs::path& entry) {
  std::error_code code;
  if (!fs::exists(entry, code)) return error(ErrorCode::not_found, "{}", entry.string());
  IMPETUS_TRY(const Digests wanted, read_digests(entry / kDigests));
  // Sizes first: they tell most damages without reading.
  IMPETUS_TRY(const Digests sizes, digests_of(entry / "content", true));
  for (const auto& [name, digest] : wanted) {
    const auto found = sizes.find(name);
    if (found == sizes.end()) return error(ErrorCode::corrupt, "{} is missing", name);
    if (found->second.bytes != digest.bytes) {
      return error(ErrorCode::corrupt, "{} has {} bytes instead of {}", name, found->second.bytes,
                   digest.bytes);
    }
  }
  if (sizes.size() != wanted.size()) return error(ErrorCode::corrupt, "there are files too many");
  IMPETUS_TRY(const Digests found, digests_of(entry / "content", false));
  for (const auto& [name, digest] : wanted) {
    if (!found.contains(name) || found.at(name) != digest) {
      return error(ErrorCode::corrupt, "{} is not what it was", name);
    }
  }
  return {};
}

int64_t bytes_below(const fs::path& folder) {
  int64_t bytes = 0;
  std::error_code code;
  fs::recursive_directory_iterator at(folder, code), end;
  for (; !code && at != end; at.increment(code)) {
    std::error_code own;  // others may remove what is walked
    if (at->is_regular_file(own)) {
      const auto size = at->file_size(own);
      if (!own) bytes += static_cast<int64_t>(size);
    }
  }
  return bytes;
}

bool is_key(std::string_view name) {
  return !name.empty() && std::ranges::all_of(name, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
}

}  // namespace

std::string package_key(const std::string& content, Precision precision,
                        std::span<const int64_t> shapes, int macos) {
  return sha256_hex(fmt::format("content {}\nprecision {}\nshapes {}\nmacos {}\nwriter {}", content,
                                to_string(precision), fmt::join(shapes, ","), macos,
                                kWriterVersion));
}

std::string model_content(const ModelSpec& spec, const WeightSet& weights) {
  Sha256 hash;
  hash.add(fmt::format(
      "{} {} layers {} hidden {} heads {} {} of {} feed-forward {} vocab {} context {} eps {} "
      "activation {} types {}\n",
      spec.family, static_cast<int>(spec.kind), spec.layers, spec.hidden, spec.heads, spec.kv_heads,
      spec.head_dim, spec.feed_forward, spec.vocab, spec.context, spec.norm_eps,
      static_cast<int>(spec.activation), spec.token_types));
  std::map<std::string_view, const NamedTensor*> sorted;
  for (const NamedTensor& tensor : weights.tensors()) sorted.emplace(tensor.name, &tensor);
  for (const auto& [name, tensor] : sorted) {
    const TensorView& view = tensor->view;
    hash.add(fmt::format("{} {} {} {}\n", name, to_string(view.dtype), view.shape.to_string(),
                         view.data.size()));
    hash.add(view.data);
    if (const GroupQuantised* grouped = view.grouped) {
      hash.add(fmt::format("{} {}\n", grouped->to_string(), to_string(grouped->scale_type)));
      hash.add(grouped->scales);
      hash.add(grouped->biases);
    }
  }
  return hash.hex();
}

Result<PackageCache> PackageCache::open(fs::path folder, int64_t bytes_max) {
  PackageCache cache;
  cache.folder_ = std::move(folder);
  cache.bytes_max_ = bytes_max;
  std::error_code code;
  for (const char* part : {"locks", "staging"}) {
    fs::create_directories(cache.folder_ / part, code);
    if (code) {
      return error(ErrorCode::io, "{} cannot be made: {}", (cache.folder_ / part).string(),
                   code.message());
    }
    if (::access((cache.folder_ / part).c_str(), W_OK) != 0) {
      return error(ErrorCode::io, "{} cannot be written", (cache.folder_ / part).string());
    }
  }
  return cache;
}

fs::path PackageCache::lock_path(const std::string& key, std::string_view purpose) const {
  return folder_ / "locks" / fmt::format("{}.{}", key, purpose);
}

// REQUIRES: the key's make lock.
Result<void> PackageCache::fill(const std::string& key,
                                const std::function<Result<void>(const fs::path&)>& make) {
  const fs::path staging = folder_ / "staging" / key;
  const fs::path old = folder_ / "staging" / (key + ".old");
  std::error_code code;
  for (const fs::path& left : {staging, old}) fs::remove_all(left, code);  // by one that died
  fs::create_directories(staging / "content", code);
  if (code) return error(ErrorCode::io, "{}: {}", staging.string(), code.message());
  const auto filled = [&]() -> Result<void> {
    IMPETUS_CHECK(make(staging / "content"));
    IMPETUS_TRY(const Digests digests, digests_of(staging / "content", false));
    return write_digests(staging / kDigests, digests);
  }();
  if (!filled.ok()) {
    fs::remove_all(staging, code);
    return filled;
  }
  // A damaged one makes way first: those who have it open keep its files.
  if (fs::exists(folder_ / key, code)) fs::rename(folder_ / key, old, code);
  fs::rename(staging, folder_ / key, code);
  if (code) return error(ErrorCode::io, "{}: {}", (folder_ / key).string(), code.message());
  fs::remove_all(old, code);
  return {};
}

Result<CacheEntry> PackageCache::get(const std::string& key,
                                     const std::function<Result<void>(const fs::path&)>& make) {
  if (!is_key(key)) return error(ErrorCode::invalid_argument, "'{}' is no key of a cache", key);
  CacheEntry entry;
  const fs::path folder = folder_ / key;
  entry.content = folder / "content";
  entry.compiled = folder / "compiled";
  IMPETUS_TRY(entry.use, FileLock::take(lock_path(key, "use"), FileLock::Kind::shared));
  std::string damage;
  const auto there = [&] {
    const auto state = verify(folder);
    if (state.ok()) {
      std::error_code code;  // when it was last used
      fs::last_write_time(folder / kDigests, fs::file_time_type::clock::now(), code);
    } else if (state.error().code != ErrorCode::not_found) {
      damage = state.error().message;
    }
    return state.ok();
  };
  if (there()) return entry;
  IMPETUS_TRY(auto lock, FileLock::try_take(lock_path(key, "make"), FileLock::Kind::exclusive));
  if (!lock) {
    log::info("another process converts the same model; waiting for it");
    IMPETUS_TRY(lock, FileLock::take(lock_path(key, "make"), FileLock::Kind::exclusive));
  }
  if (there()) return entry;  // made while this one waited
  if (!damage.empty()) log::warn("{} is damaged and made anew: {}", folder.string(), damage);
  IMPETUS_CHECK(fill(key, make));
  entry.made = true;
  trim();
  return entry;
}

void PackageCache::trim() {
  struct Candidate {
    std::string key;
    fs::file_time_type used;
    int64_t bytes;
  };
  std::vector<Candidate> all;
  int64_t total = 0;
  std::error_code code;
  for (fs::directory_iterator at(folder_, code), end; !code && at != end; at.increment(code)) {
    const std::string name = at->path().filename().string();
    if (!is_key(name)) continue;
    std::error_code none;
    Candidate one{name, fs::last_write_time(at->path() / kDigests, none), bytes_below(at->path())};
    total += one.bytes;
    all.push_back(std::move(one));
  }
  std::ranges::sort(all, {}, &Candidate::used);
  for (const Candidate& one : all) {
    if (total <= bytes_max_) return;
    auto use = FileLock::try_take(lock_path(one.key, "use"), FileLock::Kind::exclusive);
    if (!use.ok() || !*use) continue;  // somebody uses it
    std::error_code failed;
    fs::remove_all(folder_ / one.key, failed);
    if (failed) continue;
    log::info("{} is removed: what was converted takes more than {} MiB",
              (folder_ / one.key).string(), bytes_max_ >> 20);
    total -= one.bytes;
    fs::remove(lock_path(one.key, "make"), failed);
    (*use)->remove_file();
  }
}

int64_t PackageCache::bytes() const {
  int64_t total = 0;
  std::error_code code;
  for (fs::directory_iterator at(folder_, code), end; !code && at != end; at.increment(code)) {
    if (is_key(at->path().filename().string())) total += bytes_below(at->path());
  }
  return total;
}

}  // namespace impetus::coreml

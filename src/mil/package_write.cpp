#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include <boost/uuid/name_generator_sha1.hpp>
#include <boost/uuid/uuid_io.hpp>

#include "base/json.h"
#include "base/mapped_file.h"
#include "mil/package.h"
#include "mil/program_codec.h"

namespace impetus::mil {
namespace {

namespace fs = std::filesystem;

// Where coremltools and Xcode look for the two.
constexpr std::string_view kAuthor = "com.apple.CoreML";

Error failed(const fs::path& path, std::string_view action) {
  return error(ErrorCode::io, "{}: cannot {}: {}", path.string(), action, std::strerror(errno));
}

// ---- Manifest.json

boost::uuids::uuid named(const boost::uuids::uuid& space, std::span<const std::byte> name) {
  return boost::uuids::name_generator_sha1(space)(name.data(), name.size());
}

// Names of the two items that follow from their content alone.
struct Identifiers {
  std::string model, weights;
};
Identifiers identifiers_of(const EncodedModel& encoded) {
  boost::uuids::uuid model = named(boost::uuids::ns::oid(), encoded.model);
  boost::uuids::uuid weights = named(boost::uuids::ns::oid(), {});
  for (const auto& blob : encoded.weights.blobs()) weights = named(weights, blob);
  model = named(model, std::as_bytes(std::span(weights.data)));
  return {boost::uuids::to_string(model), boost::uuids::to_string(weights)};
}

json::object item(std::string_view name, std::string_view description) {
  return {{"author", kAuthor},
          {"description", description},
          {"name", name},
          {"path", fmt::format("{}/{}", kAuthor, name)}};
}

std::string manifest_of(const EncodedModel& encoded) {
  const Identifiers identifiers = identifiers_of(encoded);
  json::object items{{identifiers.model, item("model.mlmodel", "CoreML Model Specification")}};
  if (!encoded.weights.empty()) {
    items[identifiers.weights] = item("weights", "CoreML Model Weights");
  }
  return json::serialize(json::object{{"fileFormatVersion", "1.0.0"},
                                      {"itemInfoEntries", std::move(items)},
                                      {"rootModelIdentifier", identifiers.model}}) +
         "\n";
}

// ---- Files

class FileWriter {
 public:
  static Result<FileWriter> create(const fs::path& path) {
    FileWriter file;
    file.path_ = path;
    file.fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file.fd_ < 0) return failed(path, "create");
    return file;
  }
  FileWriter(FileWriter&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  FileWriter& operator=(FileWriter&&) = delete;
  ~FileWriter() {
    if (fd_ >= 0) ::close(fd_);
  }

  Result<void> write(std::span<const std::byte> bytes) {
    constexpr size_t kPieceMax = size_t{1} << 30;  // some systems take no more at a time
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_, bytes.data(), std::min(bytes.size(), kPieceMax));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return failed(path_, "write");
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
    return {};
  }

  // What was written is on the disk when this returns.
  Result<void> finish() {
    if (::fsync(fd_) != 0) return failed(path_, "write");
    if (::close(std::exchange(fd_, -1)) != 0) return failed(path_, "write");
    return {};
  }

 private:
  FileWriter() = default;
  fs::path path_;
  int fd_ = -1;
};

Result<void> write_file(const fs::path& path, std::span<const std::byte> bytes) {
  IMPETUS_TRY(FileWriter file, FileWriter::create(path));
  IMPETUS_CHECK(file.write(bytes));
  return file.finish();
}

Result<void> sync_folder(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return failed(path, "open");
  const bool synced = ::fsync(fd) == 0 || errno == EINVAL;  // not every file system can
  ::close(fd);
  if (!synced) return failed(path, "write");
  return {};
}

Result<void> make_folder(const fs::path& path) {
  if (::mkdir(path.c_str(), 0777) != 0) return failed(path, "create");
  return {};
}

// A new folder beside the package, gone again unless it was renamed.
class Staging {
 public:
  static Result<Staging> beside(const fs::path& path) {
    Staging staging;
    for (int attempt = 0; attempt < 1000; ++attempt) {
      staging.path_ = path.parent_path() /
                      fmt::format(".{}.{}-{}", path.filename().string(), ::getpid(), attempt);
      if (::mkdir(staging.path_.c_str(), 0777) == 0) return staging;
      if (errno != EEXIST) break;
    }
    Error failure = failed(staging.path_, "create");
    staging.path_.clear();
    return failure;
  }
  Staging(Staging&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  Staging& operator=(Staging&&) = delete;
  ~Staging() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }

  const fs::path& path() const { return path_; }
  void release() { path_.clear(); }

 private:
  Staging() = default;
  fs::path path_;
};

// Two folders change names in one step; false where the file system cannot.
Result<bool> exchange(const fs::path& a, const fs::path& b) {
#if defined(__APPLE__)
  if (::renamex_np(a.c_str(), b.c_str(), RENAME_SWAP) == 0) return true;
  if (errno == ENOTSUP || errno == EINVAL) return false;
#else
  if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) return true;
  if (errno == ENOSYS || errno == EINVAL) return false;
#endif
  return failed(b, "replace");
}

// Nothing there, or a package and nothing else, which may be replaced.
Result<bool> package_there(const fs::path& path) {
  std::error_code failure;
  const fs::file_status status = fs::symlink_status(path, failure);
  if (status.type() == fs::file_type::not_found) return false;
  const auto refuse = [&](std::string_view why) {
    return error(ErrorCode::invalid_argument,
                 "{}: {}, and is not overwritten; remove it or choose another place", path.string(),
                 why);
  };
  if (!fs::is_directory(status)) return refuse("exists and is no package");
  for (auto at = fs::directory_iterator(path, failure); !failure && at != fs::directory_iterator();
       at.increment(failure)) {
    const fs::path name = at->path().filename();
    if (name != "Manifest.json" && name != "Data" && name != ".DS_Store") {
      return refuse(fmt::format("holds {}, which no package does", name.string()));
    }
  }
  if (failure) return error(ErrorCode::io, "{}: {}", path.string(), failure.message());
  constexpr size_t kManifestBytesMax = 1 << 20;
  const auto text = read_file(path / "Manifest.json", kManifestBytesMax);
  const auto manifest = text.ok() ? parse_json(*text) : Result<json::value>(text.error());
  if (!manifest.ok() || !manifest->is_object() ||
      !manifest->get_object().contains("itemInfoEntries")) {
    return refuse("is a folder without a package's manifest");
  }
  return true;
}

Result<void> fill(const fs::path& folder, const EncodedModel& encoded) {
  const fs::path data = folder / "Data", author = data / kAuthor, weights = author / "weights";
  IMPETUS_CHECK(make_folder(data));
  IMPETUS_CHECK(make_folder(author));
  IMPETUS_CHECK(write_file(author / "model.mlmodel", encoded.model));
  if (!encoded.weights.empty()) {
    IMPETUS_CHECK(make_folder(weights));
    IMPETUS_TRY(FileWriter file, FileWriter::create(weights / "weight.bin"));
    IMPETUS_CHECK(
        encoded.weights.write([&](std::span<const std::byte> piece) { return file.write(piece); }));
    IMPETUS_CHECK(file.finish());
    IMPETUS_CHECK(sync_folder(weights));
  }
  const std::string manifest = manifest_of(encoded);
  IMPETUS_CHECK(write_file(folder / "Manifest.json", std::as_bytes(std::span(manifest))));
  for (const fs::path& one : {author, data, folder}) IMPETUS_CHECK(sync_folder(one));
  return {};
}

}  // namespace

Result<PackageBytes> serialize(const Model& model) {
  IMPETUS_TRY(EncodedModel encoded, encode_model(model));
  PackageBytes bytes;
  bytes.model = std::move(encoded.model);
  bytes.weights.reserve(encoded.weights.file_bytes());
  IMPETUS_CHECK(encoded.weights.write([&](std::span<const std::byte> piece) -> Result<void> {
    bytes.weights.insert(bytes.weights.end(), piece.begin(), piece.end());
    return {};
  }));
  return bytes;
}

Result<void> write_package(const fs::path& path, const Model& model) {
  std::error_code failure;
  fs::path target = fs::absolute(path, failure).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // a trailing slash
  if (failure || !target.has_filename()) {
    return error(ErrorCode::invalid_argument, "{}: no place for a package", path.string());
  }
  IMPETUS_TRY(const bool replaces, package_there(target));
  IMPETUS_TRY(const EncodedModel encoded, encode_model(model));
  IMPETUS_TRY(Staging staging, Staging::beside(target));
  IMPETUS_CHECK(fill(staging.path(), encoded));

  if (!replaces) {
    if (::rename(staging.path().c_str(), target.c_str()) != 0) return failed(target, "create");
    staging.release();
    return sync_folder(target.parent_path());
  }
  IMPETUS_TRY(const bool exchanged, exchange(staging.path(), target));
  if (!exchanged) {  // the next best: for a moment neither stands there
    IMPETUS_TRY(Staging old, Staging::beside(target));
    if (::rename(target.c_str(), old.path().c_str()) != 0) return failed(target, "replace");
    if (::rename(staging.path().c_str(), target.c_str()) != 0) {
      Error why = failed(target, "replace");
      if (::rename(old.path().c_str(), target.c_str()) == 0) old.release();
      return why;
    }
    staging.release();
  }
  return sync_folder(target.parent_path());  // the old one goes with what staging holds now
}

}  // namespace impetus::mil

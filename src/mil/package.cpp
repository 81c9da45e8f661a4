#include "mil/package.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <system_error>

#include "base/json.h"
#include "base/mapped_file.h"
#include "mil/program_codec.h"

namespace impetus::mil {
namespace {

namespace fs = std::filesystem;

constexpr size_t kManifestBytesMax = 1 << 20;
constexpr size_t kItemsMax = 1000;
constexpr size_t kWeightFilesMax = 64;
constexpr std::string_view kModelPath = "@model_path/";

// "a/b", and nothing that could lead elsewhere.
bool is_plain_relative(std::string_view path) {
  if (path.empty() || path.find('\0') != path.npos || path.find('\\') != path.npos) return false;
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
  }
}

// `path` as it really is, where that lies within `root` (which is canonical).
Result<fs::path> within(const fs::path& root, const fs::path& path) {
  std::error_code failure;
  fs::path real = fs::canonical(path, failure);
  if (failure) {
    const bool absent = failure == std::errc::no_such_file_or_directory;
    return error(absent ? ErrorCode::not_found : ErrorCode::io, "{}: {}", path.string(),
                 absent ? "the package lacks it" : failure.message());
  }
  const auto [end, at] = std::mismatch(root.begin(), root.end(), real.begin(), real.end());
  if (end != root.end()) {
    return error(ErrorCode::corrupt,
                 "{}: leads out of the package, to {}; a copy without symbolic links (cp -RL) is "
                 "read",
                 path.string(), real.string());
  }
  return real;
}

Result<std::string> text_of(const json::object& object, std::string_view key) {
  const json::value* field = object.if_contains(key);
  if (field == nullptr || !field->is_string()) {
    return error(ErrorCode::corrupt, "no string \"{}\"", key);
  }
  return std::string(field->get_string());
}

// Path of the root model below Data/. Source of what must be there: coremltools,
// modelpackage/src/ModelPackage.cpp.
Result<std::string> root_item(const json::value& manifest, const fs::path& data,
                              const fs::path& root) {
  const json::object* object = manifest.if_object();
  if (object == nullptr) return error(ErrorCode::corrupt, "not an object");
  IMPETUS_TRY(const std::string version, text_of(*object, "fileFormatVersion"));
  if (version != "1.0.0") {
    return error(ErrorCode::unsupported, "a package of format version {}; this build reads 1.0.0",
                 shown(version));
  }
  IMPETUS_TRY(const std::string model, text_of(*object, "rootModelIdentifier"));
  const json::value* field = object->if_contains("itemInfoEntries");
  const json::object* items = field == nullptr ? nullptr : field->if_object();
  if (items == nullptr) return error(ErrorCode::corrupt, "no object \"itemInfoEntries\"");
  if (items->size() > kItemsMax) {
    return error(ErrorCode::unsupported, "{} items, more than {}", items->size(), kItemsMax);
  }
  std::string found;
  std::vector<std::string> paths;
  for (const auto& [identifier, value] : *items) {
    const json::object* item = value.if_object();
    if (item == nullptr) return error(ErrorCode::corrupt, "an item that is no object");
    for (const auto key : {"name", "author", "description"}) {
      IMPETUS_TRY(const std::string unused, text_of(*item, key));
    }
    IMPETUS_TRY(std::string path, text_of(*item, "path"));
    while (path.ends_with('/')) path.pop_back();
    if (!is_plain_relative(path)) {
      return error(ErrorCode::corrupt, "the item path '{}' leads out of the package", shown(path));
    }
    IMPETUS_TRY(const fs::path real, within(root, data / path));
    if (std::ranges::find(paths, path) != paths.end()) {
      return error(ErrorCode::corrupt, "two items at {}", shown(path));
    }
    if (identifier == model) found = path;
    paths.push_back(std::move(path));
  }
  if (found.empty()) {
    return error(ErrorCode::corrupt, "the root model {} is none of the items", shown(model));
  }
  return found;
}

// The weight files of an opened package, mapped when first asked for.
class WeightFiles {
 public:
  WeightFiles(fs::path root, fs::path folder)
      : root_(std::move(root)), folder_(std::move(folder)) {}

  Result<const BlobFile*> find(std::string_view name) {
    if (const auto known = files_.find(name); known != files_.end()) return &known->second;
    if (!name.starts_with(kModelPath) || !is_plain_relative(name.substr(kModelPath.size()))) {
      return error(ErrorCode::corrupt, "the weight file '{}' is not below {}", shown(name),
                   kModelPath);
    }
    if (files_.size() == kWeightFilesMax) {
      return error(ErrorCode::unsupported, "more than {} weight files", kWeightFilesMax);
    }
    IMPETUS_TRY(const fs::path path, within(root_, folder_ / name.substr(kModelPath.size())));
    IMPETUS_TRY(MappedFile file, MappedFile::open(path));
    auto mapped = std::make_shared<const MappedFile>(std::move(file));
    auto blobs = BlobFile::open(mapped->bytes(), mapped);
    if (!blobs.ok()) return std::move(blobs).error().within(path.string());
    bytes_ += static_cast<int64_t>(mapped->bytes().size());
    return &files_.emplace(name, std::move(*blobs)).first->second;
  }

  int64_t bytes() const { return bytes_; }

 private:
  fs::path root_, folder_;
  std::map<std::string, BlobFile, std::less<>> files_;
  int64_t bytes_ = 0;
};

Result<Package> open_bare(const fs::path& path) {
  IMPETUS_TRY(const MappedFile file, MappedFile::open(path));
  const auto no_weights = [](std::string_view name) -> Result<const BlobFile*> {
    return error(ErrorCode::not_found, "needs {}: open the .mlpackage folder around this file",
                 shown(name));
  };
  auto model = decode_model(file.bytes(), no_weights);
  if (!model.ok()) return std::move(model).error().within(path.string());
  return Package{.model = std::move(*model),
                 .model_bytes = static_cast<int64_t>(file.bytes().size())};
}

}  // namespace

Result<Package> open_package(const fs::path& path) {
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  if (!fs::exists(status)) {
    return error(ErrorCode::not_found, "{}: no such package", path.string());
  }
  if (!fs::is_directory(status)) return open_bare(path);
  if (fs::exists(path / "coremldata.bin", failure)) {
    return error(ErrorCode::unsupported,
                 "{}: compiled for one machine (.mlmodelc); the .mlpackage it was made of is read",
                 path.string());
  }
  const fs::path root = fs::canonical(path, failure);
  if (failure) return error(ErrorCode::io, "{}: {}", path.string(), failure.message());
  IMPETUS_TRY(const fs::path manifest_path, within(root, path / "Manifest.json"));
  IMPETUS_TRY(const std::string text, read_file(manifest_path, kManifestBytesMax));
  const auto manifest = parse_json_unique(text);
  if (!manifest.ok()) {
    return error(ErrorCode::corrupt, "{}: {}", (path / "Manifest.json").string(),
                 manifest.error().message);
  }
  auto item = root_item(*manifest, path / "Data", root);
  if (!item.ok()) return std::move(item).error().within((path / "Manifest.json").string());

  IMPETUS_TRY(const fs::path model_path, within(root, path / "Data" / *item));
  IMPETUS_TRY(const MappedFile file, MappedFile::open(model_path));
  const fs::path folder = (path / "Data" / *item).parent_path();
  WeightFiles weights(root, folder);
  auto model =
      decode_model(file.bytes(), [&](std::string_view name) { return weights.find(name); });
  if (!model.ok()) return std::move(model).error().within((path / "Data" / *item).string());
  return Package{.model = std::move(*model),
                 .model_bytes = static_cast<int64_t>(file.bytes().size()),
                 .weight_bytes = weights.bytes()};
}

Result<Package> parse_package(std::span<const std::byte> model, std::span<const std::byte> weights,
                              std::shared_ptr<const void> owner) {
  std::optional<BlobFile> blobs;
  const auto find = [&](std::string_view name) -> Result<const BlobFile*> {
    if (name != kWeightFileName) {
      return error(ErrorCode::not_found, "the weight file '{}' is not {}", shown(name),
                   kWeightFileName);
    }
    if (!blobs) {
      IMPETUS_TRY(blobs, BlobFile::open(weights, owner));
    }
    return &*blobs;
  };
  IMPETUS_TRY(Model decoded, decode_model(model, find));
  return Package{.model = std::move(decoded),
                 .model_bytes = static_cast<int64_t>(model.size()),
                 .weight_bytes = static_cast<int64_t>(weights.size())};
}

}  // namespace impetus::mil

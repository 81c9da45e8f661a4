#include "runtime/catalogue.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>

#include <fmt/ranges.h>

namespace impetus {
namespace {

namespace fs = std::filesystem;

// Sorted; what cannot be read is left out.
std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    entries.push_back(it->path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

std::vector<fs::path> gguf_files(const fs::path& folder) {
  std::vector<fs::path> files = entries_of(folder);
  std::erase_if(files, [](const fs::path& path) { return path.extension() != ".gguf"; });
  return files;
}

std::string name_of(const fs::path& path) {
  std::error_code code;
  const fs::path whole = fs::weakly_canonical(path, code);
  return (code ? path : whole).filename().string();
}

// nullopt where the path is no model; an error where it is one that cannot be told.
Result<std::optional<ModelLocation>> as_model(const fs::path& path) {
  using Found = std::optional<ModelLocation>;
  std::error_code code;
  if (fs::is_regular_file(path, code)) {
    if (path.extension() != ".gguf") return Found{};
    return Found{{path.stem().string(), path, ModelLocation::Format::gguf}};
  }
  if (!fs::is_directory(path, code)) return Found{};
  if (fs::exists(path / "config.json", code)) {
    return Found{{name_of(path), path, ModelLocation::Format::hugging_face}};
  }
  const auto files = gguf_files(path);
  if (files.empty()) return Found{};
  if (files.size() > 1) {
    return error(ErrorCode::invalid_argument, "{}: holds {} GGUF files; name one of them",
                 path.string(), files.size());
  }
  return Found{{name_of(path), files.front(), ModelLocation::Format::gguf}};
}

fs::path binary_folder() {
  std::error_code code;
#if defined(__linux__)
  return fs::read_symlink("/proc/self/exe", code).parent_path();
#else
  return {};
#endif
}

}  // namespace

std::vector<fs::path> default_model_folders() {
  std::vector<fs::path> folders;
  if (const char* folder = std::getenv("IMPETUS_MODELS_DIR"); folder && *folder) {
    folders.emplace_back(folder);
  } else if (const char* home = std::getenv("HOME"); home && *home) {
    folders.push_back(fs::path(home) / ".impetus" / "models");
  }
  if (const fs::path binary = binary_folder(); !binary.empty()) {
    folders.push_back(binary / "models");
    folders.push_back(binary / "../share/impetus/models");
    folders.push_back(binary / "../../models");  // <checkout>/build/bin/impetus
  }
  std::erase_if(folders, [](const fs::path& folder) {
    std::error_code code;
    return !fs::is_directory(folder, code);
  });
  return folders;
}

Result<ModelLocation> locate_model(const std::string& path_or_name,
                                   const std::vector<fs::path>& folders) {
  if (path_or_name.empty()) return error(ErrorCode::invalid_argument, "the model's name is empty");
  std::error_code code;
  if (fs::exists(path_or_name, code)) {
    IMPETUS_TRY(const auto found, as_model(path_or_name));
    if (found) return *found;
    return error(
        ErrorCode::invalid_argument,
        "{}: no model: neither a .gguf file nor a folder with config.json or one .gguf file",
        path_or_name);
  }
  for (const fs::path& folder : folders) {
    for (const char* ending : {"", ".gguf"}) {
      IMPETUS_TRY(const auto found, as_model(folder / (path_or_name + ending)));
      if (found) return *found;
    }
  }
  std::vector<std::string> names;
  for (const auto& location : list_models(folders)) names.push_back(location.id);
  std::vector<std::string> places;
  for (const auto& folder : folders) places.push_back(folder.string());
  return error(ErrorCode::not_found, "no model '{}': no such path, and below {} there {}",
               path_or_name,
               places.empty() ? "no model folder" : fmt::format("{}", fmt::join(places, ", ")),
               names.empty() ? "is none" : fmt::format("are {}", fmt::join(names, ", ")));
}

std::vector<ModelLocation> list_models(const std::vector<fs::path>& folders) {
  std::vector<ModelLocation> models;
  std::set<std::string> seen;
  for (const fs::path& folder : folders) {
    for (const fs::path& entry : entries_of(folder)) {
      auto found = as_model(entry);
      if (found.ok() && *found && seen.insert((*found)->id).second) models.push_back(**found);
    }
  }
  return models;
}

}  // namespace impetus

// Which models are on this disk, by name.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace impetus {

struct ModelLocation {
  enum class Format { hugging_face, gguf };
  std::string id;              // the folder's name; a lone GGUF file's name without its ending
  std::filesystem::path path;  // the folder, or the GGUF file
  Format format = Format::hugging_face;
};

// Where names are looked up: IMPETUS_MODELS_DIR or ~/.impetus/models, then `models` beside the
// binary (installed: <prefix>/share/impetus/models) and in the checkout it was built in.
std::vector<std::filesystem::path> default_model_folders();

// A path that exists, else a name below one of `folders`. A folder is a model if it has a
// config.json or exactly one .gguf file. not_found lists the names there are.
Result<ModelLocation> locate_model(const std::string& path_or_name,
                                   const std::vector<std::filesystem::path>& folders);

// Every model directly below the folders; the first folder wins where a name occurs twice.
std::vector<ModelLocation> list_models(const std::vector<std::filesystem::path>& folders);

}  // namespace impetus

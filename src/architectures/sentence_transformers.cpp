// The folder layout: https://sbert.net/docs/package_reference/sentence_transformer/models.html
#include <algorithm>

#include "architectures/architecture.h"

namespace impetus {
namespace {

Result<json::object> read_object(const std::filesystem::path& path) {
  IMPETUS_TRY(json::value value, read_json_file(path.string()));
  if (!value.is_object()) return error(ErrorCode::corrupt, "{}: not an object", path.string());
  return std::move(value.get_object());
}

Error at(const std::filesystem::path& path, Error failure) {
  if (failure.code == ErrorCode::invalid_argument) failure.code = ErrorCode::corrupt;
  return std::move(failure).within(path.string());
}

bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// "cls_token" and the like from either generation of the file: pooling_mode_X flags, or one
// "pooling_mode" that names it.
Result<std::string> pooling_mode(const json::object& config) {
  constexpr std::string_view kPrefix = "pooling_mode_";
  if (config.contains("pooling_mode")) {
    IMPETUS_TRY(const auto named, string_field(config, "pooling_mode"));
    if (named) return *named;
  }
  std::string mode;
  for (const auto& [key, value] : config) {
    if (!std::string_view(key).starts_with(kPrefix)) continue;
    IMPETUS_TRY(const auto on, bool_field(config, key));
    if (!on.value_or(false)) continue;
    const std::string name(std::string_view(key).substr(kPrefix.size(), 100));
    if (!mode.empty()) {
      return error(ErrorCode::unsupported,
                   "pools by {} and {} together, which this version does not run", mode, name);
    }
    mode = name;
  }
  if (mode.empty()) return error(ErrorCode::corrupt, "no pooling mode is on");
  return mode;
}

Result<void> read_pooling(const std::filesystem::path& path, ModelSpec& spec) {
  IMPETUS_TRY(const json::object config, read_object(path));
  const auto read = [&]() -> Result<void> {
    IMPETUS_TRY(const auto width, int_field(config, "word_embedding_dimension"));
    if (width && *width != spec.hidden) {
      return error(ErrorCode::corrupt,
                   "'word_embedding_dimension' is {}, the model's hidden size {}", *width,
                   spec.hidden);
    }
    IMPETUS_TRY(const std::string mode, pooling_mode(config));
    if (mode == "mean_tokens" || mode == "mean") {
      spec.pooling = Pooling::mean;
    } else if (mode == "cls_token" || mode == "cls") {
      spec.pooling = Pooling::cls;
    } else {
      return error(ErrorCode::unsupported,
                   "pools by {}, which this version does not run; it runs "
                   "mean and cls",
                   mode.substr(0, 100));
    }
    return {};
  };
  if (auto done = read(); !done.ok()) return at(path, std::move(done).error());
  return {};
}

Result<void> read_limits(const std::filesystem::path& path, ModelSpec& spec) {
  if (!is_there(path)) return {};
  IMPETUS_TRY(const json::object config, read_object(path));
  const auto read = [&]() -> Result<void> {
    IMPETUS_TRY(const auto lower, bool_field(config, "do_lower_case"));
    if (lower.value_or(false)) {
      return error(ErrorCode::unsupported,
                   "'do_lower_case' is on: this version lowers case only where the tokenizer does");
    }
    IMPETUS_TRY(const auto length, int_field(config, "max_seq_length"));
    if (length) {
      IMPETUS_TRY(const int64_t checked, bounded("max_seq_length", *length, kContextMax));
      spec.sequence_length_max = std::min(checked, spec.context);
    }
    return {};
  };
  if (auto done = read(); !done.ok()) return at(path, std::move(done).error());
  return {};
}

struct Module {
  std::string kind;  // the class's own name: "Pooling"
  std::string path;  // below the folder; empty: the folder itself
};

Result<std::vector<Module>> read_modules(const std::filesystem::path& path) {
  IMPETUS_TRY(const json::value document, read_json_file(path.string()));
  if (!document.is_array()) return error(ErrorCode::corrupt, "{}: not an array", path.string());
  std::vector<Module> modules;
  for (const json::value& item : document.get_array()) {
    const json::object* object = item.if_object();
    if (object == nullptr) {
      return error(ErrorCode::corrupt, "{}: module {} is not an object", path.string(),
                   modules.size());
    }
    auto type = string_field(*object, "type");
    if (!type.ok()) return at(path, std::move(type).error());
    auto folder = string_field(*object, "path");
    if (!folder.ok()) return at(path, std::move(folder).error());
    if (!*type) {
      return error(ErrorCode::corrupt, "{}: module {} has no 'type'", path.string(),
                   modules.size());
    }
    Module module{(*type)->substr((*type)->rfind('.') + 1), folder->value_or("")};
    const std::filesystem::path below(module.path);
    const bool leaves =
        below.is_absolute() || module.path.find('\0') != std::string::npos ||
        std::any_of(below.begin(), below.end(), [](const auto& part) { return part == ".."; });
    if (leaves) {
      return error(ErrorCode::corrupt, "{}: module {}: its path is outside the folder",
                   path.string(), modules.size());
    }
    modules.push_back(std::move(module));
  }
  return modules;
}

}  // namespace

Result<void> apply_sentence_transformers(const std::filesystem::path& folder, ModelSpec& spec) {
  const auto list = folder / "modules.json";
  if (!is_there(list)) return {};
  IMPETUS_TRY(const auto modules, read_modules(list));
  if (spec.kind != ModelKind::encoder) {
    return error(ErrorCode::unsupported,
                 "{}: embeddings from a decoder ({}), which this version does not run",
                 list.string(), spec.family);
  }
  constexpr std::array<std::string_view, 3> kOrder = {"Transformer", "Pooling", "Normalize"};
  for (size_t i = 0; i < modules.size(); ++i) {
    if (i >= kOrder.size() || modules[i].kind != kOrder[i]) {
      return error(
          ErrorCode::unsupported,
          "{}: module {} is {}: this version runs Transformer, Pooling, Normalize in this order",
          list.string(), i, modules[i].kind.substr(0, 100));
    }
  }
  if (modules.size() < 2) {
    return error(ErrorCode::corrupt, "{}: {} modules: a Transformer and a Pooling are needed",
                 list.string(), modules.size());
  }
  if (!modules[0].path.empty() && modules[0].path != ".") {
    return error(ErrorCode::unsupported,
                 "{}: the Transformer is in '{}': this version reads it in the folder itself",
                 list.string(), modules[0].path.substr(0, 100));
  }
  ModelSpec read = spec;  // half a folder leaves the caller's spec alone
  IMPETUS_CHECK(read_limits(folder / "sentence_bert_config.json", read));
  IMPETUS_CHECK(read_pooling(folder / modules[1].path / "config.json", read));
  read.normalize = modules.size() == 3;
  spec = std::move(read);
  return {};
}

}  // namespace impetus

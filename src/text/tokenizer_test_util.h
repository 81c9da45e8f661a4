// For the tests of text/: temporary folders, the real vocabularies, GGUF bytes made by hand.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <boost/json/value_to.hpp>

#include "base/json.h"
#include "base/mapped_file.h"
#include "tests/support/test_data.h"
#include "text/tokenizer.h"

namespace impetus::testing {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "impetus-text-XXXXXX").string();
    if (::mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }
  void write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(text.data(), static_cast<std::streamsize>(text.size()));
  }
  void copy(const fs::path& from, const std::string& name) const {
    fs::copy_file(from, path_ / name);
  }

 private:
  fs::path path_;
};

inline fs::path tokenizer_data() {
  return test_data() / "tokenizers";
}

inline std::string read_text(const fs::path& path) {
  auto text = read_file(path);
  return text.ok() ? *text : std::string();
}

// The archive of GGUF vocabularies, unpacked once a process.
inline const fs::path& gguf_vocabularies() {
  static const TemporaryFolder folder;
  static const fs::path path = [] {
    const auto archive = tokenizer_data() / "gguf-vocab.tar.xz";
    const std::string command =
        "tar -xJf '" + archive.string() + "' -C '" + folder.path().string() + "'";
    return std::system(command.c_str()) == 0 ? folder.path() / "gguf-vocab" : fs::path();
  }();
  return path;
}

// Metadata-only GGUF v3 bytes.
class GgufBytes {
 public:
  void text(std::string_view key, std::string_view value) {
    head(key, 8);
    string(value);
  }
  void integer(std::string_view key, uint32_t value) {
    head(key, 4);
    number(value);
  }
  void boolean(std::string_view key, bool value) {
    head(key, 7);
    body_.push_back(value ? 1 : 0);
  }
  void texts(std::string_view key, const std::vector<std::string>& values) {
    head(key, 9);
    number(uint32_t{8});
    number(uint64_t{values.size()});
    for (const auto& value : values) string(value);
  }
  void integers(std::string_view key, const std::vector<int32_t>& values) { array(key, 5, values); }
  void numbers(std::string_view key, const std::vector<float>& values) { array(key, 6, values); }
  std::string bytes() const {
    std::string out = "GGUF";
    const auto put = [&](auto value) {
      out.append(reinterpret_cast<const char*>(&value), sizeof value);
    };
    put(uint32_t{3});
    put(uint64_t{0});
    put(keys_);
    return out + body_;
  }
  Result<std::unique_ptr<Tokenizer>> load() const {
    const std::string all = bytes();
    auto file = GgufFile::parse(std::as_bytes(std::span(all)), "made.gguf");
    if (!file.ok()) return std::move(file).error();
    return load_tokenizer(*file);
  }

 private:
  template <typename T>
  void number(T value) {
    body_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void string(std::string_view value) {
    number(uint64_t{value.size()});
    body_.append(value);
  }
  void head(std::string_view key, uint32_t type) {
    ++keys_;
    string(key);
    number(type);
  }
  template <typename T>
  void array(std::string_view key, uint32_t type, const std::vector<T>& values) {
    head(key, 9);
    number(type);
    number(uint64_t{values.size()});
    for (const T value : values) number(value);
  }
  uint64_t keys_ = 0;
  std::string body_;
};

inline std::unique_ptr<Tokenizer> must(Result<std::unique_ptr<Tokenizer>> tokenizer) {
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return tokenizer.ok() ? std::move(*tokenizer) : nullptr;
}

// A folder that holds just these files of the real data, loaded.
inline std::unique_ptr<Tokenizer> load_files(
    const std::vector<std::pair<fs::path, std::string>>& files,
    const std::vector<std::pair<std::string, std::string>>& written = {}) {
  const TemporaryFolder folder;
  for (const auto& [from, name] : files) folder.copy(from, name);
  for (const auto& [name, text] : written) folder.write(name, text);
  return must(load_tokenizer(folder.path()));
}

inline std::unique_ptr<Tokenizer> load_gpt2() {
  const auto data = tokenizer_data() / "gpt2";
  return load_files({{data / "vocab.json", "vocab.json"}, {data / "merges.txt", "merges.txt"}},
                    {{"tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})"}});
}
inline std::unique_ptr<Tokenizer> load_qwen2() {
  const auto data = tokenizer_data() / "qwen2.5";
  return load_files(
      {{data / "vocab.json", "vocab.json"}, {data / "merges.txt", "merges.txt"}},
      {{"tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>",
                      "add_bos_token": false, "added_tokens_decoder": {
                      "151643": {"content": "<|endoftext|>", "special": true},
                      "151644": {"content": "<|im_start|>", "special": true},
                      "151645": {"content": "<|im_end|>", "special": true},
                      "151657": {"content": "<tool_call>", "special": false}}})"}});
}
inline std::unique_ptr<Tokenizer> load_llama2() {
  return load_files({{tokenizer_data() / "llama2" / "tokenizer.model", "tokenizer.model"}});
}
inline std::unique_ptr<Tokenizer> load_bert() {
  return load_files({{tokenizer_data() / "bert-uncased" / "vocab.txt", "vocab.txt"}});
}

struct VocabAndMerges {
  std::vector<std::string> pieces;  // by id
  std::vector<std::string> merges;
};

inline VocabAndMerges read_vocab_and_merges(const fs::path& vocab, const fs::path& merges) {
  VocabAndMerges result;
  const auto document = read_json_file(vocab.string());
  if (!document.ok() || !document->is_object()) return result;
  for (const auto& [piece, id] : document->get_object()) {
    const auto at = static_cast<size_t>(id.as_int64());
    if (at >= result.pieces.size()) result.pieces.resize(at + 1);
    result.pieces[at] = piece;
  }
  std::istringstream lines(read_text(merges));
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && !line.starts_with("#version")) result.merges.push_back(line);
  }
  return result;
}

// Llama 3's vocabulary as a GGUF file has it.
inline GgufBytes llama3_gguf() {
  const auto data = tokenizer_data() / "llama3" / "ollama-llama3.2";
  auto source = read_vocab_and_merges(data / "encoder.json", data / "vocab.bpe");
  std::vector<int32_t> types(source.pieces.size(), 1);
  source.pieces.resize(128256);
  types.resize(128256, 3);
  for (size_t id = 128000; id < 128256; ++id)
    source.pieces[id] = "<|reserved_" + std::to_string(id) + "|>";
  source.pieces[128000] = "<|begin_of_text|>";
  source.pieces[128001] = "<|end_of_text|>";
  source.pieces[128009] = "<|eot_id|>";
  GgufBytes gguf;
  gguf.text("tokenizer.ggml.model", "gpt2");
  gguf.text("tokenizer.ggml.pre", "llama-bpe");
  gguf.texts("tokenizer.ggml.tokens", source.pieces);
  gguf.integers("tokenizer.ggml.token_type", types);
  gguf.texts("tokenizer.ggml.merges", source.merges);
  gguf.integer("tokenizer.ggml.bos_token_id", 128000);
  gguf.integer("tokenizer.ggml.eos_token_id", 128009);
  return gguf;
}

// Seeded text: assigned and unassigned code points of many scripts, runs of spaces, ASCII words.
inline std::string random_text(std::mt19937_64& random, size_t characters);
// Seeded bytes, mostly invalid UTF-8.
inline std::string random_bytes(std::mt19937_64& random, size_t bytes) {
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

inline void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
  }
}

inline uint32_t random_code(std::mt19937_64& random) {
  static constexpr std::string_view common =
      "  \n\r\t'sStTrRvVeElLmMdD.,!?-_/0123456789abcxyzABC\"";
  switch (random() % 8) {
    case 0:
    case 1:
    case 2:
    case 3:
      return static_cast<uint8_t>(common[random() % common.size()]);
    case 4:
      return static_cast<uint32_t>(0x80 + random() % 0x780);
    case 5: {
      static constexpr uint32_t odd[] = {0x85,   0xA0,    0x17F,   0x130,  0x180E, 0x200B, 0x200D,
                                         0x2028, 0x2029,  0x3000,  0x301,  0x345,  0x660,  0x96F,
                                         0xB2,   0x2167,  0xFEFF,  0xFFFD, 0x4F60, 0xAC00, 0x1100,
                                         0x1161, 0x1F600, 0x1F468, 0xFE0F, 0x212A};
      return odd[random() % std::size(odd)];
    }
    case 6: {
      const auto code = static_cast<uint32_t>(0x800 + random() % 0xF800);
      return code >= 0xD800 && code < 0xE000 ? 0x4E00u : code;
    }
    default:
      return static_cast<uint32_t>(0x10000 + random() % 0x22000);
  }
}

inline std::string random_text(std::mt19937_64& random, size_t characters) {
  std::string text;
  while (characters > 0) {
    const uint32_t code = random_code(random);
    for (size_t n = random() % 4 == 0 ? 1 + random() % 5 : 1; n > 0 && characters > 0;
         --n, --characters) {
      append_utf8(text, code);
    }
  }
  return text;
}

}  // namespace impetus::testing

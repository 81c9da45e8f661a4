// A tokenizer.json, or the vocabulary of a GGUF file, to a tokenizer that keeps its promises.
// Seeds: tests/fuzz/seeds/tokenizer.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "text/tokenizer.h"

namespace {

using namespace impetus;

void must(bool holds) {
  if (!holds) std::abort();
}

void check(const Tokenizer& tokenizer) {
  for (const std::string_view text :
       {std::string_view("Hello  world, caf\xc3\xa9 123\n\t'll <s></s>"), std::string_view("\xff\xf0\x9f\x98"),
        std::string_view("\0a\0", 3), std::string_view()}) {
    for (const bool special : {false, true}) {
      const auto ids = tokenizer.encode(text, {special, special});
      must(ids == tokenizer.encode(text, {special, special}));
      for (const TokenId id : ids) must(id >= 0 && id < tokenizer.vocab_size());
      (void)tokenizer.decode(ids, special);
    }
  }
  for (const TokenId id : {-1, 0, 1, tokenizer.vocab_size() - 1, tokenizer.vocab_size()}) {
    (void)tokenizer.token_bytes(id, true);
    (void)tokenizer.is_control(id);
    const std::string_view piece = tokenizer.piece(id);
    must(id >= 0 && id < tokenizer.vocab_size() ? true : piece.empty());
  }
  const auto& special = tokenizer.special();
  for (const auto& id : {special.bos, special.eos, special.unk, special.cls, special.sep}) {
    must(!id || (*id >= 0 && *id < tokenizer.vocab_size()));
  }
}

// One folder a process, removed at its end.
struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "impetus-fuzz-XXXXXX").string();
    must(::mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (text.starts_with("GGUF")) {
    const auto file = GgufFile::parse(std::as_bytes(std::span(data, size)), "fuzz");
    if (!file.ok()) return 0;
    const auto tokenizer = load_tokenizer(*file);
    if (tokenizer.ok()) check(**tokenizer);
    return 0;
  }
  static const Folder folder;
  std::ofstream(folder.path / "tokenizer.json", std::ios::binary) << text;
  const auto tokenizer = load_tokenizer(folder.path);
  if (tokenizer.ok()) {
    check(**tokenizer);
  } else {
    must(!tokenizer.error().message.empty());
  }
  return 0;
}

// Regular expressions as tokenizer.json files write them (Oniguruma's syntax), run by PCRE2 with
// its compiler. Only constructs that mean the same in both are accepted; the rest is refused by
// name. Immutable after compile: any thread may search.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace impetus {

class Regex {
 public:
  static Result<Regex> compile(std::string_view pattern);

  // Calls `found(begin, end)` for each match, left to right, never overlapping. `text` is valid
  // UTF-8. A pattern that exceeds the step limit on this text ends the search (logged once).
  template <typename Found>
  void each(std::string_view text, Found&& found) const {
    Search search(*this, text);
    size_t begin = 0, end = 0;
    while (search.next(begin, end)) found(begin, end);
  }

  const std::string& pattern() const { return pattern_; }

 private:
  class Search {
   public:
    Search(const Regex& regex, std::string_view text);
    ~Search();
    Search(const Search&) = delete;
    Search& operator=(const Search&) = delete;
    bool next(size_t& begin, size_t& end);

   private:
    const Regex& regex_;
    std::string_view text_;
    size_t from_ = 0;
    void* match_ = nullptr;
  };

  std::string pattern_;  // as the file has it
  std::shared_ptr<const void> code_;
  std::shared_ptr<const void> limits_;
};

}  // namespace impetus

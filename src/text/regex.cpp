#include "text/regex.h"

#include <atomic>
#include <vector>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/log.h"
#include "text/unicode.h"

namespace impetus {
namespace {

// Oniguruma's \s is White_Space; PCRE2's has U+180E besides and differs by version. Spelled out.
constexpr std::string_view space_set = "\\t-\\r\\x{85}\\p{Z}";
constexpr uint32_t steps_max = 20'000'000;

// Walks the pattern once, copying what both engines read alike. Refuses nested unbounded repetition
// too: nothing real needs it, and it is what makes backtracking explode.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> run() {
    while (at_ < in_.size()) {
      IMPETUS_CHECK(in_class_ > 0 ? class_part() : part());
    }
    if (in_class_ > 0) return refuse("an unfinished [...]");
    if (!groups_.empty()) return refuse("an unfinished group");
    return std::move(out_);
  }

 private:
  Error refuse(std::string_view what) const {
    return error(ErrorCode::unsupported,
                 "regular expression \"{}\": {} at byte {} is not supported", in_, what, at_);
  }
  std::string_view rest() const { return in_.substr(at_); }
  void copy(size_t n) {
    out_.append(in_.substr(at_, n));
    at_ += n;
  }

  Result<void> part() {
    const char c = in_[at_];
    switch (c) {
      case '\\':
        last_unbounded_ = false;
        return escape();
      case '[':
        last_unbounded_ = false;
        copy(1);
        in_class_ = 1;
        if (rest().starts_with('^')) copy(1);
        if (rest().starts_with(']')) return refuse("an empty or ]-led class");
        return {};
      case '(':
        return open();
      case ')':
        if (groups_.empty()) return refuse("an unmatched )");
        last_unbounded_ = groups_.back();
        groups_.pop_back();
        if (!groups_.empty() && last_unbounded_) groups_.back() = true;
        copy(1);
        return {};
      case '*':
      case '+':
        return repeat(true, 1);
      case '?':
        copy(1);
        if (rest().starts_with('?') || rest().starts_with('+')) copy(1);
        return {};
      case '{':
        return braces();
      // Oniguruma's anchors are always those of lines, and no line begins behind a last newline.
      case '^':
        return anchor("(?:\\A|(?<=\\n)(?!\\z))");
      case '$':
        return anchor("(?=\\n|\\z)");
      default:
        last_unbounded_ = false;
        copy(1);
        return {};
    }
  }

  Result<void> repeat(bool unbounded, size_t length) {
    if (unbounded) {
      if (last_unbounded_) return refuse("a repetition of a repetition");
      if (!groups_.empty()) groups_.back() = true;
    }
    copy(length);
    if (rest().starts_with('?') || rest().starts_with('+')) copy(1);
    last_unbounded_ = false;
    return {};
  }

  Result<void> anchor(std::string_view spelled) {
    last_unbounded_ = false;
    out_.append(spelled);
    ++at_;
    return {};
  }

  Result<void> braces() {
    size_t end = at_ + 1;
    bool comma = false, open_ended = false;
    for (; end < in_.size() && in_[end] != '}'; ++end) {
      if (in_[end] == ',' && !comma && end > at_ + 1) {
        comma = true;
        open_ended = end + 1 < in_.size() && in_[end + 1] == '}';
      } else if (in_[end] < '0' || in_[end] > '9') {
        return refuse("a { that is no repetition");
      }
    }
    if (end >= in_.size() || end == at_ + 1) return refuse("a { that is no repetition");
    const size_t length = end + 1 - at_;
    if (in_.substr(end + 1).starts_with('+') || in_.substr(end + 1).starts_with('?')) {
      return refuse("a possessive or lazy {...}");
    }
    return repeat(open_ended, length);
  }

  Result<void> open() {
    for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (rest().starts_with(known)) {
        groups_.push_back(false);
        copy(known.size());
        last_unbounded_ = false;
        return {};
      }
    }
    if (rest().starts_with("(?") || rest().starts_with("(*")) return refuse("this kind of group");
    groups_.push_back(false);
    copy(1);
    last_unbounded_ = false;
    return {};
  }

  Result<void> class_part() {
    const char c = in_[at_];
    if (c == '\\') return escape();
    if (c == '[') return refuse("a class inside a class");
    if (rest().starts_with("&&")) return refuse("an intersection of classes");
    if (c == ']') in_class_ = 0;
    copy(1);
    return {};
  }

  Result<void> escape() {
    if (at_ + 1 >= in_.size()) return refuse("a lone backslash");
    const char c = in_[at_ + 1];
    switch (c) {
      case 's':
        out_.append(in_class_ > 0 ? std::string(space_set) : "[" + std::string(space_set) + "]");
        at_ += 2;
        return {};
      case 'S':
        if (in_class_ > 0) return refuse("\\S in a class");
        out_.append("[^").append(space_set).append("]");
        at_ += 2;
        return {};
      case 'd':
        out_.append("\\p{Nd}");
        at_ += 2;
        return {};
      case 'p':
      case 'P': {
        const size_t end = in_.find('}', at_);
        if (!in_.substr(at_ + 2).starts_with('{') || end == std::string_view::npos) {
          return refuse("\\p without {name}");
        }
        // General categories are called alike in both; scripts only by their full names.
        copy(end + 1 - at_);
        return {};
      }
      case 'x': {
        if (in_.substr(at_ + 2).starts_with('{')) {
          const size_t end = in_.find('}', at_);
          if (end == std::string_view::npos) return refuse("\\x{ without }");
          copy(end + 1 - at_);
        } else {
          copy(2);
        }
        return {};
      }
      case 'u': {
        const std::string_view digits = in_.substr(at_ + 2, 4);
        if (digits.size() != 4 ||
            digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
          return refuse("\\u without four digits");
        }
        out_.append("\\x{").append(digits).append("}");
        at_ += 6;
        return {};
      }
      case 'r':
      case 'n':
      case 't':
      case 'f':
        copy(2);
        return {};
      default:
        if (static_cast<uint8_t>(c) < 0x80 && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') &&
            !(c >= 'A' && c <= 'Z')) {
          copy(2);
          return {};
        }
        return refuse(std::string("\\") + c);
    }
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  int in_class_ = 0;
  bool last_unbounded_ = false;  // what a quantifier here would repeat has one inside
  std::vector<bool> groups_;     // whether each open group holds an unbounded repetition
};

const pcre2_code* code_of(const std::shared_ptr<const void>& code) {
  return static_cast<const pcre2_code*>(code.get());
}

}  // namespace

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > 65536) {
    return error(ErrorCode::unsupported,
                 "regular expression of {} bytes: at most 65536 are allowed", pattern.size());
  }
  if (unicode::valid_prefix(pattern) != pattern.size()) {
    return error(ErrorCode::corrupt, "regular expression is not valid UTF-8");
  }
  IMPETUS_TRY(const std::string translated, Translator(pattern).run());
  int failure = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &failure, &at, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[160];
    pcre2_get_error_message(failure, message, sizeof message);
    return error(ErrorCode::unsupported, "regular expression \"{}\": {}", pattern,
                 reinterpret_cast<const char*>(message));
  }
  Regex regex;
  regex.pattern_ = pattern;
  regex.code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, the interpreter runs
  pcre2_match_context* limits = pcre2_match_context_create(nullptr);
  if (limits == nullptr)
    return error(ErrorCode::insufficient_memory, "no memory for a match context");
  pcre2_set_match_limit(limits, steps_max);
  regex.limits_ = std::shared_ptr<const void>(limits, [](const void* p) {
    pcre2_match_context_free(static_cast<pcre2_match_context*>(const_cast<void*>(p)));
  });
  return regex;
}

Regex::Search::Search(const Regex& regex, std::string_view text)
    : regex_(regex),
      text_(text),
      match_(pcre2_match_data_create_from_pattern(code_of(regex.code_), nullptr)) {}

Regex::Search::~Search() {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(match_));
}

bool Regex::Search::next(size_t& begin, size_t& end) {
  if (match_ == nullptr || from_ > text_.size()) return false;
  auto* match = static_cast<pcre2_match_data*>(match_);
  auto* limits = static_cast<pcre2_match_context*>(const_cast<void*>(regex_.limits_.get()));
  const auto run = [&](uint32_t options) {
    return pcre2_match(code_of(regex_.code_), reinterpret_cast<PCRE2_SPTR>(text_.data()),
                       text_.size(), from_, options | PCRE2_NO_UTF_CHECK, match, limits);
  };
  int result = run(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = run(PCRE2_NO_JIT);
  if (result < 0) {
    if (result != PCRE2_ERROR_NOMATCH) {
      static std::atomic<bool> told{false};
      if (!told.exchange(true)) {
        log::warn("tokenizer: regular expression \"{}\" gave up on a text (PCRE2 error {})",
                  regex_.pattern_, result);
      }
    }
    return false;
  }
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match);
  begin = span[0];
  end = span[1];
  if (end < begin) return false;  // \K in a lookahead; the translator lets none through
  from_ = end;
  if (begin == end) {
    from_ = end < text_.size() ? end + unicode::decode(text_.data() + end).bytes : end + 1;
  }
  return true;
}

}  // namespace impetus

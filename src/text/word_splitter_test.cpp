#include "text/word_splitter.h"

#include <array>

#include "text/regex.h"
#include "text/tokenizer_test_util.h"
#include "text/unicode.h"

namespace impetus {
namespace {

using namespace testing;

class Splitter : public ::testing::TestWithParam<WordPattern> {};

// PCRE2 may carry an older Unicode than utf8proc: code points that it calls unassigned are left
// out.
std::string without_unassigned(const Regex& unassigned, const std::string& text) {
  std::string out;
  size_t done = 0;
  unassigned.each(text, [&](size_t begin, size_t end) {
    out.append(text, done, begin - done);
    done = end;
  });
  return out.append(text, done);
}

TEST_P(Splitter, EqualsItsRegularExpression) {
  const auto regex = Regex::compile(regex_of(GetParam()));
  const auto unassigned = Regex::compile(R"(\p{Cn}+)");
  ASSERT_TRUE(regex.ok() && unassigned.ok());
  std::mt19937_64 random(7);
  for (int round = 0; round < 20000; ++round) {
    const std::string text =
        without_unassigned(*unassigned, random_text(random, 1 + random() % 40));
    std::vector<size_t> expected, found;
    regex->each(text, [&](size_t begin, size_t end) {
      ASSERT_EQ(begin, expected.empty() ? 0 : expected.back()) << "the expression leaves a gap";
      expected.push_back(end);
    });
    for (size_t at = 0; at < text.size();) {
      at += next_word(GetParam(), std::string_view(text).substr(at));
      found.push_back(at);
    }
    ASSERT_EQ(found, expected) << "round " << round << ": \"" << text << '"';
  }
}

INSTANTIATE_TEST_SUITE_P(Patterns, Splitter,
                         ::testing::Values(WordPattern::gpt2, WordPattern::llama3,
                                           WordPattern::qwen2, WordPattern::qwen3_5));

TEST(Regex, RefusesByNameWhatTheEnginesReadDifferently) {
  for (const auto* pattern :
       {"[a&&b]",    "\\h+",   "(?<name>a)", "(?m:a)", "[[:alpha:]]", "\\bword", "(a+)+",
        "(?:a*b*)*", "a{2,}+", "[^\\S]",     "x(",     "x)",          "[a",      "\\",
        "\\p",       "a{x}",   "(a+b)*+",    "\\1",    "\\G",         "(*UCP)a", "a**"}) {
    const auto regex = Regex::compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_NE(regex.error().message.find(pattern), std::string::npos);
  }
  EXPECT_TRUE(
      Regex::compile(R"([\p{L}\p{M}]{1,3}|\s*[\r\n]+$|\x{4E00}|\u4E00|(?<=a)b|(?i:'s)|^x)").ok());
}

TEST(Regex, AnchorsAreThoseOfLines) {
  const auto spans = [](const char* pattern, std::string_view text) {
    std::vector<std::pair<size_t, size_t>> found;
    const auto regex = Regex::compile(pattern);
    if (regex.ok()) regex->each(text, [&](size_t b, size_t e) { found.emplace_back(b, e); });
    return found;
  };
  using Spans = std::vector<std::pair<size_t, size_t>>;
  EXPECT_EQ(spans("a$", "a\na"), (Spans{{0, 1}, {2, 3}}));
  EXPECT_EQ(spans("^a", "a\na"), (Spans{{0, 1}, {2, 3}}));
  EXPECT_EQ(spans("(?=b)",
                  "ab\xC3\xA9"
                  "b"),
            (Spans{{1, 1}, {4, 4}}));
  EXPECT_EQ(spans("\\s", "\xE1\xA0\x8E \xC2\x85"), (Spans{{3, 4}, {4, 6}}));  // not U+180E
}

TEST(Unicode, NormalisesAndKnowsWhenItNeedNot) {
  using unicode::Form;
  EXPECT_EQ(unicode::normalize("e\xCC\x81", Form::nfc), "\xC3\xA9");
  EXPECT_EQ(unicode::normalize("\xC3\xA9", Form::nfd), "e\xCC\x81");
  EXPECT_EQ(unicode::normalize("\xEF\xAC\x81", Form::nfkc), "fi");
  EXPECT_EQ(unicode::normalize("\xED\x95\x9C", Form::nfd), "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB");
  EXPECT_EQ(unicode::normalize("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", Form::nfc), "\xED\x95\x9C");
  std::mt19937_64 random(11);
  for (int round = 0; round < 5000; ++round) {
    const std::string text = random_text(random, 1 + random() % 30);
    const std::string composed = unicode::normalize(unicode::normalize(text, Form::nfd), Form::nfc);
    if (unicode::is_surely_nfc(text)) {
      ASSERT_EQ(composed, text);
    }
    ASSERT_EQ(unicode::normalize(composed, Form::nfc), composed);
  }
}

TEST(Unicode, ValidPrefixStopsAtWhatIsNotUtf8) {
  EXPECT_EQ(unicode::valid_prefix("abc"), 3u);
  EXPECT_EQ(unicode::valid_prefix("ab\xC0\x80"), 2u);          // overlong
  EXPECT_EQ(unicode::valid_prefix("ab\xED\xA0\x80"), 2u);      // surrogate
  EXPECT_EQ(unicode::valid_prefix("ab\xF4\x90\x80\x80"), 2u);  // past U+10FFFF
  EXPECT_EQ(unicode::valid_prefix("abcdefgh\xE4\xBD"), 8u);    // cut short
  EXPECT_EQ(unicode::repaired("a\xFF"
                              "b\xE4\xBD"),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace impetus

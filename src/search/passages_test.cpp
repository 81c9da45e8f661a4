#include "search/passages.h"

#include <random>
#include <string>

#include <gtest/gtest.h>

#include "text/unicode.h"

namespace impetus {
namespace {

// A token a word, and one for every six bytes of a long one.
int64_t count_words(std::string_view text) {
  int64_t tokens = 0, length = 0;
  for (const char c : text) {
    if (c == ' ' || (c >= '\t' && c <= '\r')) {
      length = 0;
    } else if (length++ % 6 == 0) {
      ++tokens;
    }
  }
  return tokens;
}

std::vector<std::string> split(const std::string& text, int64_t max, int64_t wanted) {
  std::vector<std::string> texts;
  for (const Passage& one : split_passages(text, count_words, {max, wanted, 4096})) {
    texts.push_back(text.substr(one.offset, one.bytes));
  }
  return texts;
}

std::vector<std::string> sentences_in(const std::string& text) {
  std::vector<std::string> all;
  for (const TextRange& one : sentences(text)) all.push_back(text.substr(one.begin, one.size()));
  return all;
}

using Texts = std::vector<std::string>;

TEST(Passages, PutShortParagraphsTogetherAndLeaveLongerOnesWhole) {
  EXPECT_EQ(split("a b\n\n c d \n \n\ne f g h i\n", 8, 4), (Texts{"a b\n\n c d", "e f g h i"}));
  EXPECT_EQ(split(" \n\n\t\n", 8, 4), Texts{});
  EXPECT_EQ(split("", 8, 4), Texts{});
}

TEST(Passages, BeginAtHeadings) {
  EXPECT_EQ(split("# A\n\na b\n\n## B\n\nc d\n", 20, 20), (Texts{"# A\n\na b", "## B\n\nc d"}));
}

TEST(Passages, CutALongParagraphAtSentencesThatOverlap) {
  EXPECT_EQ(
      split("One fox ran. It ran far. So did the dog. Then both of them slept long.", 10, 8),
      (Texts{"One fox ran. It ran far.", "So did the dog.", "Then both of them slept long."}));
  EXPECT_EQ(
      split("It ran. A fox ran far off. Aha. So did the old dog. Then both slept.", 10, 8),
      (Texts{"It ran. A fox ran far off. Aha.", "Aha. So did the old dog.", "Then both slept."}));
}

TEST(Passages, CutALongSentenceBetweenWordsThatOverlap) {
  const auto texts = split("a b c d e f g h i j k l m n o p q r s t u v w x y z", 16, 16);
  EXPECT_EQ(texts, (Texts{"a b c d e f g h i j k l m", "m n o p q r s t u v w x y z"}));
}

TEST(Passages, CutAWordThatIsLongerThanAPassageAtCodePoints) {
  std::string word;
  for (int i = 0; i < 100; ++i) word += "\xe7\x8b\x90";
  const auto passages = split_passages(word, count_words, {8, 8, 4096});
  size_t end = 0;
  for (const Passage& one : passages) {
    EXPECT_EQ(one.offset, end);
    EXPECT_EQ(one.bytes % 3, 0u);
    EXPECT_LE(count_words(std::string_view(word).substr(one.offset, one.bytes)), 8);
    end = one.offset + one.bytes;
  }
  EXPECT_EQ(end, word.size());
  // One code point that has too many tokens stays one.
  const auto many = [](std::string_view) { return int64_t{99}; };
  EXPECT_EQ(split_passages("\xf0\x9f\xa6\x8a", many, {8, 8, 4096}).size(), 1u);
}

TEST(Passages, CountBytesWhereTokensSayNothing) {
  // A tokeniser may have one token for a word of any length.
  const auto one = [](std::string_view) { return int64_t{1}; };
  const std::string word(100'000, 'x');
  for (const Passage& passage : split_passages(word, one, {8, 8, 4096})) {
    EXPECT_LE(passage.bytes, 4096u);
  }
}

TEST(Passages, KnowTheirLines) {
  const std::string text =
      "\xef\xbb\xbf"
      "one\n\n\ntwo two two two\ntwo.\n\nthree three three";
  const auto passages = split_passages(text, count_words, {6, 4, 4096});
  ASSERT_EQ(passages.size(), 3u);
  EXPECT_EQ(passages[0], (Passage{3, 3, 1}));
  EXPECT_EQ(passages[1].line, 4u);
  EXPECT_EQ(passages[2].line, 7u);
}

TEST(Passages, LoseNothingAndKeepTheLimitWhateverTheText) {
  std::mt19937 random(11);
  const Texts parts = {"word ", "x",    "\n",       "\n\n",         ". ",
                       "! A",   "  ",   "\xc3\xa9", "\xe7\x8b\x90", "longerword",
                       "\t",    "Mr. ", "? B",      "\xe3\x80\x82"};
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (size_t i = random() % 120; i > 0; --i) text += parts[random() % parts.size()];
    const int64_t max = 1 + static_cast<int64_t>(random() % 20);
    const int64_t wanted = 1 + static_cast<int64_t>(random()) % max;
    const uint32_t bytes_max = 8 + random() % 100;
    std::vector<bool> covered(text.size());
    size_t last = 0;
    for (const Passage& one : split_passages(text, count_words, {max, wanted, bytes_max})) {
      const std::string part = text.substr(one.offset, one.bytes);
      ASSERT_GT(one.bytes, 0u);
      ASSERT_LE(one.bytes, bytes_max);
      ASSERT_LE(count_words(part), max) << part;
      ASSERT_EQ(unicode::valid_prefix(part), part.size());
      ASSERT_GE(one.offset, last) << "order";
      last = one.offset;
      ASSERT_EQ(one.line, 1 + std::count(text.begin(), text.begin() + one.offset, '\n'));
      std::fill_n(covered.begin() + one.offset, one.bytes, true);
    }
    for (size_t i = 0; i < text.size(); ++i) {
      ASSERT_TRUE(covered[i] || text[i] == ' ' || text[i] == '\n' || text[i] == '\t')
          << "byte " << i << " of \"" << text << '"';
    }
  }
}

TEST(Sentences, EndWhereAReaderWouldSay) {
  EXPECT_EQ(sentences_in("The fox ran. \"Stop!\" said Mr. Hen. Did it? No...  Yes."),
            (Texts{"The fox ran.", "\"Stop!\" said Mr. Hen.", "Did it?", "No...", "Yes."}));
  EXPECT_EQ(sentences_in("By J. R. Fox, 3.5 miles (see a.b).\nNext line"),
            (Texts{"By J. R. Fox, 3.5 miles (see a.b).", "Next line"}));
  EXPECT_EQ(sentences_in("狐狸跑了。「停！」鸭子说。"),
            (Texts{"狐狸跑了。", "「停！」", "鸭子说。"}));
  EXPECT_EQ(sentences_in(" \n "), Texts{});
}

TEST(Sentences, AreLinesWhereThereAreNone) {
  std::string code;
  for (int i = 0; i < 40; ++i) code += "  int value = 1;\n";
  EXPECT_EQ(sentences_in(code), Texts(40, "int value = 1;"));
}

}  // namespace
}  // namespace impetus

// Properties over seeded random texts and splits, and the cases worth a name.
#include "text/detokenizer.h"

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <utf8proc.h>

namespace impetus {
namespace {

// Tokens are what the test says they are. Of the three kinds, two write a space in front that
// decode() drops.
class FakeTokenizer : public Tokenizer {
 public:
  FakeTokenizer(std::string kind, std::vector<std::string> tokens, std::set<TokenId> control = {})
      : kind_(std::move(kind)), tokens_(std::move(tokens)), control_(std::move(control)) {}

  std::vector<TokenId> encode(std::string_view, EncodeOptions) const override { return {}; }
  std::string token_bytes(TokenId id, bool render_special) const override {
    if (id < 0 || id >= vocab_size() || (is_control(id) && !render_special)) return "";
    return tokens_[static_cast<size_t>(id)];
  }
  std::string decode(std::span<const TokenId> ids, bool render_special) const override {
    std::string text;
    for (const TokenId id : ids) text += token_bytes(id, render_special);
    if (kind_ != "byte-level-bpe" && text.starts_with(' ')) text.erase(0, 1);
    return text;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  std::string_view kind() const override { return kind_; }
  std::optional<TokenId> find(std::string_view) const override { return {}; }
  std::string_view piece(TokenId id) const override { return tokens_[static_cast<size_t>(id)]; }
  bool is_control(TokenId id) const override { return control_.contains(id); }

 private:
  std::string kind_;
  std::vector<std::string> tokens_;
  std::set<TokenId> control_;
};

bool is_valid(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    utf8proc_int32_t point = 0;
    const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + i,
                                       static_cast<utf8proc_ssize_t>(text.size() - i), &point);
    if (size <= 0) return false;
    i += static_cast<size_t>(size);
  }
  return true;
}

// Whether some bytes after `part` make it one valid sequence: by trying.
bool can_be_finished(const std::string& part) {
  if (part.size() > 4) return false;
  static const std::string tries = "\x80\x8f\x90\x9f\xa0\xbf";
  utf8proc_int32_t point = 0;
  const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(part.data()),
                                     static_cast<utf8proc_ssize_t>(part.size()), &point);
  if (size > 0) return static_cast<size_t>(size) == part.size();
  return std::any_of(tries.begin(), tries.end(), [&](char c) { return can_be_finished(part + c); });
}

// repair_utf8() by its definition, slowly.
std::string repaired(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t size = 0;
    while (i + size < text.size() && size < 4 && can_be_finished(text.substr(i, size + 1))) {
      ++size;
      if (is_valid(text.substr(i, size))) break;
    }
    if (size > 0 && is_valid(text.substr(i, size))) {
      out += text.substr(i, size);
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += std::max<size_t>(size, 1);
  }
  return out;
}

std::string random_text(std::mt19937& random) {
  static const std::vector<std::string> parts = {
      "a", " ", "  ", "z.", "\n", "\xc3\xa9", "\xe2\x82\xac", "\xed\x9f\xbf", "\xef\xbf\xbd",
      "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "\xe0\xa0\x80",
      // broken: cut off, overlong, surrogates, beyond Unicode, stray
      "\xc3", "\xe2\x82", "\xf0\x9f", "\xf0\x9f\x98", "\x80", "\xbf", "\xc0\xaf", "\xe0\x80\x80",
      "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5", "\xff", "\xf0\x80\x80\x80"};
  std::string text;
  const bool broken = random() % 3 != 0;
  for (size_t i = random() % 12; i > 0; --i) text += parts[random() % (broken ? parts.size() : 12)];
  return text;
}

std::vector<std::string> random_split(const std::string& text, std::mt19937& random) {
  std::vector<std::string> pieces;
  for (size_t i = 0; i < text.size();) {
    const size_t size = std::min<size_t>(1 + random() % 5, text.size() - i);
    pieces.push_back(text.substr(i, size));
    i += size;
    if (random() % 8 == 0) pieces.emplace_back();  // a token without bytes
  }
  return pieces;
}

TEST(RepairUtf8, FollowsItsDefinition) {
  EXPECT_EQ(repair_utf8("\xf0\x80\x80\x41"),
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "A");
  // Unicode 15, table 3-8 and 3-11.
  EXPECT_EQ(repair_utf8("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"),
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "A");
  std::mt19937 random(7);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = random_text(random);
    ASSERT_EQ(repair_utf8(text), repaired(text));
  }
  for (int i = 0; i < 5000; ++i) {  // any bytes
    std::string text;
    for (size_t n = random() % 8; n > 0; --n) text += static_cast<char>(random());
    ASSERT_EQ(repair_utf8(text), repaired(text));
    ASSERT_TRUE(is_valid(repair_utf8(text)));
  }
}

TEST(StreamingDetokenizer, PiecesAreWholeAndAddUpToTheText) {
  for (const char* kind : {"byte-level-bpe", "sentencepiece-bpe", "wordpiece"}) {
    std::mt19937 random(42);
    for (int round = 0; round < 1000; ++round) {
      std::vector<std::string> pieces = random_split(random_text(random), random);
      if (random() % 2 == 0 && !pieces.empty()) pieces[0] = " " + pieces[0];
      const FakeTokenizer tokenizer(kind, pieces);
      std::vector<TokenId> ids(pieces.size());
      std::string bytes;
      for (size_t i = 0; i < ids.size(); ++i) {
        ids[i] = static_cast<TokenId>(i);
        bytes += pieces[i];
      }
      for (const bool continues : {false, true}) {
        StreamingDetokenizer stream(tokenizer, continues);
        std::string all;
        for (const TokenId id : ids) {
          const std::string piece = stream.push(id);
          ASSERT_TRUE(is_valid(piece)) << "round " << round;
          all += piece;
        }
        const std::string tail = stream.finish();
        ASSERT_TRUE(is_valid(tail));
        all += tail;
        ASSERT_EQ(stream.finish(), "");
        ASSERT_EQ(all, repaired(continues ? bytes : tokenizer.decode(ids, false)))
            << kind << " round " << round << " continues " << continues;
      }
    }
  }
}

TEST(StreamingDetokenizer, HoldsAnUnfinishedSequence) {
  const FakeTokenizer tokenizer("byte-level-bpe", {"\xf0\x9f", "\x98\x80", "x", "\xe2\x82"});
  StreamingDetokenizer stream(tokenizer);
  EXPECT_EQ(stream.push(0), "");
  EXPECT_EQ(stream.push(1), "\xf0\x9f\x98\x80");
  EXPECT_EQ(stream.push(0), "");
  EXPECT_EQ(stream.push(2), "\xEF\xBF\xBDx");
  EXPECT_EQ(stream.push(3), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

TEST(StreamingDetokenizer, FirstSpace) {
  const std::vector<std::string> tokens = {"<s>", " Hello", " world", "  ", "!"};
  const auto run = [&](const char* kind, bool continues, bool special, std::vector<TokenId> ids) {
    const FakeTokenizer tokenizer(kind, tokens, {0});
    StreamingDetokenizer stream(tokenizer, continues, special);
    std::string text;
    for (const TokenId id : ids) text += stream.push(id);
    return text + stream.finish();
  };
  for (const char* kind : {"sentencepiece-bpe", "wordpiece"}) {
    EXPECT_EQ(run(kind, false, false, {1, 2, 4}), "Hello world!");
    EXPECT_EQ(run(kind, true, false, {1, 2}), " Hello world");
    EXPECT_EQ(run(kind, false, false, {0, 1, 2}), "Hello world");  // BOS has no bytes
    EXPECT_EQ(run(kind, false, true, {0, 1}), "<s> Hello");        // here it has
    EXPECT_EQ(run(kind, false, false, {3, 1}), "  Hello");         // one space only
  }
  EXPECT_EQ(run("byte-level-bpe", false, false, {1, 2}), " Hello world");
  EXPECT_EQ(run("byte-level-bpe", true, false, {1, 2, 99, -1}), " Hello world");
}

// The text ends at the first byte that completes a stop string: by looking at every prefix.
struct Expected {
  std::string text, matched;
  bool stopped = false;
};
Expected expected(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const std::string& stop : stops) {
      if (!stop.empty() && text.substr(0, end).ends_with(stop) &&
          (best == nullptr || stop.size() > best->size())) {
        best = &stop;
      }
    }
    if (best != nullptr) return {text.substr(0, end - best->size()), *best, true};
  }
  return {text, "", false};
}

TEST(StopMatcher, FindsStopsAtEverySplit) {
  const std::string text = "one</s>two";
  for (size_t a = 0; a <= text.size(); ++a) {
    for (size_t b = a; b <= text.size(); ++b) {
      StopMatcher matcher({"</s>", "zzz"});
      std::string out;
      bool stopped = false;
      for (const auto& piece : {text.substr(0, a), text.substr(a, b - a), text.substr(b)}) {
        const auto output = matcher.push(piece);
        if (stopped) {
          EXPECT_EQ(output.text, "");
          EXPECT_TRUE(output.stopped);
        }
        stopped = output.stopped;
        out += output.text;
      }
      EXPECT_TRUE(stopped);
      EXPECT_EQ(out, "one");
      EXPECT_EQ(matcher.finish().text, "");
      EXPECT_EQ(matcher.finish().matched, "</s>");
    }
  }
}

TEST(StopMatcher, AgreesWithItsDefinitionOnRandomTextsAndSplits) {
  std::mt19937 random(3);
  static const std::vector<std::string> letters = {"a", "b", "ab", "\xc3\xa9", "\xf0\x9f\x98\x80"};
  const auto word = [&](size_t size) {
    std::string text;
    for (size_t i = 0; i < size; ++i) text += letters[random() % letters.size()];
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = random() % 4; i > 0; --i) stops.push_back(word(random() % 5));
    std::vector<std::string> pieces;
    std::string text;
    for (size_t i = random() % 12; i > 0; --i) {
      pieces.push_back(word(random() % 3));
      text += pieces.back();
    }
    size_t longest = 1;
    for (const auto& stop : stops) longest = std::max(longest, stop.size());
    StopMatcher matcher(stops);
    std::string out, matched, seen;
    bool stopped = false;
    for (const std::string& piece : pieces) {
      const auto output = matcher.push(piece);
      ASSERT_TRUE(is_valid(output.text));
      out += output.text;
      seen += piece;
      stopped = output.stopped;
      matched = output.matched;
      if (stopped) break;
      ASSERT_LT(seen.size() - out.size(), longest);  // no more is held than a stop can need
    }
    const auto tail = matcher.finish();
    ASSERT_EQ(tail.stopped, stopped);
    out += tail.text;
    const Expected want = expected(text, stops);
    ASSERT_EQ(stopped, want.stopped) << "round " << round << " " << text;
    ASSERT_EQ(out, want.text) << "round " << round << " " << text;
    ASSERT_EQ(matched, want.matched) << "round " << round;
  }
}

TEST(StopMatcher, NamedCases) {
  {
    StopMatcher matcher({"abc", "b"});  // "b" is complete first
    const auto output = matcher.push("abc");
    EXPECT_EQ(output.text, "a");
    EXPECT_EQ(output.matched, "b");
  }
  {
    StopMatcher matcher({"b", "ab"});  // both end at one byte: the longer
    EXPECT_EQ(matcher.push("xab").text, "x");
  }
  {
    StopMatcher matcher({"aab"});  // a held beginning that must be reread
    EXPECT_EQ(matcher.push("aa").text, "");
    EXPECT_EQ(matcher.push("a").text, "a");
    const auto output = matcher.push("b");
    EXPECT_TRUE(output.stopped);
    EXPECT_EQ(output.text, "");
  }
  {
    StopMatcher matcher({"", "STOP"});  // empty ones match nothing; held text is released
    EXPECT_EQ(matcher.push("a ST").text, "a ");
    EXPECT_EQ(matcher.push("AR").text, "STAR");
    EXPECT_EQ(matcher.push("STO").text, "");
    EXPECT_EQ(matcher.finish().text, "STO");
  }
  {
    StopMatcher matcher({});
    EXPECT_EQ(matcher.push("text").text, "text");
    EXPECT_FALSE(matcher.finish().stopped);
  }
}

}  // namespace
}  // namespace impetus

#include "terminal/text_writer.h"

#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace impetus {
namespace {

// What the writer gives for these pieces at this width.
std::string written(const std::vector<std::string>& pieces, int width, int indent = 0) {
  std::string out;
  TextWriter writer([&](std::string_view text) { out += text; }, [=] { return width; }, indent);
  for (const std::string& piece : pieces) writer.push(piece);
  writer.finish();
  return out;
}

TEST(TextWriter, WrapsWordsAndKeepsTheTextsOwnLines) {
  EXPECT_EQ(written({"one two three four"}, 11), "one two\nthree four");
  EXPECT_EQ(written({"one\n\n  two three\n"}, 40), "one\n\n  two three\n");
  EXPECT_EQ(written({"one two three four"}, 0), "one two three four");
  EXPECT_EQ(written({"a\tb"}, 40), "a       b");
}

TEST(TextWriter, CutsAWordThatIsLongerThanALine) {
  EXPECT_EQ(written({"see abcdefghijklmnopqrstuvwxyz"}, 11), "see\nabcdefghij\nklmnopqrst\nuvwxyz");
}

TEST(TextWriter, BreaksBetweenWideCharactersAndNotBeforeTheirMarks) {
  // Two columns each; four fit in 9 - 1.
  EXPECT_EQ(written({"狐狸和鸭子很好"}, 9), "狐狸和鸭\n子很好");
  EXPECT_EQ(written({"狐狸和鸭。子"}, 9), "狐狸和\n鸭。子");
  // A family is one picture: its joiners keep it together.
  EXPECT_EQ(written({"abcdef 👨‍👩‍👧 x"}, 9), "abcdef\n👨‍👩‍👧 x");
  EXPECT_EQ(written({"e\xcc\x81"
                     "e\xcc\x81"
                     "e\xcc\x81"},
                    4),
            "e\xcc\x81"
            "e\xcc\x81"
            "e\xcc\x81");
}

TEST(TextWriter, LetsNothingThroughThatATerminalObeys) {
  EXPECT_EQ(written({"a\x1b[2Jb\a\b\x7f"}, 80), "a␛[2Jb␇␈␡");
  EXPECT_EQ(written({"a\xc2\x9b"
                     "2J"},
                    80),
            "a\xef\xbf\xbd"
            "2J");  // C1's CSI
  EXPECT_EQ(written({"one\rtwo\r\nthree"}, 80), "one␍two\nthree");
  EXPECT_EQ(written({"a\xe2\x80\xae"
                     "b"},
                    80),
            "a\xef\xbf\xbd"
            "b");  // right-to-left override
  EXPECT_EQ(written({"a\x9b\xff"
                     "b\xe4"},
                    80),
            "a\xef\xbf\xbd\xef\xbf\xbd"
            "b\xef\xbf\xbd");
  EXPECT_EQ(written({std::string("a\0b", 3)}, 80), "a␀b");
  EXPECT_EQ(harmless("x\n\x1b]0;t\a"), "x␊␛]0;t␇");
}

TEST(TextWriter, LeavesFencedCodeAsItIs) {
  EXPECT_EQ(written({"a b c d\n```c\nint  long_name = 1;\n```\na b c d\n"}, 6),
            "a b c\nd\n```c\nint  long_name = 1;\n```\na b c\nd\n");
}

TEST(TextWriter, IndentsEveryLineAndGivesMarksNoColumn) {
  EXPECT_EQ(written({"one two three"}, 11, 3), "   one two\n   three");
  std::string out;
  TextWriter writer([&](std::string_view text) { out += text; }, [] { return 9; });
  writer.push("one ");
  writer.mark("<b>");
  writer.push("two three");
  writer.mark("</b>");
  writer.push(" x");
  writer.finish();
  EXPECT_EQ(out, "one <b>two\nthree</b> x");
}

TEST(TextWriter, WhereTheTextIsCutChangesNothing) {
  const std::string text =
      "The fox, 狐狸, ran\x1b[31m home.\r\n```\ncode  here that is long\n```\n👩‍🚀 "
      "e\xcc\x81 "
      "\xff end";
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    const int width = static_cast<int>(random() % 30);
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t size = 1 + random() % 5;
      pieces.push_back(text.substr(at, size));
      at += size;
    }
    const std::string whole = written({text}, width);
    ASSERT_EQ(written(pieces, width), whole);
    for (const char c : whole) ASSERT_TRUE(c == '\n' || static_cast<uint8_t>(c) >= 0x20);
  }
}

TEST(TextWriter, HoldsBackNoMoreThanAWord) {
  std::string out;
  TextWriter writer([&](std::string_view text) { out += text; }, [] { return 80; });
  writer.push("one tw");
  EXPECT_EQ(out, "one");
  writer.push("o ");
  EXPECT_EQ(out, "one two");
}

}  // namespace
}  // namespace impetus

#include "terminal/message.h"

#include <gtest/gtest.h>

namespace impetus {
namespace {

using Message = std::optional<std::string>;

TEST(MessageReader, ALineIsAMessage) {
  MessageReader reader;
  EXPECT_EQ(reader.push("hello"), Message("hello"));
  EXPECT_EQ(reader.push(""), Message(""));
  EXPECT_EQ(reader.push("pasted\nlines"), Message("pasted\nlines"));
  EXPECT_FALSE(reader.open());
}

TEST(MessageReader, ABackslashGoesOnInTheNextLine) {
  MessageReader reader;
  EXPECT_EQ(reader.push("one\\"), Message());
  EXPECT_TRUE(reader.open());
  EXPECT_EQ(reader.push("\\"), Message());
  EXPECT_EQ(reader.push("three"), Message("one\n\nthree"));
  EXPECT_FALSE(reader.open());
  EXPECT_EQ(reader.push("a path \\\\"), Message("a path \\\\"));
}

TEST(MessageReader, ABlockKeepsItsLines) {
  MessageReader reader;
  EXPECT_EQ(reader.push("\"\"\""), Message());
  EXPECT_EQ(reader.push("  one\\"), Message());
  EXPECT_EQ(reader.push(""), Message());
  EXPECT_EQ(reader.push("two"), Message());
  EXPECT_EQ(reader.push("\"\"\""), Message("  one\\\n\ntwo"));
  EXPECT_EQ(reader.push("\"\"\"one"), Message());
  EXPECT_EQ(reader.push("two\"\"\" "), Message("one\ntwo"));
  EXPECT_EQ(reader.push("\"\"\"all\"\"\""), Message("all"));
  EXPECT_EQ(reader.push("\"\"\"pasted\nat once\n\"\"\""), Message("pasted\nat once"));
}

TEST(MessageReader, AResetForgetsTheHalf) {
  MessageReader reader;
  EXPECT_EQ(reader.push("\"\"\"half"), Message());
  reader.reset();
  EXPECT_FALSE(reader.open());
  EXPECT_EQ(reader.push("whole"), Message("whole"));
}

TEST(ChatCommand, IsASlashAndAWord) {
  const auto set = parse_command("  /set temperature  0.7 ");
  ASSERT_TRUE(set);
  EXPECT_EQ(set->name, "set");
  EXPECT_EQ(set->argument, "temperature  0.7");
  EXPECT_EQ(parse_command("/system a\nb")->argument, "a\nb");
  EXPECT_EQ(parse_command("/?")->name, "?");
  EXPECT_FALSE(parse_command("/usr/bin is what?"));
  EXPECT_FALSE(parse_command("what is /help"));
  EXPECT_FALSE(parse_command(""));
}

}  // namespace
}  // namespace impetus

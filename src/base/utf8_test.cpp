#include "base/utf8.h"

#include <gtest/gtest.h>

namespace impetus {
namespace {

TEST(Utf8, RepairsEachMaximalPartOnce) {
  const std::string x = "\xef\xbf\xbd";
  EXPECT_EQ(repair_utf8("plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"), "plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(repair_utf8("\xff"), x);
  EXPECT_EQ(repair_utf8("\xc0\xaf"), x + x);              // an over-long form
  EXPECT_EQ(repair_utf8("\xed\xa0\x80"), x + x + x);      // a surrogate
  EXPECT_EQ(repair_utf8("\xf4\x90\x80\x80"), x + x + x + x);  // past U+10FFFF
  // The Unicode standard's table 3-11: truncated sequences are one part each.
  EXPECT_EQ(repair_utf8("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"), x + x + x + x + "A");
}

TEST(Utf8, FindsWhatIsUnfinished) {
  EXPECT_EQ(complete_utf8_prefix(""), 0u);
  EXPECT_EQ(complete_utf8_prefix("abc"), 3u);
  EXPECT_EQ(complete_utf8_prefix("a\xc3"), 1u);
  EXPECT_EQ(complete_utf8_prefix("a\xe2\x82"), 1u);
  EXPECT_EQ(complete_utf8_prefix("\xf0\x9f\x98"), 0u);
  EXPECT_EQ(complete_utf8_prefix("\xf0\x9f\x98\x80"), 4u);
  EXPECT_EQ(complete_utf8_prefix("a\x80"), 2u);      // invalid, not unfinished
  EXPECT_EQ(complete_utf8_prefix("\xed\xa0"), 2u);   // can never become valid
  EXPECT_EQ(complete_utf8_prefix("\x80\x80\x80\x80"), 4u);
  EXPECT_EQ(complete_utf8_prefix("\xe0\xf0"), 1u);      // the last lead decides
  EXPECT_EQ(complete_utf8_prefix("\xe2\x82\xc3"), 2u);
}

}  // namespace
}  // namespace impetus

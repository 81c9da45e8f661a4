#include "hardware/files.h"

#include <gtest/gtest.h>

#include "hardware/test_support.h"

namespace impetus::hardware {
namespace {

TEST(Numbers, OnlyWholeOnes) {
  EXPECT_EQ(parse_int(" 12 kB"), 12);
  EXPECT_EQ(parse_int("-7\n"), -7);
  EXPECT_EQ(parse_int("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(parse_int("9223372036854775808"), std::nullopt);
  EXPECT_EQ(parse_int("max"), std::nullopt);
  EXPECT_EQ(parse_int("12abc"), std::nullopt);
  EXPECT_EQ(parse_int(""), std::nullopt);
}

TEST(Numbers, BehindAKey) {
  const char* text = "usage_usec_more 1\nusage_usec 2\nusage_usec 3\nMemTotal:   4 kB\n";
  EXPECT_EQ(int_after(text, "usage_usec"), 2);
  EXPECT_EQ(int_after(text, "MemTotal:"), 4);
  EXPECT_EQ(int_after(text, "MemFree:"), std::nullopt);
}

TEST(CpuLists, AsTheKernelWritesThem) {
  EXPECT_EQ(parse_cpu_list("0-3,8\n"), (std::vector<int>{0, 1, 2, 3, 8}));
  EXPECT_EQ(parse_cpu_list("5"), (std::vector<int>{5}));
  EXPECT_EQ(parse_cpu_list("2,0-1,1"), (std::vector<int>{0, 1, 2}));
  for (const char* nonsense : {"", "x", "3-1", "-2", "0-", "1;2", "0-99999999", "4294967296"}) {
    EXPECT_TRUE(parse_cpu_list(nonsense).empty()) << nonsense;
  }
}

TEST(Text, IsPrintable) {
  EXPECT_EQ(printable("  Xeon\x01\x7f(R)\t\n"), "Xeon(R)");
  EXPECT_EQ(printable("\xff"), "\xef\xbf\xbd");
  EXPECT_EQ(printable(std::string(1000, 'a')).size(), 256u);
}

using Files = testing::PlantedRoot;

TEST_F(Files, AreReadWithinBounds) {
  write("long", std::string(100000, 'x'));
  write("lines", "first\nsecond\n");
  write("number", "42\n");
  EXPECT_EQ(read_text(root_ / "long", 5000).size(), 5000u);
  EXPECT_EQ(read_line(root_ / "lines"), "first");
  EXPECT_EQ(read_int(root_ / "number"), 42);
  EXPECT_EQ(read_int(root_ / "lines"), std::nullopt);
  EXPECT_EQ(read_line(root_ / "absent"), std::nullopt);
  EXPECT_EQ(read_text(root_), "");  // a folder
}

TEST_F(Files, AreListedByNumber) {
  for (const char* name : {"cpu10", "cpu2", "node0"}) write(std::string("d/") + name, "");
  const auto found = entries(root_ / "d", "cpu");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].filename(), "cpu2");
  EXPECT_TRUE(entries(root_ / "absent").empty());
}

}  // namespace
}  // namespace impetus::hardware

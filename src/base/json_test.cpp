#include "base/json.h"

#include <gtest/gtest.h>

namespace impetus {
namespace {

TEST(Json, RefusesWhatIsNotOneStrictDocument) {
  for (const char* text : {"", "{", "{} {}", "{}x", "[1,]", "{'a':1}", "// c\n1", "nul", "\"\xff\"",
                           "\"\xc0\xaf\"", "\"\\ud800\"", "[1] ]", "01", "NaN", "\"a"}) {
    const auto parsed = parse_json(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_TRUE(parsed.error().message.starts_with("JSON: ")) << parsed.error().message;
  }
  EXPECT_TRUE(parse_json(" {\"a\": [1, 2.5, null]} \n").ok());
}

TEST(Json, BoundsNesting) {
  EXPECT_TRUE(parse_json(std::string(64, '[') + std::string(64, ']')).ok());
  EXPECT_FALSE(parse_json(std::string(65, '[') + std::string(65, ']')).ok());
  EXPECT_FALSE(parse_json(std::string(1 << 20, '[')).ok());
}

TEST(Json, UniqueNamesTheDuplicate) {
  const auto twice = parse_json_unique(R"({"a": {"x": 1, "y": 2, "\u0078": 3}})");
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(twice.error().message.find("'x' occurs twice"), std::string::npos)
      << twice.error().message;
  EXPECT_TRUE(
      parse_json_unique(R"({"a": {"x": 1}, "b": {"x": 1}, "x": [{"x": 1}, {"x": 2}]})").ok());
  EXPECT_TRUE(parse_json(R"({"x": 1, "x": 2})").ok());
  EXPECT_FALSE(parse_json_unique("{").ok());
}

TEST(Json, TypedFields) {
  const auto document = parse_json(
      R"({"i": 3, "whole": 4.0, "half": 1.5, "big": 1e300, "u": 18446744073709551615, "s": "x",
          "b": true, "n": null, "inf": 1e999})");
  ASSERT_TRUE(document.ok()) << document.error().message;
  const json::object& object = document->get_object();
  EXPECT_EQ(*int_field(object, "i"), 3);
  EXPECT_EQ(*int_field(object, "whole"), 4);
  for (const char* key : {"half", "big", "u", "s", "b", "inf"}) {
    const auto value = int_field(object, key);
    ASSERT_FALSE(value.ok()) << key;
    EXPECT_EQ(value.error().param, key);
  }
  EXPECT_EQ(*int_field(object, "n"), std::nullopt);
  EXPECT_EQ(*int_field(object, "absent"), std::nullopt);
  EXPECT_EQ(*number_field(object, "half"), 1.5);
  EXPECT_EQ(*number_field(object, "i"), 3.0);
  EXPECT_FALSE(number_field(object, "inf").ok());
  EXPECT_FALSE(number_field(object, "s").ok());
  EXPECT_EQ(*bool_field(object, "b"), true);
  EXPECT_FALSE(bool_field(object, "i").ok());
  EXPECT_EQ(*string_field(object, "s"), "x");
  EXPECT_FALSE(string_field(object, "b").ok());
}

}  // namespace
}  // namespace impetus

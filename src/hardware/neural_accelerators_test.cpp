#include "hardware/neural_accelerators.h"

#include <gtest/gtest.h>

#include "hardware/known_machines.h"

namespace impetus {
namespace {

TEST(AppleGpuNames, GenerationAndSuffix) {
  EXPECT_EQ(parse_apple_gpu("applegpu_g16s").generation, 16);
  EXPECT_EQ(parse_apple_gpu("applegpu_g16s").suffix, 's');
  EXPECT_EQ(parse_apple_gpu("applegpu_g17p").suffix, 'p');
  EXPECT_EQ(parse_apple_gpu("applegpu_g13").generation, 13);
  EXPECT_EQ(parse_apple_gpu("applegpu_g13").suffix, 0);
  for (const char* other : {"", "applegpu_g", "applegpu_gs", "applegpu_g16sx", "applegpu_g16S",
                            "AMD Radeon", "applegpu_g-16s", "applegpu_g99999999999s"}) {
    EXPECT_EQ(parse_apple_gpu(other).generation, 0) << other;
  }
}

TEST(MacosVersions, MajorAndMinor) {
  EXPECT_EQ(parse_macos_version("26.2").major, 26);
  EXPECT_EQ(parse_macos_version("26.2").minor, 2);
  EXPECT_EQ(parse_macos_version("15.6.1").minor, 6);
  EXPECT_EQ(parse_macos_version("27").major, 27);
  EXPECT_EQ(parse_macos_version("27").minor, 0);
  EXPECT_EQ(parse_macos_version("Tahoe").major, 0);
}

TEST(NeuralAcceleratorRule, IsMlxs) {
  const auto used = [](int major, int minor, int generation, char suffix) {
    const auto rule = neural_accelerator_rule(major, minor, generation, suffix);
    EXPECT_FALSE(rule.why.empty());
    return rule.used;
  };
  EXPECT_TRUE(used(26, 2, 17, 'g'));
  EXPECT_TRUE(used(26, 3, 17, 's'));
  EXPECT_TRUE(used(27, 0, 18, 'p'));
  EXPECT_TRUE(used(26, 2, 17, 0));
  EXPECT_FALSE(used(26, 1, 17, 'g'));
  EXPECT_FALSE(used(15, 6, 17, 'g'));
  EXPECT_FALSE(used(26, 2, 16, 's'));  // M4: Metal 4, but no such units
  EXPECT_FALSE(used(26, 2, 17, 'p'));  // a telephone's
  EXPECT_FALSE(used(26, 2, 0, 0));
}

TEST(NeuralAcceleratorRule, SaysWhatIsLacking) {
  EXPECT_NE(neural_accelerator_rule(26, 1, 17, 'g').why.find("26.2"), std::string::npos);
  EXPECT_NE(neural_accelerator_rule(26, 2, 16, 's').why.find("17"), std::string::npos);
}

}  // namespace
}  // namespace impetus

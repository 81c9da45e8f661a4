#include "base/sha256.h"

#include <fstream>

#include <gtest/gtest.h>

namespace impetus {
namespace {

// FIPS 180-4's examples (https://csrc.nist.gov/projects/cryptographic-standards-and-guidelines).
TEST(Sha256, GivesThePublishedDigests) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, PiecesAreTheWhole) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += static_cast<char>(i * 7);
  for (const size_t cut : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, size_t{999}}) {
    Sha256 hash;
    EXPECT_EQ(hash.add(std::string_view(text).substr(0, cut))
                  .add(std::string_view(text).substr(cut))
                  .hex(),
              sha256_hex(text));
    EXPECT_EQ(hash.add("abc").hex(), sha256_hex("abc"));  // new again
  }
}

TEST(Sha256, ReadsFiles) {
  const auto path = std::filesystem::temp_directory_path() / "impetus-sha256-test";
  std::string text(3 << 20, 'x');
  std::ofstream(path, std::ios::binary) << text;
  const auto hash = sha256_of_file(path);
  ASSERT_TRUE(hash.ok()) << hash.error().message;
  EXPECT_EQ(*hash, sha256_hex(text));
  std::filesystem::remove(path);
  const auto absent = sha256_of_file(path);
  ASSERT_FALSE(absent.ok());
  EXPECT_EQ(absent.error().code, ErrorCode::not_found);
  EXPECT_NE(absent.error().message.find(path.string()), std::string::npos);
}

}  // namespace
}  // namespace impetus

// What was compiled is kept, in memory and on disk, and only what is whole is used.
#include "mlx/kernel_code.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/mapped_file.h"
#include "base/replace_file.h"
#include "tests/support/bytes.h"

namespace impetus::mlx_backend {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

// Turns a text around, and counts.
struct Fake {
  int runs = 0;
  bool fails = false;

  KernelCompiler as(const std::string& key = "version 1") {
    return {key, [this](const std::string& text) {
              ++runs;
              if (fails) throw std::runtime_error("line 1: expected a ';'");
              return std::string(text.rbegin(), text.rend()) + '\0' + "code";
            }};
  }
  static std::string of(const std::string& text) {
    return std::string(text.rbegin(), text.rend()) + '\0' + "code";
  }
};

class CompiledCode : public ::testing::Test {
 protected:
  std::vector<fs::path> entries() const {
    std::vector<fs::path> found;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(folder_, none)) found.push_back(entry.path());
    return found;
  }

  Fake fake_;
  TempFolder temporary_;
  fs::path folder_ = temporary_.path() / "deep" / "kernels";
};

TEST_F(CompiledCode, IsCompiledOnce) {
  KernelCode code(fake_.as(), {});
  const auto first = code.of("one");
  EXPECT_EQ(*first, Fake::of("one"));
  EXPECT_EQ(code.of("one"), first);
  EXPECT_EQ(*code.of("two"), Fake::of("two"));
  EXPECT_EQ(fake_.runs, 2);
}

TEST_F(CompiledCode, ThreadsWaitForOneCompilation) {
  const KernelCompiler fake = fake_.as();
  const auto slow = [&](const std::string& text) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return fake.compile(text);
  };
  KernelCode code({fake.key, slow}, {});
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { EXPECT_EQ(*code.of("one"), Fake::of("one")); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fake_.runs, 1);
}

TEST_F(CompiledCode, IsFoundOnDiskByTheNextProgram) {
  EXPECT_EQ(*KernelCode(fake_.as(), folder_).of("one"), Fake::of("one"));
  ASSERT_EQ(entries().size(), 1u);
  EXPECT_EQ(entries()[0].extension(), ".cubin");
  EXPECT_EQ(*KernelCode(fake_.as(), folder_).of("one"), Fake::of("one"));
  EXPECT_EQ(fake_.runs, 1);
}

TEST_F(CompiledCode, AnotherCompilerCompilesAnew) {
  (void)KernelCode(fake_.as(), folder_).of("one");
  (void)KernelCode(fake_.as("version 2"), folder_).of("one");
  EXPECT_EQ(fake_.runs, 2);
  EXPECT_EQ(entries().size(), 2u);
  // Where a key ends and a text begins is part of the name.
  (void)KernelCode(fake_.as("version 2o"), folder_).of("ne");
  EXPECT_EQ(fake_.runs, 3);
}

TEST_F(CompiledCode, WhatIsDamagedIsMadeAnew) {
  (void)KernelCode(fake_.as(), folder_).of("one");
  ASSERT_EQ(entries().size(), 1u);
  const fs::path path = entries()[0];
  const std::string whole = *read_file(path);
  const auto damaged = [&](const std::string& bytes) {
    fake_.runs = 0;
    EXPECT_TRUE(replace_file(path, bytes).ok());
    EXPECT_EQ(*KernelCode(fake_.as(), folder_).of("one"), Fake::of("one"));
    EXPECT_EQ(*read_file(path), whole);
    return fake_.runs;
  };
  EXPECT_EQ(damaged(whole), 0);
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{63}, size_t{64}, whole.size() - 1}) {
    EXPECT_EQ(damaged(whole.substr(0, bytes)), 1) << bytes;
  }
  for (const size_t at : {size_t{0}, size_t{63}, size_t{64}, whole.size() - 1}) {
    std::string flipped = whole;
    flipped[at] ^= 1;
    EXPECT_EQ(damaged(flipped), 1) << at;
  }
  EXPECT_EQ(damaged(whole + "x"), 1);
}

TEST_F(CompiledCode, AFolderThatCannotBeWrittenIsNoError) {
  ASSERT_TRUE(replace_file(temporary_.path() / "deep", "a file stands there").ok());
  KernelCode code(fake_.as(), folder_);
  EXPECT_EQ(*code.of("one"), Fake::of("one"));
  EXPECT_EQ(*code.of("two"), Fake::of("two"));
  EXPECT_EQ(*code.of("one"), Fake::of("one"));
  EXPECT_EQ(fake_.runs, 2);
}

TEST_F(CompiledCode, TheFolderIsBoundedAndTheOldestGo) {
  const auto text = [](int i) { return "text " + std::to_string(i); };
  const auto now = fs::file_time_type::clock::now();
  fs::path last;
  {
    KernelCode code(fake_.as(), folder_, 5);
    for (int i = 0; i < 5; ++i) {
      const auto before = entries();
      (void)code.of(text(i));
      for (const fs::path& entry : entries()) {
        if (std::ranges::find(before, entry) != before.end()) continue;
        fs::last_write_time(entry, now - std::chrono::hours(10 - i));
        last = entry;
      }
    }
    EXPECT_EQ(entries().size(), 5u);
  }
  ASSERT_FALSE(last.empty());
  // What another program left that ended while it wrote, and what is no entry.
  const fs::path left = last.string() + ".4711", other = folder_ / "read-me";
  ASSERT_TRUE(replace_file(left, "half").ok());
  ASSERT_TRUE(replace_file(other, "not ours").ok());
  fs::last_write_time(left, now - std::chrono::hours(20));
  fs::last_write_time(other, now - std::chrono::hours(20));
  fake_.runs = 0;
  KernelCode code(fake_.as(), folder_, 5);
  (void)code.of(text(0));  // used: no longer the oldest
  EXPECT_EQ(fake_.runs, 0);
  (void)code.of(text(5));
  EXPECT_EQ(fake_.runs, 1);
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(other));
  EXPECT_EQ(entries().size(), 6u);  // with the other
  KernelCode again(fake_.as(), folder_, 5);
  for (const int i : {0, 2, 3, 4, 5}) (void)again.of(text(i));
  EXPECT_EQ(fake_.runs, 1);
  (void)again.of(text(1));
  EXPECT_EQ(fake_.runs, 2);
}

TEST_F(CompiledCode, TheCompilersWordsGetThroughAndTheNextCallTriesAgain) {
  KernelCode code(fake_.as(), folder_);
  fake_.fails = true;
  try {
    (void)code.of("one");
    FAIL() << "it was to throw";
  } catch (const std::runtime_error& failure) {
    EXPECT_STREQ(failure.what(), "line 1: expected a ';'");
  }
  EXPECT_TRUE(entries().empty());
  fake_.fails = false;
  EXPECT_EQ(*code.of("one"), Fake::of("one"));
  EXPECT_EQ(fake_.runs, 2);
}

}  // namespace
}  // namespace impetus::mlx_backend

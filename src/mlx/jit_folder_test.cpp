// What MLX compiled is there at the next start, whole or not at all.
#include "mlx/jit_folder.h"

#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/file_lock.h"
#include "base/mapped_file.h"
#include "base/replace_file.h"
#include "base/sha256.h"
#include "tests/support/bytes.h"

namespace impetus::mlx_backend {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

const std::string kKey = "1.2.3-sm_90";

// An ELF file with one table of one entry, at its end.
std::string code_of(const std::string& name) {
  std::string made(64, '\0');
  made.replace(0, 4,
               "\x7f"
               "ELF");
  made += name;
  const uint64_t at = made.size();
  const uint16_t size = 64, count = 1;
  std::memcpy(made.data() + 40, &at, sizeof at);
  std::memcpy(made.data() + 58, &size, sizeof size);
  std::memcpy(made.data() + 60, &count, sizeof count);
  return made + std::string(size, 's');
}
std::string kernels_of(const std::string& name) {
  return "cu::" + name + "\t_Z" + name + "\ncu::other\t_Zother\n";
}

// As MLX writes an entry; `parts`: how many of its files it came to.
void compile(const JitFolder& folder, const std::string& name, int parts = 3) {
  const std::vector<std::pair<std::string, std::string>> files = {
      {".ptx", code_of(name)}, {".txt", kernels_of(name)}, {".cu", "text"}};
  for (int i = 0; i < parts; ++i) {
    const fs::path path = (folder.path() / name).string() + files[i].first;
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << files[i].second;
  }
}

// As MLX looks for one: the code's file decides.
bool has(const JitFolder& folder, const std::string& name) {
  const fs::path base = folder.path() / name;
  const auto code = read_file(base.string() + ".ptx");
  if (!code.ok()) return false;
  EXPECT_EQ(*code, code_of(name));
  const auto kernels = read_file(base.string() + ".txt");
  EXPECT_TRUE(kernels.ok() && *kernels == kernels_of(name)) << name;
  return true;
}

class MlxJitFolder : public ::testing::Test {
 protected:
  std::unique_ptr<JitFolder> open(const std::string& key = kKey,
                                  uintmax_t bytes_max = JitFolder::kBytesMax) {
    auto made = JitFolder::open(root_, key, JitFolder::new_run(), bytes_max);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return made.ok() ? std::move(*made) : nullptr;
  }
  void kept(const std::string& name) {
    const auto folder = open();
    compile(*folder, name);
    folder->seal();
  }
  std::vector<fs::path> files(const std::string& ending = "") {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(root_ / kKey)) {
      if (ending.empty() || entry.path().extension() == ending) found.push_back(entry.path());
    }
    return found;
  }
  static void age(const fs::path& path, std::chrono::hours by) {
    fs::last_write_time(path, fs::file_time_type::clock::now() - by);
  }

  TempFolder temporary_;
  fs::path root_ = temporary_.path() / "deep" / "mlx";
};

TEST_F(MlxJitFolder, TheNextProgramFindsWhatWasSealed) {
  const std::string longest = std::string(245, 'a') + "/" + std::string(245, 'b') + "/c";
  fs::path first;
  {
    const auto folder = open();
    first = folder->path();
    for (const std::string& name : {std::string("gather"), longest}) {
      EXPECT_FALSE(has(*folder, name));
      compile(*folder, name);
    }
    folder->seal();
    compile(*folder, "scatter");
    folder->seal();
    compile(*folder, "not sealed");
  }
  EXPECT_FALSE(fs::exists(first));
  for (int time = 0; time < 2; ++time) {
    const auto folder = open();
    EXPECT_TRUE(has(*folder, "gather"));
    EXPECT_TRUE(has(*folder, "scatter"));
    EXPECT_TRUE(has(*folder, longest));
    EXPECT_FALSE(has(*folder, "not sealed"));
    folder->seal();
  }
  EXPECT_EQ(files(".seal").size(), 3u);
  EXPECT_EQ(files().size(), 9u);
}

TEST_F(MlxJitFolder, WhatIsHalfWrittenIsNotKept) {
  {
    const auto folder = open();
    for (int parts = 0; parts < 3; ++parts) compile(*folder, fmt::format("part{}", parts), parts);
    compile(*folder, "cut");
    std::ofstream(folder->path() / "cut.txt", std::ios::binary) << "cu::cut\t_Zc";
    compile(*folder, "empty");
    std::ofstream(folder->path() / "empty.ptx", std::ios::binary | std::ios::trunc);
    folder->seal();
    EXPECT_TRUE(files(".seal").empty());
    // A disk was full, and is no more.
    for (const size_t bytes : {size_t{3}, size_t{4}, size_t{63}, size_t{64}, size_t{131}}) {
      compile(*folder, "short");
      fs::resize_file(folder->path() / "short.ptx", bytes);
      folder->seal();
    }
    compile(*folder, "text");
    std::ofstream(folder->path() / "text.ptx", std::ios::binary) << ".entry _Ztext() { ret;";
    folder->seal();
    EXPECT_TRUE(files(".seal").empty());
    // They come to their ends later.
    compile(*folder, "part2");
    std::ofstream(folder->path() / "text.ptx", std::ios::binary) << ".entry _Ztext() { ret; }\n"
                                                                 << '\0';
    folder->seal();
  }
  const auto folder = open();
  EXPECT_TRUE(has(*folder, "part2"));
  EXPECT_TRUE(fs::exists(folder->path() / "text.ptx"));
  EXPECT_EQ(files(".seal").size(), 2u);
}

TEST_F(MlxJitFolder, WhatIsDamagedIsNotHandedOut) {
  for (const std::string ending : {".ptx", ".txt", ".seal"}) {
    kept("gather");
    const std::string whole = *read_file(files(ending).at(0));
    std::vector<std::string> damaged = {"", whole.substr(0, 1), whole + "x",
                                        whole.substr(0, whole.size() - 1)};
    for (const size_t at : {size_t{0}, whole.size() / 2, whole.size() - 1}) {
      damaged.push_back(whole);
      damaged.back()[at] ^= 1;
    }
    for (const std::string& bytes : damaged) {
      EXPECT_TRUE(has(*open(), "gather"));
      EXPECT_TRUE(replace_file(files(ending).at(0), bytes).ok());
      EXPECT_FALSE(fs::exists(open()->path() / "gather.ptx")) << ending << bytes.size();
      EXPECT_TRUE(files().empty());
      kept("gather");
    }
    fs::remove(files(ending).at(0));
    EXPECT_FALSE(fs::exists(open()->path() / "gather.ptx"));
  }
}

// Who can write there chooses what the processor runs (docs/security.md), but not where it is put.
TEST_F(MlxJitFolder, NamesStayWithinTheFolder) {
  const std::string code = code_of("gather"), kernels = kernels_of("gather");
  const auto seal_says = [&](const std::string& name) {
    kept("gather");
    const std::string digest =
        Sha256()
            .add(fmt::format("{} {} {} ", name.size(), code.size(), kernels.size()))
            .add(name + code + kernels)
            .hex();
    EXPECT_TRUE(replace_file(files(".seal").at(0), digest + name).ok());
  };
  seal_says("inside/of it");
  EXPECT_TRUE(fs::exists(open()->path() / "inside/of it.ptx"));
  EXPECT_FALSE(files().empty());
  for (const fs::path& file : files()) fs::remove(file);
  for (const std::string name : {"../outside", "a/../../outside", "", "/tmp/outside", "..", "."}) {
    seal_says(name);
    (void)open();
    EXPECT_TRUE(files().empty()) << name;
  }
}

TEST_F(MlxJitFolder, ProcessesDoNotSeeOneAnothersWriting) {
  const auto one = open(), two = open();
  EXPECT_NE(one->path(), two->path());
  compile(*one, "gather");
  EXPECT_FALSE(has(*two, "gather"));
  one->seal();
  EXPECT_FALSE(has(*two, "gather"));
  compile(*two, "gather");
  two->seal();
  const auto three = open();
  EXPECT_TRUE(has(*three, "gather"));
  EXPECT_TRUE(fs::exists(one->path()));
}

// The cache was emptied under a process that lives: the next one must not share its folder.
TEST_F(MlxJitFolder, NoFolderIsTakenTwice) {
  auto one = open();
  const fs::path path = one->path();
  fs::remove_all(root_);
  auto two = open();
  EXPECT_NE(two->path(), path);
  one.reset();
  EXPECT_TRUE(fs::exists(two->path()));
  auto three = open();
  EXPECT_TRUE(fs::exists(two->path())) << "its lock is held";
}

TEST_F(MlxJitFolder, WhatOthersLeftGoes) {
  kept("gather");
  const fs::path folder = root_ / kKey;
  const auto runs_in = [](const fs::path& of, const char* run) {
    fs::create_directories(of / run / "deep");
    std::ofstream(of / (std::string(run) + ".lock"));
  };
  // A process that was ended, and one that lives.
  runs_in(folder, "run-7");
  runs_in(folder, "run-8");
  auto lives = FileLock::try_take(folder / "run-8.lock", FileLock::Kind::exclusive);
  ASSERT_TRUE(lives.ok() && *lives);
  // Ended while it sealed, and one that is sealing.
  const std::string sealed = files(".seal").at(0).stem().string();
  const std::vector<std::string> left = {"aa.ptx", "aa.txt", "bb.seal.123", sealed + ".ptx.123"};
  for (const std::string& name : left) {
    std::ofstream(folder / name) << "x";
    age(folder / name, std::chrono::hours(2));
  }
  std::ofstream(folder / "cc.ptx") << "x";
  // Keys of MLX's that were, one of them of a process that lives.
  runs_in(root_ / "old", "run-0");
  runs_in(root_ / "running", "run-0");
  auto runs = FileLock::try_take(root_ / "running/run-0.lock", FileLock::Kind::exclusive);
  ASSERT_TRUE(runs.ok() && *runs);
  runs_in(root_ / "recent", "run-0");
  for (const auto& [key, days] :
       {std::pair("old", 100), {"running", 100}, {"recent", 80}, {kKey.c_str(), 100}}) {
    age(root_ / key, std::chrono::hours(24 * days));
  }
  const auto mine = open();
  EXPECT_TRUE(has(*mine, "gather"));
  for (const char* gone : {"run-7", "run-7.lock"}) EXPECT_FALSE(fs::exists(folder / gone)) << gone;
  for (const std::string& name : left) EXPECT_FALSE(fs::exists(folder / name)) << name;
  for (const char* there : {"run-8/deep", "run-8.lock", "cc.ptx"}) {
    EXPECT_TRUE(fs::exists(folder / there)) << there;
  }
  EXPECT_FALSE(fs::exists(root_ / "old"));
  EXPECT_TRUE(fs::exists(root_ / "running/run-0"));
  EXPECT_TRUE(fs::exists(root_ / "recent"));
}

TEST_F(MlxJitFolder, KeysAreApart) {
  kept("gather");
  EXPECT_FALSE(has(*open("1.2.4-sm_90"), "gather"));
  EXPECT_TRUE(has(*open(), "gather"));
}

TEST_F(MlxJitFolder, IsBoundedAndTheOldestGo) {
  const uintmax_t room = 3 * code_of("name0").size();
  for (int i = 0; i < 5; ++i) {
    const auto folder = open(kKey, room);
    compile(*folder, fmt::format("name{}", i));
    folder->seal();
    for (const fs::path& seal : files(".seal")) {
      fs::last_write_time(seal, fs::last_write_time(seal) - std::chrono::minutes(1));
    }
  }
  const auto folder = open();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(has(*folder, fmt::format("name{}", i)), i >= 2) << i;
}

TEST_F(MlxJitFolder, AFolderThatCannotBeMadeIsSaid) {
  ASSERT_TRUE(replace_file(temporary_.path() / "deep", "a file stands there").ok());
  const auto made = JitFolder::open(root_, kKey, JitFolder::new_run());
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::io);
}

}  // namespace
}  // namespace impetus::mlx_backend

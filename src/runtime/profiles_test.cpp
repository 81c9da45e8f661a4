#include "runtime/profiles.h"

#include <fstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "backend/fake.h"
#include "base/build_id.h"
#include "cpu/cpu_backend.h"

namespace impetus {
namespace {

namespace fs = std::filesystem;

class ProfilesTest : public ::testing::Test {
 protected:
  ProfilesTest()
      : folder_(fs::temp_directory_path() / fmt::format("impetus-profiles-{}", ::getpid())) {
    fs::remove_all(folder_);
    inventory_.cpu.model = "Some CPU";
    descriptor_.device = "cpu";
    descriptor_.backend = "cpu-avx2";
    descriptor_.threads = 4;
    profile_.device = "cpu";
    profile_.backend = "cpu-avx2";
    profile_.source = "a test";
    profile_.measured = true;
    profile_.read = {{4, 1000, 3e10}};
    profile_.matrix = {{DType::f32, 1, 4, 1e10}};
  }
  ~ProfilesTest() override { fs::remove_all(folder_); }

  fs::path folder_;
  Inventory inventory_;
  BackendDescriptor descriptor_;
  DeviceProfile profile_;
};

TEST_F(ProfilesTest, KeepsAndFinds) {
  const ProfileStore store(folder_);
  EXPECT_FALSE(store.find(inventory_, descriptor_));
  ASSERT_TRUE(store.put(inventory_, descriptor_, profile_).ok());
  const auto found = store.find(inventory_, descriptor_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->read[0].bytes_per_second, 3e10);
  EXPECT_FALSE(build_id().empty());
}

TEST_F(ProfilesTest, AnythingTheRatesDependOnMakesItAnother) {
  const ProfileStore store(folder_);
  ASSERT_TRUE(store.put(inventory_, descriptor_, profile_).ok());
  const auto other = [&](auto change) {
    Inventory inventory = inventory_;
    BackendDescriptor descriptor = descriptor_;
    change(inventory, descriptor);
    EXPECT_FALSE(store.find(inventory, descriptor));
  };
  other([](Inventory& i, auto&) { i.cpu.model = "Another CPU"; });
  other([](Inventory& i, auto&) { i.cpu.usable_cores = 3; });
  other([](Inventory& i, auto&) { i.os.kernel = "9.9"; });
  other([](Inventory& i, auto&) { i.gpus.push_back({.id = "gpu0", .driver = "580.1"}); });
  other([](auto&, BackendDescriptor& d) { d.backend = "cpu-avx512"; });
  other([](auto&, BackendDescriptor& d) { d.threads = 8; });
  // What changes by the minute does not.
  inventory_.memory.available_bytes = 12345;
  inventory_.power.source = "battery";
  EXPECT_TRUE(store.find(inventory_, descriptor_));
}

TEST_F(ProfilesTest, DamagedOrForeignFilesCountAsNone) {
  const ProfileStore store(folder_);
  ASSERT_TRUE(store.put(inventory_, descriptor_, profile_).ok());
  const fs::path file = fs::directory_iterator(folder_ / "profiles")->path();
  std::string text;
  std::getline(std::ifstream(file), text);
  for (const std::string& bytes :
       {std::string(), std::string("{"), std::string("[]"), text.substr(0, text.size() / 2),
        std::string(R"({"of": "elsewhere", "profile": {}})"), std::string(10000, '[')}) {
    std::ofstream(file) << bytes;
    EXPECT_FALSE(store.find(inventory_, descriptor_)) << bytes.substr(0, 40);
  }
  std::ofstream(file) << text;
  EXPECT_TRUE(store.find(inventory_, descriptor_));
  EXPECT_FALSE(ProfileStore("").put(inventory_, descriptor_, profile_).ok());
  std::ofstream(folder_ / "a-file") << "x";
  EXPECT_FALSE(ProfileStore(folder_ / "a-file").put(inventory_, descriptor_, profile_).ok());
}

TEST_F(ProfilesTest, TheMachineHasWhatIsDrivenAndWhatIsNot) {
  std::vector<std::unique_ptr<Backend>> backends;
  auto cpu = make_cpu_backend({.threads = 1, .isa = "reference"});
  ASSERT_TRUE(cpu.ok());
  backends.push_back(std::move(*cpu));
  inventory_.gpus.push_back({.id = "gpu0", .name = "NVIDIA H200", .api = "cuda"});
  inventory_.npus.push_back({.id = "npu0", .name = "Intel NPU"});
  const PlanMachine machine = plan_machine(inventory_, backends, ProfileStore(folder_), 1 << 30);
  ASSERT_EQ(machine.processors.size(), 3u);
  EXPECT_TRUE(machine.processors[0].unavailable.empty());
  EXPECT_FALSE(machine.processors[0].profile.measured);
  EXPECT_NE(machine.processors[1].unavailable.find("H200"), std::string::npos);
  EXPECT_NE(machine.processors[2].unavailable.find("Intel NPU"), std::string::npos);
}

TEST_F(ProfilesTest, WhatOnlyEmulatesIsNeverPlannedWith) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::make_unique<FakeBackend>(FakeOptions{.name = "cpu", .emulated = true}));
  // Not even with figures of its own.
  ASSERT_TRUE(ProfileStore(folder_).put(inventory_, backends[0]->descriptor(), profile_).ok());
  const PlanMachine machine = plan_machine(inventory_, backends, ProfileStore(folder_), 1 << 30);
  EXPECT_NE(machine.processors[0].unavailable.find("emulates"), std::string::npos);
}

TEST_F(ProfilesTest, TheCacheStandsBesideTheState) {
  const auto set = [](const char* name, const char* value) {
    value != nullptr ? ::setenv(name, value, 1) : ::unsetenv(name);
  };
  std::map<const char*, std::optional<std::string>> before;
  for (const char* name : {"IMPETUS_CACHE_DIR", "IMPETUS_STATE_DIR", "HOME"}) {
    if (const char* value = std::getenv(name))
      before[name] = value;
    else
      before[name] = std::nullopt;
  }
  set("IMPETUS_CACHE_DIR", nullptr);
  set("IMPETUS_STATE_DIR", nullptr);
  set("HOME", "/home/ada");
  EXPECT_EQ(cache_folder(), "/home/ada/.impetus/cache");
  set("IMPETUS_STATE_DIR", "/srv/state");
  EXPECT_EQ(cache_folder(), "/srv/state/cache");
  set("IMPETUS_CACHE_DIR", "/srv/cache");
  EXPECT_EQ(cache_folder(), "/srv/cache");
  for (const auto& [name, value] : before) set(name, value ? value->c_str() : nullptr);
}

TEST_F(ProfilesTest, KernelTablesOfOneCpuShareItsMemory) {
  const ProfileStore store(folder_);
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::move(*make_cpu_backend({.threads = 1, .isa = "reference"})));
  backends.push_back(std::make_unique<FakeBackend>(FakeOptions{.name = "cpu"}));
  for (const auto& backend : backends) {
    const double rate = backend == backends.front() ? 80e9 : 100e9;
    profile_.backend = backend->descriptor().backend;
    profile_.measured = true;
    profile_.read = {{1, 1 << 20, rate}, {1, 500 << 20, 180e9 - rate}};
    ASSERT_TRUE(store.put(inventory_, backend->descriptor(), profile_).ok());
  }
  const PlanMachine machine = plan_machine(inventory_, backends, store, 1 << 30);
  for (const Processor& one : machine.processors) {
    EXPECT_EQ(one.profile.read[1].bytes_per_second, 100e9) << one.profile.backend;
  }
  EXPECT_EQ(machine.processors[0].profile.read[0].bytes_per_second, 80e9);
  EXPECT_EQ(machine.processors[1].profile.read[0].bytes_per_second, 100e9);
}

}  // namespace
}  // namespace impetus

// runtime_devices.cpp - what a worker knows of its cards: heat, Xids, whether memory is really free, and what it may still promise.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "worker/runtime/allotments.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/nvml.h"

namespace gq::worker {
namespace {

struct Folder {
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "gpuq-devices-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

void write(const std::filesystem::path& path, const std::string& text) {   // readers see all of it or nothing
  std::ofstream(path.string() + ".new") << text;
  std::filesystem::rename(path.string() + ".new", path);
}

struct Cards : ::testing::Test {
  Folder folder;
  std::filesystem::path state = folder.path / "cards";
  void SetUp() override {
    ::setenv("GPUQ_NVML", GPUQ_FAKE_NVML, 1);
    ::setenv("NVML_FAKE", "two", 1);
    ::setenv("NVML_FAKE_FILE", state.c_str(), 1);
  }
  void TearDown() override {
    for (const char* name : {"GPUQ_NVML", "NVML_FAKE", "NVML_FAKE_FILE", "GPUQ_SIM_DEVICES"}) ::unsetenv(name);
  }
  static constexpr const char* kFirst = "GPU-00000000-1111-2222-3333-444444444444";
};

TEST_F(Cards, heat_is_told_as_it_is_and_harms_nobody_by_itself) {
  auto nvml = Nvml::open();
  ASSERT_TRUE(nvml.has_value());
  EXPECT_EQ((*nvml)->read()[0].temperature_c, 61);
  write(state, "0 temperature=91\n");
  const auto hot = (*nvml)->read();
  EXPECT_EQ(hot[0].temperature_c, 91);
  EXPECT_EQ(hot[1].temperature_c, 61);
  EXPECT_TRUE(hot[0].healthy) << "whether that is too hot is the broker's policy";
}

TEST_F(Cards, a_fatal_xid_takes_its_card_out_for_as_long_as_this_worker_lives) {
  auto nvml = Nvml::open();
  ASSERT_TRUE(nvml.has_value());
  write(state, "1 xid=79\n");
  auto cards = (*nvml)->read();
  EXPECT_TRUE(cards[0].healthy);
  EXPECT_FALSE(cards[1].healthy);
  EXPECT_EQ(cards[1].xid, 79U);
  EXPECT_NE(cards[1].trouble.find("Xid 79"), std::string::npos);
  write(state, "");
  cards = (*nvml)->read();
  EXPECT_FALSE(cards[1].healthy) << "a card that fell off the bus does not come back by being quiet";
}

TEST_F(Cards, an_xid_that_is_a_programs_own_fault_says_nothing_of_the_card) {
  auto nvml = Nvml::open();
  ASSERT_TRUE(nvml.has_value());
  for (const int xid : {13, 31, 43, 45, 68, 109}) {
    write(state, "0 xid=" + std::to_string(xid) + "\n");
    EXPECT_TRUE((*nvml)->read()[0].healthy) << xid;
  }
}

/// A process group of ours that waits to be ended.
struct Child {
  pid_t pid = ::fork();
  Child() {
    if (pid == 0) {
      ::setpgid(0, 0);
      for (;;) ::pause();
    }
    ::setpgid(pid, pid);
  }
  ~Child() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
};

TEST_F(Cards, released_memory_is_believed_when_the_card_says_so_too) {
  const Child process;
  const pid_t child = process.pid;
  const std::string line = "0 used=4400 pid=" + std::to_string(child);
  write(state, line + " mib=3000\n");
  asio::io_context io;
  const auto work = asio::make_work_guard(io);
  auto devices = Devices::find({}, "anna");
  ASSERT_TRUE(devices.has_value());
  std::vector<wire::Device> seen;
  (*devices)->add_group(kFirst, child);
  (*devices)->watch(io, [&](std::vector<wire::Device> list) { seen = std::move(list); });
  bool freed = false;
  (*devices)->when_freed(io, kFirst, child, 512, [&] { freed = true; });
  const auto until = [&](const std::function<bool()>& holds) {
    for (const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10); !holds() && std::chrono::steady_clock::now() < end;)
      io.run_one_for(std::chrono::milliseconds(200));
    return holds();
  };
  ASSERT_TRUE(until([&] { return !seen.empty() && seen[0].used_by_us_mib == 3000; }));
  EXPECT_FALSE((*devices)->is_outdated(kFirst));
  EXPECT_FALSE(freed) << "its context and 2,500 MiB more are still there";
  write(state, line + " mib=400\n");
  EXPECT_TRUE(until([&] { return freed; }));
  freed = false;
  (*devices)->when_freed(io, "GPU-00000001-1111-2222-3333-444444444444", child, 0, [&] { freed = true; });
  EXPECT_TRUE(until([&] { return freed; })) << "no figure there: its word has to do";
  (*devices)->remove_group(kFirst, child);
  EXPECT_TRUE((*devices)->is_outdated(kFirst));
  EXPECT_TRUE(until([&] { return !(*devices)->is_outdated(kFirst); })) << "measured again at once";
}

// ---- pretend cards fare as a file says

TEST_F(Cards, a_pretend_card_can_be_hot_full_and_broken_and_well_again) {
  ::setenv("GPUQ_SIM_DEVICES", state.c_str(), 1);
  asio::io_context io;
  const auto work = asio::make_work_guard(io);
  auto devices = Devices::find({"auto", "24GiB,8GiB", {}}, "anna");
  ASSERT_TRUE(devices.has_value());
  std::vector<wire::Device> seen;
  (*devices)->watch(io, [&](std::vector<wire::Device> list) { seen = std::move(list); });
  const auto until = [&](const std::function<bool()>& holds) {
    for (const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10); !holds() && std::chrono::steady_clock::now() < end;)
      io.run_one_for(std::chrono::milliseconds(200));
    return holds();
  };
  ASSERT_TRUE(until([&] { return seen.size() == 2; }));
  EXPECT_EQ(seen[1].temperature_c, -1);
  write(state, "1 temperature=91 foreign=3000 xid=79\n");
  EXPECT_TRUE(until([&] { return seen[1].temperature_c == 91; }));
  EXPECT_EQ(seen[1].used_mib, 3000);
  EXPECT_EQ(seen[1].used_by_us_mib, 0);
  EXPECT_FALSE(seen[1].healthy);
  EXPECT_TRUE(seen[0].healthy);
  write(state, "1 temperature=60\n");
  EXPECT_TRUE(until([&] { return seen[1].healthy; }));
  EXPECT_EQ(seen[1].used_mib, 0);
}

// ---- what may still be promised

wire::Device card(std::int64_t used, std::int64_t by_us, DeviceKind kind = DeviceKind::cuda) {
  wire::Device device;
  device.kind = static_cast<std::uint8_t>(kind);
  device.total_mib = 8192;
  device.driver_mib = 400;
  device.used_mib = used;
  device.used_by_us_mib = by_us;
  return device;
}

TEST(RoomOnADevice, is_what_driver_others_and_promises_leave) {
  EXPECT_EQ(room_on(card(400, 0), 0), 7792);
  EXPECT_EQ(room_on(card(1400, 0), 0), 6792) << "1,000 MiB belong to others";
  EXPECT_EQ(room_on(card(1400, 0), 5600), 1192) << "and 5,600 are promised, though not used yet";
  EXPECT_EQ(room_on(card(6000, 4600), 0), 7792 - 1000 - (4600 - 409)) << "a child that was given up and is not dead yet";
  EXPECT_EQ(room_on(card(6000, 4600), 0, false), 7792 - 1000) << "measured before it ended: its successor does not wait for the next look";
  EXPECT_EQ(room_on(card(6000, 4600), 4500), 7792 - 1000 - 4500) << "a child within its budget and a little";
}

TEST(RoomOnADevice, resident_memory_on_a_cpu_is_no_measure_of_what_a_budget_needs) {
  EXPECT_EQ(room_on(card(7000, 7000, DeviceKind::cpu), 0), 7792);
}

TEST(Bookings, are_exact_all_or_nothing_and_given_back) {
  auto devices = Devices::find({"auto", "24GiB,8GiB", {}}, "anna");
  ASSERT_TRUE(devices.has_value());
  Allotments allotments(**devices);
  const std::string large = "GPU-sim-anna-0";
  const std::string small = "GPU-sim-anna-1";
  auto first = allotments.book({large, small}, 8192);
  ASSERT_TRUE(first.has_value());
  const auto second = allotments.book({large, small}, 1);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, Errc::no_fit);
  EXPECT_EQ(allotments.promised(large), 8192) << "nothing of the second is left behind";
  first->reset();
  EXPECT_EQ(allotments.promised(large), 0);
  EXPECT_TRUE(allotments.book({small}, 8192).has_value());
  EXPECT_EQ(allotments.book({"GPU-elsewhere"}, 1).error().code, Errc::not_here);
}

}  // namespace
}  // namespace gq::worker

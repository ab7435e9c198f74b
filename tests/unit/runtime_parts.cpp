// runtime_parts.cpp - the runtime's pure parts: progress lines, environments, archives, logs, safe names, devices.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "worker/runtime/archive.h"
#include "worker/runtime/attempt.h"
#include "worker/runtime/child_process.h"
#include "worker/runtime/memory_guard.h"
#include "worker/runtime/command.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/job_log.h"
#include "worker/runtime/nvml.h"
#include "worker/runtime/parents.h"
#include "worker/runtime/process.h"

namespace gq::worker {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    std::string name = fs::temp_directory_path().string() + "/gpuq-parts-XXXXXX";
    path_ = ::mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path_); }
  [[nodiscard]] std::string operator()(const std::string& below) const { return path_ + "/" + below; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void write(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

TEST(ProgressLines, both_forms_are_read) {
  for (const char* text : {R"({"step": 1, "total": 10, "loss": 0.5})", "step=1 total=10 loss=0.5", "  step=1, total=10, loss=.5  ", R"({"loss":5e-1,"total":10,"step":1})"}) {
    const auto line = parse_progress(text);
    ASSERT_TRUE(line) << text;
    EXPECT_EQ(line->step, 1.0);
    EXPECT_EQ(line->total, 10.0);
    EXPECT_EQ(line->metrics, (std::map<std::string, double>{{"loss", 0.5}})) << text;
    EXPECT_FALSE(line->checkpoint);
  }
  EXPECT_TRUE(parse_progress("step=4 checkpoint=1")->checkpoint);
  EXPECT_TRUE(parse_progress(R"({"checkpoint": true})")->checkpoint);
}

TEST(FrameworkLimits, leave_room_for_a_context_and_never_more_than_the_card) {
  const auto limits = framework_limits(3072, 24'000);
  EXPECT_EQ(limits.at("CUPY_GPU_MEMORY_LIMIT"), std::to_string(2372LL << 20));
  EXPECT_EQ(limits.at("XLA_PYTHON_CLIENT_MEM_FRACTION"), "0.09883");
  EXPECT_EQ(limits.at("XLA_PYTHON_CLIENT_PREALLOCATE"), "false");
  EXPECT_EQ(limits.at("TF_FORCE_GPU_ALLOW_GROWTH"), "true");
  EXPECT_EQ(framework_limits(1000, 24'000).at("CUPY_GPU_MEMORY_LIMIT"), std::to_string(500LL << 20)) << "half of what is less than two contexts";
  EXPECT_EQ(framework_limits(90'000, 24'000).at("XLA_PYTHON_CLIENT_MEM_FRACTION"), "1.00000");
  EXPECT_TRUE(framework_limits(3072, 0).empty()) << "no card";
  EXPECT_TRUE(framework_limits(0, 24'000).empty()) << "no limit";
}

TEST(BudgetWatch, flags_the_first_look_above_and_has_enough_at_the_third_in_a_row) {
  using Verdict = BudgetWatch::Verdict;
  BudgetWatch watch;
  EXPECT_EQ(watch.look(3072, 3072), Verdict::within);
  EXPECT_EQ(watch.look(3225, 3072), Verdict::within) << "5 % are forgiven";
  EXPECT_EQ(watch.look(3226, 3072), Verdict::flag);
  EXPECT_EQ(watch.text(), "it uses 3226 MiB, 3072 were granted");
  EXPECT_EQ(watch.look(9000, 3072), Verdict::wait);
  EXPECT_EQ(watch.look(3000, 3072), Verdict::within) << "a peak that passed";
  EXPECT_EQ(watch.look(9000, 3072), Verdict::flag);
  EXPECT_EQ(watch.look(9000, 3072), Verdict::wait);
  EXPECT_EQ(watch.look(9001, 3072), Verdict::too_long);
  EXPECT_EQ(watch.look(9000, 0), Verdict::within) << "no limit";
}

TEST(ProgressLines, anything_else_is_no_progress) {
  for (const char* text : {"", "   ", "hello", "{", "{}", R"({"step":1)", R"({"step":"one"})", R"({"step":1} x)", "step=", "=1", "step=-1", "step=nan", R"({"a":{"b":1}})", "step=1e300"})
    EXPECT_FALSE(parse_progress(text)) << text;
}

TEST(SafePaths, only_what_stays_below) {
  for (const char* good : {"a", "a/b.txt", "..a", "a..", ".hidden", "a/.b"}) EXPECT_TRUE(is_safe_path(good)) << good;
  for (const char* bad : {"", "/a", "..", "../a", "a/..", "a/../b", "./a", "a//b", "a/", "."}) EXPECT_FALSE(is_safe_path(bad)) << bad;
  EXPECT_FALSE(is_safe_path(std::string_view("a\0b", 3)));
  EXPECT_FALSE(is_safe_path(std::string(2000, 'a')));
}

TEST(Archives, a_folder_comes_back_as_it_was) {
  const Folder dir;
  write(dir("from/a.bin"), std::string(1000, 'a'));
  write(dir("from/sub/deep/" + std::string(90, 'n') + "/empty"), "");
  write(dir("from/sub/exact"), std::string(1024, 'e'));
  fs::create_symlink("/etc/passwd", dir("from/link"));
  ASSERT_TRUE(pack_folder(dir("from"), dir("x.tar")).has_value());
  fs::create_directories(dir("to"));
  const auto unpacked = unpack_folder(dir("x.tar"), dir("to"));
  ASSERT_TRUE(unpacked.has_value()) << unpacked.error().what;
  EXPECT_EQ(read(dir("to/a.bin")), std::string(1000, 'a'));
  EXPECT_EQ(read(dir("to/sub/exact")), std::string(1024, 'e'));
  EXPECT_TRUE(fs::exists(dir("to/sub/deep/" + std::string(90, 'n') + "/empty")));
  EXPECT_FALSE(fs::exists(dir("to/link"))) << "links are not followed and not packed";
  const std::string listed = "tar tf " + dir("x.tar") + " > " + dir("names") + " 2>&1";
  EXPECT_EQ(std::system(listed.c_str()), 0) << "tar reads it too: " << read(dir("names"));
}

TEST(Archives, equal_folders_make_equal_archives) {
  const Folder dir;
  write(dir("a/x"), "1");
  write(dir("b/x"), "1");
  ASSERT_TRUE(pack_folder(dir("a"), dir("a.tar")).has_value());
  ASSERT_TRUE(pack_folder(dir("b"), dir("b.tar")).has_value());
  EXPECT_EQ(read(dir("a.tar")), read(dir("b.tar")));
}

TEST(Archives, every_cut_and_every_flipped_header_byte_is_refused) {
  const Folder dir;
  write(dir("from/file"), std::string(700, 'x'));
  ASSERT_TRUE(pack_folder(dir("from"), dir("x.tar")).has_value());
  const std::string whole = read(dir("x.tar"));
  for (const std::size_t cut : {0UL, 100UL, 511UL, 512UL, 900UL, 1536UL}) {
    write(dir("cut.tar"), whole.substr(0, cut));
    fs::create_directories(dir("out"));
    const auto result = unpack_folder(dir("cut.tar"), dir("out"));
    ASSERT_FALSE(result.has_value()) << cut;
    EXPECT_EQ(result.error().code, Errc::checkpoint_corrupt);
  }
  for (std::size_t at = 0; at < 345; at += 7) {
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 0x15);
    write(dir("bad.tar"), bad);
    EXPECT_FALSE(unpack_folder(dir("bad.tar"), dir("out")).has_value()) << at;
  }
}

TEST(JobLogs, the_whole_goes_to_the_file_and_the_newest_to_the_broker) {
  const Folder dir;
  JobLog log(dir("log"));
  log.add("first\n");
  std::uint64_t offset = 99;
  EXPECT_EQ(log.take(offset), "first\n");
  EXPECT_EQ(offset, 0U);
  EXPECT_FALSE(log.pending());
  log.add(std::string(JobLog::kPending, 'a') + "end");
  const std::string chunk = log.take(offset);
  EXPECT_EQ(offset, 6U + 3U) << "three bytes were skipped, and the offset shows it";
  EXPECT_EQ(chunk.size(), 64U << 10U);
  EXPECT_EQ(read(dir("log")).size(), 6U + JobLog::kPending + 3U);
}

TEST(JobLogs, a_large_log_is_rotated_once_and_only_two_files_are_kept) {
  const Folder dir;
  JobLog log(dir("log"), 100);
  for (int i = 0; i < 10; ++i) log.add(std::string(60, static_cast<char>('0' + i)));
  const auto items = log.as_items();
  ASSERT_EQ(items.size(), 2U);
  EXPECT_EQ(items[0].name, "gpuq-log.1.txt");
  EXPECT_EQ(read(items[1].file), std::string(60, '8') + std::string(60, '9'));
  EXPECT_EQ(read(items[0].file), std::string(60, '6') + std::string(60, '7'));
}

TEST(JobLogs, the_last_lines_are_one_printable_line) {
  const Folder dir;
  JobLog log(dir("log"));
  log.add("Traceback\n  \x1b[31mValueError: bad\x1b[0m\n");
  EXPECT_EQ(log.last_lines(), "Traceback |   [31mValueError: bad[0m");
}

TEST(Children, start_again_after_0_1_2_5_10_30_seconds) {
  std::vector<Duration> waits;
  for (unsigned n = 0; n < 8; ++n) waits.push_back(respawn_backoff(n));
  EXPECT_EQ(waits, (std::vector<Duration>{0s, 1s, 2s, 5s, 10s, 30s, 30s, 30s}));
}

TEST(Programs, are_found_in_the_jobs_own_path) {
  const Folder dir;
  write(dir("bin/tool"), "#!/bin/sh\n");
  EXPECT_EQ(find_program("tool", dir("bin"), ""), "") << "not executable";
  ::chmod(dir("bin/tool").c_str(), 0755);
  EXPECT_EQ(find_program("tool", "/nothing:" + dir("bin"), ""), dir("bin/tool"));
  EXPECT_EQ(find_program("bin/tool", "", dir.path()), dir("bin/tool"));
  EXPECT_EQ(find_program("bin", dir.path(), ""), "") << "a folder is no program";
}

// ---- devices

class FakeDriver : public ::testing::Test {
 protected:
  void use(const char* mode) {
    ::setenv("GPUQ_NVML", GPUQ_FAKE_NVML, 1);
    ::setenv("NVML_FAKE", mode, 1);
  }
  void TearDown() override {
    ::unsetenv("GPUQ_NVML");
    ::unsetenv("NVML_FAKE");
  }
};

TEST_F(FakeDriver, two_cards_are_read_with_the_new_abi) {
  use("two");
  auto nvml = Nvml::open();
  ASSERT_TRUE(nvml.has_value()) << nvml.error().what;
  const auto cards = (*nvml)->read();
  ASSERT_EQ(cards.size(), 2U);
  EXPECT_EQ(cards[0].uuid, "GPU-00000000-1111-2222-3333-444444444444");
  EXPECT_EQ(cards[0].name, "Pretend RTX 0");
  EXPECT_EQ(cards[0].total_mib, 24564);
  EXPECT_EQ(cards[0].reserved_mib, 400);
  EXPECT_EQ(cards[0].used_mib, 1400);
  EXPECT_EQ(cards[0].temperature_c, 61);
  EXPECT_EQ(cards[0].utilization_pct, 37);
  EXPECT_EQ(cards[1].utilization_pct, -1) << "not supported is not zero";
  ASSERT_EQ(cards[0].processes.size(), 2U);
  EXPECT_EQ(cards[0].processes[0].mib, 500);
  EXPECT_EQ(cards[0].processes[1].mib, -1) << "all ones means unknown";
}

TEST_F(FakeDriver, a_lost_card_keeps_its_name_and_is_unhealthy) {
  use("two");
  auto nvml = Nvml::open();
  ASSERT_TRUE(nvml.has_value());
  (*nvml)->read();
  ::setenv("NVML_FAKE", "lost", 1);
  const auto cards = (*nvml)->read();
  ASSERT_EQ(cards.size(), 2U);
  EXPECT_TRUE(cards[0].healthy);
  EXPECT_FALSE(cards[1].healthy);
  EXPECT_EQ(cards[1].uuid, "GPU-00000001-1111-2222-3333-444444444444");
  EXPECT_EQ(cards[1].total_mib, 8192);
}

TEST_F(FakeDriver, garbage_absence_and_a_dead_driver_are_reasons_not_crashes) {
  use("garbage");
  auto nvml = Nvml::open();
  ASSERT_TRUE(nvml.has_value());
  EXPECT_TRUE((*nvml)->read().empty());
  use("noinit");
  EXPECT_NE(Nvml::open().error().what.find("Driver Not Loaded"), std::string::npos);
  ::setenv("GPUQ_NVML", "/no/such/library.so", 1);
  EXPECT_EQ(Nvml::open().error().code, Errc::no_device);
  ::setenv("GPUQ_NVML", "libm.so.6", 1);
  EXPECT_NE(Nvml::open().error().what.find("lacks"), std::string::npos);
}

TEST_F(FakeDriver, auto_takes_every_card_and_a_list_takes_exactly_those) {
  use("two");
  const auto uuids = [](const DeviceChoice& choice) {
    auto devices = Devices::find(choice, "anna");
    std::vector<std::string> out;
    if (devices)
      for (const wire::Device& device : (*devices)->list()) out.push_back(device.uuid);
    else
      out.push_back(devices.error().what + "; " + devices.error().next);
    return out;
  };
  const std::string first = "GPU-00000000-1111-2222-3333-444444444444";
  const std::string second = "GPU-00000001-1111-2222-3333-444444444444";
  EXPECT_EQ(uuids({}), (std::vector<std::string>{first, second}));
  EXPECT_EQ(uuids({second, "", {}}), std::vector<std::string>{second});
  EXPECT_EQ(uuids({"cpu", "", {}}), std::vector<std::string>{"CPU-anna"});
  EXPECT_EQ(uuids({"GPU-x", "", {}}), std::vector<std::string>{"no device GPU-x here; there is: " + first + " (Pretend RTX 0), " + second + " (Pretend RTX 1)"});
  EXPECT_EQ(uuids({"auto", "24GiB,8GiB", {}}), (std::vector<std::string>{"GPU-sim-anna-0", "GPU-sim-anna-1"}));
  ::setenv("GPUQ_NVML", "none", 1);
  EXPECT_EQ(uuids({}), std::vector<std::string>{"CPU-anna"});
}

TEST(CpuDevice, counts_the_resident_memory_of_our_groups) {
  const auto use = resident_mib_by_group({::getpgrp()});
  EXPECT_GT(use.at(::getpgrp()), 0);
}

TEST(ParentResults, a_question_lives_until_it_is_answered) {
  std::vector<std::uint64_t> said;
  bool link = true;
  ParentResults results([&](const wire::Message& message, std::uint64_t id, std::string_view) {
    EXPECT_EQ(std::get<wire::ResultQuery>(message), (wire::ResultQuery{{1, 2}, {3, 4}}));
    if (link) said.push_back(id);
    return link;
  });
  std::vector<Result<std::string>> answers;
  results.ask({1, 2}, {3, 4}, [&](Result<std::string> got) { answers.push_back(std::move(got)); });
  EXPECT_TRUE(said.empty()) << "there is no link yet";
  results.link_up();
  ASSERT_EQ(said.size(), 1U);
  const std::uint64_t id = said[0];
  EXPECT_NE(id & ParentResults::kIdBit, 0U);

  results.link_down();
  results.tick();
  EXPECT_EQ(said.size(), 1U);
  results.link_up();
  EXPECT_EQ(said.size(), 2U) << "asked again over the new link";
  results.received(id, wire::Failure{"UNAVAILABLE", "the broker reads its image", ""}, {});
  results.tick();
  EXPECT_EQ(said.size(), 3U) << "and when the broker was not ready";
  for (int second = 0; second < 9; ++second) results.tick();
  EXPECT_EQ(said.size(), 3U);
  results.tick();
  EXPECT_EQ(said.size(), 4U) << "and after silence";
  link = false;
  for (int second = 0; second < 10; ++second) results.tick();
  link = true;
  results.tick();
  EXPECT_EQ(said.size(), 5U) << "and when it could not leave";

  results.received(id, wire::ResultReply{}, "result");
  results.received(id, wire::ResultReply{}, "result");   // to the question asked twice
  ASSERT_EQ(answers.size(), 1U);
  EXPECT_EQ(answers[0].value(), "result");
  results.tick();
  EXPECT_EQ(said.size(), 5U);
}

TEST(ParentResults, a_refusal_and_a_dropped_result_are_answers) {
  std::vector<std::uint64_t> said;
  ParentResults results([&](const wire::Message&, std::uint64_t id, std::string_view) { return said.push_back(id), true; });
  results.link_up();
  std::vector<Errc> codes;
  const auto answered = [&](const Result<std::string>& got) { codes.push_back(got.error().code); };
  results.ask({1, 2}, {3, 4}, answered);
  results.received(said.back(), wire::Failure{"REFUSED", "not yours", ""}, {});
  results.ask({1, 2}, {3, 4}, answered);
  wire::ResultReply dropped;
  dropped.item.code = "RESULT_EXPIRED";
  results.received(said.back(), dropped, {});
  results.ask({1, 2}, {3, 4}, answered);
  results.received(said.back(), wire::Failure{"A_CODE_OF_TOMORROW", "", ""}, {});
  EXPECT_EQ(codes, (std::vector{Errc::refused, Errc::result_expired, Errc::internal}));
}

}  // namespace
}  // namespace gq::worker

// worker_shares_test.cpp - inputs and artefacts on folders that both sides see, and memory booked for somebody else, through the real
// broker and the real worker.
#include <filesystem>

#include "tests/integration/worker_story.h"

namespace gq::test {
namespace {

namespace fs = std::filesystem;

struct WorkerShares : WorkerStory {
  void SetUp() override {
    WorkerStory::SetUp();
    fs::create_directories(dir.path("boards/run1"));
    std::ofstream(dir.path("boards/a.txt")) << "by reference";
    start_worker({"--share", "boards=" + dir.path("boards")});
  }
  static wire::Part shared(const std::string& name, const std::string& reference) {
    wire::Part part;
    part.name = name;
    part.share = reference;
    return part;
  }
  JobId shell_with(const std::string& script, const wire::Part& input, const std::string& outputs = {}) {
    wire::JobBody body;
    body.parts = {input};
    body.outputs = outputs;
    return command({"/bin/sh", "-c", script}, body);
  }
};

TEST_F(WorkerShares, a_command_reads_the_file_itself_and_not_a_copy) {
  const Final end = final_of(shell_with("cat $GPUQ_INPUT_DIR/in.txt; test -L $GPUQ_INPUT_DIR/in.txt", shared("in.txt", "boards/a.txt")));
  EXPECT_EQ(end.state, JobState::succeeded) << end.what;
  EXPECT_EQ(end.parts.at("gpuq-log.txt"), "by reference");
}

TEST_F(WorkerShares, a_folder_is_an_input_too) {
  std::ofstream(dir.path("boards/run1/b.txt")) << "b";
  const Final end = final_of(shell_with("ls $GPUQ_INPUT_DIR/data/", shared("data", "boards/run1")));
  EXPECT_EQ(end.parts.at("gpuq-log.txt"), "b.txt\n") << end.what;
}

TEST_F(WorkerShares, artefacts_lie_on_the_share_and_the_log_comes_with_the_result) {
  const JobId id = shell_with("mkdir $GPUQ_OUTPUT_DIR/sub; echo mask > $GPUQ_OUTPUT_DIR/sub/mask.txt; echo said", shared("in.txt", "boards/a.txt"), "boards/results");
  const wire::NotifyItem item = client->final_of(id);
  ASSERT_EQ(static_cast<JobState>(item.state), JobState::succeeded) << item.what;
  EXPECT_EQ(slurp(dir.path("boards/results/sub/mask.txt")), "mask\n");
  const auto body = wire::decode_result_body(std::as_bytes(std::span(client->last_body)));
  ASSERT_TRUE(body.has_value());
  std::map<std::string, wire::Part> parts;
  for (const wire::Part& part : body->parts) parts[part.name] = part;
  EXPECT_EQ(parts.at("sub/mask.txt").share, "boards/results/sub/mask.txt");
  EXPECT_EQ(parts.at("sub/mask.txt").share_bytes, 5U);
  EXPECT_TRUE(parts.at("sub/mask.txt").bytes.empty());
  EXPECT_EQ(parts.at("gpuq-log.txt").bytes, "said\n");
}

TEST_F(WorkerShares, another_file_than_the_one_submitted_is_refused_with_both_sizes) {
  wire::Part part = shared("in.txt", "boards/a.txt");
  part.share_bytes = 13;
  part.share_mtime_ms = 1'700'000'000'000;
  const Final end = final_of(shell_with("cat $GPUQ_INPUT_DIR/in.txt", part));
  EXPECT_EQ(end.state, JobState::failed);
  EXPECT_EQ(end.code, "BAD_INPUT");
  EXPECT_NE(end.what.find("12 bytes, not 13"), std::string::npos) << end.what;
}

TEST_F(WorkerShares, what_is_missing_linked_or_climbs_fails_the_job_and_says_why) {
  fs::create_symlink("/etc/passwd", dir.path("boards/link"));
  for (const auto& [reference, says] : {std::pair("boards/none", "not there"), std::pair("boards/link", "symbolic link"), std::pair("boards/../a.txt", "names nothing"), std::pair("photos/a", "no share photos")}) {
    const Final end = final_of(shell_with("cat $GPUQ_INPUT_DIR/in.txt", shared("in.txt", reference)));
    EXPECT_EQ(end.state, JobState::failed) << reference;
    EXPECT_NE(end.what.find(says), std::string::npos) << end.what;
  }
}

TEST_F(WorkerShares, a_job_that_names_a_share_waits_for_a_worker_that_has_it) {
  wire::JobBody body;
  body.argv = {"/bin/true"};
  wire::SubmitItem item = job("command");
  item.where = {"share=photos"};
  const JobId waits = submit(item, body);
  item = job("command");
  item.where = {"share=boards"};
  EXPECT_EQ(final_of(submit(item, body)).state, JobState::succeeded);
  EXPECT_EQ(static_cast<JobState>(client->status(waits).state), JobState::ready);
}

struct WorkerReserves : WorkerStory {
  void SetUp() override {
    WorkerStory::SetUp();
    worker_environment = {"PATH=/usr/bin:/bin", "GPUQ_SIM_DEVICES=" + dir.path("cards")};
    others_use(0);
    start_worker({"--simulate-gpus", "8GiB"});
  }
  void others_use(int mib) {
    std::ofstream(dir.path("cards.new")) << "0 foreign=" << mib << "\n";
    fs::rename(dir.path("cards.new"), dir.path("cards"));
  }
  wire::DeviceStatus card() { return client->ask<wire::WorkersReply>(wire::WorkersQuery{}).workers.at(0).devices.at(0); }
  JobId reserve(std::int64_t mib, const std::string& ms) {
    wire::SubmitItem item = job("reserve");
    item.job_class = static_cast<std::uint8_t>(JobClass::training);
    item.budget_min_mib = item.budget_max_mib = mib;
    item.on_preempt = static_cast<std::uint8_t>(OnPreempt::never);
    wire::JobBody body;
    if (!ms.empty()) body.params["for_ms"] = ms;
    return submit(item, body);
  }
  void until_free(std::int64_t mib, const char* what) {
    loop.until([&] { return card().free_mib == mib; }, what);
    EXPECT_EQ(card().free_mib, mib) << what;
  }
};

TEST_F(WorkerReserves, what_others_use_counts_as_the_booking_and_only_more_than_it_as_foreign) {
  const std::int64_t all = card().free_mib;
  const JobId booking = reserve(3000, "3600000");
  until_running(booking);
  until_free(all - 3000, "the booking is charged");
  others_use(2500);
  loop.until([&] { return card().device.used_mib == 2500; }, "the card to show what others use");
  until_free(all - 3000, "a process within the booking is not charged twice");
  others_use(3400);
  until_free(all - 3400, "what it uses beyond the booking is foreign");
  client->ask<wire::CancelReply>(wire::CancelJobs{{booking}});
  EXPECT_EQ(final_of(booking).state, JobState::cancelled);
  until_free(all - 3400, "without the booking all of it is foreign");
}

TEST_F(WorkerReserves, a_booking_ends_by_its_time_and_one_without_a_time_is_refused) {
  EXPECT_EQ(final_of(reserve(1000, "20")).state, JobState::succeeded);
  const Final end = final_of(reserve(1000, ""));
  EXPECT_EQ(end.state, JobState::failed);
  EXPECT_EQ(end.code, "BAD_INPUT");
}

}  // namespace
}  // namespace gq::test

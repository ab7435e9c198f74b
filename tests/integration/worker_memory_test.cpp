// worker_memory_test.cpp - what a command holds of a card, by a pretend NVML, against what it was granted; real worker, real broker.
#include "tests/integration/worker_story.h"

namespace gq::test {
namespace {

/// A worker with two pretend NVIDIA cards: what NVML says of them stands in a file.
struct WorkerWithCards : WorkerStory {
  std::string cards = dir.path("cards");
  void SetUp() override {
    devices = "auto";
    worker_environment = {"GPUQ_NVML=" GPUQ_FAKE_NVML, "NVML_FAKE=two", "NVML_FAKE_FILE=" + cards, "PATH=/usr/bin:/bin"};
    WorkerStory::SetUp();
    start_worker();
  }
  void say(const std::string& text) const {   // readers see all of it or nothing
    std::ofstream(cards + ".new") << text;
    std::filesystem::rename(cards + ".new", cards);
  }
  JobId holding(std::int64_t mib, const std::string& script) {
    wire::SubmitItem item = job("command");
    item.budget_min_mib = item.budget_max_mib = mib;
    wire::JobBody body;
    body.argv = {"/bin/sh", "-c", script};
    return submit(std::move(item), body);
  }
};

TEST_F(WorkerWithCards, a_command_that_holds_more_than_it_was_granted_is_ended_as_out_of_memory) {
  const std::string pid = dir.path("pid");
  const JobId greedy = holding(3072, "echo $$ > " + pid + ".new; mv " + pid + ".new " + pid + "; trap 'echo asked to go; exit 1' TERM; while :; do sleep 0.02; done");
  until_file(pid);
  const std::string number = slurp(pid).substr(0, slurp(pid).find('\n'));
  say("0 pid=" + number + " mib=9000 used=9400\n1 pid=" + number + " mib=9000 used=9400\n");
  const Final ended = final_of(greedy);
  EXPECT_EQ(ended.state, JobState::failed);
  EXPECT_EQ(ended.code, "OOM");
  EXPECT_NE(ended.what.find("it uses 9000 MiB, 3072 were granted (a larger --vram, or gpuq.job.limit_memory()"), std::string::npos) << ended.what;
  const std::string log = ended.parts.contains("gpuq-log.txt") ? ended.parts.at("gpuq-log.txt") : "";
  EXPECT_NE(log.find("[gpuq] it uses 9000 MiB, 3072 were granted: it is ended if it stays so"), std::string::npos) << log;
  EXPECT_NE(log.find("asked to go"), std::string::npos) << "SIGTERM first: " << log;
}

TEST_F(WorkerWithCards, a_command_within_its_budget_is_left_alone_and_knows_what_its_frameworks_may_use) {
  const std::string pid = dir.path("pid"), go = dir.path("go");
  const JobId modest = holding(3072, "echo $$ > " + pid + ".new; mv " + pid + ".new " + pid + "; while [ ! -e " + go + " ]; do sleep 0.02; done; env");
  until_file(pid);
  const std::string number = slurp(pid).substr(0, slurp(pid).find('\n'));
  say("0 pid=" + number + " mib=3100 used=3500\n1 pid=" + number + " mib=3100 used=3500\n");
  loop.until([&] {
    for (const wire::WorkerStatus& w : client->ask<wire::WorkersReply>(wire::WorkersQuery{}).workers)
      for (const wire::DeviceStatus& device : w.devices)
        if (device.device.used_by_us_mib == 3100) return true;
    return false;
  }, "the measurement to be told");
  EXPECT_EQ(client->status(modest).state, static_cast<std::uint8_t>(JobState::running));
  std::ofstream(go) << "now";
  const Final ended = final_of(modest);
  EXPECT_EQ(ended.state, JobState::succeeded);
  const std::string& log = ended.parts.at("gpuq-log.txt");
  EXPECT_NE(log.find("CUDA_VISIBLE_DEVICES=GPU-0000000"), std::string::npos) << log;
  EXPECT_NE(log.find("CUPY_GPU_MEMORY_LIMIT=" + std::to_string(2372LL << 20)), std::string::npos) << log;
  EXPECT_NE(log.find("TF_FORCE_GPU_ALLOW_GROWTH=true"), std::string::npos) << log;
  EXPECT_EQ(log.find("were granted"), std::string::npos) << log;
}

}  // namespace
}  // namespace gq::test

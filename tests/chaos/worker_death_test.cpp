// worker_death_test.cpp - a worker killed, frozen, or left alone by its broker.
#include "tests/integration/worker_story.h"

namespace gq::test {
namespace {

struct WorkerDeath : WorkerStory {
  void SetUp() override {
    WorkerStory::SetUp();
    const std::string libexec = dir.path("libexec");
    std::filesystem::create_directories(libexec);
    for (const char* name : {"gpuq-modelhost", "gpuq-trainer"}) std::filesystem::copy_file(GPUQ_FAKE_CHILD, libexec + "/" + name);
    worker_environment = {"PATH=/usr/bin:/bin", "GPUQ_LIBEXEC=" + libexec, "GPUQ_TEST_PIDS=" + dir.path("pids")};
  }
  std::vector<pid_t> pids_in(const std::string& name) {
    std::vector<pid_t> out;
    std::ifstream in(dir.path(name));
    for (pid_t pid = 0; in >> pid;) out.push_back(pid);
    return out;
  }
};

TEST_F(WorkerDeath, kill_minus_nine_leaves_no_child_and_no_grandchild) {
  start_worker();
  wire::JobBody body;
  body.params["steps"] = "1000000";
  auto training = job("train.detector");
  training.budget_min_mib = training.budget_max_mib = 2048;   // without a word it would take all there is
  const JobId trained = submit(training, body);
  const std::string note = dir.path("command-pids");
  shell("trap '' TERM HUP; echo $$ >> " + note + "; (trap '' TERM HUP; sh -c 'echo $$ >> " + note + "; exec sleep 600') & wait");
  loop.until([&] { return pids_in("command-pids").size() == 2 && client->status(trained).progress_step > 0; }, "both jobs to run");
  std::vector<pid_t> pids = pids_in("command-pids");
  for (const pid_t pid : pids_in("pids")) pids.push_back(pid);
  for (const pid_t pid : children_of(program.pid())) pids.push_back(pid);
  ASSERT_GE(pids.size(), 4U) << "trainer, shell, grandchild, guardian";
  program.signal(SIGKILL);
  program.wait();
  for (const pid_t pid : pids) loop.until([&] { return !alive(pid); }, "process " + std::to_string(pid) + " to end", 5s);
}

TEST_F(WorkerDeath, ctrl_c_gives_running_jobs_back_and_leaves_nothing) {
  start_worker();
  const std::string note = dir.path("command-pids");
  const JobId id = shell("trap '' TERM INT; echo $$ > " + note + "; while :; do sleep 0.02; done");
  until_file(note);
  program.signal(SIGINT);
  EXPECT_EQ(program.wait(), 0) << program.log();
  for (const pid_t pid : pids_in("command-pids")) EXPECT_FALSE(alive(pid));
  loop.until([&] { return client->status(id).state == static_cast<std::uint8_t>(JobState::ready); }, "the job to stand in line again");
  EXPECT_TRUE(!std::filesystem::exists(scratch() + "/attempts") || std::filesystem::is_empty(scratch() + "/attempts"));
}

TEST_F(WorkerDeath, a_frozen_worker_comes_back_and_its_work_counts_once) {
  start_worker();
  client->remember_finals();
  const std::string gate = dir.path("gate");
  const std::string note = dir.path("ran");
  const JobId id = shell("echo x >> " + note + "; while [ ! -e " + gate + " ]; do sleep 0.02; done");
  until_file(note);
  program.signal(SIGSTOP);
  loop.run_for(6s);                     // longer than the silence that ends new work, shorter than the lease
  std::ofstream(gate) << "open";
  program.signal(SIGCONT);
  loop.until([&] { return client->finals.contains(id); }, "the end", 20s);
  EXPECT_EQ(client->finals[id].first.state, static_cast<std::uint8_t>(JobState::succeeded));
  EXPECT_EQ(client->finals[id].first.attempt, 1U);
  EXPECT_EQ(slurp(note), "x\n");
  EXPECT_NE(program.log().find("thawed"), std::string::npos) << program.log();
}

struct BrokerAway : WorkerStory {
  void SetUp() override { start(); }   // with its managed Redis: it has to remember
};

TEST_F(BrokerAway, a_result_made_while_the_broker_was_away_is_delivered_when_it_is_back) {
  start_worker();
  const std::string gate = dir.path("gate");
  const std::string note = dir.path("ran");
  const JobId id = shell("echo x >> " + note + "; while [ ! -e " + gate + " ]; do sleep 0.02; done; printf kept > $GPUQ_OUTPUT_DIR/result");
  until_file(note);
  broker.kill();
  std::ofstream(gate) << "open";
  loop.until([&] { return program.log().find("broker_lost") != std::string::npos; }, "the worker to notice");
  broker.restart();
  client = new_client("ada2");
  loop.until([&] { return client->status(id).state == static_cast<std::uint8_t>(JobState::succeeded); }, "the result", 30s);
  EXPECT_EQ(client->status(id).attempt, 1U);
  EXPECT_EQ(slurp(note), "x\n");
}

/// Between the trainer's end and the broker's verdict: the broker is away, and then the worker is killed, too.
TEST_F(BrokerAway, a_result_of_a_worker_killed_before_its_verdict_is_accepted_once_when_both_are_back) {
  const std::string libexec = dir.path("libexec");
  std::filesystem::create_directories(libexec);
  std::filesystem::copy_file(GPUQ_FAKE_CHILD, libexec + "/gpuq-trainer");
  worker_environment = {"PATH=/usr/bin:/bin", "GPUQ_LIBEXEC=" + libexec, "GPUQ_TEST_PIDS=" + dir.path("pids")};
  start_worker();
  wire::JobBody body;
  body.params["steps"] = "300";
  const JobId id = submit(job("train.detector"), body);
  loop.until([&] { return client->status(id).progress_step > 0; }, "the training to run");
  broker.kill();
  const auto entries = [&] {
    std::size_t n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(scratch() + "/journal")) n += entry.path().extension() != ".tmp" ? 1U : 0U;
    return n;
  };
  loop.until([&] { return entries() == 1; }, "its end to be written down", 30s);
  program.signal(SIGKILL);
  program.wait();
  broker.restart();
  client = new_client("ada2");
  start_worker();
  loop.until([&] { return client->status(id).state == static_cast<std::uint8_t>(JobState::succeeded); }, "the result", 30s);
  EXPECT_EQ(client->status(id).attempt, 1U);
  std::ifstream pids(dir.path("pids"));
  EXPECT_EQ(std::count(std::istreambuf_iterator<char>(pids), {}, '\n'), 1) << "one trainer ran";
  loop.until([&] { return entries() == 0; }, "the entry to go");
}

}  // namespace
}  // namespace gq::test

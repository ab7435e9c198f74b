// worker_children_test.cpp - the supervisor and children that answer, crash, hang, lie and die: jobs are told apart, the worker lives on.
#include <sys/stat.h>

#include <algorithm>

#include "tests/integration/worker_story.h"

namespace gq::test {
namespace {

struct WorkerChildren : WorkerStory {
  void SetUp() override {
    WorkerStory::SetUp();
    const std::string libexec = dir.path("libexec");
    std::filesystem::create_directories(libexec);
    for (const char* name : {"gpuq-modelhost", "gpuq-trainer"}) std::filesystem::copy_file(GPUQ_FAKE_CHILD, libexec + "/" + name);
    worker_environment = {"PATH=/usr/bin:/bin", "GPUQ_LIBEXEC=" + libexec, "GPUQ_CHILD_HANG_S=1", "GPUQ_TEST_PIDS=" + dir.path("pids")};
    admin = new_client("root", net::Role::admin);
    push_model("yolo", "weights");
  }
  JobId infer(const std::string& what = {}, const std::string& model = "yolo", std::uint32_t retries = 0) {
    auto item = job("infer");
    item.model = model;
    item.retries = retries;
    wire::JobBody body;
    if (!what.empty()) body.params["do"] = what;
    body.parts.push_back({"x", "application/octet-stream", "input", {}, 0, ""});
    return submit(item, body);
  }
  JobId train(const std::string& steps) {
    wire::JobBody body;
    body.params["steps"] = steps;
    return submit(job("train.detector"), body);
  }
  /// A command on two devices, a process on each.
  JobId gang(const std::string& script) {
    wire::JobBody body;
    body.argv = {"/bin/sh", "-c", script};
    body.per_device = true;
    auto item = job("command");
    item.devices = 2;
    return submit(item, body);
  }
  std::vector<pid_t> children_seen() {
    std::vector<pid_t> out;
    std::ifstream in(dir.path("pids"));
    for (pid_t pid = 0; in >> pid;) out.push_back(pid);
    return out;
  }
};

TEST_F(WorkerChildren, a_model_is_loaded_once_and_answers_many_jobs_from_one_process) {
  start_worker();
  for (int i = 0; i < 20; ++i) {
    const Final end = final_of(infer());
    ASSERT_EQ(end.state, JobState::succeeded) << end.code << ": " << end.what;
    EXPECT_EQ(end.parts, (std::map<std::string, std::string>{{"x", "input"}}));
    EXPECT_EQ(end.values.at("model").rfind("yolo@", 0), 0U);
    EXPECT_EQ(end.values.at("budget_mib"), "1024") << "what was granted, though the model was pushed without a word about it";
  }
  EXPECT_EQ(children_seen().size(), 1U);
}

TEST_F(WorkerChildren, a_large_result_becomes_a_blob_and_a_large_input_arrives_as_a_file) {
  start_worker();
  const std::string large(500'000, 'i');
  const BlobDigest blob = put_blob(*client, large);
  auto item = job("infer");
  item.model = "yolo";
  item.blobs = {blob};
  wire::JobBody body;
  body.params["do"] = "big";
  body.parts.push_back({"image", "image/png", "", blob, large.size(), ""});
  const Final end = final_of(submit(item, body));
  ASSERT_EQ(end.state, JobState::succeeded) << end.what;
  EXPECT_EQ(end.parts.at("big"), std::string(300'000, 'B'));
  EXPECT_EQ(end.parts.at("image") == large, true);
}

TEST_F(WorkerChildren, an_input_that_has_a_name_and_no_digest_leaves_with_its_job) {
  start_worker();
  const std::string large(500'000, 'n');
  BlobDigest name;
  std::copy(kBriefName.begin(), kBriefName.end(), name.bytes.begin());
  name.bytes[31] = 1;
  EXPECT_EQ(client->ask<wire::Failure>(wire::BlobPut{name, large.size(), 0}).code, "BAD_MESSAGE") << "it could not be kept";
  auto reply = client->ask<wire::BlobPutReply>(wire::BlobPut{name, large.size(), 0, true});
  while (!reply.complete) reply = client->ask<wire::BlobPutReply>(wire::BlobPut{name, large.size(), reply.next, true}, std::string_view(large).substr(reply.next, 256U << 10U));
  auto item = job("infer");
  item.model = "yolo";
  item.blobs = {name};
  item.durability = 1;
  wire::JobBody body;
  body.parts.push_back({"image", "image/png", "", name, large.size(), ""});
  const Final end = final_of(submit(item, body));
  ASSERT_EQ(end.state, JobState::succeeded) << end.what;
  EXPECT_TRUE(end.parts.at("image") == large);
  loop.until([&] { return !std::filesystem::exists(scratch() + "/cache/" + to_string(name)); }, "the worker's copy to be gone");
  auto kept = job("infer");
  kept.model = "yolo";
  kept.blobs = {name};
  EXPECT_EQ(client->answer<wire::Submitted>(client->say_submit({kept})).items.at(0).code, "UNKNOWN_BLOB") << "a durable job may not name it";
}

TEST_F(WorkerChildren, a_crash_is_the_running_jobs_own_loss_and_three_of_them_quarantine_it) {
  start_worker();
  const Final end = final_of(infer("crash"));
  EXPECT_EQ(end.state, JobState::quarantined) << end.what;
  EXPECT_NE(end.what.find("signal 11"), std::string::npos) << end.what;
  EXPECT_EQ(children_seen().size(), 3U);
  EXPECT_EQ(final_of(infer()).state, JobState::succeeded) << "and the worker goes on";
}

TEST_F(WorkerChildren, garbage_costs_the_child_its_life_and_not_the_worker) {
  start_worker();
  const Final end = final_of(infer("garbage"));
  EXPECT_EQ(end.state, JobState::quarantined);
  EXPECT_NE(end.what.find("malformed frame"), std::string::npos) << end.what;
  EXPECT_EQ(final_of(infer()).state, JobState::succeeded);
}

TEST_F(WorkerChildren, a_child_that_answers_no_ping_is_killed_and_its_job_has_crashed) {
  start_worker();
  const JobId hung = infer("hang");
  loop.until([&] { return client->status(hung).losses == 1; }, "the first hang to be noticed");
  EXPECT_NE(client->status(hung).what.find("hangs"), std::string::npos);
  client->ask<wire::CancelReply>(wire::CancelJobs{{hung}});
  EXPECT_EQ(final_of(hung).state, JobState::cancelled);
  EXPECT_EQ(final_of(infer()).state, JobState::succeeded);
}

TEST_F(WorkerChildren, failures_keep_their_codes_and_only_some_are_final) {
  start_worker();
  const Final bad = final_of(infer("fail", "yolo", 3));
  EXPECT_EQ(bad.state, JobState::failed);
  EXPECT_EQ(bad.code, "BAD_IMAGE");
  EXPECT_EQ(bad.attempt, 1U);
  const Final oom = final_of(infer("oom", "yolo", 1));
  EXPECT_EQ(oom.code, "OOM");
  EXPECT_EQ(oom.attempt, 2U) << "memory may be free the next time";
  EXPECT_EQ(final_of(infer("escape")).code, "BAD_MESSAGE");
}

TEST_F(WorkerChildren, a_model_that_cannot_be_loaded_fails_its_jobs_with_the_reason) {
  push_model("wreck", "broken weights");
  start_worker();
  const Final end = final_of(infer("", "wreck", 3));
  EXPECT_EQ(end.state, JobState::failed);
  EXPECT_EQ(end.code, "BAD_MODEL");
  EXPECT_NE(end.what.find("it is broken"), std::string::npos);
}

TEST_F(WorkerChildren, a_child_that_never_comes_up_fails_jobs_instead_of_holding_them) {
  worker_environment.push_back("GPUQ_TEST_DIE_AT_START=1");
  start_worker();
  const Final end = final_of(infer());
  EXPECT_EQ(end.state, JobState::failed);
  EXPECT_EQ(end.code, "CHILD_CRASHED");
}

TEST_F(WorkerChildren, a_trainer_reports_progress_checkpoints_and_its_artefacts) {
  start_worker();
  const JobId id = train("30");
  const Final end = final_of(id);
  ASSERT_EQ(end.state, JobState::succeeded) << end.code << ": " << end.what;
  EXPECT_EQ(end.parts.at("weights.bin"), std::string(200'000, 'w'));
  EXPECT_EQ(end.parts.at("gpuq-log.txt"), "training from step 0\n");
  const wire::JobStatus status = client->status(id);
  EXPECT_EQ(status.checkpoint_step, 15U);
}

TEST_F(WorkerChildren, a_drained_trainer_yields_and_the_next_worker_resumes_at_its_step) {
  start_worker();
  const JobId id = train("150");
  loop.until([&] { return client->status(id).progress_step >= 20; }, "twenty steps");
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0) << program.log();
  const auto at = client->status(id).checkpoint_step;
  EXPECT_GE(at, 20U);
  start_worker({}, "carl");
  const Final end = final_of(id);
  EXPECT_EQ(end.state, JobState::succeeded) << end.what;
  EXPECT_EQ(end.values.at("first_step"), std::to_string(at));
  EXPECT_EQ(client->status(id).losses, 0U);
}

TEST_F(WorkerChildren, a_trainer_preempted_by_hand_goes_on_at_the_step_where_it_left) {
  start_worker();
  const JobId id = train("150");
  loop.until([&] { return client->status(id).progress_step >= 20; }, "twenty steps");
  const auto reply = client->ask<wire::CommandReply>(wire::Command{"preempt", {id}, "", "by hand", 10'000});
  ASSERT_EQ(reply.items.size(), 1U);
  EXPECT_TRUE(reply.items[0].ok) << reply.items[0].what;
  const Final end = final_of(id);
  ASSERT_EQ(end.state, JobState::succeeded) << end.code << ": " << end.what;
  EXPECT_EQ(end.attempt, 2U);
  const wire::JobStatus status = client->status(id);
  EXPECT_GE(std::stoull(end.values.at("first_step")), 20U) << "no step is lost";
  EXPECT_EQ(status.losses + status.failures, 0U);
  EXPECT_EQ(children_seen().size(), 2U);
}

TEST_F(WorkerChildren, a_model_that_nobody_uses_makes_room_for_a_training_that_needs_the_whole_card) {
  worker_environment.push_back("GPUQ_MODEL_IDLE_S=600");
  start_worker({"--simulate-gpus", "8GiB"});
  ASSERT_EQ(final_of(infer()).state, JobState::succeeded);
  auto item = job("train.detector");
  const auto card = client->ask<wire::WorkersReply>(wire::WorkersQuery{}).workers.at(0).devices.at(0);
  item.budget_min_mib = item.budget_max_mib = card.device.total_mib - card.device.total_mib / 20 - 100;
  wire::JobBody body;
  body.params["steps"] = "20";
  const Final end = final_of(submit(item, body));
  EXPECT_EQ(end.state, JobState::succeeded) << end.code << ": " << end.what;
  EXPECT_NE(program.log().find("model_evicted"), std::string::npos) << program.log();
  EXPECT_EQ(final_of(infer()).state, JobState::succeeded);
}

TEST_F(WorkerChildren, cancelling_a_trainer_ends_its_process) {
  start_worker();
  const JobId id = train("1000000");
  loop.until([&] { return client->status(id).progress_step >= 3; }, "steps");
  client->ask<wire::CancelReply>(wire::CancelJobs{{id}});
  EXPECT_EQ(final_of(id).state, JobState::cancelled);
  const auto pids = children_seen();
  ASSERT_EQ(pids.size(), 1U);
  loop.until([&] { return !alive(pids[0]); }, "the trainer to end");
}

TEST_F(WorkerChildren, an_unused_model_leaves_the_device_and_comes_back_when_it_is_asked_for) {
  worker_environment.push_back("GPUQ_MODEL_IDLE_S=1");
  start_worker();
  ASSERT_EQ(final_of(infer()).state, JobState::succeeded);
  const auto warm = [&] {
    std::size_t n = 0;
    for (const auto& seen : client->ask<wire::WorkersReply>(wire::WorkersQuery{}).workers)
      for (const auto& device : seen.devices) n += device.warm.size() + device.holders.size();
    return n;
  };
  loop.until([&] { return warm() == 0; }, "the idle model to be unloaded and its memory given back");
  EXPECT_NE(program.log().find("model_evicted"), std::string::npos) << program.log();
  EXPECT_EQ(final_of(infer()).state, JobState::succeeded);
  EXPECT_EQ(children_seen().size(), 1U) << "the modelhost itself stays";
}

TEST_F(WorkerChildren, a_hot_card_takes_no_work_and_comes_back_when_it_has_cooled_down) {
  const std::string cards = dir.path("cards");
  const auto temperature = [&](int celsius) {
    std::ofstream(cards + ".new") << "0 temperature=" << celsius << "\n";
    std::filesystem::rename(cards + ".new", cards);
    loop.until([&] {
      const auto seen = client->ask<wire::WorkersReply>(wire::WorkersQuery{}).workers;
      return !seen.empty() && seen[0].devices[0].device.temperature_c == celsius;
    }, std::to_string(celsius) + " degrees to be told");
  };
  worker_environment.push_back("GPUQ_SIM_DEVICES=" + cards);
  start_worker({"--simulate-gpus", "8GiB"});
  temperature(91);
  const JobId held = infer();
  const auto still_waits = [&] {
    EXPECT_EQ(final_of(submit(job("echo"))).state, JobState::succeeded) << "what needs no card goes on";
    return client->status(held).attempt == 0 && client->status(held).state == static_cast<std::uint8_t>(JobState::ready);
  };
  EXPECT_TRUE(still_waits());
  temperature(79);
  EXPECT_TRUE(still_waits()) << "cooler than where it went out, but not yet where it comes back";
  temperature(70);
  EXPECT_EQ(final_of(held).state, JobState::succeeded);
}

// ---- a process for each device

TEST_F(WorkerChildren, a_gang_is_a_process_for_each_device_that_knows_its_rank) {
  start_worker({"--simulate-gpus", "8GiB,8GiB"});
  const Final done = final_of(gang("echo rank $RANK/$LOCAL_RANK of $WORLD_SIZE/$LOCAL_WORLD_SIZE at $MASTER_ADDR port ${MASTER_PORT:+set} progress ${GPUQ_PROGRESS_FD:-none}; exit 0"));
  EXPECT_EQ(done.state, JobState::succeeded) << done.what;
  const std::string log = done.parts.at("gpuq-log.txt");
  EXPECT_NE(log.find("rank 0/0 of 2/2 at 127.0.0.1 port set progress 3\n"), std::string::npos) << log;
  EXPECT_NE(log.find("rank 1/1 of 2/2 at 127.0.0.1 port set progress none\n"), std::string::npos) << log;
}

TEST_F(WorkerChildren, a_rank_that_fails_takes_the_others_along_and_its_code_is_the_jobs) {
  start_worker({"--simulate-gpus", "8GiB,8GiB"});
  const std::string ready = dir.path("ready");   // rank 1 fails when rank 0 can be told
  ASSERT_EQ(::mkfifo(ready.c_str(), 0600), 0);
  const Final failed = final_of(gang("if [ $RANK = 1 ]; then read line < " + ready + "; exit 7; fi; trap 'echo told; exit 0' TERM; echo up > " + ready + "; sleep 60 & wait"));
  EXPECT_EQ(failed.state, JobState::failed);
  EXPECT_EQ(failed.values.at("exit_code"), "7");
  EXPECT_NE(failed.parts.at("gpuq-log.txt").find("told\n"), std::string::npos);
  EXPECT_NE(failed.parts.at("gpuq-log.txt").find("[gpuq] rank 1 ended with code 7\n"), std::string::npos);
  const Final killed = final_of(gang("if [ $RANK = 0 ]; then kill -KILL $$; fi; exec sleep 60"));
  EXPECT_EQ(killed.state, JobState::failed);
  EXPECT_EQ(killed.values.at("signal"), "9");
  EXPECT_EQ(final_of(gang("exec no-such-program")).values.at("exit_code"), "127");
}

TEST_F(WorkerChildren, a_gang_that_is_asked_to_leave_has_yielded_when_its_ranks_have) {
  start_worker({"--simulate-gpus", "8GiB,8GiB"});
  const std::string marks = dir.path("rank-");
  const JobId id = gang("trap 'exit 75' TERM; echo up > " + marks + "$RANK; sleep 60 & wait");
  until_file(marks + "0");
  until_file(marks + "1");
  EXPECT_TRUE(client->ask<wire::CommandReply>(wire::Command{"hold", {id}, {}, {}, 0}).items.at(0).ok);
  EXPECT_TRUE(client->ask<wire::CommandReply>(wire::Command{"preempt", {id}, {}, {}, 0}).items.at(0).ok);
  loop.until([&] { return client->status(id).preemptions == 1; }, "the gang to have yielded");
  EXPECT_EQ(client->status(id).state, static_cast<std::uint8_t>(JobState::ready));
}

TEST_F(WorkerChildren, simulated_cards_are_offered_and_their_children_run_on_the_cpu) {
  start_worker({"--simulate-gpus", "24GiB,8GiB"});
  const auto workers = client->ask<wire::WorkersReply>(wire::WorkersQuery{});
  ASSERT_EQ(workers.workers.size(), 1U);
  std::vector<std::string> uuids;
  for (const auto& device : workers.workers[0].devices) uuids.push_back(device.device.uuid + " " + std::to_string(device.device.total_mib));
  EXPECT_EQ(uuids, (std::vector<std::string>{"GPU-sim-bert-0 24576", "GPU-sim-bert-1 8192"}));
  EXPECT_EQ(final_of(infer()).state, JobState::succeeded);
}

struct WorkerPauses : WorkerChildren {
  void SetUp() override {
    std::ofstream(dir.path("gpuq.toml")) << "[class.training]\npause_for = [\"inference\"]\n";
    policy = {"--config", dir.path("gpuq.toml")};
    WorkerChildren::SetUp();
  }
};

TEST_F(WorkerPauses, a_trainer_stands_still_while_inference_is_queued_or_runs_on_its_device) {
  start_worker({"--pause-slice", "0s"});
  final_of(infer());   // the model is warm
  const JobId training = train("1000000");
  until_running(training);
  loop.until([&] { return client->status(training).progress_step > 3; }, "it trains");
  wire::JobBody gate;
  gate.params = {{"do", "wait"}, {"gate", dir.path("gate")}};
  gate.parts.push_back({"x", "application/octet-stream", "input", {}, 0, ""});
  auto item = job("infer");
  item.model = "yolo";
  const JobId held_for = submit(item, gate);
  until_file(dir.path("gate") + ".waiting");
  loop.until([&] { return client->status(training).last_lines.find("held at step") != std::string::npos; }, "it is told to stand still");
  loop.until([&] { return client->status(training).metrics["paused"] == 1; }, "status says so");
  EXPECT_EQ(client->status(training).last_lines.find("goes on"), std::string::npos);
  std::ofstream(dir.path("gate")) << "open";
  EXPECT_EQ(final_of(held_for).state, JobState::succeeded);
  loop.until([&] { return client->status(training).last_lines.find("goes on at step") != std::string::npos; }, "it may go on");
  const auto step = client->status(training).progress_step;
  loop.until([&] { return client->status(training).progress_step > step; }, "it trains again");
  const auto shown = client->status(training);
  EXPECT_EQ(shown.metrics.at("paused"), 0);
  EXPECT_GT(shown.metrics.at("paused_s"), 0);
  EXPECT_EQ(shown.attempt, 1U);
}

TEST_F(WorkerPauses, a_held_trainer_that_must_leave_saves_and_yields) {
  start_worker({"--pause-slice", "0s"});
  auto small = job("train.detector");
  small.budget_min_mib = small.budget_max_mib = 512;   // room for both: a pause frees none
  wire::JobBody endless;
  endless.params["steps"] = "1000000";
  const JobId training = submit(small, endless);
  until_running(training);
  loop.until([&] { return client->status(training).progress_step > 3; }, "it trains");
  auto wait = job("command");
  wait.job_class = static_cast<std::uint8_t>(JobClass::inference);
  wait.budget_min_mib = wait.budget_max_mib = 256;
  wire::JobBody body;
  body.argv = {"/bin/sh", "-c", "while [ ! -e " + dir.path("gate") + " ]; do sleep 0.02; done"};
  const JobId serving = submit(wait, body);
  loop.until([&] { return client->status(training).last_lines.find("held at step") != std::string::npos; }, "it stands still");
  wire::Command ask;
  ask.verb = "preempt";
  ask.jobs = {training};
  admin->ask<wire::CommandReply>(ask);
  loop.until([&] { return client->status(training).preemptions == 1; }, "it left with its state saved");
  EXPECT_GT(client->status(training).checkpoint_step, 0U);
  std::ofstream(dir.path("gate")) << "open";
  EXPECT_EQ(final_of(serving).state, JobState::succeeded);
}

}  // namespace
}  // namespace gq::test

// worker_life_test.cpp - gpuq-worker as a process: echo, sleep and command through the real broker with CURVE.
#include "tests/integration/worker_story.h"

namespace gq::test {
namespace {

using WorkerLife = WorkerStory;

TEST_F(WorkerLife, echo_gives_back_the_parts_as_they_were) {
  start_worker();
  wire::JobBody body;
  body.parts.push_back({"text", "text/plain", std::string("hel\0lo", 6), {}, 0, ""});
  const Final end = final_of(submit(job("echo"), body));
  EXPECT_EQ(end.state, JobState::succeeded);
  EXPECT_EQ(end.parts, (std::map<std::string, std::string>{{"text", std::string("hel\0lo", 6)}}));
}

TEST_F(WorkerLife, a_thousand_echoes_all_come_back) {
  start_worker({"--slots", "64"});
  client->remember_finals();
  std::vector<JobId> ids;
  for (int batch = 0; batch < 10; ++batch) {
    std::vector<wire::SubmitItem> items;
    std::vector<std::string> bodies;
    for (int i = 0; i < 100; ++i) {
      ids.push_back(new_job_id());
      items.push_back(job("echo", ids.back()));
      wire::JobBody body;
      body.parts.push_back({"n", "", std::to_string(ids.size()), {}, 0, ""});
      bodies.push_back(wire::encode(body));
    }
    client->submit(items, bodies);
  }
  loop.until([&] { return client->finals.size() == ids.size(); }, "1000 ends", 30s);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto& [notice, payload] = client->finals[ids[i]];
    const auto body = wire::decode_result_body(std::as_bytes(std::span(payload)));
    ASSERT_TRUE(body && body->parts.size() == 1);
    EXPECT_EQ(body->parts[0].bytes, std::to_string(i + 1));
  }
}

TEST_F(WorkerLife, sleep_takes_its_time_and_can_be_cancelled) {
  start_worker();
  wire::JobBody body;
  body.params["ms"] = "30";
  EXPECT_EQ(final_of(submit(job("sleep"), body)).state, JobState::succeeded);
  body.params["ms"] = "600000";
  const JobId id = submit(job("sleep"), body);
  until_running(id);
  client->ask<wire::CancelReply>(wire::CancelJobs{{id}});
  EXPECT_EQ(final_of(id).state, JobState::cancelled);
  body.params["ms"] = "a while";
  const Final bad = final_of(submit(job("sleep"), body));
  EXPECT_EQ(bad.state, JobState::failed);
  EXPECT_EQ(bad.code, "BAD_INPUT");
}

TEST_F(WorkerLife, a_command_succeeds_with_its_outputs_its_log_and_its_exit_code) {
  start_worker();
  const Final end = final_of(shell("echo one; echo two >&2; mkdir -p $GPUQ_OUTPUT_DIR/sub; printf small > $GPUQ_OUTPUT_DIR/sub/a.txt; "
                                   "head -c 200000 /dev/zero > $GPUQ_OUTPUT_DIR/big.bin"));
  EXPECT_EQ(end.state, JobState::succeeded) << end.code << " " << end.what;
  EXPECT_EQ(end.values, (std::map<std::string, std::string>{{"exit_code", "0"}}));
  EXPECT_EQ(end.parts, (std::map<std::string, std::string>{{"sub/a.txt", "small"}, {"big.bin", std::string(200'000, '\0')}, {"gpuq-log.txt", "one\ntwo\n"}}));
}

TEST_F(WorkerLife, a_command_that_fails_says_how_and_its_last_lines) {
  start_worker();
  const Final end = final_of(shell("echo it went wrong here; exit 3"));
  EXPECT_EQ(end.state, JobState::failed);
  EXPECT_EQ(end.code, "JOB_FAILED");
  EXPECT_NE(end.what.find("exit code 3"), std::string::npos) << end.what;
  EXPECT_NE(end.what.find("it went wrong here"), std::string::npos) << end.what;
  const Final killed = final_of(shell("kill -SEGV $$"));
  EXPECT_EQ(killed.state, JobState::failed);
  EXPECT_NE(killed.what.find("signal 11"), std::string::npos) << killed.what;
  const Final early = final_of(shell("exit 75"));
  EXPECT_EQ(early.state, JobState::failed) << "75 means yielded only after a request";
}

TEST_F(WorkerLife, arguments_reach_the_program_untouched) {
  start_worker();
  const std::vector<std::string> odd{"a b", "$HOME", "`id`", "; rm -rf /tmp/nothing", "*", "\"quoted\"", "new\nline", "ünïcode", "", "--", "|&<>"};
  std::vector<std::string> argv{"/usr/bin/printf", "[%s]"};
  argv.insert(argv.end(), odd.begin(), odd.end());
  const Final end = final_of(command(argv));
  std::string expected;
  for (const std::string& one : odd) expected += "[" + one + "]";
  EXPECT_EQ(end.parts.at("gpuq-log.txt"), expected);
}

TEST_F(WorkerLife, the_environment_is_exactly_what_is_promised) {
  worker_environment = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "SECRET_TOKEN=canary-4711", "GPUQ_ACCESS_FILE=/root/canary-4711", "VIRTUAL_ENV=/venv"};
  start_worker();
  wire::JobBody body;
  body.env = {{"MINE", "yes = 1"}, {"GPUQ_JOB_ID", "forged"}, {"CUDA_VISIBLE_DEVICES", "forged"}, {"LANG", "ko_KR.UTF-8"}};
  const JobId id = command({"/usr/bin/env", "-0"}, body);
  const Final end = final_of(id);
  std::map<std::string, std::string> seen;
  std::string text = end.parts.at("gpuq-log.txt");
  for (std::size_t at = 0; at < text.size();) {
    const std::string line = text.substr(at, text.find('\0', at) - at);
    seen[line.substr(0, line.find('='))] = line.substr(line.find('=') + 1);
    at += line.size() + 1;
  }
  const std::string home = scratch() + "/attempts/" + to_string(id) + "-1";
  EXPECT_EQ(seen, (std::map<std::string, std::string>{{"PATH", "/usr/bin:/bin"}, {"LANG", "ko_KR.UTF-8"}, {"VIRTUAL_ENV", "/venv"}, {"MINE", "yes = 1"},
                                                      {"GPUQ_JOB_ID", to_string(id)}, {"GPUQ_ATTEMPT", "1"}, {"GPUQ_CHECKPOINT_DIR", home + "/checkpoint"},
                                                      {"GPUQ_OUTPUT_DIR", home + "/out"}, {"GPUQ_INPUT_DIR", home + "/in"}, {"GPUQ_PROGRESS_FD", "3"},
                                                      {"GPUQ_VRAM_MIB", seen["GPUQ_VRAM_MIB"]}, {"CUDA_DEVICE_ORDER", "PCI_BUS_ID"}, {"CUDA_VISIBLE_DEVICES", ""}}));
  EXPECT_GT(std::atoi(seen["GPUQ_VRAM_MIB"].c_str()), 0);
}

TEST_F(WorkerLife, a_command_inherits_four_descriptors_and_leads_its_own_group) {
  start_worker();
  const Final end = final_of(shell("ls /proc/self/fd | sort -n | tr '\\n' ' '; readlink /proc/self/fd/0; set -- $(cat /proc/$$/stat); echo group $5 session $6 self $1; umask"));
  const std::string& text = end.parts.at("gpuq-log.txt");
  EXPECT_EQ(text.rfind("0 1 2 3 4 /dev/null\n", 0), 0U) << text << " (4 is ls itself)";
  int group = 0, session = 0, self = -1;
  ASSERT_EQ(std::sscanf(text.substr(text.find("group")).c_str(), "group %d session %d self %d", &group, &session, &self), 3) << text;
  EXPECT_EQ(group, self);
  EXPECT_EQ(session, self);
  EXPECT_NE(text.find("0077"), std::string::npos) << text;
}

TEST_F(WorkerLife, inputs_lie_in_the_input_folder_small_and_large) {
  start_worker();
  wire::JobBody body;
  body.parts.push_back({"notes/small.txt", "text/plain", "few bytes", {}, 0, ""});
  const std::string large(700'000, 'L');
  const BlobDigest blob = put_blob(*client, large);
  body.parts.push_back({"large.bin", "", "", blob, large.size(), ""});
  body.argv = {"/bin/sh", "-c", "cat $GPUQ_INPUT_DIR/notes/small.txt; wc -c < $GPUQ_INPUT_DIR/large.bin; echo spoilt >> $GPUQ_INPUT_DIR/large.bin"};
  auto item = job("command");
  item.blobs = {blob};
  EXPECT_EQ(final_of(submit(item, body)).parts.at("gpuq-log.txt"), "few bytes700000\n");
  auto again = job("command");
  again.blobs = {blob};
  EXPECT_EQ(final_of(submit(again, body)).parts.at("gpuq-log.txt"), "few bytes700000\n") << "the cached copy is not the job's to change";
}

TEST_F(WorkerLife, the_blob_of_a_broker_on_this_machine_is_copied_from_its_file) {
  start_worker();
  const std::string large(700'000, 'N');
  const BlobDigest blob = put_blob(*client, large);
  const auto reply = client->ask<wire::BlobGetReply>(wire::BlobGet{blob, 0, 0, true});
  EXPECT_EQ(reply.total, large.size());
  EXPECT_EQ(slurp(reply.path), large);
  EXPECT_TRUE(client->last_body.empty());
  const auto run = [&] {
    wire::JobBody body;
    body.parts.push_back({"large.bin", "", "", blob, large.size(), ""});
    body.argv = {"/bin/sh", "-c", "wc -c < $GPUQ_INPUT_DIR/large.bin"};
    auto item = job("command");
    item.blobs = {blob};
    const Final done = final_of(submit(item, body));
    return done.parts.contains("gpuq-log.txt") ? done.parts.at("gpuq-log.txt") : done.what;
  };
  EXPECT_EQ(run(), "700000\n");
  EXPECT_NE(http_get(broker.http, "/metrics").find("gpuq_blob_transferred_bytes_total{direction=\"out\"} 0\n"), std::string::npos) << "no byte of it went through the socket";
  const std::string cached = scratch() + "/cache/" + to_string(blob);
  ASSERT_TRUE(std::filesystem::exists(cached));
  EXPECT_FALSE(std::filesystem::equivalent(cached, reply.path)) << "jobs never see the broker's own file";

  // Its file is another one here, as behind a tunnel: the bytes come through the link all the same.
  program.signal(SIGINT);
  program.wait();
  std::filesystem::remove_all(scratch());
  std::ofstream(reply.path, std::ios::trunc) << std::string(700'000, 'X');
  start_worker();
  EXPECT_NE(run(), "700000\n") << "neither way brings the right content";
  std::ofstream(reply.path, std::ios::trunc) << large;
  EXPECT_EQ(run(), "700000\n");
}

TEST_F(WorkerLife, what_its_parents_brought_lies_in_folders_of_their_names) {
  start_worker();
  const JobId small = shell("mkdir $GPUQ_OUTPUT_DIR/a; echo hello > $GPUQ_OUTPUT_DIR/a/x; echo printed");
  const JobId large = shell("head -c 700000 /dev/zero > $GPUQ_OUTPUT_DIR/big");
  const JobId nothing = submit(job("sleep"));
  auto child = job("command");
  child.after = {small, large, nothing};
  wire::JobBody body;
  body.parts.push_back({"own", "", "mine", {}, 0, ""});
  body.argv = {"/bin/sh", "-c", "cd $GPUQ_INPUT_DIR && cat own $1/a/x && wc -c < $2/big && find . -type f | wc -l && ls -d $3 && echo more >> $1/a/x", "sh", to_string(small), to_string(large), to_string(nothing)};
  const Final end = final_of(submit(child, body));
  ASSERT_EQ(end.state, JobState::succeeded) << end.what;
  EXPECT_EQ(end.parts.at("gpuq-log.txt"), "minehello\n700000\n3\n" + to_string(nothing) + "\n") << "the parents' logs are no inputs";

  auto other_kind = job("echo");   // takes no files: asks for none
  other_kind.after = {small};
  EXPECT_EQ(final_of(submit(other_kind)).state, JobState::succeeded);
}

struct WorkerOfAForgetfulBroker : WorkerStory {
  WorkerOfAForgetfulBroker() { policy = {"--timing", "retention=1s"}; }
};

TEST_F(WorkerOfAForgetfulBroker, a_parent_whose_result_is_gone_fails_its_child_with_the_reason) {
  start_worker();
  const JobId parent = shell("echo x > $GPUQ_OUTPUT_DIR/x");
  loop.until([&] { return client->status(parent).code == "RESULT_EXPIRED"; }, "the result to be dropped by age");
  EXPECT_EQ(client->ask<wire::Failure>(wire::ResultQuery{parent}).code, "RESULT_EXPIRED") << "nobody gets an empty result for a dropped one";
  auto child = job("command");
  child.after = {parent};
  wire::JobBody body;
  body.argv = {"true"};
  const Final end = final_of(submit(child, body));
  EXPECT_EQ(end.state, JobState::failed);
  EXPECT_EQ(end.code, "RESULT_EXPIRED");
  EXPECT_NE(end.what.find(to_string(parent)), std::string::npos) << end.what;
}

TEST_F(WorkerLife, what_cannot_start_fails_for_good_with_a_reason) {
  start_worker();
  struct Case { std::vector<std::string> argv; std::string cwd; std::string code; };
  for (const Case& c : {Case{{}, "", "BAD_INPUT"}, Case{{"no-such-program"}, "", "NOT_FOUND"}, Case{{"/bin/true"}, "/no/such/folder", "NOT_HERE"}, Case{{"/etc/passwd"}, "", "NOT_FOUND"}}) {
    wire::JobBody body;
    body.argv = c.argv;
    body.cwd = c.cwd;
    auto item = job("command");
    item.retries = 5;
    const Final end = final_of(submit(item, body));
    EXPECT_EQ(end.state, JobState::failed);
    EXPECT_EQ(end.code, c.code) << end.what;
    EXPECT_EQ(end.attempt, 1U) << "no retry can mend it";
  }
  wire::JobBody body;
  body.argv = {"/bin/true"};
  body.parts.push_back({"../escape", "", "x", {}, 0, ""});
  EXPECT_EQ(final_of(submit(job("command"), body)).code, "BAD_INPUT");
}

TEST_F(WorkerLife, a_timeout_ends_the_whole_group) {
  start_worker({"--term-grace", "300ms"});
  auto item = job("command");
  item.timeout_us = 500'000;
  wire::JobBody body;
  const std::string note = dir.path("pids");
  // The grandchild ignores SIGTERM and would outlive its parent.
  body.argv = {"/bin/sh", "-c", "(trap '' TERM; echo $$ >> " + note + "; exec sleep 600) & sh -c 'trap \"\" TERM; echo $$ >> " + note + "; sleep 600' & wait"};
  const Final end = final_of(submit(item, body));
  EXPECT_EQ(end.code, "TIMED_OUT") << end.what;
  std::ifstream in(note);
  for (pid_t pid = 0; in >> pid;) loop.until([&] { return !alive(pid); }, "grandchild " + std::to_string(pid) + " to end");
}

TEST_F(WorkerLife, cancelling_a_command_stops_it_and_leaves_no_folder) {
  start_worker({"--term-grace", "300ms"});
  const JobId id = shell("trap '' TERM; while :; do sleep 0.05; done");
  until_running(id);
  client->ask<wire::CancelReply>(wire::CancelJobs{{id}});
  EXPECT_EQ(final_of(id).state, JobState::cancelled);
  loop.until([&] { return std::filesystem::is_empty(scratch() + "/attempts"); }, "the attempt's folder to go");
}

TEST_F(WorkerLife, progress_and_log_are_seen_while_it_runs) {
  start_worker();
  const std::string gate = dir.path("gate");
  const JobId id = shell("echo hello from inside; echo '{\"step\": 3, \"total\": 10, \"loss\": 0.5}' >&3; echo 'nonsense' >&3; while [ ! -e " + gate + " ]; do sleep 0.02; done");
  loop.until([&] { return client->status(id).progress_step == 3; }, "progress");
  const wire::JobStatus status = client->status(id);
  EXPECT_EQ(status.progress_total, 10U);
  EXPECT_EQ(status.metrics, (std::map<std::string, double>{{"loss", 0.5}}));
  loop.until([&] {
    client->ask<wire::LogReply>(wire::LogQuery{id, 0, false});
    return client->last_body == "hello from inside\n";
  }, "the log");
  std::ofstream(gate) << "open";
  EXPECT_EQ(final_of(id).state, JobState::succeeded);
}

TEST_F(WorkerLife, a_drained_worker_gives_a_long_job_back_with_its_checkpoint_and_the_next_one_resumes_it) {
  start_worker();
  const std::string note = dir.path("note");
  const JobId id = shell("if [ -n \"$GPUQ_RESUME_FROM\" ]; then echo resumed $(cat $GPUQ_RESUME_FROM/deep/state); exit 0; fi; "
                         "trap 'mkdir -p $GPUQ_CHECKPOINT_DIR/deep; echo step-7 > $GPUQ_CHECKPOINT_DIR/deep/state; exit 75' TERM; echo up > " + note + "; while :; do sleep 0.02; done");
  until_file(note);
  program.signal(SIGTERM);
  EXPECT_EQ(program.wait(), 0) << program.log();
  loop.until([&] { return client->status(id).state == static_cast<std::uint8_t>(JobState::ready); }, "the job to stand in line again");
  const wire::JobStatus status = client->status(id);
  EXPECT_EQ(status.losses, 0U);
  EXPECT_EQ(status.failures, 0U);
  start_worker({}, "carl");
  const Final end = final_of(id);
  EXPECT_EQ(end.state, JobState::succeeded);
  EXPECT_EQ(end.attempt, 2U);
  EXPECT_EQ(end.parts.at("gpuq-log.txt"), "resumed step-7\n");
}

TEST_F(WorkerLife, an_unknown_key_is_refused_within_seconds_and_once_ends_with_code_4) {
  net::AccessFile stranger = access("mallory", net::Role::worker, broker.workers);
  ASSERT_TRUE(net::keys_revoke(broker.keys_dir(), "mallory").has_value());
  const std::string file = dir.path("mallory.json");
  ASSERT_TRUE(net::write_access_file(file, stranger).has_value());
  program.start({GPUQ_WORKER_PROGRAM, "--access-file", file, "--broker", broker.workers, "--scratch", scratch(), "--devices", "cpu", "--once"}, dir.path("worker.log"));
  EXPECT_EQ(program.wait(15s), 4) << program.log();
  EXPECT_NE(program.log().find("KEY_REFUSED"), std::string::npos) << program.log();
}

TEST_F(WorkerLife, what_is_wrong_at_the_start_is_said_with_a_code_and_a_next_step) {
  int runs = 0;
  const auto run = [&](std::vector<std::string> more) {
    std::vector<std::string> argv{GPUQ_WORKER_PROGRAM, "--insecure", "--broker", "tcp://127.0.0.1:1", "--scratch", dir.path("other")};
    argv.insert(argv.end(), more.begin(), more.end());
    Process one;
    const std::string log = dir.path("bad" + std::to_string(++runs) + ".log");
    one.start(argv, log, {"GPUQ_NVML=none"});
    const int code = one.wait();
    return std::to_string(code) + " " + one.log();
  };
  EXPECT_EQ(run({"--devices", "GPU-nothing"}).rfind("5 error[NO_DEVICE]: no device GPU-nothing here", 0), 0U);
  EXPECT_EQ(run({"--cpu-memory", "plenty"}).rfind("2 error[USAGE]", 0), 0U);
  EXPECT_EQ(run({"--labels", "red"}).rfind("2 error[USAGE]", 0), 0U);
  EXPECT_EQ(run({"--frobnicate"}).rfind("2 error[USAGE]", 0), 0U);
  start_worker();
  EXPECT_EQ(run({"--scratch", scratch()}).rfind("2 error[USAGE]", 0), 0U) << "given twice";
  Process second;
  second.start({GPUQ_WORKER_PROGRAM, "--insecure", "--broker", "tcp://127.0.0.1:1", "--scratch", scratch()}, dir.path("second.log"));
  EXPECT_EQ(second.wait(), 5);
  EXPECT_NE(second.log().find("error[DATA_DIR_IN_USE]"), std::string::npos) << second.log();
}

}  // namespace
}  // namespace gq::test

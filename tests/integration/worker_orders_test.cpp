// worker_orders_test.cpp - the real gpuq-worker under a scripted broker: models that are to leave, jobs that are to leave, memory that is
// not free though the broker thinks so, cards that run hot, and results that outlive the worker.
#include <cstdio>
#include <filesystem>

#include "tests/integration/scripted_broker.h"

namespace gq::test {
namespace {

bool alive(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  const std::string stat(std::istreambuf_iterator<char>(in), {});
  const auto close = stat.rfind(')');
  return close != std::string::npos && stat[close + 2] != 'Z' && stat[close + 2] != 'X';
}

struct Orders : testing::Test {
  TempDir dir;
  Loop loop;
  ScriptedBroker broker{loop};
  Process program;

  void SetUp() override {
    std::filesystem::create_directories(dir.path("libexec"));
    for (const char* name : {"gpuq-modelhost", "gpuq-trainer"}) std::filesystem::copy_file(GPUQ_FAKE_CHILD, dir.path("libexec/") + name);
  }
  void TearDown() override {
    if (HasFailure()) std::fprintf(stderr, "---- worker\n%s\n", program.log().c_str());
    if (!program.running()) return;
    program.signal(SIGINT);
    program.wait();
  }
  void start_worker(const std::vector<std::string>& devices = {"--simulate-gpus", "8GiB"}) {
    std::vector<std::string> argv{"/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "GPUQ_LIBEXEC=" + dir.path("libexec"), "GPUQ_TEST_PIDS=" + dir.path("pids"),
                                  "GPUQ_SIM_DEVICES=" + dir.path("cards"), GPUQ_WORKER_PROGRAM, "--insecure", "--broker", broker.endpoint, "--name", "bert",
                                  "--scratch", dir.path("scratch"), "--term-grace", "300ms", "--ready-fd", "3"};
    argv.insert(argv.end(), devices.begin(), devices.end());
    const int before = broker.hellos;
    program.start(argv, dir.path("worker.log"), {}, true);
    ASSERT_TRUE(loop.until([&] { return broker.hellos > before; }, "HELLO"));
  }
  void cards(const std::string& text) {
    std::ofstream(dir.path("cards.new")) << text;
    std::filesystem::rename(dir.path("cards.new"), dir.path("cards"));
  }
  std::vector<pid_t> children() {
    std::vector<pid_t> out;
    std::ifstream in(dir.path("pids"));
    for (pid_t pid = 0; in >> pid;) out.push_back(pid);
    return out;
  }
  bool until_file(const std::string& path) {
    return loop.until([&] { return std::filesystem::exists(path) && std::filesystem::file_size(path) > 0; }, path);
  }
  void shell(std::uint64_t n, std::int64_t mib, const std::string& script) {
    wire::JobBody body;
    body.argv = {"/bin/sh", "-c", script};
    broker.assign(broker.item(n, "command", mib), body);
  }
  void train(std::uint64_t n, const std::string& steps, const std::string& what = {}) {
    wire::JobBody body;
    body.params["steps"] = steps;
    if (!what.empty()) body.params["do"] = what;
    broker.assign(broker.item(n, "train.detector", 1000), body);
  }
  void infer(std::uint64_t n, const std::string& what = {}, const std::string& model = "yolo") {
    auto item = broker.item(n, "infer", 600);
    item.model.name = model;
    item.model.version = "ab";
    item.model.runtime = "torchscript";
    item.model.blob = broker.keep("weights of " + model);
    if (const auto lane = broker.warm.find(model + "@ab"); lane != broker.warm.end()) item.lane = lane->second;
    wire::JobBody body;
    if (!what.empty()) body.params["do"] = what;
    body.params["gate"] = dir.path("gate");
    broker.assign(std::move(item), body);
  }
  std::size_t journal_entries() {
    std::size_t n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path("scratch/journal"))) n += entry.path().extension() != ".tmp" ? 1 : 0;
    return n;
  }
};

// ---- models

TEST_F(Orders, the_last_model_of_a_card_leaves_with_its_process_and_only_then_its_lane_closes) {
  start_worker();
  infer(1);
  ASSERT_TRUE(broker.until("succeeded 1"));
  const std::uint16_t lane = broker.warm.at("yolo@ab");
  const std::string device = broker.hello.devices[0].uuid;
  broker.say(wire::EvictModel{1, device, "yolo@ab"});
  broker.say(wire::EvictModel{1, device, "yolo@ab"});
  broker.say(wire::EvictModel{1, device, "unknown@cd"});
  ASSERT_TRUE(broker.until("closed " + std::to_string(lane)));
  ASSERT_EQ(children().size(), 1U);
  EXPECT_FALSE(alive(children()[0])) << "closed means free, the context too";
  infer(2);
  ASSERT_TRUE(broker.until("succeeded 2"));
  EXPECT_EQ(children().size(), 2U) << "and it comes back when it is asked for";
}

TEST_F(Orders, one_of_two_models_leaves_and_the_other_goes_on_in_the_same_process) {
  start_worker();
  infer(1);
  infer(2, "", "ocr");
  ASSERT_TRUE(broker.until("succeeded 1") && broker.until("succeeded 2"));
  broker.evictions = {{broker.hello.devices[0].uuid, "yolo@ab"}};   // repeated in every beat
  ASSERT_TRUE(loop.until([&] { return !broker.warm.contains("yolo@ab"); }, "the lane to close"));
  EXPECT_TRUE(broker.warm.contains("ocr@ab"));
  const int beats = broker.beats;
  loop.until([&] { return broker.beats >= beats + 2; }, "two more beats");
  infer(3, "", "ocr");
  ASSERT_TRUE(broker.until("succeeded 3"));
  EXPECT_EQ(children().size(), 1U);
}

TEST_F(Orders, on_a_cpu_the_model_leaves_and_its_process_stays) {
  start_worker({"--devices", "cpu", "--cpu-memory", "4GiB"});
  infer(1);
  ASSERT_TRUE(broker.until("succeeded 1") && loop.until([&] { return broker.warm.contains("yolo@ab"); }, "the lane to open"));  // either comes first
  broker.say(wire::EvictModel{1, broker.hello.devices[0].uuid, "yolo@ab"});
  ASSERT_TRUE(loop.until([&] { return broker.warm.empty(); }, "the lane to close"));
  infer(2);
  ASSERT_TRUE(broker.until("succeeded 2"));
  EXPECT_EQ(children().size(), 1U);
}

TEST_F(Orders, a_model_in_use_is_not_evicted_however_often_it_is_wished_for) {
  start_worker();
  infer(1, "wait");
  ASSERT_TRUE(loop.until([&] { return broker.warm.contains("yolo@ab"); }, "the model to be warm"));
  broker.evictions = {{broker.hello.devices[0].uuid, "yolo@ab"}};
  broker.say(wire::EvictModel{1, broker.hello.devices[0].uuid, "yolo@ab"});
  const int beats = broker.beats;
  loop.until([&] { return broker.beats >= beats + 3; }, "three beats");
  EXPECT_TRUE(broker.warm.contains("yolo@ab"));
  std::ofstream(dir.path("gate")) << "open";
  ASSERT_TRUE(broker.until("succeeded 1"));
  ASSERT_TRUE(loop.until([&] { return broker.warm.empty(); }, "the idle model to leave"));
}

// ---- jobs

TEST_F(Orders, a_trainer_releases_its_memory_saves_yields_and_its_place_is_free_at_once) {
  start_worker();
  train(1, "1000000");
  ASSERT_TRUE(loop.until([&] { return broker.progress[1] > 0; }, "steps"));
  broker.preempt(1, 10'000);
  ASSERT_TRUE(broker.until("yielded 1"));
  const wire::EndedItem& end = broker.ends.at(1);
  EXPECT_FALSE(end.checkpoint.empty());
  EXPECT_GT(end.checkpoint_step, 0U);
  EXPECT_EQ(broker.blobs.at(end.checkpoint), "state at " + std::to_string(end.checkpoint_step)) << "durable at the broker before it is named";
  EXPECT_EQ(end.code, "");
  const auto at = [&](const std::string& word) { return std::find(broker.words.begin(), broker.words.end(), word); };
  ASSERT_TRUE(broker.heard("released 1"));
  EXPECT_LT(at("released 1"), at("yielded 1"));
  for (const pid_t pid : children()) EXPECT_FALSE(alive(pid)) << "ended means gone";
}

TEST_F(Orders, a_trainer_that_ignores_the_deadline_is_killed_and_has_saved_nothing) {
  start_worker();
  train(1, "1000000", "stubborn");
  ASSERT_TRUE(loop.until([&] { return broker.progress[1] > 0; }, "steps"));
  broker.preempt(1, 200);
  ASSERT_TRUE(broker.until("yielded 1"));
  EXPECT_TRUE(broker.heard("released 1"));
  EXPECT_TRUE(broker.ends.at(1).checkpoint.empty());
  EXPECT_EQ(broker.ends.at(1).code, "TIMED_OUT");
  EXPECT_NE(broker.ends.at(1).what.find("deadline"), std::string::npos) << broker.ends.at(1).what;
  EXPECT_FALSE(alive(children()[0]));
}

TEST_F(Orders, a_command_that_ignores_the_deadline_is_killed_and_what_it_left_half_written_is_not_kept) {
  start_worker();
  const std::string note = dir.path("note");
  shell(1, 1000, "trap '' TERM; echo half > $GPUQ_CHECKPOINT_DIR/state; (trap '' TERM; sleep 600) & echo $$ > " + note + "; while :; do sleep 0.02; done");
  ASSERT_TRUE(until_file(note));
  broker.preempt(1, 200);
  ASSERT_TRUE(broker.until("yielded 1"));
  EXPECT_TRUE(broker.heard("released 1"));
  EXPECT_TRUE(broker.ends.at(1).checkpoint.empty());
  EXPECT_EQ(broker.ends.at(1).code, "TIMED_OUT");
}

TEST_F(Orders, a_command_that_leaves_with_75_has_saved_what_it_wrote) {
  start_worker();
  const std::string note = dir.path("note");
  shell(1, 1000, "trap 'echo whole > $GPUQ_CHECKPOINT_DIR/state; exit 75' TERM; echo up > " + note + "; while :; do sleep 0.02; done");
  ASSERT_TRUE(until_file(note));
  broker.preempt(1, 10'000);
  ASSERT_TRUE(broker.until("yielded 1"));
  EXPECT_TRUE(broker.heard("released 1"));
  ASSERT_FALSE(broker.ends.at(1).checkpoint.empty());
  EXPECT_NE(broker.blobs.at(broker.ends.at(1).checkpoint).find("whole"), std::string::npos);
  EXPECT_EQ(broker.ends.at(1).code, "");
}

TEST_F(Orders, a_sleeper_yields_at_once) {
  start_worker();
  wire::JobBody body;
  body.params["ms"] = "600000";
  auto item = broker.item(1, "sleep", 0);
  item.lane = 1;
  item.devices.clear();
  broker.assign(std::move(item), body);
  ASSERT_TRUE(broker.until("started 1"));
  broker.preempt(1, 10'000);
  ASSERT_TRUE(broker.until("yielded 1"));
}

TEST_F(Orders, a_request_that_waits_goes_back_at_once_and_one_that_computes_finishes) {
  start_worker();
  infer(1, "wait");
  ASSERT_TRUE(loop.until([&] { return broker.warm.contains("yolo@ab"); }, "the model to be warm"));
  infer(2);
  ASSERT_TRUE(until_file(dir.path("gate.waiting")));
  broker.preempt(2, 10'000);
  ASSERT_TRUE(broker.until("yielded 2"));  // what the child had said before this, the worker has heard by now: that it computes the first
  broker.preempt(1, 10'000);
  infer(3);
  broker.preempt(3, 10'000);
  ASSERT_TRUE(broker.until("yielded 3"));
  EXPECT_FALSE(broker.heard("yielded 1")) << "it was asked before the third, which went back";
  std::ofstream(dir.path("gate")) << "open";
  ASSERT_TRUE(broker.until("succeeded 1"));
}

// ---- memory

TEST_F(Orders, a_thawed_worker_starts_nothing_where_a_revoked_child_still_holds_the_memory) {
  start_worker();
  const std::string note = dir.path("note");
  shell(1, 6000, "trap '' TERM; echo $$ > " + note + "; while :; do sleep 0.02; done");
  ASSERT_TRUE(until_file(note));
  const auto child = static_cast<pid_t>(std::stoi([&] { std::ifstream in(note); std::string text; in >> text; return text; }()));
  program.signal(SIGSTOP);
  loop.run_for(4s);                     // longer than a worker may stand still unnoticed
  broker.revoke = {ScriptedBroker::grant(1)};
  const int before = broker.hellos;
  // It is told at once what else to do, as a broker does that has given its old job to somebody else.
  broker.on_hello = [&] { shell(2, 6000, "true"); };
  program.signal(SIGCONT);
  ASSERT_TRUE(loop.until([&] { return broker.hellos > before; }, "HELLO after the thaw"));
  broker.on_hello = {};
  ASSERT_TRUE(broker.until("refused 2 NO_FIT"));
  EXPECT_TRUE(broker.words.end() == std::find(broker.words.begin(), broker.words.end(), "started 2"));
  ASSERT_TRUE(loop.until([&] { return !alive(child); }, "the revoked child to end"));
  // The worker hears of it a moment later: a broker that tries again gets its way.
  for (std::uint64_t n = 3; n < 100 && !broker.heard("succeeded " + std::to_string(n - 1)); ++n) {
    shell(n, 6000, "true");
    const std::string number = std::to_string(n);
    ASSERT_TRUE(loop.until([&] { return broker.heard("succeeded " + number) || broker.heard("refused " + number + " NO_FIT"); }, "an answer"));
  }
  EXPECT_TRUE(std::any_of(broker.words.begin(), broker.words.end(), [](const std::string& w) { return w.rfind("succeeded ", 0) == 0; }));
}

TEST_F(Orders, a_start_is_refused_while_somebody_else_holds_the_memory_and_taken_when_it_is_free) {
  cards("0 foreign=6000\n");
  start_worker();
  ASSERT_TRUE(loop.until([&] { return !broker.devices.empty() && broker.devices[0].used_mib == 6000; }, "the foreign use to be seen"));
  shell(1, 4000, "true");
  ASSERT_TRUE(broker.until("refused 1 NO_FIT"));
  infer(2);
  ASSERT_TRUE(broker.until("succeeded 2")) << "600 MiB do fit";
  cards("");
  ASSERT_TRUE(loop.until([&] { return broker.devices[0].used_mib == 0; }, "the foreign use to go"));
  shell(3, 4000, "true");
  ASSERT_TRUE(broker.until("succeeded 3"));
}

TEST_F(Orders, heat_and_faults_of_a_card_are_told_within_a_beat_or_two) {
  start_worker({"--simulate-gpus", "8GiB,8GiB"});
  cards("1 temperature=91 xid=79\n");
  ASSERT_TRUE(loop.until([&] { return broker.devices.size() == 2 && broker.devices[1].temperature_c == 91; }, "the heat"));
  EXPECT_FALSE(broker.devices[1].healthy);
  EXPECT_TRUE(broker.devices[0].healthy);
  cards("1 temperature=70\n");
  ASSERT_TRUE(loop.until([&] { return broker.devices[1].temperature_c == 70 && broker.devices[1].healthy; }, "the card to be well"));
}

// ---- results

TEST_F(Orders, a_result_without_a_verdict_outlives_the_worker_and_is_said_again_until_it_has_one) {
  start_worker();
  broker.accepts = false;
  train(1, "20");
  ASSERT_TRUE(broker.until("succeeded 1"));
  const std::string said = broker.bodies.at(1);
  EXPECT_EQ(journal_entries(), 1U);
  program.signal(SIGKILL);
  program.wait();
  broker.words.clear();
  broker.bodies.clear();
  start_worker();
  EXPECT_EQ(broker.hello.running, (std::vector<wire::Grant>{ScriptedBroker::grant(1)}));
  ASSERT_TRUE(broker.until("succeeded 1"));
  EXPECT_EQ(broker.bodies.at(1), said);
  EXPECT_FALSE(broker.heard("started 1"));
  broker.say(wire::Accepted{1, {ScriptedBroker::grant(1)}, {0}});
  ASSERT_TRUE(loop.until([&] { return journal_entries() == 0; }, "the entry to go"));
  program.signal(SIGKILL);
  program.wait();
  start_worker();
  EXPECT_TRUE(broker.hello.running.empty());
}

}  // namespace
}  // namespace gq::test

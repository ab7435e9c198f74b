// cli_orders.cpp - ordering the scheduler around and asking it why: what is typed, what is printed, and the exit code. No broker.
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "client/cli/cli.h"
#include "client/cli/explain.h"
#include "client/cli/operate.h"
#include "client/cli/screen.h"
#include "client/cli/submit.h"
#include "client/cli/text.h"

namespace gq::cli {
namespace {

constexpr std::int64_t kNoon = 1'795'262'400'000;   // 2026-11-21T12:00Z
const std::string kJob = "01M7Y6FQQVPBY8903R6KHSBSG0", kOther = "01M7Y6FQQVPBY8903R6KHSBSG1";

struct Ran { int code; std::string out, err; };
Ran typed(std::vector<std::string> words) {
  std::ostringstream out, err;
  words.insert(words.begin(), {"--insecure", "--broker", "tcp://127.0.0.1:1", "--request-timeout", "100ms"});   // nobody listens there
  const int code = run(words, {out, err});
  return {code, out.str(), err.str()};
}

struct Paper {   ///< what a Cli prints on
  std::ostringstream out, err;
  Cli cli{{out, err}};
  explicit Paper(const std::string& format = "table") { cli.globals.output = format; }
};

gpuq::Explanation too_large_for_what_is_free() {
  gpuq::Explanation e;
  e.job = kJob, e.state = "ready", e.ahead = 3, e.summary = "GPU-7 is the closest: needs 12.0 GiB, 7.4 GiB is free: 4.6 GiB short", e.places_looked_at = 122;
  e.places = {{"w1", "box", "GPU-7", 0, false, "fits_the_ledger", "needs 12.0 GiB, 7.4 GiB is free", 4710, kNoon + 180'000},
              {"w1", "box", "GPU-8", 1, false, "in_its_window", "training opens at 22:00 Asia/Seoul", 0, kNoon + 26 * 3'600'000},
              {"w2", "attic", "", 0, false, "runs_this_kind", "train.detector is not among its kinds", 0, 0}};
  e.refusals = {{"fits_the_ledger", 120}, {"in_its_window", 1}, {"runs_this_kind", 1}};
  e.remedies = {{"wait_until", "wait until 13:00Z, when its window opens", kNoon + 3'600'000, 0, {}},
                {"victims", "the scheduler makes room on box/0 (GPU-7): 2 jobs are preempted", 0, 0, {kOther, kJob}},
                {"smaller_budget", "7577 MiB would fit on w1/0 now", 0, 7577, {}}};
  return e;
}

TEST(Explained, at_a_glance_one_line_one_table_and_numbered_ways_out_with_their_commands) {
  Paper paper;
  print_explanation(paper.cli, too_large_for_what_is_free(), {{"GPU-7", 7577}, {"GPU-8", 24'000}}, kNoon);
  EXPECT_EQ(paper.out.str(),
            "01M7Y6FQQVPBY8903R6KHSBSG0  ready, 3 ahead  box/0 is the closest: needs 12.0 GiB, 7.4 GiB is free: 4.6 GiB short\n"
            "\n"
            "DEVICE      FREE      FIRST NO         SHORT BY  UNTIL                            WHY\n"
            "box/0       7577 MiB  fits_the_ledger  4710 MiB  12:03:00Z (in 3m00s)             needs 12.0 GiB, 7.4 GiB is free\n"
            "box/1       23.4 GiB  in_its_window    -         2026-11-22 14:00:00Z (in 1d02h)  training opens at 22:00 Asia/Seoul\n"
            "w2 (slots)  -         runs_this_kind   -         -                                train.detector is not among its kinds\n"
            "of 122 places: 120 fits_the_ledger, 1 in_its_window, 1 runs_this_kind\n"
            "\n"
            "what would make it run\n"
            "  1. wait until 13:00Z, when its window opens\n"
            "  2. the scheduler makes room on box/0: 2 jobs are preempted\n"
            "     gpuq status 01M7Y6FQQVPBY8903R6KHSBSG1 01M7Y6FQQVPBY8903R6KHSBSG0\n"
            "  3. 7577 MiB would fit on w1/0 now\n"
            "     gpuq update 01M7Y6FQQVPBY8903R6KHSBSG0 --vram 7577MiB\n");
}

TEST(Explained, a_plan_that_would_start_and_a_job_that_never_fits_say_so_first) {
  Paper starts, never;
  gpuq::Explanation e;
  e.would_start = true, e.summary = "it would start at once on box/0", e.remedies = {{"none_needed", "nothing: it starts at its turn", 0, 0, {}}};
  print_explanation(starts.cli, e, {}, kNoon);
  EXPECT_EQ(starts.out.str(), "it would start at once on box/0\n");
  e = {};
  e.never = true, e.job = kJob, e.state = "ready", e.summary = "needs 96.0 GiB, the largest device has 24.0 GiB";
  print_explanation(never.cli, e, {}, kNoon);
  EXPECT_EQ(never.out.str(), "NO_FIT  01M7Y6FQQVPBY8903R6KHSBSG0  ready  needs 96.0 GiB, the largest device has 24.0 GiB\n");
}

TEST(Explained, a_remedy_that_names_its_command_gets_no_second_one) {
  EXPECT_EQ(command_of({"undrain", "gpuq undrain box/0", 0, 0, {}}, kJob), "");
  EXPECT_EQ(command_of({"smaller_budget", "--vram 2048MiB   (fits now)", 0, 2048, {}}, ""), "");
  EXPECT_EQ(command_of({"victims", "job X is preempted", 0, 0, {"X"}}, kJob), "") << "the scheduler does it by itself";
  EXPECT_EQ(command_of({"wait_for_jobs", "2 jobs (X, …) end", 0, 0, {"X", "Y"}}, kJob), "gpuq status X Y");
  EXPECT_EQ(command_of({"smaller_budget", "ask for less", 0, 2048, {}}, ""), "--vram 2048MiB") << "a plan has no job to update";
  EXPECT_EQ(command_of({"release_hold", "it is held", 0, 0, {}}, kJob), "gpuq release " + kJob);
  EXPECT_EQ(command_of({"add_worker", "a device of 96 GiB", 0, 98'304, {}}, kJob), "");
}

TEST(Explained, a_table_for_people_is_short_and_the_wide_one_is_whole) {
  gpuq::Explanation e = too_large_for_what_is_free();
  e.places.resize(1);
  for (int i = 1; i < 40; ++i) e.places.push_back(e.places.front());
  Paper table, wide("wide");
  print_explanation(table.cli, e, {}, kNoon);
  print_explanation(wide.cli, e, {}, kNoon);
  const auto rows = [](const std::string& text) { std::size_t n = 0; for (std::size_t at = 0; (at = text.find("box/0  ", at)) != std::string::npos; ++at) ++n; return n; };
  EXPECT_EQ(rows(table.out.str()), 12U);
  EXPECT_NE(table.out.str().find("(-o wide shows 40)"), std::string::npos);
  EXPECT_EQ(rows(wide.out.str()), 40U);
  EXPECT_NE(wide.out.str().find("GPU-7"), std::string::npos);
}

TEST(Explained, json_is_stable_and_says_null_for_what_is_not_known) {
  gpuq::Explanation e = too_large_for_what_is_free();
  e.ahead = std::numeric_limits<std::uint64_t>::max();
  const auto j = to_json(e, {{"GPU-7", 7577}});
  EXPECT_EQ(j["id"], kJob);
  EXPECT_TRUE(j["ahead"].is_null());
  EXPECT_EQ(j["places"][0].dump(),
            R"({"worker":"w1","host":"box","device":"GPU-7","index":0,"warm":false,"constraint":"fits_the_ledger","sentence":"needs 12.0 GiB, 7.4 GiB is free","free_mib":7577,"lacking_mib":4710,"until_ms":1795262580000})");
  EXPECT_TRUE(j["places"][1]["free_mib"].is_null());
  EXPECT_EQ(j["refusals"][0].dump(), R"({"constraint":"fits_the_ledger","count":120})");
  EXPECT_EQ(j["remedies"][1]["command"], "gpuq status " + kOther + " " + kJob);
  e.job.clear();
  EXPECT_TRUE(to_json(e, {})["id"].is_null());
  std::ostringstream out;
  print_object(out, true, "explanation", {{"id", nullptr}});
  print_object(out, false, "explanation", {{"id", nullptr}});
  EXPECT_EQ(out.str(), "{\"schema_version\":1,\"id\":null}\n{\n  \"schema_version\": 1,\n  \"explanation\": {\n    \"id\": null\n  }\n}\n");
}

TEST(Explained, another_policy_is_what_would_change) {
  Paper paper;
  print_policy_plan(paper.cli, {{"device 'host9/0' names nothing that is here"}, {{kJob, "runs on w1/0, where training would not be allowed"}}, {{kOther, "on w1/1"}}, {}}, "new.toml");
  EXPECT_EQ(paper.out.str(),
            "new.toml is a policy; with it, now: 1 job more would start, 0 would wait, 1 running would be stranded\n"
            "\nwarnings\n  device 'host9/0' names nothing that is here\n"
            "\nstranded: running now, and not allowed where they run\n  01M7Y6FQQVPBY8903R6KHSBSG0  runs on w1/0, where training would not be allowed\n"
            "\nwould start\n  01M7Y6FQQVPBY8903R6KHSBSG1  on w1/1\n");
  EXPECT_NE(paper.err.str().find("gpuq config reload"), std::string::npos);
}

TEST(Ordered, each_job_gets_a_line_and_the_first_refusal_gives_the_exit_code) {
  Paper paper;
  EXPECT_EQ(show_commands(paper.cli, {kJob, kOther}, {{true, "asked to leave w1/0 by 12:00:30Z", "", "", ""}, {false, "", "REFUSED", "it belongs to 'anna'", "use an admin key"}}), 4);
  EXPECT_EQ(paper.out.str(), kJob + "  asked to leave w1/0 by 12:00:30Z\n");
  EXPECT_EQ(paper.err.str(), "error[REFUSED]: job " + kOther + ": it belongs to 'anna'\n  try: use an admin key\n");
  Paper json("jsonl");
  EXPECT_EQ(show_commands(json.cli, {kJob}, {{false, "", "NOT_FOUND", "there is no such job", "gpuq list"}}), 3);
  EXPECT_EQ(json.out.str(), R"({"schema_version":1,"id":")" + kJob + R"(","ok":false,"error":{"code":"NOT_FOUND","what":"there is no such job","next":"gpuq list"}})" "\n");
}

TEST(Ordered, an_update_takes_the_words_of_submit_and_none) {
  UpdateArguments a;
  a.vram = "2GiB..rest", a.deadline = "none", a.not_before = "2h", a.timeout = "none", a.priority = 0, a.where = {"none"};
  const gpuq::JobUpdate u = update_of(a, kNoon);
  EXPECT_EQ(u.vram_mib, (std::pair{std::int64_t{2048}, std::numeric_limits<std::int64_t>::max()}));
  EXPECT_EQ(u.deadline_ms, 0);
  EXPECT_EQ(u.not_before_ms, kNoon + 7'200'000);
  EXPECT_EQ(u.timeout, std::chrono::milliseconds{0});
  EXPECT_EQ(u.priority, 0);
  EXPECT_EQ(u.where, std::vector<std::string>{});
  EXPECT_FALSE(u.retries || u.job_class || u.on_preempt) << "what was not named stays";
  a.deadline = "2001-01-01T00:00Z";
  EXPECT_THROW(update_of(a, kNoon), gpuq::Error);
}

TEST(Ordered, wrong_words_are_told_without_asking_a_broker) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"preempt"}, {"hold"}, {"release"}, {"update"}, {"update", kJob}, {"update", kJob, "--priority", "12"}, {"update", kJob, "--vram", "lots"}, {"update", kJob, "--deadline", "2001-01-01T00:00Z"},
           {"update", kJob, "--where", "gpu"}, {"update", kJob, "--on-preempt", "cry"}, {"update", kJob, "--class", "king"}, {"drain"}, {"drain", "w1", "--deadline", "soon"}, {"undrain"}, {"queue"},
           {"queue", "pause"}, {"queue", "pause", "trainig"}, {"queue", "stop", "training"}, {"config"}, {"config", "reload", "now"}, {"explain"}, {"explain", "x!"}, {"plan"}, {"plan", "submit"},
           {"plan", "submit", "detct"}, {"plan", "submit", "echo", "--vram", "lots"}, {"plan", "--config", "a.toml", "submit", "echo"}, {"preempt", kJob, "--deadline", "soon"}}) {
    const Ran ran = typed(words);
    std::string line;
    for (const std::string& word : words) line += word + " ";
    EXPECT_EQ(ran.code, 2) << line << ran.err;
  }
  EXPECT_NE(typed({"queue", "puase"}).err.find("did you mean 'pause'?"), std::string::npos);
  const Ran ran = typed({"plan", "--config", "/nowhere/gpuq.toml"});
  EXPECT_EQ(ran.code, 3);
  EXPECT_EQ(ran.err.find("UNREACHABLE"), std::string::npos) << "the file is looked at first";
}

TEST(Ordered, a_profile_that_is_not_shipped_is_said_with_those_that_are) {
  const Ran ran = typed({"up", "--profile", "nine-gpu"});
  EXPECT_EQ(ran.code, 3);
  EXPECT_NE(ran.err.find("error[NOT_FOUND]: there is no profile 'nine-gpu'"), std::string::npos) << ran.err;
  EXPECT_EQ(typed({"up", "--profile", "cpu", "--config", "gpuq.toml"}).code, 2);
}

TEST(Ordered, every_verb_reaches_for_the_broker_and_has_a_help_text_with_an_example) {
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"preempt", kJob, "--reason", "r", "--deadline", "30s"}, {"hold", kJob}, {"release", kJob, kOther}, {"update", kJob, "--priority", "9"}, {"drain", "w1/0", "--deadline", "10min"}, {"undrain", "w1"},
           {"queue", "pause", "training"}, {"queue", "resume", "training"}, {"config", "show"}, {"config", "reload"}, {"explain", kJob}, {"plan", "submit", "detect", "--model", "m"},
           {"plan", "submit", "--vram", "1GiB", "--", "ls"}}) {
    EXPECT_EQ(typed(words).code, 5) << words[0] << typed(words).err;
    EXPECT_NE(typed({words[0], "--help"}).out.find("Example"), std::string::npos) << words[0];
  }
  for (const char* shell : {"bash", "fish"}) EXPECT_NE(typed({"completion", shell}).out.find("pause"), std::string::npos);
}

TEST(Ordered, the_configuration_is_a_table_and_messages_go_elsewhere) {
  Paper paper;
  print_config(paper.cli, {"/etc/gpuq/gpuq.toml", kNoon - 60'000, {{"class.training.window", "22:00-07:00", "file", "/etc/gpuq/gpuq.toml:3:10"}, {"policy.aging", "true", "default", ""}}, {"reserved more than there is"}}, kNoon);
  EXPECT_EQ(paper.out.str(),
            "KEY                    VALUE        ORIGIN   WHERE\n"
            "class.training.window  22:00-07:00  file     /etc/gpuq/gpuq.toml:3:10\n"
            "policy.aging           true         default  -\n");
  EXPECT_EQ(paper.err.str(), "policy of /etc/gpuq/gpuq.toml, loaded 2026-11-21 11:59:00Z (1m00s ago)\nwarning: reserved more than there is\n");
}

// ---- what lists and screens say of it

gpuq::JobStatus preempted() {
  gpuq::JobStatus job;
  job.found = true, job.id = kJob, job.kind = "train.detector", job.job_class = "training", job.state = "ready", job.submitted_ms = kNoon - 61'000;
  job.preemptions = 2, job.evictions = 2, job.checkpoint_step = 1200, job.checkpoint = std::string(64, 'a');
  job.worker = "w1", job.started_ms = kNoon - 30'000, job.ended_ms = kNoon - 1'000;   // of the attempt that left: the job is not final
  job.leave_reason = "detect board needs 6.0 GiB on w1/0", job.leave_for = kOther, job.reason = "4.6 GiB short on w1/0";
  return job;
}

TEST(Shown, a_list_says_why_a_preempted_job_waits_and_from_where_it_goes_on) {
  Paper paper;
  gpuq::JobStatus held;
  held.found = true, held.id = kOther, held.kind = "command", held.job_class = "training", held.state = "ready", held.held = true, held.submitted_ms = kNoon;
  gpuq::JobStatus leaving = preempted();
  leaving.state = "yielding", leaving.worker = "w1", leaving.reason = "";
  print_jobs(paper.cli, {preempted(), held, leaving}, kNoon);
  EXPECT_EQ(paper.out.str(),
            "ID                          KIND            CLASS     STATE     AGE    LABEL  NOTE\n"
            "01M7Y6FQQVPBY8903R6KHSBSG0  train.detector  training  ready     1m01s         4.6 GiB short on w1/0  (preempted 2 times, resumes from step 1200)\n"
            "01M7Y6FQQVPBY8903R6KHSBSG1  command         training  ready     0ms           held\n"
            "01M7Y6FQQVPBY8903R6KHSBSG0  train.detector  training  yielding  1m01s         w1  leaving: detect board needs 6.0 GiB on w1/0\n");
}

TEST(Shown, a_status_says_who_took_its_device_why_and_what_happens_next) {
  Paper paper;
  print_job(paper.cli, preempted(), kNoon);
  EXPECT_NE(paper.out.str().find("  left        w1 at 11:59:59Z: detect board needs 6.0 GiB on w1/0, for job " + kOther + "; preempted 2 times for a higher class; resumes from step 1200\n"), std::string::npos) << paper.out.str();
  EXPECT_NE(paper.out.str().find("gpuq explain " + kJob), std::string::npos);
  EXPECT_EQ(paper.out.str().find("  ended"), std::string::npos) << "only its attempt has ended";
  gpuq::JobStatus held = preempted();
  held.held = true, held.reason = "";
  Paper other;
  print_job(other.cli, held, kNoon);
  EXPECT_NE(other.out.str().find("ready (held)"), std::string::npos);
  EXPECT_NE(other.out.str().find("gpuq release " + kJob), std::string::npos);
}

TEST(Shown, workers_say_what_their_devices_are_up_to_and_the_screen_what_was_switched) {
  gpuq::WorkerStatus worker;
  worker.name = "w1", worker.state = "live";
  worker.devices.resize(2);
  worker.devices[0].kind = worker.devices[1].kind = "cuda";
  worker.devices[0].state = "draining", worker.devices[0].reserved = {"6.0 GiB for inference"};
  worker.devices[1].state = "hot (85 C)", worker.devices[1].temperature_c = 85, worker.devices[1].uuid = "GPU-8";
  Paper paper;
  print_workers(paper.cli, {worker}, false);
  EXPECT_NE(paper.out.str().find("draining    6.0 GiB for inference"), std::string::npos) << paper.out.str();
  Overview view;
  view.workers = {worker};
  view.top.switches = {"synthesis is paused by anna: disk is full"};
  view.top.preempted = 4, view.top.plans_made = 4;
  const auto wrong = whats_wrong(view);
  ASSERT_EQ(wrong.size(), 1U);
  EXPECT_NE(wrong[0].find("GPU-8 of w1 is hot (85 C)"), std::string::npos);
  Paper screen;
  print_screen(screen.cli, view, Detail::status, kNoon);
  EXPECT_NE(screen.out.str().find("switched: synthesis is paused by anna: disk is full\n"), std::string::npos);
  EXPECT_NE(screen.out.str().find("preempted 4  killed at their deadline 0  models evicted 0  plans made 4  expired 0\n"), std::string::npos);
}

}  // namespace
}  // namespace gq::cli

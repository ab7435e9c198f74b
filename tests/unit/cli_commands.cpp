// cli_commands.cpp - what is typed, what it means, what is printed, and the exit code. No process, no broker.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/doctor.h"
#include "client/cli/pack.h"
#include "client/cli/results.h"
#include "client/cli/screen.h"
#include "client/cli/selectors.h"
#include "client/cli/submit.h"
#include "client/cli/text.h"

namespace gq::cli {
namespace {

namespace fs = std::filesystem;

struct Ran { int code; std::string out, err; };
Ran typed(std::vector<std::string> words) {
  std::ostringstream out, err;
  const int code = run(words, {out, err});
  return {code, out.str(), err.str()};
}

/// A home of its own, so that nobody's files are read or written.
class CommandLine : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/gpuq-cli-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    home = name;
    for (const char* v : {"XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "GPUQ_ACCESS_FILE", "GPUQ_BROKER", "GPUQ_INSECURE", "GPUQ_KEYS"}) ::unsetenv(v);
    ::setenv("HOME", home.c_str(), 1);
  }
  void TearDown() override { fs::remove_all(home); }
  std::string file(const std::string& name, const std::string& bytes) {
    fs::create_directories(fs::path(home + "/" + name).parent_path());
    std::ofstream(home + "/" + name, std::ios::binary) << bytes;
    return home + "/" + name;
  }
  std::string home;
  const std::string png = "\x89PNG\r\n\x1a\n-not-decoded-here";
};

TEST_F(CommandLine, wrong_words_are_usage_errors_that_say_what_was_meant) {
  Ran ran = typed({"sumbit", "echo"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.err, "error[USAGE]: there is no command 'sumbit', did you mean 'submit'?\n  try: gpuq --help\n");
  EXPECT_EQ(ran.out, "");
  EXPECT_NE(typed({"submit", "echo", "--modle", "x"}).err.find("did you mean '--model'?"), std::string::npos);
  EXPECT_NE(typed({"keys", "isue"}).err.find("did you mean 'issue'?"), std::string::npos);
  ran = typed({"submit", "detct", "a.png"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.err, "error[UNKNOWN_KIND]: there is no kind 'detct', did you mean 'detect'?\n  try: gpuq submit detect\n");
  for (const std::vector<std::string>& words : std::vector<std::vector<std::string>>{
           {"submit"}, {"submit", "--"}, {"submit", "echo", "--", "ls"}, {"submit", "echo", "--priority", "12"}, {"submit", "echo", "--retries", "x"}, {"submit", "echo", "--on-preempt", "cry"},
           {"submit", "echo", "--vram", "lots"}, {"submit", "echo", "--not-before", "sometime"}, {"submit", "echo", "--deadline", "2001-01-01T00:00Z"}, {"submit", "echo", "--set", "novalue"},
           {"submit", "echo", "--env", "=x"}, {"submit", "echo", "--timeout", "fast"}, {"submit", "detect", "--model", "m"}, {"submit", "command"}, {"submit", "detect", "x.png"}, {"wait"},
           {"list", "-o", "xml"}, {"list", "--limit", "0"}, {"result"}, {"result", "a", "b"}, {"status", "nonsense!"}, {"model", "push", "m"}, {"keys", "issue"}, {"completion", "csh"}})
    EXPECT_EQ(typed(words).code, 2) << words[0] << " " << (words.size() > 1 ? words[1] : "") << " " << (words.size() > 2 ? words[2] : "");
}

TEST_F(CommandLine, help_and_version_go_to_stdout_and_are_no_errors) {
  EXPECT_EQ(typed({"--help"}).code, 0);
  EXPECT_NE(typed({"submit", "--help"}).out.find("--on-preempt"), std::string::npos);
  EXPECT_NE(typed({}).out.find("gpuq up"), std::string::npos);
  EXPECT_EQ(typed({"version"}).out.substr(0, 5), "gpuq ");
  for (const char* shell : {"bash", "zsh", "fish"}) EXPECT_NE(typed({"completion", shell}).out.find("complete "), std::string::npos);
}

TEST_F(CommandLine, errors_are_objects_too_when_json_was_asked_for) {
  const Ran ran = typed({"status", "-o", "jsonl", "last"});
  EXPECT_EQ(ran.code, 3);
  EXPECT_EQ(ran.out, R"({"schema_version":1,"error":{"code":"NOT_FOUND","what":"no job was submitted from here yet, so there is no 'last'","next":"gpuq list","exit_code":3}})" "\n");
  EXPECT_EQ(ran.err.substr(0, 17), "error[NOT_FOUND]:");
}

TEST_F(CommandLine, a_broker_that_is_not_there_is_exit_code_5_within_the_timeout) {
  const auto begin = std::chrono::steady_clock::now();
  const Ran ran = typed({"--insecure", "--broker", "tcp://127.0.0.1:1", "--request-timeout", "200ms", "submit", "echo"});
  EXPECT_EQ(ran.code, 5);
  EXPECT_NE(ran.err.find("error[UNREACHABLE]"), std::string::npos) << ran.err;
  EXPECT_NE(ran.err.find("gpuq up"), std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

TEST_F(CommandLine, without_keys_only_this_machine_is_talked_to) {
  const Ran ran = typed({"--insecure", "--broker", "tcp://192.0.2.1:7700", "list"});
  EXPECT_EQ(ran.code, 4);
  EXPECT_NE(ran.err.find("error[REFUSED]"), std::string::npos);
}

// ---- submit: what the words mean

SubmitArguments words(std::string kind) {
  SubmitArguments a;
  a.kind = std::move(kind);
  return a;
}
Surroundings here() { return {"/home/ml/boards", {{"PATH", "/bin"}, {"LANG", "C.UTF-8"}, {"SECRET", "s"}, {"CONDA_PREFIX", "/opt/conda"}}, 1'000'000'000'000}; }

TEST_F(CommandLine, an_array_is_a_job_for_each_index) {
  SubmitArguments a;
  a.had_dashes = true, a.argv = {"python", "part.py"}, a.array = "8-10,0-4:2", a.unique = "u", a.id = "01M7Y6FQQVPBY8903R6KHSBSGZ";
  const auto plan = plan_submit(a, here());
  ASSERT_TRUE(plan) << plan.error().what;
  ASSERT_EQ(plan->jobs.size(), 6U);
  std::string indices;
  for (const gpuq::JobSpec& job : plan->jobs) indices += job.env.at("GPUQ_ARRAY_INDEX") + "/" + job.env.at("GPUQ_ARRAY_COUNT") + " ";
  EXPECT_EQ(indices, "8/6 9/6 10/6 0/6 2/6 4/6 ");
  EXPECT_EQ(plan->jobs[1].unique, "u[9]");
  EXPECT_EQ(plan->jobs[1].label, "array[9]");
  EXPECT_EQ(plan->jobs[0].id, "01M7Y6FQQVPBY8903R6KHSBSGZ");
  EXPECT_EQ(plan->jobs[1].id, "01M7Y6FQQVPBY8903R6KHSBSH0");
}

TEST(ArrayOf, is_the_librarys_word_too) {
  gpuq::JobSpec job;
  job.kind = "command", job.argv = {"python", "part.py"}, job.label = "night";
  const auto jobs = gpuq::array_of(job, "1,4-5");
  ASSERT_EQ(jobs.size(), 3U);
  EXPECT_EQ(jobs[2].env.at("GPUQ_ARRAY_INDEX"), "5");
  EXPECT_EQ(jobs[2].label, "night[5]");
  const auto code = [&](const char* indices) -> std::string {
    try {
      (void)gpuq::array_of(job, indices);
    } catch (const gpuq::Error& error) {
      return error.code();
    }
    return "taken";
  };
  EXPECT_EQ(code("4-1"), "USAGE");
  EXPECT_EQ(code("0-20000"), "OVER_LIMIT");
  job.kind = "detect";
  EXPECT_EQ(code("0-3"), "USAGE");
}

TEST_F(CommandLine, what_is_no_array_is_refused) {
  for (const char* text : {"a", "", "5-3", "1,,2", "1-", "1-3:0", "1-3:", "-1", "1,1", "0-3,2", "99999999999", "0-20000", "1 2"}) {
    SubmitArguments a;
    a.had_dashes = true, a.argv = {"x"}, a.array = text;
    if (a.array.empty()) continue;
    const auto plan = plan_submit(a, here());
    ASSERT_FALSE(plan) << text;
    EXPECT_EQ(plan.error().code, std::string_view(text) == "0-20000" ? Errc::over_limit : Errc::usage) << text;
  }
  SubmitArguments a = words("echo");
  a.array = "0-3";
  EXPECT_EQ(plan_submit(a, here()).error().code, Errc::usage) << "only commands";
}

TEST_F(CommandLine, every_option_lands_in_the_job) {
  SubmitArguments a = words("echo");
  a.job_class = "synthesis", a.priority = 9, a.model = "yolo@3", a.vram = "2GiB..8GiB", a.devices = 2, a.where = {"gpu=4090"}, a.set = {"conf=0.35", "text=a=b"};
  a.env = {"K=V"}, a.after = {"01M7Y6FQQVPBY8903R6KHSBSG0"}, a.not_before = "2h", a.deadline = "1d", a.timeout = "90s", a.retries = 3, a.on_preempt = "never";
  a.id = "01M7Y6FQQVPBY8903R6KHSBSG1", a.unique = "nightly", a.label = "night run", a.exclusive = true;
  const auto plan = plan_submit(a, here());
  ASSERT_TRUE(plan) << plan.error().what;
  ASSERT_EQ(plan->jobs.size(), 1U);
  const gpuq::JobSpec& job = plan->jobs[0];
  EXPECT_EQ(job.job_class, "synthesis");
  EXPECT_EQ(job.priority, 9);
  EXPECT_EQ(job.model, "yolo@3");
  EXPECT_EQ(job.vram_min_mib, 2048);
  EXPECT_EQ(job.vram_max_mib, 8192);
  EXPECT_EQ(job.devices, 2);
  EXPECT_EQ(job.where, std::vector<std::string>{"gpu=4090"});
  EXPECT_EQ(job.params, (std::map<std::string, std::string>{{"conf", "0.35"}, {"text", "a=b"}}));
  EXPECT_EQ(job.env, (std::map<std::string, std::string>{{"K", "V"}}));
  EXPECT_EQ(job.after, std::vector<std::string>{"01M7Y6FQQVPBY8903R6KHSBSG0"});
  EXPECT_EQ(job.not_before_ms, 1'000'000'000'000 + 7'200'000);
  EXPECT_EQ(job.deadline_ms, 1'000'000'000'000 + 86'400'000);
  EXPECT_EQ(job.timeout, std::chrono::seconds(90));
  EXPECT_EQ(job.retries, 3);
  EXPECT_EQ(job.on_preempt, "never");
  EXPECT_EQ(job.id, "01M7Y6FQQVPBY8903R6KHSBSG1");
  EXPECT_EQ(job.unique, "nightly");
  EXPECT_EQ(job.label, "night run");
  EXPECT_TRUE(job.exclusive);
}

TEST_F(CommandLine, a_command_takes_its_words_its_directory_and_four_variables_along) {
  SubmitArguments a = words("");
  a.had_dashes = true, a.argv = {"python", "train.py", "--epochs", "3"}, a.env = {"SECRET"};
  const auto plan = plan_submit(a, here());
  ASSERT_TRUE(plan);
  const gpuq::JobSpec& job = plan->jobs[0];
  EXPECT_EQ(job.kind, "command");
  EXPECT_EQ(job.argv, a.argv);
  EXPECT_EQ(job.cwd, "/home/ml/boards");
  EXPECT_EQ(job.env, (std::map<std::string, std::string>{{"PATH", "/bin"}, {"LANG", "C.UTF-8"}, {"CONDA_PREFIX", "/opt/conda"}, {"SECRET", "s"}})) << "SECRET was asked for by name";
}

TEST_F(CommandLine, detect_makes_one_job_per_image) {
  SubmitArguments a = words("detect");
  a.model = "m", a.files = {file("a.png", png), file("b.jpg", "\xFF\xD8\xFF jpeg")};
  const auto plan = plan_submit(a, here());
  ASSERT_TRUE(plan) << plan.error().what;
  ASSERT_EQ(plan->jobs.size(), 2U);
  EXPECT_EQ(plan->files, a.files);
  EXPECT_EQ(plan->jobs[0].parts[0].name, "image");
  EXPECT_EQ(plan->jobs[0].parts[0].media, "image/png");
  EXPECT_EQ(plan->jobs[1].parts[0].media, "image/jpeg");
  a.id = "01M7Y6FQQVPBY8903R6KHSBSG1";
  EXPECT_EQ(plan_submit(a, here()).error().code, Errc::usage) << "one id for two jobs";
}

TEST_F(CommandLine, files_that_cannot_be_used_are_named_with_what_is_wrong) {
  SubmitArguments a = words("detect");
  a.model = "m", a.files = {home + "/nowhere.png"};
  EXPECT_EQ(plan_submit(a, here()).error().code, Errc::not_found);
  a.files = {file("text.png", "hello")};
  EXPECT_EQ(plan_submit(a, here()).error().code, Errc::bad_image);
  a = words("echo"), a.files = {file("locked", "x")};
  ::chmod((home + "/locked").c_str(), 0);
  if (::access((home + "/locked").c_str(), R_OK) != 0) { EXPECT_EQ(plan_submit(a, here()).error().code, Errc::bad_input); }
  fs::create_directories(home + "/empty");
  a.files = {home + "/empty"};
  EXPECT_EQ(plan_submit(a, here()).error().code, Errc::bad_input);
}

TEST_F(CommandLine, echo_takes_words_as_they_are) {
  SubmitArguments a = words("echo");
  a.files = {"hello"};
  const auto plan = plan_submit(a, here());
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->jobs[0].parts[0].name, "text");
  EXPECT_EQ(plan->jobs[0].parts[0].bytes, "hello");
}

TEST_F(CommandLine, a_folder_travels_as_a_tar_and_equal_folders_are_equal_bytes) {
  file("set/images/a.png", png);
  file("set/labels/a.txt", "1 2 3 4 5\n");
  file("set/" + std::string(120, 'n') + "/x", "long");
  SubmitArguments a = words("train.detector");
  a.files = {home + "/set"};
  const auto one = plan_submit(a, here()), two = plan_submit(a, here());
  ASSERT_TRUE(one) << one.error().what;
  EXPECT_EQ(one->jobs[0].parts[0].name, "dataset");
  EXPECT_EQ(one->jobs[0].parts[0].media, "application/x-tar");
  EXPECT_EQ(one->jobs[0].parts[0].bytes, two->jobs[0].parts[0].bytes);
  std::ofstream(home + "/set.tar", std::ios::binary) << one->jobs[0].parts[0].bytes;
  FILE* tar = ::popen(("tar tf " + home + "/set.tar 2>&1").c_str(), "r");
  char buffer[2048] = {};
  const std::size_t n = std::fread(buffer, 1, sizeof buffer - 1, tar);
  EXPECT_EQ(::pclose(tar), 0);
  EXPECT_EQ(std::string(buffer, n), "images/a.png\nlabels/a.txt\n" + std::string(120, 'n') + "/x\n");
}

// ---- small words

TEST(Words, memory_sizes_and_ranges) {
  EXPECT_EQ(*parse_vram("6GiB"), (VramRange{6144, 6144}));
  EXPECT_EQ(*parse_vram("8192M"), (VramRange{8192, 8192}));
  EXPECT_EQ(*parse_vram("2GiB..8GiB"), (VramRange{2048, 8192}));
  EXPECT_EQ(*parse_vram("2GiB..rest"), (VramRange{2048, std::numeric_limits<std::int64_t>::max()}));
  for (const char* bad : {"", "x", "..", "2GiB..", "8GiB..2GiB", "0GiB", "-1GiB", "2GiB..x"}) EXPECT_FALSE(parse_vram(bad)) << bad;
}

TEST(Words, times) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  const std::int64_t noon = 1'795'262'400'000;   // 2026-11-21T12:00Z
  EXPECT_EQ(*parse_when("2h", noon), noon + 7'200'000);
  EXPECT_EQ(*parse_when("2026-11-21T12:00Z", 0), noon);
  EXPECT_EQ(*parse_when("2026-11-21T21:00:00+09:00", 0), noon);
  EXPECT_EQ(*parse_when("2026-11-21 12:00", 0), noon);
  EXPECT_EQ(*parse_when("22:30", noon), noon + 10 * 3'600'000 + 1'800'000);
  EXPECT_EQ(*parse_when("11:00", noon), noon + 23 * 3'600'000) << "tomorrow";
  for (const char* bad : {"", "soon", "25:00", "2026-13-01T00:00Z", "2026-11-21", "2026-11-21T12:00+9", "12:3x"}) EXPECT_FALSE(parse_when(bad, noon)) << bad;
  EXPECT_EQ(stamp(noon), "2026-11-21 12:00:00Z");
}

TEST(Words, ages_and_sizes_for_people) {
  EXPECT_EQ(age(340), "340ms");
  EXPECT_EQ(age(12'000), "12s");
  EXPECT_EQ(age(252'000), "4m12s");
  EXPECT_EQ(age(11'100'000), "3h05m");
  EXPECT_EQ(age(187'200'000), "2d04h");
  EXPECT_EQ(bytes_text(512), "512 B");
  EXPECT_EQ(bytes_text(65'536), "64 KiB");
  EXPECT_EQ(bytes_text(std::uint64_t{20} << 30U), "20.0 GiB");
}

TEST(Words, names_that_would_leave_the_folder_are_seen) {
  for (const char* good : {"a", "images/a.png", "a..b/c"}) EXPECT_TRUE(is_inside(good)) << good;
  for (const char* bad : {"", "/etc/passwd", "..", "../x", "a/../../x", "a/.."}) EXPECT_FALSE(is_inside(bad)) << bad;
}

TEST_F(CommandLine, the_last_job_is_remembered) {
  EXPECT_THROW(last_job(), gpuq::Error);
  remember_last("01M7Y6FQQVPBY8903R6KHSBSG0");
  EXPECT_EQ(last_job(), "01M7Y6FQQVPBY8903R6KHSBSG0");
}

// ---- what is printed

gpuq::JobStatus running_job() {
  gpuq::JobStatus job;
  job.found = true, job.id = "01M7Y6FQQVPBY8903R6KHSBSG0", job.kind = "train.detector", job.job_class = "training", job.state = "running", job.priority = 5, job.label = "night";
  job.worker = "gpu-7", job.attempt = 1, job.submitted_ms = 1'000, job.started_ms = 2'000, job.progress_step = 40, job.progress_total = 100, job.granted_mib = 2048;
  return job;
}

TEST(Printed, a_list_of_jobs_is_this_table) {
  std::ostringstream out, err;
  Cli cli({out, err});
  gpuq::JobStatus failed = running_job();
  failed.id = "01M7Y6FQQVPBY8903R6KHSBSG1", failed.kind = "command", failed.state = "failed", failed.label = "", failed.code = "JOB_FAILED", failed.what = "sh ended with exit code 3", failed.ended_ms = 13'000;
  print_jobs(cli, {running_job(), failed}, 61'000);
  EXPECT_EQ(out.str(),
            "ID                          KIND            CLASS     STATE    AGE    LABEL  NOTE\n"
            "01M7Y6FQQVPBY8903R6KHSBSG0  train.detector  training  running  1m00s  night  gpu-7  40/100\n"
            "01M7Y6FQQVPBY8903R6KHSBSG1  command         training  failed   12s           [JOB_FAILED] sh ended with exit code 3\n");
}

TEST(Printed, json_has_a_schema_version_and_units_in_its_names) {
  std::ostringstream out;
  print_json(out, true, "jobs", {to_json(running_job())});
  const auto line = nlohmann::json::parse(out.str());
  EXPECT_EQ(line["schema_version"], 1);
  EXPECT_EQ(line["granted_mib"], 2048);
  EXPECT_EQ(line["submitted_ms"], 1000);
  EXPECT_EQ(line["progress_step"], 40);
  out.str("");
  print_json(out, false, "jobs", {});
  EXPECT_EQ(nlohmann::json::parse(out.str()), (nlohmann::json{{"schema_version", 1}, {"jobs", nlohmann::json::array()}}));
}

TEST(Printed, a_result_shows_text_as_it_is_and_names_the_rest) {
  std::ostringstream out, err;
  Cli cli({out, err});
  gpuq::JobResult result;
  result.id = "01M7Y6FQQVPBY8903R6KHSBSG0", result.state = "succeeded", result.values = {{"exit_code", "0"}};
  gpuq::Part text, blob;
  text.name = "stdout", text.bytes = "hello\n";
  blob.name = "weights.pt", blob.media = "application/octet-stream", blob.blob = std::string(64, 'a'), blob.size = 20'971'520;
  result.parts = {text, blob};
  show_result(cli, result);
  EXPECT_EQ(out.str(), "exit_code=0\nhello\npart weights.pt  application/octet-stream  20 MiB  (gpuq result 01M7Y6FQQVPBY8903R6KHSBSG0 -d DIR)\n");
  EXPECT_EQ(judge(cli, {result}), 0);
  result.state = "failed", result.code = "JOB_FAILED", result.what = "it fell";
  EXPECT_EQ(judge(cli, {result}), 1);
  EXPECT_NE(err.str().find("failed [JOB_FAILED]: it fell"), std::string::npos);
}

TEST(Printed, what_is_wrong_is_said_with_what_to_do) {
  Overview view;
  view.top.jobs[0][2] = 3;
  view.top.store = "redis 7 managed";
  auto wrong = whats_wrong(view);
  ASSERT_EQ(wrong.size(), 1U);
  EXPECT_NE(wrong[0].find("3 jobs are ready, but no worker is connected"), std::string::npos);
  gpuq::WorkerStatus worker;
  worker.name = "gpu-7", worker.state = "live", worker.since_beat_ms = 7'000;
  worker.devices.resize(1);
  worker.devices[0].healthy = false, worker.devices[0].uuid = "GPU-1";
  view.workers = {worker};
  EXPECT_EQ(whats_wrong(view).size(), 2U);
  view.workers[0].since_beat_ms = 100, view.workers[0].devices[0].healthy = true;
  EXPECT_TRUE(whats_wrong(view).empty());
}

TEST(Printed, doctor_says_what_why_and_the_fix_and_red_is_exit_code_1) {
  std::ostringstream out, err;
  Cli cli({out, err});
  EXPECT_EQ(print_findings(cli, {{"redis", Finding::ok, "7.0.15", "", ""}, {"nvml", Finding::warn, "no driver", "works on its CPU", "install it"}}), 0);
  EXPECT_EQ(out.str(), "ok    redis           7.0.15\nwarn  nvml            no driver\n                      why: works on its CPU\n                      fix: install it\n");
  EXPECT_EQ(print_findings(cli, {{"redis", Finding::red, "absent", "needed", "apt-get install redis-server"}}), 1);
}

// ---- keys

TEST_F(CommandLine, keys_are_made_listed_and_revoked_in_their_directory) {
  const std::string dir = home + "/keys";
  EXPECT_EQ(typed({"keys", "init", "--keys", dir}).code, 0);
  EXPECT_EQ(typed({"keys", "init", "--keys", dir}).out, typed({"keys", "--keys", dir, "init"}).out) << "init again shows the same key";
  Ran ran = typed({"keys", "issue", "--keys", dir, "--role", "worker", "--name", "gpu-7", "--broker", "tcp://gpu-box:7701", "--out", home + "/worker.json"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  struct stat status {};
  ASSERT_EQ(::stat((home + "/worker.json").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  ran = typed({"keys", "issue", "--keys", dir, "--role", "client", "--name", "web", "--broker", "tcp://gpu-box:7700"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const auto access = nlohmann::json::parse(ran.out);
  EXPECT_EQ(access["broker"], "tcp://gpu-box:7700");
  EXPECT_EQ(access["role"], "client");
  EXPECT_EQ(access["secret"].get<std::string>().size(), 40U);
  ran = typed({"keys", "list", "--keys", dir, "-o", "jsonl"});
  EXPECT_NE(ran.out.find("\"name\":\"gpu-7\",\"role\":\"worker\""), std::string::npos) << ran.out;
  EXPECT_EQ(ran.out.find("secret"), std::string::npos);
  EXPECT_EQ(typed({"keys", "revoke", "gpu-7", "--keys", dir}).code, 0);
  EXPECT_EQ(typed({"keys", "ls", "--keys", dir}).out.find("gpu-7"), std::string::npos);
  EXPECT_EQ(typed({"keys", "revoke", "gpu-7", "--keys", dir}).code, 3);
  EXPECT_EQ(typed({"keys", "issue", "--keys", dir, "--role", "king", "--name", "x"}).code, 2);
}

TEST_F(CommandLine, a_workers_access_file_does_not_let_a_client_in) {
  const std::string dir = home + "/keys";
  typed({"keys", "init", "--keys", dir});
  typed({"keys", "issue", "--keys", dir, "--role", "worker", "--name", "gpu-7", "--out", home + "/worker.json"});
  const Ran ran = typed({"list", "--access-file", home + "/worker.json"});
  EXPECT_EQ(ran.code, 4);
  EXPECT_NE(ran.err.find("worker's access file"), std::string::npos) << ran.err;
  ::chmod((home + "/worker.json").c_str(), 0644);
  EXPECT_NE(typed({"list", "--access-file", home + "/worker.json"}).code, 0);
}

}  // namespace
}  // namespace gq::cli

// submit_command.cpp - `gpuq submit`: from what was typed to what is shown. The plan is submit.cpp's.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/explain.h"
#include "client/cli/pack.h"
#include "client/cli/results.h"
#include "client/cli/selectors.h"
#include "client/cli/snapshot.h"
#include "client/cli/submit.h"
#include "client/cli/text.h"
#include "client/lib/convert.h"
#include "common/vocabulary/ids.h"
#include "common/wire/job_body.h"

namespace gq::cli {

namespace {
namespace fs = std::filesystem;
}  // namespace

Surroundings surroundings() {
  Surroundings around;
  std::error_code error;
  around.cwd = fs::current_path(error).string();
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (const auto equals = text.find('='); equals != std::string::npos) around.environment[text.substr(0, equals)] = text.substr(equals + 1);
  }
  around.now_ms = wall_now_ms();
  return around;
}

namespace {

int show_submitted(Cli& cli, const std::vector<gpuq::Submitted>& answers, const std::vector<std::string>& files) {
  const gpuq::Submitted* bad = nullptr;
  for (const gpuq::Submitted& answer : answers)
    if (!answer.ok && bad == nullptr) bad = &answer;
  if (cli.is_json()) {
    std::vector<nlohmann::ordered_json> items;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      items.push_back(to_json(answers[i]));
      if (i < files.size()) items.back()["file"] = files[i];
    }
    print_json(cli.io.out, cli.format() == Format::jsonl, "jobs", items);
  } else {
    for (const gpuq::Submitted& answer : answers)
      if (answer.ok) cli.io.out << answer.id << '\n';
  }
  if (bad != nullptr) {
    const gpuq::Error error(bad->code, bad->what, bad->next);
    if (!cli.is_json()) return report(cli, error);
    return error.exit_code();
  }
  if (!cli.is_json()) {
    if (answers.size() == 1 && answers.front().existing) cli.note("this id was submitted before; nothing new was made");
    if (!answers.front().durable) cli.note("in the broker's memory only, and gone with it; next: gpuq wait last");
    else if (answers.size() == 1) cli.note("on disk; next: gpuq wait last, gpuq logs -f last, gpuq status last");
    else cli.note(std::to_string(answers.size()) + " jobs on disk; next: gpuq list");
  }
  return 0;
}

int show_finished(Cli& cli, const SubmitArguments& a, const SubmitPlan& plan, std::vector<gpuq::JobResult>& results, bool followed) {
  if (a.kind == "detect" && cli.format() != Format::json) {
    for (std::size_t i = 0; i < results.size(); ++i)
      cli.io.out << detection_line(i < plan.files.size() ? plan.files[i] : "", results[i]) << '\n';
  } else if (cli.is_json()) {
    std::vector<nlohmann::ordered_json> items;
    for (std::size_t i = 0; i < results.size(); ++i) {
      items.push_back(to_json(results[i]));
      if (i < plan.files.size()) items.back()["file"] = plan.files[i];
    }
    print_json(cli.io.out, cli.format() == Format::jsonl, "results", items);
  } else if (!followed) {
    for (const gpuq::JobResult& result : results) show_result(cli, result);
  }
  const int code = judge(cli, results);
  if (code == 0 && results.size() == 1) {
    const gpuq::JobResult& r = results.front();
    cli.note("job " + r.id + " succeeded in " + age(r.ended_ms - r.submitted_ms) + " on " + r.worker + (r.device.empty() ? "" : " " + r.device));
  }
  return code;
}

}  // namespace

std::function<std::optional<gpuq::Part>(const std::string&, const std::string&)> by_reference(Cli& cli, bool acknowledge) {
  const bool has_shares = !cli.globals.shares.empty() || std::getenv("GPUQ_SHARES") != nullptr;
  return [&cli, acknowledge, has_shares](const std::string& name, const std::string& path) -> std::optional<gpuq::Part> {
    if (!has_shares && !path.starts_with("share:")) return std::nullopt;   // nothing to ask a broker
    return cli.client(acknowledge).by_reference(name, path);
  };
}

namespace {

/// Said once in this person's life with gpuq, and only to who has not chosen.
void explain_on_preempt(Cli& cli) {
  const std::string mark = state_dir() + "/told-on-preempt";
  std::error_code ignored;
  if (fs::exists(mark, ignored)) return;
  fs::create_directories(state_dir(), ignored);
  if (!std::ofstream(mark, std::ios::app)) return;   // who cannot be remembered would be told each time
  cli.note("when a higher class needs its memory, this script starts over from nothing; --on-preempt checkpoint (and gpuq.job in the script) keeps what it has, "
           "pause only shares the card, never stays");
}

/// The folder goes ahead of the jobs that run in it, pack by pack; what the blob store has already is only named.
void send_snapshot(Cli& cli, gpuq::Client& client, std::vector<gpuq::JobSpec>& jobs) {
  const std::string folder = jobs.front().cwd;
  const auto list = list_snapshot(folder);
  if (!list) throw client::to_public(list.error());
  const auto packed = pack_snapshot(folder, *list, [&](std::string&& pack) -> Result<void> {
    gpuq::Part part;
    part.name = "snapshot/" + std::to_string(jobs.front().parts.size());
    part.media = wire::kSnapshotMedia;
    part.size = pack.size();
    part.blob = client.upload(pack);
    for (gpuq::JobSpec& job : jobs) job.parts.push_back(part);
    return {};
  });
  if (!packed) throw client::to_public(packed.error());
  cli.note(folder + ": " + std::to_string(list->files) + (list->files == 1 ? " file, " : " files, ") + bytes_text(list->bytes) + " go with the job" + (jobs.size() == 1 ? "" : "s"));
  if (!list->links.empty())
    cli.note("left out, for they lead outside or are no files: " + list->links.front() + (list->links.size() == 1 ? "" : " and " + std::to_string(list->links.size() - 1) + " more"));
}

int run_submit(Cli& cli, SubmitArguments& a) {
  a.argv = cli.argv_after_dashes;
  a.had_dashes = cli.had_dashes;
  a.after = resolve_jobs(cli, a.after);
  if (!a.id.empty() && !parse_job_id(a.id)) throw gpuq::Error("USAGE", "--id '" + a.id + "' is not a job id: 26 characters of Crockford base32", "leave it out, and one is made");
  Surroundings around = surroundings();
  around.by_reference = by_reference(cli, a.wait || a.follow);
  auto plan = plan_submit(a, around);
  if (!plan) throw client::to_public(plan.error());
  if (a.had_dashes && a.kind.empty()) a.kind = "command";
  gpuq::Client& client = cli.client(a.wait || a.follow);
  if (!a.workdir.empty() && a.kind == "command") send_snapshot(cli, client, plan->jobs);
  if (a.kind == "command" && a.on_preempt.empty() && !cli.is_json()) explain_on_preempt(cli);
  const auto answers = client.submit(plan->jobs);
  for (const gpuq::Submitted& answer : answers)
    if (answer.ok) remember_last(answer.id);
  if (!answers.empty() && answers.front().ok && !answers.front().existing) warn_when_it_never_fits(cli, client, answers.front().id);   // one for all: they have the same needs
  const bool all_ok = std::all_of(answers.begin(), answers.end(), [](const gpuq::Submitted& s) { return s.ok; });
  if (!all_ok || !(a.wait || a.follow)) return show_submitted(cli, answers, plan->files);

  std::vector<std::string> ids;
  for (const gpuq::Submitted& answer : answers) ids.push_back(answer.id);
  const bool follows = a.follow && ids.size() == 1 && !cli.is_json();
  if (!cli.is_json() && cli.io.err_terminal) cli.note(ids.size() == 1 ? "job " + ids.front() : std::to_string(ids.size()) + " jobs");
  if (follows) follow(cli, client, ids.front());
  auto results = interrupted() ? std::nullopt : wait_for(client, ids, std::nullopt);
  if (!results) {
    cli.note("interrupted; " + std::string(ids.size() == 1 ? "the job goes on: gpuq wait " + ids.front() + "   or stop it: gpuq cancel " + ids.front()
                                                         : "the jobs go on: gpuq list"));
    return kInterrupted;
  }
  int code = show_finished(cli, a, *plan, *results, follows);
  if (!a.output_dir.empty())
    for (const gpuq::JobResult& result : *results) save_parts(client, result, results->size() == 1 ? a.output_dir : a.output_dir + "/" + result.id, {});
  return code;
}

}  // namespace

void add_job_options(CLI::App& c, SubmitArguments& a) {
  c.add_option("kind", a.kind, "one of: " + client::kinds_text())->option_text("KIND");
  c.add_option("files", a.files, "images and other inputs; NAME=FILE names a part, a folder travels as a tar, - is stdin")->option_text("FILE...");
  c.add_option("--class", a.job_class, "inference, training or synthesis; else the kind's own")->option_text("CLASS");
  c.add_option("--priority,-p", a.priority, "0..9, 9 is served first (5)")->option_text("N")->check(CLI::Range(0, 9));
  c.add_option("--model,-m", a.model, "which model")->option_text("NAME[@VERSION]");
  c.add_option("--vram", a.vram, "device memory: 6GiB, 2GiB..8GiB or 2GiB..rest")->option_text("SIZE");
  c.add_option("--devices", a.devices, "how many devices of one host (1)")->option_text("N")->check(CLI::Range(1, 64));
  c.add_flag("--per-device", a.per_device, "run the command once for each device, with RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun sets them");
  c.add_option("--where", a.where, "a label the worker must have; may be repeated")->option_text("KEY=VALUE")->allow_extra_args(false);
  c.add_option("--set,-s", a.set, "a parameter of the job; may be repeated")->option_text("KEY=VALUE")->allow_extra_args(false);
  c.add_option("--env,-e", a.env, "a variable of the command's environment; NAME alone takes it from here")->option_text("KEY=VALUE")->allow_extra_args(false);
  c.add_option("--part", a.parts, "an input under a name of its own; may be repeated")->option_text("NAME=FILE")->allow_extra_args(false);
  c.add_option("--after", a.after, "start when this job has succeeded; may be repeated")->option_text("JOB")->allow_extra_args(false)->delimiter(',');
  c.add_option("--not-before", a.not_before, "2h (from now), 22:30 or 2026-11-21T22:00Z")->option_text("TIME");
  c.add_option("--deadline", a.deadline, "expire if not started by then")->option_text("TIME");
  c.add_option("--timeout", a.timeout, "of one attempt")->option_text("DURATION");
  c.add_option("--array", a.array, "a job for each index, which it finds in $GPUQ_ARRAY_INDEX: 0-9, 0-90:10 or 1,4,7")->option_text("INDICES");
  c.add_option("--retries", a.retries, "how often to try again after a failure (0)")->option_text("N")->check(CLI::Range(0, 100));
  c.add_option("--on-preempt", a.on_preempt, "checkpoint, pause, restart or never")->option_text("HOW")->check(CLI::IsMember({"checkpoint", "pause", "restart", "never"}));
  c.add_option("--id", a.id, "the job's id: the same id again never makes a second job")->option_text("ID");
  c.add_option("--unique", a.unique, "at most one unfinished job with this key")->option_text("KEY");
  c.add_option("--label", a.label, "free text shown in lists")->option_text("TEXT");
  c.add_option("--workdir", a.workdir, "the command runs in this folder: itself where the worker sees the same one, else a copy sent along (.gpuqignore names what stays)")->option_text("DIR");
  c.add_option("--outputs", a.outputs, "write its artefacts there instead of storing them with the result")->option_text("share:NAME/DIR");
  c.add_option("-d,--dir", a.output_dir, "with --wait: write the result's parts here")->option_text("DIR");
  c.add_flag("--exclusive", a.exclusive, "stop by itself when its worker loses the broker");
  c.add_option("--durability", a.durability, "none: never on disk and gone with the broker, for a caller that waits; always: on disk before the answer; else as its class says (always, unless the policy file says none)")
      ->option_text("HOW")->check(CLI::IsMember({"always", "none"}));
  c.add_flag("--wait,-w", a.wait, "wait until it is final and print the result");
  c.add_flag("--follow,-f", a.follow, "print its output as it comes, then wait");
  c.add_flag("--strict", a.strict, "refuse it (NO_FIT) when no device that is here could ever hold it; else it waits for one that can");
}

void add_submit(CLI::App& app, Cli& cli) {
  auto a = std::make_shared<SubmitArguments>();
  CLI::App* c = app.add_subcommand("submit", "submit jobs: gpuq submit [options] KIND [files…]   or   gpuq submit [options] -- PROGRAM ARGS…");
  add_job_options(*c, *a);
  c->footer("Examples:\n  gpuq submit echo hi --wait\n  gpuq submit detect --model board images/*.png --wait\n  gpuq submit --class training --vram 2GiB..rest --on-preempt checkpoint -- python train.py\n"
            "  gpuq plan submit --vram 12GiB -- python train.py     would it start now, and if not, why");
  c->callback([&cli, a] { cli.action = [&cli, a] { return run_submit(cli, *a); }; });
}

}  // namespace gq::cli

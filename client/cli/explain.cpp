// explain.cpp - gpuq explain JOB, gpuq plan submit …, gpuq plan --config FILE. Questions: nothing is changed.
#include "client/cli/explain.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "client/cli/selectors.h"
#include "client/cli/submit.h"
#include "client/cli/text.h"
#include "client/lib/convert.h"

namespace gq::cli {

namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kRowsShown = 12;         // of a table for people; -o wide shows all that came
constexpr int kNo = 1;                         // exit code of a negative answer

/// As policy files and `gpuq drain` take it, so that it can be copied from here.
std::string place_name(const gpuq::PlaceVerdict& p) {
  if (p.device.empty()) return p.worker + " (slots)";
  return (p.host.empty() ? p.worker : p.host) + "/" + std::to_string(p.index) + (p.warm ? " warm" : "");
}

/// Sentences of the broker name devices by UUID. The table calls them host/index, so a reader finds them again; -o wide and JSON keep the UUIDs.
gpuq::Explanation with_short_names(gpuq::Explanation e) {
  const auto shorten = [&](std::string& text) {
    for (const gpuq::PlaceVerdict& p : e.places) {
      if (p.device.empty() || p.host.empty()) continue;
      const std::string name = p.host + "/" + std::to_string(p.index), both = name + " (" + p.device + ")";
      for (std::size_t at = 0; (at = text.find(both, at)) != std::string::npos;) text.replace(at, both.size(), name);
      for (std::size_t at = 0; (at = text.find(p.device, at)) != std::string::npos; at += name.size()) text.replace(at, p.device.size(), name);
    }
  };
  shorten(e.summary);
  for (gpuq::Remedy& r : e.remedies) shorten(r.text);
  for (gpuq::PlaceVerdict& p : e.places) shorten(p.sentence);
  return e;
}

std::string times(std::uint64_t count, const char* one, const char* many) { return std::to_string(count) + " " + (count == 1 ? one : many); }

void print_places(Cli& cli, const gpuq::Explanation& e, const FreeByDevice& free_mib, std::int64_t now_ms) {
  const bool wide = cli.format() == Format::wide;
  std::vector<std::string> header{"DEVICE", "FREE", "FIRST NO", "SHORT BY", "UNTIL", "WHY"};
  if (wide) header.insert(header.end(), {"UUID", "WORKER"});
  Table table(header);
  const std::size_t shown = wide ? e.places.size() : std::min(e.places.size(), kRowsShown);
  for (std::size_t i = 0; i < shown; ++i) {
    const gpuq::PlaceVerdict& p = e.places[i];
    const auto free = free_mib.find(p.device);
    std::vector<std::string> row{place_name(p), free == free_mib.end() ? "-" : mib(free->second), p.constraint.empty() ? "none: yes" : p.constraint,
                                 p.lacking_mib > 0 ? mib(p.lacking_mib) : "-", p.until_ms == 0 ? "-" : when(p.until_ms, now_ms), p.sentence};
    if (wide) row.insert(row.end(), {p.device.empty() ? "-" : p.device, p.worker});
    table.row(std::move(row));
  }
  cli.io.out << '\n';
  table.print(cli.io.out, !cli.globals.no_header);
  if (e.places_looked_at <= shown) return;
  std::string text = "of " + times(e.places_looked_at, "place", "places") + ":";
  for (std::size_t i = 0; i < e.refusals.size(); ++i) text += (i == 0 ? " " : ", ") + std::to_string(e.refusals[i].count) + " " + e.refusals[i].constraint;
  cli.io.out << text << (shown < e.places.size() ? "   (-o wide shows " + std::to_string(e.places.size()) + ")" : "") << '\n';
}

void print_changes(std::ostream& out, const std::string& title, const std::vector<gpuq::PolicyPlan::Change>& changes) {
  if (changes.empty()) return;
  out << '\n' << title << '\n';
  for (const auto& change : changes) out << "  " << (change.job.empty() ? "" : change.job + "  ") << change.text << '\n';
}

Json changes_json(const std::vector<gpuq::PolicyPlan::Change>& changes) {
  Json out = Json::array();
  for (const auto& change : changes) out.push_back({{"id", change.job}, {"text", change.text}});
  return out;
}

FreeByDevice what_is_free(gpuq::Client& client) {
  FreeByDevice free_mib;
  for (const gpuq::WorkerStatus& worker : client.workers())
    for (const gpuq::DeviceStatus& device : worker.devices) free_mib[device.uuid] = device.free_mib;
  return free_mib;
}

void show(Cli& cli, const gpuq::Explanation& e) {
  const FreeByDevice free_mib = e.places.empty() ? FreeByDevice{} : what_is_free(cli.client());
  if (cli.is_json()) print_object(cli.io.out, cli.format() == Format::jsonl, "explanation", to_json(e, free_mib));
  else print_explanation(cli, e, free_mib, wall_now_ms());
}

int run_explain(Cli& cli, const std::string& word) {
  show(cli, cli.client().explain(resolve_job(cli, word)));
  return 0;
}

int run_plan_submit(Cli& cli, SubmitArguments& a) {
  a.argv = cli.argv_after_dashes;
  a.had_dashes = cli.had_dashes;
  a.only_plan = true;
  a.after = resolve_jobs(cli, a.after);
  Surroundings around = surroundings();
  around.by_reference = by_reference(cli, false);
  auto plan = plan_submit(a, around);
  if (!plan) throw client::to_public(plan.error());
  const gpuq::Explanation e = cli.client().plan(std::move(plan->jobs.front()));   // one per file: they all have the same needs
  show(cli, e);
  return e.never ? kNo : 0;
}

int run_plan_policy(Cli& cli, const std::string& file) {
  errno = 0;
  std::ifstream in(file, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  if (!in.is_open() || in.bad() || errno == EISDIR)
    throw gpuq::Error(errno == ENOENT ? "NOT_FOUND" : "BAD_INPUT", "cannot read " + file + ": " + std::strerror(errno), "name the policy file to try: gpuq plan --config gpuq.toml");
  const gpuq::PolicyPlan plan = cli.client().plan_policy(text, file);
  if (cli.is_json())
    print_object(cli.io.out, cli.format() == Format::jsonl, "plan",
                 Json{{"config", file}, {"warnings", plan.warnings}, {"stranded", changes_json(plan.stranded)}, {"would_start", changes_json(plan.would_start)}, {"would_wait", changes_json(plan.would_wait)}});
  else print_policy_plan(cli, plan, file);
  return plan.stranded.empty() ? 0 : kNo;
}

}  // namespace

std::string command_of(const gpuq::Remedy& remedy, const std::string& job) {
  if (remedy.text.find("gpuq ") != std::string::npos || remedy.text.find("--") != std::string::npos) return {};
  if ((remedy.kind == "victims" || remedy.kind == "wait_for_jobs") && remedy.jobs.size() > 1) {   // the text names one; who are they?
    std::string text = "gpuq status";
    for (const std::string& id : remedy.jobs) text += " " + id;
    return text;
  }
  if (remedy.kind == "smaller_budget" && remedy.budget_mib > 0)
    return job.empty() ? "--vram " + std::to_string(remedy.budget_mib) + "MiB" : "gpuq update " + job + " --vram " + std::to_string(remedy.budget_mib) + "MiB";
  if (remedy.kind == "release_hold" && !job.empty()) return "gpuq release " + job;
  return {};
}

void print_explanation(Cli& cli, const gpuq::Explanation& explanation, const FreeByDevice& free_mib, std::int64_t now_ms) {
  const gpuq::Explanation e = cli.format() == Format::wide ? explanation : with_short_names(explanation);
  std::ostream& out = cli.io.out;
  const auto painted = [&](const char* colour, const std::string& text) { return cli.colour() ? std::string(colour) + text + "\x1b[0m" : text; };
  if (e.never && !e.summary.starts_with("NO_FIT")) out << painted("\x1b[31m", "NO_FIT") << "  ";
  if (!e.job.empty()) out << e.job << "  " << e.state << (e.ahead > 0 && e.state == "ready" ? ", " + ahead_text(e.ahead) : "") << "  ";
  out << (e.would_start ? painted("\x1b[32m", e.summary) : e.never ? painted("\x1b[31m", e.summary) : e.summary) << '\n';
  if (!e.places.empty()) print_places(cli, e, free_mib, now_ms);
  std::size_t number = 0;
  for (const gpuq::Remedy& remedy : e.remedies) {
    if (remedy.kind == "none_needed" && e.job.empty()) continue;   // the summary has said so
    if (number == 0) out << "\nwhat would make it run\n";
    out << "  " << ++number << ". " << remedy.text;
    if (const std::string command = command_of(remedy, e.job); !command.empty()) out << "\n     " << command;
    out << '\n';
  }
}

nlohmann::ordered_json to_json(const gpuq::Explanation& e, const FreeByDevice& free_mib) {
  Json j{{"id", e.job.empty() ? Json(nullptr) : Json(e.job)}, {"state", e.job.empty() ? Json(nullptr) : Json(e.state)}, {"summary", e.summary}, {"would_start", e.would_start},
         {"never", e.never}, {"ahead", ahead_json(e.ahead)}, {"places_looked_at", e.places_looked_at}};
  j["places"] = Json::array();
  for (const gpuq::PlaceVerdict& p : e.places) {
    const auto free = free_mib.find(p.device);
    j["places"].push_back({{"worker", p.worker}, {"host", p.host}, {"device", p.device}, {"index", p.index}, {"warm", p.warm}, {"constraint", p.constraint}, {"sentence", p.sentence},
                           {"free_mib", free == free_mib.end() ? Json(nullptr) : Json(free->second)}, {"lacking_mib", p.lacking_mib}, {"until_ms", p.until_ms}});
  }
  j["refusals"] = Json::array();
  for (const gpuq::Refusals& r : e.refusals) j["refusals"].push_back({{"constraint", r.constraint}, {"count", r.count}});
  j["remedies"] = Json::array();
  for (const gpuq::Remedy& r : e.remedies)
    j["remedies"].push_back({{"kind", r.kind}, {"text", r.text}, {"command", command_of(r, e.job)}, {"when_ms", r.when_ms}, {"budget_mib", r.budget_mib}, {"jobs", r.jobs}});
  return j;
}

void print_policy_plan(Cli& cli, const gpuq::PolicyPlan& plan, const std::string& file) {
  std::ostream& out = cli.io.out;
  out << file << " is a policy; with it, now: " << times(plan.would_start.size(), "job", "jobs") << " more would start, " << plan.would_wait.size() << " would wait, "
      << plan.stranded.size() << " running would be stranded\n";
  if (!plan.warnings.empty()) out << "\nwarnings\n";
  for (const std::string& warning : plan.warnings) out << "  " << warning << '\n';
  print_changes(out, "stranded: running now, and not allowed where they run", plan.stranded);
  print_changes(out, "would start", plan.would_start);
  print_changes(out, "would wait", plan.would_wait);
  cli.note("nothing was changed; to make it so: put it where `gpuq config show` says the policy lies, then gpuq config reload");
}

void warn_when_it_never_fits(Cli& cli, gpuq::Client& client, const std::string& job) {
  try {
    const gpuq::Explanation e = client.explain(job);
    if (!e.never) return;
    cli.note("warning[NO_FIT]: job " + job + " is on disk, but no device that is here can ever hold it: " + e.summary);
    for (const gpuq::Remedy& remedy : e.remedies) cli.note("  try: " + remedy.text);
    cli.note("  try: gpuq explain " + job + "   or refuse such jobs: gpuq submit --strict");
  } catch (const gpuq::Error&) {
    // A warning that cannot be had is no reason to fail: the job is on disk.
  }
}

void add_explain(CLI::App& app, Cli& cli) {
  auto job = std::make_shared<std::string>();
  CLI::App* explain = app.add_subcommand("explain", "why a job waits: per device the first constraint that says no, by how much, and what would make it run");
  explain->add_option("job", *job, "an id, a unique part of one, or last")->option_text("JOB")->required();
  explain->footer("Examples:\n  gpuq explain last\n  gpuq explain 01M7Y6FQ -o wide        every device that was looked at, with its UUID\n  gpuq explain last -o json | jq '.explanation.remedies[].text'");
  explain->callback([&cli, job] { cli.action = [&cli, job] { return run_explain(cli, *job); }; });

  auto config = std::make_shared<std::string>();
  auto a = std::make_shared<SubmitArguments>();
  CLI::App* plan = app.add_subcommand("plan", "what would happen, without effects: of a submit, or of another policy");
  plan->add_option("--config", *config, "try this policy file against what is queued and running; exit code 1 when it would strand running jobs")->option_text("FILE");
  plan->footer("Examples:\n  gpuq plan submit --vram 12GiB -- python train.py     exit code 1 when it can never run here\n  gpuq plan submit detect --model board\n  gpuq plan --config new.toml");
  plan->require_subcommand(0, 1);
  CLI::App* submit = plan->add_subcommand("submit", "would it start now, where, and what stands before it; takes what `gpuq submit` takes");
  add_job_options(*submit, *a);
  submit->callback([&cli, a] { cli.action = [&cli, a] { return run_plan_submit(cli, *a); }; });
  plan->callback([&cli, plan, config] {
    if (config->empty()) return;   // a submit, or the help
    if (!plan->get_subcommands().empty()) throw CLI::ValidationError("--config", "is a plan of its own; plan a submit or a policy, not both");
    cli.action = [&cli, config] { return run_plan_policy(cli, *config); };
  });
}

}  // namespace gq::cli

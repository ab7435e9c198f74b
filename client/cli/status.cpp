// status.cpp - status [JOB…], list.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "client/cli/cli.h"
#include "client/cli/screen.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"

namespace gq::cli {

namespace {

std::string vram_text(const gpuq::JobStatus& job) {
  if (job.granted_mib > 0) return mib(job.granted_mib);
  if (job.budget_min_mib == 0 && job.budget_max_mib == 0) return "-";
  if (job.budget_max_mib == job.budget_min_mib || job.budget_max_mib == 0) return mib(job.budget_min_mib);
  return mib(job.budget_min_mib) + ".." + (job.budget_max_mib >= (std::int64_t{1} << 40) ? "rest" : mib(job.budget_max_mib));
}

std::string times(int count) { return count == 1 ? "once" : std::to_string(count) + " times"; }

std::string progress_text(const gpuq::JobStatus& job) {
  if (job.progress_total == 0) return job.progress_step == 0 ? "" : std::to_string(job.progress_step);
  return std::to_string(job.progress_step) + "/" + std::to_string(job.progress_total);
}

bool is_waiting(const gpuq::JobStatus& job) { return job.state == "ready" || job.state == "waiting" || job.state == "blocked"; }

/// What a person asks first: where is it, and why not further.
std::string note_of(const gpuq::JobStatus& job) {
  if (!job.code.empty()) return "[" + job.code + "] " + job.what;
  if (job.state == "running" || job.state == "yielding") {
    std::string text = job.worker;
    if (const std::string progress = progress_text(job); !progress.empty()) text += "  " + progress;
    if (job.state == "yielding" && !job.leave_reason.empty()) text += "  leaving: " + job.leave_reason;
    return job.cancel_asked ? text + "  (cancel asked)" : text;
  }
  if (!is_waiting(job)) return job.worker;
  std::string text = !job.reason.empty() ? job.reason : job.held ? "held" : job.state == "ready" ? ahead_text(job.ahead) : "";
  if (job.preemptions > 0) text += std::string(text.empty() ? "" : "  ") + "(preempted " + times(job.preemptions) + (job.checkpoint_step == 0 ? ")" : ", resumes from step " + std::to_string(job.checkpoint_step) + ")");
  return text;
}

/// Who took its device, and what came of it. While it is yielding the words are of the leaving to come.
std::string left_text(const gpuq::JobStatus& job) {
  if (job.leave_reason.empty() && job.preemptions == 0) return {};
  std::string text = is_waiting(job) && job.ended_ms != 0 ? job.worker + " at " + stamp(job.ended_ms).substr(11) + ": " + job.leave_reason : job.leave_reason;
  if (!job.leave_for.empty() && text.find(job.leave_for) == std::string::npos) text += (text.empty() ? "for job " : ", for job ") + job.leave_for;
  if (job.preemptions > 0) text += (text.empty() ? "" : "; ") + std::string("preempted ") + times(job.preemptions) +
                                   (job.evictions == 0 ? "" : job.evictions == job.preemptions ? " for a higher class" : ", " + times(job.evictions) + " for a higher class");
  if (is_waiting(job)) text += job.checkpoint_step != 0 ? "; resumes from step " + std::to_string(job.checkpoint_step) : job.checkpoint.empty() ? "; starts from the beginning" : "; resumes from its checkpoint";
  return text;
}

bool is_final(const gpuq::JobStatus& job) { return !is_waiting(job) && job.state != "running" && job.state != "yielding"; }
/// Before a job is final, ended_ms is when its newest attempt left.
std::int64_t age_of(const gpuq::JobStatus& job, std::int64_t now) { return (is_final(job) ? job.ended_ms : now) - job.submitted_ms; }

int run_status(Cli& cli, const std::vector<std::string>& words) {
  if (words.empty()) return show_screen(cli, Detail::status);
  const auto ids = resolve_jobs(cli, words);
  const auto jobs = cli.client().status(ids);
  if (cli.is_json()) {
    std::vector<nlohmann::ordered_json> items;
    for (const gpuq::JobStatus& job : jobs) items.push_back(to_json(job));
    print_json(cli.io.out, cli.format() == Format::jsonl, "jobs", items);
  }
  const std::int64_t now = wall_now_ms();
  std::string missing;
  for (const gpuq::JobStatus& job : jobs) {
    if (!job.found && missing.empty()) missing = job.id;
    if (job.found && !cli.is_json()) print_job(cli, job, now);
  }
  if (missing.empty()) return 0;
  const gpuq::Error error("NOT_FOUND", "there is no job " + missing, "gpuq list");
  return cli.is_json() ? error.exit_code() : report(cli, error);
}

struct ListArguments {
  std::string state, job_class, kind, after;
  bool active = false;
  int limit = 50;
};

int run_list(Cli& cli, const ListArguments& a) {
  gpuq::ListFilter filter;
  filter.state = a.state;
  filter.job_class = a.job_class;
  filter.kind = a.kind;
  filter.active_only = a.active;
  filter.limit = a.limit;
  if (!a.after.empty()) filter.after = resolve_job(cli, a.after);
  const auto jobs = cli.client().list(filter);
  if (cli.is_json()) {
    std::vector<nlohmann::ordered_json> items;
    for (const gpuq::JobStatus& job : jobs) items.push_back(to_json(job));
    print_json(cli.io.out, cli.format() == Format::jsonl, "jobs", items);
    return 0;
  }
  if (jobs.empty()) {
    cli.note("no jobs" + std::string(a.state.empty() && a.kind.empty() && a.job_class.empty() && !a.active ? "; a first one: gpuq submit echo --wait" : " like that"));
    return 0;
  }
  print_jobs(cli, jobs, wall_now_ms());
  if (static_cast<int>(jobs.size()) == a.limit) cli.note("there may be more: gpuq list --page-after " + jobs.back().id);
  return 0;
}

}  // namespace

void print_job(Cli& cli, const gpuq::JobStatus& job, std::int64_t now) {
  std::ostream& out = cli.io.out;
  const auto line = [&](const char* name, const std::string& value) {
    if (!value.empty()) out << "  " << name << std::string(std::string_view(name).size() < 12 ? 12 - std::string_view(name).size() : 1, ' ') << value << '\n';
  };
  out << job.id << "  " << job.state << (job.held && !is_final(job) ? " (held)" : "") << (job.cancel_asked && !is_final(job) ? " (cancel asked)" : "") << '\n';
  line("kind", job.kind + (job.model.empty() ? "" : "  model " + job.model + (job.model_version.empty() ? "" : " (" + job.model_version + ")")));
  line("class", job.job_class + "  priority " + std::to_string(job.priority));
  line("label", job.label);
  line("owner", job.owner);
  if (!job.durable) line("durability", "none: in the broker's memory only");
  line("submitted", stamp(job.submitted_ms) + "  (" + age(now - job.submitted_ms) + " ago)");
  if (job.started_ms != 0) line("started", stamp(job.started_ms) + "  after " + age(job.started_ms - job.submitted_ms));
  if (is_final(job)) line("ended", stamp(job.ended_ms) + "  after " + age(job.ended_ms - job.submitted_ms));
  if (job.due_ms != 0 && !is_final(job)) line("due", stamp(job.due_ms));
  if (job.deadline_ms != 0) line("deadline", stamp(job.deadline_ms));
  if (vram_text(job) != "-") line("vram", vram_text(job));
  if (!job.worker.empty()) line("worker", job.worker + (job.device.empty() ? "" : "  " + job.device));
  line("attempt", std::to_string(job.attempt) + "  failures " + std::to_string(job.failures) + "/" + std::to_string(job.retries) + "  losses " + std::to_string(job.losses) +
                      "  preemptions " + std::to_string(job.preemptions));
  line(job.state == "yielding" ? "leaving" : is_waiting(job) ? "left" : "left once", left_text(job));
  if (const std::string progress = progress_text(job); !progress.empty()) {
    std::string text = "step " + progress;
    for (const auto& [name, value] : job.metrics) {
      std::ostringstream number;
      number.precision(4);
      number << value;
      text += "  " + name + "=" + number.str();
    }
    line("progress", text);
  }
  if (job.checkpoint_step != 0) line("checkpoint", "step " + std::to_string(job.checkpoint_step));
  if (!job.after.empty()) {
    std::string text;
    for (const std::string& id : job.after) text += (text.empty() ? "" : " ") + id;
    line("after", text);
  }
  line("retry of", job.retry_of);
  if (!job.reason.empty() && (job.state != "yielding" || job.leave_reason.empty())) line("waits for", job.reason);   // else said above
  else if (job.held && is_waiting(job)) line("waits for", "its release: gpuq release " + job.id);
  else if (job.state == "ready") line("waits for", job.ahead == 0 ? "its turn" : ahead_text(job.ahead) + " of it");
  if (job.state == "ready") line("why", "gpuq explain " + job.id);
  if (!job.code.empty()) line("failed with", "[" + job.code + "] " + job.what);
  if (job.result_bytes != 0 || !job.result_blobs.empty()) line("result", "gpuq result " + job.id);
  if (!job.last_lines.empty() && is_text(job.last_lines)) {
    out << "  last lines\n";
    std::istringstream lines(job.last_lines);
    for (std::string text; std::getline(lines, text);) out << "    " << text << '\n';
  }
}

void print_jobs(Cli& cli, const std::vector<gpuq::JobStatus>& jobs, std::int64_t now) {
  const bool wide = cli.format() == Format::wide;
  Table table(wide ? std::vector<std::string>{"ID", "KIND", "CLASS", "STATE", "PRIORITY", "AGE", "MODEL", "VRAM", "ATTEMPT", "WORKER", "DEVICE", "OWNER", "LABEL", "NOTE"}
                   : std::vector<std::string>{"ID", "KIND", "CLASS", "STATE", "AGE", "LABEL", "NOTE"});
  for (const gpuq::JobStatus& job : jobs) {
    if (wide)
      table.row({job.id, job.kind, job.job_class, job.state, std::to_string(job.priority), age(age_of(job, now)), job.model, vram_text(job), std::to_string(job.attempt), job.worker,
                 job.device, job.owner, job.label, note_of(job)});
    else table.row({job.id, job.kind, job.job_class, job.state, age(age_of(job, now)), job.label, note_of(job)});
  }
  table.print(cli.io.out, !cli.globals.no_header);
}

void add_status(CLI::App& app, Cli& cli) {
  auto words = std::make_shared<std::vector<std::string>>();
  CLI::App* status = app.add_subcommand("status", "one screen of the whole; with JOB…: all about these jobs");
  status->add_option("job", *words, "ids, unique parts of ids, or last")->option_text("JOB...");
  status->callback([&cli, words] { cli.action = [&cli, words] { return run_status(cli, *words); }; });

  auto a = std::make_shared<ListArguments>();
  CLI::App* list = app.add_subcommand("list", "jobs, newest first")->alias("ls");
  list->add_option("--state", a->state, "only in this state: ready, running, succeeded, failed, …")->option_text("STATE");
  list->add_option("--class", a->job_class, "only of this class")->option_text("CLASS");
  list->add_option("--kind", a->kind, "only of this kind")->option_text("KIND");
  list->add_flag("--active,-a", a->active, "only those not final");
  list->add_option("--limit,-n", a->limit, "at most so many (50)")->option_text("N")->check(CLI::Range(1, 10'000));
  list->add_option("--page-after", a->after, "the page behind this job")->option_text("JOB");
  list->callback([&cli, a] { cli.action = [&cli, a] { return run_list(cli, *a); }; });
}

}  // namespace gq::cli

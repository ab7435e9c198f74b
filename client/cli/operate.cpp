// operate.cpp - what people order the scheduler to do: preempt, hold, release, update, drain, undrain, queue, config.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "client/cli/cli.h"
#include "client/cli/operate.h"
#include "client/cli/selectors.h"
#include "client/cli/text.h"
#include "client/lib/convert.h"

namespace gq::cli {

namespace {

using Json = nlohmann::ordered_json;

template <class T>
T value_of(Result<T> parsed) {
  if (!parsed) throw client::to_public(parsed.error());
  return std::move(*parsed);
}

std::chrono::milliseconds span_of(const std::string& text) { return text.empty() ? std::chrono::milliseconds{0} : value_of(parse_span(text)); }

/// "none" takes a time away; anything else is a time to come.
std::int64_t time_or_none(const std::string& text, const char* option, std::int64_t now_ms) {
  if (text == "none") return 0;
  const std::int64_t at = value_of(parse_when(text, now_ms));
  if (at <= now_ms) throw gpuq::Error("USAGE", std::string(option) + " '" + text + "' has passed already", "name a time to come, or none");
  return at;
}

int show_done(Cli& cli, const std::string& target, const std::string& text, const std::string& next) {
  if (cli.is_json()) print_object(cli.io.out, cli.format() == Format::jsonl, "done", {{"target", target}, {"text", text}});
  else cli.io.out << text << '\n';
  if (!next.empty()) cli.note("next: " + next);
  return 0;
}

int run_jobs(Cli& cli, const std::vector<std::string>& words, const char* next, const std::function<std::vector<gpuq::CommandResult>(const std::vector<std::string>&)>& order) {
  const auto ids = resolve_jobs(cli, words);
  const int code = show_commands(cli, ids, order(ids));
  if (code == 0 && next != nullptr) cli.note(std::string("next: ") + next + " " + (ids.size() == 1 ? ids.front() : "JOB"));
  return code;
}

int run_config_show(Cli& cli, const std::string& prefix) {
  gpuq::Configuration config = cli.client().config();
  if (!prefix.empty()) std::erase_if(config.settings, [&](const gpuq::Setting& s) { return !s.key.starts_with(prefix); });
  if (config.settings.empty()) throw gpuq::Error("NOT_FOUND", "no setting begins with '" + prefix + "'", "gpuq config show");
  print_config(cli, config, wall_now_ms());
  return 0;
}

int run_config_reload(Cli& cli) {
  gpuq::Configuration config;
  try {
    config = cli.client().reload_config();
  } catch (const gpuq::Error& e) {   // unreachable and refused alike: what matters is which policy holds now
    if (e.code() != "UNREACHABLE" && e.code() != "TIMED_OUT") cli.note("the policy that held before still holds: gpuq config show");
    throw;
  }
  if (cli.is_json()) print_config(cli, config, wall_now_ms());
  else {
    const auto own = std::count_if(config.settings.begin(), config.settings.end(), [](const gpuq::Setting& s) { return s.origin == "file"; });
    cli.io.out << "reloaded " << (config.file.empty() ? std::string("the built-in policy") : config.file) << ": " << own << " of " << config.settings.size() << " settings are the file's own\n";
    for (const std::string& warning : config.warnings) cli.note("warning: " + warning);
  }
  return 0;
}

}  // namespace

gpuq::JobUpdate update_of(const UpdateArguments& a, std::int64_t now_ms) {
  gpuq::JobUpdate update;
  update.priority = a.priority;
  update.retries = a.retries;
  if (!a.job_class.empty()) update.job_class = a.job_class;
  if (!a.on_preempt.empty()) update.on_preempt = a.on_preempt;
  if (!a.vram.empty()) {
    const VramRange range = value_of(parse_vram(a.vram));
    update.vram_mib = {range.min_mib, range.max_mib};
  }
  if (!a.deadline.empty()) update.deadline_ms = time_or_none(a.deadline, "--deadline", now_ms);
  if (!a.not_before.empty()) update.not_before_ms = time_or_none(a.not_before, "--not-before", now_ms);
  if (!a.timeout.empty()) update.timeout = a.timeout == "none" ? std::chrono::milliseconds{0} : value_of(parse_span(a.timeout));
  if (!a.where.empty()) {
    update.where.emplace();
    if (a.where != std::vector<std::string>{"none"})
      for (const std::string& text : a.where) {
        value_of(parse_pair(text, "--where"));
        update.where->push_back(text);
      }
  }
  return update;
}

int show_commands(Cli& cli, const std::vector<std::string>& ids, const std::vector<gpuq::CommandResult>& results) {
  int code = 0;
  std::vector<Json> items;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const gpuq::CommandResult& r = results[i];
    const gpuq::Error error(r.code, r.what, r.next);
    if (!r.ok && code == 0) code = error.exit_code();
    if (cli.is_json()) {
      Json item{{"id", ids[i]}, {"ok", r.ok}};
      if (r.ok) item["text"] = r.text;
      else item["error"] = {{"code", r.code}, {"what", r.what}, {"next", r.next}};
      items.push_back(std::move(item));
    } else if (r.ok) {
      cli.io.out << ids[i] << "  " << r.text << '\n';
    } else {
      report(cli, r.what.find(ids[i]) == std::string::npos ? gpuq::Error(r.code, "job " + ids[i] + ": " + r.what, r.next) : error);
    }
  }
  if (cli.is_json()) print_json(cli.io.out, cli.format() == Format::jsonl, "jobs", items);
  return code;
}

void print_config(Cli& cli, const gpuq::Configuration& config, std::int64_t now_ms) {
  if (cli.is_json()) {
    std::vector<Json> settings;
    for (const gpuq::Setting& s : config.settings) settings.push_back({{"key", s.key}, {"value", s.value}, {"origin", s.origin}, {"where", s.where}});
    if (cli.format() == Format::jsonl) print_json(cli.io.out, true, "settings", settings);
    else print_object(cli.io.out, false, "config", {{"file", config.file}, {"loaded_ms", config.loaded_ms}, {"warnings", config.warnings}, {"settings", settings}});
    return;
  }
  Table table({"KEY", "VALUE", "ORIGIN", "WHERE"});
  for (const gpuq::Setting& s : config.settings) table.row({s.key, s.value.empty() ? "-" : s.value, s.origin, s.where.empty() ? "-" : s.where});
  table.print(cli.io.out, !cli.globals.no_header);
  if (config.file.empty()) cli.note("no policy file: what is built in holds");
  else cli.note("policy of " + config.file + ", loaded " + stamp(config.loaded_ms) + " (" + age(now_ms - config.loaded_ms) + " ago)");
  for (const std::string& warning : config.warnings) cli.note("warning: " + warning);
}

void add_operate(CLI::App& app, Cli& cli) {
  struct Arguments { std::vector<std::string> jobs; std::string reason, deadline, target, job_class, key; };
  const auto a = std::make_shared<Arguments>();
  const auto jobs = [&](CLI::App* c) { c->add_option("job", a->jobs, "ids, unique parts of ids, or last")->option_text("JOB...")->required(); };
  const auto reason = [&](CLI::App* c) { c->add_option("--reason", a->reason, "why, shown by status and explain")->option_text("TEXT"); };

  CLI::App* preempt = app.add_subcommand("preempt", "ask running jobs to leave their devices; they keep their place in line and go on from their checkpoint");
  jobs(preempt);
  reason(preempt);
  preempt->add_option("--deadline", a->deadline, "how long they may take before they are killed (the class's grace)")->option_text("DURATION");
  preempt->footer("Examples:\n  gpuq preempt last --reason 'card needed for a demo'\n  gpuq preempt 01M7Y6FQ 01M7Y7AB --deadline 2min\n  gpuq hold JOB && gpuq preempt JOB     off its device, and not back until released");
  preempt->callback([&cli, a] {
    cli.action = [&cli, a] { return run_jobs(cli, a->jobs, "gpuq status", [&](const auto& ids) { return cli.client().preempt(ids, a->reason, span_of(a->deadline)); }); };
  });

  CLI::App* hold = app.add_subcommand("hold", "do not start these jobs until they are released; a running one goes on");
  jobs(hold);
  reason(hold);
  hold->footer("Examples:\n  gpuq hold last\n  gpuq hold 01M7Y6FQ --reason 'data set is being fixed'");
  hold->callback([&cli, a] { cli.action = [&cli, a] { return run_jobs(cli, a->jobs, "gpuq release", [&](const auto& ids) { return cli.client().hold(ids, a->reason); }); }; });

  CLI::App* release = app.add_subcommand("release", "let held jobs start again; they have kept their place");
  jobs(release);
  release->footer("Example:\n  gpuq release last");
  release->callback([&cli, a] { cli.action = [&cli, a] { return run_jobs(cli, a->jobs, "gpuq explain", [&](const auto& ids) { return cli.client().release(ids); }); }; });

  const auto u = std::make_shared<UpdateArguments>();
  CLI::App* update = app.add_subcommand("update", "change a job that is not final; what concerns where it runs, only before it starts");
  update->add_option("job", u->job, "an id, a unique part of one, or last")->option_text("JOB")->required();
  update->add_option("--priority,-p", u->priority, "0..9, 9 is served first")->option_text("N")->check(CLI::Range(0, 9));
  update->add_option("--class", u->job_class, "inference, training or synthesis")->option_text("CLASS");
  update->add_option("--vram", u->vram, "device memory: 6GiB, 2GiB..8GiB or 2GiB..rest")->option_text("SIZE");
  update->add_option("--where", u->where, "the labels its worker must have, all of them; none = any worker; may be repeated")->option_text("KEY=VALUE")->allow_extra_args(false);
  update->add_option("--not-before", u->not_before, "2h (from now), 22:30, 2026-11-21T22:00Z or none")->option_text("TIME");
  update->add_option("--deadline", u->deadline, "expire if not started by then; none = never")->option_text("TIME");
  update->add_option("--timeout", u->timeout, "of one attempt, from its next start on; none = no limit")->option_text("DURATION");
  update->add_option("--retries", u->retries, "how often to try again after a failure")->option_text("N")->check(CLI::Range(0, 100));
  update->add_option("--on-preempt", u->on_preempt, "checkpoint, pause, restart or never")->option_text("HOW")->check(CLI::IsMember({"checkpoint", "pause", "restart", "never"}));
  update->footer("Examples:\n  gpuq update last --priority 9\n  gpuq update 01M7Y6FQ --vram 4GiB..8GiB --deadline none");
  update->callback([&cli, u] {
    cli.action = [&cli, u] {
      const gpuq::JobUpdate change = update_of(*u, wall_now_ms());
      const std::string id = resolve_job(cli, u->job);
      return show_done(cli, id, cli.client().update(id, change), "gpuq explain " + id);
    };
  });

  const auto target = [&](CLI::App* c) { c->add_option("target", a->target, "a worker's name, a device's UUID, WORKER/INDEX or HOST/INDEX (gpuq workers)")->option_text("WORKER|DEVICE")->required(); };
  CLI::App* drain = app.add_subcommand("drain", "nothing starts there any more; what runs goes on, until the deadline if there is one");
  target(drain);
  reason(drain);
  drain->add_option("--deadline", a->deadline, "who still runs there after this long is asked to leave")->option_text("DURATION");
  drain->footer("Examples:\n  gpuq drain gpu-7 --deadline 10min --reason 'new driver'\n  gpuq drain gpu-7/1                 one device of it\n  gpuq undrain gpu-7");
  drain->callback([&cli, a] {
    cli.action = [&cli, a] { return show_done(cli, a->target, cli.client().drain(a->target, a->reason, span_of(a->deadline)), "gpuq workers   and later: gpuq undrain " + a->target); };
  });
  CLI::App* undrain = app.add_subcommand("undrain", "let jobs start there again");
  target(undrain);
  undrain->footer("Example:\n  gpuq undrain gpu-7");
  undrain->callback([&cli, a] { cli.action = [&cli, a] { return show_done(cli, a->target, cli.client().undrain(a->target), "gpuq workers"); }; });

  CLI::App* queue = app.add_subcommand("queue", "stop and start a whole class of jobs");
  queue->require_subcommand(0, 1);
  queue->footer("Examples:\n  gpuq queue pause synthesis --reason 'disk is full'\n  gpuq queue resume synthesis");
  const auto job_class = [&](CLI::App* c) { c->add_option("class", a->job_class, "inference, training or synthesis")->option_text("CLASS")->required(); };
  CLI::App* pause = queue->add_subcommand("pause", "jobs of this class are accepted and not started; what runs goes on");
  job_class(pause);
  reason(pause);
  pause->callback([&cli, a] {
    cli.action = [&cli, a] { return show_done(cli, a->job_class, cli.client().pause_class(a->job_class, a->reason), "gpuq queue resume " + a->job_class); };
  });
  CLI::App* resume = queue->add_subcommand("resume", "jobs of this class start again");
  job_class(resume);
  resume->callback([&cli, a] { cli.action = [&cli, a] { return show_done(cli, a->job_class, cli.client().resume_class(a->job_class), "gpuq top"); }; });

  CLI::App* config = app.add_subcommand("config", "the policy that holds, value by value, with where each comes from");
  config->require_subcommand(0, 1);
  config->footer("Examples:\n  gpuq config show class.training\n  gpuq plan --config new.toml       what it would change\n  gpuq config reload                 read the file again; refused whole when it is wrong");
  CLI::App* show = config->add_subcommand("show", "key, value, origin and place in the file");
  show->add_option("prefix", a->key, "only keys that begin so: class.training")->option_text("PREFIX");
  show->callback([&cli, a] { cli.action = [&cli, a] { return run_config_show(cli, a->key); }; });
  CLI::App* reload = config->add_subcommand("reload", "the broker reads its policy file again; a wrong one changes nothing");
  reload->callback([&cli] { cli.action = [&cli] { return run_config_reload(cli); }; });
}

}  // namespace gq::cli

// top.cpp - the one screen, `top`, `workers`.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <thread>

#include "client/cli/cli.h"
#include "client/cli/screen.h"
#include "client/cli/text.h"
#include "common/vocabulary/job.h"

namespace gq::cli {

namespace {

constexpr auto kReady = static_cast<std::size_t>(JobState::ready);
constexpr auto kRunning = static_cast<std::size_t>(JobState::running);

std::string number(double value, int digits) {
  std::ostringstream text;
  text.setf(std::ios::fixed);
  text.precision(digits);
  text << value;
  return text.str();
}

std::string device_line(const gpuq::DeviceStatus& d) {
  std::string text = d.kind == "cpu" ? "cpu" : d.kind + ":" + std::to_string(d.index);
  return text;
}

std::string bar(std::int64_t part, std::int64_t whole) {
  constexpr int kCells = 10;
  const int full = whole <= 0 ? 0 : static_cast<int>(std::min<std::int64_t>(kCells, part * kCells / whole));
  return "[" + std::string(static_cast<std::size_t>(full), '#') + std::string(static_cast<std::size_t>(kCells - full), '.') + "]";
}

}  // namespace

Overview look(gpuq::Client& client) {
  Overview view;
  view.top = client.top();
  view.workers = client.workers();
  gpuq::ListFilter filter;
  filter.limit = 10;
  filter.state = "running";
  view.running = client.list(filter);
  filter.state = "failed";
  filter.limit = 5;
  view.failed = client.list(filter);
  return view;
}

std::vector<std::string> whats_wrong(const Overview& view) {
  std::vector<std::string> wrong;
  std::uint64_t ready = 0;
  for (int c = 0; c < 3; ++c) ready += view.top.jobs[c][kReady];
  if (view.top.store.find("down") != std::string::npos) wrong.push_back("the store is away: " + view.top.store + "; nothing new is accepted until it is back");
  if (view.workers.empty()) wrong.push_back(std::string(ready > 0 ? std::to_string(ready) + " jobs are ready, but " : "") + "no worker is connected: gpuq-worker --access-file worker.json, or gpuq up");
  for (const gpuq::WorkerStatus& w : view.workers) {
    if (w.since_beat_ms > 5000) wrong.push_back("worker " + w.name + " has been silent for " + age(w.since_beat_ms) + "; its jobs start elsewhere when its lease ends");
    for (const gpuq::DeviceStatus& d : w.devices) {
      if (d.state.starts_with("hot")) wrong.push_back("device " + d.uuid + " of " + w.name + " is " + d.state + " and gets no work until it has cooled: look at its fans and at what shares its air");
      if (!d.healthy) wrong.push_back("device " + d.uuid + " of " + w.name + " reports a fault and gets no work: nvidia-smi -q -i " + d.uuid);
      if (d.total_mib > 0 && d.foreign_mib > d.total_mib / 4) wrong.push_back(mib(d.foreign_mib) + " of " + d.uuid + " on " + w.name + " are used by programs that are not gpuq's");
    }
  }
  if (view.top.commit_p50_ms > 50) wrong.push_back("commits are slow (p50 " + number(view.top.commit_p50_ms, 0) + " ms): the disk under Redis is the likely cause, gpuq doctor");
  return wrong;
}

void print_workers(Cli& cli, const std::vector<gpuq::WorkerStatus>& workers, bool wide) {
  Table table(wide ? std::vector<std::string>{"WORKER", "STATE", "BEAT", "RUNNING", "DEVICE", "NAME", "TOTAL", "GRANTED", "FREE", "FOREIGN", "USED", "LOAD", "TEMP", "NOW", "RESERVED", "WARM", "UUID", "HOST", "VERSION", "LABELS", "KINDS"}
                   : std::vector<std::string>{"WORKER", "STATE", "BEAT", "RUNNING", "DEVICE", "NAME", "MEMORY", "FREE", "LOAD", "NOW", "RESERVED", "WARM"});
  const auto joined = [](const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : ",") + word;
    return text.empty() ? std::string("-") : text;
  };
  const auto or_dash = [](const std::string& text) { return text.empty() ? std::string("-") : text; };
  for (const gpuq::WorkerStatus& w : workers) {
    bool first = true;
    const auto head = [&](const std::string& text) { return first ? text : std::string(); };
    std::vector<gpuq::DeviceStatus> devices = w.devices;
    if (devices.empty()) devices.emplace_back();
    for (const gpuq::DeviceStatus& d : devices) {
      const std::string load = d.utilization_pct < 0 ? "-" : std::to_string(d.utilization_pct) + "%";
      const std::string beat = head(age(w.since_beat_ms)), running = head(std::to_string(w.running));
      if (wide)
        table.row({head(w.name), head(w.state), beat, running, d.kind.empty() ? "-" : device_line(d), d.name, mib(d.total_mib), mib(d.granted_mib), mib(d.free_mib), mib(d.foreign_mib),
                   mib(d.used_mib), load, d.temperature_c < 0 ? "-" : std::to_string(d.temperature_c) + "C", or_dash(d.state), joined(d.reserved), joined(d.warm), d.uuid, head(w.host), head(w.version), head(joined(w.labels)), head(joined(w.kinds))});
      else
        table.row({head(w.name), head(w.state), beat, running, d.kind.empty() ? "-" : device_line(d), d.name, bar(d.total_mib - d.free_mib, d.total_mib) + " " + mib(d.total_mib), mib(d.free_mib), load, or_dash(d.state), joined(d.reserved), joined(d.warm)});
      first = false;
    }
  }
  table.print(cli.io.out, !cli.globals.no_header);
}

void print_screen(Cli& cli, const Overview& view, Detail detail, std::int64_t now_ms) {
  std::ostream& out = cli.io.out;
  const gpuq::Top& t = view.top;
  out << "gpuq " << t.broker_version << "  up " << age(t.uptime_ms) << "  term " << t.term << "  store " << t.store << "  space " << t.space << '\n';
  out << "commits " << t.commits << "  p50 " << number(t.commit_p50_ms, 2) << " ms  p99 " << number(t.commit_p99_ms, 2) << " ms  " << number(t.jobs_per_commit, 1)
      << " jobs each   broker " << bytes_text(t.broker_bytes) << "  queued " << bytes_text(t.queued_bytes) << "  results " << bytes_text(t.final_bytes) << '\n';
  out << "submitted " << t.submitted << "  succeeded " << t.succeeded << "  failed " << t.failed << "  lost " << t.lost << "  stale " << t.stale << '\n';
  if (t.preempted + t.evicted_models + t.plans_made > 0)
    out << "preempted " << t.preempted << "  killed at their deadline " << t.killed_at_deadline << "  models evicted " << t.evicted_models << "  plans made " << t.plans_made << "  expired " << t.plans_expired << '\n';
  out << '\n';
  std::vector<std::string> header{"CLASS"};
  for (int s = 0; s < 10; ++s) {
    std::string name = gpuq::state_name(s);
    std::transform(name.begin(), name.end(), name.begin(), [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
    header.push_back(name);
  }
  Table classes(header);
  for (int c = 0; c < 3; ++c) {
    std::vector<std::string> row{gpuq::class_name(c)};
    for (const std::uint64_t count : t.jobs[c]) row.push_back(count == 0 ? "." : std::to_string(count));
    classes.row(row);
  }
  classes.print(out);
  out << '\n';
  if (view.workers.empty()) out << "no workers\n";
  else print_workers(cli, view.workers, cli.format() == Format::wide);
  if (!view.running.empty()) {
    out << "\nrunning" << (view.running.size() == 10 ? " (the newest 10)" : "") << '\n';
    print_jobs(cli, view.running, now_ms);
  }
  if (!view.failed.empty() && detail == Detail::status) {
    out << "\nfailed last\n";
    print_jobs(cli, view.failed, now_ms);
  }
  out << '\n';
  for (const std::string& sentence : t.switches) out << "switched: " << sentence << '\n';
  const auto wrong = whats_wrong(view);
  if (wrong.empty()) out << "nothing is wrong\n";
  for (const std::string& sentence : wrong) out << (cli.colour() ? "\x1b[31mwrong\x1b[0m: " : "wrong: ") << sentence << '\n';
}

int show_screen(Cli& cli, Detail detail) {
  const Overview view = look(cli.client());
  if (!cli.is_json()) {
    print_screen(cli, view, detail, wall_now_ms());
    return 0;
  }
  nlohmann::ordered_json whole{{"schema_version", kSchemaVersion}, {"broker", to_json(view.top)}};
  whole["workers"] = nlohmann::ordered_json::array();
  for (const auto& w : view.workers) whole["workers"].push_back(to_json(w));
  whole["running"] = nlohmann::ordered_json::array();
  for (const auto& j : view.running) whole["running"].push_back(to_json(j));
  whole["failed_last"] = nlohmann::ordered_json::array();
  for (const auto& j : view.failed) whole["failed_last"].push_back(to_json(j));
  whole["wrong"] = whats_wrong(view);
  cli.io.out << whole.dump(cli.format() == Format::json ? 2 : -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
  return 0;
}

namespace {

int run_top(Cli& cli, bool once, const std::string& every) {
  std::chrono::milliseconds interval{2000};
  if (!every.empty()) {
    auto span = parse_span(every.find_first_not_of("0123456789") == std::string::npos ? every + "s" : every);
    if (!span || span->count() < 100) throw gpuq::Error("USAGE", "--watch '" + every + "' is no interval", "for example --watch 2s");
    interval = *span;
  }
  if (once || (every.empty() && !cli.io.out_terminal)) return show_screen(cli, Detail::top);
  const bool redraw = cli.io.out_terminal && !cli.is_json();
  while (!interrupted()) {
    if (redraw) {
      std::ostringstream frame;
      Cli painter({frame, cli.io.err, true, cli.io.err_terminal});
      painter.globals = cli.globals;
      print_screen(painter, look(cli.client()), Detail::top, wall_now_ms());
      std::string text = frame.str();   // home, each line cleared to its end, the rest of the screen cleared: no flicker
      for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 4) text.replace(at, 1, "\x1b[K\n");
      cli.io.out << "\x1b[H" << text << "\x1b[J";
    } else if (const int code = show_screen(cli, Detail::top); code != 0) {
      return code;
    }
    cli.io.out.flush();
    if (!cli.io.out.good()) return 0;
    for (auto left = interval; left.count() > 0 && !interrupted(); left -= std::chrono::milliseconds(50)) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  set_interrupted(false);   // leaving top is how it ends
  return 0;
}

}  // namespace

void add_top(CLI::App& app, Cli& cli) {
  struct Arguments { bool once = false; std::string every; };
  auto a = std::make_shared<Arguments>();
  CLI::App* top = app.add_subcommand("top", "the screen of `status`, redrawn");
  top->add_flag("--once", a->once, "print it once and exit");
  top->add_option("--watch,-n", a->every, "how often (2s)")->option_text("DURATION")->expected(1);
  top->callback([&cli, a] { cli.action = [&cli, a] { return run_top(cli, a->once, a->every); }; });

  CLI::App* workers = app.add_subcommand("workers", "workers and their devices; -o wide for all columns");
  workers->callback([&cli] {
    cli.action = [&cli] {
      const auto list = cli.client().workers();
      if (cli.is_json()) {
        std::vector<nlohmann::ordered_json> items;
        for (const auto& w : list) items.push_back(to_json(w));
        print_json(cli.io.out, cli.format() == Format::jsonl, "workers", items);
      } else if (list.empty()) {
        cli.note("no worker is connected; start one: gpuq-worker --access-file worker.json");
      } else {
        print_workers(cli, list, cli.format() == Format::wide);
      }
      return 0;
    };
  });
}

}  // namespace gq::cli

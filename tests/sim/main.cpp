// main.cpp - gpuq-sim: one run of the simulator. Prints seed and options first, a table after; exit 1 when a rule was broken.
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <fstream>
#include <string>
#include <thread>

#include "tests/sim/openb.h"
#include "tests/sim/options.h"
#include "tests/sim/record.h"

namespace {

using gq::sim::Options;
using gq::sim::Report;

void usage() {
  std::puts(
      "gpuq-sim - the real scheduler core with simulated workers, clients, network and store\n"
      "gpuq-sim SCENARIO.toml [--svg FILE] [--json FILE] [--seed N]   a day of a fleet: table, verdicts, timeline (tests/sim/scenarios)\n"
      "gpuq-sim [options]                                            a storm of random jobs and faults:\n"
      "  --workers N              workers (20)\n"
      "  --jobs N                 jobs (1000)\n"
      "  --seed S                 the run is a function of it (1); 'clock' takes one from the clock\n"
      "  --faults WHAT            none, crashes, network, store, all, or a comma list (all)\n"
      "  --light | --heavy        rate of faults; light is the default above 1000 workers\n"
      "  --devices-per-worker D   simulated GPUs per worker (1)\n"
      "  --mix echo|mixed         kinds of jobs (mixed)\n"
      "  --operators              policies change, people hold, drain, pause and preempt, cards are shared with strangers\n"
      "  --reload-every N         destroy the core and load a new one at every n-th batch\n"
      "  --stop-at-batch N        destroy the core once, at exactly that batch\n"
      "  --runs N                 that many seeds from S on (1)\n"
      "  --check-every-step       the core's own invariants after every step, steps named on stderr\n"
      "  --openb NODES.csv TASKS.csv --policy random|best-fit|fgd [--seeds 42..51] [--tune 1.3]\n"
      "                           instead: how full a fleet gets, by a trace in the openb format\n"
      "  --json FILE              rows for machines\n"
      "  --verbose                one line per simulated second on stderr");
}

std::string machine() {
  std::string cpu = "unknown CPU";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) {
      cpu = line.substr(line.find(':') + 2);
      break;
    }
  return cpu + ", " + std::to_string(std::thread::hardware_concurrency()) + " threads";
}

std::string commit() {
  std::string text = "unknown";
  if (std::FILE* git = popen("git rev-parse --short HEAD 2>/dev/null", "r")) {
    char line[64] = {};
    if (std::fgets(line, sizeof line, git)) text = std::string(line, std::strcspn(line, "\n"));
    pclose(git);
  }
  return text;
}

void print(const Report& r) {
  const auto row = [](const char* name, std::uint64_t value) { std::printf("  %-24s %14llu\n", name, static_cast<unsigned long long>(value)); };
  std::printf("  %-24s %14.1f s\n", "simulated time", r.simulated_s);
  std::printf("  %-24s %14.2f s\n", "wall time", r.wall_s);
  std::printf("  %-24s %14.2f s\n", "cpu time", r.cpu_s);
  row("jobs final", r.final_jobs);
  row("  succeeded", r.succeeded);
  row("  failed", r.failed);
  row("  cancelled", r.cancelled);
  row("  expired", r.expired);
  row("  quarantined", r.quarantined);
  row("events to the core", r.events);
  row("heartbeats", r.beats);
  row("batches", r.batches);
  row("decisions", r.decisions);
  row("attempts started", r.attempts);
  row("losses", r.losses);
  row("preemptions", r.preemptions);
  row("asked to leave", r.asked_to_leave);
  row("killed at the deadline", r.killed_at_deadline);
  row("models asked out", r.models_asked_out);
  row("checkpoints", r.checkpoints);
  row("commands by hand", r.commands);
  row("policies loaded", r.policies);
  row("stale refused", r.stale);
  row("messages doubled", r.duplicates);
  row("links torn", r.torn);
  row("workers killed", r.killed);
  row("workers frozen", r.frozen);
  row("store outages", r.outages);
  row("core reloads", r.reloads);
  row("violations", r.violations);
  std::printf("  %-24s %014llx\n", "trace hash", static_cast<unsigned long long>(r.trace_hash));
}

void write_json(const std::string& path, const Report& r) {
  std::ofstream out(path);
  const auto row = [&](const char* name, double value, const char* unit, bool last = false) {
    char text[64];
    std::snprintf(text, sizeof text, "%.6g", value);
    out << "  {\"name\":\"" << name << "\",\"value\":" << text << ",\"unit\":\"" << unit << "\"}" << (last ? "\n" : ",\n");
  };
  out << "{\"commit\":\"" << commit() << "\",\"machine\":\"" << machine() << "\",\"options\":\"" << gq::sim::describe(r.options) << "\",\"rows\":[\n";
  row("sim.wall_s", r.wall_s, "s");
  row("sim.cpu_s", r.cpu_s, "s");
  row("sim.violations", static_cast<double>(r.violations), "");
  row("sim.workers", r.options.workers, "");
  row("sim.jobs", r.options.jobs, "");
  row("sim.simulated_s", r.simulated_s, "s");
  row("sim.events", static_cast<double>(r.events), "");
  row("sim.decisions", static_cast<double>(r.decisions), "");
  row("sim.attempts", static_cast<double>(r.attempts), "");
  row("sim.losses", static_cast<double>(r.losses), "");
  row("sim.preemptions", static_cast<double>(r.preemptions), "");
  row("sim.stale", static_cast<double>(r.stale), "", true);
  out << "]}\n";
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i)
    if (std::strcmp(argv[i], "--openb") == 0) return gq::sim::openb_main(argc, argv, commit(), machine());
  if (argc > 1 && std::string(argv[1]).ends_with(".toml")) return gq::sim::scenario_main(argc, argv, commit(), machine());
  Options options;
  options.faults = {true, true, true};
  std::string json;
  unsigned long runs = 1;
  int rate = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--help" || arg == "-h") return usage(), 0;
    if (arg == "--verbose") { options.verbose = true; continue; }
    if (arg == "--check-every-step") { options.check_every_step = true; continue; }
    if (arg == "--operators") { options.operators = true; continue; }
    if (arg == "--light") { rate = 1; continue; }
    if (arg == "--heavy") { rate = 2; continue; }
    if (i + 1 >= argc) return std::fprintf(stderr, "error[USAGE]: %s needs a value or is unknown; --help lists the options\n", arg.c_str()), 2;
    const std::string value = argv[++i];
    bool good = true;
    try {
      if (arg == "--workers") options.workers = static_cast<std::uint32_t>(std::stoul(value));
      else if (arg == "--jobs") options.jobs = static_cast<std::uint32_t>(std::stoul(value));
      else if (arg == "--seed") options.seed = value == "clock" ? static_cast<std::uint64_t>(std::time(nullptr)) : std::stoull(value);
      else if (arg == "--devices-per-worker") options.devices_per_worker = static_cast<std::uint32_t>(std::stoul(value));
      else if (arg == "--reload-every") options.reload_every = static_cast<std::uint32_t>(std::stoul(value));
      else if (arg == "--stop-at-batch") options.stop_at_batch = std::stoull(value);
      else if (arg == "--runs") runs = std::stoul(value);
      else if (arg == "--json") json = value;
      else if (arg == "--mix" && (value == "echo" || value == "mixed")) options.mix = value == "echo" ? gq::sim::Mix::echo : gq::sim::Mix::mixed;
      else if (arg == "--faults") good = gq::sim::parse_faults(value, options.faults);
      else good = false;
    } catch (const std::exception&) { good = false; }
    if (!good || options.workers == 0 || options.workers > 20'000 || options.jobs == 0 || options.jobs > 20'000'000 || options.devices_per_worker > 16)
      return std::fprintf(stderr, "error[USAGE]: bad option %s %s; --help lists what there is\n", arg.c_str(), value.c_str()), 2;
  }
  options.light = rate == 1 || (rate == 0 && options.workers > 1000);
  bool broken = false;
  for (unsigned long run = 0; run < runs; ++run, ++options.seed) {
    std::printf("gpuq-sim %s\n", gq::sim::describe(options).c_str());
    std::fflush(stdout);
    const Report report = gq::sim::simulate(options);
    if (runs == 1) print(report);
    else std::printf("  %.1f s simulated, %.2f s wall, %llu violations, trace %014llx\n", report.simulated_s, report.wall_s,
                     static_cast<unsigned long long>(report.violations), static_cast<unsigned long long>(report.trace_hash));
    if (report.violations != 0) std::printf("%s", report.findings.c_str());
    if (!json.empty()) write_json(json, report);
    broken = broken || report.violations != 0;
  }
  return broken ? 1 : 0;
}

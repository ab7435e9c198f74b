// scenario_main.cpp - gpuq-sim SCENARIO.toml: plays it, prints the table, writes the picture; exit 1 when a promise was broken.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "tests/sim/options.h"
#include "tests/sim/record.h"

namespace gq::sim {
namespace {

void write_json(const std::string& path, const std::string& head, const Scenario& s, const Played& p) {
  std::ofstream out(path);
  out << "{" << head << ",\"scenario\":\"" << s.path << "\",\"rows\":[\n";
  const auto row = [&](const std::string& name, double value, const char* unit) {
    char text[160];
    std::snprintf(text, sizeof text, "  {\"name\":\"%s\",\"value\":%.6g,\"unit\":\"%s\"},\n", name.c_str(), value, unit);
    out << text;
  };
  for (std::size_t c = 0; c < kJobClasses; ++c) {
    const std::string name = "sim." + std::string(gq::to_string(static_cast<JobClass>(c))) + ".";
    const ClassRecord& of = p.record.classes[c];
    const Figures::OfClass& f = p.figures.of[c];
    row(name + "jobs", static_cast<double>(of.submitted), "");
    row(name + "done", static_cast<double>(of.done), "");
    row(name + "gpu_s", static_cast<double>(of.busy_ns) / 1e9, "s");
    row(name + "mib_s", of.mib_s, "MiB s");
    row(name + "utilisation_pct", f.utilisation_pct, "%");
    row(name + "share_of_rest_pct", f.share_of_rest_pct, "%");
    row(name + "wait_p50_ms", f.wait_p50_ms, "ms");
    row(name + "wait_p99_ms", f.wait_p99_ms, "ms");
    row(name + "wait_max_ms", f.wait_max_ms, "ms");
    std::uint64_t preempted = 0;
    for (const std::uint64_t n : of.preempted_by) preempted += n;
    row(name + "preempted", static_cast<double>(preempted), "");
    row(name + "steps_lost_asked", static_cast<double>(of.steps_lost_asked), "");
    row(name + "steps_lost", static_cast<double>(of.steps_lost), "");
    row(name + "redone_asked_s", static_cast<double>(of.redone_asked_ns) / 1e9, "s");
    row(name + "redone_s", static_cast<double>(of.redone_ns) / 1e9, "s");
    row(name + "inversions", static_cast<double>(of.inversions), "");
  }
  row("sim.wall_s", p.report.wall_s, "s");
  char last[80];
  std::snprintf(last, sizeof last, "  {\"name\":\"sim.violations\",\"value\":%llu,\"unit\":\"\"}\n]}\n", static_cast<unsigned long long>(p.report.violations));
  out << last;
}

}  // namespace

int scenario_main(int argc, char** argv, const std::string& commit, const std::string& machine) {
  std::string file, svg, json, seed;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (!arg.starts_with("--") && file.empty()) file = arg;
    else if (arg == "--verbose") verbose = true;
    else if (i + 1 < argc && arg == "--svg") svg = argv[++i];
    else if (i + 1 < argc && arg == "--json") json = argv[++i];
    else if (i + 1 < argc && arg == "--seed") seed = argv[++i];
    else return std::fprintf(stderr, "error[USAGE]: %s: a scenario takes --svg FILE, --json FILE, --seed N and --verbose\n", arg.c_str()), 2;
  }
  auto scenario = read_scenario(file);
  if (!scenario) return std::fprintf(stderr, "error[%s]: %s\n  try: %s\n", std::string(to_string(scenario.error().code)).c_str(), scenario.error().what.c_str(), scenario.error().next.c_str()), 2;
  if (!seed.empty() && seed.find_first_not_of("0123456789") == std::string::npos && seed.size() < 19) scenario->seed = std::stoull(seed);
  std::printf("gpuq-sim %s --seed %llu\n", file.c_str(), static_cast<unsigned long long>(scenario->seed));
  std::fflush(stdout);
  const Played played = play(*scenario, verbose);
  std::printf("%s", table(*scenario, played.record, played.figures).c_str());
  std::printf("\n  %.1f s of wall time, trace %014llx\n", played.report.wall_s, static_cast<unsigned long long>(played.report.trace_hash));
  if (played.report.violations != 0) std::printf("%s", played.report.findings.c_str());
  if (!svg.empty()) std::ofstream(svg) << picture(*scenario, played.record, played.figures);
  if (!json.empty()) write_json(json, "\"commit\":\"" + commit + "\",\"machine\":\"" + machine + "\",\"seed\":" + std::to_string(scenario->seed), *scenario, played);
  return played.figures.all_kept() ? 0 : 1;
}

}  // namespace gq::sim

// openb_main.cpp - gpuq-sim --openb: options, a row per seed, mean and standard deviation.
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

#include "tests/sim/openb.h"

namespace gq::sim {

namespace {
struct Asked {
  std::string nodes, tasks, policy_name, json;
  core::PackPolicy policy{core::PackPolicy::fgd};
  std::uint64_t first = 42, last = 51;
  double tune = 1.3;
};

/// "42..51" or "42".
bool parse_seeds(const std::string& text, Asked& asked) {
  try {
    std::size_t used = 0;
    asked.first = asked.last = std::stoull(text, &used);
    if (used == text.size()) return true;
    if (text.compare(used, 2, "..") != 0) return false;
    const std::string rest = text.substr(used + 2);
    asked.last = std::stoull(rest, &used);
    return used == rest.size() && asked.last >= asked.first && asked.last - asked.first < 10'000;
  } catch (const std::exception&) { return false; }
}

bool parse_policy(const std::string& text, Asked& asked) {
  asked.policy_name = text;
  if (text == "random") asked.policy = core::PackPolicy::random;
  else if (text == "best-fit") asked.policy = core::PackPolicy::best_fit;
  else if (text == "fgd") asked.policy = core::PackPolicy::fgd;
  else return false;
  return true;
}

Result<Asked> parse(int argc, char** argv) {
  Asked asked;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--openb") {
      if (i + 2 >= argc) return fail(Errc::usage, "--openb needs two files", "--openb NODES.csv TASKS.csv --policy fgd");
      asked.nodes = argv[++i];
      asked.tasks = argv[++i];
      continue;
    }
    if (i + 1 >= argc) return fail(Errc::usage, arg + " needs a value or is unknown", "--help lists the options");
    const std::string value = argv[++i];
    bool good = true;
    if (arg == "--policy") good = parse_policy(value, asked);
    else if (arg == "--seeds") good = parse_seeds(value, asked);
    else if (arg == "--json") asked.json = value;
    else if (arg == "--tune") {
      char* end = nullptr;
      asked.tune = std::strtod(value.c_str(), &end);
      good = end != value.c_str() && *end == '\0' && asked.tune > 0 && asked.tune <= 10;
    } else return fail(Errc::usage, arg + " does not go with --openb", "--policy, --seeds, --tune, --json");
    if (!good) return fail(Errc::usage, "bad value " + arg + " " + value, "--policy random|best-fit|fgd, --seeds 42..51, --tune 1.3");
  }
  if (asked.policy_name.empty()) return fail(Errc::usage, "--openb needs --policy", "--policy random, best-fit or fgd");
  return asked;
}

Result<OpenbTrace> load(const Asked& asked) {
  std::ifstream nodes(asked.nodes), tasks(asked.tasks);
  if (!nodes) return fail(Errc::not_found, "cannot read " + asked.nodes, "name the trace's node list first, its task list second");
  if (!tasks) return fail(Errc::not_found, "cannot read " + asked.tasks, "name the trace's node list first, its task list second");
  return read_openb(nodes, asked.nodes, tasks, asked.tasks);
}

int complain(const Error& error) {
  std::fprintf(stderr, "error[%s]: %s\n", std::string(to_string(error.code)).c_str(), error.what.c_str());
  if (!error.next.empty()) std::fprintf(stderr, "  try: %s\n", error.next.c_str());
  return exit_code(error.code);
}

struct Spread {
  double mean{}, sd{};
};
template <class ValueOf>
Spread spread(const std::vector<OpenbResult>& results, ValueOf value_of) {
  const auto n = static_cast<double>(results.size());
  Spread s;
  for (const OpenbResult& r : results) s.mean += value_of(r) / n;
  double squares = 0;
  for (const OpenbResult& r : results) squares += (value_of(r) - s.mean) * (value_of(r) - s.mean);
  if (results.size() > 1) s.sd = std::sqrt(squares / (n - 1));
  return s;
}
}  // namespace

int openb_main(int argc, char** argv, const std::string& commit, const std::string& machine) {
  const auto asked = parse(argc, argv);
  if (!asked) return complain(asked.error());
  const auto trace = load(*asked);
  if (!trace) return complain(trace.error());
  char options[128];
  std::snprintf(options, sizeof options, "--policy %s --seeds %llu..%llu --tune %g", asked->policy_name.c_str(),
                static_cast<unsigned long long>(asked->first), static_cast<unsigned long long>(asked->last), asked->tune);
  std::printf("gpuq-sim --openb %s: %zu nodes, %lld cards, %zu tasks\n", options, trace->nodes.size(),
              static_cast<long long>(trace->capacity / kCard), trace->tasks.size());
  std::printf("  %6s %8s %8s %12s %12s  %-16s %8s\n", "seed", "tasks", "placed", "allocated %", "fragment %", "trace hash", "cpu s");
  std::vector<OpenbResult> results;
  for (std::uint64_t seed = asked->first; seed <= asked->last; ++seed) {
    const OpenbResult r = replay_openb(*trace, asked->policy, seed, asked->tune);
    std::printf("  %6llu %8llu %8llu %12.2f %12.2f  %016llx %8.2f\n", static_cast<unsigned long long>(r.seed), static_cast<unsigned long long>(r.tasks),
                static_cast<unsigned long long>(r.placed), r.allocated_pct, r.fragmented_pct, static_cast<unsigned long long>(r.trace_hash), r.seconds);
    std::fflush(stdout);
    results.push_back(r);
  }
  const Spread allocated = spread(results, [](const OpenbResult& r) { return r.allocated_pct; });
  const Spread fragmented = spread(results, [](const OpenbResult& r) { return r.fragmented_pct; });
  const Spread decision = spread(results, [](const OpenbResult& r) { return 1e6 * r.seconds / static_cast<double>(r.tasks); });
  std::printf("  mean of %zu: allocated %.2f %% (sd %.2f), fragmented %.2f %% (sd %.2f), %.1f us per decision\n", results.size(), allocated.mean,
              allocated.sd, fragmented.mean, fragmented.sd, decision.mean);
  if (asked->json.empty()) return 0;
  std::ofstream out(asked->json);
  out << "{\"commit\":\"" << commit << "\",\"machine\":\"" << machine << "\",\"options\":\"" << options << "\",\"rows\":[\n";
  const auto row = [&](const std::string& name, double value, const char* unit, const char* end = ",\n") {
    char text[64];
    std::snprintf(text, sizeof text, "%.6g", value);
    out << "  {\"name\":\"" << name << "\",\"value\":" << text << ",\"unit\":\"" << unit << "\"}" << end;
  };
  row("openb.allocated_pct", allocated.mean, "%");
  row("openb.allocated_sd", allocated.sd, "%");
  row("openb.fragmented_pct", fragmented.mean, "%");
  for (const OpenbResult& r : results) row("openb.allocated_pct.seed" + std::to_string(r.seed), r.allocated_pct, "%");
  row("openb.decision_us", decision.mean, "us", "\n]}\n");
  if (!out.flush()) return complain({Errc::unavailable, "cannot write " + asked->json, "another --json FILE"});
  return 0;
}

}  // namespace gq::sim

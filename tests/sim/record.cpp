// record.cpp - figures and verdicts from a record, and the table that says at a glance whether the policy did its job.
#include "tests/sim/record.h"

#include <algorithm>

#include "tests/sim/format.h"

namespace gq::sim {
namespace {

constexpr std::array kClasses{JobClass::inference, JobClass::training, JobClass::synthesis};

/// The value below which `share` of them lie.
double quantile_ms(std::vector<std::int64_t> us, double share) {
  if (us.empty()) return 0;
  const auto at = us.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(us.size() - 1));
  std::nth_element(us.begin(), at, us.end());
  return static_cast<double>(*at) / 1000;
}

std::string length(double ms) {
  if (ms < 9.95) return format("%.1f ms", ms);
  if (ms < 1000) return format("%.0f ms", ms);
  if (ms < 90'000) return format("%.1f s", ms / 1000);
  if (ms < 5'400'000) return format("%.0f min", ms / 60'000);
  return format("%.1f h", ms / 3'600'000);
}

std::string amount(double n) { return n < 1e5 ? format("%.0f", n) : n < 1e7 ? format("%.0fk", n / 1e3) : format("%.0fM", n / 1e6); }

bool open_in(const Scenario& s, JobClass c, std::int64_t from_us, std::int64_t to_us) {
  const core::Window* window = s.policy.window(s.policy.of(c).window);
  if (window == nullptr) return true;
  const std::int64_t from = s.start_ms + from_us / 1000, to = s.start_ms + to_us / 1000;
  const auto closes = window->closes_after(from);
  return window->open_at(from) && closes && *closes >= to;
}

}  // namespace

bool Figures::all_kept() const {
  return std::all_of(verdicts.begin(), verdicts.end(), [](const Verdict& v) { return v.kept; });
}

Figures figure_out(const Scenario& s, const Record& r, std::uint64_t violations) {
  Figures f;
  const double card_s = static_cast<double>(r.length_us) / 1e6 * static_cast<double>(r.cards.size());
  double mib_s = 0;
  for (const Mib card : r.cards) mib_s += static_cast<double>(card.value) * static_cast<double>(r.length_us) / 1e6;
  f.idle_pct = 100;
  for (const JobClass c : kClasses) {
    const auto i = static_cast<std::size_t>(c);
    const ClassRecord& of = r.classes[i];
    Figures::OfClass& o = f.of[i];
    o.utilisation_pct = static_cast<double>(of.busy_ns) / 1e7 / card_s;
    o.memory_pct = 100 * of.mib_s / mib_s;
    f.idle_pct -= o.utilisation_pct;
    o.wait_p50_ms = quantile_ms(of.waits_us, 0.5);
    o.wait_p99_ms = quantile_ms(of.waits_us, 0.99);
    o.wait_max_ms = quantile_ms(of.waits_us, 1);
    o.takes_p50_ms = quantile_ms(of.takes_us, 0.5);
    o.takes_p99_ms = quantile_ms(of.takes_us, 0.99);
    double own_s = 0, higher_s = 0;
    for (std::size_t bin = 0; bin < r.bins(); ++bin) {
      const std::int64_t from = static_cast<std::int64_t>(bin) * r.bin_us, to = std::min(from + r.bin_us, r.length_us);
      if (!open_in(s, c, from, to)) continue;
      for (std::size_t card = 0; card < r.cards.size(); ++card) {
        o.window_s += static_cast<double>(to - from) / 1e6;
        own_s += static_cast<double>(r.busy[card][i][bin]) * 64 / 1e9;
        for (const JobClass h : kClasses)
          if (s.policy.rank(h) < s.policy.rank(c)) higher_s += static_cast<double>(r.busy[card][static_cast<std::size_t>(h)][bin]) * 64 / 1e9;
      }
    }
    o.share_of_rest_pct = o.window_s > higher_s ? 100 * own_s / (o.window_s - higher_s) : 0;
  }
  const auto verdict = [&](std::string promise, std::string found, bool kept) { f.verdicts.push_back({std::move(promise), std::move(found), kept}); };
  for (const JobClass c : kClasses) {
    const auto i = static_cast<std::size_t>(c);
    const Promise& p = s.promises[i];
    const Figures::OfClass& o = f.of[i];
    const std::string name(gq::to_string(c));
    if (p.wait_p99_us) verdict(name + ": 99 of 100 jobs start within " + length(static_cast<double>(*p.wait_p99_us) / 1000), length(o.wait_p99_ms), o.wait_p99_ms * 1000 <= static_cast<double>(*p.wait_p99_us));
    if (p.wait_max_us) verdict(name + ": every job starts within " + length(static_cast<double>(*p.wait_max_us) / 1000), length(o.wait_max_ms), o.wait_max_ms * 1000 <= static_cast<double>(*p.wait_max_us));
    if (p.share_of_rest_pct)
      verdict(format("%s: at least %.0f %% of what higher classes leave%s", name.c_str(), *p.share_of_rest_pct, s.policy.of(c).window == core::kAlways ? "" : " in its window"),
              format("%.1f %%", o.share_of_rest_pct), o.share_of_rest_pct >= *p.share_of_rest_pct);
    if (p.done_min) verdict(format("%s: at least %llu jobs done", name.c_str(), static_cast<unsigned long long>(*p.done_min)), amount(static_cast<double>(r.classes[i].done)), r.classes[i].done >= *p.done_min);
  }
  std::uint64_t steps = 0, inversions = 0, outside = 0, closings = 0, asked = 0;
  for (const ClassRecord& of : r.classes) {
    steps += of.steps_lost_asked;
    inversions += of.inversions;
    outside += of.outside_window;
    closings += of.closings;
    asked += of.stops[1] + of.stops[2] + of.stops[3];
  }
  verdict("asking a job to leave loses no optimizer step", format("%llu lost, asked %llu times", static_cast<unsigned long long>(steps), static_cast<unsigned long long>(asked)), steps == 0);
  verdict("no class runs outside its window", format("%llu of %llu closings and all starts", static_cast<unsigned long long>(outside), static_cast<unsigned long long>(closings)), outside == 0);
  verdict("no lower class takes room that a waiting higher one could have", amount(static_cast<double>(inversions)), inversions <= s.inversions_max);
  verdict("no card holds more than it has, no job is lost or runs twice", format("%llu violations", static_cast<unsigned long long>(violations)), violations == 0);
  return f;
}

std::string table(const Scenario& s, const Record& r, const Figures& f) {
  std::string out = s.title + "\n";
  out += format("%zu cards on %zu hosts, %s, policy %s, %s\n\n", r.cards.size(), s.hosts.size(), length(static_cast<double>(s.length_us) / 1000).c_str(), s.policy_name.c_str(), s.zone.c_str());
  out += "  class        jobs     done  waiting |  GPU time   memory | wait p50    p99      max | asked to leave for                     redone GPU time\n";
  out += "                                      |                    |                          | inference training window hand killed | asked      lost\n";
  for (const JobClass c : kClasses) {
    const auto i = static_cast<std::size_t>(c);
    const ClassRecord& of = r.classes[i];
    const Figures::OfClass& o = f.of[i];
    out += format("  %-10s %6s %8s %8s |   %5.1f %%  %5.1f %% | %8s %8s %8s | %9llu %8llu %6llu %4llu %6llu | %-10s %s\n", std::string(gq::to_string(c)).c_str(), amount(static_cast<double>(of.submitted)).c_str(),
                  amount(static_cast<double>(of.done)).c_str(), amount(static_cast<double>(of.waiting_at_end)).c_str(), o.utilisation_pct, o.memory_pct, length(o.wait_p50_ms).c_str(), length(o.wait_p99_ms).c_str(),
                  length(o.wait_max_ms).c_str(), static_cast<unsigned long long>(of.preempted_by[0]), static_cast<unsigned long long>(of.preempted_by[1]),
                  static_cast<unsigned long long>(of.stops[static_cast<std::size_t>(Stop::window)]), static_cast<unsigned long long>(of.stops[static_cast<std::size_t>(Stop::by_hand)]),
                  static_cast<unsigned long long>(of.stops[static_cast<std::size_t>(Stop::killed)]), length(static_cast<double>(of.redone_asked_ns) / 1e6).c_str(), length(static_cast<double>(of.redone_ns) / 1e6).c_str());
  }
  out += format("  %-10s %24s |   %5.1f %%\n", "idle", "", f.idle_pct);
  std::uint64_t lost = 0, steps = 0;
  for (const ClassRecord& of : r.classes) {
    lost += of.stops[static_cast<std::size_t>(Stop::lost)];
    steps += of.steps_lost;
  }
  if (r.hosts_lost != 0)
    out += format("\n  machines lost %llu, attempts lost with them %llu, optimizer steps done again %s\n", static_cast<unsigned long long>(r.hosts_lost), static_cast<unsigned long long>(lost), amount(static_cast<double>(steps)).c_str());
  out += "\n";
  for (const Verdict& v : f.verdicts) out += format("  %-6s  %-70s  %s\n", v.kept ? "kept" : "BROKEN", v.promise.c_str(), v.found.c_str());
  for (const std::string& text : r.inversions) out += "          " + text + "\n";
  return out;
}

}  // namespace gq::sim

// scheduler_bench.cpp - what one scheduling decision costs, and which step is the longest: the core alone, driven by hand.
//
// 10,000 devices (2,500 hosts of four), a million queued jobs in 50 shapes. The run is deterministic, so it is done several times and
// of every step the fastest time counts: what other programs on the machine took away is gone, what the step itself costs is not.
// A decision is the cost of everything that ends one attempt, returns its credit and starts the next, divided by the starts.
// Rows of JSON on stdout; the longest step of every phase, in words, on stderr.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "broker/core/core.h"

using namespace gq;
using namespace gq::core;

namespace {

constexpr std::size_t kHosts = 2'500, kDevicesPerHost = 4, kShapes = 50;
constexpr std::int64_t kDeviceMib = 24'576;
constexpr std::int64_t kWall = 1'700'000'000'000;

enum class Phase : std::uint8_t { submit, hello, warm, policy_load, policy, parked, preempt, arrivals, depth };
constexpr const char* kPhaseNames[] = {"submit", "hello", "warm", "policy load", "under a policy", "with parked shapes", "preemption", "arrivals", "depth"};

struct Sample {
  Phase phase{};
  const char* what{};
  float us{};
  std::uint32_t starts{};
};

struct Running {
  PeerId peer;
  Grant grant;
  std::uint16_t lane{};
};

/// The clock of this thread alone does not see other programs, but costs a system call; the other one does and costs nothing. The
/// first run reads the one, the others the other: of each step the smaller reading counts.
bool own_clock = false;
double clock_us() {
  timespec t{};
  clock_gettime(own_clock ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return 1e6 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_nsec);
}

/// The fleet and its queue, as the core sees them. Workers answer as scripted by the phases below.
class Fleet {
 public:
  explicit Fleet(std::uint64_t seed) : core_(config()), random_(seed) {}

  void measure(Phase phase) { phase_ = phase; measuring_ = true; }
  void rest() { measuring_ = false; }

  void step(Event event, const char* what) {
    now_.steady += 1us;
    now_.wall.ms = kWall + now_.steady.time_since_epoch().count() / 1000;
    out_.clear();
    const double began = clock_us();
    core_.step(now_, ++entropy_, std::move(event), out_);
    const auto us = static_cast<float>(clock_us() - began);
    std::uint32_t starts = 0;
    for (const Effect& e : out_)
      if (const auto* s = std::get_if<Send>(&e)) {
        if (const auto* answer = std::get_if<SubmitAnswer>(&s->message)) {
          for (const SubmitOutcome& o : answer->items)
            if (!o.ok) { std::fprintf(stderr, "a submit was refused: %s\n", o.error.what.c_str()); std::exit(1); }
        } else if (const auto* a = std::get_if<Assign>(&s->message)) {
          ++starts;
          started_.push_back({a->peer, a->grant, a->lane});
          if (remember_needs_) left_.push_back(a->needs);
        } else if (const auto* p = std::get_if<Preempt>(&s->message)) {
          leaving_.push_back({p->peer, p->grant, 0});
        }
      }
    if (measuring_) samples_.push_back({phase_, what, us, starts});
    if (++steps_ % 64 == 0 && !in_commit_) commit();
  }

  void submit(std::size_t jobs, std::size_t batch, const std::vector<Needs>& shapes, const char* what) {
    for (std::size_t j = 0; j < jobs; j += batch) {
      SubmitReceived e{{1}, ++request_, "ann", {}};
      for (std::size_t k = j; k < std::min(j + batch, jobs); ++k) {
        SubmitItem item;
        item.fixed.id = {0x190'0000'0000ULL + ++job_ / 1000, job_ * 0x9E3779B97F4A7C15ULL};
        item.fixed.digest = {1, job_};
        item.fixed.needs = shapes[job_ % shapes.size()];
        item.fixed.priority = static_cast<std::uint8_t>(random_() % 3);
        item.fixed.body_bytes = 200;
        item.body = job_;
        e.items.push_back(std::move(item));
      }
      step(std::move(e), what);
    }
    take_started();
  }

  void hello() {
    for (std::size_t host = 0; host < kHosts; ++host) {
      WorkerHello h;
      h.peer = {100 + host};
      h.worker = "worker-" + std::to_string(host);
      h.host = "host-" + std::to_string(host);
      h.instance = host + 1;
      for (KindIndex k = 0; k < kKinds.size(); ++k) h.kinds.push_back(k);
      for (std::size_t d = 0; d < kDevicesPerHost; ++d) {
        DeviceReport device;
        device.uuid = "GPU-" + std::to_string(host) + "-" + std::to_string(d);
        device.kind = DeviceKind::simulated;
        device.index = static_cast<std::uint16_t>(d);
        device.total = {kDeviceMib};
        h.lanes.push_back({static_cast<std::uint16_t>(d + 1), LaneKind::start, device.uuid, ""});
        h.credit.push_back({static_cast<std::uint16_t>(d + 1), 64});
        h.devices.push_back(std::move(device));
      }
      credit_[h.peer.value] = std::vector<std::uint64_t>(kDevicesPerHost + 1, 64);
      step(std::move(h), "HELLO of a host with four devices");
      take_started();
    }
  }

  /// One attempt ends, its credit comes back: the room is given to whoever is first. Started ones say so.
  void turn_over(std::size_t times) {
    for (std::size_t i = 0; i < times && !running_.empty(); ++i) end(random_() % running_.size(), Outcome::succeeded);
  }
  void end(std::size_t at, Outcome outcome) {
    const Running r = running_[at];
    running_[at] = running_.back();
    running_.pop_back();
    if (outcome == Outcome::succeeded) ended_.push_back(r.grant.job);
    AttemptsEnded e{r.peer, ++request_, {}};
    e.ends.resize(1);
    e.ends[0].grant = r.grant;
    e.ends[0].outcome = outcome;
    step(std::move(e), "the end of an attempt");
    step(WorkerPulled{r.peer, {}, {}, {{r.lane, ++credit_[r.peer.value][r.lane]}}}, "PULL");
    take_started();
  }
  /// For each job that left the queue one like it comes: the queue keeps its depth and its mix.
  void refill() {
    remember_needs_ = true;
    const std::vector<Needs> left = std::move(left_);
    left_.clear();
    for (const Needs& n : left) submit(1, 1, {n}, "SUBMIT of a job");
  }
  /// Whoever was asked to leave does.
  std::size_t yield_all() {
    std::size_t n = 0;
    while (!leaving_.empty()) {
      const Grant grant = leaving_.back().grant;
      leaving_.pop_back();
      const auto at = std::find_if(running_.begin(), running_.end(), [&](const Running& r) { return r.grant == grant; });
      if (at == running_.end()) continue;
      end(static_cast<std::size_t>(at - running_.begin()), Outcome::yielded);
      ++n;
    }
    return n;
  }
  void load(Policy policy) { step(PolicyLoaded{std::move(policy)}, "PolicyLoaded"); }

  [[nodiscard]] std::vector<Sample> take_samples() { return std::move(samples_); }
  [[nodiscard]] std::size_t running() const { return running_.size(); }
  [[nodiscard]] std::uint64_t ready() const {
    std::uint64_t n = 0;
    const Totals totals = core_.totals();
    for (const auto& row : totals.by_class_and_state) n += row[static_cast<std::size_t>(JobState::ready)];
    return n;
  }
  [[nodiscard]] Totals totals() const { return core_.totals(); }
  void check_invariants() const { core_.check_invariants(); }

 private:
  static CoreConfig config() {
    CoreConfig c;
    c.restarted = false;
    c.policy.headroom_pct = 0;
    return c;
  }
  void commit() {
    in_commit_ = true;
    step(BatchCut{++batch_}, "BatchCut");
    step(BatchCommitted{batch_}, "BatchCommitted");
    if (ended_.size() >= 64) step(FetchedReceived{{1}, std::move(ended_)}, "FETCHED of 64 results");
    in_commit_ = false;
  }
  void take_started() {
    while (!started_.empty()) {
      std::vector<Running> batch;
      batch.swap(started_);
      for (const Running& r : batch) {
        running_.push_back(r);
        step(AttemptsStarted{r.peer, {r.grant}}, "STARTED");
      }
    }
  }

  Core core_;
  std::mt19937_64 random_;
  Moment now_{Instant{1000s}, WallTime{kWall}};
  Effects out_;
  std::vector<Running> started_, running_, leaving_;
  std::map<std::uint64_t, std::vector<std::uint64_t>> credit_;
  std::vector<JobId> ended_;
  std::vector<Needs> left_;
  std::vector<Sample> samples_;
  Phase phase_{};
  bool measuring_{}, in_commit_{}, remember_needs_{};
  std::uint64_t entropy_{}, request_{}, job_{}, batch_{}, steps_{};
};

Needs needs(JobClass job_class, std::int64_t mib, const char* kind = "command") {
  Needs n;
  n.kind = *kind_index(kind);
  n.job_class = job_class;
  n.budget_min = n.budget_max = {mib};
  return n;
}

/// Fifty shapes of all classes, from 1 to 12 GiB, small ones more often than not.
std::vector<Needs> fifty_shapes() {
  std::vector<Needs> all;
  for (std::size_t i = 0; i < kShapes; ++i)
    all.push_back(needs(static_cast<JobClass>(i % kJobClasses), static_cast<std::int64_t>(1024 + 256 * (i * i % 45))));
  return all;
}

/// Windows, reservations, exclusions and device lists, all in force.
Policy busy_policy() {
  Policy p;
  p.headroom_pct = 0;
  p.windows.push_back({"always, nearly", "UTC", {{kWall - 3'600'000, kWall + 30 * 86'400'000LL}}});
  p.of(JobClass::training).window = 0;
  p.of(JobClass::training).min_run = 1s;
  p.of(JobClass::synthesis).not_beside = {JobClass::training};
  p.of(JobClass::synthesis).devices = {{DeviceSelector::Kind::label, "pool=b", 0}, {DeviceSelector::Kind::host_index, "host-7", 1}};
  for (std::size_t host = 0; host < kHosts; host += 2) {
    DevicePolicy d;
    d.device = {DeviceSelector::Kind::host_index, "host-" + std::to_string(host), static_cast<std::uint16_t>(host % 4)};
    d.labels = {"pool=b"};
    if (host % 200 == 0) p.devices.push_back(d);
  }
  DevicePolicy all;
  all.labels = {"pool=b"};
  p.devices.push_back(all);
  p.reservations.push_back({Reservation::Size::mib, JobClass::inference, {}, {4096}, 0, kAlways});
  p.reservations.push_back({Reservation::Size::percent, JobClass::training, {DeviceSelector::Kind::label, "pool=b", 0}, {}, 10, 0});
  return p;
}

std::vector<Sample> whole_run(std::size_t jobs, std::size_t turns) {
  Fleet fleet(1);
  const auto shapes = fifty_shapes();
  fleet.measure(Phase::submit);
  fleet.submit(jobs, 64, shapes, "SUBMIT of 64 jobs");
  fleet.measure(Phase::hello);
  fleet.hello();
  fleet.rest();
  fleet.turn_over(turns / 4);
  fleet.measure(Phase::warm);
  fleet.turn_over(turns);

  std::vector<Needs> impossible;
  for (int i = 0; i < 20; ++i) impossible.push_back(needs(JobClass::inference, kDeviceMib + 1 + i));
  fleet.rest();
  fleet.submit(2000, 64, impossible, "");
  fleet.measure(Phase::parked);
  fleet.turn_over(turns / 4);

  fleet.measure(Phase::policy_load);
  fleet.load(busy_policy());
  fleet.rest();
  fleet.turn_over(turns / 4);
  fleet.measure(Phase::policy);
  fleet.turn_over(turns);
  fleet.measure(Phase::policy_load);
  Policy plain;
  plain.headroom_pct = 0;
  plain.of(JobClass::training).min_run = plain.of(JobClass::synthesis).min_run = 0s;
  fleet.load(plain);
  fleet.rest();
  fleet.turn_over(turns / 4);
  return fleet.take_samples();
}

/// Everything is full of training and synthesis, and more of it waits; inference comes, and lower classes leave for it.
std::vector<Sample> preempt_run(std::size_t turns) {
  Fleet fleet(4);
  std::vector<Needs> lower = fifty_shapes();
  for (Needs& n : lower)
    if (n.job_class == JobClass::inference) n.job_class = JobClass::synthesis;
  Policy policy;
  policy.headroom_pct = 0;
  policy.of(JobClass::training).min_run = policy.of(JobClass::synthesis).min_run = 0s;
  fleet.load(policy);
  fleet.hello();
  fleet.submit(100'000, 64, lower, "");
  fleet.measure(Phase::preempt);
  const std::vector<Needs> urgent{needs(JobClass::inference, 6'000), needs(JobClass::inference, 12'000), needs(JobClass::inference, 20'000)};
  for (std::size_t i = 0; i < turns / 10; ++i) {
    fleet.submit(1, 1, urgent, "SUBMIT of a job that preempts");
    fleet.yield_all();
  }
  fleet.rest();
  const Totals t = fleet.totals();
  if (t.preempted < turns / 20) std::fprintf(stderr, "only %llu attempts were asked to leave\n", static_cast<unsigned long long>(t.preempted));
  return fleet.take_samples();
}

/// A fleet two thirds full, no queue: every job starts as it comes.
std::vector<Sample> arrivals_run(std::size_t turns) {
  Fleet fleet(2);
  const auto shapes = fifty_shapes();
  fleet.hello();
  fleet.submit(25'000, 64, shapes, "");
  fleet.measure(Phase::arrivals);
  for (std::size_t i = 0; i < turns; ++i) {
    fleet.submit(1, 1, shapes, "SUBMIT of a job that starts at once");
    fleet.turn_over(1);
  }
  fleet.rest();
  return fleet.take_samples();
}

std::vector<Sample> depth_run(std::size_t depth, std::size_t turns) {
  Fleet fleet(3);
  const auto shapes = fifty_shapes();
  fleet.hello();
  while (fleet.ready() < 50) fleet.submit(64, 64, shapes, "");   // full; every shape waits
  fleet.submit(depth, 64, shapes, "");
  fleet.refill();
  const auto turn = [&] {
    fleet.turn_over(1);
    fleet.rest();
    fleet.refill();
  };
  for (std::size_t i = 0; i < turns / 4; ++i) turn();
  for (std::size_t i = 0; i < turns; ++i) {
    fleet.measure(Phase::depth);
    turn();
  }
  return fleet.take_samples();
}

/// The same run several times: of every step the fastest. That the runs agree step by step is checked on the way.
template <class Run>
std::vector<Sample> fastest(int runs, Run run) {
  own_clock = true;
  std::vector<Sample> best = run();
  own_clock = false;
  for (int i = 1; i < runs; ++i) {
    const std::vector<Sample> again = run();
    if (again.size() != best.size()) { std::fprintf(stderr, "two equal runs differ in length\n"); std::exit(1); }
    for (std::size_t k = 0; k < best.size(); ++k) {
      if (again[k].starts != best[k].starts) { std::fprintf(stderr, "two equal runs differ at step %zu\n", k); std::exit(1); }
      best[k].us = std::min(best[k].us, again[k].us);
    }
  }
  if (std::getenv("SCHEDULER_BENCH_SLOW") != nullptr)
    for (std::size_t k = 0; k < best.size(); ++k)
      if (best[k].us > 500) std::fprintf(stderr, "step %zu of %zu: %.0f us, %u starts, %s, %s\n", k, best.size(), static_cast<double>(best[k].us), best[k].starts, kPhaseNames[static_cast<int>(best[k].phase)], best[k].what);
  return best;
}

struct Figures {
  double per_start{}, p50{}, p99{}, p999{}, max{};
  const char* longest = "";
  std::size_t steps{};
  std::uint64_t starts{};
};
bool is_decision(const Sample& s) { return std::strcmp(s.what, "the end of an attempt") == 0 || std::strcmp(s.what, "PULL") == 0 || std::strncmp(s.what, "SUBMIT of a job", 15) == 0; }

Figures figures(const std::vector<Sample>& samples, Phase phase) {
  Figures f;
  std::vector<float> times;
  double sum = 0;
  for (const Sample& s : samples) {
    if (s.phase != phase) continue;
    times.push_back(s.us);
    if (is_decision(s)) {
      sum += s.us;
      f.starts += s.starts;
    }
    if (s.us > f.max) {
      f.max = s.us;
      f.longest = s.what;
    }
  }
  if (times.empty()) return f;
  std::sort(times.begin(), times.end());
  const auto at = [&](double q) { return times[std::min(times.size() - 1, static_cast<std::size_t>(q * static_cast<double>(times.size())))]; };
  f.steps = times.size();
  f.per_start = f.starts == 0 ? 0 : sum / static_cast<double>(f.starts);
  f.p50 = at(0.5);
  f.p99 = at(0.99);
  f.p999 = at(0.999);
  return f;
}

void row(const std::string& name, double value, const char* unit) {
  std::printf("{\"name\":\"%s\",\"value\":%.6g,\"unit\":\"%s\"}\n", name.c_str(), value, unit);
  std::fflush(stdout);
}
void tell(const Figures& f, Phase phase) {
  std::fprintf(stderr, "  %-20s %8zu steps %8llu starts  %7.2f us a start, steps p50 %7.2f p99 %8.2f p99.9 %8.2f max %9.1f us: %s\n",
               kPhaseNames[static_cast<int>(phase)], f.steps, static_cast<unsigned long long>(f.starts), f.per_start, f.p50, f.p99, f.p999, f.max, f.longest);
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t jobs = 1'000'000, turns = 100'000;
  int runs = 4;
  bool depths = true;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--no-depths") { depths = false; continue; }
    if (i + 1 >= argc) return std::fprintf(stderr, "scheduler_bench [--jobs N] [--turns N] [--runs N] [--no-depths]\n"), 2;
    const unsigned long value = std::strtoul(argv[++i], nullptr, 10);
    if (arg == "--jobs") jobs = value;
    else if (arg == "--turns") turns = value;
    else if (arg == "--runs") runs = static_cast<int>(value);
  }
  const auto all = fastest(runs, [&] { return whole_run(jobs, turns); });
  const auto arriving = fastest(runs, [&] { return arrivals_run(turns); });
  const auto preempting = fastest(runs, [&] { return preempt_run(turns); });
  double step_max = 0, step_p999 = 0;
  std::map<Phase, Figures> by_phase;
  for (const Phase phase : {Phase::submit, Phase::hello, Phase::warm, Phase::parked, Phase::policy_load, Phase::policy, Phase::preempt, Phase::arrivals}) {
    const Figures f = figures(phase == Phase::arrivals ? arriving : phase == Phase::preempt ? preempting : all, phase);
    by_phase[phase] = f;
    tell(f, phase);
    if (phase == Phase::policy_load) continue;
    step_max = std::max(step_max, f.max);
    step_p999 = std::max(step_p999, f.p999);
  }
  row("scheduler.decision_mean_us", by_phase[Phase::warm].per_start, "us");
  row("scheduler.arrival_mean_us", by_phase[Phase::arrivals].per_start, "us");
  row("scheduler.parked_decision_mean_us", by_phase[Phase::parked].per_start, "us");
  row("scheduler.policy_decision_mean_us", by_phase[Phase::policy].per_start, "us");
  row("scheduler.preempt_mean_us", by_phase[Phase::preempt].per_start, "us");
  row("scheduler.preempt_step_max_us", by_phase[Phase::preempt].max, "us");
  row("scheduler.step_p999_us", step_p999, "us");
  row("scheduler.step_max_us", step_max, "us");
  row("scheduler.policy_loaded_us", by_phase[Phase::policy_load].max, "us");
  if (!depths) return 0;
  double first = 0, last = 0;
  for (const std::size_t depth : {1'000UL, 10'000UL, 100'000UL, 1'000'000UL}) {
    const Figures f = figures(fastest(runs, [&] { return depth_run(depth, turns / 4); }), Phase::depth);
    row("scheduler.decision_us_at_depth_" + std::to_string(depth), f.per_start, "us");
    if (first == 0) first = f.per_start;
    last = f.per_start;
  }
  row("scheduler.depth_ratio", last / first, "x");
  return 0;
}

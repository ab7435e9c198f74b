// core_explain.cpp - explain, plan and the scheduler never disagree, in arbitrary states of an arbitrary small fleet.
//
// A job is planned and then submitted in the same moment: it starts at once if and only if the plan said so. Of every waiting job
// explain says that somebody refuses it, at every place, and a plan of the policy in force changes nothing.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

class Planner {
 public:
  explicit Planner(std::uint64_t seed) : random_(seed) {
    CoreConfig c;
    c.restarted = false;
    c.policy = any_policy();
    core_ = std::make_unique<Core>(c);
    now_.wall.ms = 1'700'000'000'000;
    for (std::uint64_t w = 0; w < 1 + pick(3); ++w) hello(w);
    for (const char* name : {"yolo", "net"}) {
      ModelRecord m;
      m.name = name;
      m.blob = blob(static_cast<std::uint8_t>(name[0]));
      m.budget = {static_cast<std::int64_t>(500 + 500 * pick(6))};
      step(ModelPushed{kClient, ++request_, m});
    }
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      now_.steady += std::chrono::milliseconds(pick(700));
      now_.wall.ms += static_cast<std::int64_t>(pick(700));
      for (std::uint64_t w = 0; w < workers_.size(); ++w) beat(w);   // nobody falls silent here
      step(TimerFired{});
      switch (pick(8)) {
        case 0: case 1: case 2: case 3: plan_and_submit(); break;
        case 4: case 5: end_some(); break;
        case 6: open_models(); break;
        case 7: switch_something(); break;
      }
      step(BatchCommitted{++batch_});
      every_waiting_job_is_refused_everywhere();
    }
  }
  int planned_to_start{}, planned_to_wait{}, never{};

 private:
  struct Grants {
    Grant grant;
    std::uint64_t worker{};
    std::string device, model;
  };
  struct WorkerRow {
    PeerId peer;
    std::vector<DeviceReport> devices;
    std::uint16_t next_lane{100};
    std::map<std::uint16_t, std::uint64_t> limits;
  };

  std::mt19937_64 random_;
  std::unique_ptr<Core> core_;
  Moment now_{Instant{1000s}, {}};
  std::uint64_t request_{}, batch_{}, entropy_{7}, jobs_{};
  std::vector<WorkerRow> workers_;
  std::vector<Grants> running_;
  std::set<std::pair<std::string, std::string>> warm_;
  std::vector<JobId> waiting_;

  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  Policy any_policy() {
    Policy p;
    for (ClassPolicy& c : p.classes) {
      c.min_run = std::chrono::seconds(pick(3) * 10);
      c.preemptible = pick(4) != 0;
      c.cloud = pick(6) != 0;
      if (pick(6) == 0) c.running_max = 1 + static_cast<std::uint32_t>(pick(3));
    }
    if (pick(3) == 0) p.tenants = {{"ann", static_cast<std::uint32_t>(pick(6)), 0, 1.0}, {"*", static_cast<std::uint32_t>(2 + pick(3)), 0, 1.0}};
    p.fair = pick(3) == 0;
    p.fair_half_life = std::chrono::seconds(1 + pick(60));
    if (pick(2) == 0) p.of(JobClass::synthesis).not_beside = {JobClass::training};
    if (pick(2) == 0) p.reservations.push_back({Reservation::Size::mib, JobClass::inference, {DeviceSelector::Kind::any, "", 0}, Mib{2000}, 0, kAlways});
    if (pick(3) == 0) p.reservations.push_back({Reservation::Size::percent, JobClass::training, {DeviceSelector::Kind::any, "", 0}, {}, 30, kAlways});
    if (pick(3) == 0) p.of(JobClass::synthesis).devices = {{DeviceSelector::Kind::uuid, "GPU-0-0", 0}};
    if (pick(3) == 0) {
      p.windows.push_back({"now and then", "UTC", {}});
      for (std::int64_t at = 1'700'000'000'000; at < 1'700'001'000'000; at += 100'000) p.windows.front().spans.push_back({at, at + 60'000});
      p.of(JobClass::training).window = 0;
      p.of(JobClass::training).min_run = 5s;
      p.of(JobClass::training).grace = 5s;
    }
    return p;
  }

  void hello(std::uint64_t w) {
    WorkerHello h;
    h.peer = {10 + w};
    h.worker = "w" + std::to_string(w);
    h.host = "host" + std::to_string(w);
    h.kinds = all_kinds();
    if (pick(3) == 0) h.labels = {"zone=a"};
    if (pick(5) == 0) h.labels.push_back("cloud=rent");
    WorkerRow row;
    row.peer = h.peer;
    const std::uint64_t cards = 1 + pick(3);
    for (std::uint64_t d = 0; d < cards; ++d) {
      h.devices.push_back(gpu("GPU-" + std::to_string(w) + "-" + std::to_string(d), Mib{static_cast<std::int64_t>(4000 * (1 + pick(5)))}));
      h.devices.back().index = static_cast<std::uint16_t>(d);
      if (pick(4) == 0) h.devices.back().used = {700};
      h.lanes.push_back({static_cast<std::uint16_t>(10 + d), LaneKind::start, h.devices.back().uuid, ""});
      h.credit.push_back({static_cast<std::uint16_t>(10 + d), 1000});
    }
    h.lanes.push_back({1, LaneKind::slots, "", ""});
    h.credit.push_back({1, 2 + pick(3)});
    row.devices = h.devices;
    workers_.push_back(row);
    step(std::move(h));
  }
  void beat(std::uint64_t w) {
    WorkerBeat b{workers_[w].peer, UINT64_MAX, {}, workers_[w].devices};
    for (const Grants& g : running_)
      if (g.worker == w) b.running.push_back(g.grant);
    if (pick(20) == 0 && !b.devices.empty()) b.devices.front().temperature_c = static_cast<std::int16_t>(60 + pick(40));
    workers_[w].devices = b.devices;
    step(std::move(b));
  }

  /// Who was assigned in this step.
  std::set<JobId> step(Event event) {
    Effects effects;
    core_->step(now_, entropy_ += 1000, std::move(event), effects);
    core_->check_invariants();
    std::set<JobId> started;
    for (const Effect& effect : effects) {
      const auto* send = std::get_if<Send>(&effect);
      if (send == nullptr) continue;
      if (const auto* a = std::get_if<Assign>(&send->message)) {
        started.insert(a->grant.job);
        running_.push_back({a->grant, a->peer.value - 10, a->devices.empty() ? "" : a->devices.front(), a->model.name.empty() ? "" : a->model.name + "@" + a->model.version});
      }
      if (const auto* p = std::get_if<Preempt>(&send->message)) leaving_.insert(p->grant.job);
    }
    return started;
  }
  std::set<JobId> leaving_;

  SubmitItem any_job() {
    static constexpr std::array<const char*, 6> kinds{"detect", "train.detector", "command", "echo", "synthesize", "infer"};
    SubmitItem i = item(++jobs_, kinds[pick(kinds.size())]);
    Needs& n = i.fixed.needs;
    if (kKinds[n.kind].uses_model) n.model = pick(2) == 0 ? "yolo" : "net";
    if (pick(4) == 0) n.job_class = static_cast<JobClass>(pick(kJobClasses));
    if (!kKinds[n.kind].uses_model && kKinds[n.kind].uses_device) {
      if (pick(2) == 0) n.budget_min = {static_cast<std::int64_t>(1000 + 1000 * pick(22))};
      if (pick(3) == 0) n.budget_max = kRestOfDevice;
      if (pick(6) == 0) n.devices = static_cast<std::uint16_t>(1 + pick(3));
    }
    if (pick(8) == 0) n.where = {"zone=a"};
    return i;
  }

  void plan_and_submit() {
    SubmitItem i = any_job();
    const std::string owner = pick(3) == 0 ? "bob" : "ann";
    i.fixed.owner = owner;
    const auto plan = core_->plan(i.fixed, now_);
    const JobId id = i.fixed.id;
    const std::set<JobId> started = step(SubmitReceived{kClient, ++request_, owner, {i}});
    if (!core_->find(id, now_)) {
      EXPECT_FALSE(plan.has_value()) << "planned, and then refused at submit: " << kKinds[i.fixed.needs.kind].name;
      return;
    }
    ASSERT_TRUE(plan.has_value()) << "accepted at submit, and refused when planned: " << plan.error().what;
    EXPECT_EQ(plan->would_start, started.contains(id))
        << kKinds[i.fixed.needs.kind].name << ' ' << to_string(i.fixed.needs.job_class) << " of " << i.fixed.needs.budget_min.value << " MiB: " << plan->summary;
    EXPECT_EQ(plan->would_start, plan->remedies.size() == 1 && plan->remedies.front().kind == Remedy::Kind::none_needed);
    if (plan->never) { EXPECT_FALSE(started.contains(id)) << "it never fits, and it started"; }
    (plan->would_start ? planned_to_start : planned_to_wait)++;
    never += plan->never ? 1 : 0;
    waiting_.push_back(id);
  }

  void end_some() {
    for (std::uint64_t n = 1 + pick(3); n > 0 && !running_.empty(); --n) {
      const std::size_t at = pick(running_.size());
      const Grants g = running_[at];
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(at));
      AttemptEnd e;
      e.grant = g.grant;
      e.outcome = leaving_.contains(g.grant.job) && pick(4) != 0 ? Outcome::yielded : Outcome::succeeded;
      leaving_.erase(g.grant.job);
      step(AttemptsEnded{workers_[g.worker].peer, ++request_, {e}});
      WorkerRow& row = workers_[g.worker];
      if (g.device.empty()) step(WorkerPulled{row.peer, {}, {}, {{1, row.limits[1] += 5}}});
    }
  }

  void open_models() {
    for (const Grants& g : running_) {
      if (g.model.empty() || !warm_.emplace(g.device, g.model).second) continue;
      WorkerRow& row = workers_[g.worker];
      const std::uint16_t lane = row.next_lane++;
      step(WorkerPulled{row.peer, {{lane, LaneKind::warm, g.device, g.model}}, {}, {{lane, 4 + pick(8)}}});
      return;
    }
  }

  void switch_something() {
    const auto say = [&](FleetVerb verb, std::string target) { step(FleetCommand{kClient, ++request_, verb, std::move(target), "root", "", {}}); };
    switch (pick(4)) {
      case 0: say(pick(2) == 0 ? FleetVerb::drain : FleetVerb::undrain, "w" + std::to_string(pick(workers_.size()))); break;
      case 1: say(pick(2) == 0 ? FleetVerb::pause_class : FleetVerb::resume_class, pick(2) == 0 ? "training" : "synthesis"); break;
      case 2: if (!waiting_.empty()) step(JobCommand{kClient, ++request_, pick(2) == 0 ? JobVerb::hold : JobVerb::release, "ann", "", {}, {waiting_[pick(waiting_.size())]}}); break;
      case 3: step(PolicyLoaded{any_policy()}); break;
    }
  }

  void every_waiting_job_is_refused_everywhere() {
    std::erase_if(waiting_, [&](const JobId& id) { return is_terminal(core_->find(id, now_)->record.dynamic.state); });
    for (const JobId& id : waiting_) {
      const JobDynamic now = core_->find(id, now_)->record.dynamic;
      if (now.state != JobState::ready) continue;
      const auto why = core_->explain(id, now_);
      ASSERT_TRUE(why.has_value());
      EXPECT_FALSE(why->would_start) << "explain says that a waiting job would start: " << why->summary;
      EXPECT_FALSE(why->remedies.empty()) << "nothing would make it run? " << why->summary;
      EXPECT_FALSE(why->summary.empty());
    }
  }
};

TEST(CoreExplain, a_planned_job_starts_at_once_if_and_only_if_the_plan_said_so) {
  int starts = 0, waits = 0, never = 0;
  const char* more = std::getenv("GPUQ_CORE_SEEDS");
  const std::uint64_t seeds = more != nullptr ? std::strtoull(more, nullptr, 10) : 120;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Planner planner(seed);
    planner.run(120);
    if (testing::Test::HasFailure()) return;
    starts += planner.planned_to_start;
    waits += planner.planned_to_wait;
    never += planner.never;
  }
  EXPECT_GT(starts, 500) << "the states were too crowded to mean something";
  EXPECT_GT(waits, 500) << "the states were too idle to mean something";
  EXPECT_GT(never, 50);
}

}  // namespace
}  // namespace gq::core::story

// operators.cpp - people who switch things while it runs: policies, holds, drains, pauses, updates; and cards that others use too.
//
// Commands travel like any client's and get lost like any client's. When everything heals a plain policy is loaded and the operators
// tidy up until the store itself says that nothing is held, drained or paused any more.
#include <algorithm>

#include "tests/sim/sim.h"

namespace gq::sim {
namespace {

constexpr std::array kClasses{JobClass::inference, JobClass::training, JobClass::synthesis};

Duration ms(std::int64_t n) { return std::chrono::milliseconds{n}; }

}  // namespace

core::Policy World::random_policy() {
  core::Policy p;
  const std::int64_t wall_ms = moment().wall.ms;
  const auto selector = [&]() -> core::DeviceSelector {
    switch (rng.below(4)) {
      case 0: return {core::DeviceSelector::Kind::label, rng.one_in(2) ? "zone=a" : "zone=b", 0};
      case 1: return {core::DeviceSelector::Kind::uuid, "GPU-" + std::to_string(rng.below(physical.size() + 1)), 0};
      case 2: return {core::DeviceSelector::Kind::host_index, "h" + std::to_string(rng.below(workers.size() + 1)), 0};
      default: return {};
    }
  };
  const auto window = [&]() -> core::WindowIndex {
    core::Window w{"random", "UTC", {}};
    std::int64_t at = wall_ms + rng.between(-5'000, 5'000);
    while (at < wall_ms + 600'000) {
      const std::int64_t open = at + rng.between(1'000, 12'000);
      at = open + rng.between(2'000, 25'000);
      w.spans.push_back({open, at});
    }
    p.windows.push_back(std::move(w));
    return static_cast<core::WindowIndex>(p.windows.size() - 1);
  };
  if (rng.one_in(6)) std::swap(p.ladder[rng.below(3)], p.ladder[rng.below(3)]);
  for (const JobClass c : kClasses) {
    core::ClassPolicy& k = p.of(c);
    k.budget = Mib{1024 * rng.between(1, 8)};
    k.min_run = ms(rng.one_in(3) ? 0 : rng.between(50, 1'500));
    k.grace = ms(rng.between(500, 4'000));
    k.checkpoint_interval = ms(rng.between(500, 5'000));
    k.preemptions_max = static_cast<std::uint32_t>(rng.between(1, 8));
    k.protect_after = static_cast<std::uint32_t>(rng.between(1, 4));
    k.preemptible = !rng.one_in(8);
    if (rng.one_in(4)) k.min_run_ignored_by = {kClasses[rng.below(3)]};
    if (c != JobClass::inference && rng.one_in(3)) k.window = window();
    if (rng.one_in(6)) k.devices = {selector(), selector()};
    if (rng.one_in(10)) k.running_max = static_cast<std::uint32_t>(rng.between(2, 10));
  }
  if (rng.one_in(4)) p.of(JobClass::synthesis).not_beside = {JobClass::training};
  if (rng.one_in(10)) p.of(JobClass::training).not_beside = {JobClass::inference};
  for (std::uint64_t n = rng.below(3); n > 0; --n) {
    core::Reservation r;
    r.kind = static_cast<core::Reservation::Size>(rng.below(3));
    r.for_class = kClasses[rng.below(3)];
    r.device = selector();
    r.size = Mib{rng.between(128, 2'048)};
    r.percent = static_cast<std::uint32_t>(rng.between(5, 25));
    if (rng.one_in(2)) r.when = window();
    p.reservations.push_back(std::move(r));
  }
  if (rng.one_in(4)) p.devices.push_back({selector(), static_cast<std::uint32_t>(rng.below(15)), {}, {}, {}, {}});
  p.headroom_pct = static_cast<std::uint32_t>(rng.below(8));
  p.aging = !rng.one_in(5);
  p.aging_step = ms(rng.between(200, 20'000));
  p.reserve_after = ms(rng.between(1'000, 8'000));
  p.model_idle_min = ms(rng.between(0, 2'000));
  if (rng.one_in(4)) {
    p.fair = true;
    p.fair_half_life = ms(rng.between(2'000, 30'000));
  }
  if (rng.one_in(8)) p.tenants.push_back({"*", static_cast<std::uint32_t>(rng.between(3, 12)), 0, 1.0});
  if (p.fair) p.tenants.push_back({"client1", 0, 0, 3.0});
  p.of(JobClass::synthesis).cloud = dice(static_cast<JobNumber>(report.policies), 0xC10D) % 4 != 0;
  p.packing = static_cast<core::Packing>(rng.below(3));
  return p;
}

void World::load_policy(core::Policy policy) {
  if (!core || frozen) return;
  ++report.policies;
  findings.note(Note::policy_loaded, kNoJob, 0, static_cast<std::uint32_t>(policy.windows.size()));
  core_config.policy = policy;  // a broker that starts again reads the same file
  step(core::PolicyLoaded{std::move(policy)});
}

/// Another program takes memory of a card, a card gets hot, a card fails.
void World::device_fault() {
  if (physical.empty()) return;
  const auto at = static_cast<std::uint32_t>(rng.below(physical.size()));
  PhysicalDevice& card = physical[at];
  switch (rng.below(6)) {
    case 0: case 1: card.foreign = Mib{std::min<std::int64_t>(rng.between(0, 4'096), std::max<std::int64_t>(0, (card.total - card.driver - card.used).value))}; break;
    case 2: card.foreign = {}; break;
    case 3: card.temperature_c = static_cast<std::int16_t>(rng.between(80, 90)); break;
    case 4: card.temperature_c = static_cast<std::int16_t>(rng.between(55, 78)); break;
    default: card.broken = rng.one_in(3); break;
  }
  findings.note(Note::device_changed, kNoJob, at, static_cast<std::uint32_t>(card.foreign.value));
}

void World::operate() {
  if (healing) return;
  in_us(rng.between(100'000, 1'500'000), {What::operate, 0, 0});
  if (!core || frozen) return;
  const auto client = static_cast<std::uint32_t>(rng.below(clients.size()));
  const JobNumber job = next_job == 0 ? 0 : static_cast<JobNumber>(next_job - 1 - rng.below(std::min<std::uint64_t>(next_job, 200)));
  const auto about = [&](core::JobVerb verb, JobNumber which, Duration deadline) {
    up(Side::client, client, core::JobCommand{{}, ++clients[client].request, verb, "operator", "simulated", deadline, {numbers.id(which)}});
  };
  const auto fleet = [&](core::FleetVerb verb, std::string target, Duration deadline) {
    up(Side::client, client, core::FleetCommand{{}, ++clients[client].request, verb, std::move(target), "operator", "simulated", deadline});
  };
  ++report.commands;
  const auto what = static_cast<std::uint32_t>(rng.below(12));
  findings.note(Note::commanded, job, client, what);
  const std::uint32_t worker = static_cast<std::uint32_t>(rng.below(workers.size()));
  switch (what) {
    case 0:
      held_jobs.push_back(job);
      return about(core::JobVerb::hold, job, {});
    case 1:
      if (!held_jobs.empty()) about(core::JobVerb::release, held_jobs[rng.below(held_jobs.size())], {});
      return;
    case 2: case 3: case 4: {
      const WorkerRow& w = workers[worker];
      return about(core::JobVerb::preempt, w.runs.empty() ? job : w.runs[rng.below(w.runs.size())].job, ms(rng.between(500, 5'000)));
    }
    case 5: {
      core::JobUpdate change;
      if (rng.one_in(2)) change.priority = static_cast<std::uint8_t>(rng.below(10));
      if (rng.one_in(3)) change.job_class = kClasses[rng.below(3)];
      if (rng.one_in(3)) change.retries = static_cast<std::uint32_t>(rng.below(4));
      if (rng.one_in(4)) change.on_preempt = static_cast<OnPreempt>(rng.below(4));
      if (rng.one_in(6)) change.not_before = moment().wall + std::chrono::milliseconds{rng.between(-1'000, 5'000)};
      if (rng.one_in(4)) change.timeout = ms(rng.between(2'000, 20'000));
      return up(Side::client, client, core::UpdateReceived{{}, ++clients[client].request, "operator", numbers.id(job), std::move(change)});
    }
    case 6: return fleet(core::FleetVerb::drain, workers[worker].name, rng.one_in(2) ? Duration{} : ms(rng.between(100, 5'000)));
    case 7: return fleet(core::FleetVerb::undrain, workers[worker].name, {});
    case 8: {
      if (physical.empty()) return;
      const bool drain = rng.one_in(2);
      return fleet(drain ? core::FleetVerb::drain : core::FleetVerb::undrain, "GPU-" + std::to_string(rng.below(physical.size())),
                   drain && rng.one_in(2) ? ms(rng.between(100, 5'000)) : Duration{});
    }
    case 9: return fleet(rng.one_in(3) ? core::FleetVerb::pause_class : core::FleetVerb::resume_class, std::string(gq::to_string(kClasses[rng.below(3)])), {});
    case 10: return load_policy(random_policy());
    default: return device_fault();
  }
}

/// After healing: what was switched is switched back, as often as it takes.
void World::tidy_up() {
  if (!core || frozen || !clients[0].link.open) return in_us(300'000, {What::operate, 1, 0});
  ClientRow& c = clients[0];
  for (const core::OperatorSetting& s : core->settings()) {
    const bool pause = s.kind == core::OperatorSetting::Kind::pause_class;
    up(Side::client, 0, core::FleetCommand{{}, ++c.request, pause ? core::FleetVerb::resume_class : core::FleetVerb::undrain, s.target, "operator", "", {}});
  }
  core::JobCommand release{{}, 0, core::JobVerb::release, "operator", "", {}, {}};
  for (const JobNumber job : held_jobs)
    if (const core::JobRecord* r = store.find(job); r != nullptr && r->dynamic.held && !is_terminal(r->dynamic.state)) release.jobs.push_back(numbers.id(job));
  if (!release.jobs.empty()) {
    release.request = ++c.request;
    up(Side::client, 0, std::move(release));
  }
  if (core->policy() != core::Policy{}) load_policy({});
  in_us(700'000, {What::operate, 1, 0});  // a command of before may still be on a slow link
}

}  // namespace gq::sim

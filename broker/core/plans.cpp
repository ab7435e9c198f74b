// plans.cpp - a preemption as a transaction: propose, hold the room, ask, start first where it has come, or give everything back.
//
// A step ends with: what changed on planned devices is weighed, shapes are matched, shapes that fit nowhere look for room. None of it
// is stored. Whatever is cut short by a crash leaves attempts that yield and a shape that plans anew.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

namespace {
std::string size_text(Mib size) {
  const std::int64_t tenths = (size.value * 10 + 512) / 1024;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GiB";
}
}  // namespace

/// The job that starts next, without tidying the line up.
JobId Core::State::first_job(Index shape) const {
  const Shape& s = shapes[shape];
  for (const auto& line : s.lines) {
    if (!line) continue;
    for (const Entry& e : line->returned)
      if (e.seq == s.key.seq && e.job != kNone) return jobs[e.job].id;
    const auto at = std::lower_bound(line->queue.begin(), line->queue.end(), s.key.seq, [](const Entry& e, std::uint64_t seq) { return e.seq < seq; });
    if (at != line->queue.end() && at->seq == s.key.seq && at->job != kNone) return jobs[at->job].id;
  }
  return {};
}

/// Starts of its class that are prepared for shapes before it: they, too, will count against the class's cap.
std::size_t Core::State::prepared_ahead(const Shape& shape) const {
  std::size_t sum = 0;
  for (const auto& [owner, list] : plans_of) {
    const Shape& other = shapes[owner];
    if (other.needs.job_class != shape.needs.job_class || !(other.key < shape.key)) continue;
    sum += static_cast<std::size_t>(std::count_if(list.begin(), list.end(), [&](Index p) { return plans[p].kind == Plan::Kind::preempt; }));
  }
  return sum;
}

/// How many starts are worth preparing: one per waiting job, or one per load of a model that is worth it.
std::size_t Core::State::plans_wanted(Index shape) const {
  const Shape& s = shapes[shape];
  if (s.ready == 0) return 0;
  std::size_t most = kPlansPerShape;
  if (const std::size_t cap = config.policy.of(s.needs.job_class).running_max; cap != 0) {
    const std::size_t taken = running_of(s.needs.job_class) + prepared_ahead(s);
    most = std::min(most, cap > taken ? cap - taken : 0);
  }
  if (s.tenant != kNone)
    if (const auto t = tenants.find(s.tenant); t != tenants.end() && t->second.running_max != 0)
      most = std::min<std::size_t>(most, t->second.running_max - std::min(t->second.running, t->second.running_max));
  if (!kKinds[s.needs.kind].uses_model) return std::min<std::size_t>(s.ready, most);
  const Index version = resolved(s);
  if (version == kNone) return 0;
  const std::size_t content = content_with(s, version);  // jobs that are better served by what is loaded already
  return std::min(s.ready <= content ? 1 : (s.ready - content + kJobsPerLoad - 1) / kJobsPerLoad, most);
}

// ---- room

Mib Core::State::held_for(Index shape, Index device) const {
  const Index p = devices[device].plan;
  if (p == kNone || plans[p].shape != shape) return {};
  for (const Charge& c : devices[device].charges)
    if (c.kind == Charge::Kind::held && c.plan == p) return c.size;
  return {};
}

const Charge* Core::State::held_for_lower(JobClass c, const Device& device) const {
  if (device.plan == kNone) return nullptr;
  const auto rank_of = [&](JobClass one) { return classes[static_cast<std::size_t>(one)].rank; };
  if (rank_of(shapes[plans[device.plan].shape].needs.job_class) <= rank_of(c)) return nullptr;
  for (const Charge& charge : device.charges)
    if (charge.kind == Charge::Kind::held && charge.plan == device.plan) return &charge;
  return nullptr;
}

/// What is charged on this device now and will leave: attempts that yield or are cancelled, ghosts, models under eviction. A
/// reservation also counts on whatever ran there when it was made.
Mib Core::State::coming(const Plan& plan, Index device) const {
  Mib sum;
  const auto leaves = [&](Index h) {
    return is_leaving(holds[h]) || (plan.kind == Plan::Kind::reserve && holds[h].plan < plan.stamp);
  };
  for (const Charge& c : devices[device].charges) {
    const bool counts = c.kind == Charge::Kind::ghost || (c.kind == Charge::Kind::job && leaves(c.hold)) ||
                        (c.kind == Charge::Kind::model && (c.lane != kNone ? lanes[c.lane].evicting : c.hold != kNone && leaves(c.hold)));
    if (counts) sum += c.size;
  }
  return sum;
}

void Core::State::hold_room(Index index) {
  const Plan& plan = plans[index];
  for (std::size_t i = 0; i < plan.devices.size(); ++i) {
    const Index device = plan.devices[i];
    const Mib size{std::max<std::int64_t>(0, plan.needs[i].value - coming(plan, device).value)};
    Mib held;
    for (const Charge& c : devices[device].charges)
      if (c.kind == Charge::Kind::held && c.plan == index) held = c.size;
    if (held == size) continue;
    (void)uncharge(device, [&](const Charge& c) { return c.kind == Charge::Kind::held && c.plan == index; });
    if (size.value > 0) {
      Charge c;
      c.kind = Charge::Kind::held;
      c.size = size;
      c.job_class = shapes[plan.shape].needs.job_class;
      c.plan = index;
      charge(device, c);
    }
    refresh_device(device, size < held);
  }
}

/// Would the shape start there once all that leaves has left? Asked again whenever something changed.
bool Core::State::comes_true(const Plan& plan) const {
  const Shape& shape = shapes[plan.shape];
  return std::all_of(plan.devices.begin(), plan.devices.end(), [&](Index device) {
    Without w;
    for (const Charge& c : devices[device].charges) {
      const bool expected = c.hold != kNone && (c.kind == Charge::Kind::job || c.kind == Charge::Kind::model) &&
                            (is_leaving(holds[c.hold]) || (plan.kind == Plan::Kind::reserve && holds[c.hold].plan < plan.stamp));
      const bool evicted = c.kind == Charge::Kind::model && c.lane != kNone && lanes[c.lane].evicting;
      if (expected) w.holds.push_back(c.hold);
      if (evicted) w.lanes.push_back(c.lane);
      if (c.kind == Charge::Kind::ghost) w.without(c);
      else if (expected || evicted) w.freed += c.size;
    }
    if (plan.kind == Plan::Kind::reserve)   // idle models are evicted when only they are left
      for (const Charge& c : devices[device].charges)
        if (c.kind == Charge::Kind::model && c.lane != kNone && !lanes[c.lane].evicting && !in_use(c.lane)) {
          w.lanes.push_back(c.lane);
          w.freed += c.size;
        }
    for (const Reporter& reporter : devices[device].reporters)
      for (const Index h : workers[reporter.worker].holds) {
        const Hold& hold = holds[h];
        if (!hold.is_model || hold.devices.empty() || hold.devices.front() != device || !is_leaving(hold)) continue;
        if (std::find(w.holds.begin(), w.holds.end(), h) == w.holds.end()) w.holds.push_back(h);
      }
    return std::any_of(devices[device].lanes.begin(), devices[device].lanes.end(), [&](Index lane) {
      const std::size_t refusal = first_refusal(shape, plan.shape, lane, &w);
      return refusal == kHardConstraints.size() ||
             (kHardConstraints[refusal].name == "has_credit" && lanes[lane].kind == LaneKind::start);
    });
  });
}

// ---- a plan's life

Index Core::State::make_plan(Index shape, Plan::Kind kind, Proposal& proposal) {
  const Index index = plans.make();
  for (const Index device : proposal.devices)
    if (const Index other = devices[device].plan; other != kNone) drop_plan(other);  // of somebody further back in line, or this shape's own reservation
  Plan& plan = plans[index];
  plan.kind = kind;
  plan.shape = shape;
  plan.worker = proposal.worker;
  plan.job = first_job(shape);
  plan.devices = proposal.devices;
  plan.needs = proposal.needs;
  plan.stamp = ++plan_stamp;
  plan.made = plan.until = lease_now();
  for (const Index device : plan.devices) devices[device].plan = index;
  plans_of[shape].push_back(index);
  ++totals.plans_made;
  if (kind == Plan::Kind::reserve) {
    hold_room(index);
    return index;
  }

  const Needs& needs = shapes[shape].needs;
  std::string what = std::string(kKinds[needs.kind].name) + (needs.model.empty() ? "" : " " + needs.model);
  if (plan.needs.front().value > 0) what += " needs " + size_text(plan.needs.front());
  what += " on " + texts[devices[plan.devices.front()].uuid];
  if (plan.devices.size() > 1) what += " and " + std::to_string(plan.devices.size() - 1) + " more";
  Duration longest{0};
  for (const Leaver& one : proposal.leavers) {
    if (one.lane != kNone) plan.lanes.push_back(one.lane);
    for (const Index h : one.holds) {
      const Index slot = holds[h].job;
      const Duration grace = config.policy.of(needs_of(jobs[slot]).job_class).grace;
      longest = std::max(longest, grace);
      (void)ask_to_leave(slot, what, grace, plan.job);
    }
  }
  for (const Index lane : plan.lanes) evict(lane);
  for (const Index device : plan.devices)
    for (const Charge& c : devices[device].charges)
      if (c.kind == Charge::Kind::job && is_leaving(holds[c.hold])) longest = std::max(longest, holds[c.hold].preempt_deadline);
  plan.until = lease_now() + longest + config.timing.plan_margin;
  arm(plan.until, TimerKind::plan, index, plan.stamp);
  hold_room(index);
  return index;
}

void Core::State::drop_plan(Index index) {
  Plan plan = plans[index];
  auto& siblings = plans_of[plan.shape];
  std::erase(siblings, index);
  if (siblings.empty()) plans_of.erase(plan.shape);
  for (const Index lane : plan.lanes) stop_evicting(lane);
  for (const Index device : plan.devices) {
    devices[device].plan = kNone;
    (void)uncharge(device, [&](const Charge& c) { return c.kind == Charge::Kind::held && c.plan == index; });
    refresh_device(device, true);
  }
  std::erase(plans_touched, index);
  plans.drop(index);
}

void Core::State::drop_plans_of(Index shape) {
  while (plans_of.contains(shape)) drop_plan(plans_of[shape].back());
}

/// The start that was prepared for: what was held is the job's now.
void Core::State::started_on(Index shape, const std::vector<Index>& on) {
  const auto at = plans_of.find(shape);
  if (at == plans_of.end()) return;
  const std::vector<Index> mine = at->second;
  for (const Index p : mine) {
    const auto& of = plans[p].devices;
    if (!std::any_of(on.begin(), on.end(), [&](Index d) { return std::find(of.begin(), of.end(), d) != of.end(); })) continue;
    drop_plan(p);
    room_reopened = true;  // it may have held more than the start takes
    return;
  }
}

/// Something changed on its devices. False: it could not come true any more, and is gone.
bool Core::State::tend_plan(Index index) {
  Plan& plan = plans[index];
  if (!comes_true(plan)) {
    drop_plan(index);
    return false;
  }
  for (const Index lane : plan.lanes) evict(lane);  // attempts that ran there may have left
  hold_room(index);
  for (const Index device : plan.devices)           // its room is listed for nobody: the owner is asked by the places it may start at
    for (const Index lane : devices[device].lanes) refresh_lane(lane, true);
  return true;
}

/// Owners that are gone or served elsewhere give their room back at once; room that came grows what is held.
bool Core::State::tend_plans() {
  bool reopened = false;
  std::vector<Index> surplus;
  for (const auto& [shape, list] : plans_of) {
    const std::size_t wanted = plans_wanted(shape);
    if (list.size() <= wanted) continue;
    std::size_t most = list.size() - wanted;
    for (const Plan::Kind kind : {Plan::Kind::reserve, Plan::Kind::preempt})  // nobody was asked for a reservation; of the others the newest go
      for (std::size_t i = list.size(); i-- > 0 && most > 0;) {
        if (plans[list[i]].kind != kind) continue;
        surplus.push_back(list[i]);
        --most;
      }
  }
  for (const Index p : surplus) {
    drop_plan(p);
    reopened = true;
  }
  std::vector<Index> touched;
  touched.swap(plans_touched);
  std::sort(touched.begin(), touched.end());
  for (const Index p : touched) {
    if (plans[p].kind == Plan::Kind::none || !plans[p].touched) continue;
    const Index shape = plans[p].shape;
    reopened = true;
    if (tend_plan(p)) {
      plans[p].touched = false;
      continue;
    }
    Shape& owner = shapes[shape];   // it was promised room a moment ago: no need to wait for the next regular look
    owner.plans_after = std::min(owner.plans_after, micros(lease_now() + config.timing.replan_soon));
    want_plan(shape);
  }
  return reopened;
}

/// Not everything came. What was held is given back; the shape looks elsewhere, and here again after a while.
void Core::State::on_plan_timer(Index index, std::uint64_t stamp) {
  if (plans[index].stamp != stamp || plans[index].kind != Plan::Kind::preempt) return;
  ++totals.plans_expired;
  const Index shape = plans[index].shape;
  for (const Index device : plans[index].devices) back_off(shape, device, config.timing.plan_margin);
  drop_plan(index);
}

}  // namespace gq::core

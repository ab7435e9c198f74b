// planning.cpp - which shapes look for room by asking others to leave, when, and what they propose; plans.cpp makes it happen.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

namespace {
constexpr std::size_t kShapesPlannedPerStep = 4;   // a step stays short; the others follow in the next one, at once
}  // namespace

void Core::State::want_plan(Index shape) {
  Shape& s = shapes[shape];
  if (s.wants_plan || !on_device(s)) return;
  s.wants_plan = true;
  to_plan.push_back(shape);
}

void Core::State::on_replan_timer(Index shape) {
  Shape& s = shapes[shape];
  s.replan_at = 0;
  if (s.live && s.standing == Standing::parked) want_plan(shape);
}

bool Core::State::plan_for_waiting() {
  if (to_plan.empty()) return false;
  std::vector<Index> due;
  due.swap(to_plan);
  std::erase_if(due, [&](Index i) {
    shapes[i].wants_plan = false;
    return !shapes[i].live || shapes[i].standing != Standing::parked;
  });
  std::sort(due.begin(), due.end(), [&](Index a, Index b) { return shapes[a].key < shapes[b].key; });
  bool reopened = false;
  std::size_t planned = 0;
  for (const Index index : due) {
    Shape& s = shapes[index];
    if (s.standing != Standing::parked) continue;
    if (s.waits_since < 0) s.waits_since = micros(lease_now());
    std::int64_t next = s.plans_after;
    if (next <= micros(lease_now()) && planned < kShapesPlannedPerStep) {
      ++planned;
      next = s.plans_after = micros(lease_now() + config.timing.replan);
      reopened = plan_shape(index) || reopened;
    }
    const Instant at = std::max(Instant{Duration{next}}, lease_now());
    if (s.replan_at != 0 && s.replan_at <= micros(at)) continue;
    s.replan_at = micros(at);
    arm(at, TimerKind::replan, index);
  }
  return reopened;
}

bool Core::State::plan_shape(Index index) {
  Shape& s = shapes[index];
  bool reopened = false;
  if (const auto mine = plans_of.find(index); mine != plans_of.end())
    for (const Index p : std::vector<Index>(mine->second))
      if (!comes_true(plans[p])) {
        drop_plan(p);
        reopened = true;
      }
  const auto standing = [&](Plan::Kind kind) {
    const auto mine = plans_of.find(index);
    return mine == plans_of.end() ? 0 : std::count_if(mine->second.begin(), mine->second.end(), [&](Index p) { return plans[p].kind == kind; });
  };
  const auto wanted = static_cast<std::ptrdiff_t>(plans_wanted(index)) - standing(Plan::Kind::preempt);
  if (wanted > 0) {
    bool any = false;
    for (Proposal& p : find_room(s, index, static_cast<std::size_t>(wanted), &s.plan_cursor)) {
      const bool wide = std::any_of(p.leavers.begin(), p.leavers.end(), [&](const Leaver& one) {
        return std::any_of(one.holds.begin(), one.holds.end(), [&](Index h) { return holds[h].devices.size() > 1; });
      });
      if (any && wide) continue;  // what it gives back elsewhere might have spared somebody: the next look knows
      const bool taken = std::any_of(p.devices.begin(), p.devices.end(), [&](Index d) {  // by one that was made a moment ago
        const Index other = devices[d].plan;
        return other != kNone && plans[other].shape == index && plans[other].kind == Plan::Kind::preempt;
      });
      const bool asked = std::any_of(p.leavers.begin(), p.leavers.end(), [&](const Leaver& one) {
        return std::any_of(one.holds.begin(), one.holds.end(), [&](Index h) { return is_leaving(holds[h]); });
      });
      if (taken || asked) continue;
      (void)make_plan(index, Plan::Kind::preempt, p);
      reopened = true;
      any = true;
      if (wide) break;
    }
  }
  if (standing(Plan::Kind::preempt) + standing(Plan::Kind::reserve) > 0 ||
      micros(lease_now()) - s.waits_since < config.policy.reserve_after.count())
    return reopened;
  Instant starts_at{};
  if (auto p = find_reservation(s, index, &starts_at)) {
    const Index plan = make_plan(index, Plan::Kind::reserve, *p);
    plans[plan].until = starts_at;
    reopened = true;
  } else {
    s.plan_cursor += kDevicesGlanced;
  }
  return reopened;
}

/// Room that is held for this shape is listed nowhere: its own places are asked first.
bool Core::State::pick_planned(Index shape, Pick& pick) {
  const auto mine = plans_of.find(shape);
  if (mine == plans_of.end()) return false;
  for (const Index p : mine->second) {
    const Plan& plan = plans[p];
    if (plan.devices.size() > 1) {
      if (gang_at(shapes[shape], shape, plan.worker, pick)) return true;
      continue;
    }
    for (const Index lane : devices[plan.devices.front()].lanes)
      if (take(shape, lane, pick)) return true;
  }
  return false;
}

}  // namespace gq::core

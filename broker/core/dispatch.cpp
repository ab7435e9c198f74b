// dispatch.cpp - the end of every step: match what has not been tried, and what has new room.
//
// Two domains that never compete: slots, and devices. In each, shapes come in the order of their first job. A fresh shape is tried
// everywhere and parks when nothing takes it; a parked one is tried only at places that got more room in this step.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

namespace {
std::uint64_t splitmix64(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}
}  // namespace

void Core::State::schedule() {
  if (rehearses) return;
  (void)tend_plans();
  schedule_domain(false);
  do schedule_domain(true);
  while (static_cast<int>(tend_plans()) + static_cast<int>(plan_for_waiting()) != 0);
  for (auto* touched : {&touched_slots, &touched_device_lanes}) {
    for (const Index lane : *touched) lanes[lane].touched = false;
    touched->clear();
  }
}

void Core::State::schedule_domain(bool uses_device) {
  auto& to_try = fresh[uses_device];
  auto& standing = parked[uses_device];
  auto& touched = uses_device ? touched_device_lanes : touched_slots;
  const auto room_left = [&] {
    return std::any_of(touched.begin(), touched.end(), [&](Index lane) { return lanes[lane].has_credit(); });
  };
  auto at = standing.begin();
  bool any_room = !standing.empty() && room_left();
  std::vector<Index> parked_now;  // tried everywhere in this very pass: no need to ask them again
  Pick pick;
  while (!to_try.empty() || (any_room && at != standing.end())) {
    const bool take_fresh = !to_try.empty() && (!any_room || at == standing.end() || *to_try.begin() < *at);
    if (take_fresh) {
      const Index shape = to_try.begin()->shape;
      if (pick_planned(shape, pick) || pick_anywhere(shape, pick) || pick_held_for_lower(shape, pick) || pick_backfill(shape, pick)) {
        const bool reorders = config.policy.fair && at != standing.end();
        const ShapeKey next = reorders ? *at : ShapeKey{};
        dispatch(shape, pick);
        if (reorders) at = standing.lower_bound(next);  // its tenant has had a turn: others of its shapes may stand further back now
        if (room_reopened) {  // a dispatch gave room back (the device kept for a suspect): shapes passed already are asked again
          at = standing.begin();
          parked_now.clear();
        }
        any_room = (any_room || room_reopened) && room_left();
        room_reopened = false;
        continue;
      }
      Shape& s = shapes[shape];
      s.recheck_above = kNone;
      if (kKinds[s.needs.kind].uses_model)
        if (const Index version = resolved(s); version != kNone) {
          const Index enough = content_with(s, version);
          if (s.ready <= enough) s.recheck_above = enough;
        }
      stand(shape, Standing::parked);
      await_device(shape);
      want_plan(shape);
      parked_now.push_back(shape);
      continue;
    }
    const ShapeKey key = *at;
    if (std::find(parked_now.begin(), parked_now.end(), key.shape) == parked_now.end() &&
        (pick_touched(key.shape, pick) || pick_backfill(key.shape, pick))) {
      dispatch(key.shape, pick);
      any_room = room_left();
      if (room_reopened) {
        room_reopened = false;
        parked_now.clear();
        at = standing.begin();
      } else {
        at = standing.upper_bound(key);
      }
      continue;
    }
    ++at;
  }
}

Nonce Core::State::next_nonce() {
  const Nonce nonce = splitmix64(entropy);
  return nonce == 0 ? 1 : nonce;  // 0 means "no grant"
}

void Core::State::dispatch(Index shape, const Pick& pick) {
  const Index slot = head(shape, nullptr)->job;
  Job& job = jobs[slot];
  Lane& lane = lanes[pick.lane];
  Worker& worker = workers[lane.worker];
  const Needs& needs = shapes[shape].needs;
  check(lane.has_credit() && worker.usable(), "dispatched to a worker without credit");

  const Index h = holds.make();
  Hold& hold = holds[h];
  hold.job = slot;
  hold.worker = lane.worker;
  hold.at = static_cast<Index>(worker.holds.size());
  worker.holds.push_back(h);
  hold.number = ++worker.last_number;
  wrote |= job.durable;
  hold.batch = batch_of(job);
  hold.devices = pick.devices;
  hold.is_model = kKinds[needs.kind].uses_model;
  hold.is_suspect = shapes[shape].suspect;
  hold.version = hold.is_model ? resolved(shapes[shape]) : kNone;
  hold.granted = pick.granted;
  hold.plan = plan_stamp;

  job.attempt++;
  job.nonce = next_nonce();
  job.hold = h;
  hold.nonce = job.nonce;
  job.worker = worker.name;
  job.granted_mib = pick.granted.value;
  job.started_ms = now.wall.ms;
  job.ended_ms = 0;
  job.device = pick.devices.empty() ? 0 : devices[pick.devices.front()].uuid;
  if (pick.devices.size() > 1 || (job.extra != kNone && !extras[job.extra].more_devices.empty())) {
    auto& more = extra_of(job).more_devices;
    more.clear();
    for (std::size_t i = 1; i < pick.devices.size(); ++i) more.push_back(devices[pick.devices[i]].uuid);
  }
  job.model_version = hold.version == kNone ? 0 : texts.intern(versions[hold.version].record.version);

  ++lane.used;
  started_on(shape, pick.devices);
  shapes[shape].waits_since = lease_now().time_since_epoch().count();
  charge_hold(h, pick.loads);
  if (pick.loads.value > 0) packing.count(pick.loads.value);
  refresh_lane(pick.lane, false);
  stop_awaiting(shape);
  if (pick.backfills != kNone) backfilled(h, pick.backfills);
  uncommitted.push_back({job.seq, slot, job.attempt, hold.batch, 0});
  if (hold.batch <= committed) take_committed();
  ++totals.assigned;
  shapes[shape].turn_since = now.steady.time_since_epoch().count();
  shapes[shape].passed_over = false;
  count_use(hold, true);
  move_job(slot, Verb::dispatch);
  commit(PayloadRead{job.id}, job.durable);

  out->emplace_back(std::in_place_type<Send>);
  Assign& a = std::get<Send>(out->back()).message.emplace<Assign>();
  a.peer = worker.peer;
  a.number = hold.number;
  a.grant = grant_of(slot);
  a.lane = lane.id;
  for (const Index device : pick.devices) a.devices.push_back(texts[devices[device].uuid]);
  a.granted = pick.granted;
  if (hold.version != kNone) a.model = versions[hold.version].record;
  a.needs = needs_of(job);
  a.priority = job.priority;
  a.timeout = job.timeout;
  a.body_bytes = job.body_bytes;
  a.owner = texts[job.owner];
  a.pause_for = config.policy.pauses_for(a.needs.job_class, a.needs.on_preempt);
  if (const Extra* x = extra(job)) a.resume = x->checkpoint, a.after = x->after;
}

}  // namespace gq::core

// preempt.cpp - leaving: attempts that are asked to, idle models that are evicted, and what follows when nobody obeys.
//
// Two acknowledgements end a preemption: the memory is released (whoever waits for it may start), the state is durable (the job is
// ready again, at its old place). A worker kills at the deadline; the word of that missing, the broker takes the grant back itself.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

/// PREEMPT is stored as intent, pushed now, and repeated in the heartbeat's answer. False: the job does not run.
bool Core::State::ask_to_leave(Index slot, std::string reason, Duration deadline, JobId leaves_for) {
  if (jobs[slot].state != JobState::running) return false;
  Extra& x = extra_of(jobs[slot]);
  x.leave_reason = reason.substr(0, 200);
  x.leave_for = leaves_for;
  move_job(slot, Verb::preempt);
  ++totals.preempted;
  const Index h = jobs[slot].hold;
  Hold& hold = holds[h];
  hold.intent_batch = batch_of(jobs[slot]);
  hold.preempt_reason = std::move(reason);
  hold.preempt_deadline = deadline;
  arm(lease_now() + deadline + config.timing.timeout_margin, TimerKind::leave, slot, jobs[slot].nonce);
  for (const Index device : hold.devices) touch_plan(device);  // what it holds there is still to come now
  Worker& worker = workers[hold.worker];
  if (!worker.connected || worker_at(worker.peer) != hold.worker) return true;
  hold.preempt_number = ++worker.last_number;
  send(Preempt{worker.peer, hold.preempt_number, grant_of(slot), hold.preempt_reason, hold.preempt_deadline});
  return true;
}

void Core::State::on_preempt_asked(PreemptAsked& e) {
  if (const Index slot = jobs.find(e.job); slot != kNone) (void)ask_to_leave(slot, std::move(e.reason), e.deadline, {});
}

/// A yielding attempt that a restarted broker knows from its record, or whose worker came back on another connection: the word may
/// have been lost with either. A worker that has heard it before does nothing.
void Core::State::ask_again(Index h) {
  Hold& hold = holds[h];
  const Job& job = jobs[hold.job];
  if (job.state != JobState::yielding) return;
  if (hold.preempt_deadline == Duration{0}) {
    const Extra* x = extra(job);
    hold.preempt_reason = x == nullptr || x->leave_reason.empty() ? "asked before" : x->leave_reason;
    hold.preempt_deadline = config.policy.of(needs_of(job).job_class).grace;
    arm(std::max(lease_now(), grace_until) + hold.preempt_deadline + config.timing.timeout_margin, TimerKind::leave, hold.job, job.nonce);
  }
  Worker& worker = workers[hold.worker];
  if (!worker.connected || worker_at(worker.peer) != hold.worker) return;
  hold.preempt_number = ++worker.last_number;
  send(Preempt{worker.peer, hold.preempt_number, grant_of(hold.job), hold.preempt_reason, hold.preempt_deadline});
}

/// The worker should have killed it by now. Its grant is taken back, its memory stays charged until a heartbeat omits it, and the job
/// stands at its old place again: it was not the job that failed.
void Core::State::on_leave_timer(Index slot, Nonce nonce) {
  Job& job = jobs[slot];
  if (job.nonce != nonce || job.hold == kNone || job.state != JobState::yielding) return;
  Hold& hold = holds[job.hold];
  if (!workers[hold.worker].usable()) {  // its leases decide, unless it comes back
    arm(lease_now() + config.timing.lease, TimerKind::leave, slot, nonce);
    return;
  }
  ++totals.killed_at_deadline;
  hold.leaves_ghost = true;
  job.nonce = 0;
  if (job.cancel_asked) {
    set_error(job, Errc::cancelled, "cancelled on request");
    move_job(slot, Verb::cancel);
    return;
  }
  job.preemptions++;
  if (const Extra* x = extra(job); x != nullptr && !x->leave_for.empty()) job.evictions++;
  move_job(slot, Verb::lose);
}

// ---- idle models

/// Attempts that run this lane's model there, by the worker that opened it. False: none.
bool Core::State::attempts_of(Index lane, std::vector<Index>& found) const {
  found.clear();
  const Lane& l = lanes[lane];
  for (const Index h : workers[l.worker].holds) {
    const Hold& hold = holds[h];
    if (hold.is_model && hold.version == l.version && !hold.devices.empty() && hold.devices.front() == l.device) found.push_back(h);
  }
  return !found.empty();
}

bool Core::State::in_use(Index lane) const {
  const Lane& l = lanes[lane];
  if (devices[l.device].model_holds == 0) return false;
  const auto& held = workers[l.worker].holds;
  return std::any_of(held.begin(), held.end(), [&](Index h) {
    const Hold& hold = holds[h];
    return hold.is_model && hold.version == l.version && !hold.devices.empty() && hold.devices.front() == l.device;
  });
}

void Core::State::used_model(const Hold& hold) {
  if (!hold.is_model || hold.devices.empty()) return;
  for (const Index lane : workers[hold.worker].lanes) {
    Lane& l = lanes[lane];
    if (l.kind == LaneKind::warm && l.version == hold.version && l.device == hold.devices.front()) l.idle_since = lease_now();
  }
}

/// No start from here on; the worker is told once nothing runs there any more, and reminded in its heartbeats' answers. Done when
/// it closes the lane.
void Core::State::evict(Index lane) {
  Lane& l = lanes[lane];
  if (!l.evicting) {
    l.evicting = true;
    refresh_lane(lane, false);
    touch_plan(l.device);
  }
  if (l.evict_told || in_use(lane)) return;
  l.evict_told = true;
  const Worker& worker = workers[l.worker];
  if (worker.connected && worker_at(worker.peer) == l.worker)
    send(EvictModel{worker.peer, texts[devices[l.device].uuid], versions[l.version].text});
}

/// The worker may close it all the same: then its jobs are refused once, and load it elsewhere.
void Core::State::stop_evicting(Index lane) {
  Lane& l = lanes[lane];
  if (!l.evicting) return;
  l.evicting = l.evict_told = false;
  refresh_lane(lane, true);
  touch_plan(l.device);
}

void Core::State::repeat_evictions(Index worker, BeatAnswer& answer) const {
  for (const Index lane : workers[worker].lanes)
    if (lanes[lane].evict_told)
      answer.evictions.push_back({workers[worker].peer, texts[devices[lanes[lane].device].uuid], versions[lanes[lane].version].text});
}

void Core::State::lane_closed(Index lane) {
  const Lane& l = lanes[lane];
  if (l.kind != LaneKind::warm) return;
  if (l.evicting) {
    if (l.evict_told) ++totals.evicted_models;
    if (const Index plan = devices[l.device].plan; plan != kNone) std::erase(plans[plan].lanes, lane);
  }
  touch_plan(l.device);
}

// ---- where to look for them

void Core::State::count_running(const Hold& hold, Index device, bool begins) {
  const auto c = static_cast<std::size_t>(needs_of(jobs[hold.job]).job_class);
  Device& d = devices[device];
  Ring& ring = devices_running[c];
  if (begins && d.running[c]++ == 0) ring.join(device, d.running_at[c]);
  if (!begins && --d.running[c] == 0) ring.leave(d.running_at[c], [&](Index other) -> Index& { return devices[other].running_at[c]; });
  touch_plan(device);
}

void Core::State::list_models(Index device) {
  Device& d = devices[device];
  const bool any = std::any_of(d.lanes.begin(), d.lanes.end(), [&](Index lane) { return lanes[lane].kind == LaneKind::warm; });
  if (any && d.warm_at == kNone) devices_warm.join(device, d.warm_at);
  if (!any && d.warm_at != kNone) devices_warm.leave(d.warm_at, [&](Index other) -> Index& { return devices[other].warm_at; });
}

}  // namespace gq::core

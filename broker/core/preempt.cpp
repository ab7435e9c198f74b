// preempt.cpp - who leaves for whom.
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
  Hold& hold = holds[jobs[slot].hold];
  hold.intent_batch = gathering;
  hold.preempt_reason = std::move(reason);
  hold.preempt_deadline = deadline;
  Worker& worker = workers[hold.worker];
  if (!worker.connected || worker_at(worker.peer) != hold.worker) return true;
  hold.preempt_number = ++worker.last_number;
  send(Preempt{worker.peer, hold.preempt_number, grant_of(slot), hold.preempt_reason, hold.preempt_deadline});
  return true;
}

void Core::State::on_preempt_asked(PreemptAsked& e) {
  if (const Index slot = jobs.find(e.job); slot != kNone) (void)ask_to_leave(slot, std::move(e.reason), e.deadline, {});
}

void Core::State::on_plan_timer(Index, std::uint64_t) {}

}  // namespace gq::core

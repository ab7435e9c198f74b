// attempts.cpp - what workers say about grants. Attempt and nonce fence: words about any but the newest grant are stale.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

/// The job whose newest grant this is; kNone otherwise.
Index Core::State::find_current(const Grant& grant) const {
  const Index slot = jobs.find(grant.job);
  if (slot == kNone) return kNone;
  const Job& job = jobs[slot];
  return job.attempt == grant.attempt && job.nonce == grant.nonce && grant.nonce != 0 ? slot : kNone;
}

Duration Core::State::backoff_after(std::uint32_t failures) const {
  Duration wait = config.timing.retry_backoff_min;
  for (std::uint32_t i = 1; i < failures && wait < config.timing.retry_backoff_max; ++i) wait *= 2;
  return std::min(wait, config.timing.retry_backoff_max);
}

void Core::State::mark_started(Index index) {
  Hold& hold = holds[index];
  if (hold.started) return;
  hold.started = true;
  if (hold.run_since == Instant{}) hold.run_since = hold.safe_since = lease_now();
  const Job& job = jobs[hold.job];
  if (job.timeout > Duration{0})
    arm(lease_now() + job.timeout + config.timing.timeout_margin, TimerKind::attempt, hold.job, job.nonce);
}

void Core::State::on_started(const AttemptsStarted& e) {
  for (const Grant& grant : e.grants)
    if (const Index slot = find_current(grant); slot != kNone && jobs[slot].hold != kNone) mark_started(jobs[slot].hold);
}

/// Shape x place waits a moment; other shapes and other places go on.
void Core::State::back_off(Index shape, Index place, Duration wait) {
  const std::uint64_t key = std::uint64_t{shape} << 32U | place;
  const Instant until = lease_now() + std::max(wait, config.timing.refuse_backoff);
  const auto [it, is_new] = backoffs.insert_or_assign(key, until.time_since_epoch().count());
  (void)it;
  if (is_new) shapes[shape].backoffs++;
  arm(until, TimerKind::place, shape, key);
}

void Core::State::on_refused(const AttemptRefused& e) {
  const Index slot = find_current(e.grant);
  if (slot == kNone || jobs[slot].hold == kNone) {
    ++totals.stale;
    return;
  }
  const Hold& hold = holds[jobs[slot].hold];
  if (hold.devices.empty()) back_off(jobs[slot].shape, hold.worker | 1U << 31U);
  for (const Index device : hold.devices) back_off(jobs[slot].shape, device);
  if (e.code == Errc::not_here && hold.is_model && !hold.devices.empty()) {
    // The warm lane is closed there and the word of it was lost: believed open, it would keep the model from being loaded again.
    const auto& lanes_there = workers[hold.worker].lanes;
    const auto closed = std::find_if(lanes_there.begin(), lanes_there.end(), [&](Index l) {
      return lanes[l].kind == LaneKind::warm && lanes[l].version == hold.version && lanes[l].device == hold.devices.front();
    });
    if (closed != lanes_there.end()) close_lane(*closed);
  }
  return_offer(slot);
}

void Core::State::on_ended(AttemptsEnded& e) {
  EndsAnswer answer{e.peer, e.request, {}, {}};
  for (AttemptEnd& end : e.ends) {
    answer.grants.push_back(end.grant);
    answer.verdicts.push_back(end_one(end));
  }
  send(std::move(answer));
}

/// Rule 4.2: the newest grant's word counts while the job is not final, declared lost or not; said again, it gets the same answer.
EndVerdict Core::State::end_one(AttemptEnd& e) {
  const Index slot = jobs.find(e.grant.job);
  if (slot == kNone) return EndVerdict::gone;
  const Job& job = jobs[slot];
  if (job.attempt != e.grant.attempt || job.nonce != e.grant.nonce || job.nonce == 0) {
    ++totals.stale;
    return EndVerdict::stale;
  }
  const bool said_before = is_terminal(job.state) || (!is_granted(job.state) && job.ended_ms != 0);
  if (!said_before) end_attempt(slot, e);
  return EndVerdict::accepted;
}

void Core::State::end_attempt(Index slot, AttemptEnd& e) {
  Job& job = jobs[slot];
  if (job.hold != kNone && e.started) holds[job.hold].started = true;
  if (!e.checkpoint.blob.empty()) extra_of(job).checkpoint = e.checkpoint;
  job.ended_ms = now.wall.ms;
  if (e.outcome == Outcome::succeeded) {
    job.result_bytes = e.result_bytes;
    if (!e.result_blobs.empty()) extra_of(job).result_blobs = std::move(e.result_blobs);
    set_error(job, Errc::internal, "");
    move_job(slot, Verb::succeed, e.result);
    if (e.result != 0) commit(ResultStored{job.id, job.attempt, e.result, e.result_bytes}, job.durable);
    return;
  }
  if (job.cancel_asked) {
    set_error(job, Errc::cancelled, "cancelled on request");
    move_job(slot, Verb::cancel);
    return;
  }
  switch (e.outcome) {
    case Outcome::failed: case Outcome::timed_out: fail_attempt(slot, e, false); break;
    case Outcome::failed_final: fail_attempt(slot, e, true); break;
    case Outcome::crashed: crash_attempt(slot, e); break;
    case Outcome::yielded:
      if (!is_granted(job.state)) return commit_change(slot, job.state);
      job.preemptions++;
      if (const Extra* x = extra(job); job.state == JobState::yielding && x != nullptr && !x->leave_for.empty()) job.evictions++;
      move_job(slot, Verb::yield);
      break;
    case Outcome::succeeded: case Outcome::cancelled: case Outcome::lost:
      // "Cancelled" that nobody asked for is work that went for reasons that are not the job's.
      if (!is_granted(job.state)) return commit_change(slot, job.state);
      job.losses++;
      ++totals.lost;
      set_error(job, e.outcome == Outcome::lost ? e.error : Errc::worker_lost, e.error_text);
      move_job(slot, Verb::lose);
      break;
  }
}

void Core::State::fail_attempt(Index slot, AttemptEnd& e, bool final_failure) {
  Job& job = jobs[slot];
  job.failures++;
  set_error(job, e.outcome == Outcome::timed_out ? Errc::timed_out : e.error, e.error_text);
  if (!final_failure && job.failures <= job.retries && next(job.state, Verb::retry)) {
    job.due_ms = now.wall.ms + std::chrono::duration_cast<std::chrono::milliseconds>(backoff_after(job.failures)).count();
    move_job(slot, Verb::retry);
    return;
  }
  job.result_bytes = e.result_bytes;
  if (!e.result_blobs.empty()) extra_of(job).result_blobs = std::move(e.result_blobs);
  move_job(slot, Verb::fail, e.result);
  if (e.result != 0) commit(ResultStored{job.id, job.attempt, e.result, e.result_bytes}, job.durable);
}

/// Losses are the job's own only when it had started on the executor that crashed. While it was asked to leave, a crash is a
/// plain failure: it must not pass for having yielded.
void Core::State::crash_attempt(Index slot, AttemptEnd& e) {
  Job& job = jobs[slot];
  if (job.state == JobState::yielding) {
    fail_attempt(slot, e, false);
    return;
  }
  if (!is_granted(job.state)) return commit_change(slot, job.state);  // declared lost before: counted then
  job.losses++;
  ++totals.lost;
  set_error(job, e.error, e.error_text);
  if (holds[job.hold].started) job.own_losses++;
  if (job.own_losses >= config.limits.own_losses_max) {
    job.error = Errc::quarantined;
    move_job(slot, Verb::quarantine);
  } else {
    move_job(slot, Verb::lose);
  }
}

void Core::State::on_checkpoint(const CheckpointSaved& e) {
  const Index slot = find_current(e.grant);
  if (slot == kNone || is_terminal(jobs[slot].state)) return;
  if (extra_of(jobs[slot]).checkpoint == e.checkpoint) return;
  extra_of(jobs[slot]).checkpoint = e.checkpoint;
  if (jobs[slot].hold != kNone) holds[jobs[slot].hold].safe_since = lease_now();
  commit_change(slot, jobs[slot].state);
}

void Core::State::on_memory_released(const MemoryReleased& e) {
  const Index slot = find_current(e.grant);
  if (slot == kNone || jobs[slot].state != JobState::yielding || jobs[slot].hold == kNone) return;
  const Index h = jobs[slot].hold;
  if (holds[h].is_model) return;  // a model's memory is its residency's, not the job's
  holds[h].memory_released = true;
  for (const Index device : holds[h].devices)
    if (uncharge(device, [&](const Charge& c) { return c.kind == Charge::Kind::job && c.hold == h; })) refresh_device(device, true);
}

void Core::State::on_payload_missing(const PayloadMissing& e) {
  const Index slot = jobs.find(e.job);
  if (slot == kNone || is_terminal(jobs[slot].state)) return;
  set_error(jobs[slot], Errc::payload_lost, "the store has lost the job's arguments");
  jobs[slot].nonce = 0;
  move_job(slot, Verb::fail);
}

}  // namespace gq::core

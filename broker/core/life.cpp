// life.cpp - the one place where a job changes state. Every change follows kTransitions, and every change is committed.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

void Core::State::move_job(Index slot, Verb verb, Token result) {
  Job& job = jobs[slot];
  const JobState from = job.state;
  const auto to = next(from, verb);
  check(to.has_value(), "a verb that the table of a job's life does not know here");
  auto& counts = totals.by_class_and_state[static_cast<std::size_t>(needs_of(job).job_class)];
  counts[static_cast<std::size_t>(from)]--;
  counts[static_cast<std::size_t>(*to)]++;
  job.state = *to;
  if (from == JobState::ready && !job.held) leave_line(slot);
  if (is_granted(from) && !is_granted(*to)) release_hold(job.hold);
  if (*to == JobState::ready) {
    job.due_ms = 0;
    enqueue(slot);
  } else if (*to == JobState::waiting) {
    arm_waiting(slot);
  } else if (is_terminal(*to)) {
    job.due_ms = 0;
    job.held = false;
    job.ended_ms = now.wall.ms;
    settling.emplace_back(slot, result);
  }
  if (is_granted(from) && !is_terminal(*to) && !is_granted(*to))
    if (const Extra* x = extra(job); x != nullptr && x->deadline.ms != 0)
      arm_wall(x->deadline, TimerKind::deadline, slot, job.seq);
  commit_change(slot, from);
}

void Core::State::commit_change(Index slot, JobState from) {
  Job& job = jobs[slot];
  wrote |= job.durable;
  job.changed = static_cast<std::uint32_t>(batch_of(job));
  out->emplace_back(std::in_place_type<Commit>,
                    Commit{JobChanged{job.id, from, dynamic_of(slot), job.seq, needs_of(job).job_class}, job.durable});
}

/// due_ms says when: for a retry it is measured on the steady clock from here, for a date on the wall clock.
void Core::State::arm_waiting(Index slot) {
  const Job& job = jobs[slot];
  const Extra* x = extra(job);
  if (x != nullptr && x->not_before.ms != 0 && x->not_before.ms == job.due_ms) {
    arm_wall(x->not_before, TimerKind::not_before, slot, job.seq);
    return;
  }
  const auto wait = std::chrono::milliseconds(std::max<std::int64_t>(0, job.due_ms - now.wall.ms));
  arm(lease_now() + std::min<Duration>(wait, config.timing.retry_backoff_max), TimerKind::back_off, slot, job.seq);
}

void Core::State::settle() {
  // A final job may end its children, which are appended: an index, not an iterator.
  for (std::size_t i = 0; i < settling.size(); ++i) settle_one(settling[i].first, settling[i].second);
  settling.clear();
}

void Core::State::settle_one(Index slot, Token result) {
  Job& job = jobs[slot];
  count_unfinished(job.owner, -1);
  totals.queued_bytes -= job.body_bytes;
  if (job.state == JobState::succeeded) ++totals.succeeded;
  if (job.state == JobState::failed || job.state == JobState::quarantined) ++totals.failed;
  if (const Extra* x = extra(job); x != nullptr && !x->unique.empty()) {
    uniques.erase(x->unique);
    commit(UniqueReleased{x->unique});
  }
  notify(slot, result);
  leave_parents(slot);
  settle_children(slot);
  keep_final(slot);
}

void Core::State::settle_children(Index parent) {
  if (jobs[parent].extra == kNone) return;
  std::vector<Entry> children;
  children.swap(extras[jobs[parent].extra].children);
  for (const auto& [seq, child] : children) {
    if (jobs[child].seq != seq || jobs[child].state != JobState::blocked) continue;
    if (jobs[parent].state != JobState::succeeded) {
      fail_child(child, parent);
      continue;
    }
    Extra& x = extra_of(jobs[child]);
    if (--x.parents_left == 0) leave_blocked(child);
  }
}

void Core::State::leave_blocked(Index slot) {
  Job& job = jobs[slot];
  const Extra* x = extra(job);
  if (x != nullptr && x->not_before.ms > now.wall.ms) {
    job.due_ms = x->not_before.ms;
    move_job(slot, Verb::defer);
  } else {
    move_job(slot, Verb::unblock);
  }
}

void Core::State::fail_child(Index child, Index parent) {
  set_error(jobs[child], Errc::dependency_failed,
            "job " + to_string(jobs[parent].id) + ", which it comes after, is " + std::string(to_string(jobs[parent].state)));
  move_job(child, Verb::fail);
}

void Core::State::set_error(Job& job, Errc code, std::string_view text) {
  job.error = code;
  if (job.extra == kNone && text.empty()) return;
  extra_of(job).error_text = std::string(text.substr(0, 300));
}

Extra& Core::State::extra_of(Job& job) {
  if (job.extra == kNone) job.extra = extras.make();
  return extras[job.extra];
}

JobFixed Core::State::fixed_of(Index slot) const {
  const Job& job = jobs[slot];
  JobFixed f;
  f.id = job.id;
  f.seq = job.seq;
  f.submitted = {job.submitted_ms};
  f.digest = job.digest;
  f.needs = needs_of(job);
  f.priority = job.priority;
  f.timeout = job.timeout;
  f.retries = job.retries;
  f.owner = texts[job.owner];
  f.body_bytes = job.body_bytes;
  f.durable = job.durable;
  if (const Extra* x = extra(job)) {
    f.not_before = x->not_before;
    f.deadline = x->deadline;
    f.unique = x->unique;
    f.after = x->after;
    f.blobs = x->blobs;
    f.retry_of = x->retry_of;
    f.label = x->label;
  }
  return f;
}

JobDynamic Core::State::dynamic_of(Index slot) const {
  const Job& job = jobs[slot];
  JobDynamic d;
  d.state = job.state;
  d.attempt = job.attempt;
  d.nonce = job.nonce;
  d.failures = job.failures;
  d.losses = job.losses;
  d.own_losses = job.own_losses;
  d.preemptions = job.preemptions;
  d.worker = texts[job.worker];
  if (job.device != 0) d.devices.push_back(texts[job.device]);
  d.granted = {job.granted_mib};
  d.evictions = job.evictions;
  d.cancel_asked = job.cancel_asked;
  d.held = job.held;
  d.due = {job.due_ms};
  d.started = {job.started_ms};
  d.ended = {job.ended_ms};
  d.model_version = texts[job.model_version];
  d.error = job.error;
  d.result_bytes = job.result_bytes;
  d.fetched = job.fetched;
  if (const Extra* x = extra(job)) {
    for (const Index text : x->more_devices) d.devices.push_back(texts[text]);
    d.checkpoint = x->checkpoint;
    d.error_text = x->error_text;
    d.leave_reason = x->leave_reason;
    d.leave_for = x->leave_for;
    d.result_blobs = x->result_blobs;
  }
  return d;
}

/// What a final job costs to keep: its body and result, and about this much of record in broker and store.
std::uint64_t Core::State::bytes_of(const Job& job) const {
  return kRecordBytes + job.body_bytes + job.result_bytes;
}

}  // namespace gq::core

// update.cpp - `gpuq update`: what may be changed about a job that is not final, and what follows for its place in line.
//
// A job is revised as if it had been submitted so: its form is checked by the same rules, its submit order and digest stay. What
// says where or when it starts can only change while it holds no grant: the worker has been told, and would not hear of it.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

namespace {

CommandOutcome refused(Error error) { return {false, std::move(error), {}}; }

/// Whether one of those is asked for that a granted job keeps.
const char* fixed_by_the_grant(const JobUpdate& u) {
  if (u.job_class) return "its class";
  if (u.budget) return "its device memory";
  if (u.where) return "its labels";
  if (u.on_preempt) return "what it does when asked to leave";
  if (u.not_before) return "its start date";
  if (u.timeout) return "its timeout";
  return nullptr;
}

JobFixed revised(JobFixed f, const JobUpdate& u) {
  if (u.priority) f.priority = *u.priority;
  if (u.deadline) f.deadline = *u.deadline;
  if (u.not_before) f.not_before = *u.not_before;
  if (u.timeout) f.timeout = *u.timeout;
  if (u.retries) f.retries = *u.retries;
  if (u.job_class) f.needs.job_class = *u.job_class;
  if (u.budget) {
    f.needs.budget_min = u.budget->first;
    f.needs.budget_max = u.budget->second;
  }
  if (u.on_preempt) f.needs.on_preempt = *u.on_preempt;
  if (u.where) {
    f.needs.where = *u.where;
    std::sort(f.needs.where.begin(), f.needs.where.end());
  }
  return f;
}

}  // namespace

void Core::State::on_update(UpdateReceived& e) {
  CommandAnswer answer{e.peer, e.request, {}};
  const Index slot = jobs.find(e.job);
  answer.items.push_back(slot == kNone ? refused({Errc::not_found, "job " + to_string(e.job) + " is not known", "gpuq list"}) : update_one(e, slot));
  send(std::move(answer));
}

CommandOutcome Core::State::update_one(const UpdateReceived& e, Index slot) {
  const Job& job = jobs[slot];
  const std::string name = "job " + to_string(job.id);
  if (!in_scope(slot, e.scope)) return refused(out_of_scope(slot, e.scope));
  if (is_terminal(job.state)) return refused({Errc::refused, name + " is " + std::string(to_string(job.state)), "gpuq retry " + to_string(job.id) + " makes a new one of it"});
  const JobFixed before = fixed_of(slot);
  const JobFixed f = revised(before, e.update);
  if (f == before) return {true, {}, "is so already"};
  if (const char* kept = fixed_by_the_grant(e.update); kept != nullptr && is_granted(job.state))
    return refused({Errc::refused, name + " runs: " + kept + " stays as it is until it has left",
                    "gpuq hold " + to_string(job.id) + " and gpuq preempt " + to_string(job.id) + ", then update and release it"});
  if (auto error = refuse_form(f)) return refused(std::move(*error));
  if (e.update.deadline && f.deadline.ms != 0 && f.deadline.ms <= now.wall.ms)
    return refused({Errc::bad_message, "that deadline has passed", "gpuq cancel " + to_string(job.id)});
  if (f.needs.job_class != before.needs.job_class)
    if (auto error = refuse_class_full(f.needs.job_class)) return refused(std::move(*error));
  revise(slot, f);
  std::string text = "is updated";
  if (is_granted(jobs[slot].state)) text += "; it runs, so this counts from its next start on";
  else if (jobs[slot].state == JobState::waiting) text += "; it waits for its date";
  return {true, {}, std::move(text)};
}

void Core::State::revise(Index slot, const JobFixed& f) {
  Job& job = jobs[slot];
  const bool stands = job.state == JobState::ready && !job.held;
  const bool new_class = f.needs.job_class != needs_of(job).job_class;
  const bool new_date = f.not_before.ms != (extra(job) == nullptr ? 0 : extra(job)->not_before.ms);
  const bool new_deadline = f.deadline.ms != (extra(job) == nullptr ? 0 : extra(job)->deadline.ms);
  drop_entry(slot);
  if (stands) leave_line(slot);
  if (new_class) {
    totals.by_class_and_state[static_cast<std::size_t>(needs_of(job).job_class)][static_cast<std::size_t>(job.state)]--;
    totals.by_class_and_state[static_cast<std::size_t>(f.needs.job_class)][static_cast<std::size_t>(job.state)]++;
  }
  if (!(f.needs == needs_of(job))) {
    const Index to = shape_for(f.needs, shapes[job.shape].suspect, job.owner);
    shapes[to].refs++;
    release_shape(job.shape);
    job.shape = to;
  }
  job.priority = f.priority;
  job.timeout = f.timeout;
  job.retries = f.retries;
  if (new_date || new_deadline) {
    Extra& x = extra_of(job);
    x.not_before = f.not_before;
    x.deadline = f.deadline;
  }
  commit(JobRevised{f}, job.durable);
  job.changed = static_cast<std::uint32_t>(batch_of(job));
  if (stands) enqueue(slot);
  if (new_deadline && f.deadline.ms != 0) arm_wall(f.deadline, TimerKind::deadline, slot, job.seq);

  const bool later = f.not_before.ms > now.wall.ms;
  if (new_date && later && (job.state == JobState::ready || job.state == JobState::waiting)) {
    job.due_ms = f.not_before.ms;
    if (job.state == JobState::ready) return move_job(slot, Verb::defer);
    arm_waiting(slot);
    return commit_change(slot, job.state);
  }
  if (new_date && !later && job.state == JobState::waiting) return move_job(slot, Verb::come_due);
  if (new_class) commit_change(slot, job.state);   // the store keeps ready jobs by class
}

}  // namespace gq::core

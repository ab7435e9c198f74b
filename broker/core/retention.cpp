// retention.cpp - how long final jobs are remembered.
//
// By bytes: fetched ones go first, the oldest fetch first; unfetched ones are never dropped for room, new submits are refused
// instead (QUEUE_FULL). By age: a fetched job is forgotten; an unfetched one loses its result (RESULT_EXPIRED), its record stays as
// long again. An id is remembered at least an hour after the end: a tombstone takes over when the record goes earlier.
// A job that unfinished ones come after is kept for them, whatever its age and the room: they will want its result.
// What is kept in memory only is for callers that wait: it goes as soon as it is fetched, or a minute after its end, and leaves nothing.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

void Core::State::keep_final(Index slot) {
  const Job& job = jobs[slot];
  totals.final_bytes += bytes_of(job);
  if (!job.durable) {
    totals.undurable_bytes += job.result_bytes;
    brief.push_back({job.seq, slot});
    return;
  }
  (job.result_expired ? expired : finals).push_back({job.seq, slot});
  if (job.fetched) fetched.push_back({job.seq, slot});
}

bool Core::State::is_entry(const Entry& entry) const { return jobs[entry.job].seq == entry.seq; }

void Core::State::on_fetched(const FetchedReceived& e) {
  for (const JobId& id : e.jobs) {
    const Index slot = jobs.find(id);
    if (slot == kNone || !is_terminal(jobs[slot].state) || jobs[slot].fetched || !in_scope(slot, e.scope)) continue;
    if (!jobs[slot].durable) {
      forget(slot);
      continue;
    }
    jobs[slot].fetched = true;
    commit_change(slot, jobs[slot].state);
    fetched.push_back({jobs[slot].seq, slot});
  }
}

void Core::State::retain() {
  while (totals.final_bytes > config.final_bytes_max && !fetched.empty()) {
    const Entry entry = fetched.front();
    fetched.pop_front();
    if (is_entry(entry) && !kept_for_heirs(entry.job)) forget(entry.job);
  }
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(config.timing.result_retention).count();
  while (!finals.empty()) {
    const Entry entry = finals.front();
    if (is_entry(entry) && jobs[entry.job].ended_ms + age > now.wall.ms) break;
    finals.pop_front();
    if (!is_entry(entry) || kept_for_heirs(entry.job)) continue;
    if (jobs[entry.job].fetched) forget(entry.job);
    else expire_result(entry.job);
  }
  const auto soon = std::chrono::duration_cast<std::chrono::milliseconds>(config.timing.undurable_retention).count();
  while (!brief.empty()) {
    const Entry entry = brief.front();
    if (is_entry(entry) && jobs[entry.job].ended_ms + soon > now.wall.ms) break;
    brief.pop_front();
    if (is_entry(entry)) forget(entry.job);
  }
  while (!expired.empty()) {
    const Entry entry = expired.front();
    if (is_entry(entry) && jobs[entry.job].ended_ms + 2 * age > now.wall.ms) break;
    expired.pop_front();
    if (is_entry(entry)) forget(entry.job);
  }
  while (!fetched.empty() && !is_entry(fetched.front())) fetched.pop_front();
  while (!tombstone_ends.empty() && tombstone_ends.front().until_ms <= now.wall.ms) {
    const JobId id = tombstone_ends.front().id;
    tombstone_ends.pop_front();
    if (tombstones.erase(id)) commit(TombstoneDropped{id});
  }
}

/// True: it leaves the lists by which it would be dropped, and comes back when the last heir has ended.
bool Core::State::kept_for_heirs(Index slot) {
  const Extra* x = extra(jobs[slot]);
  if (x == nullptr || x->heirs == 0) return false;
  jobs[slot].kept_for_heirs = true;
  return true;
}

/// A job has ended: those it came after need not wait for it any more.
void Core::State::leave_parents(Index slot) {
  const Extra* own = extra(jobs[slot]);
  if (own == nullptr) return;
  for (const JobId& id : own->after) {
    const Index parent = jobs.find(id);
    if (parent == kNone || jobs[parent].extra == kNone) continue;
    Extra& x = extras[jobs[parent].extra];
    if (x.heirs == 0 || --x.heirs != 0 || !jobs[parent].kept_for_heirs) continue;
    jobs[parent].kept_for_heirs = false;
    const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(config.timing.result_retention).count();
    if (jobs[parent].ended_ms + age <= now.wall.ms) finals.push_front({jobs[parent].seq, parent});   // else it still stands there
    if (jobs[parent].fetched) fetched.push_front({jobs[parent].seq, parent});
  }
}

void Core::State::expire_result(Index slot) {
  Job& job = jobs[slot];
  expired.push_back({job.seq, slot});
  job.result_expired = true;
  const bool had_blobs = job.extra != kNone && !extras[job.extra].result_blobs.empty();
  if (job.result_bytes == 0 && !had_blobs) return;
  totals.final_bytes -= job.result_bytes;
  job.result_bytes = 0;
  if (had_blobs) extras[job.extra].result_blobs.clear();
  if (job.state == JobState::succeeded)   // of others it is worth more to know why they failed
    set_error(job, Errc::result_expired, "nobody fetched the result before it was dropped by age");
  commit_change(slot, job.state);
  commit(ResultDropped{job.id});
}

void Core::State::forget(Index slot) {
  Job& job = jobs[slot];
  const auto tombstone = std::chrono::duration_cast<std::chrono::milliseconds>(config.timing.tombstone).count();
  const bool leaves_tombstone = job.durable && job.ended_ms + tombstone > now.wall.ms;
  commit(JobForgotten{job.id, job.state, leaves_tombstone, job.digest, {job.ended_ms}}, job.durable);
  if (leaves_tombstone) {
    tombstones.put(job.id, {job.digest, job.ended_ms});
    tombstone_ends.push_back({job.ended_ms + tombstone, job.id});
  }
  totals.final_bytes -= bytes_of(job);
  if (!job.durable) totals.undurable_bytes -= bytes_of(job);
  totals.by_class_and_state[static_cast<std::size_t>(needs_of(job).job_class)][static_cast<std::size_t>(job.state)]--;
  if (job.extra != kNone) extras.drop(job.extra);
  const Index shape = job.shape;
  jobs.drop(slot);
  release_shape(shape);
}

std::optional<std::int64_t> Core::State::next_retention_ms() const {
  const auto age = std::chrono::duration_cast<std::chrono::milliseconds>(config.timing.result_retention).count();
  std::optional<std::int64_t> at;
  const auto sooner = [&](std::int64_t ms) { at = at ? std::min(*at, ms) : ms; };
  if (!finals.empty()) sooner(is_entry(finals.front()) ? jobs[finals.front().job].ended_ms + age : now.wall.ms);
  if (!expired.empty()) sooner(is_entry(expired.front()) ? jobs[expired.front().job].ended_ms + 2 * age : now.wall.ms);
  const auto soon = std::chrono::duration_cast<std::chrono::milliseconds>(config.timing.undurable_retention).count();
  if (!brief.empty()) sooner(is_entry(brief.front()) ? jobs[brief.front().job].ended_ms + soon : now.wall.ms);
  if (!tombstone_ends.empty()) sooner(tombstone_ends.front().until_ms);
  return at;
}

}  // namespace gq::core

// history.cpp - see history.h.
#include "tests/checker/history.h"

#include <algorithm>

namespace gq::checker {

void History::attempted(JobNumber number) {
  Job& j = job(number);
  if (!j.attempted) ++counts_.attempted;
  j.attempted = true;
}
void History::acknowledged(JobNumber number) {
  Job& j = job(number);
  if (!j.attempted) findings_.violation("unexpected", number, "acknowledged a job that nobody submitted");
  if (!j.acknowledged) ++counts_.acknowledged;
  j.acknowledged = true;
}
void History::told_cancelled(JobNumber number) { job(number).cancelled = true; }

void History::noticed(JobNumber number, const core::JobDynamic& now) {
  Job& j = job(number);
  if (!is_terminal(now.state)) findings_.violation("notices", number, "a notice of a job that is not final");
  if (j.noticed && (j.notice != now.state || j.notice_attempt != now.attempt))
    findings_.violation("notices", number, "two notices that contradict each other");
  if (!j.noticed) ++counts_.noticed;
  j.noticed = true;
  j.notice = now.state;
  j.notice_attempt = now.attempt;
}

void History::granted(const core::Grant& grant, std::uint32_t worker) {
  const JobNumber number = numbers_.number(grant.job);
  if (number == kNoJob) return findings_.violation("unexpected", number, "assigned a job that nobody submitted");
  Job& j = job(number);
  findings_.note(Note::assign_left, number, worker, grant.attempt);
  ++counts_.grants;
  if (grant.attempt <= j.granted) findings_.violation("attempts only grow", number, "attempt " + std::to_string(grant.attempt) + " was granted twice");
  j.granted = grant.attempt;
  j.nonce = grant.nonce;
}

void History::started(const core::Grant& grant, std::uint32_t worker) {
  const JobNumber number = numbers_.number(grant.job);
  if (number == kNoJob) return;
  Job& j = job(number);
  findings_.note(Note::started, number, worker, grant.attempt);
  ++counts_.starts;
  if (grant.attempt == 0 || grant.attempt > j.granted)
    return findings_.violation("starts", number, "attempt " + std::to_string(grant.attempt) + " started, but was never granted");
  if (grant.attempt == j.granted && grant.nonce != j.nonce) findings_.violation("starts", number, "started with a nonce that was never granted");
  const std::uint64_t bit = 1ULL << ((grant.attempt - 1) & 63U);
  if (grant.attempt <= 64 && (j.started & bit)) findings_.violation("starts", number, "attempt " + std::to_string(grant.attempt) + " started twice");
  j.started |= bit;
}

void History::verdict(const core::Grant& grant, core::EndVerdict verdict, Outcome outcome) {
  const JobNumber number = numbers_.number(grant.job);
  if (number == kNoJob) return;
  findings_.note(Note::verdict, number, static_cast<std::uint32_t>(verdict), grant.attempt);
  if (verdict == core::EndVerdict::stale) ++counts_.stale;
  if (verdict == core::EndVerdict::gone) ++counts_.gone;
  if (verdict != core::EndVerdict::accepted) return;
  ++counts_.accepted;
  if (outcome != Outcome::succeeded) return;
  Job& j = job(number);
  if (j.accepted != 0 && j.accepted != grant.attempt)
    findings_.violation("single accept", number, "results of attempts " + std::to_string(j.accepted) + " and " + std::to_string(grant.attempt) + " were accepted");
  j.accepted = grant.attempt;
}

void History::device(std::uint32_t index, Mib capacity) {
  if (index >= devices_.size()) devices_.resize(index + 1);
  devices_[index].capacity = capacity;
}
void History::charge(std::uint32_t index, JobNumber number, Mib size, const std::function<std::string()>& who_else) {
  Device& d = devices_[index];
  d.held += size;
  if (d.held > d.capacity)
    findings_.violation("overlap", number, "device " + std::to_string(index) + " holds " + std::to_string(d.held.value) + " MiB of " + std::to_string(d.capacity.value) + (who_else ? who_else() : ""));
}
void History::release(std::uint32_t index, JobNumber number, Mib size) {
  Device& d = devices_[index];
  d.held -= size;
  if (d.held < Mib{0}) findings_.violation("overlap", number, "released more than was held");
}
void History::excuse(std::uint32_t index, Mib size) {
  devices_[index].held -= size;
  devices_[index].excused += size;
}
void History::excused_gone(std::uint32_t index, Mib size) { devices_[index].excused -= size; }

void History::over_credit(std::uint32_t worker, JobNumber number, std::uint64_t used, std::uint64_t limit) {
  findings_.violation("credit", number, "worker " + std::to_string(worker) + " got start " + std::to_string(used) + " on a lane whose limit is " + std::to_string(limit));
}

void History::finish(const StoreFold& store, std::uint32_t jobs, bool drained) {
  for (JobNumber number = 0; number < jobs; ++number) {
    const Job& j = job(number);
    const core::JobRecord* record = store.find(number);
    const auto presence = store.presence(number);
    if (presence != StoreFold::Presence::never && !j.attempted) findings_.violation("unexpected", number, "in the store, never submitted");
    if (j.acknowledged && presence == StoreFold::Presence::never)
      findings_.violation("lost", number, "acknowledged, and the store has never held it");
    if (!record) continue;
    const core::JobDynamic& d = record->dynamic;
    if (is_terminal(d.state)) ++counts_.final;
    else if (drained) findings_.violation(j.acknowledged ? "lost" : "liveness", number, "still " + std::string(gq::to_string(d.state)) + " after heal and drain");
    if (j.noticed && (j.notice != d.state || j.notice_attempt != d.attempt))
      findings_.violation("notices", number, "its client was told " + std::string(gq::to_string(j.notice)) + ", the store holds " + std::string(gq::to_string(d.state)));
    if (j.cancelled && d.state != JobState::cancelled)
      findings_.violation("cancel", number, "answered cancelled, ended " + std::string(gq::to_string(d.state)));
    if (d.state == JobState::succeeded && (j.accepted != 0 && j.accepted != d.attempt))
      findings_.violation("highest attempt", number, "accepted attempt " + std::to_string(j.accepted) + ", the newest was " + std::to_string(d.attempt));
    if (d.state == JobState::succeeded && d.result_bytes > 0 && !d.fetched && store.result(number) == 0)
      findings_.violation("lost", number, "succeeded, never fetched, and its result is not in the store");
  }
}

}  // namespace gq::checker

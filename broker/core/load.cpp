// load.cpp - rebuild everything from what the store kept.
//
// Running jobs keep their grants: their worker is known by name, not connected, and its HELLO says what still runs there.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

void Core::State::load(const Image& image) {
  for (const ModelRecord& record : image.models) {
    const Index version = version_for(record.name + "@" + record.version);
    versions[version].registered = true;
    versions[version].record = record;
    if (record.promoted && record.promoted_at.ms == 0) versions[version].record.promoted_at = std::max(record.pushed, WallTime{1});   // from before this was kept: a push promoted
    if (record.promoted) promoted[record.name] = version;
  }
  ++models_epoch;

  for (const OperatorSetting& setting : image.settings) settings[{setting.kind, setting.target}] = setting;
  apply_settings();
  if (std::any_of(image.settings.begin(), image.settings.end(), [](const OperatorSetting& s) { return s.deadline.ms != 0; }))
    arm_wall(now.wall, TimerKind::drain, kNone, 0);

  std::vector<const JobRecord*> order;
  order.reserve(image.jobs.size());
  for (const JobRecord& record : image.jobs) order.push_back(&record);
  std::sort(order.begin(), order.end(), [](const JobRecord* a, const JobRecord* b) { return a->fixed.seq < b->fixed.seq; });
  std::vector<Index> finals_found, heirs;
  for (const JobRecord* record : order) {
    const JobFixed& f = record->fixed;
    const JobDynamic& d = record->dynamic;
    if (jobs.find(f.id) != kNone || f.needs.kind >= kKinds.size() || f.priority >= kPriorities || f.seq == 0) continue;
    const Index slot = remember(f);
    Job& job = jobs[slot];
    last_seq = std::max(last_seq, f.seq);
    last_submitted_ms = std::max(last_submitted_ms, f.submitted.ms);
    job.state = d.state;
    job.attempt = d.attempt;
    job.nonce = d.nonce;
    job.failures = d.failures;
    job.losses = d.losses;
    job.own_losses = d.own_losses;
    job.preemptions = d.preemptions;
    job.worker = texts.intern(d.worker);
    job.device = d.devices.empty() ? 0 : texts.intern(d.devices.front());
    for (std::size_t i = 1; i < d.devices.size(); ++i) extra_of(job).more_devices.push_back(texts.intern(d.devices[i]));
    job.granted_mib = d.granted.value;
    job.evictions = static_cast<std::uint16_t>(std::min<std::uint32_t>(d.evictions, UINT16_MAX));
    job.cancel_asked = d.cancel_asked;
    job.held = d.held;
    job.due_ms = d.due.ms;
    job.started_ms = d.started.ms;
    job.ended_ms = d.ended.ms;
    job.model_version = texts.intern(d.model_version);
    job.error = d.error;
    job.result_bytes = d.result_bytes;
    job.fetched = d.fetched;
    job.result_expired = d.error == Errc::result_expired;
    if (!(d.checkpoint == Checkpoint{})) extra_of(job).checkpoint = d.checkpoint;
    if (!d.error_text.empty()) extra_of(job).error_text = d.error_text;
    if (!d.leave_reason.empty()) {
      extra_of(job).leave_reason = d.leave_reason;
      extra_of(job).leave_for = d.leave_for;
    }
    if (!d.result_blobs.empty()) extra_of(job).result_blobs = d.result_blobs;

    totals.by_class_and_state[static_cast<std::size_t>(f.needs.job_class)][static_cast<std::size_t>(d.state)]++;
    if (is_terminal(d.state)) {
      finals_found.push_back(slot);
      continue;
    }
    count_unfinished(jobs[slot].owner, 1);
    totals.queued_bytes += job.body_bytes;
    if (!f.unique.empty()) uniques.emplace(f.unique, slot);
    if (!f.after.empty()) heirs.push_back(slot);
    if (f.deadline.ms != 0) arm_wall(f.deadline, TimerKind::deadline, slot, job.seq);
    if (d.state == JobState::ready) enqueue(slot);
    if (d.state == JobState::waiting) arm_waiting(slot);
    if (d.state == JobState::blocked) amends.push_back(slot);
    if (is_granted(d.state)) {
      const Index worker = worker_for(d.worker);
      workers[worker].last_beat = lease_now();
      workers[worker].link_gone = lease_now();
      recharge(hold_again(worker, slot));
      ask_again(job.hold);
      watch_worker(worker);
    }
  }

  for (const Index slot : heirs)
    for (const JobId& id : std::vector<JobId>(extra_of(jobs[slot]).after))   // a copy: a parent may need an Extra of its own
      if (const Index parent = jobs.find(id); parent != kNone) ++extra_of(jobs[parent]).heirs;

  follow_tenants();
  rekey_all();

  std::sort(finals_found.begin(), finals_found.end(), [&](Index a, Index b) {
    return std::pair(jobs[a].ended_ms, jobs[a].seq) < std::pair(jobs[b].ended_ms, jobs[b].seq);
  });
  for (const Index slot : finals_found) keep_final(slot);
  const auto keep = std::chrono::duration_cast<std::chrono::milliseconds>(config.timing.tombstone).count();
  for (const Image::Tombstone& t : image.tombstones) {
    tombstones.put(t.id, {t.digest, t.ended.ms});
    tombstone_ends.push_back({t.ended.ms + keep, t.id});
  }
  std::sort(tombstone_ends.begin(), tombstone_ends.end(), [](const TombstoneEntry& a, const TombstoneEntry& b) {
    return a.until_ms != b.until_ms ? a.until_ms < b.until_ms : a.id < b.id;
  });

  for (const Index slot : amends) {
    Extra& x = extra_of(jobs[slot]);
    for (const JobId& id : x.after) {
      const Index parent = jobs.find(id);
      if (parent != kNone && jobs[parent].state == JobState::succeeded) continue;
      ++x.parents_left;
      if (parent != kNone && !is_terminal(jobs[parent].state)) extra_of(jobs[parent]).children.push_back({jobs[slot].seq, slot});
    }
  }
}

/// Before the first step acts: a blocked job whose parents were settled while its own change did not get into the store.
void Core::State::amend() {
  for (const Index slot : amends) {
    if (jobs[slot].state != JobState::blocked) continue;
    const Extra& x = extra_of(jobs[slot]);
    if (x.parents_left == 0) {
      leave_blocked(slot);
      continue;
    }
    for (const JobId& id : x.after) {
      const Index parent = jobs.find(id);
      if (parent != kNone && (!is_terminal(jobs[parent].state) || jobs[parent].state == JobState::succeeded)) continue;
      set_error(jobs[slot], Errc::dependency_failed, "job " + to_string(id) + ", which it comes after, did not succeed");
      move_job(slot, Verb::fail);
      break;
    }
  }
  amends.clear();
}

}  // namespace gq::core

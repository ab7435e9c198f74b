// workers.cpp - what workers say about themselves, and how broker and worker reconcile both ways.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

Index Core::State::worker_at(PeerId peer) const {
  const Index* index = peers.find(peer.value + 1);
  return index == nullptr ? kNone : *index;
}

void Core::State::on_hello(WorkerHello& e) {
  const auto reject = [&](Errc code, std::string what, std::string next) {
    send_now(WorkerRejected{e.peer, Error{code, std::move(what), std::move(next)}});
  };
  if (e.worker.empty() || e.worker.size() > config.limits.name_chars_max)
    return reject(Errc::bad_message, "the worker's name is empty or too long", "name the worker with 1 to 64 characters");
  if (workers.live() >= config.limits.workers_max && !worker_of.contains(texts.find(e.worker)))
    return reject(Errc::over_limit, "too many workers", "remove workers, or split the fleet into namespaces");
  const Index index = worker_for(e.worker);
  Worker& worker = workers[index];
  const bool same_link = worker_at(e.peer) == index;
  if (const Index other = worker_at(e.peer); other != kNone && other != index) {
    workers[other].connected = false;
    peers.erase(e.peer.value + 1);
    refresh_worker(other, false);
  }
  if (!same_link && worker_at(worker.peer) == index) {
    send_now(WorkerRejected{worker.peer, Error{Errc::refused, "a newer connection speaks for worker " + e.worker,
                                               "give each worker process a name of its own"}});
    peers.erase(worker.peer.value + 1);
  }
  const std::uint64_t judged_to = same_link && worker.instance == e.instance ? worker.processed : UINT64_MAX;

  drop_worker_charges(index);
  while (!worker.lanes.empty()) close_lane(worker.lanes.back());
  unlist_devices(index);
  if (!same_link) {
    worker.last_number = worker.processed = 0;
    for (const Index h : worker.holds) holds[h].number = 0;
    peers.put(e.peer.value + 1, index);
  }
  worker.peer = e.peer;
  worker.connected = true;
  worker.silent = worker.lost = false;
  worker.instance = e.instance;
  worker.host = std::move(e.host);
  worker.version = std::move(e.version);
  worker.kinds = 0;
  for (const KindIndex kind : e.kinds)
    if (kind < kKinds.size()) worker.kinds |= 1U << kind;
  std::sort(e.labels.begin(), e.labels.end());
  worker.labels = std::move(e.labels);
  worker.rented = std::any_of(worker.labels.begin(), worker.labels.end(), [](const std::string& l) { return l.starts_with("cloud="); });
  worker.group = group_for(worker.kinds, worker.labels);
  worker.last_beat = lease_now();

  list_devices(index, e.devices);
  for (const LaneDeclared& lane : e.lanes) open_lane(index, lane);
  for (const LaneCredit& credit : e.credit) set_credit(index, credit);

  WorkerWelcome welcome{e.peer, {}, worker.last_number};
  reconcile(index, e.running, judged_to, welcome.revoke);
  for (const Index h : worker.holds) recharge(h);
  send(std::move(welcome));
  for (const Index h : worker.holds) {
    Hold& hold = holds[h];
    if (!same_link) ask_again(h);
    if (!jobs[hold.job].cancel_asked || same_link) continue;
    hold.cancel_number = ++worker.last_number;
    send(Cancel{worker.peer, hold.cancel_number, grant_of(hold.job), "asked"});
  }
  refresh_worker(index, true);
  watch_worker(index);
  if (!settings.empty()) (void)enforce_drains();  // it may hold what is to have left by now
}

void Core::State::on_pulled(WorkerPulled& e) {
  const Index index = worker_at(e.peer);
  if (index == kNone) return;
  for (const std::uint16_t id : e.closed)
    if (const Index lane = lane_of(index, id); lane != kNone) close_lane(lane);
  for (const LaneDeclared& lane : e.opened) open_lane(index, lane);
  for (const LaneCredit& credit : e.credit) set_credit(index, credit);
}

void Core::State::on_beat(WorkerBeat& e) {
  const Index index = worker_at(e.peer);
  if (index == kNone) {
    send_now(WorkerRejected{e.peer, Error{Errc::unavailable, "this broker does not know the connection", "say HELLO again"}});
    return;
  }
  Worker& worker = workers[index];
  worker.last_beat = lease_now();
  worker.processed = std::max(worker.processed, std::min(e.last_number, worker.last_number));
  if (!worker.usable()) {
    worker.connected = true;
    worker.silent = worker.lost = false;
    refresh_worker(index, true);
  }
  watch_worker(index);
  for (DeviceReport& report : e.devices) {
    const Index text = texts.find(report.uuid);
    const auto it = text == kNone ? device_of.end() : device_of.find(text);
    if (it == device_of.end()) continue;
    auto& reporters = devices[it->second].reporters;
    const auto mine = std::find_if(reporters.begin(), reporters.end(), [&](const Reporter& r) { return r.worker == index; });
    if (mine == reporters.end()) continue;
    mine->report = std::move(report);
    std::rotate(mine, mine + 1, reporters.end());  // the newest report stands last
    measure(it->second, true);
  }

  BeatAnswer answer{e.peer, {}, {}, {}, {}};
  reconcile(index, e.running, worker.processed, answer.revoke);
  if (worker.lingering != 0 || worker.ghosts != 0) {
    std::vector<Index> gone;
    for (const Index device : worker.devices) {
      const bool room = uncharge(device, [&](const Charge& c) {
        if (c.worker != index) return false;
        if (c.kind == Charge::Kind::model && c.lingers) {
          versions[c.version].loading--;
          gone.push_back(c.version);
          return true;
        }
        return c.kind == Charge::Kind::ghost && std::find(e.running.begin(), e.running.end(), c.grant) == e.running.end();
      });
      if (room) refresh_device(device, true);
    }
    for (const Index version : gone) wake_version(version);
    worker.lingering = 0;
    worker.ghosts = 0;
    for (const Index device : worker.devices)
      for (const Charge& c : devices[device].charges)
        if (c.worker == index && c.kind == Charge::Kind::ghost) worker.ghosts++;
  }
  repeat_intents(index, answer);
  send_now(std::move(answer));
}

/// Both ways: what it holds and should not goes into `revoke`; what it should hold and does not is not running anywhere. Only
/// assignments up to `judged_to` are judged: a later one may still be on its way.
void Core::State::reconcile(Index index, const std::vector<Grant>& running, std::uint64_t judged_to, std::vector<Grant>& revoke) {
  const std::uint64_t stamp = ++reconciliation;
  const auto revoke_unless_new = [&](const Grant& grant) {
    const Index any = jobs.find(grant.job);
    if (judged_to == UINT64_MAX || any == kNone || is_durable(jobs[any])) revoke.push_back(grant);
  };
  std::vector<Grant> found;  // thought lost, and alive
  for (const Grant& grant : running) {
    const Index slot = find_current(grant);
    if (slot != kNone && jobs[slot].hold != kNone && holds[jobs[slot].hold].worker == index) {
      mark_started(jobs[slot].hold);
      holds[jobs[slot].hold].seen = stamp;
    } else if (slot != kNone && jobs[slot].state == JobState::ready && jobs[slot].ended_ms == 0) {
      found.push_back(grant);
    } else {
      revoke_unless_new(grant);
    }
  }
  std::vector<Index> missing;
  for (const Index h : workers[index].holds)
    if (holds[h].seen != stamp && holds[h].number <= judged_to && (holds[h].committed || judged_to == UINT64_MAX))
      missing.push_back(holds[h].job);
  std::sort(missing.begin(), missing.end(), [&](Index a, Index b) { return jobs[a].seq < jobs[b].seq; });
  for (const Index slot : missing) {
    if (holds[jobs[slot].hold].started) lose_attempt(slot, "it no longer holds the job");
    else return_offer(slot);
  }
  // What was found gets what the kept ones leave.
  for (const Index h : workers[index].holds) recharge(h);
  for (const Grant& grant : found) {
    const Index slot = find_current(grant);
    if (slot != kNone && jobs[slot].state == JobState::ready && adopt(index, slot)) holds[jobs[slot].hold].seen = stamp;
    else if (slot == kNone || jobs[slot].hold == kNone || holds[jobs[slot].hold].seen != stamp) revoke_unless_new(grant);
  }
}

/// A grant that was declared lost but lives, and nobody else was granted since: it goes on as the same attempt, unless its
/// memory has been promised to others meanwhile.
bool Core::State::adopt(Index worker, Index slot) {
  const Job& job = jobs[slot];
  const bool is_model = kKinds[needs_of(job).kind].uses_model;
  const Index version = is_model ? version_of_grant(slot) : kNone;
  if (!tenant_may_start(tenant_for(job.owner))) return false;
  for (const Index device : devices_of(slot)) {
    const std::int64_t size = is_model ? load_of(worker, device, version, job).value : job.granted_mib;
    if (size > 0 && devices[device].free() < size) return false;
  }
  const Index h = hold_again(worker, slot);
  jobs[slot].worker = workers[worker].name;
  recharge(h);
  count_use(holds[h], true);
  move_job(slot, Verb::dispatch);
  mark_started(h);
  leave_for_window(slot);
  return true;
}

Index Core::State::version_of_grant(Index slot) {
  const std::string& model = needs_of(jobs[slot]).model;
  return version_for(model.substr(0, model.find('@')) + "@" + texts[jobs[slot].model_version]);
}

/// What this attempt's model takes there; 0 = it is charged already.
Mib Core::State::load_of(Index worker, Index device, Index version, const Job& job) const {
  const auto& charges = devices[device].charges;
  const bool there = std::any_of(charges.begin(), charges.end(), [&](const Charge& c) {
    return c.kind == Charge::Kind::model && c.version == version && c.worker == worker;
  });
  return there ? Mib{} : job.granted_mib > 0 ? Mib{job.granted_mib} : model_size(version, device);
}

Index Core::State::hold_again(Index worker, Index slot) {
  Job& job = jobs[slot];
  const Shape& shape = shapes[job.shape];
  const Index h = holds.make();
  Hold& hold = holds[h];
  hold.job = slot;
  hold.worker = worker;
  hold.at = static_cast<Index>(workers[worker].holds.size());
  workers[worker].holds.push_back(h);
  hold.nonce = job.nonce;
  hold.committed = true;
  hold.since = lease_now();
  hold.run_since = hold.safe_since = lease_now() - std::clamp<Duration>(std::chrono::milliseconds(now.wall.ms - job.started_ms), Duration{0}, std::chrono::hours{24});
  hold.granted = {job.granted_mib};
  hold.is_model = kKinds[shape.needs.kind].uses_model;
  hold.is_suspect = shape.suspect;
  if (hold.is_model) hold.version = version_of_grant(slot);
  job.hold = h;
  return h;
}

/// The devices of the newest grant, as the record names them; whether a worker reports them now is another matter.
std::vector<Index> Core::State::devices_of(Index slot) {
  std::vector<Index> all;
  if (jobs[slot].device != 0) all.push_back(device_for(jobs[slot].device));
  if (const Extra* x = extra(jobs[slot]))
    for (const Index text : x->more_devices) all.push_back(device_for(text));
  return all;
}

/// Charge what a kept grant holds: also while no worker reports the device, so that nobody else is promised that memory.
void Core::State::recharge(Index h) {
  Hold& hold = holds[h];
  if (hold.charged) return;
  hold.devices = devices_of(hold.job);
  Mib loads;
  if (hold.is_model && !hold.devices.empty()) loads = load_of(hold.worker, hold.devices.front(), hold.version, jobs[hold.job]);
  charge_hold(h, loads);
}

/// SendNow may not betray what is not durable yet.
bool Core::State::is_durable(const Job& job) const {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(committed) - job.changed) >= 0;
}

void Core::State::repeat_intents(Index index, BeatAnswer& answer) const {
  const Worker& worker = workers[index];
  for (const Index h : worker.holds) {
    const Hold& hold = holds[h];
    if (hold.intent_batch > committed) continue;
    if (hold.cancel_number != 0) answer.cancels.push_back({worker.peer, hold.cancel_number, grant_of(hold.job), "asked"});
    if (hold.preempt_number != 0 && jobs[hold.job].state == JobState::yielding)
      answer.preempts.push_back({worker.peer, hold.preempt_number, grant_of(hold.job), hold.preempt_reason, hold.preempt_deadline});
  }
  repeat_evictions(index, answer);
}

void Core::State::on_goodbye(const WorkerGoodbye& e) {
  const Index index = worker_at(e.peer);
  if (index == kNone) return;
  std::vector<Grant> nothing;
  reconcile(index, {}, UINT64_MAX, nothing);
  disconnect(index);
  workers[index].lost = true;
}

/// It is out: its places close, and nothing of it is charged any more.
void Core::State::disconnect(Index index) {
  Worker& worker = workers[index];
  drop_worker_charges(index);
  while (!worker.lanes.empty()) close_lane(worker.lanes.back());
  unlist_devices(index);
  if (worker_at(worker.peer) == index) peers.erase(worker.peer.value + 1);
  worker.connected = false;
}

}  // namespace gq::core

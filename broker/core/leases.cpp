// leases.cpp - who may work on what, until when.
//
// Nothing is timed before it is durable: offers and leases start at BatchCommitted. The lease clock stands still while the store
// is down and leaps over our own stalls, so nobody is declared lost for what we did not hear. A refused late result, not these
// timers, is what makes double execution harmless.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

void Core::State::on_batch_cut(const BatchCut& e) {
  wrote &= e.batch < gathering;   // said twice: what gathers now is a later one
  gathering = std::max(gathering, e.batch + 1);
}

void Core::State::on_batch_committed(const BatchCommitted& e) {
  wrote &= e.batch < gathering;
  gathering = std::max(gathering, e.batch + 1);
  committed = std::max(committed, e.batch);
  take_committed();
}

void Core::State::take_committed() {
  while (!uncommitted.empty() && uncommitted.front().batch <= committed) {
    Offer offer = uncommitted.front();
    uncommitted.pop_front();
    const Job& job = jobs[offer.job];
    if (job.seq != offer.seq || job.attempt != offer.attempt || job.hold == kNone) continue;
    Hold& hold = holds[job.hold];
    hold.committed = true;
    hold.since = lease_now();
    offer.since = lease_now().time_since_epoch().count();
    offers.push_back(offer);
    watch_worker(hold.worker);
  }
}

void Core::State::check_offers() {
  while (!offers.empty()) {
    const Offer& offer = offers.front();
    const Job& job = jobs[offer.job];
    const bool open = job.seq == offer.seq && job.attempt == offer.attempt && job.hold != kNone && !holds[job.hold].started;
    const Instant since{Duration{offer.since}};
    if (open && since + config.timing.offer_timeout > lease_now()) return;
    if (open) arm(holds[job.hold].number <= workers[holds[job.hold].worker].processed ? lease_now() : since + config.timing.lease,
                  TimerKind::offer, offer.job, job.nonce);
    offers.pop_front();
  }
}

void Core::State::on_offer_timer(Index slot, Nonce nonce) {
  const Job& job = jobs[slot];
  if (job.nonce != nonce || job.hold == kNone || holds[job.hold].started) return;
  if (!workers[holds[job.hold].worker].usable()) return;  // its leases decide
  const Hold& hold = holds[job.hold];
  if (hold.devices.empty()) back_off(job.shape, hold.worker | 1U << 31U);
  for (const Index device : hold.devices) back_off(job.shape, device);
  return_offer(slot);
}

/// Never started: the job keeps its place and no counter is used.
void Core::State::return_offer(Index slot) {
  Job& job = jobs[slot];
  if (job.cancel_asked) {
    set_error(job, Errc::cancelled, "cancelled on request");
    job.nonce = 0;
    move_job(slot, Verb::cancel);
  } else {
    move_job(slot, Verb::refuse);
  }
}

void Core::State::lose_attempt(Index slot, std::string_view why) {
  Job& job = jobs[slot];
  job.losses++;
  ++totals.lost;
  if (job.cancel_asked) {
    set_error(job, Errc::cancelled, "cancelled on request");
    job.nonce = 0;
    move_job(slot, Verb::cancel);
    return;
  }
  set_error(job, Errc::worker_lost, "worker " + texts[job.worker] + ": " + std::string(why));
  move_job(slot, Verb::lose);
}

// ---- the worker's one timer

void Core::State::watch_worker(Index index) {
  Worker& worker = workers[index];
  if (worker.watched) return;
  worker.watched = true;
  arm(std::max(worker.last_beat + config.timing.silence, lease_now()), TimerKind::worker, index);
}

void Core::State::on_worker_timer(Index index) {
  Worker& worker = workers[index];
  worker.watched = false;
  const Instant silent_at = worker.last_beat + config.timing.silence;
  const Instant lost_at = std::max(worker.last_beat + config.timing.lease, grace_until);
  if (lease_now() >= lost_at) {
    end_leases(index);
    return;
  }
  if (lease_now() >= silent_at && !worker.silent) {
    worker.silent = true;
    refresh_worker(index, false);
  }
  worker.watched = true;
  arm(lease_now() >= silent_at ? lost_at : silent_at, TimerKind::worker, index);
}

void Core::State::end_leases(Index index) {
  Worker& worker = workers[index];
  if (!worker.lost) {
    worker.lost = true;
    refresh_worker(index, false);
    if (worker.connected) {
      drop_ghosts(index);  // it may thaw on this very connection: its places stay known
    } else {
      disconnect(index);
    }
  }
  std::vector<Index> due;
  Instant again = Instant::max();
  for (const Index h : worker.holds) {
    const Hold& hold = holds[h];
    const Instant end = hold.committed ? hold.since + config.timing.lease : lease_now() + config.timing.heartbeat_interval;
    if (hold.committed && end <= lease_now()) due.push_back(hold.job);
    else again = std::min(again, end);
  }
  std::sort(due.begin(), due.end(), [&](Index a, Index b) { return jobs[a].seq < jobs[b].seq; });
  for (const Index slot : due) lose_attempt(slot, "not heard for a whole lease");
  for (const Index h : worker.holds) recharge(h);  // a grant made after its last beat lives on, and so does the memory it was promised
  if (again == Instant::max()) return;
  worker.watched = true;
  arm(again, TimerKind::worker, index);
}

// ---- rule 4.7: sudden death is told from a broken link by how many went at once

void Core::State::on_links_gone(const LinksGone& e) {
  for (const PeerId peer : e.peers) {
    const Index index = worker_at(peer);
    if (index == kNone || !workers[index].connected) continue;
    Worker& worker = workers[index];
    worker.connected = false;
    worker.link_gone = lease_now();
    refresh_worker(index, false);
    if (lease_now() - worker.last_beat < config.timing.rescue_beat_age)
      arm(lease_now() + config.timing.rescue_hello_wait, TimerKind::rescue, index,
          static_cast<std::uint64_t>(worker.link_gone.time_since_epoch().count()));
  }
}

void Core::State::on_rescue_timer(Index index, std::uint64_t stamp) {
  Worker& worker = workers[index];
  const auto gone_at = static_cast<std::uint64_t>(worker.link_gone.time_since_epoch().count());
  if (worker.connected || worker.lost || gone_at != stamp || in_grace()) return;
  std::size_t known = 0;
  std::size_t gone = 0;
  for (Index i = 0; i < workers.extent(); ++i) {
    const Worker& other = workers[i];
    if (other.lost || other.devices.empty() + other.lanes.empty() == 2) continue;
    ++known;
    const Duration apart = other.link_gone > worker.link_gone ? other.link_gone - worker.link_gone : worker.link_gone - other.link_gone;
    if (!other.connected && apart <= config.timing.rescue_hello_wait) ++gone;
  }
  if (gone > std::max<std::size_t>(1, known * 5 / 100)) return;  // a switch that resets must not requeue the fleet
  std::vector<Index> lost;
  for (const Index h : worker.holds) lost.push_back(holds[h].job);
  std::sort(lost.begin(), lost.end(), [&](Index a, Index b) { return jobs[a].seq < jobs[b].seq; });
  for (const Index slot : lost) {
    holds[jobs[slot].hold].leaves_ghost = true;  // the old device stays charged until lease end or its HELLO
    lose_attempt(slot, "its link is gone");
  }
  watch_worker(index);
}

/// The worker should have ended it five seconds ago. It may still sit in memory, so its budget stays until a beat omits it.
void Core::State::on_attempt_timer(Index slot, Nonce nonce) {
  Job& job = jobs[slot];
  if (job.nonce != nonce || job.hold == kNone) return;
  holds[job.hold].leaves_ghost = true;
  job.nonce = 0;
  if (job.cancel_asked) {
    set_error(job, Errc::cancelled, "cancelled on request");
    move_job(slot, Verb::cancel);
    return;
  }
  AttemptEnd e;
  e.outcome = Outcome::timed_out;
  e.error_text = "ran longer than its timeout, and its worker did not stop it";
  fail_attempt(slot, e, false);
}

void Core::State::on_store_down() { store_is_down = true; }
void Core::State::on_store_up() { store_is_down = false; }

}  // namespace gq::core

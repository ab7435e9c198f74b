// core.cpp - the step, its clocks and its timers.
#include "broker/core/core.h"

#include <algorithm>
#include <functional>

#include "broker/core/state.h"

namespace gq::core {

Core::Core(CoreConfig config) : state_(std::make_unique<State>(std::move(config))) {}
Core::~Core() = default;

void Core::load(const Image& image, const Moment& now) {
  check(!state_->started, "load comes once, before the first step");
  state_->advance(now);
  state_->load(image);
}

void Core::step(const Moment& now, std::uint64_t entropy, Event event, Effects& out) {
  State& s = *state_;
  s.advance(now);
  s.entropy = entropy;
  s.out = &out;
  if (!s.amends.empty()) s.amend();
  s.run_timers();
  s.settle();
  std::visit(overloaded{
                 [&](SubmitReceived& e) { s.on_submit(e); },
                 [&](WatchReceived& e) { s.on_watch(e); },
                 [&](CancelReceived& e) { s.on_cancel(e); },
                 [&](RetryReceived& e) { s.on_retry(e); },
                 [&](FetchedReceived& e) { s.on_fetched(e); },
                 [&](ModelPushed& e) { s.on_model_pushed(e); },
                 [&](ModelRemoveReceived& e) { s.on_model_removed(e); },
                 [&](ModelCommand& e) { s.on_model_command(e); },
                 [&](ClientGone& e) { s.on_client_gone(e); },
                 [&](WorkerHello& e) { s.on_hello(e); },
                 [&](WorkerPulled& e) { s.on_pulled(e); },
                 [&](WorkerBeat& e) { s.on_beat(e); },
                 [&](AttemptsStarted& e) { s.on_started(e); },
                 [&](AttemptRefused& e) { s.on_refused(e); },
                 [&](AttemptsEnded& e) { s.on_ended(e); },
                 [&](CheckpointSaved& e) { s.on_checkpoint(e); },
                 [&](MemoryReleased& e) { s.on_memory_released(e); },
                 [&](WorkerGoodbye& e) { s.on_goodbye(e); },
                 [&](LinksGone& e) { s.on_links_gone(e); },
                 [&](BatchCommitted& e) { s.on_batch_committed(e); },
                 [&](PayloadMissing& e) { s.on_payload_missing(e); },
                 [&](StoreDown&) { s.on_store_down(); },
                 [&](StoreUp&) { s.on_store_up(); },
                 [&](TimerFired&) {},
                 [&](BatchCut& e) { s.on_batch_cut(e); },
                 [&](PreemptAsked& e) { s.on_preempt_asked(e); },
                 [&](JobCommand& e) { s.on_job_command(e); },
                 [&](UpdateReceived& e) { s.on_update(e); },
                 [&](FleetCommand& e) { s.on_fleet_command(e); },
                 [&](PolicyLoaded& e) { s.on_policy_loaded(e); },
             },
             event);
  s.run_timers();  // what this event set may be due already
  s.settle();
  s.retain();
  s.relieve();
  s.schedule();
  s.stepped = true;
  s.out = nullptr;
}

std::optional<Instant> Core::next_wakeup() const { return state_->wakeup(); }

/// The lease clock: it stands still while the store is down, and a gap of more than a second between two steps is our own stall.
void Core::State::advance(const Moment& moment) {
  const Moment before = now;
  now = moment;
  if (!started) {
    started = true;
    if (config.restarted) grace_until = lease_now() + config.timing.restart_grace;
    return;
  }
  if (now.steady < before.steady) now.steady = before.steady;
  const Duration gap = now.steady - before.steady;
  if (store_is_down || gap > config.timing.own_stall) lease_shift += gap;
}

void Core::State::arm(Instant lease_at, TimerKind kind, Index index, std::uint64_t stamp) {
  lease_timers.push_back({lease_at.time_since_epoch().count(), kind, index, stamp});
  std::push_heap(lease_timers.begin(), lease_timers.end(), std::greater<>{});
}

void Core::State::arm_wall(WallTime at, TimerKind kind, Index index, std::uint64_t stamp) {
  wall_timers.push_back({at.ms, kind, index, stamp});
  std::push_heap(wall_timers.begin(), wall_timers.end(), std::greater<>{});
}

void Core::State::run_timers() {
  const auto pop = [](Timers& timers) {
    std::pop_heap(timers.begin(), timers.end(), std::greater<>{});
    const Timer timer = timers.back();
    timers.pop_back();
    return timer;
  };
  if (now.wall.ms < rules_from_ms || now.wall.ms >= rules_until_ms) on_window_timer();
  check_offers();
  while (!lease_timers.empty() && lease_timers.front().at <= lease_now().time_since_epoch().count()) on_timer(pop(lease_timers));
  while (!wall_timers.empty() && wall_timers.front().at <= now.wall.ms) on_timer(pop(wall_timers));
}

void Core::State::on_timer(const Timer& t) {
  switch (t.kind) {
    case TimerKind::worker: on_worker_timer(t.index); return;
    case TimerKind::rescue: on_rescue_timer(t.index, t.stamp); return;
    case TimerKind::offer: on_offer_timer(t.index, t.stamp); return;
    case TimerKind::attempt: on_attempt_timer(t.index, t.stamp); return;
    case TimerKind::plan: on_plan_timer(t.index, t.stamp); return;
    case TimerKind::replan: on_replan_timer(t.index); return;
    case TimerKind::leave: on_leave_timer(t.index, t.stamp); return;
    case TimerKind::drain: on_drain_timer(); return;
    case TimerKind::shares: on_shares_timer(); return;
    case TimerKind::back_off: case TimerKind::not_before: {
      const Job& job = jobs[t.index];
      if (job.seq != t.stamp || job.state != JobState::waiting) return;
      const Extra* x = extra(job);
      const bool dated = x != nullptr && x->not_before.ms != 0 && x->not_before.ms == job.due_ms;
      if (dated != (t.kind == TimerKind::not_before) || (dated && job.due_ms > now.wall.ms)) return;  // its date has been changed
      move_job(t.index, Verb::come_due);
      return;
    }
    case TimerKind::place: {
      const auto it = backoffs.find(t.stamp);
      if (it == backoffs.end() || it->second > lease_now().time_since_epoch().count()) return;
      backoffs.erase(it);
      shapes[t.index].backoffs--;
      make_fresh(t.index);
      return;
    }
    case TimerKind::deadline: {
      Job& job = jobs[t.index];
      if (job.seq != t.stamp || is_terminal(job.state)) return;
      if (is_granted(job.state)) return;  // armed again should it come back
      if (const Extra* x = extra(job); x == nullptr || x->deadline.ms == 0 || x->deadline.ms > now.wall.ms) return;  // it has been changed
      set_error(job, Errc::expired, "its deadline passed before it could start");
      job.nonce = 0;
      move_job(t.index, Verb::expire);
      return;
    }
  }
}

/// While a lease runs, at least two steps a second: otherwise idling could not be told from a stall of our own.
std::optional<Instant> Core::State::wakeup() const {
  std::optional<Instant> at;
  const auto sooner = [&](Instant t) { at = at ? std::min(*at, t) : t; };
  if (!started) return at;
  if (!settling.empty() || !amends.empty()) return now.steady;
  const auto of_lease = [&](std::int64_t us) { return Instant{Duration{us}} + lease_shift; };
  if (!store_is_down) {
    if (!lease_timers.empty()) sooner(of_lease(lease_timers.front().at));
    if (!offers.empty()) sooner(of_lease(offers.front().since) + config.timing.offer_timeout);
    if (at) sooner(now.steady + config.timing.own_stall / 2);
  }
  const auto of_wall = [&](std::int64_t ms) { return now.steady + std::chrono::milliseconds(std::max<std::int64_t>(0, ms - now.wall.ms)); };
  if (!wall_timers.empty()) sooner(of_wall(wall_timers.front().at));
  if (rules_until_ms != INT64_MAX) sooner(of_wall(std::max(rules_until_ms, now.wall.ms)));
  if (const auto ms = next_retention_ms()) sooner(of_wall(*ms));
  if (at) at = std::max(*at, now.steady);
  return at;
}

}  // namespace gq::core

// broker.cpp - the broker's shell and its store, simulated.
//
// The rules kept here are the shell's: one batch in flight, the next one gathers; a Send leaves only when its own step's commit
// and all earlier ones are applied; a SendNow leaves at once; a batch goes out at least every 500 ms. The store applies a batch
// whole or not at all; it may be down, refuse, lose its reply, or lose the broker.
#include <cstdio>

#include "tests/sim/play.h"
#include "tests/sim/sim.h"

namespace gq::sim {
Moment World::moment() const {
  const std::int64_t us = now_us();
  return {Instant{Duration{us - steady_zero_us}}, WallTime{wall_zero_ms + us / 1000 + wall_jump_ms}};
}

void World::step(core::Event&& event) {
  effects.clear();
  ++report.events;
  stepped = stepped_since_load = true;
  const std::size_t kind = event.index();
  core->step(moment(), rng.bits(), std::move(event), effects);
  if (options.check_every_step) {
    std::fprintf(stderr, "%.4f s event %zu\n", static_cast<double>(now_us()) / 1e6, kind);
    core->check_invariants();
  }
  route();
}

void World::route() {
  bool commits = false;
  for (core::Effect& effect : effects) {
    if (auto* c = std::get_if<core::Commit>(&effect); c != nullptr && c->durable) {
      commits = true;
      if (std::holds_alternative<core::JobCreated>(c->mutation) || std::holds_alternative<core::JobChanged>(c->mutation)) ++gathering.jobs;
      gathering.mutations.push_back(std::move(c->mutation));
    }
  }
  if (play) play->deciding(effects);
  for (core::Effect& effect : effects) {
    if (play)
      if (const auto* send = std::get_if<core::Send>(&effect))
        if (const auto* assign = std::get_if<core::Assign>(&send->message)) play->decided(*assign);
    if (auto* now = std::get_if<core::SendNow>(&effect)) {
      release(std::move(now->message));
    } else if (auto* send = std::get_if<core::Send>(&effect)) {
      if (commits || !gathering.mutations.empty()) gathering.sends.push_back(std::move(send->message));
      else if (flying) in_flight.sends.push_back(std::move(send->message));
      else release(std::move(send->message));
    }
  }
}

/// A message leaves the broker: noted by the checker, then it is the network's.
void World::release(core::Message&& message) {
  if (play && options.verbose) play->tell(message);
  if (const auto* assign = std::get_if<core::Assign>(&message)) {
    const auto to = who(assign->peer);
    history.granted(assign->grant, to ? to->second : UINT32_MAX);
    ++report.decisions;
  } else if (const auto* ends = std::get_if<core::EndsAnswer>(&message)) {
    const auto to = who(ends->peer);
    for (std::size_t i = 0; i < ends->grants.size() && i < ends->verdicts.size(); ++i) {
      Outcome outcome = Outcome::lost;
      if (to && to->first == Side::worker)
        for (const Held& h : workers[to->second].held)
          if (h.end.grant == ends->grants[i]) outcome = h.end.outcome;
      history.verdict(ends->grants[i], ends->verdicts[i], outcome);
    }
  }
  const PeerId to = std::visit([](const auto& m) { return m.peer; }, message);
  down(to, std::move(message));
}

void World::end_of_tick() {
  if (!core || frozen) return;
  while (!client_inbox.empty() && gathering.jobs < kBatchJobs) {
    const std::uint32_t packet = client_inbox.front();
    client_inbox.pop_front();
    draining_inbox = true;
    arrive_up(packet);
    draining_inbox = false;
  }
  if (!flying && (!gathering.mutations.empty() || !gathering.sends.empty() || wheel.now() - last_batch >= 500'000 / kTickUs)) send_batch();
  if (!core || !stepped) return;  // a batch may have been the core's last
  stepped = false;
  if (const auto wake = core->next_wakeup()) {
    const std::int64_t us = std::chrono::duration_cast<Duration>(wake->time_since_epoch()).count() + steady_zero_us;
    const Tick tick = std::max((us + kTickUs - 1) / kTickUs, wheel.now() + 1);
    if (wake_at <= wheel.now() || tick < wake_at) {
      wake_at = tick;
      wheel.at(tick, {What::broker_wake, generation, 0});
    }
  }
}

void World::send_batch() {
  step(core::BatchCut{batch + 1});  // what the core has decided so far goes into this one
  in_flight.mutations.swap(gathering.mutations);
  in_flight.sends.swap(gathering.sends);
  in_flight.jobs = gathering.jobs;
  in_flight.number = ++batch;
  gathering.mutations.clear();
  gathering.sends.clear();
  gathering.jobs = 0;
  flying = true;
  applied = false;
  last_batch = wheel.now();
  ++report.batches;
  if (store_is_up) in_us(200 + static_cast<std::int64_t>(in_flight.mutations.size()), {What::batch_apply, generation, 0});
  if (options.stop_at_batch == batch && !stopped_once) {
    stopped_once = true;
    const bool reached = rng.one_in(2);
    broker_stop(reached, 20'000);
  } else if (options.reload_every != 0 && batch % options.reload_every == 0) {
    broker_stop(rng.one_in(2), 10'000);
  }
}

void World::batch_apply(std::uint32_t of) {
  if (of != generation || !flying || applied || !store_is_up) return;
  if (options.faults.store && !healing && rng.chance_ppm(options.light ? 50 : 5'000)) {  // refused whole: the same bytes again
    in_us(rng.between(5'000, 100'000), {What::batch_apply, generation, 0});
    return;
  }
  missing.clear();
  for (core::Mutation& m : in_flight.mutations) {
    if (const auto* read = std::get_if<core::PayloadRead>(&m)) {
      const JobNumber job = numbers.number(read->id);
      if (options.faults.store && !options.light && !healing && rng.chance_ppm(300)) store.lose_body(job);
      if (store.find(job) && !store.has_body(job)) missing.push_back(read->id);
    }
    store.apply(std::move(m));
  }
  in_flight.mutations.clear();
  applied = true;
  std::int64_t reply_us = rng.between(100, 900);
  if (options.faults.store && !healing && rng.chance_ppm(options.light ? 50 : 5'000)) reply_us += rng.between(50'000, 800'000);  // reply lost
  in_us(reply_us, {What::batch_reply, generation, 0});
}

void World::batch_reply(std::uint32_t of) {
  if (of != generation || !flying || !applied) return;
  if (!store_is_up) return;  // the reply is on a link that has just died; store_back asks again
  flying = false;
  std::vector<core::Message> sends;
  sends.swap(in_flight.sends);
  const std::uint64_t number = in_flight.number;
  const std::vector<JobId> lost = std::move(missing);
  missing.clear();
  for (core::Message& message : sends) {
    const auto* assign = std::get_if<core::Assign>(&message);
    if (assign && std::find(lost.begin(), lost.end(), assign->grant.job) != lost.end()) continue;  // it has nothing to run
    release(std::move(message));
  }
  if (in_flight.sends.empty()) {  // keep the capacity
    sends.clear();
    in_flight.sends.swap(sends);
  }
  step(core::BatchCommitted{number});
  for (const JobId& job : lost) {
    findings.note(Note::missing, numbers.number(job), 0, 0);
    step(core::PayloadMissing{job});
  }
}

/// The core is gone, whatever the reason; `reached`: the batch in flight has reached the store before that.
void World::broker_stop(bool reached, std::int64_t down_us) {
  if (!core) return;
  if (flying && !applied && reached && store_is_up) batch_apply(generation);
  findings.note(Note::broker_killed, kNoJob, 0, applied ? 1 : 0);
  core.reset();
  ++generation;
  ++report.reloads;
  if (flying && !applied) --batch;  // its number was never used
  flying = applied = false;
  gathering = {};
  in_flight = {};
  missing.clear();
  for (const std::uint32_t packet : client_inbox) up_free.push_back(packet);
  client_inbox.clear();
  for (const std::uint32_t packet : frozen_inbox) up_free.push_back(packet);
  frozen_inbox.clear();
  frozen = false;
  gone_links.clear();
  for (std::uint32_t i = 0; i < workers.size(); ++i) tear(Side::worker, i, rng.between(5'000, 400'000));
  for (std::uint32_t i = 0; i < clients.size(); ++i) tear(Side::client, i, rng.between(5'000, 400'000));
  in_us(down_us, {What::broker_start, generation, 0});
}

void World::broker_start(std::uint32_t of) {
  if (core || of != generation) return;
  if (!store_is_up) {
    in_us(50'000, {What::broker_start, generation, 0});
    return;
  }
  steady_zero_us = now_us() - rng.between(0, 1'000'000'000);  // a machine's steady clock begins anywhere
  core_config.restarted = generation > 0;
  core = std::make_unique<core::Core>(core_config);
  const core::Image image = store.image();
  findings.note(Note::broker_loaded, kNoJob, 0, static_cast<std::uint32_t>(image.jobs.size()));
  core->load(image, moment());
  stepped_since_load = false;
  core_knows_down = false;
  wake_at = 0;
  stepped = true;
  last_batch = wheel.now();
}

void World::broker_freeze(std::int64_t us) {
  if (!core || frozen) return;
  frozen = true;
  in_us(us, {What::broker_thaw, ++freeze_serial, 0});
}
void World::broker_thaw() {
  if (!frozen) return;
  frozen = false;
  std::vector<std::uint32_t> inbox;
  inbox.swap(frozen_inbox);
  for (const std::uint32_t packet : inbox) arrive_up(packet);
  if (core) step(core::TimerFired{});
}

void World::store_outage(std::int64_t us) {
  if (!store_is_up) return;
  if (flying && !applied && rng.one_in(2)) batch_apply(generation);  // it went through, the answer did not come back
  store_is_up = false;
  ++report.outages;
  findings.note(Note::store_down, kNoJob, 0, static_cast<std::uint32_t>(us / 1000));
  store_up_at = wheel.now() + us / kTickUs;
  in_us(us, {What::store_up, 0, 0});
  in_us(rng.between(1'000, 200'000), {What::store_down_seen, generation, 0});
}

void World::store_back() {
  store_is_up = true;
  findings.note(Note::store_up, kNoJob, 0, 0);
  if (!core) return;
  if (core_knows_down) step(core::StoreUp{});
  core_knows_down = false;
  if (!flying) return;
  if (applied) in_us(rng.between(1'000, 50'000), {What::batch_reply, generation, 0});
  else in_us(rng.between(1'000, 50'000), {What::batch_apply, generation, 0});
}

/// While the store is down requests that would write are answered before they reach the core.
void World::say_unavailable(PeerId peer, core::Event& event) {
  const Error why{Errc::unavailable, "the store does not answer", "try again"};
  if (auto* s = std::get_if<core::SubmitReceived>(&event)) {
    core::SubmitAnswer answer{peer, s->request, {}};
    for (const core::SubmitItem& item : s->items) answer.items.push_back({item.fixed.id, false, false, why});
    down(peer, std::move(answer));
  } else if (auto* r = std::get_if<core::RetryReceived>(&event)) {
    down(peer, core::RetryAnswer{peer, r->request, {r->new_id, false, false, why}});
  }
}

}  // namespace gq::sim

// broker.cpp - the turn of the loop, and what the store tells us.
#include "broker/shell/broker_state.h"

#include <algorithm>

#include "common/config/clock.h"
#include "common/log.h"

namespace gq::broker {

namespace {
constexpr std::size_t kBlobBytesWaitingMax = std::size_t{32} << 20U;
constexpr Duration kWakeupMin = 200us;
constexpr std::size_t kRecordBytes = 300;   // what a record costs in a batch beside its body, roughly
}  // namespace

Broker::State::State(net::Context& context, asio::io_context& io_, BrokerConfig config_, MakeStore make_store_, store::BlobStore& blobs_, Handlers handlers_)
    : io(io_),
      config(std::move(config_)),
      make_store(std::move(make_store_)),
      handlers(std::move(handlers_)),
      blobs(blobs_),
      clients(context, io_,
              {.received = [this](const net::Speaker& s, net::Packet&& p) { received(false, s, std::move(p)); },
               .malformed = [this](const net::Speaker& s, const Error& e) { malformed(false, s, e); },
               .drained = [this] { end_turn(); },
               .link_lost = [this] { start_probing(false); }}),
      workers(context, io_,
              {.received = [this](const net::Speaker& s, net::Packet&& p) { received(true, s, std::move(p)); },
               .malformed = [this](const net::Speaker& s, const Error& e) { malformed(true, s, e); },
               .drained = [this] { end_turn(); },
               .link_lost = [this] { start_probing(true); }}),
      wakeup(io_),
      ticker(io_),
      prober(io_),
      drainer(io_),
      started(now().steady) {
  if (config.policy) config.core.policy = config.policy->current().policy;
  else config.policy = std::make_shared<policy::PolicySource>();
}

// ---- the store: open, load, and what it tells us

void Broker::State::open_store() {
  store::Watcher watcher{.down = [this](Error why) { store_down(std::move(why)); },
                         .up = [this] { store_up(); },
                         .fenced = [this](Error why) { stop(std::move(why)); },
                         .reload = [this](const Error& why) { reload(why); }};
  if (!store) store = make_store(std::move(watcher));
  store->open([this](Result<store::Opened> opened) {
    if (stopped) return;
    if (opened) return loaded(std::move(*opened));
    const bool passing = opened.error().code == Errc::unavailable || opened.error().code == Errc::storage_full;
    if (opened_term == 0 || !passing) return stop(std::move(opened.error()));
    log::warn("store_open_failed", {{"what", opened.error().what}, {"next", "trying again"}});
    wakeup.expires_after(500ms);
    wakeup.async_wait([this](ErrorCode error) {
      if (!error && !stopped) open_store();
    });
  });
}

void Broker::State::loaded(store::Opened&& opened) {
  const bool first = opened_term == 0;
  core::CoreConfig core_config = config.core;
  core_config.restarted = !opened.brand_new;
  core = std::make_unique<core::Core>(core_config);
  core->load(opened.image, now());
  blobs.load(opened.image);
  gate.emplace(opened.batch);
  opened_term = opened.term;
  down.reset();
  counted.store = store->describe();
  log::info("image_loaded", {{"jobs", std::to_string(opened.image.jobs.size())},
                             {"models", std::to_string(opened.image.models.size())},
                             {"term", std::to_string(opened.term)},
                             {"store", counted.store}});
  if (first) {
    clients.pause_reading(false);
    workers.pause_reading(false);
    tick();
    if (handlers.serving) handlers.serving();
  } else {
    for (auto& [id, peer] : peers) {
      if (peer->on_worker_port) refuse(*peer, 0, {Errc::unavailable, "say hello", "this broker has loaded its image anew"});
      else say(*peer, wire::BeatReply{.sent_us = 0, .term = opened_term});
    }
  }
  end_turn();
}

void Broker::State::store_down(Error why) {
  if (!down) log::warn("store_down", {{"why", why.what}, {"next", why.next}});
  const bool was_up = !down;
  down = std::move(why);
  if (serving() && was_up) step(core::StoreDown{});
  end_turn();
}

void Broker::State::store_up() {
  if (down) log::info("store_up");
  if (serving() && std::exchange(down, std::nullopt)) step(core::StoreUp{});
  end_turn();
}

void Broker::State::reload(const Error& why) {
  log::warn("reload", {{"why", why.what}, {"next", "the image is read again; clients resend, workers say hello"}});
  if (gate) answer_abandoned(gate->abandon());
  core.reset();
  gate.reset();
  bodies.clear();
  kept.clear();
  refused_items.clear();
  results_wanted.clear();
  reading_results = false;
  payloads_missing.clear();
  for (auto& [id, peer] : peers) {
    peer->greeted = false;
    peer->assign = {};
    peer->assign_body.clear();
  }
  open_store();
}

void Broker::State::stop(Error why) {
  if (std::exchange(stopped, true)) return;
  if (handlers.failed) handlers.failed(std::move(why));
}

// ---- the turn

void Broker::State::step(core::Event&& event) {
  effects.clear();
  core->step(now(), entropy.next(), std::move(event), effects);
  gather();
  pool.clear();
  if (const auto sealed = gate->take_sealed()) tell_cut(*sealed);
}

/// The core's clocks of offers and leases start per batch: it must know which steps each one holds.
void Broker::State::tell_cut(std::uint64_t batch) {
  effects.clear();
  core->step(now(), entropy.next(), core::BatchCut{batch}, effects);
  gather();
}

/// The effects of one step: mutations to the gate, sends behind them, SendNow at once.
void Broker::State::gather() {
  BatchWeight weight;
  items.clear();
  sends.clear();
  for (core::Effect& effect : effects) {
    auto* commit = std::get_if<core::Commit>(&effect);
    if (commit == nullptr) continue;
    core::Mutation& mutation = commit->mutation;
    blobs.observe(mutation);
    if (!commit->durable) {
      keep(mutation);
      continue;
    }
    SharedBytes bytes;
    if (const auto* created = std::get_if<core::JobCreated>(&mutation)) {
      bytes = pool.find(created->body);
      bodies.add(created->record.fixed.id, bytes);
      ++weight.created;
      weight.bytes += kRecordBytes;
    } else if (const auto* changed = std::get_if<core::JobChanged>(&mutation)) {
      ++(changed->now.state == JobState::running ? weight.started : weight.other);
      weight.bytes += kRecordBytes;
      if (is_terminal(changed->now.state) && !logs.idle()) ended_jobs.push_back(changed->id);
    } else if (const auto* read = std::get_if<core::PayloadRead>(&mutation)) {
      if (bodies.contains(read->id)) continue;   // created a moment ago: not read back
    } else if (const auto* result = std::get_if<core::ResultStored>(&mutation)) {
      bytes = pool.find(result->result);
    } else if (const auto* forgotten = std::get_if<core::JobForgotten>(&mutation)) {
      ++weight.other;
      if (!logs.idle()) logs.forget(forgotten->id);
    }
    if (bytes) weight.bytes += bytes->size();
    items.push_back({std::move(mutation), std::move(bytes)});
  }
  for (core::Effect& effect : effects) {
    if (auto* send = std::get_if<core::Send>(&effect)) {
      SharedBytes bytes;
      if (const auto* assignment = std::get_if<core::Assign>(&send->message)) {
        bytes = kept.contains(assignment->grant.job) ? kept.body_of(assignment->grant.job) : bodies.take(assignment->grant.job);
        if (!bytes) weight.bytes += assignment->body_bytes;   // it is read in this batch
      } else if (const auto* told = std::get_if<core::JobNotice>(&send->message)) {
        bytes = pool.find(told->result);
      }
      sends.push_back({std::move(send->message), std::move(bytes)});
    } else if (auto* at_once = std::get_if<core::SendNow>(&effect)) {
      SharedBytes none;
      dispatch_message(at_once->message, none, nullptr);
    }
  }
  gate->push(items, weight, sends);
}

/// Of a job with durability none: nothing of it goes to the store.
void Broker::State::keep(const core::Mutation& mutation) {
  kept.keep(mutation, pool);
  if (logs.idle()) return;
  if (const auto* changed = std::get_if<core::JobChanged>(&mutation); changed != nullptr && is_terminal(changed->now.state)) ended_jobs.push_back(changed->id);
  if (const auto* forgotten = std::get_if<core::JobForgotten>(&mutation)) logs.forget(forgotten->id);
}

void Broker::State::hold(Outgoing&& outgoing) {
  items.clear();
  sends.clear();
  sends.push_back(std::move(outgoing));
  gate->push(items, {}, sends);
}

void Broker::State::cut() {
  if (stopped) return;
  auto cut = gate->cut();
  if (!cut) return;
  if (!cut->sealed) tell_cut(cut->number);
  crash_at(CrashSite::before_commit);
  cut_at = now().steady;
  flying_weight = cut->weight;
  store->commit({.number = cut->number, .items = std::move(cut->items)}, [this](store::Committed committed) { commit_done(std::move(committed)); });
  crash_at(CrashSite::in_commit);
}

void Broker::State::commit_done(store::Committed&& committed) {
  if (!serving() || stopped) return;
  crash_at(CrashSite::after_commit);
  ++counted.commits;
  counted.jobs_committed += std::max({flying_weight.created, flying_weight.started, flying_weight.other});
  counted.bytes_committed += flying_weight.bytes;
  counted.commit_latency.add(now().steady - cut_at);
  gate->committed(committed.number);
  step(core::BatchCommitted{committed.number});
  end_turn(&committed);
  crash_at(CrashSite::after_release);
}

/// The next batch first, so that the store works while we talk; then whatever is free leaves.
void Broker::State::end_turn(store::Committed* committed) {
  if (!serving()) {
    flush_all();
    return update_reading();
  }
  for (int round = 0; round < 8; ++round) {
    for (const JobId job : std::exchange(ended_jobs, {})) log_ended(job);
    cut();
    release(committed);
    committed = nullptr;
    flush_all();
    for (const JobId job : std::exchange(payloads_missing, {})) {
      log::error("payload_lost", {{"job", to_string(job)}, {"next", "the job fails with PAYLOAD_LOST; submit it again"}});
      step(core::PayloadMissing{job});
    }
    forget_gone();
    if (gate->released().empty() && (gate->in_flight() || !gate->gathering())) break;
  }
  read_more_results();
  update_reading();
  arm_wakeup();
  if (draining) finish_drain();
}

void Broker::State::arm_wakeup() {
  const auto at = core->next_wakeup();
  if (!at) {
    if (armed != Instant{}) wakeup.cancel();
    armed = {};
    return;
  }
  if (*at == armed) return;
  armed = *at;
  wakeup.expires_after(std::max<Duration>(*at - now().steady, kWakeupMin));
  wakeup.async_wait([this](ErrorCode error) {
    if (error || !serving() || stopped) return;
    armed = {};
    step(core::TimerFired{});
    end_turn();
  });
}

/// Steps the core often enough that a gap means we stalled, and looks after what has no event of its own.
void Broker::State::tick() {
  ticker.expires_after(config.tick);
  ticker.async_wait([this](ErrorCode error) {
    if (!error && !stopped) tick();
  });
  if (!serving()) return;
  renew_windows();
  step(core::TimerFired{});
  std::vector<PeerId> silent;
  const Instant at = now().steady;
  for (auto& [id, peer] : peers) {
    if (!peer->notices_lost.empty())
      step(core::WatchReceived{.peer = id, .request = 0, .jobs = std::exchange(peer->notices_lost, {})});
    if (at - peer->heard > 3 * config.core.timing.lease) silent.push_back(id);
  }
  for (const PeerId id : silent) {
    Peer* peer = find(id);
    if (peer == nullptr) continue;
    auto& port = peer->on_worker_port ? workers : clients;
    const std::string harmless = peer->on_worker_port ? wire::encode(wire::WorkerBeatReply{.sent_us = 0, .term = term(), .revoke = {}, .cancels = {}, .preempts = {}, .evictions = {}})
                                                      : wire::encode(wire::BeatReply{.sent_us = 0, .term = term()});
    if (!port.probe(peer->at_port, harmless)) peer_gone(id);
    else peer->heard = at;
  }
  end_turn();
}

void Broker::State::update_reading() {
  const bool want = !draining && !stopped && (!serving() || down || !gate->full()) && blob_bytes_waiting < kBlobBytesWaitingMax;
  if (opened_term == 0 || want == reading_clients) return;
  reading_clients = want;
  clients.pause_reading(!want);
}

void Broker::State::finish_drain() {
  if (!drained || gate->in_flight() || gate->gathering()) return;
  auto done = std::exchange(drained, nullptr);
  drainer.cancel();
  asio::post(io, std::move(done));
}

// ---- the public face

Broker::Broker(net::Context& context, asio::io_context& io, BrokerConfig config, MakeStore make_store, store::BlobStore& blobs, Handlers handlers)
    : state_(std::make_unique<State>(context, io, std::move(config), std::move(make_store), blobs, std::move(handlers))) {}

Broker::~Broker() = default;

Result<void> Broker::bind() {
  State& s = *state_;
  auto client_endpoint = s.clients.bind(s.config.clients);
  if (!client_endpoint) return tl::unexpected(client_endpoint.error());
  auto worker_endpoint = s.workers.bind(s.config.workers);
  if (!worker_endpoint) return tl::unexpected(worker_endpoint.error());
  s.clients.pause_reading(true);   // until the image is loaded
  s.workers.pause_reading(true);
  s.client_endpoint = std::move(*client_endpoint);
  s.worker_endpoint = std::move(*worker_endpoint);
  return {};
}

void Broker::open_store() { state_->open_store(); }

void Broker::drain(Duration patience, std::function<void()> done) {
  State& s = *state_;
  if (!s.serving()) return asio::post(s.io, std::move(done));
  s.draining = true;
  s.drained = std::move(done);
  s.clients.pause_reading(true);
  s.workers.pause_reading(true);
  s.drainer.expires_after(patience);
  s.drainer.async_wait([&s](ErrorCode error) {
    if (!error && s.drained) std::exchange(s.drained, nullptr)();
  });
  s.end_turn();
}

void Broker::close() {
  State& s = *state_;
  s.stopped = true;
  for (auto* timer : {&s.wakeup, &s.ticker, &s.prober, &s.drainer}) timer->cancel();
  s.clients.close();
  s.workers.close();
  if (s.store) s.store->close();
}

void Broker::key_revoked(const std::string& name) {
  State& s = *state_;
  for (auto& [id, peer] : s.peers) {
    if (peer->name != name) continue;
    s.refuse(*peer, 0, {Errc::key_refused, "the key of " + name + " has been revoked or has expired", "gpuq keys issue " + name});
    s.peer_gone(id);
  }
  s.end_turn();
}

const std::string& Broker::client_endpoint() const { return state_->client_endpoint; }
const std::string& Broker::worker_endpoint() const { return state_->worker_endpoint; }

BrokerFigures Broker::figures() const {
  const State& s = *state_;
  BrokerFigures figures = s.counted;
  const Moment at = now();
  if (s.core) {
    figures.totals = s.core->totals();
    figures.workers = s.core->workers(at);
    figures.core_bytes = s.core->memory_bytes();
  }
  for (const auto& [id, peer] : s.peers) ++(peer->on_worker_port ? figures.worker_peers : figures.client_peers);
  figures.term = s.opened_term;
  figures.uptime = at.steady - s.started;
  figures.serving = s.serving() && !s.down && !s.draining && !s.stopped;
  figures.store_up = s.opened_term != 0 && !s.down;
  return figures;
}

}  // namespace gq::broker

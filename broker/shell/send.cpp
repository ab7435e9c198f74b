// send.cpp - effects to frames: what is released is gathered per peer and leaves once per turn; and links that went.
#include <algorithm>

#include "broker/shell/broker_state.h"
#include "common/config/clock.h"
#include "common/log.h"

namespace gq::broker {

namespace {
constexpr std::size_t kResultReadsMax = 64;   // jobs per read of results: bounds what lies here at once
}

void Broker::State::release(store::Committed* committed) {
  leaving.clear();
  leaving.swap(gate->released());
  const std::size_t middle = leaving.size() / 2;
  for (std::size_t i = 0; i < leaving.size(); ++i) {
    if (i == middle) crash_at(CrashSite::mid_release);
    dispatch(leaving[i], committed);
  }
  leaving.clear();
}

void Broker::State::dispatch(Outgoing& outgoing, store::Committed* committed) {
  if (auto* message = std::get_if<core::Message>(&outgoing.what)) return dispatch_message(*message, outgoing.bytes, committed);
  if (auto* frames = std::get_if<Frames>(&outgoing.what)) {
    if (Peer* peer = find(frames->peer)) send(*peer, frames->head, frames->body);
    return;
  }
  std::get<std::function<void()>>(outgoing.what)();
}

void Broker::State::dispatch_message(core::Message& message, SharedBytes& bytes, store::Committed* committed) {
  const PeerId id = std::visit([](const auto& m) { return m.peer; }, message);
  Peer* peer = find(id);
  if (auto* assignment = std::get_if<core::Assign>(&message)) return assign(std::move(*assignment), std::move(bytes), committed);
  if (peer == nullptr) return;   // it left; the core hears of that by itself
  std::visit(
      overloaded{
          [&](core::Assign&) {},
          [&](core::SubmitAnswer& m) {
            wire::Submitted submitted;
            submitted.items.reserve(m.items.size());
            for (const core::SubmitOutcome& outcome : m.items) submitted.items.push_back(to_wire(outcome));
            if (const auto of_peer = refused_items.find(id); of_peer != refused_items.end()) {
              if (const auto parts = of_peer->second.find(m.request); parts != of_peer->second.end()) {
                for (PartAnswer& part : parts->second)   // in ascending order: each lands where it was
                  submitted.items.insert(submitted.items.begin() + static_cast<std::ptrdiff_t>(std::min(part.index, submitted.items.size())), std::move(part.item));
                of_peer->second.erase(parts);
                if (of_peer->second.empty()) refused_items.erase(of_peer);
              }
            }
            say(*peer, submitted, m.request);
          },
          [&](core::JobNotice& m) {
            if (bytes || m.now.result_bytes == 0) return notice(m, bytes);
            if (kept.contains(m.job)) return notice(m, kept.result_of(m.job));
            results_wanted.push_back(std::move(m));
          },
          [&](core::WatchAnswer& m) {
            if (m.request != 0) say(*peer, wire::Watched{m.unknown}, m.request);
          },
          [&](core::CancelAnswer& m) {
            wire::CancelReply cancelled;
            for (const core::CancelResult r : m.items) cancelled.items.push_back(static_cast<std::uint8_t>(r));
            say(*peer, cancelled, m.request);
          },
          [&](core::RetryAnswer& m) { say(*peer, wire::RetryReply{to_wire(m.item)}, m.request); },
          [&](core::ModelAnswer& m) {
            if (m.ok) say(*peer, wire::ModelReply{to_wire(m.record)}, m.request);
            else refuse(*peer, m.request, m.error);
          },
          [&](core::Preempt& m) { say(*peer, to_wire(m, term())); },
          [&](core::Cancel& m) { say(*peer, to_wire(m, term())); },
          [&](core::EndsAnswer& m) {
            say(*peer, to_wire(m, term()), m.request);
            crash_at(CrashSite::after_accepted);
          },
          [&](core::WorkerWelcome& m) {
            const Timing& t = config.core.timing;
            const auto ms = [](Duration d) { return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(d).count()); };
            say(*peer, wire::WorkerWelcome{.broker_version = std::string(kVersion),
                                           .term = term(),
                                           .protocol = wire::kProtocolVersion,
                                           .beat_ms = ms(t.heartbeat_interval),
                                           .lease_ms = ms(t.lease),
                                           .orphan_ms = ms(t.orphan_timeout),
                                           .frame_bytes_max = config.core.limits.frame_bytes_max,
                                           .inline_bytes_max = config.core.limits.inline_bytes_max,
                                           .blob_chunk_bytes = config.core.limits.blob_chunk_bytes,
                                           .revoke = to_wire(m.revoke),
                                           .numbered = m.numbered});
          },
          [&](core::BeatAnswer& m) { say(*peer, to_wire(m, peer->beat_sent_us, term())); },
          [&](core::CommandAnswer& m) { say(*peer, to_wire(m), m.request); },
          [&](core::EvictModel& m) { say(*peer, to_wire(m, term())); },
          [&](core::WorkerRejected& m) {
            log::warn("worker_rejected", {{"worker", peer->name}, {"peer", peer->address}, {"why", m.error.what}});
            peer->greeted = false;
            refuse(*peer, 0, m.error);
          },
      },
      message);
}

// ---- gathered per peer

void Broker::State::assign(core::Assign&& assignment, SharedBytes body, store::Committed* committed) {
  const JobId job = assignment.grant.job;
  if (!body && assignment.body_bytes > 0) {
    if (committed != nullptr) {
      if (const auto it = committed->payloads.find(job); it != committed->payloads.end()) body = it->second;
    }
    if (!body) {
      payloads_missing.push_back(job);
      return;
    }
  }
  Peer* peer = find(assignment.peer);
  if (peer == nullptr) return;
  const std::size_t bytes = body ? body->size() : 0;
  if (peer->assign.items.size() >= kLimits.items_max || peer->assign_body.size() + bytes > kLimits.frame_bytes_max) flush_assign(*peer);
  wire::AssignItem& item = peer->assign.items.emplace_back(to_wire(std::move(assignment)));
  item.payload_bytes = static_cast<std::uint32_t>(bytes);
  if (body) peer->assign_body += *body;
  mark_dirty(*peer);
}

void Broker::State::notice(const core::JobNotice& told, const SharedBytes& result) {
  Peer* peer = find(told.peer);
  if (peer == nullptr) return;
  const std::size_t bytes = result ? result->size() : 0;
  if (peer->notify.items.size() >= kLimits.items_max || peer->notify_body.size() + bytes > kLimits.frame_bytes_max) flush_notify(*peer);
  wire::NotifyItem& item = peer->notify.items.emplace_back(to_wire(told.job, told.now, told.submitted));
  item.payload_bytes = static_cast<std::uint32_t>(bytes);
  if (result) peer->notify_body += *result;
  mark_dirty(*peer);
}

/// Results of jobs that ended earlier are read from the store, a few at a time.
void Broker::State::read_more_results() {
  if (reading_results || results_wanted.empty() || down) return;
  reading_results = true;
  auto told = std::make_shared<std::vector<core::JobNotice>>();
  std::vector<JobId> jobs;
  while (!results_wanted.empty() && jobs.size() < kResultReadsMax) {
    jobs.push_back(results_wanted.front().job);
    told->push_back(std::move(results_wanted.front()));
    results_wanted.pop_front();
  }
  store->read_results(std::move(jobs), [this, told, in_term = opened_term](Result<std::vector<std::shared_ptr<const store::Bytes>>> results) {
    if (in_term != opened_term || !serving() || stopped) return;
    reading_results = false;
    if (!results) {   // the store is away: asked again when the next turn ends
      for (auto it = told->rbegin(); it != told->rend(); ++it) results_wanted.push_front(std::move(*it));
      return;
    }
    for (std::size_t i = 0; i < told->size(); ++i) {
      core::JobNotice& one = (*told)[i];
      if (!(*results)[i] && one.now.state == JobState::succeeded) {
        one.now.error = Errc::result_expired;
        one.now.error_text = "the result has been dropped";
      }
      notice(one, (*results)[i]);
    }
    end_turn();
  });
}

void Broker::State::flush_assign(Peer& peer) {
  if (peer.assign.items.empty()) return;
  peer.assign.term = term();
  send(peer, wire::encode(peer.assign), peer.assign_body);   // lost when it cannot leave: the core's offer runs out
  peer.assign.items.clear();
  peer.assign_body.clear();
  crash_at(CrashSite::after_assign);
}

void Broker::State::flush_notify(Peer& peer) {
  if (peer.notify.items.empty()) return;
  if (send(peer, wire::encode(peer.notify), peer.notify_body) == net::SendOutcome::stuck)
    for (const wire::NotifyItem& item : peer.notify.items) peer.notices_lost.push_back(item.id);
  peer.notify.items.clear();
  peer.notify_body.clear();
}

void Broker::State::flush(Peer& peer) {
  peer.dirty = false;
  flush_assign(peer);
  flush_notify(peer);
}

void Broker::State::flush_all() {
  for (std::size_t i = 0; i < dirty.size(); ++i)
    if (Peer* peer = find(dirty[i])) flush(*peer);
  dirty.clear();
}

net::SendOutcome Broker::State::send(Peer& peer, std::string_view head, std::string_view body) {
  ++counted.messages_out;
  const auto outcome = (peer.on_worker_port ? workers : clients).send(peer.at_port, head, body);
  if (outcome == net::SendOutcome::gone) peer_gone(peer.id);
  if (outcome == net::SendOutcome::stuck) log::warn("peer_does_not_read", {{"peer", peer.name}, {"address", peer.address}});
  return outcome;
}

void Broker::State::refuse(Peer& peer, std::uint64_t request, const Error& error) {
  ++counted.refused;
  say(peer, to_wire(error), request);
}

/// The image is read anew: whoever waits for an answer of the old one may ask again.
void Broker::State::answer_abandoned(std::vector<Outgoing>&& waiting) {
  const Error again{Errc::unavailable, "the broker reads its image again", "ask again"};
  const auto answer = [&](PeerId id, std::uint64_t request) {
    if (request == 0) return;
    if (Peer* peer = find(id)) refuse(*peer, request, again);
  };
  for (Outgoing& outgoing : waiting) {
    if (const auto* frames = std::get_if<Frames>(&outgoing.what)) answer(frames->peer, frames->request);
    const auto* message = std::get_if<core::Message>(&outgoing.what);
    if (message == nullptr) continue;
    std::visit(
        [&](const auto& m) {
          if constexpr (requires { m.request; }) answer(m.peer, m.request);
        },
        *message);
  }
}

// ---- links that went

void Broker::State::peer_gone(PeerId id) {
  if (std::find(gone.begin(), gone.end(), id) == gone.end()) gone.push_back(id);
}

/// Outside all loops over peers: they disappear here.
void Broker::State::forget_gone() {
  if (gone.empty()) return;
  core::LinksGone lost;
  for (const PeerId id : std::exchange(gone, {})) {
    Peer* peer = find(id);
    if (peer == nullptr) continue;
    (peer->on_worker_port ? workers : clients).forget(peer->at_port);
    logs.drop_peer(id);
    refused_items.erase(id);
    std::erase_if(results_wanted, [id](const core::JobNotice& n) { return n.peer == id; });
    const bool worker = peer->on_worker_port;
    peers.erase(id);
    if (worker) lost.peers.push_back(id);
    else if (serving()) step(core::ClientGone{id});
  }
  if (!lost.peers.empty() && serving()) step(std::move(lost));
}

/// A monitor event names no peer: every link of that port is tried for rescue_probe_span, then the core hears once.
void Broker::State::start_probing(bool worker_port) {
  if (!serving() || stopped) return;
  const bool running = probing_clients || probing_workers;
  (worker_port ? probing_workers : probing_clients) = true;
  probe_until = now().steady + config.core.timing.rescue_probe_span;
  if (!running) probe_round();
}

void Broker::State::probe_round() {
  const std::string to_worker = wire::encode(wire::WorkerBeatReply{.sent_us = 0, .term = term(), .revoke = {}, .cancels = {}, .preempts = {}, .evictions = {}});
  const std::string to_client = wire::encode(wire::BeatReply{.sent_us = 0, .term = term()});
  for (auto& [id, peer] : peers) {
    if (!(peer->on_worker_port ? probing_workers : probing_clients)) continue;
    if (std::find(probed_gone.begin(), probed_gone.end(), id) != probed_gone.end()) continue;
    auto& port = peer->on_worker_port ? workers : clients;
    if (!port.probe(peer->at_port, peer->on_worker_port ? to_worker : to_client)) probed_gone.push_back(id);
  }
  if (now().steady < probe_until) {
    prober.expires_after(std::max<Duration>(config.core.timing.rescue_probe_span / 4, 1ms));
    prober.async_wait([this](ErrorCode error) {
      if (!error && !stopped) probe_round();
    });
    return;
  }
  probing_clients = probing_workers = false;
  for (const PeerId id : std::exchange(probed_gone, {})) peer_gone(id);
  end_turn();
}

}  // namespace gq::broker

// worker_requests.cpp - what workers say.
#include <algorithm>

#include "broker/shell/broker_state.h"
#include "common/config/clock.h"
#include "common/log.h"

namespace gq::broker {

void Broker::State::on_worker(Peer& peer, wire::Decoded&& decoded, std::string_view body) {
  const std::uint64_t request = decoded.header.id;
  if (auto* hello = std::get_if<wire::WorkerHello>(&decoded.message)) return on_worker_hello(peer, request, std::move(*hello));
  if (auto* beat = std::get_if<wire::WorkerBeat>(&decoded.message); beat != nullptr && !serving())
    return say(peer, wire::WorkerBeatReply{.sent_us = beat->sent_us, .term = term(), .revoke = {}, .cancels = {}, .preempts = {}, .evictions = {}}, request);
  if (!serving()) return refuse(peer, request, {Errc::unavailable, "the broker reads its image", "keep your jobs and say it again"});
  if (auto* put = std::get_if<wire::BlobPut>(&decoded.message)) return on_blob_put(peer, request, *put, body);
  if (auto* get = std::get_if<wire::BlobGet>(&decoded.message)) return on_blob_get(peer, request, *get);
  if (!peer.greeted) return refuse(peer, request, {Errc::unavailable, "say hello", "this connection has not said WORKER_HELLO to this broker"});

  std::visit(overloaded{
                 [&](wire::Ended& m) { on_ended(peer, request, std::move(m), body); },
                 [&](wire::Started& m) { step(core::AttemptsStarted{peer.id, to_core(m.grants)}); },
                 [&](wire::Pull& m) {
                   auto pulled = to_core(std::move(m), peer.id);
                   if (!pulled) return refuse(peer, request, pulled.error());
                   step(std::move(*pulled));
                 },
                 [&](wire::WorkerBeat& m) { on_beat(peer, request, std::move(m)); },
                 [&](wire::Refused& m) { step(to_core(std::move(m), peer.id)); },
                 [&](wire::Progress& m) {
                   if (core->current(to_core(m.grant))) logs.progressed(std::move(m));
                 },
                 [&](wire::Log& m) {
                   if (!core->current(to_core(m.grant))) return;
                   logs.wrote(m.grant, m.offset, body);
                   say_news(m.grant.job);
                 },
                 [&](wire::ModelLog& m) {
                   if (!peer.greeted || m.model.size() > 2 * kLimits.name_chars_max + 1) return;
                   logs.model_said(m.model, body);
                   say_news(LogDesk::stream_of(m.model));
                   say_news(LogDesk::stream_of(m.model.substr(0, m.model.find('@'))));
                 },
                 [&](wire::CheckpointSaved& m) {
                   if (!m.blob.empty() && !blobs.contains(m.blob))
                     return refuse(peer, request, {Errc::unknown_blob, "checkpoint blob " + to_string(m.blob) + " is not stored", "upload it, then say so again"});
                   step(core::CheckpointSaved{peer.id, to_core(m.grant), {m.blob, m.step}});
                 },
                 [&](wire::ResultQuery& m) { on_parent_result(peer, request, m); },
                 [&](wire::MemoryReleased& m) { step(core::MemoryReleased{peer.id, to_core(m.grant)}); },
                 [&](wire::Goodbye&) {
                   log::info("worker_goodbye", {{"worker", peer.name}});
                   step(core::WorkerGoodbye{peer.id});
                   peer.greeted = false;
                 },
                 [&](auto&) { on_unexpected(peer, decoded.header); },
             },
             decoded.message);
}

void Broker::State::on_worker_hello(Peer& peer, std::uint64_t request, wire::WorkerHello&& hello) {
  if (!serving()) return refuse(peer, request, {Errc::unavailable, "the broker reads its image", "say hello again in a moment"});
  if (hello.protocol < wire::kOldestReader)
    return refuse(peer, request, {Errc::protocol, "worker " + hello.name + " speaks version " + std::to_string(hello.protocol) + ", the broker " +
                                                      std::to_string(wire::kOldestReader) + ".." + std::to_string(wire::kProtocolVersion),
                                  "update gpuq-worker"});
  const bool insecure = config.workers.keys == nullptr;
  if (!insecure && hello.name != peer.name)
    return refuse(peer, request, {Errc::refused, "this connection's key belongs to worker " + peer.name + ", it says it is " + hello.name.substr(0, kLimits.name_chars_max),
                                  "start it with --name " + peer.name + ", or issue a key: gpuq keys issue " + (is_name(hello.name) ? hello.name : "NAME") + " --role worker"});
  auto event = to_core(std::move(hello), peer.id);
  if (!event) return refuse(peer, request, event.error());
  peer.name = event->worker;
  peer.greeted = true;
  log::info("worker_hello", {{"worker", peer.name}, {"host", event->host}, {"version", event->version}, {"devices", std::to_string(event->devices.size())},
                             {"running", std::to_string(event->running.size())}});
  step(std::move(*event));
}

void Broker::State::on_beat(Peer& peer, std::uint64_t request, wire::WorkerBeat&& beat) {
  peer.beat_sent_us = beat.sent_us;
  auto event = to_core(std::move(beat), peer.id);
  if (!event) return refuse(peer, request, event.error());
  step(std::move(*event));
}

/// A worker sees results only as inputs of what it runs.
void Broker::State::on_parent_result(Peer& peer, std::uint64_t request, const wire::ResultQuery& query) {
  const auto child = core->find(query.child, now());
  const bool runs_here = child && is_granted(child->record.dynamic.state) && child->record.dynamic.worker == peer.name;
  const bool came_after = runs_here && std::find(child->record.fixed.after.begin(), child->record.fixed.after.end(), query.job) != child->record.fixed.after.end();
  if (!came_after)
    return refuse(peer, request, {Errc::refused, "job " + to_string(query.child) + ", granted to worker " + peer.name + ", did not come after job " + to_string(query.job), "a worker reads results of its jobs' parents only"});
  on_result(peer, request, query);
}

/// A result that names an unknown blob is refused and sent again; its neighbours are taken.
void Broker::State::on_ended(Peer& peer, std::uint64_t request, wire::Ended&& ended, std::string_view body) {
  crash_at(CrashSite::recv_ended);
  if (ended.items.size() > kLimits.items_max)
    return refuse(peer, request, {Errc::over_limit, "more than " + std::to_string(kLimits.items_max) + " ends in one message", "split it"});
  auto payloads = wire::split_payloads(ended.items, body);
  if (!payloads) return refuse(peer, request, payloads.error());

  core::AttemptsEnded event{.peer = peer.id, .request = request, .ends = {}};
  event.ends.reserve(ended.items.size());
  std::optional<Error> wrong;
  for (std::size_t i = 0; i < ended.items.size(); ++i) {
    wire::EndedItem& item = ended.items[i];
    const JobId job = item.grant.job;
    const BlobDigest* missing = nullptr;
    const bool in_memory = kept.contains(job);   // and so may be what its result names
    for (const BlobDigest& blob : item.blobs)
      if (in_memory ? !blobs.holds(blob) : !blobs.contains(blob)) missing = &blob;
    if (!item.checkpoint.empty() && !blobs.contains(item.checkpoint)) missing = &item.checkpoint;
    if (missing != nullptr) {
      wrong = {Errc::unknown_blob, "blob " + to_string(*missing) + ", named by the end of job " + to_string(job) + ", is not stored", "upload it, then send that end again"};
      continue;
    }
    auto end = to_core(std::move(item), (*payloads)[i], pool);
    if (end) event.ends.push_back(std::move(*end));
    else wrong = end.error();
  }
  if (!event.ends.empty()) step(std::move(event));
  if (wrong) refuse(peer, request, *wrong);
  crash_at(CrashSite::stepped_ended);
}

}  // namespace gq::broker

// client_requests.cpp - what clients and admins ask. Every request is answered exactly once.
#include <algorithm>
#include <filesystem>

#include "broker/shell/broker_state.h"
#include "broker/shell/model_condition.h"
#include "common/config/clock.h"
#include "common/log.h"

namespace gq::broker {

namespace {

Error too_many(std::string_view what) {
  return {Errc::over_limit, "more than " + std::to_string(kLimits.items_max) + " " + std::string(what) + " in one message", "split it"};
}
Error no_job(JobId job) { return {Errc::not_found, "there is no job " + to_string(job), "gpuq list shows the jobs that are remembered"}; }

wire::SubmittedItem refused_item(JobId id, const Error& error) {
  return {.id = id, .ok = false, .existing = false, .code = std::string(to_string(error.code)), .what = error.what, .next = error.next};
}

}  // namespace

void Broker::State::on_client(Peer& peer, wire::Decoded&& decoded, std::string_view body) {
  const std::uint64_t request = decoded.header.id;
  if (const auto* beat = std::get_if<wire::Beat>(&decoded.message))
    return say(peer, wire::BeatReply{.sent_us = beat->sent_us, .term = term()}, request);
  if (!serving()) return refuse(peer, request, {Errc::unavailable, "the broker reads its image", "ask again"});
  std::visit(overloaded{
                 [&](wire::Submit& m) { on_submit(peer, request, std::move(m), body); },
                 [&](wire::ClientHello& m) { on_client_hello(peer, request, std::move(m)); },
                 [&](wire::Watch& m) {
                   if (m.jobs.size() > kLimits.items_max * 64) return refuse(peer, request, too_many("watched jobs"));
                   step(core::WatchReceived{peer.id, request, std::move(m.jobs)});
                 },
                 [&](wire::Fetched& m) {
                   if (m.jobs.size() > kLimits.items_max * 64) return refuse(peer, request, too_many("fetched jobs"));
                   if (!down) step(core::FetchedReceived{peer.id, std::move(m.jobs), scope_of(peer)});   // only retention's business
                 },
                 [&](wire::CancelJobs& m) {
                   if (refused_while_down(peer, request)) return;
                   if (m.jobs.size() > kLimits.items_max) return refuse(peer, request, too_many("jobs"));
                   step(core::CancelReceived{peer.id, request, std::move(m.jobs), scope_of(peer)});
                 },
                 [&](wire::Retry& m) { on_retry(peer, request, m); },
                 [&](wire::StatusQuery& m) { on_status(peer, request, m); },
                 [&](wire::ListQuery& m) { on_list(peer, request, std::move(m)); },
                 [&](wire::ResultQuery& m) { on_result(peer, request, m); },
                 [&](wire::LogQuery& m) { on_log_query(peer, request, m); },
                 [&](wire::WorkersQuery&) { on_workers_query(peer, request); },
                 [&](wire::TopQuery&) { on_top(peer, request); },
                 [&](wire::ModelPush& m) { on_model_push(peer, request, std::move(m)); },
                 [&](wire::ModelRemove& m) { on_model_remove(peer, request, std::move(m)); },
                 [&](wire::ModelCommand& m) { on_model_command(peer, request, std::move(m)); },
                 [&](wire::ModelsQuery&) {
                   wire::ModelsReply models;
                   for (const core::ModelRecord& m : core->models()) models.models.push_back(to_wire(m));
                   reply(peer, request, models);
                 },
                 [&](wire::Command& m) { on_command(peer, request, std::move(m)); },
                 [&](wire::UpdateJob& m) { on_update_job(peer, request, std::move(m)); },
                 [&](wire::ConfigQuery& m) { on_config(peer, request, m); },
                 [&](wire::ExplainQuery& m) { on_explain(peer, request, m); },
                 [&](wire::PlanSubmit& m) { on_plan_submit(peer, request, std::move(m)); },
                 [&](wire::PlanPolicy& m) { on_plan_policy(peer, request, m); },
                 [&](wire::BlobPut& m) { on_blob_put(peer, request, m, body); },
                 [&](wire::BlobGet& m) { on_blob_get(peer, request, m); },
                 [&](wire::Goodbye&) { peer_gone(peer.id); },
                 [&](auto&) { on_unexpected(peer, decoded.header); },
             },
             decoded.message);
}

void Broker::State::on_client_hello(Peer& peer, std::uint64_t request, wire::ClientHello&& hello) {
  if (hello.protocol < wire::kOldestReader)
    return refuse(peer, request, {Errc::protocol, "this client speaks version " + std::to_string(hello.protocol) + ", the broker " +
                                                      std::to_string(wire::kOldestReader) + ".." + std::to_string(wire::kProtocolVersion),
                                  "update the client"});
  peer.greeted = true;
  if (config.clients.keys == nullptr && is_name(hello.name)) peer.name = hello.name;   // --insecure: as said
  say(peer,
      wire::ClientWelcome{.broker_version = std::string(kVersion),
                          .term = term(),
                          .protocol = std::min(hello.protocol, wire::kProtocolVersion),
                          .role = std::string(net::to_string(peer.role)),
                          .name = peer.name,
                          .frame_bytes_max = config.core.limits.frame_bytes_max,
                          .inline_bytes_max = config.core.limits.inline_bytes_max,
                          .blob_chunk_bytes = config.core.limits.blob_chunk_bytes,
                          .beat_ms = static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::milliseconds>(config.core.timing.heartbeat_interval).count()),
                          .space = config.space,
                          .near = hello.near ? std::filesystem::absolute(blobs.near_folder()).string() : std::string()},
      request);
}

bool Broker::State::refused_while_down(Peer& peer, std::uint64_t request) {
  if (!down) return false;
  refuse(peer, request, *down);
  return true;
}

std::string Broker::State::scope_of(const Peer& peer) { return peer.role == net::Role::admin ? std::string() : peer.name; }

bool Broker::State::needs_admin(Peer& peer, std::uint64_t request, std::string_view what) {
  if (peer.role == net::Role::admin) return false;
  refuse(peer, request, {Errc::refused, std::string(what) + " needs an admin key; " + peer.name + " is a " + std::string(net::to_string(peer.role)),
                         "on the broker's machine: gpuq keys issue NAME --role admin"});
  return true;
}

// ---- submit

void Broker::State::on_submit(Peer& peer, std::uint64_t request, wire::Submit&& submit, std::string_view body) {
  crash_at(CrashSite::recv_submit);
  if (submit.items.empty() || submit.items.size() > kLimits.items_max) return refuse(peer, request, too_many("jobs (or none)"));
  auto payloads = wire::split_payloads(submit.items, body);
  if (!payloads) return refuse(peer, request, payloads.error());
  if (refused_while_down(peer, request)) return;

  core::SubmitReceived event{.peer = peer.id, .request = request, .owner = peer.name, .items = {}};
  event.items.reserve(submit.items.size());
  std::vector<PartAnswer> refused_here;
  for (std::size_t i = 0; i < submit.items.size(); ++i) {
    const JobId id = submit.items[i].id;
    auto item = to_core(std::move(submit.items[i]), (*payloads)[i], pool);
    if (item) {
      const auto missing = std::find_if(item->fixed.blobs.begin(), item->fixed.blobs.end(), [&](const BlobDigest& b) { return item->fixed.durable ? !blobs.contains(b) : !blobs.holds(b); });
      if (missing == item->fixed.blobs.end()) {
        event.items.push_back(std::move(*item));
        continue;
      }
      item = fail(Errc::unknown_blob, "blob " + to_string(*missing) + " is not stored", "upload it first (BLOB_PUT), then submit again");
    }
    refused_here.push_back({i, refused_item(id, item.error())});
  }
  if (event.items.empty()) {   // errors of form: nothing of any job's state is in them
    wire::Submitted submitted;
    for (PartAnswer& part : refused_here) submitted.items.push_back(std::move(part.item));
    pool.clear();
    return say(peer, submitted, request);
  }
  if (!refused_here.empty()) refused_items[peer.id][request] = std::move(refused_here);
  step(std::move(event));
  crash_at(CrashSite::stepped_submit);
}

void Broker::State::on_retry(Peer& peer, std::uint64_t request, const wire::Retry& retry) {
  if (refused_while_down(peer, request)) return;
  if (retry.new_id.empty()) return refuse(peer, request, {Errc::bad_message, "a retry without a new job id", "make a ULID for the new job"});
  step(core::RetryReceived{.peer = peer.id, .request = request, .owner = peer.name, .job = retry.job, .new_id = retry.new_id, .watch = retry.watch, .scope = scope_of(peer)});
}

// ---- what people ask to see

void Broker::State::on_status(Peer& peer, std::uint64_t request, const wire::StatusQuery& query) {
  if (query.jobs.size() > kLimits.items_max) return refuse(peer, request, too_many("jobs"));
  wire::StatusReply status;
  const Moment at = now();
  for (const JobId id : query.jobs) {
    if (const auto view = core->find(id, at)) {
      logs.describe(status.jobs.emplace_back(to_wire(*view)));
    } else {
      status.jobs.emplace_back().id = id;
    }
  }
  reply(peer, request, status);
}

void Broker::State::on_list(Peer& peer, std::uint64_t request, wire::ListQuery&& query) {
  auto filter = to_core(std::move(query));
  if (!filter) return refuse(peer, request, filter.error());
  wire::ListReply list;
  for (const core::JobRecord& record : core->list(*filter)) logs.describe(list.jobs.emplace_back(to_wire(record)));
  for (wire::JobStatus& job : list.jobs) job.last_lines.clear();
  reply(peer, request, list);
}

void Broker::State::on_result(Peer& peer, std::uint64_t request, const wire::ResultQuery& query) {
  const auto view = core->find(query.job, now());
  if (!view) return refuse(peer, request, no_job(query.job));
  const core::JobDynamic& job = view->record.dynamic;
  if (!is_terminal(job.state))
    return hold({Frames{peer.id, request,
                        wire::encode(to_wire(Error{Errc::unavailable, "job " + to_string(query.job) + " is " + std::string(to_string(job.state)) + ", it has no result yet",
                                                   "gpuq wait " + to_string(query.job)}),
                                     request),
                        {}},
                 nullptr});
  wire::ResultReply result{to_wire(query.job, job, view->record.fixed.submitted)};
  const Error dropped{Errc::result_expired, "the result of job " + to_string(query.job) + " has been dropped", "gpuq retry " + to_string(query.job)};
  if (job.error == Errc::result_expired) return hold({Frames{peer.id, request, wire::encode(to_wire(dropped), request), {}}, nullptr});
  if (job.result_bytes == 0) return reply(peer, request, result);
  if (const SharedBytes mine = kept.result_of(query.job)) {
    result.item.payload_bytes = static_cast<std::uint32_t>(mine->size());
    return hold({Frames{peer.id, request, wire::encode(result, request), *mine}, nullptr});
  }
  // Behind all earlier commits, and then read from the store.
  hold({std::function<void()>([this, id = peer.id, request, result = std::move(result), dropped, in_term = opened_term]() mutable {
          store->read_results({result.item.id}, [this, id, request, result = std::move(result), dropped, in_term](Result<std::vector<std::shared_ptr<const store::Bytes>>> bytes) mutable {
            Peer* asker = in_term == opened_term && !stopped ? find(id) : nullptr;
            if (asker == nullptr) return;
            if (!bytes) return refuse(*asker, request, bytes.error());
            const auto& payload = bytes->front();
            if (!payload) return refuse(*asker, request, dropped);
            result.item.payload_bytes = static_cast<std::uint32_t>(payload->size());
            say(*asker, result, request, *payload);
          });
        }),
        nullptr});
}

void Broker::State::on_workers_query(Peer& peer, std::uint64_t request) {
  wire::WorkersReply workers_reply;
  for (const core::WorkerView& worker : core->workers(now())) workers_reply.workers.push_back(to_wire(worker));
  say(peer, workers_reply, request);   // no job state; answered while the store is away, too
}

void Broker::State::on_top(Peer& peer, std::uint64_t request) {
  const core::Totals totals = core->totals();
  wire::TopReply top;
  top.broker_version = kVersion;
  top.store = down ? counted.store + " (down: " + down->what + ")" : counted.store;
  top.space = config.space;
  top.term = term();
  top.uptime_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now().steady - started).count();
  static_assert(sizeof top.by_class_and_state == sizeof totals.by_class_and_state);
  for (std::size_t c = 0; c < kJobClasses; ++c)
    for (std::size_t s = 0; s < kJobStates; ++s) top.by_class_and_state[c][s] = totals.by_class_and_state[c][s];
  top.submitted = totals.submitted;
  top.succeeded = totals.succeeded;
  top.failed = totals.failed;
  top.lost = totals.lost;
  top.stale = totals.stale;
  top.assigned = totals.assigned;
  top.queued_bytes = totals.queued_bytes;
  top.final_bytes = totals.final_bytes;
  top.broker_bytes = core->memory_bytes();
  top.commits = counted.commits;
  const auto ms = [](Duration d) { return static_cast<double>(d.count()) / 1000.0; };
  top.commit_p50_ms = ms(counted.commit_latency.quantile(0.50));
  top.commit_p99_ms = ms(counted.commit_latency.quantile(0.99));
  top.jobs_per_commit_milli = counted.commits == 0 ? 0 : counted.jobs_committed * 1000 / counted.commits;
  top.preempted = totals.preempted;
  top.evicted_models = totals.evicted_models;
  top.plans_made = totals.plans_made;
  top.plans_expired = totals.plans_expired;
  top.killed_at_deadline = totals.killed_at_deadline;
  for (const core::OperatorSetting& setting : core->settings()) top.switches.push_back(in_words(setting));
  say(peer, top, request);   // totals, not a job's state; answered while the store is away, too
}

// ---- logs

void Broker::State::on_log_query(Peer& peer, std::uint64_t request, const wire::LogQuery& query) {
  if (!query.model.empty()) {
    const JobId stream = LogDesk::stream_of(query.model);
    LogChunk chunk = logs.read(stream, query.offset);
    if (query.follow) logs.follow(stream, {peer.id, request, chunk.next});
    return reply(peer, request, wire::LogReply{.job = {}, .offset = chunk.offset, .next = chunk.next, .end = false}, std::move(chunk.bytes));
  }
  const auto view = core->find(query.job, now());
  if (!view) return refuse(peer, request, no_job(query.job));
  LogChunk chunk = logs.read(query.job, query.offset);
  const bool final = is_terminal(view->record.dynamic.state);
  const wire::LogReply log{.job = query.job, .offset = chunk.offset, .next = chunk.next, .end = final};
  if (query.follow && !final) logs.follow(query.job, {peer.id, request, chunk.next});
  reply(peer, request, log, std::move(chunk.bytes));
}

/// New output: whoever follows gets it now, it reveals nothing that a crash could undo.
void Broker::State::say_news(JobId job) {
  if (!logs.followed(job)) return;
  for (auto& [follower, chunk] : logs.news(job))
    if (Peer* peer = find(follower.peer))
      hold({Frames{peer->id, follower.request, wire::encode(wire::LogReply{.job = job, .offset = chunk.offset, .next = chunk.next, .end = false}, follower.request), std::move(chunk.bytes)}, nullptr});
}

void Broker::State::log_ended(JobId job) {
  if (!logs.followed(job)) return;
  say_news(job);
  for (const LogFollower& follower : logs.stop_following(job))
    if (Peer* peer = find(follower.peer))
      reply(*peer, follower.request, wire::LogReply{.job = job, .offset = follower.next, .next = follower.next, .end = true});
}

// ---- models

void Broker::State::on_model_push(Peer& peer, std::uint64_t request, wire::ModelPush&& push) {
  if (needs_admin(peer, request, "pushing a model") || refused_while_down(peer, request)) return;
  const auto bytes = blobs.size_of(push.model.blob);
  if (!bytes) return refuse(peer, request, {Errc::unknown_blob, "blob " + to_string(push.model.blob) + " is not stored", "upload it first (BLOB_PUT), then push the model"});
  const bool promote = push.promote;
  auto record = to_core(std::move(push), *bytes, peer.name, now().wall);
  if (!record) return refuse(peer, request, record.error());
  log::info("model_pushed", {{"model", record->name + "@" + record->version}, {"by", peer.name}});
  step(core::ModelPushed{peer.id, request, std::move(*record), promote});
}

/// Judged and promoted in one turn: nobody can promote another version in between.
void Broker::State::on_model_command(Peer& peer, std::uint64_t request, wire::ModelCommand&& command) {
  if (needs_admin(peer, request, "changing what a model's name means") || refused_while_down(peer, request)) return;
  const bool promotes = command.verb == "promote";
  if (!promotes && command.verb != "rollback") return refuse(peer, request, {Errc::bad_message, "there is no order '" + command.verb.substr(0, kLimits.name_chars_max) + "' for models", "promote or rollback"});
  std::string why;
  if (promotes && !command.condition.empty()) {
    std::optional<ModelMetrics> candidate, current;
    for (const core::ModelRecord& model : core->models()) {
      if (model.name != command.name) continue;
      if (model.version == command.version) candidate = metrics_of(model.metadata);
      if (model.promoted && model.version != command.version) current = metrics_of(model.metadata);
    }
    if (candidate) {   // else the core says that there is no such version
      auto judged = judge_promotion(command.condition, *candidate, current);
      if (!judged) return refuse(peer, request, judged.error());
      why = std::move(*judged);
    }
  }
  log::info("model_" + command.verb, {{"model", command.name + (command.version.empty() ? "" : "@" + command.version)}, {"by", peer.name}, {"because", why}});
  step(core::ModelCommand{peer.id, request, promotes ? core::ModelVerb::promote : core::ModelVerb::rollback, std::move(command.name), std::move(command.version)});
}

void Broker::State::on_model_remove(Peer& peer, std::uint64_t request, wire::ModelRemove&& remove) {
  if (needs_admin(peer, request, "removing a model") || refused_while_down(peer, request)) return;
  log::info("model_removed", {{"model", remove.name + (remove.version.empty() ? "" : "@" + remove.version)}, {"by", peer.name}});
  step(core::ModelRemoveReceived{peer.id, request, std::move(remove.name), std::move(remove.version)});
}

}  // namespace gq::broker

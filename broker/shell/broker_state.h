// broker_state.h - the inside of Broker, shared by the files that implement it:
//   broker.cpp          the turn: step, gather, cut, release; store events; start, reload, drain
//   send.cpp            effects to frames, coalesced per peer; link loss
//   client_requests.cpp what clients ask; operator_requests.cpp: what operators order
//   worker_requests.cpp what workers say
//   blob_requests.cpp   chunks in both directions
//   follow_policy.cpp   the policy file: reload, windows that would run out
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "broker/shell/body_cache.h"
#include "broker/shell/kept_jobs.h"
#include "broker/shell/broker.h"
#include "broker/shell/commit_gate.h"
#include "broker/shell/crash_points.h"
#include "broker/shell/entropy.h"
#include "broker/shell/histogram.h"
#include "broker/shell/log_desk.h"
#include "broker/shell/outgoing.h"
#include "broker/shell/peers.h"
#include "broker/shell/token_pool.h"
#include "broker/shell/translate.h"
#include "common/wire/codec.h"

namespace gq::broker {

struct Broker::State {
  State(net::Context& context, asio::io_context& io_, BrokerConfig config_, MakeStore make_store_, store::BlobStore& blobs_, Handlers handlers_);

  // ---- broker.cpp: the turn
  void open_store();
  void loaded(store::Opened&& opened);
  void step(core::Event&& event);
  void gather();
  void tell_cut(std::uint64_t batch);
  void keep(const core::Mutation& mutation);
  void hold(Outgoing&& outgoing);
  void end_turn(store::Committed* committed = nullptr);
  void cut();
  void commit_done(store::Committed&& committed);
  void arm_wakeup();
  void tick();
  void update_reading();
  void store_down(Error why);
  void store_up();
  void reload(const Error& why);
  void stop(Error why);
  void finish_drain();

  // ---- follow_policy.cpp
  Result<policy::Loaded> reload_policy();   ///< within a turn
  void follow_policy();                     ///< what the source says now goes to the core
  void renew_windows();

  // ---- send.cpp
  void release(store::Committed* committed);
  void dispatch(Outgoing& outgoing, store::Committed* committed);
  void dispatch_message(core::Message& message, SharedBytes& bytes, store::Committed* committed);
  void assign(core::Assign&& assign, SharedBytes body, store::Committed* committed);
  void notice(const core::JobNotice& notice, const SharedBytes& result);
  void read_more_results();
  void flush(Peer& peer);
  void flush_all();
  void flush_assign(Peer& peer);
  void flush_notify(Peer& peer);
  net::SendOutcome send(Peer& peer, std::string_view head, std::string_view body = {});
  template <class T>
  void say(Peer& peer, const T& message, std::uint64_t request = 0, std::string_view body = {}) {
    if (peer.on_worker_port) flush_assign(peer);   // numbers per connection must arrive in order
    send(peer, wire::encode(message, request), body);
  }
  void refuse(Peer& peer, std::uint64_t request, const Error& error);
  /// An answer that shows job state: behind all earlier commits.
  template <class T>
  void reply(Peer& peer, std::uint64_t request, const T& message, std::string body = {}) {
    hold({Frames{peer.id, request, wire::encode(message, request), std::move(body)}, nullptr});
  }
  void answer_abandoned(std::vector<Outgoing>&& waiting);
  void mark_dirty(Peer& peer) {
    if (std::exchange(peer.dirty, true)) return;
    dirty.push_back(peer.id);
  }
  Peer* find(PeerId id) {
    const auto it = peers.find(id);
    return it == peers.end() ? nullptr : it->second.get();
  }
  void peer_gone(PeerId id);
  void forget_gone();
  void start_probing(bool worker_port);
  void probe_round();

  // ---- requests
  void received(bool worker_port, const net::Speaker& speaker, net::Packet&& packet);
  void malformed(bool worker_port, const net::Speaker& speaker, const Error& error);
  Peer& peer_of(bool worker_port, const net::Speaker& speaker);
  [[nodiscard]] std::optional<Error> not_welcome(const Peer& peer) const;
  void on_client(Peer& peer, wire::Decoded&& decoded, std::string_view body);
  void on_worker(Peer& peer, wire::Decoded&& decoded, std::string_view body);
  void on_unexpected(Peer& peer, const wire::Header& header);

  void on_client_hello(Peer& peer, std::uint64_t request, wire::ClientHello&& hello);
  void on_submit(Peer& peer, std::uint64_t request, wire::Submit&& submit, std::string_view body);
  void on_retry(Peer& peer, std::uint64_t request, const wire::Retry& retry);
  void on_status(Peer& peer, std::uint64_t request, const wire::StatusQuery& query);
  void on_list(Peer& peer, std::uint64_t request, wire::ListQuery&& query);
  void on_result(Peer& peer, std::uint64_t request, const wire::ResultQuery& query);
  void on_parent_result(Peer& peer, std::uint64_t request, const wire::ResultQuery& query);
  void on_log_query(Peer& peer, std::uint64_t request, const wire::LogQuery& query);
  void on_model_push(Peer& peer, std::uint64_t request, wire::ModelPush&& push);
  void on_model_command(Peer& peer, std::uint64_t request, wire::ModelCommand&& command);
  void on_model_remove(Peer& peer, std::uint64_t request, wire::ModelRemove&& remove);
  void on_top(Peer& peer, std::uint64_t request);
  void on_workers_query(Peer& peer, std::uint64_t request);
  void on_command(Peer& peer, std::uint64_t request, wire::Command&& command);
  void on_update_job(Peer& peer, std::uint64_t request, wire::UpdateJob&& update);
  void on_config(Peer& peer, std::uint64_t request, const wire::ConfigQuery& query);
  void on_explain(Peer& peer, std::uint64_t request, const wire::ExplainQuery& query);
  void on_plan_submit(Peer& peer, std::uint64_t request, wire::PlanSubmit&& plan);
  void on_plan_policy(Peer& peer, std::uint64_t request, const wire::PlanPolicy& plan);
  bool refused_while_down(Peer& peer, std::uint64_t request);
  [[nodiscard]] static std::string scope_of(const Peer& peer);   ///< whose jobs it may touch; empty = everybody's
  bool needs_admin(Peer& peer, std::uint64_t request, std::string_view what);
  void log_ended(JobId job);
  void say_news(JobId job);

  void on_worker_hello(Peer& peer, std::uint64_t request, wire::WorkerHello&& hello);
  void on_ended(Peer& peer, std::uint64_t request, wire::Ended&& ended, std::string_view body);
  void on_beat(Peer& peer, std::uint64_t request, wire::WorkerBeat&& beat);

  void on_blob_put(Peer& peer, std::uint64_t request, const wire::BlobPut& put, std::string_view body);
  void on_blob_get(Peer& peer, std::uint64_t request, const wire::BlobGet& get);

  [[nodiscard]] bool serving() const { return core != nullptr; }
  [[nodiscard]] Term term() const { return opened_term; }

  // ---- what it is made of
  asio::io_context& io;
  BrokerConfig config;
  MakeStore make_store;
  Handlers handlers;
  store::BlobStore& blobs;
  net::RouterPort clients, workers;
  std::string client_endpoint, worker_endpoint;
  asio::steady_timer wakeup, ticker, prober, drainer;

  std::unique_ptr<store::Store> store;
  std::unique_ptr<core::Core> core;
  using Gate = CommitGate<store::BatchItem, Outgoing>;
  std::optional<Gate> gate;
  Term opened_term{};
  std::optional<Error> down;            ///< why the store cannot be reached, while it cannot
  bool stopped{};
  bool draining{};
  std::function<void()> drained;

  Entropy entropy;
  TokenPool pool;
  BodyCache bodies;
  KeptJobs kept;
  LogDesk logs;
  Peers peers;
  std::vector<PeerId> dirty;
  std::vector<PeerId> gone;             ///< found while sending; told to the core when the turn ends
  std::vector<JobId> ended_jobs;        ///< this turn, for the log desk
  struct PartAnswer { std::size_t index; wire::SubmittedItem item; };
  /// Items that were refused before they reached the core, until the core has answered for their neighbours.
  std::unordered_map<PeerId, std::unordered_map<std::uint64_t, std::vector<PartAnswer>>> refused_items;
  std::deque<core::JobNotice> results_wanted;
  bool reading_results{};
  std::vector<JobId> payloads_missing;

  bool probing_clients{}, probing_workers{};
  Instant probe_until{};
  std::vector<PeerId> probed_gone;

  // scratch, kept for its capacity
  core::Effects effects;
  std::vector<store::BatchItem> items;
  std::vector<Outgoing> sends;
  std::vector<Outgoing> leaving;

  bool reading_clients{true};
  std::size_t blob_bytes_waiting{};     ///< chunks handed to the blob store that are not on disk yet
  Instant armed{};
  Instant started{};
  Instant cut_at{};
  BatchWeight flying_weight;
  BrokerFigures counted;
};

}  // namespace gq::broker

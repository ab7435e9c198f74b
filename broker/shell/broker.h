// broker.h - the imperative shell around the core: one loop, one thread.
//
// A turn: drain a socket, translate each message into an event, step the core, gather its effects; then write one batch, and when
// it is durable release the sends that waited for it and write the next. Sockets, clock, random numbers, bytes and the store are
// here; every decision is in broker/core, what may leave when is in commit_gate.h, what words mean is in translate.h.
//
// What peers must know beyond PROTOCOL.md's list of messages:
//   - A worker's connection that has not said WORKER_HELLO (this broker restarted, or loaded its core anew) is answered
//     Failure{UNAVAILABLE, "say hello"} to whatever it says; it says WORKER_HELLO again and reconciles. Clients need no hello to
//     be served, they get their welcome when they say one. After a reload every client gets a BEAT_REPLY with the new term and
//     watches again; requests that were under way are answered Failure UNAVAILABLE and may be sent again.
//   - WORKER_BEAT_REPLY with sent_us 0 is a link probe: harmless, to be ignored.
//   - ENDED that names a blob which is not stored: Failure UNKNOWN_BLOB on that request's id; the other items of the message were
//     taken and get their ACCEPTED. The worker uploads again and sends the items without a verdict once more.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "broker/core/core.h"
#include "broker/policy/source.h"
#include "broker/shell/histogram.h"
#include "broker/store/blobs.h"
#include "broker/store/store.h"
#include "common/net/port.h"

namespace gq::broker {

inline constexpr std::string_view kVersion = "0.1.0";

struct BrokerConfig {
  core::CoreConfig core;
  net::RouterPort::Options clients;     ///< endpoint, keys (nullptr = insecure)
  net::RouterPort::Options workers;
  std::string space = "default";
  std::shared_ptr<policy::PolicySource> policy;   ///< what the core follows; nullptr = core.policy as it is, without a file
  Duration tick = std::chrono::milliseconds(400);
};

/// For /metrics and TOP.
struct BrokerFigures {
  core::Totals totals;
  std::vector<core::WorkerView> workers;
  Histogram commit_latency;
  std::uint64_t commits{}, jobs_committed{}, bytes_committed{};
  std::uint64_t messages_in{}, messages_out{}, malformed{}, refused{};
  std::uint64_t core_bytes{};
  std::size_t client_peers{}, worker_peers{};
  Term term{};
  Duration uptime{};
  bool serving{};
  bool store_up{};
  std::string store;
};

class Broker {
 public:
  /// Makes the store, given what it must tell us.
  using MakeStore = std::function<std::unique_ptr<store::Store>(store::Watcher)>;
  struct Handlers {
    std::function<void()> serving;            ///< the image is loaded, requests are answered
    std::function<void(Error)> failed;        ///< never came to serve, or must not go on (FENCED, REDIS_CORRUPT): stop and say so
  };

  Broker(net::Context& context, asio::io_context& io, BrokerConfig config, MakeStore make_store, store::BlobStore& blobs, Handlers handlers);
  ~Broker();
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;

  /// Binds both ports (PORT_IN_USE …); nothing is read from them until the store is open and its image loaded.
  Result<void> bind();
  void open_store();
  /// Reads no more; what is in flight is finished and its sends leave. `done` at the latest after `patience`.
  void drain(Duration patience, std::function<void()> done);
  void close();
  /// This key has been revoked or has expired: close what it holds open.
  void key_revoked(const std::string& name);
  /// Reads the policy file again. A wrong one changes nothing and is logged; a right one is followed from this turn on.
  Result<policy::Loaded> reload_policy();

  [[nodiscard]] const std::string& client_endpoint() const;
  [[nodiscard]] const std::string& worker_endpoint() const;
  [[nodiscard]] BrokerFigures figures() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gq::broker

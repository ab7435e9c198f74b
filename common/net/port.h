// port.h - one ZeroMQ socket inside one Asio loop, by the exact rule of ZMQ_FD: the last ZeroMQ call before waiting on the fd is a
// read of ZMQ_EVENTS that shows nothing to do. One socket belongs to one thread; sends never block.
//
// A RouterPort serves many peers and names each connection with a PeerId; a DealerPort is one peer's end. Both authenticate with
// CURVE unless the options say `insecure` (loopback only). Who a peer is = the user id its key got from ZAP, never the routing id.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/net/asio.h"
#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"

namespace zmq {
class context_t;
}

namespace gq::net {

/// At most two frames, see messages.h. `body` is empty when there is no frame 1.
struct Packet {
  std::string head;
  std::string body;
};

enum class Role : std::uint8_t { client, worker, admin };
std::string_view to_string(Role role);
std::optional<Role> parse_role(std::string_view text);

/// Who said it: from ZAP. With --insecure: role as the port's own, name "insecure".
struct Speaker {
  PeerId peer;
  std::string name;      ///< name of the key
  Role role{};
  std::string address;   ///< IP
};

enum class SendOutcome : std::uint8_t { sent, gone, stuck };

struct ServerKeys;   ///< keys.h
class Authority;     ///< zap.h: the ZAP handler of this process

/// Owns the zmq::context_t; one per process (and one ZAP handler with it).
class Context {
 public:
  Context();
  ~Context();
  zmq::context_t& native();
  /// True once an Authority of this context has passed its self-test; without it no port with keys is bound.
  void set_guarded(bool guarded);
  [[nodiscard]] bool guarded() const;
 private:
  struct State;
  std::unique_ptr<State> state_;
};

class RouterPort {
 public:
  struct Options {
    std::string endpoint;             ///< "tcp://127.0.0.1:7700"; port 0 or "*" = ephemeral
    Role insecure_role{};             ///< role of every peer when keys == nullptr
    const ServerKeys* keys{};         ///< nullptr = --insecure
    Authority* authority{};           ///< also asked about links already open: messages under a revoked key become `malformed`
    std::size_t high_water = 100'000;
    std::size_t frame_bytes_max = 4U << 20U;
    int backlog = 4096;
  };
  struct Handlers {
    std::function<void(const Speaker&, Packet&&)> received;
    std::function<void(const Speaker&, Error)> malformed;   ///< wrong frame count; the port has dropped it
    std::function<void()> drained;                          ///< after each drain turn: flush here what was gathered
    std::function<void()> link_lost;                        ///< a monitor DISCONNECTED event: names no peer, probe()
  };
  RouterPort(Context& context, asio::io_context& io, Handlers handlers);
  ~RouterPort();
  Result<std::string> bind(const Options& options);         ///< the endpoint really bound; PORT_IN_USE, KEY_REFUSED …
  SendOutcome send(PeerId peer, std::string_view head, std::string_view body = {});
  /// MANDATORY probe: does this peer still have a link? Sends nothing the peer would notice beyond an empty BeatReply-like no-op.
  bool probe(PeerId peer, std::string_view harmless_head);
  void forget(PeerId peer);
  [[nodiscard]] std::size_t peers() const;                  ///< known ones; an idle peer that left is known until a send says gone, or forget()
  void pause_reading(bool paused);                          ///< back-pressure: leaves messages in the socket
  void close();
 private:
  struct State;
  std::shared_ptr<State> state_;
};

struct AccessFile;   ///< keys.h

class DealerPort {
 public:
  struct Options {
    std::string endpoint;
    const AccessFile* access{};       ///< nullptr = --insecure
    std::size_t high_water = 100'000;
    std::size_t frame_bytes_max = 4U << 20U;
  };
  struct Handlers {
    std::function<void(Packet&&)> received;
    std::function<void()> drained;
    std::function<void()> connected;                        ///< handshake succeeded
    std::function<void()> disconnected;
    /// KEY_REFUSED (broker refused this key: this socket never retries, open a new one), "wrong server key", "one side speaks no
    /// CURVE", each with the next command to try. Comes within seconds, from the monitor.
    std::function<void(Error)> refused;
  };
  DealerPort(Context& context, asio::io_context& io, Handlers handlers);
  ~DealerPort();
  Result<void> connect(const Options& options);             ///< again after close() or a refusal: a new socket
  SendOutcome send(std::string_view head, std::string_view body = {});   ///< gone = no link now (nothing queues: IMMEDIATE)
  void close();
 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace gq::net

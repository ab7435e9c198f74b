// router_port.cpp - the broker's end: many peers, each named by a PeerId that is never used again.
//
// Routing ids are libzmq's; a peer may even choose its own, so an id alone proves nothing: the user id that ZAP gave the link's
// key comes with every message and is compared with what the PeerId was made for.
#include <map>
#include <unordered_map>

#include "common/net/port.h"
#include "common/net/pump.h"
#include "common/net/socket.h"
#include "common/net/user_id.h"
#include "common/net/zap.h"

namespace gq::net {

namespace {
constexpr int kMessagesPerTurn = 256;
constexpr int kDroppedFramesPerTurn = 4096;
}  // namespace

struct RouterPort::State {
  struct Peer {
    Speaker speaker;
    std::string route;
    std::string user_id;
    std::uint64_t checked{};  ///< the authority's generation that allowed it
  };
  using Peers = std::unordered_map<std::uint64_t, Peer>;

  Context& context;
  asio::io_context& io;
  Handlers handlers;
  Authority* authority{};
  bool insecure{};
  Role insecure_role{};
  zmq::socket_t socket, monitor;
  std::shared_ptr<Pump> pump, monitor_pump;
  Peers peers;
  std::unordered_map<std::string, Peer*> by_route;
  std::uint64_t last_peer{};
  zmq::message_t route, head, body;
  bool paused{};
  bool dropping{};  ///< in the middle of a message of too many frames
  Peer* culprit{};

  State(Context& c, asio::io_context& i, Handlers h) : context(c), io(i), handlers(std::move(h)) {}

  /// The peer that sent `head` over `route`; nullptr and a reason when it must not be listened to.
  Peer* who(Error& refusal) {
    const std::string_view user_id = insecure ? std::string_view() : property(head, "User-Id");
    const std::string route_key = route.to_string();
    if (const auto known = by_route.find(route_key); known != by_route.end()) {
      Peer* peer = known->second;
      if (peer->user_id == user_id) return still_allowed(*peer, refusal) ? peer : nullptr;
      forget(peer->speaker.peer);  // another key under a routing id that was another's: another peer
    }
    Peer peer;
    peer.route = route_key;
    peer.user_id = std::string(user_id);
    if (insecure) {
      peer.speaker.name = "insecure";
      peer.speaker.role = insecure_role;
    } else if (!parse_user_id(user_id, peer.speaker.name, peer.speaker.role)) {
      refusal = {Errc::key_refused, "a link without a key's name", ""};
      return nullptr;
    }
    peer.speaker.address = std::string(property(head, "Peer-Address"));
    peer.speaker.peer = PeerId{++last_peer};
    Peer& stored = peers.emplace(last_peer, std::move(peer)).first->second;
    by_route.emplace(stored.route, &stored);
    return still_allowed(stored, refusal) ? &stored : nullptr;
  }
  bool still_allowed(Peer& peer, Error& refusal) {
    if (authority == nullptr || peer.checked == authority->generation()) return true;
    if (!authority->allowed_user(peer.user_id)) {
      refusal = {Errc::key_refused, "key " + peer.speaker.name + " was revoked or has expired", "ask for a new one: gpuq keys issue"};
      return false;
    }
    peer.checked = authority->generation();
    return true;
  }
  void forget(PeerId id) {
    const auto at = peers.find(id.value);
    if (at == peers.end()) return;
    if (culprit == &at->second) culprit = nullptr;
    by_route.erase(at->second.route);
    peers.erase(at);
  }

  /// The rest of a message of too many frames, a slice at a time. True when it is over.
  bool drop_rest() {
    for (int i = 0; i < kDroppedFramesPerTurn; ++i) {
      zmq::message_t rest;
      if (!receive(socket, rest)) return true;
      if (!rest.more()) {
        dropping = false;
        return true;
      }
    }
    return false;
  }

  enum class Got { message, nothing, slice };
  Got receive_one() {
    if (dropping) return drop_rest() ? Got::message : Got::slice;
    if (!receive(socket, route)) return Got::nothing;
    if (!route.more() || !receive(socket, head)) return Got::message;
    const bool two = head.more();
    if (two && !receive(socket, body)) return Got::message;
    const bool too_many = two && body.more();
    Error refusal;
    Peer* peer = who(refusal);
    if (too_many) {
      dropping = true;
      refusal = {Errc::bad_message, "a message of more than two frames", "send a header frame and at most one payload frame"};
    }
    if (peer == nullptr || too_many) {
      Speaker speaker;
      if (peer != nullptr) speaker = peer->speaker;
      else if (const auto known = by_route.find(route.to_string()); known != by_route.end()) speaker = known->second->speaker;
      if (handlers.malformed) handlers.malformed(speaker, std::move(refusal));
      return dropping ? Got::slice : Got::message;
    }
    Packet packet{head.to_string(), two ? body.to_string() : std::string()};
    const Speaker speaker = peer->speaker;  // a copy: the handler may forget the peer
    if (handlers.received) handlers.received(speaker, std::move(packet));
    return Got::message;
  }

  Pump::Turn turn() {
    bool any = false;
    Pump::Turn result = Pump::Turn::more;
    for (int i = 0; i < kMessagesPerTurn; ++i) {
      const Got got = receive_one();
      if (!socket || pump->stopped()) return Pump::Turn::empty;
      if (got == Got::nothing) {
        result = Pump::Turn::empty;
        break;
      }
      any = true;
      if (paused || got == Got::slice) break;
    }
    if (any && handlers.drained) handlers.drained();
    return result;
  }

  Pump::Turn monitor_turn() {
    MonitorEvent event;
    bool lost = false;
    for (int i = 0; i < kMessagesPerTurn; ++i) {
      if (!read_monitor(monitor, event)) {
        if (lost && handlers.link_lost) handlers.link_lost();
        return Pump::Turn::empty;
      }
      lost = lost || event.event == ZMQ_EVENT_DISCONNECTED;
    }
    if (lost && handlers.link_lost) handlers.link_lost();
    return Pump::Turn::more;
  }

  void close() {
    if (pump) pump->stop();
    if (monitor_pump) monitor_pump->stop();
    close_monitored(socket, monitor, kFarewellMs);
    peers.clear();
    by_route.clear();
    culprit = nullptr;
  }
};

RouterPort::RouterPort(Context& context, asio::io_context& io, Handlers handlers)
    : state_(std::make_shared<State>(context, io, std::move(handlers))) {}
RouterPort::~RouterPort() { state_->close(); }

Result<std::string> RouterPort::bind(const Options& options) {
  State& s = *state_;
  check(!s.socket, "a port is bound once");
  s.insecure = options.keys == nullptr;
  s.insecure_role = options.insecure_role;
  s.authority = options.authority;
  if (s.insecure && !is_loopback(options.endpoint))
    return fail(Errc::refused, "without keys a broker listens on loopback only, not on " + options.endpoint,
                "drop --insecure (keys are made by: gpuq keys init), or bind tcp://127.0.0.1");
  if (!s.insecure && !s.context.guarded())
    return fail(Errc::zap_selftest, "nobody guards " + options.endpoint + ": the key check has not proved itself",
                "start the Authority and pass its self-test before binding");
  zmq::socket_t socket = open_socket(s.context, zmq::socket_type::router, options.high_water, options.frame_bytes_max);
  const int unset = errno_of([&] {
    socket.set(zmq::sockopt::ipv6, options.endpoint.find('[') != std::string::npos);
    socket.set(zmq::sockopt::router_mandatory, true);
    socket.set(zmq::sockopt::backlog, options.backlog);
  });
  check(unset == 0, "libzmq refuses a router option");
  if (!s.insecure)
    if (auto secured = set_server_security(socket, *options.keys); !secured) return tl::unexpected(secured.error());
  zmq::socket_t monitor = open_monitor(s.context, socket, ZMQ_EVENT_DISCONNECTED);
  if (const int refused = errno_of([&] { socket.bind(options.endpoint); })) return tl::unexpected(bind_error(options.endpoint, refused));
  std::string bound;
  check(errno_of([&] { bound = socket.get(zmq::sockopt::last_endpoint); }) == 0, "a bound socket has no endpoint");
  s.socket = std::move(socket);
  s.monitor = std::move(monitor);
  s.pump = std::make_shared<Pump>(s.io, s.socket, turn_of(state_, &State::turn));
  s.monitor_pump = std::make_shared<Pump>(s.io, s.monitor, turn_of(state_, &State::monitor_turn));
  s.pump->pause(s.paused);  // may have been asked for before the bind; schedules a turn unless paused
  s.monitor_pump->schedule();
  return bound;
}

SendOutcome RouterPort::send(PeerId peer, std::string_view head, std::string_view body) {
  State& s = *state_;
  const auto at = s.peers.find(peer.value);
  if (at == s.peers.end() || !s.socket) return SendOutcome::gone;
  const std::string_view frames[] = {at->second.route, head, body};
  const SendOutcome outcome = send_frames(s.socket, std::span(frames).first(body.empty() ? 2 : 3));
  s.pump->schedule();
  if (outcome == SendOutcome::gone) s.forget(peer);
  return outcome;
}

bool RouterPort::probe(PeerId peer, std::string_view harmless_head) { return send(peer, harmless_head) != SendOutcome::gone; }
void RouterPort::forget(PeerId peer) { state_->forget(peer); }
std::size_t RouterPort::peers() const { return state_->peers.size(); }
void RouterPort::pause_reading(bool paused) {
  state_->paused = paused;
  if (state_->pump) state_->pump->pause(paused);
}
void RouterPort::close() { state_->close(); }

}  // namespace gq::net

// dealer_port.cpp - a peer's end of one link. libzmq reconnects by itself; what it never says aloud (refused key, wrong server key,
// no CURVE) is read from its monitor and told once, with the command that mends it.
#include "common/log.h"
#include "common/net/port.h"
#include "common/net/pump.h"
#include "common/net/socket.h"

namespace gq::net {

namespace {
constexpr int kMessagesPerTurn = 256;
constexpr int kReconnectMs = 100;
constexpr int kReconnectMaxMs = 2'000;
constexpr int kSilentRefusals = 3;  // one may be a broker that is just going down
constexpr int kSilentRefusalsPlain = 10;   // without CURVE: somebody accepts, and always hangs up at once
constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                        ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
}  // namespace

struct DealerPort::State {
  Context& context;
  asio::io_context& io;
  Handlers handlers;
  zmq::socket_t socket, monitor;
  std::shared_ptr<Pump> pump, monitor_pump;
  std::string endpoint, key_name;
  bool secured{}, up{}, told{};
  int silent_refusals{};
  zmq::message_t head, body;

  State(Context& c, asio::io_context& i, Handlers h) : context(c), io(i), handlers(std::move(h)) {}

  Pump::Turn turn() {
    bool any = false;
    Pump::Turn result = Pump::Turn::more;
    const std::shared_ptr<Pump> mine = pump;  // a handler may close and connect anew
    for (int i = 0; i < kMessagesPerTurn; ++i) {
      if (!receive(socket, head)) {
        result = Pump::Turn::empty;
        break;
      }
      const bool two = head.more() && receive(socket, body);
      if (two && body.more()) {  // no broker of ours says that
        zmq::message_t rest;
        do {} while (receive(socket, rest) && rest.more());
        log::warn("malformed_message", {{"from", endpoint}, {"reason", "more than two frames"}});
        continue;
      }
      any = true;
      if (handlers.received) handlers.received(Packet{head.to_string(), two ? body.to_string() : std::string()});
      if (mine->stopped()) return Pump::Turn::empty;
    }
    if (any && handlers.drained) handlers.drained();
    return result;
  }

  void tell(Error error) {
    if (std::exchange(told, true)) return;
    if (handlers.refused) handlers.refused(std::move(error));
  }
  [[nodiscard]] Error other_mechanism() const {
    return {Errc::protocol, "one side speaks no CURVE: " + endpoint + (secured ? " does not encrypt, we do" : " may encrypt, we do not"),
            secured ? "the broker was started --insecure: start it with keys, or add --insecure here"
                    : "drop --insecure and name an access file: --access-file FILE (made by: gpuq keys issue)"};
  }
  void on_event(const MonitorEvent& event) {
    switch (event.event) {
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        up = true;
        silent_refusals = 0;
        if (handlers.connected) handlers.connected();
        return;
      case ZMQ_EVENT_DISCONNECTED:
        if (std::exchange(up, false) && handlers.disconnected) handlers.disconnected();
        return;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return tell({Errc::key_refused, "the broker at " + endpoint + " refused key " + (key_name.empty() ? "(none)" : key_name),
                     "on the broker's host look at: gpuq keys list; a new key: gpuq keys issue --role ROLE --name " +
                         (key_name.empty() ? "NAME" : key_name)});
      case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        ++silent_refusals;
        if (!secured) {   // it may hang up before its greeting is read, which would tell why
          if (silent_refusals >= kSilentRefusalsPlain) tell(other_mechanism());
          return;
        }
        if (silent_refusals < kSilentRefusals) return;
        return tell({Errc::key_refused, "wrong server key: " + endpoint + " is not the broker this access file was made for, or its keys were made anew",
                     "take a new access file from the broker's host: gpuq keys issue"});
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return tell(other_mechanism());
      default: return;
    }
  }
  Pump::Turn monitor_turn() {
    const std::shared_ptr<Pump> mine = monitor_pump;
    for (int i = 0; i < kMessagesPerTurn; ++i) {
      MonitorEvent event;
      if (!read_monitor(monitor, event)) return Pump::Turn::empty;
      on_event(event);
      if (mine->stopped()) return Pump::Turn::empty;
    }
    return Pump::Turn::more;
  }

  void close() {
    if (pump) pump->stop();
    if (monitor_pump) monitor_pump->stop();
    close_monitored(socket, monitor, kFarewellMs);
    up = told = false;
    silent_refusals = 0;
  }
};

DealerPort::DealerPort(Context& context, asio::io_context& io, Handlers handlers)
    : state_(std::make_shared<State>(context, io, std::move(handlers))) {}
DealerPort::~DealerPort() { state_->close(); }

Result<void> DealerPort::connect(const Options& options) {
  State& s = *state_;
  s.close();
  s.endpoint = options.endpoint;
  s.secured = options.access != nullptr;
  s.key_name = s.secured ? options.access->name : std::string();
  if (!s.secured && !is_loopback(options.endpoint))
    return fail(Errc::refused, "without a key only a broker on loopback is spoken to, not " + options.endpoint,
                "name an access file: --access-file FILE (made on the broker's host by: gpuq keys issue)");
  zmq::socket_t socket = open_socket(s.context, zmq::socket_type::dealer, options.high_water, options.frame_bytes_max);
  const int unset = errno_of([&] {
    socket.set(zmq::sockopt::ipv6, options.endpoint.find('[') != std::string::npos);
    socket.set(zmq::sockopt::immediate, true);
    socket.set(zmq::sockopt::reconnect_ivl, kReconnectMs);
    socket.set(zmq::sockopt::reconnect_ivl_max, kReconnectMaxMs);
  });
  check(unset == 0, "libzmq refuses a dealer option");
  if (s.secured)
    set_client_security(socket, options.access->server_key, options.access->public_key, options.access->secret_key.reveal());
  zmq::socket_t monitor = open_monitor(s.context, socket, kEvents);
  if (const int refused = errno_of([&] { socket.connect(options.endpoint); }))
    return fail(Errc::usage, "cannot connect to " + options.endpoint + ": " + zmq::error_t(refused).what(), "an endpoint looks like tcp://host:7700");
  s.socket = std::move(socket);
  s.monitor = std::move(monitor);
  s.pump = std::make_shared<Pump>(s.io, s.socket, turn_of(state_, &State::turn));
  s.monitor_pump = std::make_shared<Pump>(s.io, s.monitor, turn_of(state_, &State::monitor_turn));
  s.pump->schedule();
  s.monitor_pump->schedule();
  return {};
}

SendOutcome DealerPort::send(std::string_view head, std::string_view body) {
  State& s = *state_;
  if (!s.socket || !s.up) return SendOutcome::gone;  // after a disconnect the dying pipe would still take, and lose, a message
  const std::string_view frames[] = {head, body};
  const SendOutcome outcome = send_frames(s.socket, std::span(frames).first(body.empty() ? 1 : 2));
  s.pump->schedule();
  return outcome;
}

void DealerPort::close() { state_->close(); }

}  // namespace gq::net

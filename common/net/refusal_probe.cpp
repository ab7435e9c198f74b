// refusal_probe.cpp - see refusal_probe.h. "Entered" is believed only when a message has come through the door.
#include "common/net/refusal_probe.h"

#include <strings.h>

namespace gq::net {

namespace {
constexpr std::uint32_t kDenied = 400;
constexpr int kKnockEvents = ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
}  // namespace

Result<void> RefusalProbe::open(const ServerKeys& keys) {
  zmq::socket_t door = open_socket(context_, zmq::socket_type::router, 16, 1024);
  if (auto secured = set_server_security(door, keys); !secured) return secured;
  if (const int refused = errno_of([&] { door.bind("tcp://127.0.0.1:*"); }))
    return fail(Errc::zap_selftest, std::string("cannot listen on loopback for the key check: ") + zmq::error_t(refused).what(), "is the loopback interface up? ip link show lo");
  check(errno_of([&] { endpoint_ = door.get(zmq::sockopt::last_endpoint); }) == 0, "a bound socket has no endpoint");
  door_ = std::move(door);
  return {};
}

std::string RefusalProbe::knock(const std::string& server_key, Key key) {
  end_knock();
  char public_key[41] = {}, secret_key[41] = {};
  check(zmq_curve_keypair(public_key, secret_key) == 0, "libzmq makes no CURVE keys");
  knocker_ = open_socket(context_, zmq::socket_type::dealer, 16, 1024);
  set_client_security(knocker_, server_key, public_key, secret_key);
  explicit_bzero(secret_key, sizeof secret_key);
  monitor_ = open_monitor(context_, knocker_, kKnockEvents);
  check(errno_of([&] { knocker_.connect(endpoint_); }) == 0, "our own door cannot be dialled");
  const std::string_view message[] = {"knock"};
  send_frames(knocker_, message);
  key_ = key;
  // Only a random key's refusals are ours to ignore in the statistics.
  public_key_ = public_key;
  return public_key_;
}

RefusalProbe::Seen RefusalProbe::look() {
  if (!knocker_) return Seen::nothing;
  zmq::message_t frame;
  if (receive(door_, frame)) {
    while (frame.more() && receive(door_, frame)) {}  // the first frame is the routing id: it carries no user
    const std::string user(property(frame, "User-Id"));
    // Another local program with a key of its own may have found this door; that proves nothing.
    if (user.empty() || user.find(":self-test:") != std::string::npos) return key_ == Key::known && user.empty() ? Seen::other : Seen::entered;
  }
  MonitorEvent event;
  if (!read_monitor(monitor_, event)) return Seen::nothing;
  return event.event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH && event.value == kDenied ? Seen::refused : Seen::other;
}

void RefusalProbe::sleep(zmq::socket_ref also) {
  zmq::pollitem_t items[] = {{door_.handle(), 0, ZMQ_POLLIN, 0}, {monitor_.handle(), 0, ZMQ_POLLIN, 0}, {also.handle(), 0, ZMQ_POLLIN, 0}};
  errno_of([&] { zmq::poll(items, also ? 3 : 2, 20ms); });
}

void RefusalProbe::end_knock() { close_monitored(knocker_, monitor_, 0); }

std::string RefusalProbe::describe(Seen seen) {
  switch (seen) {
    case Seen::nothing: return "nothing was answered within seconds";
    case Seen::refused: return "it was refused";
    case Seen::entered: return "it was let in";
    case Seen::other: return "the handshake ended otherwise";
  }
  return "?";
}

}  // namespace gq::net

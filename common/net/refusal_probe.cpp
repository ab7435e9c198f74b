// refusal_probe.cpp - see refusal_probe.h. "Entered" is believed only when a message has come through the door.
#include "common/net/refusal_probe.h"

#include <strings.h>

namespace gq::net {

namespace {
constexpr std::uint32_t kDenied = 400;
constexpr int kKnockEvents = ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
}  // namespace

Result<void> RefusalProbe::open(const ServerKeys& keys) {
  Socket door(context_.handle(), ZMQ_ROUTER);
  check(static_cast<bool>(door), "no ZeroMQ socket left");
  set_common_options(door, 16, 1024);
  if (auto secured = set_server_security(door, keys); !secured) return secured;
  if (zmq_bind(door.handle(), "tcp://127.0.0.1:*") != 0)
    return fail(Errc::zap_selftest, std::string("cannot listen on loopback for the key check: ") + zmq_strerror(errno), "is the loopback interface up? ip link show lo");
  char bound[256];
  std::size_t size = sizeof bound;
  check(zmq_getsockopt(door.handle(), ZMQ_LAST_ENDPOINT, bound, &size) == 0, "a bound socket has no endpoint");
  endpoint_ = bound;
  door_ = std::move(door);
  return {};
}

std::string RefusalProbe::knock(const std::string& server_key, Key key) {
  end_knock();
  char public_key[41] = {}, secret_key[41] = {};
  check(zmq_curve_keypair(public_key, secret_key) == 0, "libzmq makes no CURVE keys");
  Socket knocker(context_.handle(), ZMQ_DEALER);
  check(static_cast<bool>(knocker), "no ZeroMQ socket left");
  set_common_options(knocker, 16, 1024);
  set_client_security(knocker, server_key, public_key, secret_key);
  explicit_bzero(secret_key, sizeof secret_key);
  monitor_ = open_monitor(context_.handle(), knocker, kKnockEvents);
  check(zmq_connect(knocker.handle(), endpoint_.c_str()) == 0, "our own door cannot be dialled");
  send_frame(knocker.handle(), "knock", ZMQ_DONTWAIT);
  knocker_ = std::move(knocker);
  key_ = key;
  // Only a random key's refusals are ours to ignore in the statistics.
  public_key_ = public_key;
  return public_key_;
}

RefusalProbe::Seen RefusalProbe::look() {
  if (!knocker_) return Seen::nothing;
  Frame frame;
  if (frame.receive(door_.handle())) {
    while (frame.more() && frame.receive(door_.handle())) {}  // the first frame is the routing id: it carries no user
    const std::string user(frame.property("User-Id"));
    // Another local program with a key of its own may have found this door; that proves nothing.
    if (user.empty() || user.find(":self-test:") != std::string::npos) return key_ == Key::known && user.empty() ? Seen::other : Seen::entered;
  }
  MonitorEvent event;
  if (!read_monitor(monitor_, event)) return Seen::nothing;
  return event.event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH && event.value == kDenied ? Seen::refused : Seen::other;
}

void RefusalProbe::sleep(void* also) {
  zmq_pollitem_t items[] = {{door_.handle(), 0, ZMQ_POLLIN, 0}, {monitor_.handle(), 0, ZMQ_POLLIN, 0}, {also, 0, ZMQ_POLLIN, 0}};
  zmq_poll(items, also != nullptr ? 3 : 2, 20);
}

void RefusalProbe::end_knock() {
  if (knocker_) zmq_socket_monitor(knocker_.handle(), nullptr, 0);
  monitor_.close();
  knocker_.close();
}

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

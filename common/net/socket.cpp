// socket.cpp - the options table and the context.
#include "common/net/socket.h"

#include <atomic>
#include <cstring>
#include <string>

#include "common/net/port.h"

namespace gq::net {

namespace {

// A DRAFT name in zmq.h, so absent without drafts and from zmq::sockopt, but Debian's 4.3.4 honours the number: without it a
// CURVE server whose handler is missing accepts every key.
constexpr zmq::sockopt::integral_option<93, int> kZapEnforceDomain;

constexpr int kHandshakeMs = 5'000;   // half-open peers must not pile up
constexpr int kPingEveryMs = 1'000;   // ZMTP pings find dead links; a loaded two-core machine still answers within 5 s
constexpr int kPingTimeoutMs = 5'000;

}  // namespace

struct Context::State {
  zmq::context_t native;
  bool guarded{};
};

Context::Context() {
  check(errno_of([&] { state_ = std::make_unique<State>(); }) == 0, "no ZeroMQ context");
  check(zmq::version() >= std::tuple(4, 3, 3), "libzmq older than 4.3.3: raw peers starve its CURVE servers (CVE-2020-15166)");
  check(zmq_has("curve") == 1, "libzmq was built without CURVE");
  errno_of([&] { native().set(zmq::ctxopt::max_sockets, 16'384); });  // load generators open one per simulated worker
}
Context::~Context() = default;
zmq::context_t& Context::native() { return state_->native; }
void Context::set_guarded(bool guarded) { state_->guarded = guarded; }
bool Context::guarded() const { return state_->guarded; }

SendOutcome send_frames(zmq::socket_t& socket, std::span<const std::string_view> frames) {
  for (std::size_t i = 0; i < frames.size(); ++i) {
    const auto flags = i + 1 < frames.size() ? zmq::send_flags::dontwait | zmq::send_flags::sndmore : zmq::send_flags::dontwait;
    zmq::send_result_t sent;
    const int refused = errno_of([&] { sent = socket.send(zmq::buffer(frames[i]), flags); });
    if (i == 0 && !sent) return refused == 0 ? SendOutcome::stuck : SendOutcome::gone;
  }
  return SendOutcome::sent;
}

std::string_view property(zmq::message_t& frame, const char* name) {
  const char* value = "";
  errno_of([&] { value = frame.gets(name); });
  return value;
}

zmq::socket_t open_socket(Context& context, zmq::socket_type type, std::size_t high_water, std::size_t frame_bytes_max) {
  zmq::socket_t socket;
  check(errno_of([&] { socket = zmq::socket_t(context.native(), type); }) == 0, "no ZeroMQ socket left");
  const int refused = errno_of([&] {
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, static_cast<int>(high_water));
    socket.set(zmq::sockopt::rcvhwm, static_cast<int>(high_water));
    socket.set(zmq::sockopt::handshake_ivl, kHandshakeMs);
    socket.set(zmq::sockopt::heartbeat_ivl, kPingEveryMs);
    socket.set(zmq::sockopt::heartbeat_timeout, kPingTimeoutMs);
    socket.set(zmq::sockopt::heartbeat_ttl, kPingTimeoutMs);
    socket.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(frame_bytes_max));
  });
  check(refused == 0, "libzmq refuses a socket option");
  return socket;
}

Result<void> set_server_security(zmq::socket_t& socket, const ServerKeys& keys) {
  const int bad_key = errno_of([&] {
    socket.set(zmq::sockopt::curve_server, true);
    socket.set(zmq::sockopt::curve_secretkey, keys.secret_key.reveal());
  });
  if (bad_key != 0)
    return fail(Errc::key_refused, "the server's secret key is no CURVE key", "restore server.json from a backup, or: gpuq keys init in a new folder");
  const int unenforced = errno_of([&] {
    socket.set(zmq::sockopt::zap_domain, kZapDomain);
    socket.set(kZapEnforceDomain, 1);
  });
  if (unenforced != 0)
    return fail(Errc::zap_selftest, "this libzmq does not enforce its ZAP domain, so unknown keys could enter",
                "use libzmq 4.3.3 or newer as Debian builds it");
  return {};
}

void set_client_security(zmq::socket_t& socket, std::string_view server_key, std::string_view public_key, std::string_view secret_key) {
  const int refused = errno_of([&] {
    socket.set(zmq::sockopt::curve_serverkey, server_key);
    socket.set(zmq::sockopt::curve_publickey, public_key);
    socket.set(zmq::sockopt::curve_secretkey, secret_key);
  });
  check(refused == 0, "a checked access file holds no CURVE keys");
}

bool is_loopback(std::string_view endpoint) {
  for (const std::string_view prefix : {"tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://", "inproc://"})
    if (endpoint.starts_with(prefix)) return true;
  return false;
}

zmq::socket_t open_monitor(Context& context, zmq::socket_t& socket, int events) {
  static std::atomic<std::uint64_t> number{0};
  const std::string endpoint = "inproc://gpuq.monitor." + std::to_string(++number);
  check(zmq_socket_monitor(socket.handle(), endpoint.c_str(), events) == 0, "libzmq gives no monitor");
  zmq::socket_t monitor;
  const int refused = errno_of([&] {
    monitor = zmq::socket_t(context.native(), zmq::socket_type::pair);
    monitor.set(zmq::sockopt::linger, 0);
    monitor.connect(endpoint);
  });
  check(refused == 0, "the monitor cannot be heard");
  return monitor;
}

bool read_monitor(zmq::socket_t& monitor, MonitorEvent& event) {
  zmq::message_t frame;
  if (!receive(monitor, frame)) return false;
  std::uint16_t number = 0;
  if (frame.size() >= 6) {
    std::memcpy(&number, frame.data(), sizeof number);
    std::memcpy(&event.value, frame.data<char>() + 2, sizeof event.value);
  }
  event.event = number;
  while (frame.more() && receive(monitor, frame)) {}
  return true;
}

void close_monitored(zmq::socket_t& socket, zmq::socket_t& monitor, int linger_ms) {
  if (socket) {
    zmq_socket_monitor(socket.handle(), nullptr, 0);
    errno_of([&] { socket.set(zmq::sockopt::linger, linger_ms); });
  }
  monitor.close();
  socket.close();
}

}  // namespace gq::net

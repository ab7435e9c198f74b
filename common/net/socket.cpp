// socket.cpp - the options table and the context.
#include "common/net/socket.h"

#include <atomic>

#include "common/net/port.h"

namespace gq::net {

namespace {

// A DRAFT name in zmq.h, so absent without drafts, but Debian's 4.3.4 honours the number: without it a CURVE server whose
// handler is missing accepts every key.
constexpr int kZapEnforceDomain = 93;

constexpr int kHandshakeMs = 5'000;   // half-open peers must not pile up
constexpr int kPingEveryMs = 1'000;   // ZMTP pings find dead links; a loaded two-core machine still answers within 5 s
constexpr int kPingTimeoutMs = 5'000;

}  // namespace

struct Context::State {
  void* handle = zmq_ctx_new();
  bool guarded{};
};

Context::Context() : state_(std::make_unique<State>()) {
  check(state_->handle != nullptr, "no ZeroMQ context");
  int major = 0, minor = 0, patch = 0;
  zmq_version(&major, &minor, &patch);
  check(major * 10'000 + minor * 100 + patch >= 40'303, "libzmq older than 4.3.3: raw peers starve its CURVE servers (CVE-2020-15166)");
  check(zmq_has("curve") == 1, "libzmq was built without CURVE");
  zmq_ctx_set(state_->handle, ZMQ_MAX_SOCKETS, 16'384);  // load generators open one per simulated worker
}
Context::~Context() {
  while (zmq_ctx_term(state_->handle) != 0 && errno == EINTR) {}
}
void* Context::handle() { return state_->handle; }
void Context::set_guarded(bool guarded) { state_->guarded = guarded; }
bool Context::guarded() const { return state_->guarded; }

void set_common_options(Socket& socket, std::size_t high_water, std::size_t frame_bytes_max) {
  const auto set = [&](int option, int value) { check(socket.set(option, value), "libzmq refuses a socket option"); };
  set(ZMQ_LINGER, 0);
  set(ZMQ_SNDHWM, static_cast<int>(high_water));
  set(ZMQ_RCVHWM, static_cast<int>(high_water));
  set(ZMQ_HANDSHAKE_IVL, kHandshakeMs);
  set(ZMQ_HEARTBEAT_IVL, kPingEveryMs);
  set(ZMQ_HEARTBEAT_TIMEOUT, kPingTimeoutMs);
  set(ZMQ_HEARTBEAT_TTL, kPingTimeoutMs);
  check(socket.set64(ZMQ_MAXMSGSIZE, static_cast<std::int64_t>(frame_bytes_max)), "libzmq refuses MAXMSGSIZE");
}

Result<void> set_server_security(Socket& socket, const ServerKeys& keys) {
  if (!socket.set(ZMQ_CURVE_SERVER, 1) || !socket.set(ZMQ_CURVE_SECRETKEY, std::string_view(keys.secret_key.reveal())))
    return fail(Errc::key_refused, "the server's secret key is no CURVE key", "restore server.json from a backup, or: gpuq keys init in a new folder");
  if (!socket.set(ZMQ_ZAP_DOMAIN, kZapDomain) || !socket.set(kZapEnforceDomain, 1))
    return fail(Errc::zap_selftest, "this libzmq does not enforce its ZAP domain, so unknown keys could enter",
                "use libzmq 4.3.3 or newer as Debian builds it");
  return {};
}

void set_client_security(Socket& socket, std::string_view server_key, std::string_view public_key, std::string_view secret_key) {
  check(socket.set(ZMQ_CURVE_SERVERKEY, server_key) && socket.set(ZMQ_CURVE_PUBLICKEY, public_key) &&
            socket.set(ZMQ_CURVE_SECRETKEY, secret_key),
        "a checked access file holds no CURVE keys");
}

bool is_loopback(std::string_view endpoint) {
  for (const std::string_view prefix : {"tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://", "inproc://"})
    if (endpoint.starts_with(prefix)) return true;
  return false;
}

Socket open_monitor(void* context, Socket& socket, int events) {
  static std::atomic<std::uint64_t> number{0};
  const std::string endpoint = "inproc://gpuq.monitor." + std::to_string(++number);
  check(zmq_socket_monitor(socket.handle(), endpoint.c_str(), events) == 0, "libzmq gives no monitor");
  Socket monitor(context, ZMQ_PAIR);
  monitor.set(ZMQ_LINGER, 0);
  check(zmq_connect(monitor.handle(), endpoint.c_str()) == 0, "the monitor cannot be heard");
  return monitor;
}

bool read_monitor(Socket& monitor, MonitorEvent& event) {
  Frame frame;
  if (!frame.receive(monitor.handle())) return false;
  std::uint16_t number = 0;
  const std::string_view raw = frame.view();
  if (raw.size() >= 6) {
    std::memcpy(&number, raw.data(), sizeof number);
    std::memcpy(&event.value, raw.data() + 2, sizeof event.value);
  }
  event.event = number;
  while (frame.more())
    if (!frame.receive(monitor.handle())) break;
  return true;
}

}  // namespace gq::net

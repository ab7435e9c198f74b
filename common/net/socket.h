// socket.h - what our ports need of cppzmq: options, messages that never block, monitors. Internal to common/net.
//
// cppzmq tells "not now" by an empty optional and all else by zmq::error_t, EINTR and an unknown route too. Nothing of ours throws:
// here these become values, and what only a bug of ours can cause ends in check().
#pragma once

#include <cerrno>
#include <span>
#include <string_view>
#include <zmq.hpp>

#include "common/net/keys.h"
#include "common/vocabulary/errors.h"

namespace gq::net {

/// Why libzmq refused what `call` asked for: an errno, or 0. An interrupted call is made again.
template <class Call>
int errno_of(Call call) {
  for (;;) {
    try {
      call();
      return 0;
    } catch (const zmq::error_t& error) {
      if (error.num() != EINTR) return error.num();
    }
  }
}

/// False: nothing there (or the context is going down).
inline bool receive(zmq::socket_t& socket, zmq::message_t& frame) {
  zmq::recv_result_t got;
  errno_of([&] { got = socket.recv(frame, zmq::recv_flags::dontwait); });
  return got.has_value();
}
/// A whole message. Only its first frame can fail: there MANDATORY looks at the route, the rest goes to the same pipe.
SendOutcome send_frames(zmq::socket_t& socket, std::span<const std::string_view> frames);
/// What ZAP or the link says of the sender; empty when there is no such property.
std::string_view property(zmq::message_t& frame, const char* name);

/// A socket that speaks to another process, with the options each of these gets.
zmq::socket_t open_socket(Context& context, zmq::socket_type type, std::size_t high_water, std::size_t frame_bytes_max);
/// CURVE server with ZAP enforced, or an error when libzmq would not enforce it.
Result<void> set_server_security(zmq::socket_t& socket, const ServerKeys& keys);
void set_client_security(zmq::socket_t& socket, std::string_view server_key, std::string_view public_key, std::string_view secret_key);
bool is_loopback(std::string_view endpoint);

struct MonitorEvent {
  int event{};
  std::uint32_t value{};
};
/// A PAIR socket that hears `events` of `socket`; zmq::monitor_t keeps the descriptor to wait on to itself.
zmq::socket_t open_monitor(Context& context, zmq::socket_t& socket, int events);
bool read_monitor(zmq::socket_t& monitor, MonitorEvent& event);
/// What is still queued gets `linger_ms` to leave.
void close_monitored(zmq::socket_t& socket, zmq::socket_t& monitor, int linger_ms);

inline constexpr int kFarewellMs = 500;
inline constexpr const char* kZapEndpoint = "inproc://zeromq.zap.01";
inline constexpr std::string_view kZapDomain = "gpuq";  // never empty: an empty one switches authentication off

}  // namespace gq::net

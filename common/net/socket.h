// socket.h - a ZeroMQ socket that closes itself, its options, its monitor. Internal to common/net.
#pragma once

#include <zmq.h>

#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "common/net/keys.h"
#include "common/vocabulary/errors.h"

namespace gq::net {

class Socket {
 public:
  Socket() = default;
  Socket(void* context, int type) : handle_(zmq_socket(context, type)) {}
  Socket(Socket&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Socket() { close(); }
  void close() {
    if (handle_ != nullptr) zmq_close(std::exchange(handle_, nullptr));
  }
  [[nodiscard]] void* handle() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }

  // The options take effect for later binds and connects only.
  bool set(int option, int value) { return zmq_setsockopt(handle_, option, &value, sizeof value) == 0; }
  bool set64(int option, std::int64_t value) { return zmq_setsockopt(handle_, option, &value, sizeof value) == 0; }
  bool set(int option, std::string_view value) { return zmq_setsockopt(handle_, option, value.data(), value.size()) == 0; }

 private:
  void* handle_{};
};

/// A received frame. zmq_msg_t without the ceremony.
class Frame {
 public:
  Frame() { zmq_msg_init(&message_); }
  Frame(const Frame&) = delete;
  Frame& operator=(const Frame&) = delete;
  ~Frame() { zmq_msg_close(&message_); }
  /// False: nothing there (or the context is going down).
  bool receive(void* socket, int flags = ZMQ_DONTWAIT) {
    int got = -1;
    do got = zmq_msg_recv(&message_, socket, flags);
    while (got < 0 && errno == EINTR);
    return got >= 0;
  }
  [[nodiscard]] bool more() const { return zmq_msg_more(&message_) != 0; }
  [[nodiscard]] std::string_view view() const {
    return {static_cast<const char*>(zmq_msg_data(const_cast<zmq_msg_t*>(&message_))), zmq_msg_size(&message_)};
  }
  [[nodiscard]] std::string_view property(const char* name) const {
    const char* value = zmq_msg_gets(&message_, name);
    return value != nullptr ? std::string_view(value) : std::string_view();
  }

 private:
  zmq_msg_t message_{};
};

inline int send_frame(void* socket, std::string_view data, int flags) {
  int sent = -1;
  do sent = zmq_send(socket, data.data(), data.size(), flags);
  while (sent < 0 && errno == EINTR);
  return sent;
}

/// What every socket that speaks to another process gets.
void set_common_options(Socket& socket, std::size_t high_water, std::size_t frame_bytes_max);
/// CURVE server with ZAP enforced, or an error when libzmq would not enforce it.
Result<void> set_server_security(Socket& socket, const ServerKeys& keys);
void set_client_security(Socket& socket, std::string_view server_key, std::string_view public_key, std::string_view secret_key);
bool is_loopback(std::string_view endpoint);

struct MonitorEvent {
  int event{};
  std::uint32_t value{};
};
/// A PAIR socket that hears `events` of `socket`.
Socket open_monitor(void* context, Socket& socket, int events);
bool read_monitor(Socket& monitor, MonitorEvent& event);

inline constexpr std::string_view kZapEndpoint = "inproc://zeromq.zap.01";
inline constexpr std::string_view kZapDomain = "gpuq";  // never empty: an empty one switches authentication off

}  // namespace gq::net

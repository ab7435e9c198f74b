// door.h - the HTTP/1.1 listener: Beast reads, Routes answers. One thread for each connection, and few connections: an answer may be
// waited for, and it is libgpuq's blocking calls that are made. Hostile input ends here: it cannot reach the broker's process.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "client/http/routes.h"
#include "common/vocabulary/errors.h"

namespace boost::asio {
class io_context;
}

namespace gq::http {

struct DoorLimits {
  std::size_t connections_max = 256;                ///< beyond: 503
  std::size_t body_bytes_max = std::size_t{64} << 20U;     ///< of one request: 413
  std::size_t bodies_bytes_max = std::size_t{512} << 20U;  ///< of all requests that are being read or answered: 503
  std::size_t header_bytes_max = 16384;
  std::chrono::milliseconds idle{30'000};           ///< nothing came for so long
  std::chrono::milliseconds request{600'000};       ///< the whole of a request, however it drips
};

class Door {
 public:
  Door(boost::asio::io_context& io, Routes& routes, DoorLimits limits);
  ~Door();
  /// "host:port", port 0 = any free one; the address really bound. PORT_IN_USE, USAGE.
  Result<std::string> listen(const std::string& address);
  /// No new requests; those that wait are hung up on. Returns when all threads have ended.
  void close();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace gq::http

// redis_connection.h - one connection to Redis: bytes out with one write per turn, replies matched to requests by order.
//
// Whatever happens, each request's callback is called at most once, and once the connection is lost no more: `lost` says so, once.
// "Alive but silently deaf" is the commonest bug of all queues, so: something asked and nothing heard for `silence` = lost.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/store/redis_store.h"
#include "broker/store/reply.h"

namespace gq::store {

class RedisConnection {
 public:
  using Replies = std::function<void(std::vector<Reply>)>;

  RedisConnection(boost::asio::io_context& io, const RedisOptions& options);
  ~RedisConnection();   ///< closes; no callback comes afterwards
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  void connect(std::function<void()> connected, std::function<void(Error)> lost);
  /// Commands with their number of replies; `done` gets exactly so many.
  void send(std::string bytes, std::size_t replies, Replies done);
  [[nodiscard]] std::uint64_t bytes_written() const;
  [[nodiscard]] std::uint64_t bytes_read() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// A sockaddr holds 107 bytes of path: a longer one is reached through an open descriptor of its folder (/proc/self/fd/N/name).
class ReachablePath {
 public:
  explicit ReachablePath(const std::string& path);
  ~ReachablePath();
  ReachablePath(const ReachablePath&) = delete;
  ReachablePath& operator=(const ReachablePath&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
  int folder_{-1};
};

}  // namespace gq::store

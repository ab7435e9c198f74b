// sentinel.h - which Redis is the primary now? Asks the sentinels, one after the other, as Redis' guidelines for clients say: the first
// that answers is believed, and the server's own role is checked afterwards (server_checks.h).
#pragma once

#include <functional>
#include <memory>

#include "broker/store/redis_connection.h"

namespace gq::store {

class SentinelLookup {
 public:
  /// `done` comes once, from the loop, unless this is destroyed first: the options' address with host and port filled in, or
  /// UNAVAILABLE (none answered) or USAGE (they know no primary of that name).
  SentinelLookup(boost::asio::io_context& io, const RedisOptions& options, std::function<void(Result<RedisAddress>)> done);
  ~SentinelLookup();
  SentinelLookup(const SentinelLookup&) = delete;
  SentinelLookup& operator=(const SentinelLookup&) = delete;

 private:
  void ask();
  void next(const std::string& why);
  void answer(Result<RedisAddress> result);

  boost::asio::io_context& io_;
  RedisOptions options_;
  std::function<void(Result<RedisAddress>)> done_;
  std::size_t at_{};
  std::string troubles_;
  bool unknown_{};                               ///< one answered, and knows no such primary
  std::unique_ptr<RedisConnection> connection_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace gq::store

// managed_redis.h - a private redis-server child on a unix socket in the data directory: the default store is the real thing.
//
// Invariant: whoever holds the lock of a data directory is the only one with a server on its append-only file. The lock is an
// flock taken before the child starts; its descriptor is inherited, so a free lock means that broker and child are both dead.
// The child is killed by the kernel when the thread that started it ends (PR_SET_PDEATHSIG): call start() on the thread that
// runs the broker's loop until the end. appendfsync always: a SIGKILL loses nothing acknowledged.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/store/redis_store.h"
#include "common/vocabulary/errors.h"

namespace boost::asio {
class io_context;
}

namespace gq::store {

struct ManagedRedisOptions {
  std::filesystem::path data_dir;              ///< made when missing; the server's files go to data_dir/redis
  std::uint64_t maxmemory_bytes = 0;           ///< 0 = min(25 % of RAM, 4 GiB)
  std::string binary = "redis-server";         ///< a name is looked up in PATH
  Durability durability = Durability::always;
  std::chrono::milliseconds lock_patience = std::chrono::seconds(5);   ///< then DATA_DIR_IN_USE
  std::chrono::milliseconds start_patience = std::chrono::seconds(30);
  std::chrono::milliseconds restart_backoff_min = std::chrono::milliseconds(50);
  std::chrono::milliseconds restart_backoff_max = std::chrono::seconds(5);
};

class ManagedRedis {
 public:
  struct Handlers {
    std::function<void(Error why)> died;       ///< the child ended; it is being started again
    std::function<void()> restarted;
  };
  virtual ~ManagedRedis() = default;           ///< stops the child
  /// Lock, start, wait until it accepts connections. DATA_DIR_IN_USE, NOT_FOUND (no binary), UNAVAILABLE (it ended; last log lines).
  virtual void start(std::function<void(Result<RedisAddress>)> done) = 0;
  /// SIGTERM, up to 5 s, SIGKILL; then the lock is free. Blocks; call it after the store is closed.
  virtual void stop() = 0;
  [[nodiscard]] virtual int pid() const = 0;   ///< 0 while it is not running
  [[nodiscard]] virtual std::uint64_t maxmemory_bytes() const = 0;
};

std::unique_ptr<ManagedRedis> make_managed_redis(boost::asio::io_context& io, ManagedRedisOptions options,
                                                 ManagedRedis::Handlers handlers = {});

/// min(25 % of this machine's RAM, 4 GiB).
std::uint64_t default_maxmemory_bytes();

}  // namespace gq::store

// redis_store.h - the Store on a real Redis: ours (ManagedRedis) or the operator's.
//
// One connection, one batch in flight, fenced by the term (commit_fsm.h holds the rules, this the sockets and timers). The store
// connects again by itself; what was in flight is settled by the batch number, never by sending it again blindly.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/store/store.h"

namespace boost::asio {
class io_context;
}

namespace gq::store {

enum class Durability : std::uint8_t {
  always,    ///< fsync before every answer; the default and the promise of page one
  everysec,  ///< a power cut may take the last 1-3 s of acknowledged work
};
std::optional<Durability> parse_durability(std::string_view text);

/// Where a Redis listens and how to get in.
struct RedisAddress {
  std::string host;            ///< empty = unix socket
  std::uint16_t port{6379};
  std::string socket_path;     ///< may be longer than a sockaddr allows
  bool tls{};
  std::string user, password;  ///< never printed
  std::uint32_t database{};
  struct Sentinel { std::string host; std::uint16_t port{26379}; bool operator==(const Sentinel&) const = default; };
  std::vector<Sentinel> sentinels;   ///< then host and port are asked of them before each connection
  std::string primary;         ///< the name they know it by
  [[nodiscard]] std::string describe() const;   ///< without the password
};
/// "redis://[user[:password]@]host[:port][/db]", "rediss://…", "unix:///path", a path that begins with '/' or './', or
/// "redis-sentinel://[user:password@]host[:26379][,host…][/db]#NAME" ("rediss-sentinel://": TLS to Redis, not to the sentinels).
Result<RedisAddress> parse_redis_url(std::string_view url);

struct RedisOptions {
  RedisAddress address;
  std::string name_space = "default";          ///< [a-zA-Z0-9_.-]{1,64}
  Durability durability = Durability::always;
  bool managed = false;                         ///< our own child: for describe() only
  std::uint64_t budget_bytes = 0;               ///< --redis-budget; demanded when maxmemory is 0
  /// So many replicas must hold a batch in memory before its effects leave (WAIT behind each EXEC).
  std::uint32_t replicas = 0;
  std::chrono::milliseconds replica_wait = std::chrono::milliseconds(250);  ///< one WAIT; asked again for as long as it takes
  std::chrono::milliseconds sentinel_patience = std::chrono::milliseconds(700);   ///< then the next sentinel is asked
  std::string ca_file;                          ///< rediss: PEM; empty = the system's
  bool tls_verify = true;
  std::chrono::milliseconds silence = std::chrono::seconds(3);         ///< asked and unheard this long: connect again
  std::chrono::milliseconds idle_beat = std::chrono::milliseconds(400);  ///< rule 1.7 wants at least every 500 ms
  std::chrono::milliseconds leader_hint = std::chrono::milliseconds(2000);
  std::chrono::milliseconds refused_max = std::chrono::seconds(5);     ///< then Watcher.reload
  std::chrono::milliseconds backoff_min = std::chrono::milliseconds(20);
  std::chrono::milliseconds backoff_max = std::chrono::milliseconds(1000);
  std::chrono::milliseconds recheck = std::chrono::seconds(10);        ///< CONFIG may be changed under us: look again
  std::chrono::milliseconds open_patience = std::chrono::seconds(10);  ///< open() gives up then; LOADING is waited out
  std::string leader_name;                      ///< what the `leader` hint says: "host:port pid"
};

/// What the commit path has done, for metrics and benches.
struct StoreStatistics {
  std::uint64_t batches{}, items{}, bytes_written{}, bytes_read{}, reconnects{}, refused{}, replies_lost{}, beats{}, unreplicated{}, given_up{};
  std::uint64_t commands{};   ///< Redis commands inside fenced batches
};

class RedisStore : public Store {
 public:
  [[nodiscard]] virtual StoreStatistics statistics() const = 0;
};

std::unique_ptr<RedisStore> make_redis_store(boost::asio::io_context& io, RedisOptions options, Watcher watcher);

}  // namespace gq::store

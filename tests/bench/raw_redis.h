// raw_redis.h - how many no-op lives a second Redis itself can take: the bound that gpuq's queue figure is compared with.
//
// One batch = `batch` whole lives in steady state, as the broker commits them under load: that many submits (200 B body), grants
// (with the body read), ends (32 B result) and retention deletes, each of different jobs, in one fenced MULTI … EXEC, one in flight.
#pragma once

#include <cstddef>
#include <string>

namespace gq::bench {

struct StoreRate {
  double lives_per_s{};
  double client_cpu_us_per_life{};   ///< of the thread that feeds Redis
  double commands_per_batch{};       ///< inside MULTI … EXEC
  double bytes_per_life{};           ///< written
};

/// The very commands RedisStore emits, encoded beforehand, through a bare blocking client with the same parser.
StoreRate raw_redis_rate(const std::string& socket_path, std::size_t batch, double seconds);
/// RedisStore itself, fed with the mutations of the same lives. Takes the name space over; needs a Redis that passes its checks.
StoreRate store_rate(const std::string& socket_path, std::size_t batch, double seconds);

inline double raw_redis_lives_per_s(const std::string& socket_path, std::size_t batch, double seconds) {
  return raw_redis_rate(socket_path, batch, seconds).lives_per_s;
}
inline double store_lives_per_s(const std::string& socket_path, std::size_t batch, double seconds) {
  return store_rate(socket_path, batch, seconds).lives_per_s;
}

}  // namespace gq::bench

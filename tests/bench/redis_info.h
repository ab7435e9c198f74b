// redis_info.h - a private durable redis-server for the raw rows, and one number out of INFO.
#pragma once

#include <string>

#include "client/demo/process.h"

namespace gq::bench {

/// redis-server on a unix socket in a temporary folder: AOF, fsync always, no eviction. Throws std::runtime_error.
class RedisForBench {
 public:
  RedisForBench();
  ~RedisForBench();
  RedisForBench(const RedisForBench&) = delete;
  RedisForBench& operator=(const RedisForBench&) = delete;
  [[nodiscard]] std::string socket() const { return folder_ + "/redis.sock"; }

 private:
  std::string folder_;
  gpuq::demo::Process server_;
};

/// used_memory of the server behind a unix socket, bytes.
double redis_used_memory(const std::string& socket);

}  // namespace gq::bench

// idle_worker.h - a worker that only notes when a job reached it. Speaks the wire protocol from a thread of its own.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>

namespace gq::bench {

class IdleWorker {
 public:
  /// Says HELLO with one slots lane; returns once welcomed. Throws std::runtime_error.
  IdleWorker(const std::string& endpoint, const std::string& access_file);
  ~IdleWorker();
  /// When the newest ASSIGN was read from the socket.
  [[nodiscard]] std::chrono::steady_clock::time_point last_assigned() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gq::bench

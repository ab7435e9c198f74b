// diagnostics.h - the kinds without a process: echo gives the payload back, sleep takes its time. Both run in the supervisor.
#pragma once

#include <functional>
#include <map>
#include <unordered_map>

#include "common/net/asio.h"
#include "worker/runtime/executor.h"

namespace gq::worker {

/// The fast path: a ResultBody is read from the same keys as a JobBody (`parts`; others are ignored), so the bytes go back as they
/// came. Only a body that may name blobs is looked into, because a result must list the blobs it keeps alive.
class Echo final : public Executor {
 public:
  explicit Echo(Reports& reports) : reports_(reports) {}
  void start(Job job) override;
  void stop(const Grant&, session::StopCause) override {}
  void preempt(const Grant&, const std::string&, Duration) override {}

 private:
  Reports& reports_;
};

class Sleep final : public Executor {
 public:
  Sleep(asio::io_context& io, Reports& reports, std::function<Instant()> clock) : timer_(io), reports_(reports), clock_(std::move(clock)) {}
  void start(Job job) override;
  void stop(const Grant& grant, session::StopCause cause) override;
  void preempt(const Grant& grant, const std::string& reason, Duration deadline) override;

 private:
  void wake();
  void arm();
  void leave(const Grant& grant, Outcome outcome);
  asio::steady_timer timer_;
  Reports& reports_;
  std::function<Instant()> clock_;
  std::multimap<Instant, Grant> due_;
};

}  // namespace gq::worker

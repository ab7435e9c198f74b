// diagnostics.h - the kinds without a process: echo gives the payload back, sleep takes its time, reserve keeps memory of a device for
// somebody else meanwhile. They run in the supervisor.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "common/net/asio.h"
#include "worker/runtime/allotments.h"
#include "worker/runtime/devices.h"
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

/// Lasts a time that its body names, does nothing, and ends early when it is told to.
class Timed : public Executor {
 public:
  void stop(const Grant& grant, session::StopCause cause) override;
  void preempt(const Grant& grant, const std::string& reason, Duration deadline) override;

 protected:
  Timed(asio::io_context& io, Reports& reports, std::function<Instant()> clock) : reports_(reports), timer_(io), clock_(std::move(clock)) {}
  /// Parameter `key` of the body, in ms, at most `ms_max`; BAD_INPUT.
  static Result<std::int64_t> read_ms(const Job& job, const char* key, std::int64_t ms_max, const char* next);
  void begin(const Grant& grant, std::int64_t ms, std::shared_ptr<const void> held);   ///< held: given back at its end
  Reports& reports_;

 private:
  struct Run { Grant grant; std::shared_ptr<const void> held; };
  void wake();
  void arm();
  void leave(const Grant& grant, Outcome outcome);
  asio::steady_timer timer_;
  std::function<Instant()> clock_;
  std::multimap<Instant, Run> due_;
};

class Sleep final : public Timed {
 public:
  Sleep(asio::io_context& io, Reports& reports, std::function<Instant()> clock) : Timed(io, reports, std::move(clock)) {}
  void start(Job job) override;
};

/// Kind `reserve`: memory of devices, booked for a process that gpuq does not start (a notebook, a service of somebody else's). What others
/// use there is, up to the booking, not counted as foreign. Parameter for_ms; it cannot be made to leave, so it is not preempted unless asked for.
class Reserve final : public Timed {
 public:
  static constexpr std::int64_t kMsMax = INT64_C(30) * 86'400'000;
  Reserve(asio::io_context& io, Reports& reports, std::function<Instant()> clock, Devices& devices, Allotments& allotments)
      : Timed(io, reports, std::move(clock)), devices_(devices), allotments_(allotments) {}
  void start(Job job) override;

 private:
  Devices& devices_;
  Allotments& allotments_;
};

}  // namespace gq::worker

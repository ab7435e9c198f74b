// jobs.h - submits on their way and jobs being watched. Loop thread only.
//
// Invariant: every job someone here cares for is in exactly one of: a submit not yet answered (sent again on a new link),
// watched (asked for again on a new link or term), or unclaimed (final, kept until asked for; the oldest are forgotten and
// come again from the broker when asked for).
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/lib/coalescer.h"
#include "client/lib/engine.h"
#include "client/lib/prepare.h"

namespace gq::client {

class Transfers;

/// Who hears that a job is final.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void final(gpuq::JobResult&& result) = 0;
  virtual void failed(const JobId& job, const Error& error) = 0;
};
using SinkPtr = std::shared_ptr<Sink>;

class Jobs {
 public:
  Jobs(Engine& engine, Transfers& transfers) : engine_(engine), transfers_(transfers) {}

  void submit(const std::shared_ptr<Batch>& batch, std::vector<PreparedPtr> items);
  /// A job made by other means (retry) that this client has asked to watch.
  void expect(const JobId& job);
  /// `patient`: the submit of this job may follow in a moment, so the broker is asked about it only a little later.
  void claim(const JobId& job, SinkPtr sink, bool patient = false);
  void unclaim(const JobId& job, const Sink* sink);
  void acknowledge(const JobId& job);         ///< its result is here; told in the next 50 ms, with others
  void blob_read(const BlobDigest& blob);     ///< its result counts as fetched when all its blobs were read

  // the engine's hooks
  void notify(wire::Notify&& notify, std::string&& body);
  void rewatch();
  void failed(const Error& error);
  bool tick(Instant now);
  void flush();

 private:
  struct Watched {
    bool submitting{};                         ///< its submit is not answered yet: sending that again watches it too
    bool watching{};                           ///< the broker was asked to tell us, by submit or by watch
    bool undurable{};                          ///< unknown = the broker that held it is gone
    bool doubted{};                            ///< unknown once: perhaps asked before its submit arrived, so it is asked again
    SinkPtr sink;                              ///< nearly always the only one
    std::vector<SinkPtr> more;
  };
  struct Unread { JobId job; std::size_t left{}; };

  void upload_then_queue(const PreparedPtr& item);
  void send_submit(std::vector<PreparedPtr> items);
  void submit_answered(const std::vector<PreparedPtr>& items, Result<Answer>&& answer);
  void settle(Prepared& item, const wire::SubmittedItem& answer);
  void settle(Prepared& item, gpuq::Submitted answer);
  bool try_again(const PreparedPtr& item, const Error& why);
  void send_watch(std::vector<JobId> jobs);
  void give_up(const JobId& job, const Error& error);
  void deliver(const JobId& job, gpuq::JobResult&& result);
  void keep(const JobId& job, gpuq::JobResult&& result);
  void say_fetched();
  void acknowledge(const JobId& job, const gpuq::JobResult& result);

  static constexpr std::size_t kSubmitsInFlight = 32;         // messages: bounds memory, lets items gather under load
  static constexpr std::size_t kUnclaimedMax = 100'000;
  static constexpr std::size_t kUnclaimedBytesMax = 32U << 20U;

  Engine& engine_;
  Transfers& transfers_;
  Coalescer coalescer_;
  std::size_t in_flight_{};
  std::deque<std::shared_ptr<Batch>> batches_;                // by deadline: all have the same timeout
  std::vector<std::pair<Instant, PreparedPtr>> later_;        // answered UNAVAILABLE: again after a back-off
  std::unordered_map<JobId, Watched> watched_;
  std::vector<JobId> to_watch_;
  std::vector<std::uint64_t> watch_questions_;
  std::vector<std::pair<Instant, std::vector<JobId>>> watch_later_;
  struct Kept { gpuq::JobResult result; std::size_t bytes{}; };
  std::unordered_map<JobId, Kept> unclaimed_;
  std::deque<JobId> unclaimed_order_;
  std::size_t unclaimed_bytes_{};
  std::vector<JobId> fetched_;
  Instant fetched_due_{};
  std::unordered_map<BlobDigest, std::vector<std::shared_ptr<Unread>>> unread_;
};

}  // namespace gq::client

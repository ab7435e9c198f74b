// log_desk.h - what running jobs say about themselves: a ring of their output each, their newest progress, and who follows.
//
// In memory only: a broker restart forgets it (the whole log is an artefact of the job). A job's output is one stream over all its
// attempts; a worker counts bytes per attempt, `base` maps one onto the other, so a resent piece is recognised and never doubled.
// Bounded: kLimits.log_ring_bytes per job, `bytes_max` in all; the job unheard for longest goes first.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/vocabulary/ids.h"
#include "common/vocabulary/limits.h"
#include "common/wire/messages.h"

namespace gq::broker {

struct LogChunk {
  std::string bytes;
  std::uint64_t offset{};  ///< of bytes[0]; above what was asked for when the ring has moved on
  std::uint64_t next{};    ///< ask from here
};

struct LogFollower {
  PeerId peer;
  std::uint64_t request{};
  std::uint64_t next{};
};

class LogDesk {
 public:
  explicit LogDesk(std::size_t bytes_max = std::size_t{64} << 20U, std::size_t ring_bytes = kLimits.log_ring_bytes)
      : bytes_max_(bytes_max), ring_bytes_(ring_bytes) {}

  /// Of a model's process: into the streams of NAME@VERSION and of NAME.
  void model_said(std::string_view model, std::string_view bytes);
  /// What stands for a model where a job's id would: no job's id looks like it.
  static JobId stream_of(std::string_view model);
  void wrote(const wire::Grant& grant, std::uint64_t offset, std::string_view bytes);
  void progressed(wire::Progress&& progress);
  void forget(JobId job);
  void clear();

  [[nodiscard]] LogChunk read(JobId job, std::uint64_t offset) const;
  /// Progress, metrics and the last lines, where there are any.
  void describe(wire::JobStatus& status) const;

  void follow(JobId job, LogFollower follower);
  /// Followers of this job, each moved up to the end of the stream and with what it has not seen.
  std::vector<std::pair<LogFollower, LogChunk>> news(JobId job);
  std::vector<LogFollower> stop_following(JobId job);
  void drop_peer(PeerId peer);
  [[nodiscard]] bool followed(JobId job) const { return followers_.contains(job); }
  [[nodiscard]] bool idle() const { return traces_.empty() && followers_.empty(); }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  struct Trace {
    JobId job;
    Attempt attempt{};
    std::uint64_t base{};      ///< where this attempt's byte 0 lies in the job's stream
    std::uint64_t end{};       ///< of the stream
    std::string ring;          ///< the bytes up to `end`; up to twice the ring size, cut back when it is reached
    std::uint64_t step{}, total{};
    std::map<std::string, double> metrics;
  };
  using Traces = std::list<Trace>;   ///< newest first

  Trace& touch(const wire::Grant& grant);
  void append(Trace& trace, std::string_view bytes);

  std::size_t bytes_max_, ring_bytes_;
  std::size_t bytes_{};
  Traces traces_;
  std::unordered_map<JobId, Traces::iterator> by_job_;
  std::unordered_map<JobId, std::vector<LogFollower>> followers_;
};

}  // namespace gq::broker

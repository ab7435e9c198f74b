// findings.h - where checkers put what they find: a count, the first few in words, and the story of the job concerned.
//
// Every fact of a run is noted once, as 24 bytes in a ring. The notes make the trace hash (same seed, same hash) and, when a
// rule is broken, tell the last things that happened to that job. Notes cost nanoseconds: a run has tens of millions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/checker/job_numbers.h"

namespace gq::checker {

enum class Note : std::uint8_t {
  submit_sent, submit_acked, submit_refused, cancel_sent, cancel_answered, retry_sent, noticed, fetched,
  created, changed, forgotten, result_stored, assign_left, assign_seen, assign_doubled, refused, started, ended, killed, verdict,
  revoked, preempt_seen, cancel_seen, hello, welcomed, beat, worker_killed, worker_frozen, worker_thawed, link_torn,
  broker_killed, broker_loaded, store_down, store_up, committed, dropped, goodbye, missing, model_asked_out, checkpointed, commanded, policy_loaded, device_changed,
};
std::string_view to_string(Note note);

struct Noted {
  std::int64_t at_us{};
  JobNumber job{kNoJob};
  std::uint32_t who{};      ///< worker or client
  std::uint32_t value{};    ///< attempt, state, count: what the note says
  Note note{};
};

class Findings {
 public:
  explicit Findings(std::uint64_t seed, std::size_t ring_size = 1U << 18U);

  void at(std::int64_t now_us) { now_us_ = now_us; }
  [[nodiscard]] std::int64_t now_us() const { return now_us_; }
  void note(Note what, JobNumber job, std::uint32_t who, std::uint32_t value) {
    ring_[next_ & mask_] = {now_us_, job, who, value, what};
    ++next_;
    hash_ = (hash_ ^ (static_cast<std::uint64_t>(now_us_) * 0x9E3779B97F4A7C15ULL) ^
             ((std::uint64_t{job} << 32U) | (std::uint64_t{who} << 8U) | static_cast<std::uint64_t>(what)) ^
             (std::uint64_t{value} << 40U)) * 0x2545F4914F6CDD1DULL;
    hash_ ^= hash_ >> 29U;
  }
  /// A broken rule. The first kept_max are kept with the job's last notes; all are counted.
  void violation(std::string_view rule, JobNumber job, std::string what);

  [[nodiscard]] std::uint64_t violations() const { return violations_; }
  [[nodiscard]] const std::vector<std::string>& kept() const { return kept_; }
  [[nodiscard]] bool broke(std::string_view rule) const;
  [[nodiscard]] std::uint64_t hash() const { return hash_; }
  [[nodiscard]] std::uint64_t notes() const { return next_; }
  [[nodiscard]] std::string story(JobNumber job, std::size_t notes_max = 24) const;
  /// What is noted of a worker itself, not of its jobs.
  [[nodiscard]] std::string story_of_worker(std::uint32_t worker, std::size_t notes_max = 12) const;

 private:
  template <class Which>
  [[nodiscard]] std::string told(Which which, std::size_t notes_max) const;
  static constexpr std::size_t kept_max = 10;
  std::uint64_t seed_;
  std::int64_t now_us_{};
  std::uint64_t next_{};
  std::uint64_t mask_;
  std::uint64_t hash_{0xCBF29CE484222325ULL};
  std::uint64_t violations_{};
  std::vector<Noted> ring_;
  std::vector<std::string> kept_;
  std::vector<std::string> rules_;
};

}  // namespace gq::checker

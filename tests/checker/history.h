// history.h - the checker: what clients, workers and the broker's effects said, held against the promise.
//
//   lost         acknowledged, yet not final after heal and drain
//   unexpected   known to the store, yet never submitted
//   single accept, highest attempt   at most one terminal result per job, that of its newest grant
//   starts       every execution names a granted attempt; each attempt starts at most once
//   overlap      no MiB of one device is leased twice
//   credit       no assignment beyond the credit its lane had given
//   notices      what a client is told is what the store holds
// The store's own rules (one set, life, attempts only grow) are in store_fold.h. Job numbers index flat arrays.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/core/effects.h"
#include "broker/core/record.h"
#include "tests/checker/findings.h"
#include "tests/checker/job_numbers.h"
#include "tests/checker/store_fold.h"

namespace gq::checker {

class History {
 public:
  History(const JobNumbers& numbers, Findings& findings) : numbers_(numbers), findings_(findings) {}

  // what clients saw
  void attempted(JobNumber job);
  void acknowledged(JobNumber job);
  void told_cancelled(JobNumber job);
  void noticed(JobNumber job, const core::JobDynamic& now);

  // what left the broker
  void granted(const core::Grant& grant, std::uint32_t worker);
  void verdict(const core::Grant& grant, core::EndVerdict verdict, Outcome outcome);

  // what workers did
  void started(const core::Grant& grant, std::uint32_t worker);

  // device memory: `held` is whoever holds it there physically
  void device(std::uint32_t device, Mib capacity);
  void charge(std::uint32_t device, JobNumber job, Mib size, const std::function<std::string()>& who_else = {});
  void release(std::uint32_t device, JobNumber job, Mib size);
  /// Still on the card, but the lease has ended and nobody could ask for it back: outside the promise from here on.
  void excuse(std::uint32_t device, Mib size);
  void excused_gone(std::uint32_t device, Mib size);

  // lanes
  void over_credit(std::uint32_t worker, JobNumber job, std::uint64_t used, std::uint64_t limit);

  /// After healing and draining.
  /// `drained`: every job must be final by now.
  void finish(const StoreFold& store, std::uint32_t jobs, bool drained = true);

  struct Counts {
    std::uint64_t attempted{}, acknowledged{}, noticed{}, grants{}, starts{}, accepted{}, stale{}, gone{}, final{};
  };
  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] bool is_noticed(JobNumber job) const { return job < jobs_.size() && jobs_[job].noticed; }

 private:
  struct Job {
    std::uint64_t started{};       ///< bit n: attempt n+1 has started
    Nonce nonce{};                 ///< of the highest grant that left the broker
    Attempt granted{};             ///< highest that left the broker
    Attempt accepted{};            ///< attempt of the accepted terminal result
    bool attempted{}, acknowledged{}, cancelled{}, noticed{};
    JobState notice{};
    Attempt notice_attempt{};
  };
  Job& job(JobNumber number) {
    if (number >= jobs_.size()) jobs_.resize(std::max<std::size_t>(number + 1, jobs_.size() * 2));
    return jobs_[number];
  }
  struct Device { Mib capacity{}, held{}, excused{}; };

  const JobNumbers& numbers_;
  Findings& findings_;
  std::vector<Job> jobs_;
  std::vector<Device> devices_;
  Counts counts_;
};

}  // namespace gq::checker

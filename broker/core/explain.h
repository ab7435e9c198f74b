// explain.h - why a job waits, and what would make it run; answered from the same constraints as the scheduler's decisions.
//
// "Would start now" is said if and only if the scheduler would start the job at its turn in this very state.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "broker/core/record.h"

namespace gq::core {

/// The first constraint that says no at one place, and by how much.
struct PlaceVerdict {
  std::string worker, host;
  std::string device;          ///< UUID; empty = the worker's CPU slots
  std::uint16_t index{};       ///< of the device on its host
  bool warm{};                 ///< a warm model's lane, not a fresh start
  std::string constraint;      ///< its stable name, "fits_the_ledger"; empty = every constraint holds
  std::string sentence;        ///< "needs 12.0 GiB, 7.4 GiB is free: 4.6 GiB short"
  Mib lacking{};               ///< > 0 where memory is what lacks
  WallTime until{};            ///< ms 0 = not known: when this place may say yes at the soonest
  bool operator==(const PlaceVerdict&) const = default;
};

struct Remedy {
  enum class Kind : std::uint8_t { none_needed, wait_until, wait_for_jobs, victims, smaller_budget, release_hold, resume_class, undrain, add_worker, change_policy } kind{};
  std::string text;            ///< a sentence with the command where there is one
  WallTime when{};             ///< wait_until
  std::vector<JobId> jobs;     ///< victims, or whom it waits for
  Mib budget{};                ///< smaller_budget: what would fit now; add_worker: the device memory it needs
  bool operator==(const Remedy&) const = default;
};

struct Explanation {
  JobId job;                   ///< empty for a plan
  JobState state{};
  std::string summary;         ///< one line; the same as JobView::reason
  bool would_start{};          ///< every constraint holds somewhere, and nothing stands before it
  std::uint64_t ahead{};       ///< jobs of its class before it (UINT64_MAX = many)
  std::vector<PlaceVerdict> places;    ///< one per device (its closest lane) or worker, the closest to yes first; at most kPlacesShown
  std::uint64_t places_looked_at{};
  std::vector<std::pair<std::string, std::uint64_t>> refusals;  ///< constraint -> how many devices or workers it refuses first
  std::vector<Remedy> remedies;        ///< the cheapest first
  bool never{};                ///< fits nowhere even when everything is idle: NO_FIT
  bool operator==(const Explanation&) const = default;
};
inline constexpr std::size_t kPlacesShown = 64;

/// What another policy would do to what is here now. Nothing is changed.
struct PolicyPlan {
  struct Change { JobId job; std::string text; bool operator==(const Change&) const = default; };
  std::vector<std::string> warnings;   ///< reservations larger than a card, selectors that name nothing, classes without a device
  std::vector<Change> stranded;        ///< running now, and not allowed where they run
  std::vector<Change> would_start;     ///< waiting now, would start
  std::vector<Change> would_wait;      ///< would start now, would wait
  bool operator==(const PolicyPlan&) const = default;
};

}  // namespace gq::core

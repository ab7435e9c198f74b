// shapes.h - waiting jobs with the same needs, in the order in which they may start.
//
// Within a shape there is one line per priority, in submit order: as `submitted - priority x aging_step` is constant per job, the
// next job of a shape is the best of at most ten heads. Jobs that come back (lost, yielded, come due) return to their place through
// a small heap beside the line. Entries are never searched for: one whose job has left `ready` is skipped when it gets to the head.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "broker/core/containers.h"
#include "common/vocabulary/job.h"

namespace gq::core {

inline constexpr std::size_t kPriorities = 10;

/// Smaller starts first. `rank` is the rung of the class ladder; `share` what its tenant has used of the class lately, by its weight (0
/// unless policy.fair is on).
struct ShapeKey {
  std::uint8_t rank{};
  std::int64_t share{};
  std::int64_t order{};
  std::uint64_t seq{};
  Index shape{kNone};
  auto operator<=>(const ShapeKey&) const = default;
};

struct Line {
  std::deque<Entry> queue;         ///< by seq
  std::vector<Entry> returned;     ///< min-heap by seq
};

enum class Standing : std::uint8_t {
  empty,   ///< no ready job
  fresh,   ///< to be tried everywhere
  parked,  ///< tried: fits nowhere until capacity changes, and then only that is tried
};

struct Shape {
  bool live{};
  Needs needs;
  bool suspect{};                  ///< its jobs crashed their executor twice: they run alone
  bool passed_over{};              ///< fair shares alone would have it wait for too long: it goes first
  Index tenant{kNone};             ///< owner text, while tenants are told apart
  Index tenant_at{kNone};          ///< in Tenant::standing, while it has waiting jobs
  std::int64_t turn_since{};       ///< steady microseconds: since its last start, or since it has waiting jobs
  Index refs{};                    ///< jobs whose record names it, final ones too
  Index ready{};
  Standing standing{Standing::empty};
  ShapeKey key;                    ///< as it stands in its set
  Index recheck_above{kNone};      ///< parked because another load is not worth it: try again once more jobs are ready
  Index backoffs{};                ///< places it may not be tried at for now
  std::int64_t waits_since{-1};    ///< lease clock, microseconds: since its last start, or since it has waiting jobs; -1 = not known yet
  std::int64_t plans_after{};      ///< likewise: no planning before
  std::size_t plan_cursor{};       ///< where the next look at a large fleet begins
  std::int64_t replan_at{};         ///< when a timer asks it to plan again; 0 = none does
  bool wants_plan{};               ///< listed in State::to_plan
  Index awaited{kNone};            ///< suspect: the device kept free for it
  mutable Index version{kNone};    ///< resolved model version, as of that epoch of the registry
  mutable std::uint32_t version_epoch{};
  std::vector<std::uint8_t> fits_group;  ///< 0 not known, 1 no, 2 yes
  std::array<std::unique_ptr<Line>, kPriorities> lines;
};

}  // namespace gq::core

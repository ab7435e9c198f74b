// tenants.h - who has used how much of a class lately, while the policy tells owners of jobs apart.
//
// Under fair shares the shapes of a class stand in the order of what their tenant used of that class lately, by its weight. Use is in
// device-seconds (a GPU-second for each GPU that an attempt holds; of kinds without a device one for each attempt, in an account of
// their own: the two never compete) and counts half after each policy.fair_half_life: decay usage, as in Kay and Lauder, "A Fair
// Share Scheduler" (CACM 31(1), 1988) and PriorityDecayHalfLife of Slurm's multifactor plugin. Not weighed by memory: what a record
// says (devices, start, end) is enough to rebuild it after a restart.
//
// Decay costs nothing: as all use decays alike, the order between tenants does not change with time alone. So instead of halving what
// was used, what is used later counts more ("forward decay", Cormode et al., ICDE 2009): use at t counts 2^((t - shares_from) / half
// life). Sums are brought up to date when an attempt of the tenant starts or ends, and for all who run or wait once per period; a
// device in use counts as if one more period had been used, so that many starts in one step are shared out, too.
#pragma once

#include <algorithm>

#include "broker/core/containers.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/units.h"

namespace gq::core {

/// Of one tenant, one class, and of devices or slots.
struct Use {
  double spent{};                  ///< device-seconds, each counted by when it was used
  std::int64_t since{};            ///< steady microseconds: `spent` is true for this moment
  Index devices{};                 ///< held now
  std::int64_t share{};            ///< what orders its shapes; grows with use divided by weight, compares as the double does
};

struct Tenant {
  std::uint32_t running{};         ///< attempts granted, of all classes
  std::uint32_t running_max{};     ///< 0 = no cap
  double weight{1.0};
  Use use[2][kJobClasses];         ///< [uses a device]
  Ring standing;                   ///< its shapes with waiting jobs
  [[nodiscard]] Use& use_of(const Needs& needs) { return use[kKinds[needs.kind].uses_device ? 1 : 0][static_cast<std::size_t>(needs.job_class)]; }
  [[nodiscard]] const Use& use_of(const Needs& needs) const { return const_cast<Tenant*>(this)->use_of(needs); }
};

inline Index counts_as(std::size_t devices) { return static_cast<Index>(std::max<std::size_t>(1, devices)); }

/// How often use is added up: a fraction of the half-life, within these bounds.
inline constexpr int kSharePeriods = 128;
inline constexpr Duration kSharePeriodMin = std::chrono::milliseconds{100};
inline constexpr Duration kSharePeriodMax = std::chrono::minutes{1};
/// Weights stay below 2 to this power.
inline constexpr int kShareHalfLivesKept = 512;
/// A shape that has waited for so many half-lives without a start goes first: shares never starve anybody.
inline constexpr int kSharePatience = 4;

}  // namespace gq::core

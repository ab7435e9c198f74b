// plans.h - room that is kept for one start: who leaves for it, what is held already, until when.
//
// At most one plan per device. The room is a charge of kind `held` in the device's ledger, as large as what is needed minus what
// is still to come from those who leave: others may use what is free beyond it, and never take what the plan counts on. A higher
// class may: to it the room is free, and a plan whose room it took is given up.
// Plans live in memory only. After a restart those who were asked finish leaving, and the shape plans anew.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "broker/core/containers.h"
#include "common/vocabulary/ids.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/units.h"

namespace gq::core {

struct Plan {
  enum class Kind : std::uint8_t {
    none,      ///< this slot is free
    preempt,   ///< victims were asked, models are evicted, or what leaves anyway is waited for
    reserve,   ///< nobody is asked: what runs here ends by itself, and what comes later fits beside it
  } kind{Kind::none};
  Index shape{kNone};
  Index worker{kNone};             ///< gang: whose devices these are
  JobId job;                       ///< the shape's first job when the plan was made: what victims are told
  std::vector<Index> devices;      ///< all of them, or none
  std::vector<Mib> needs;          ///< on each of them
  std::vector<Index> lanes;        ///< warm lanes whose models leave: closed to starts, evicted once their attempts have left
  std::uint64_t stamp{};           ///< never reused
  Instant made{};                  ///< on the lease clock
  Instant until{};                 ///< on the lease clock, when everything must have come; a reservation: when it may start at the soonest
  bool touched{};                  ///< something changed on its devices
};

/// Something on a device that could leave: what it frees there, and what it costs.
struct Leaver {
  enum class Kind : std::uint8_t { attempt, model } kind{};
  std::vector<Index> holds;        ///< attempts that are asked; none = an idle model
  Index lane{kNone};               ///< model: its warm lane
  Mib frees;
  std::uint8_t tier{};             ///< rank of its class; kJobClasses = an idle model, cheaper than any victim
  std::int64_t cost{};             ///< microseconds of a GPU, at least 1; idle: how recently it was used
  std::int64_t since{};            ///< the younger leaves first
};
inline constexpr std::size_t kTiers = kJobClasses + 1;
using Price = std::array<std::int64_t, kTiers>;   ///< summed by tier: one of a higher class outweighs any number of lower ones

/// What it takes to start a shape's next job on one device, or on a gang's.
struct Proposal {
  Index worker{kNone};             ///< gang
  std::vector<Index> devices;
  std::vector<Mib> needs;
  std::vector<Leaver> leavers;     ///< none: what leaves already is enough
  Price price{};
};

inline constexpr std::size_t kExactUnits = 8;      ///< up to so many candidates on a device the cheapest set is found exactly
inline constexpr std::size_t kDevicesPlanned = 32; ///< devices looked at closely per planning
inline constexpr std::size_t kDevicesGlanced = 256;  ///< devices looked at for a first sum per planning
inline constexpr std::size_t kPlansPerShape = 256;

}  // namespace gq::core

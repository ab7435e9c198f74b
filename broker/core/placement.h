// placement.h - may this job start at this place? Named hard constraints, one line each.
//
// The scheduler asks them in order and stops at the first no; `reason` of a waiting job prints the same names' sentences, so it
// cannot lie. Indexes (rings of lanes with credit, devices by free memory) only skip places that some constraint would refuse.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "broker/core/state.h"

namespace gq::core {

inline std::int64_t micros(Instant t) { return t.time_since_epoch().count(); }

/// "As if these had left": what a preemption plan asks, of one device. The same constraints then speak of the place without them.
struct Core::Without {
  std::vector<Index> holds;    ///< attempts
  std::vector<Index> lanes;    ///< warm lanes: their models are evicted
  Mib freed;                   ///< what all together give back on this device
  std::array<std::int64_t, kJobClasses> unlisted{};  ///< MiB of `freed` that neither list names (room kept for others, ghosts), by whose they are
  bool counts_held{};          ///< what a plan holds there is among `freed`
  void without(const Charge& c) {
    counts_held = counts_held || c.kind == Charge::Kind::held;
    freed += c.size;
    unlisted[static_cast<std::size_t>(c.job_class)] += c.size.value;
  }
};

struct Core::Place {
  const State& state;
  Index shape_index;
  const Shape& shape;
  Index lane_index;
  const Lane& lane;
  const Worker& worker;
  const Device* device;  ///< null for slots
  Index version;         ///< resolved model, kNone when the kind uses none or it is not registered
  const Without* without;  ///< null: as it is
};

/// A refusal in numbers.
struct Core::Detail {
  std::string sentence;
  Mib lacking{};              ///< > 0: so much memory is missing here
  std::int64_t until_ms{};    ///< wall clock: when it may say yes at the soonest; 0 = not known
};

struct Core::HardConstraint {
  std::string_view name;
  std::string_view sentence;  ///< why a job waits when this one says no
  bool (*holds)(const Place&);
  Detail (*detail)(const Place&) = nullptr;   ///< asked only when it does not hold; null: the sentence says it all
};

inline bool has_labels(const Needs& needs, const std::vector<std::string>& labels) {
  return std::all_of(needs.where.begin(), needs.where.end(), [&](const std::string& w) { return std::binary_search(labels.begin(), labels.end(), w); });
}
inline bool has_kind(const Needs& needs, std::uint32_t kinds) { return (kinds >> needs.kind & 1U) != 0; }
inline bool uses_model(const Shape& shape) { return kKinds[shape.needs.kind].uses_model; }

/// "2026-03-29 22:00 UTC"
std::string utc_text(std::int64_t ms);

/// How many waiting jobs one more copy of a model is worth when it is loaded or loading somewhere already.
inline constexpr Index kJobsPerLoad = 8;

}  // namespace gq::core

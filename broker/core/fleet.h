// fleet.h - workers, their lanes of credit, and devices with one ledger per UUID.
//
// Fit is decided by the ledger; credit is flow control only, cumulative since HELLO. A ledger's charges are jobs, loaded models
// (once per worker, device and version) and ghosts: budgets of attempts that are no longer ours but may still sit in memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "broker/core/containers.h"
#include "broker/core/events.h"

namespace gq::core {

struct Lane {
  Index worker{kNone};             ///< kNone = this slot is free
  std::uint16_t id{};
  LaneKind kind{LaneKind::slots};
  Index device{kNone};
  Index version{kNone};            ///< warm: which model
  std::uint64_t limit{};
  std::uint64_t used{};            ///< assigned since HELLO
  Index ring_at{kNone};            ///< slots, warm: where it stands in its ring
  Index shelf{kNone};              ///< start: where it is listed while it is open
  std::array<std::int64_t, kJobClasses> listed{-1, -1, -1};  ///< start: under which room, by class; -1 = not. A plain shelf has one list
  bool stale{};                    ///< start: its listing waits to be brought up to date
  bool touched{};                  ///< in this step's list of places with more room
  std::uint8_t serves{};           ///< warm: bit per class that it takes jobs of, credit or not
  bool evicting{};                 ///< warm: asked to leave; no starts
  bool evict_told{};               ///< and its worker has been told: nothing runs there any more
  Instant idle_since{};            ///< warm: on the lease clock, when its last attempt ended
  [[nodiscard]] bool has_credit() const { return limit > used; }
};

struct Charge {
  enum class Kind : std::uint8_t { job, model, ghost, held } kind{Kind::job};   ///< held: room kept for a plan's shape
  Index worker{kNone};
  Mib size;
  Index hold{kNone};               ///< job: whose; model: who loads it, while it loads
  Index version{kNone};            ///< model
  Index lane{kNone};               ///< model: its warm lane once that is open
  JobClass job_class{};            ///< job, ghost: of the job; model: of who loaded it
  Index plan{kNone};               ///< held: whose
  bool lingers{};                  ///< model: loaded, but no lane yet; gone at the worker's next beat
  Grant grant;                     ///< ghost
};

/// The policy as it concerns one device, resolved by rules.cpp.
struct DeviceRules {
  std::uint8_t classes{0xFF};                      ///< bit per class that may start here
  std::array<std::int64_t, kJobClasses> reserved{};  ///< MiB kept for the class now
  std::array<bool, kJobClasses> keeps_loaded{};    ///< no model warm for the class is evicted for another one now
  bool reserves{};                                 ///< some reservation names it, in force now or not
  std::uint32_t headroom_pct{};
  std::optional<Mib> headroom;
  std::int16_t hold_at_c{}, resume_at_c{};
  std::vector<std::string> labels;                 ///< given by the policy, sorted
  bool operator==(const DeviceRules&) const = default;
};

struct Reporter {
  Index worker{kNone};
  DeviceReport report;
};

struct Device {
  Index uuid{};                    ///< text
  std::vector<Reporter> reporters; ///< workers that offer it, the newest report last
  std::vector<Charge> charges;
  std::vector<Index> lanes;        ///< start and warm lanes on it
  Mib charged{};
  Mib capacity{};                  ///< total - driver - headroom
  Mib foreign{};
  bool healthy{};
  bool accelerator{};              ///< was reported as something other than a CPU
  bool small{};                    ///< capacity below some kind's default budget
  bool hot{};                      ///< from hold_at_c until resume_at_c
  bool draining{};
  Index plan{kNone};               ///< at most one plan keeps room here
  std::array<Index, kJobClasses> running{};       ///< attempts granted here, by class
  std::array<Index, kJobClasses> running_at{kNone, kNone, kNone};  ///< where it stands in the ring of devices with such attempts
  Index warm_at{kNone};            ///< likewise, of devices with a warm lane
  std::array<Mib, kJobClasses> used_by{};      ///< the charges, by class
  DeviceRules rules;
  bool rules_known{};
  Index squeezed{};                ///< so many reports in a row said that more is in use than there is
  Index model_holds{};             ///< attempts of model jobs running here
  Index suspects{};                ///< how many of them are suspects
  Index awaits{kNone};             ///< shape of a suspect this device is kept free for
  [[nodiscard]] bool open() const { return healthy && !hot && !draining; }
  [[nodiscard]] std::int64_t free() const { return capacity.value - foreign.value - charged.value; }
};

/// Workers that offer the same kinds under the same labels are interchangeable.
struct Group {
  std::uint32_t kinds{};
  std::vector<std::string> labels;
  Ring slots;                                     ///< lanes with credit
};

/// Below it a kind's default budget may have to be clamped to the card.
inline constexpr Mib kLargestDefault = std::max_element(kKinds.begin(), kKinds.end(), [](const KindTraits& a, const KindTraits& b) { return a.default_budget < b.default_budget; })->default_budget;

/// Start lanes on devices that the policy treats alike, so that no search meets thousands of devices that must say no.
struct Shelf {
  Index group{};
  std::uint8_t classes{};          ///< as DeviceRules
  bool by_class{};                 ///< what a class may take differs from what is free: reservations, exclusions
  bool small{};                    ///< smaller than some kind's default budget, which is then clamped to the card
  using List = std::set<std::pair<std::int64_t, Index>>;
  std::array<List, kJobClasses> starts;  ///< (room MiB, lane) with credit on devices that may start something; plain: only the first
  [[nodiscard]] const List& list(JobClass c) const { return starts[by_class ? static_cast<std::size_t>(c) : 0]; }
  [[nodiscard]] bool takes(JobClass c) const { return (classes >> static_cast<unsigned>(c) & 1U) != 0; }
};

struct Worker {
  Index name{};                    ///< text
  PeerId peer;
  bool connected{};                ///< a HELLO came on `peer` and the link is not known to be gone
  bool silent{};
  bool lost{};
  bool watched{};                  ///< its one timer is armed
  bool draining{};                 ///< an operator drains it
  bool rented{};                   ///< it has a label cloud=PROVIDER
  Index group{kNone};
  std::uint64_t instance{};
  std::string host;
  std::string version;
  std::uint32_t kinds{};
  std::vector<std::string> labels;
  std::vector<Index> devices;
  std::vector<Index> lanes;
  std::vector<Index> holds;        ///< what it was granted
  Index ghosts{};                  ///< charges of kind ghost it still has
  Index lingering{};               ///< model charges that wait for a lane or the next beat
  Instant last_beat{};             ///< on the lease clock
  Instant link_gone{};             ///< meaningful while !connected
  std::uint64_t last_number{};     ///< given to ASSIGN, PREEMPT, CANCEL of this connection
  std::uint64_t processed{};       ///< as its heartbeats say
  [[nodiscard]] bool usable() const { return connected && !silent && !lost; }
};

/// One grant while it stands.
struct Hold {
  Index job{kNone};
  Index worker{kNone};
  Index at{};                      ///< index in Worker::holds
  Nonce nonce{};                   ///< as granted; the job's own may be cleared before this ends
  std::uint64_t number{};          ///< of its ASSIGN on this connection; 0 = from an earlier one
  std::uint64_t batch{};
  bool committed{};
  bool started{};
  bool leaves_ghost{};             ///< ends without the worker's word: its memory stays charged
  bool memory_released{};
  bool is_model{};
  bool is_suspect{};
  bool charged{};                  ///< its devices' ledgers know it
  Instant since{};                 ///< commit, on the lease clock
  Mib granted;
  Index version{kNone};
  std::vector<Index> devices;
  std::uint64_t cancel_number{};
  std::uint64_t preempt_number{};
  std::uint64_t intent_batch{};    ///< batch that stores the newest intent; repeated only once it is durable
  std::string preempt_reason;
  std::uint64_t plan{};            ///< the newest plan when it was granted: reservations made later wait for its end
  Duration preempt_deadline{};
  Instant run_since{};             ///< on the lease clock: STARTED, as far as known
  Instant safe_since{};            ///< on the lease clock: of its last acknowledged checkpoint, else as run_since
  std::uint64_t seen{};            ///< last reconciliation that listed it
};

}  // namespace gq::core

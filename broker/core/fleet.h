// fleet.h - workers, their lanes of credit, and devices with one ledger per UUID.
//
// Fit is decided by the ledger; credit is flow control only, cumulative since HELLO. A ledger's charges are jobs, loaded models
// (once per worker, device and version) and ghosts: budgets of attempts that are no longer ours but may still sit in memory.
#pragma once

#include <cstdint>
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
  std::int64_t listed_free{-1};    ///< start: under which free size it is listed; -1 = not listed
  bool touched{};                  ///< in this step's list of places with more room
  bool evicting{};                 ///< warm: asked to leave; no starts
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
  bool hot{};                      ///< from hold_at_c until resume_at_c
  bool draining{};
  Index plan{kNone};               ///< at most one plan keeps room here
  Index model_holds{};             ///< attempts of model jobs running here
  Index suspects{};                ///< how many of them are suspects
  Index awaits{kNone};             ///< shape of a suspect this device is kept free for
  [[nodiscard]] std::int64_t free() const { return capacity.value - foreign.value - charged.value; }
};

/// Workers that offer the same kinds under the same labels are interchangeable.
struct Group {
  std::uint32_t kinds{};
  std::vector<std::string> labels;
  Ring slots;                                     ///< lanes with credit
  std::set<std::pair<std::int64_t, Index>> starts;  ///< (free MiB, lane) with credit, on healthy devices
};

struct Worker {
  Index name{};                    ///< text
  PeerId peer;
  bool connected{};                ///< a HELLO came on `peer` and the link is not known to be gone
  bool silent{};
  bool lost{};
  bool watched{};                  ///< its one timer is armed
  bool draining{};                 ///< an operator drains it
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
  Index plan{kNone};               ///< the plan that it leaves for
  Duration preempt_deadline{};
  std::uint64_t seen{};            ///< last reconciliation that listed it
};

}  // namespace gq::core

// core.h - the scheduler: a pure, deterministic, total state machine.
//
// It reads no clock, owns no socket, throws nothing and draws no random number: time, entropy and facts are arguments, and
// what must happen leaves as Effects. The same core runs in the broker, in the simulator, and behind explain and plan.
//
// Order: class ladder, then (with fair shares) what the tenant used lately, then submit time - priority x aging_step, then submit order. Jobs with equal Needs form one *shape*; a
// shape that fits nowhere is parked until capacity changes, so cost grows with shapes and devices touched, not with jobs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/core/effects.h"
#include "broker/core/events.h"
#include "broker/core/explain.h"
#include "broker/core/policy.h"
#include "broker/core/record.h"
#include "common/vocabulary/limits.h"

namespace gq::core {

struct CoreConfig {
  Timing timing{};
  Limits limits{};
  Policy policy{};                           ///< until PolicyLoaded brings another
  std::uint64_t final_bytes_max = 512ULL << 20U;  ///< records, payloads and results of final jobs kept
  std::uint64_t queued_bytes_max = 4ULL << 30U;   ///< payloads of unfinished jobs; beyond it submits get QUEUE_FULL
  std::uint64_t undurable_bytes_max = 256ULL << 20U;  ///< jobs with durability none, unfinished and final; they lie in the broker's memory
  bool restarted = true;                     ///< start with restart_grace (false only for a brand-new namespace)
};

// ---- what people ask to see; copies, made on demand, never on the hot path

struct JobView {
  JobRecord record;
  std::uint64_t ahead{};       ///< ready: how many jobs of its class are ahead of it (bounded look: UINT64_MAX = many)
  std::string reason;          ///< why it is not running, in words; empty otherwise
};
struct DeviceView {
  DeviceReport report;
  std::string worker;
  Mib headroom{}, foreign{}, granted{}, free{};
  std::vector<std::string> holders;  ///< "job <id> 2048 MiB", "model yolo@ab12 1024 MiB"
  std::vector<std::string> warm;     ///< NAME@VERSION
  std::string state;                 ///< "ok" | "hot (84 C)" | "draining" | "unhealthy" | "held for job <id>"
  std::vector<std::string> reserved; ///< "inference 6.0 GiB, 2.1 GiB of it in use"
};
struct WorkerView {
  std::string name, host, version, state;  ///< state: "live" | "draining" | "silent" | "disconnected" | "lost"
  Duration since_beat{};
  std::vector<std::string> labels;
  std::vector<KindIndex> kinds;
  std::uint32_t running{};
  std::vector<DeviceView> devices;
};
struct Totals {
  std::uint64_t by_class_and_state[kJobClasses][kJobStates]{};
  std::uint64_t submitted{}, succeeded{}, failed{}, lost{}, stale{}, assigned{};  ///< since this core was made
  std::uint64_t preempted{}, evicted_models{}, plans_made{}, plans_expired{}, killed_at_deadline{};  ///< likewise
  std::uint64_t queued_bytes{}, final_bytes{};
  std::uint64_t undurable_bytes{};   ///< of jobs with durability none
};
struct ListFilter {
  std::optional<JobState> state{};
  std::optional<JobClass> job_class{};
  std::string kind{};
  bool active_only{};
  JobId after{};               ///< page: continue behind this id, newest first
  std::uint32_t limit{100};    ///< at most 500
};

class Core {
 public:
  explicit Core(CoreConfig config);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  /// Rebuild from what the store kept. Once, before the first step. Granted jobs keep their grants; nothing is declared lost
  /// within restart_grace, and a worker's HELLO reconciles its own at once.
  void load(const Image& image, const Moment& now);

  /// One fact in, consequences out (appended). `entropy`: 64 fresh random bits per call, the source of every nonce.
  void step(const Moment& now, std::uint64_t entropy, Event event, Effects& out);

  /// When to send TimerFired at the latest if nothing else happens.
  [[nodiscard]] std::optional<Instant> next_wakeup() const;

  // Read only. Answers built from these must queue behind all earlier commits, like a Send.
  [[nodiscard]] std::optional<JobView> find(JobId id, const Moment& now) const;
  [[nodiscard]] std::vector<JobRecord> list(const ListFilter& filter) const;
  [[nodiscard]] std::vector<WorkerView> workers(const Moment& now) const;
  [[nodiscard]] std::vector<ModelRecord> models() const;
  [[nodiscard]] Totals totals() const;
  [[nodiscard]] const Policy& policy() const;
  [[nodiscard]] std::vector<OperatorSetting> settings() const;
  /// Why this job does not run, and what would make it.
  [[nodiscard]] std::optional<Explanation> explain(JobId id, const Moment& now) const;
  /// Where such a job would start, or why not, without submitting it. An error: submit would refuse it.
  [[nodiscard]] Result<Explanation> plan(const JobFixed& job, const Moment& now) const;
  /// What another policy would change right now.
  [[nodiscard]] PolicyPlan plan(const Policy& policy, const Moment& now) const;
  /// Is this grant the one whose words count? (progress and logs are checked with it by the shell)
  [[nodiscard]] bool current(const Grant& grant) const;
  /// Every invariant, in full: one state set per job, ledgers = sum of holders, credits conserved. Aborts through check().
  void check_invariants() const;
  /// Device jobs at the head of their shape that could start if lower classes left, with nothing set in motion for them; or whose
  /// plan should be over. All devices are looked at: for tests and the simulator. Nobody may stay here for longer than a second.
  [[nodiscard]] std::vector<JobId> overdue(const Moment& now) const;
  /// Bytes of heap this core holds, by its own count.
  [[nodiscard]] std::uint64_t memory_bytes() const;

 private:
  struct State;
  struct Place;
  struct HardConstraint;
  struct Without;
  struct Detail;
  struct Explainer;
  struct Rehearsal;
  struct Constraints;
  static const std::array<HardConstraint, 21> kHardConstraints;
  std::unique_ptr<State> state_;
};

}  // namespace gq::core

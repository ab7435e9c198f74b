// events.h - facts that reach the core. Past tense: they have happened, the core decides what follows.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "broker/core/policy.h"
#include "broker/core/record.h"
#include "common/vocabulary/limits.h"

namespace gq::core {

/// A worker's words about one grant. STALE unless both numbers match the job's newest grant.
struct Grant {
  JobId job;
  Attempt attempt{};
  Nonce nonce{};
  auto operator<=>(const Grant&) const = default;
};

// ---- from clients. `request` is echoed in the answer; every request is answered exactly once.
// `scope`: whose jobs these words may touch, REFUSED for others; empty = everybody's (an admin's words).

struct SubmitItem {
  JobFixed fixed;      ///< seq, submitted and owner are filled by the core
  Token body{};
  bool watch{};        ///< send a JobNotice to this peer when it is final
  bool strict{};       ///< refuse it with NO_FIT when no device known could ever hold it
  bool durability_of_class{};   ///< fixed.durable is true because nothing was said: the class's policy decides
};
struct SubmitReceived { PeerId peer; std::uint64_t request{}; std::string owner; std::vector<SubmitItem> items; };
struct WatchReceived { PeerId peer; std::uint64_t request{}; std::vector<JobId> jobs; };      ///< final ones are noticed at once
struct CancelReceived { PeerId peer; std::uint64_t request{}; std::vector<JobId> jobs; std::string scope{}; };
struct RetryReceived { PeerId peer; std::uint64_t request{}; std::string owner; JobId job; JobId new_id; bool watch{}; std::string scope{}; };
struct FetchedReceived { PeerId peer; std::vector<JobId> jobs; std::string scope{}; };        ///< not answered; others' jobs are left alone
struct ModelPushed { PeerId peer; std::uint64_t request{}; ModelRecord record; bool promote{true}; };   ///< promote: NAME means it from now on; the first of a name always is
/// `promote`: NAME means this version from now on. `rollback`: the one that was promoted before; said again, the one before that.
enum class ModelVerb : std::uint8_t { promote, rollback };
struct ModelCommand { PeerId peer; std::uint64_t request{}; ModelVerb verb{}; std::string name, version; };   ///< answered with ModelAnswer
struct ModelRemoveReceived { PeerId peer; std::uint64_t request{}; std::string name; std::string version; };  ///< version empty = all
/// `preempt`: a running job is asked to leave. `hold`: a job that has not started does not start; a running one goes on, and is held
/// should it come back. `release`: the opposite. Answered with one CommandAnswer, an item per job.
enum class JobVerb : std::uint8_t { preempt, hold, release };
struct JobCommand { PeerId peer; std::uint64_t request{}; JobVerb verb{}; std::string by, reason; Duration deadline{}; std::vector<JobId> jobs; std::string scope{}; };
/// What `gpuq update` may change. What concerns the place of a start (class, budget, where, on_preempt) only while the job is not
/// granted: else REFUSED. The rest is true from the next start on.
struct JobUpdate {
  std::optional<std::uint8_t> priority;
  std::optional<WallTime> deadline, not_before;
  std::optional<Duration> timeout;
  std::optional<std::uint32_t> retries;
  std::optional<JobClass> job_class;
  std::optional<std::pair<Mib, Mib>> budget;
  std::optional<OnPreempt> on_preempt;
  std::optional<std::vector<std::string>> where;
};
struct UpdateReceived { PeerId peer; std::uint64_t request{}; std::string by; JobId job; JobUpdate update; std::string scope{}; };
/// `target`: a worker's name, a device's UUID or "worker/index" or "host/index", a class. `deadline`: of a drain, from now; 0 = none.
enum class FleetVerb : std::uint8_t { drain, undrain, pause_class, resume_class };
struct FleetCommand { PeerId peer; std::uint64_t request{}; FleetVerb verb{}; std::string target, by, reason; Duration deadline{}; };
/// The policy to follow from now on, whole and already checked. At the start, at a reload, and before its windows run out.
struct PolicyLoaded { Policy policy; };
struct ClientGone { PeerId peer; };                                                           ///< forget its watches

// ---- from workers

enum class DeviceKind : std::uint8_t { cpu, cuda, mps, simulated };
struct DeviceReport {
  std::string uuid;            ///< "GPU-…" as NVML says; "CPU-<worker>" for a worker's CPU
  std::string name;            ///< "NVIDIA GeForce RTX 4090"
  DeviceKind kind{DeviceKind::cpu};
  std::uint16_t index{};       ///< PCI order on that host
  Mib total{};
  Mib driver{};                ///< reserved by the driver
  Mib used{};                  ///< by everybody, measured
  Mib used_by_us{};            ///< by children of this worker, measured
  std::int16_t temperature_c{-1};
  std::int16_t utilization_pct{-1};
  bool healthy{true};
};
/// Where a worker takes starts from. Credit is cumulative since HELLO: lost or doubled messages cannot leak it.
enum class LaneKind : std::uint8_t {
  slots,   ///< kinds without a device; one per worker
  start,   ///< a start that spawns a process or loads a model; one per device
  warm,    ///< jobs of one warm model on one device
};
struct LaneDeclared { std::uint16_t lane{}; LaneKind kind{}; std::string device; std::string model; };  ///< model = NAME@VERSION
struct LaneCredit { std::uint16_t lane{}; std::uint64_t limit{}; };

struct WorkerHello {
  PeerId peer;
  std::string worker;                      ///< the key's name; one live connection per name, the newest wins
  std::uint64_t instance{};                ///< random per worker process
  std::string version;
  std::string host;
  std::vector<KindIndex> kinds;
  std::vector<std::string> labels;         ///< "key=value", sorted
  std::vector<DeviceReport> devices;
  std::vector<LaneDeclared> lanes;
  std::vector<LaneCredit> credit;
  std::vector<Grant> running;              ///< what it holds now; the core reconciles both ways
};
struct WorkerPulled { PeerId peer; std::vector<LaneDeclared> opened; std::vector<std::uint16_t> closed; std::vector<LaneCredit> credit; };
struct WorkerBeat {
  PeerId peer;
  std::uint64_t last_number{};             ///< last ASSIGN/PREEMPT/CANCEL processed; only those up to it are judged
  std::vector<Grant> running;
  std::vector<DeviceReport> devices;
};
struct AttemptsStarted { PeerId peer; std::vector<Grant> grants; };
struct AttemptRefused { PeerId peer; Grant grant; Errc code{}; std::string reason; };
struct AttemptEnd {
  Grant grant;
  Outcome outcome{};
  bool started{true};                      ///< STARTED folded in when both happen in one turn
  Errc error{Errc::job_failed};
  std::string error_text;
  Token result{};                          ///< inline result bytes, held by the shell
  std::uint32_t result_bytes{};
  std::vector<BlobDigest> result_blobs;    ///< the shell has checked that they are stored
  Checkpoint checkpoint;                   ///< with yielded
};
struct AttemptsEnded { PeerId peer; std::uint64_t request{}; std::vector<AttemptEnd> ends; };
struct CheckpointSaved { PeerId peer; Grant grant; Checkpoint checkpoint; };
struct MemoryReleased { PeerId peer; Grant grant; };            ///< first acknowledgement of a preemption
struct WorkerGoodbye { PeerId peer; };                          ///< after it has drained
/// After a monitor event the shell probed every worker link; these had none. See design-correctness 4.7.
struct LinksGone { std::vector<PeerId> peers; };

// ---- from the shell

/// The effects of all steps so far belong to batches up to this one; those of later steps go into a later one. Numbers only grow.
struct BatchCut { std::uint64_t batch{}; };
/// Timers of its offers and leases start now. Without a BatchCut of that number before it, all steps so far are meant.
struct BatchCommitted { std::uint64_t batch{}; };
/// A grant is asked to leave. Not answered; a job that is not running is left alone. (People use JobCommand.)
struct PreemptAsked { JobId job; std::string reason; Duration deadline{kTiming.yield_deadline}; };
struct PayloadMissing { JobId job; };                           ///< body not in the store: the job fails PAYLOAD_LOST
struct StoreDown {};
struct StoreUp {};
struct TimerFired {};                                           ///< next_wakeup() has come

using Event = std::variant<SubmitReceived, WatchReceived, CancelReceived, RetryReceived, FetchedReceived, ModelPushed,
                           ModelRemoveReceived, ModelCommand, ClientGone, WorkerHello, WorkerPulled, WorkerBeat, AttemptsStarted,
                           AttemptRefused, AttemptsEnded, CheckpointSaved, MemoryReleased, WorkerGoodbye, LinksGone,
                           BatchCommitted, PayloadMissing, StoreDown, StoreUp, TimerFired, BatchCut, PreemptAsked,
                           JobCommand, UpdateReceived, FleetCommand, PolicyLoaded>;

}  // namespace gq::core

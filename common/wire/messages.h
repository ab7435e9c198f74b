// messages.h - everything that is said on the wire, as plain structs. PROTOCOL.md is the same page for people.
//
// A message is at most two frames: frame 0 = msgpack header {v, min, type, id, trace} followed by the msgpack body; frame 1 =
// payload bytes, which the broker never parses. A hot message carries 1..256 items; the payloads of its items lie
// concatenated in frame 1 and each item says how long its own is (`payload_bytes`). Fields are only added, type numbers never
// reused. Hot bodies are msgpack arrays, control bodies maps (unknown keys ignored, missing keys default).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/units.h"

namespace gq::wire {

inline constexpr std::uint8_t kProtocolVersion = 1;
inline constexpr std::uint8_t kOldestReader = 1;

/// X(number, Struct): the registry. Numbers: 1-9 session, 10-49 client, 50-79 worker, 80-99 both.
#define GQ_WIRE_MESSAGES(X) \
  X(1, ClientHello) X(2, ClientWelcome) X(3, WorkerHello) X(4, WorkerWelcome) X(5, Beat) X(6, BeatReply) X(7, Goodbye) X(8, Failure) \
  X(10, Submit) X(11, Submitted) X(12, Watch) X(13, Watched) X(14, Notify) X(15, Fetched) X(16, CancelJobs) X(17, CancelReply) \
  X(18, Retry) X(19, RetryReply) X(20, StatusQuery) X(21, StatusReply) X(22, ListQuery) X(23, ListReply) X(24, WorkersQuery) \
  X(25, WorkersReply) X(26, LogQuery) X(27, LogReply) X(28, ModelPush) X(29, ModelRemove) X(30, ModelReply) X(31, ModelsQuery) \
  X(32, ModelsReply) X(33, ResultQuery) X(34, ResultReply) X(35, TopQuery) X(36, TopReply) X(37, Command) X(38, CommandReply) \
  X(39, UpdateJob) X(40, ExplainQuery) X(41, ExplainReply) X(42, PlanSubmit) X(43, PlanPolicy) X(44, PlanPolicyReply) X(45, ConfigQuery) \
  X(46, ConfigReply) X(47, ModelCommand) \
  X(50, Pull) X(51, Assign) X(52, Started) X(53, Refused) X(54, Ended) X(55, Accepted) X(56, PreemptJob) X(57, CancelJob) \
  X(58, Progress) X(59, Log) X(60, CheckpointSaved) X(61, MemoryReleased) X(62, WorkerBeat) X(63, WorkerBeatReply) \
  X(64, EvictModel) X(67, ModelLog) \
  X(80, BlobPut) X(81, BlobPutReply) X(82, BlobGet) X(83, BlobGetReply)

struct Header {
  std::uint8_t v{kProtocolVersion};
  std::uint8_t min{kOldestReader};
  std::uint16_t type{};
  std::uint64_t id{};     ///< request id, echoed in the answer; 0 = none expected
  std::string trace;      ///< W3C traceparent or empty
  bool operator==(const Header&) const = default;
};

struct Grant { JobId job; Attempt attempt{}; Nonce nonce{}; auto operator<=>(const Grant&) const = default; };

// ---- 1-9 session
struct ClientHello { std::string name; std::string version; std::uint8_t protocol{kProtocolVersion}; bool near{}; bool operator==(const ClientHello&) const = default; };
struct ClientWelcome { std::string broker_version; Term term{}; std::uint8_t protocol{}; std::string role; std::string name; std::uint64_t frame_bytes_max{}; std::uint64_t inline_bytes_max{}; std::uint64_t blob_chunk_bytes{}; std::uint32_t beat_ms{}; std::string space; std::string near{}; bool operator==(const ClientWelcome&) const = default; };
struct Device { std::string uuid, name; std::uint8_t kind{}; std::uint16_t index{}; std::int64_t total_mib{}, driver_mib{}, used_mib{}, used_by_us_mib{}; std::int16_t temperature_c{-1}, utilization_pct{-1}; bool healthy{true}; bool operator==(const Device&) const = default; };
struct Lane { std::uint16_t lane{}; std::uint8_t kind{}; std::string device; std::string model; bool operator==(const Lane&) const = default; };
struct Credit { std::uint16_t lane{}; std::uint64_t limit{}; bool operator==(const Credit&) const = default; };
struct WorkerHello { std::string name; std::uint64_t instance{}; std::string version; std::uint8_t protocol{kProtocolVersion}; std::string host; std::vector<std::string> kinds; std::vector<std::string> labels; std::vector<Device> devices; std::vector<Lane> lanes; std::vector<Credit> credit; std::vector<Grant> running; bool operator==(const WorkerHello&) const = default; };
struct WorkerWelcome { std::string broker_version; Term term{}; std::uint8_t protocol{}; std::uint32_t beat_ms{}, lease_ms{}, orphan_ms{}; std::uint64_t frame_bytes_max{}, inline_bytes_max{}, blob_chunk_bytes{}; std::vector<Grant> revoke; std::uint64_t numbered{}; bool operator==(const WorkerWelcome&) const = default; };
struct Beat { std::uint64_t sent_us{}; bool operator==(const Beat&) const = default; };                                          ///< client -> broker
struct BeatReply { std::uint64_t sent_us{}; Term term{}; bool operator==(const BeatReply&) const = default; };
struct Goodbye { std::string reason; bool operator==(const Goodbye&) const = default; };
struct Failure { std::string code; std::string what; std::string next; bool operator==(const Failure&) const = default; };          ///< the answer to anything that could not be done

// ---- 10-49 client
struct SubmitItem {
  JobId id;
  Digest128 digest;                      ///< of this item's spec and payload, made by the sender (compared, never trusted)
  std::string kind;
  std::uint8_t job_class{};              ///< JobClass
  std::uint8_t priority{5};
  std::string model;
  std::int64_t budget_min_mib{}, budget_max_mib{};
  std::uint16_t devices{1};
  std::uint8_t on_preempt{};
  bool exclusive{};
  std::vector<std::string> where;
  std::int64_t not_before_ms{}, deadline_ms{};
  std::int64_t timeout_us{};
  std::uint32_t retries{};
  std::string unique;
  std::vector<JobId> after;
  std::vector<BlobDigest> blobs;
  std::string label;
  bool watch{true};
  std::uint32_t payload_bytes{};         ///< of the job body (job_body.h) in frame 1
  bool strict{};                         ///< refuse it (NO_FIT) when no device known could ever hold it
  std::uint8_t durability{};                ///< 0 = as its class says (on disk before the answer, unless an operator chose otherwise), 1 = none, 2 = on disk
  bool operator==(const SubmitItem&) const = default;
};
struct Submit { std::vector<SubmitItem> items; bool operator==(const Submit&) const = default; };
struct SubmittedItem { JobId id; bool ok{}; bool existing{}; std::string code, what, next; std::uint8_t durability{}; bool operator==(const SubmittedItem&) const = default; };
struct Submitted { std::vector<SubmittedItem> items; bool operator==(const Submitted&) const = default; };
struct Watch { std::vector<JobId> jobs; bool operator==(const Watch&) const = default; };
struct Watched { std::vector<JobId> unknown; bool operator==(const Watched&) const = default; };
struct NotifyItem {
  JobId id; std::uint8_t state{}; Attempt attempt{}; std::string code, what; std::string worker; std::string device; std::string model_version;
  std::int64_t submitted_ms{}, started_ms{}, ended_ms{}; std::vector<BlobDigest> blobs; std::uint32_t payload_bytes{};  ///< inline result (job_body.h) in frame 1
  bool operator==(const NotifyItem&) const = default;
};
struct Notify { std::vector<NotifyItem> items; bool operator==(const Notify&) const = default; };
struct Fetched { std::vector<JobId> jobs; bool operator==(const Fetched&) const = default; };
struct CancelJobs { std::vector<JobId> jobs; bool operator==(const CancelJobs&) const = default; };
struct CancelReply { std::vector<std::uint8_t> items; bool operator==(const CancelReply&) const = default; };                           ///< core::CancelResult
struct Retry { JobId job; JobId new_id; bool watch{}; bool operator==(const Retry&) const = default; };
struct RetryReply { SubmittedItem item; bool operator==(const RetryReply&) const = default; };
struct StatusQuery { std::vector<JobId> jobs; bool operator==(const StatusQuery&) const = default; };
struct JobStatus {
  JobId id; bool found{}; std::string kind; std::uint8_t job_class{}, state{}, priority{}; std::string model, model_version, label, owner, worker, device, code, what, reason, on_preempt;
  std::int64_t budget_min_mib{}, budget_max_mib{}, granted_mib{}; std::uint32_t attempt{}, failures{}, losses{}, preemptions{}, retries{};
  std::int64_t submitted_ms{}, started_ms{}, ended_ms{}, due_ms{}, deadline_ms{}; std::uint64_t ahead{}; std::uint32_t result_bytes{}; std::vector<BlobDigest> result_blobs; JobId retry_of; std::vector<JobId> after;
  bool cancel_asked{}; std::uint64_t checkpoint_step{}; BlobDigest checkpoint; std::uint64_t progress_step{}, progress_total{}; std::map<std::string, double> metrics; std::string last_lines;
  bool held{}; std::uint32_t evictions{}; std::string leave_reason; JobId leave_for; std::uint8_t durability{};
  bool operator==(const JobStatus&) const = default;
};
struct StatusReply { std::vector<JobStatus> jobs; bool operator==(const StatusReply&) const = default; };
struct ListQuery { std::string state, job_class, kind; bool active_only{}; JobId after; std::uint32_t limit{100}; bool operator==(const ListQuery&) const = default; };
struct ListReply { std::vector<JobStatus> jobs; bool operator==(const ListReply&) const = default; };
struct WorkersQuery { bool operator==(const WorkersQuery&) const = default; };
struct DeviceStatus { Device device; std::int64_t headroom_mib{}, foreign_mib{}, granted_mib{}, free_mib{}; std::vector<std::string> holders, warm; std::string state; std::vector<std::string> reserved; bool operator==(const DeviceStatus&) const = default; };
struct WorkerStatus { std::string name, host, version, state; std::int64_t since_beat_ms{}; std::vector<std::string> labels, kinds; std::uint32_t running{}; std::vector<DeviceStatus> devices; bool operator==(const WorkerStatus&) const = default; };
struct WorkersReply { std::vector<WorkerStatus> workers; bool operator==(const WorkersReply&) const = default; };
struct LogQuery { JobId job; std::uint64_t offset{}; bool follow{}; std::string model{}; bool operator==(const LogQuery&) const = default; };              ///< follow: replies keep coming on this id until the job is final
struct LogReply { JobId job; std::uint64_t offset{}; std::uint64_t next{}; bool end{}; bool operator==(const LogReply&) const = default; };  ///< bytes in frame 1; offset > asked = the ring had moved on
struct Model { std::string name, version, runtime, metadata, owner; BlobDigest blob; std::uint64_t bytes{}; std::int64_t budget_mib{}, pushed_ms{}; bool promoted{}; std::int64_t promoted_ms{}; bool operator==(const Model&) const = default; };
struct ModelPush { Model model; bool promote{true}; bool operator==(const ModelPush&) const = default; };                                                 ///< its blob must be stored already
struct ModelRemove { std::string name, version; bool operator==(const ModelRemove&) const = default; };
struct ModelCommand { std::string verb, name, version, condition; bool operator==(const ModelCommand&) const = default; };                    ///< promote, rollback
struct ModelReply { Model model; bool operator==(const ModelReply&) const = default; };
struct ModelsQuery { bool operator==(const ModelsQuery&) const = default; };
struct ModelsReply { std::vector<Model> models; bool operator==(const ModelsReply&) const = default; };
struct ResultQuery { JobId job; JobId child{}; bool operator==(const ResultQuery&) const = default; };
struct ResultReply { NotifyItem item; bool operator==(const ResultReply&) const = default; };                                           ///< payload as in Notify; a not yet final job answers Failure UNAVAILABLE
struct TopQuery { bool operator==(const TopQuery&) const = default; };
struct TopReply {
  std::string broker_version, store, space; Term term{}; std::int64_t uptime_ms{}; std::uint64_t by_class_and_state[3][10]{};
  std::uint64_t submitted{}, succeeded{}, failed{}, lost{}, stale{}, assigned{}; std::uint64_t queued_bytes{}, final_bytes{}, broker_bytes{};
  std::uint64_t commits{}; double commit_p50_ms{}, commit_p99_ms{}; std::uint64_t jobs_per_commit_milli{};
  std::uint64_t preempted{}, evicted_models{}, plans_made{}, plans_expired{}, killed_at_deadline{}; std::vector<std::string> switches;
  bool operator==(const TopReply&) const = default;
};

// What operators order. Verbs: "preempt", "hold", "release" (jobs); "drain", "undrain" (target: worker name, device UUID, "worker/index" or
// "host/index"); "pause", "resume" (target: class). `deadline_ms` is a span from now, 0 = none (preempt: the class's grace).
struct Command { std::string verb; std::vector<JobId> jobs; std::string target, reason; std::int64_t deadline_ms{}; bool operator==(const Command&) const = default; };
struct CommandItem { bool ok{}; std::string text, code, what, next; bool operator==(const CommandItem&) const = default; };
struct CommandReply { std::vector<CommandItem> items; bool operator==(const CommandReply&) const = default; };   ///< one per job, or one
struct UpdateJob {                       ///< what is absent stays; answered with CommandReply
  JobId job; std::optional<std::uint8_t> priority; std::optional<std::int64_t> deadline_ms, not_before_ms, timeout_ms; std::optional<std::uint32_t> retries;
  std::optional<std::uint8_t> job_class; std::optional<std::int64_t> budget_min_mib, budget_max_mib; std::optional<std::uint8_t> on_preempt; std::optional<std::vector<std::string>> where;
  bool operator==(const UpdateJob&) const = default;
};
struct PlaceVerdict { std::string worker, host, device; std::uint16_t index{}; bool warm{}; std::string constraint, sentence; std::int64_t lacking_mib{}, until_ms{}; bool operator==(const PlaceVerdict&) const = default; };
struct RefusalCount { std::string constraint; std::uint64_t count{}; bool operator==(const RefusalCount&) const = default; };
struct Remedy { std::string kind, text; std::int64_t when_ms{}; std::vector<JobId> jobs; std::int64_t budget_mib{}; bool operator==(const Remedy&) const = default; };
struct Explanation {
  JobId job; std::uint8_t state{}; std::string summary; bool would_start{}; std::uint64_t ahead{}; bool never{}; std::vector<PlaceVerdict> places; std::uint64_t places_looked_at{};
  std::vector<RefusalCount> refusals; std::vector<Remedy> remedies;
  bool operator==(const Explanation&) const = default;
};
struct ExplainQuery { JobId job; bool operator==(const ExplainQuery&) const = default; };
struct ExplainReply { Explanation explanation; bool operator==(const ExplainReply&) const = default; };
struct PlanSubmit { SubmitItem item; bool operator==(const PlanSubmit&) const = default; };                           ///< no payload; nothing is submitted
struct PlanPolicy { std::string text, name; bool operator==(const PlanPolicy&) const = default; };                    ///< a policy file and what to call it in messages
struct PlanChange { JobId job; std::string text; bool operator==(const PlanChange&) const = default; };
struct PlanPolicyReply { bool ok{}; std::string code, what, next; std::vector<std::string> warnings; std::vector<PlanChange> stranded, would_start, would_wait; bool operator==(const PlanPolicyReply&) const = default; };
struct ConfigQuery { bool reload{}; bool operator==(const ConfigQuery&) const = default; };                           ///< reload: read the file again first
struct ConfigSetting { std::string key, value, origin, where; bool operator==(const ConfigSetting&) const = default; };
struct ConfigReply { std::string file; std::int64_t loaded_ms{}; std::vector<ConfigSetting> settings; std::vector<std::string> warnings; bool operator==(const ConfigReply&) const = default; };

// ---- 50-79 worker. Each message of the broker carries the term; a worker refuses a lower one.
struct Pull { std::vector<Lane> opened; std::vector<std::uint16_t> closed; std::vector<Credit> credit; bool operator==(const Pull&) const = default; };
struct AssignItem {
  std::uint64_t number{}; Grant grant; std::uint16_t lane{}; std::vector<std::string> devices; std::int64_t granted_mib{}; std::string kind; std::uint8_t job_class{}, priority{}, on_preempt{};
  bool exclusive{}; std::int64_t timeout_us{}; Model model; BlobDigest resume; std::uint64_t resume_step{}; std::string owner; std::uint32_t payload_bytes{};
  std::uint8_t pause_for{};   ///< bit n: to be held while JobClass n has work on one of its devices here
  std::vector<JobId> after;   ///< the jobs it came after
  bool operator==(const AssignItem&) const = default;
};
struct Assign { Term term{}; std::vector<AssignItem> items; bool operator==(const Assign&) const = default; };
struct Started { std::vector<Grant> grants; bool operator==(const Started&) const = default; };
struct Refused { Grant grant; std::string code, what; bool operator==(const Refused&) const = default; };
struct EndedItem {
  Grant grant; std::uint8_t outcome{}; bool started{}; std::string code, what; std::vector<BlobDigest> blobs; BlobDigest checkpoint; std::uint64_t checkpoint_step{}; std::uint32_t payload_bytes{};
  bool operator==(const EndedItem&) const = default;
};
struct Ended { std::vector<EndedItem> items; bool operator==(const Ended&) const = default; };                                    ///< RESULT: how attempts ended
struct Accepted { Term term{}; std::vector<Grant> grants; std::vector<std::uint8_t> verdicts; bool operator==(const Accepted&) const = default; };  ///< core::EndVerdict
struct PreemptJob { Term term{}; std::uint64_t number{}; Grant grant; std::string reason; std::uint32_t deadline_ms{}; bool operator==(const PreemptJob&) const = default; };
struct CancelJob { Term term{}; std::uint64_t number{}; Grant grant; std::string reason; bool operator==(const CancelJob&) const = default; };
struct Progress { Grant grant; std::uint64_t step{}, total{}; std::map<std::string, double> metrics; bool operator==(const Progress&) const = default; };
struct ModelLog { std::string model; bool operator==(const ModelLog&) const = default; };                                                   ///< bytes in frame 1
struct Log { Grant grant; std::uint64_t offset{}; bool operator==(const Log&) const = default; };                               ///< bytes in frame 1
struct CheckpointSaved { Grant grant; BlobDigest blob; std::uint64_t step{}; bool operator==(const CheckpointSaved&) const = default; };
struct MemoryReleased { Grant grant; bool operator==(const MemoryReleased&) const = default; };
struct Eviction { std::string device, model; bool operator==(const Eviction&) const = default; };
struct WorkerBeat { std::uint64_t sent_us{}; std::uint64_t last_number{}; std::vector<Grant> running; std::vector<Device> devices; bool operator==(const WorkerBeat&) const = default; };
struct WorkerBeatReply { std::uint64_t sent_us{}; Term term{}; std::vector<Grant> revoke; std::vector<CancelJob> cancels; std::vector<PreemptJob> preempts; std::vector<Eviction> evictions; bool operator==(const WorkerBeatReply&) const = default; };
struct EvictModel { Term term{}; std::string device, model; bool operator==(const EvictModel&) const = default; };  ///< done when the warm lane is closed in a Pull

// ---- 80-99 both. Blobs travel in chunks over the sender's own connection.
/// First: digest, total and no payload -> BlobPutReply says from which offset to go on (resume), or complete. Then chunks in order.
struct BlobPut { BlobDigest blob; std::uint64_t total{}, offset{}; bool brief{}; std::string near{}; bool operator==(const BlobPut&) const = default; };
struct BlobPutReply { BlobDigest blob; std::uint64_t next{}; bool complete{}; bool operator==(const BlobPutReply&) const = default; };   ///< complete = on disk, fsynced, digest verified
struct BlobGet { BlobDigest blob; std::uint64_t offset{}; std::uint32_t bytes_max{}; bool near{}; bool operator==(const BlobGet&) const = default; };
struct BlobGetReply { BlobDigest blob; std::uint64_t total{}, offset{}; std::string path{}; bool operator==(const BlobGetReply&) const = default; };         ///< bytes in frame 1

template <class T>
struct TypeNumber;
#define GQ_NUMBER(number, Struct) \
  template <>                     \
  struct TypeNumber<Struct> {     \
    static constexpr std::uint16_t value = number; \
    static constexpr const char* name = #Struct;   \
  };
GQ_WIRE_MESSAGES(GQ_NUMBER)
#undef GQ_NUMBER

using Message = std::variant<std::monostate
#define GQ_ALTERNATIVE(number, Struct) , Struct
                             GQ_WIRE_MESSAGES(GQ_ALTERNATIVE)
#undef GQ_ALTERNATIVE
                             >;

}  // namespace gq::wire

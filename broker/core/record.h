// record.h - what is remembered of a job, a model and a batch: the only data decisions may use.
//
// JobFixed never changes after the submit. JobDynamic is rewritten whole by each transition. The body (arguments,
// environment, inline inputs) and the result's bytes never enter the core: they stay in the shell and in the store, and
// pass through here as Tokens, numbers that mean something to the shell only.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/units.h"

namespace gq::core {

/// Names bytes that the shell holds (a submit's body, a result); 0 = none. The core only hands it on.
using Token = std::uint64_t;

struct JobFixed {
  JobId id;
  std::uint64_t seq{};        ///< submit order, given by the core, dense enough to sort by for ever
  WallTime submitted{};
  Digest128 digest;           ///< over spec and body as the client sent them
  Needs needs;
  std::uint8_t priority{5};   ///< 0..9, 9 first
  WallTime not_before{};      ///< ms 0 = at once
  WallTime deadline{};        ///< ms 0 = none; applies while blocked, waiting or ready
  Duration timeout{};         ///< of one attempt, from STARTED; 0 = none
  std::uint32_t retries{};
  std::string unique;         ///< empty = none; released at a terminal state
  std::vector<JobId> after;
  std::vector<BlobDigest> blobs;  ///< inputs by content; referenced while the record lives
  JobId retry_of;
  std::string owner;          ///< name of the key that submitted
  std::string label;          ///< what people call it
  std::uint32_t body_bytes{};
  bool durable{true};         ///< false: never written to the store, gone with this broker; so it is no part of the stored record
  bool operator==(const JobFixed&) const = default;
};

struct Checkpoint {
  BlobDigest blob;            ///< empty = none
  std::uint64_t step{};
  bool operator==(const Checkpoint&) const = default;
};

struct JobDynamic {
  JobState state{JobState::ready};
  Attempt attempt{};
  Nonce nonce{};              ///< of the newest grant; kept after a loss: its result may still be accepted. 0 in a final state
                              ///< = final without that grant's word
  std::uint32_t failures{};
  std::uint32_t losses{};     ///< all losses
  std::uint32_t own_losses{}; ///< crashes of an executor it had STARTED on; kLimits.own_losses_max quarantines
  std::uint32_t preemptions{};   ///< all yields, whoever asked
  std::uint32_t evictions{};     ///< of these: for work of a higher class; kept apart because they protect
  std::string worker;         ///< name of the newest grant's worker
  std::vector<std::string> devices;  ///< UUIDs of the newest grant
  Mib granted{};
  bool cancel_asked{};
  bool held{};                ///< `gpuq hold`: ready, and not to be started until released
  WallTime due{};             ///< waiting: when it comes due
  WallTime started{};         ///< newest attempt
  WallTime ended{};           ///< terminal; else, when not 0, the newest attempt's end was accepted then
  Checkpoint checkpoint;      ///< newest acknowledged
  std::string model_version;  ///< which version the newest attempt runs
  Errc error{Errc::internal}; ///< meaningful unless succeeded or error_text is empty
  std::string error_text;     ///< at most 300 bytes
  std::uint32_t result_bytes{};
  std::vector<BlobDigest> result_blobs;
  bool fetched{};
  std::string leave_reason;   ///< who or what made it leave its device last, at most 200 bytes; empty = never
  JobId leave_for;            ///< the job it left for; empty = nobody's
  bool operator==(const JobDynamic&) const = default;
};

struct JobRecord {
  JobFixed fixed;
  JobDynamic dynamic;
  bool operator==(const JobRecord&) const = default;
};

/// A pushed model version. NAME alone means the promoted version at the time of the grant.
struct ModelRecord {
  std::string name;
  std::string version;        ///< first 12 hex characters of the blob digest
  BlobDigest blob;
  std::uint64_t bytes{};
  std::string runtime;        ///< "torchscript" | "gpuq-detector" | "python"
  Mib budget{};               ///< device memory to keep it loaded, context included; 0 = the kind's default and what its file has beyond 64 MiB
  std::string metadata;       ///< JSON shown to people; class names and the like
  WallTime pushed{};
  std::string owner;
  bool promoted{};
  WallTime promoted_at{};     ///< last time NAME came to mean it; 0 = never, or a rollback left it
  bool operator==(const ModelRecord&) const = default;
};

/// What an operator has switched and must survive a restart. One of each kind and target; gone when switched back.
struct OperatorSetting {
  enum class Kind : std::uint8_t { drain_worker, drain_device, pause_class } kind{};
  std::string target;         ///< worker name, device UUID, class name
  WallTime deadline{};        ///< drains: who still runs then is asked to leave; ms 0 = none
  std::string reason;
  std::string by;             ///< name of the key
  WallTime at{};
  bool operator==(const OperatorSetting&) const = default;
};

/// What the store hands back at start: enough to rebuild the core.
struct Image {
  std::vector<JobRecord> jobs;    ///< any order
  std::vector<ModelRecord> models;
  struct Tombstone { JobId id; Digest128 digest; WallTime ended; };
  std::vector<Tombstone> tombstones;
  std::vector<OperatorSetting> settings{};
};

// ---- Mutations: what a step makes durable. Applied in order; a store may fold those of one job in one batch.

struct JobCreated { JobRecord record; Token body{}; JobId body_of{}; bool operator==(const JobCreated&) const = default; };  ///< body_of: copy that job's body instead (retry)
struct JobChanged { JobId id; JobState from{}; JobDynamic now; std::uint64_t seq{}; JobClass job_class{}; bool operator==(const JobChanged&) const = default; };
struct PayloadRead { JobId id; bool operator==(const PayloadRead&) const = default; };       ///< read the body in this very batch
struct ResultStored { JobId id; Attempt attempt{}; Token result{}; std::uint32_t bytes{}; bool operator==(const ResultStored&) const = default; };
struct ResultDropped { JobId id; bool operator==(const ResultDropped&) const = default; };
struct JobForgotten { JobId id; JobState from{}; bool tombstone{}; Digest128 digest; WallTime ended{}; bool operator==(const JobForgotten&) const = default; };
struct TombstoneDropped { JobId id; bool operator==(const TombstoneDropped&) const = default; };
struct UniqueTaken { std::string key; JobId id; bool operator==(const UniqueTaken&) const = default; };
struct UniqueReleased { std::string key; bool operator==(const UniqueReleased&) const = default; };
struct ModelStored { ModelRecord record; bool operator==(const ModelStored&) const = default; };
struct ModelRemoved { std::string name; std::string version; bool operator==(const ModelRemoved&) const = default; };
struct JobRevised { JobFixed fixed; bool operator==(const JobRevised&) const = default; };                ///< `gpuq update`: id, seq, submitted, digest and body stay
struct SettingStored { OperatorSetting setting; bool operator==(const SettingStored&) const = default; };
struct SettingDropped { OperatorSetting::Kind kind{}; std::string target; bool operator==(const SettingDropped&) const = default; };

using Mutation = std::variant<JobCreated, JobChanged, PayloadRead, ResultStored, ResultDropped, JobForgotten, TombstoneDropped,
                              UniqueTaken, UniqueReleased, ModelStored, ModelRemoved, JobRevised, SettingStored, SettingDropped>;

}  // namespace gq::core

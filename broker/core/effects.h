// effects.h - consequences, as data. All compare and print.
//
// Mutations must become durable; a Send may leave only after the commit of its step *and of all earlier ones*, even when its
// own step commits nothing. A SendNow reveals no job state and may leave at once (heartbeats, errors of form).
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <variant>
#include <vector>

#include "broker/core/events.h"
#include "broker/core/record.h"

namespace gq::core {

// ---- to clients

struct SubmitOutcome {
  JobId id;
  bool ok{};
  bool existing{};         ///< same id, same digest: it was here before
  Error error;             ///< when !ok
  bool durable{true};      ///< false: it is kept in memory only
  bool operator==(const SubmitOutcome&) const = default;
};
struct SubmitAnswer { PeerId peer; std::uint64_t request{}; std::vector<SubmitOutcome> items; bool operator==(const SubmitAnswer&) const = default; };
/// A watched job is final. The shell adds the result's bytes: `result` when this step brought them, else from the store.
struct JobNotice {
  PeerId peer;
  JobId job;
  JobDynamic now;
  Token result{};
  WallTime submitted{};      ///< of the record; ms 0 = not said
  bool operator==(const JobNotice&) const = default;
};
struct WatchAnswer { PeerId peer; std::uint64_t request{}; std::vector<JobId> unknown; bool operator==(const WatchAnswer&) const = default; };
enum class CancelResult : std::uint8_t { cancelled, asked, already_final, unknown, refused };   ///< refused: another's job
struct CancelAnswer { PeerId peer; std::uint64_t request{}; std::vector<CancelResult> items; bool operator==(const CancelAnswer&) const = default; };
struct RetryAnswer { PeerId peer; std::uint64_t request{}; SubmitOutcome item; bool operator==(const RetryAnswer&) const = default; };
struct ModelAnswer { PeerId peer; std::uint64_t request{}; bool ok{}; Error error; ModelRecord record; std::vector<BlobDigest> dropped; bool operator==(const ModelAnswer&) const = default; };
/// To JobCommand, UpdateReceived, FleetCommand: one item per job, or one.
struct CommandOutcome {
  bool ok{};
  Error error;             ///< when !ok
  std::string text;        ///< what was done, for people: "asked to leave w1 GPU-7 by 12:00:30"
  bool operator==(const CommandOutcome&) const = default;
};
struct CommandAnswer { PeerId peer; std::uint64_t request{}; std::vector<CommandOutcome> items; bool operator==(const CommandAnswer&) const = default; };

// ---- to workers. `number` counts ASSIGN, PREEMPT and CANCEL per connection from 1.

struct Assign {
  PeerId peer;
  std::uint64_t number{};
  Grant grant;
  std::uint16_t lane{};
  std::vector<std::string> devices;  ///< UUIDs; empty for kinds without a device
  Mib granted{};
  ModelRecord model;                 ///< resolved version; empty name when the kind uses none
  Checkpoint resume;
  Needs needs;
  std::uint8_t priority{};
  Duration timeout{};
  std::uint32_t body_bytes{};
  std::string owner;
  std::uint8_t pause_for{};          ///< bit n: held by its worker while JobClass n has work on its device
  std::vector<JobId> after;          ///< the jobs it came after: their results are inputs
  bool operator==(const Assign&) const = default;
};
struct Preempt { PeerId peer; std::uint64_t number{}; Grant grant; std::string reason; Duration deadline{}; bool operator==(const Preempt&) const = default; };
struct Cancel { PeerId peer; std::uint64_t number{}; Grant grant; std::string reason; bool operator==(const Cancel&) const = default; };
/// An idle model is to leave its device; done when the worker closes its warm lane. Repeated in BeatAnswer until then; refused by
/// simply going on (it is in use by now): the broker gives up by itself.
struct EvictModel { PeerId peer; std::string device; std::string model; bool operator==(const EvictModel&) const = default; };
enum class EndVerdict : std::uint8_t { accepted, stale, gone };
/// The worker forgets an end once it has a verdict. The same grant again gets the same verdict again.
struct EndsAnswer { PeerId peer; std::uint64_t request{}; std::vector<Grant> grants; std::vector<EndVerdict> verdicts; bool operator==(const EndsAnswer&) const = default; };
/// Answer to HELLO: what the worker holds but must stop (unknown here or granted elsewhere since). `numbered`: the last number given
/// on this connection so far; not 0 when HELLO is said again on a connection, or the worker would wait for what it was told before.
struct WorkerWelcome { PeerId peer; std::vector<Grant> revoke; std::uint64_t numbered{}; bool operator==(const WorkerWelcome&) const = default; };
struct BeatAnswer { PeerId peer; std::vector<Grant> revoke; std::vector<Cancel> cancels; std::vector<Preempt> preempts; std::vector<EvictModel> evictions; bool operator==(const BeatAnswer&) const = default; };  ///< SendNow; intents repeated
struct WorkerRejected { PeerId peer; Error error; bool operator==(const WorkerRejected&) const = default; };  ///< HELLO refused, or replaced by a newer connection of that name

using Message = std::variant<SubmitAnswer, JobNotice, WatchAnswer, CancelAnswer, RetryAnswer, ModelAnswer, Assign, Preempt, Cancel,
                             EndsAnswer, WorkerWelcome, BeatAnswer, WorkerRejected, CommandAnswer, EvictModel>;

/// durable = false: of a job that is kept in memory only; it goes to no store, and nothing waits for it.
struct Commit { Mutation mutation; bool durable{true}; bool operator==(const Commit&) const = default; };
struct Send { Message message; bool operator==(const Send&) const = default; };
struct SendNow { Message message; bool operator==(const SendNow&) const = default; };

using Effect = std::variant<Commit, Send, SendNow>;
using Effects = std::vector<Effect>;

std::ostream& operator<<(std::ostream& out, const Effect& effect);
std::ostream& operator<<(std::ostream& out, const Effects& effects);

}  // namespace gq::core

// job.h - what a job is, and its whole life as one table.
//
// Windows, pauses and reservations are constraints on leaving `ready`, never states.
// `attempt` fences; `failures` use the retry budget; `losses` and `preemptions` have counters of their own.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary/ids.h"
#include "common/vocabulary/units.h"

namespace gq {

enum class JobClass : std::uint8_t { inference, training, synthesis };
inline constexpr std::size_t kJobClasses = 3;

enum class JobState : std::uint8_t {
  blocked,    ///< a job it comes after has not succeeded yet
  waiting,    ///< not before a time, or backing off after a failure
  ready,      ///< may start as soon as something fits
  running,    ///< granted to a worker
  yielding,   ///< asked to leave; everything legal in running is legal here
  succeeded, failed, cancelled, expired, quarantined,  // terminal
};
inline constexpr std::size_t kJobStates = 10;
constexpr bool is_terminal(JobState s) { return s >= JobState::succeeded; }
constexpr bool is_granted(JobState s) { return s == JobState::running || s == JobState::yielding; }

enum class Verb : std::uint8_t {
  unblock,      ///< the last job it waits for succeeded (or its time has not come: see waiting)
  defer,        ///< its time has not come yet
  come_due,     ///< its time has come
  dispatch,     ///< an attempt is granted
  refuse,       ///< the worker refused the grant: place kept, no counter used
  preempt,      ///< asked to leave
  yield,        ///< left with its state saved
  succeed,
  retry,        ///< failed, retries left
  fail,         ///< failed, none left
  lose,         ///< the attempt was lost with its worker, device or executor
  quarantine,   ///< lost too often by its own doing
  cancel,
  expire,       ///< deadline passed before a start
};

struct Transition {
  JobState from;
  Verb verb;
  JobState to;
};

inline constexpr std::array kTransitions{
    Transition{JobState::blocked, Verb::unblock, JobState::ready},
    Transition{JobState::blocked, Verb::defer, JobState::waiting},
    Transition{JobState::blocked, Verb::cancel, JobState::cancelled},
    Transition{JobState::blocked, Verb::expire, JobState::expired},
    Transition{JobState::blocked, Verb::fail, JobState::failed},
    Transition{JobState::waiting, Verb::come_due, JobState::ready},
    Transition{JobState::waiting, Verb::cancel, JobState::cancelled},
    Transition{JobState::waiting, Verb::expire, JobState::expired},
    Transition{JobState::waiting, Verb::succeed, JobState::succeeded},    // late result of a current grant (rule 4.2)
    Transition{JobState::waiting, Verb::fail, JobState::failed},
    Transition{JobState::ready, Verb::dispatch, JobState::running},
    Transition{JobState::ready, Verb::cancel, JobState::cancelled},
    Transition{JobState::ready, Verb::expire, JobState::expired},
    Transition{JobState::ready, Verb::succeed, JobState::succeeded},      // declared lost, result came after all
    Transition{JobState::ready, Verb::defer, JobState::waiting},          // given a date in the future after all
    Transition{JobState::ready, Verb::retry, JobState::waiting},
    Transition{JobState::ready, Verb::fail, JobState::failed},            // payload lost, late failure
    Transition{JobState::running, Verb::refuse, JobState::ready},
    Transition{JobState::running, Verb::preempt, JobState::yielding},
    Transition{JobState::running, Verb::yield, JobState::ready},          // a worker may give a job back unasked (drain)
    Transition{JobState::running, Verb::succeed, JobState::succeeded},
    Transition{JobState::running, Verb::retry, JobState::waiting},
    Transition{JobState::running, Verb::fail, JobState::failed},
    Transition{JobState::running, Verb::lose, JobState::ready},
    Transition{JobState::running, Verb::quarantine, JobState::quarantined},
    Transition{JobState::running, Verb::cancel, JobState::cancelled},
    Transition{JobState::yielding, Verb::refuse, JobState::ready},
    Transition{JobState::yielding, Verb::yield, JobState::ready},
    Transition{JobState::yielding, Verb::succeed, JobState::succeeded},
    Transition{JobState::yielding, Verb::retry, JobState::waiting},
    Transition{JobState::yielding, Verb::fail, JobState::failed},
    Transition{JobState::yielding, Verb::lose, JobState::ready},
    Transition{JobState::yielding, Verb::quarantine, JobState::quarantined},
    Transition{JobState::yielding, Verb::cancel, JobState::cancelled},
};

/// The state after `verb` in `from`; nullopt = illegal, and the caller answers, it never guesses.
constexpr std::optional<JobState> next(JobState from, Verb verb) {
  for (const Transition& t : kTransitions)
    if (t.from == from && t.verb == verb) return t.to;
  return std::nullopt;
}
static_assert(!next(JobState::succeeded, Verb::dispatch));
static_assert(next(JobState::running, Verb::lose) == JobState::ready);

enum class OnPreempt : std::uint8_t { checkpoint, pause, restart, never };

/// What kinds of work there are. Unknown kinds are refused at submit.
struct KindTraits {
  std::string_view name;
  JobClass default_class;
  bool uses_model;        ///< names a model; runs in a modelhost once that is warm
  bool uses_device;       ///< holds memory of a device; the others run in a worker's CPU slots
  Mib default_budget;     ///< device memory when the submit names none
  OnPreempt on_preempt;   ///< honest default
  bool answers{};         ///< a caller waits for it, soon done: it may be kept out of the store (JobFixed::durable)
};
inline constexpr std::array kKinds{
    KindTraits{"detect", JobClass::inference, true, true, {1024}, OnPreempt::restart, true},
    KindTraits{"infer", JobClass::inference, true, true, {1024}, OnPreempt::restart, true},
    KindTraits{"train.detector", JobClass::training, false, true, {2048}, OnPreempt::checkpoint},
    KindTraits{"train.gnn", JobClass::training, false, true, {2048}, OnPreempt::checkpoint},
    KindTraits{"train.gan", JobClass::training, false, true, {2048}, OnPreempt::checkpoint},
    KindTraits{"synthesize", JobClass::synthesis, true, true, {2048}, OnPreempt::restart, true},
    KindTraits{"command", JobClass::training, false, true, {512}, OnPreempt::restart},
    KindTraits{"echo", JobClass::inference, false, false, {0}, OnPreempt::restart, true},
    KindTraits{"sleep", JobClass::inference, false, false, {0}, OnPreempt::restart, true},
    KindTraits{"warm", JobClass::inference, true, true, {1024}, OnPreempt::restart, true},   // loads its model and ends: before a promotion, say
    KindTraits{"reserve", JobClass::training, false, true, {512}, OnPreempt::never},   // for a process that gpuq does not start, and cannot ask to leave
};
using KindIndex = std::uint8_t;  ///< index into kKinds; the text travels on the wire and in records
constexpr std::optional<KindIndex> kind_index(std::string_view name) {
  for (std::size_t i = 0; i < kKinds.size(); ++i)
    if (kKinds[i].name == name) return static_cast<KindIndex>(i);
  return std::nullopt;
}

std::string_view to_string(JobClass c);
std::string_view to_string(JobState s);
std::string_view to_string(Verb v);
std::string_view to_string(OnPreempt p);
std::optional<JobClass> parse_job_class(std::string_view text);
std::optional<JobState> parse_job_state(std::string_view text);
std::optional<OnPreempt> parse_on_preempt(std::string_view text);

/// How an attempt ended, in the worker's words.
enum class Outcome : std::uint8_t {
  succeeded,
  failed,        ///< the job's own failure: uses the retry budget
  failed_final,  ///< the job's own failure that no retry can mend (bad image, unknown argument)
  yielded,       ///< left on request, checkpoint durable (or the kind restarts from nothing)
  cancelled,     ///< stopped because cancel was asked
  timed_out,     ///< its own timeout, enforced by the worker; counts as failed
  crashed,       ///< the executor died under it: a loss of the job's own
  lost,          ///< host or executor went for reasons that are not the job's
};
std::string_view to_string(Outcome o);

/// Everything a scheduling decision may look at. Equal needs form one shape.
struct Needs {
  KindIndex kind{};
  JobClass job_class{JobClass::inference};
  std::string model;              ///< NAME or NAME@VERSION, empty when the kind uses none
  Mib budget_min{};               ///< 0,0 = the kind's or model's default
  Mib budget_max{};               ///< >= min; kRestOfDevice = as large as fits
  std::uint16_t devices{1};
  OnPreempt on_preempt{OnPreempt::restart};
  bool exclusive{};               ///< stops itself at 0.8 lease without a broker
  std::vector<std::string> where; ///< "key=value", sorted; all must be labels of the worker
  auto operator<=>(const Needs&) const = default;
};
inline constexpr Mib kRestOfDevice{INT64_C(1) << 40};

}  // namespace gq

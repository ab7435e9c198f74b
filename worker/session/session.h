// session.h - the worker's side of the conversation with the broker, as a pure state machine.
//
// Facts come in (the link is up, a message arrived, a job ended, time passed); what must happen leaves as Actions. No socket, no
// clock, no thread: time is an argument, read from a clock that also runs while the machine sleeps, so that a thaw shows as a gap.
//
//     down --connect--> dialling --link up--> greeting --WELCOME--> up          any loss, silence or thaw: back to dialling on a
//       ^                                                            |          NEW socket, after a jittered back-off
//       +------------------------------------------------------------+
//
// Invariants: a grant is held from ASSIGN until its end has a verdict (accepted, stale, gone: all three drop it). Reports leave
// only while `up`; after a reconnect HELLO names everything held before anything else is said. Credit is a cumulative limit since
// HELLO: `taken` (assignments seen since then) + free places, so lost and doubled messages cannot leak it.
//
// How a long job ended is said only after it has been written down (JournalEnd, then journaled()) and its blobs have arrived at the
// broker; restore() gives back what a worker that was killed had written. The verdict takes it out of the journal (ForgetEnd).
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/limits.h"
#include "common/wire/messages.h"

namespace gq::session {

using wire::Grant;

struct Options {
  std::string name;                      ///< the key's name, or --name on an insecure link
  std::string version;
  std::string host;
  std::uint64_t instance{};              ///< random per process; also seeds the jitter
  std::vector<std::string> kinds;
  std::vector<std::string> labels;
  Timing timing{};
  Duration dial_timeout = 5s;            ///< of dialling and of HELLO without an answer
  Duration backoff_min = 100ms;
  Duration backoff_max = 5s;
  Duration refused_backoff_max = 30s;    ///< a refused key is tried again, but slowly: somebody has to act first
  Duration thaw_gap = 3s;                ///< between two looks at the clock: we were frozen
  Duration resend_after = 5s;            ///< an end without a verdict is said again
  Duration drain_grace = 30s;            ///< what a draining worker lets short jobs finish in, and gives long ones to leave
  Duration stop_grace = 3s;              ///< after "stop now": to kill, report and say goodbye
  bool once{};                           ///< leave instead of dialling again when refused
  bool journals{};                       ///< ends of long jobs are written down before they are said
};

/// Why a job is told to stop; decides what is reported once it has stopped.
enum class StopCause : std::uint8_t {
  cancel,     ///< asked by a user: cancelled
  timeout,    ///< its own: timed_out
  shutdown,   ///< this worker ends: lost
  fenced,     ///< exclusive and no broker for 0.8 lease: lost
  revoked,    ///< not ours any more: nothing is reported
  orphaned,   ///< no broker for orphan_timeout: nothing is reported
};
std::string_view to_string(StopCause cause);

/// How an attempt ended, as an executor says it. `cancelled` = it stopped because it was told to; the session knows why.
struct Ending {
  Grant grant;
  Outcome outcome{Outcome::failed};
  Errc code{Errc::job_failed};           ///< unless succeeded; of a yield only with `what`: it did not leave by itself
  std::string what;
  std::vector<BlobDigest> blobs;         ///< of the result, already stored at the broker unless `stored_here`
  bool stored_here{};                    ///< they lie in this worker's cache: to be sent to the broker before the end is said
  BlobDigest checkpoint;                 ///< newer than what job_checkpoint() said, or empty; stored like `blobs`
  std::uint64_t checkpoint_step{};
  std::string body;                      ///< encoded ResultBody
  std::optional<bool> started;           ///< override: "it never really began there" (queued in a child that crashed)
};

struct BrokerTerms {                     ///< what WELCOME settled
  std::string version;
  Term term{};
  std::uint64_t inline_bytes_max{};
  std::uint64_t blob_chunk_bytes{};
};

// ---- actions
struct Connect {};                                              ///< close any socket, open a new one
struct Hangup {};                                               ///< close the socket
struct Send { wire::Message message; std::uint64_t id{}; std::string body; };
struct StartJob { wire::AssignItem item; std::string body; };
struct StopJob { Grant grant; StopCause cause{}; };
struct PreemptJob { Grant grant; std::string reason; Duration deadline{}; };
struct EvictIdle { std::string device, model; };                ///< unload it unless it is in use by now; done = its lane is closed
/// Make it durable, then say journaled(). `here`: the blobs that only this worker has.
struct JournalEnd { wire::EndedItem end; std::string body; std::vector<BlobDigest> here; };
struct ForgetEnd { Grant grant; };                              ///< it has its verdict: out of the journal
struct UploadAgain { Grant grant; std::vector<BlobDigest> blobs; };  ///< the broker does not know them; then say result_stored()
struct Welcomed { BrokerTerms terms; };
struct Note { bool warn{}; std::string event; std::string what; std::string next; };   ///< for the log
struct Exit { int code{}; };
using Action = std::variant<Connect, Hangup, Send, StartJob, StopJob, PreemptJob, EvictIdle, JournalEnd, ForgetEnd, UploadAgain, Welcomed, Note, Exit>;
using Actions = std::vector<Action>;
std::string to_string(const Action& action);                    ///< one line; tests compare lists of them

class Session {
 public:
  explicit Session(Options options);

  // ---- the link
  void start(Instant now, Actions& out);
  void link_up(Instant now, Actions& out);
  void link_down(Instant now, Actions& out);
  void refused(Instant now, const Error& why, Actions& out);
  void received(Instant now, const wire::Header& header, wire::Message&& message, std::string_view body, Actions& out);

  // ---- time. tick() at next_wakeup() at the latest; flush() once per turn of the loop, after everything else.
  void tick(Instant now, Actions& out);
  [[nodiscard]] Instant next_wakeup() const;
  void flush(Instant now, Actions& out);

  // ---- what executors say. Grants no longer held are ignored.
  void job_started(Instant now, const Grant& grant);
  void job_ended(Instant now, Ending ending, Actions& out);
  void job_refused(const Grant& grant, Errc code, std::string what);
  void job_progress(wire::Progress progress);
  void model_log(std::string model, std::string bytes);
  void job_log(const Grant& grant, std::uint64_t offset, std::string bytes);
  void job_checkpoint(const Grant& grant, const BlobDigest& blob, std::uint64_t step);
  void job_released(const Grant& grant);
  void result_stored(const Grant& grant);                       ///< after UploadAgain
  void result_missing(const Grant& grant);                      ///< after UploadAgain: no copy left; the job runs again

  void journaled(const Grant& grant, Actions& out);             ///< after JournalEnd
  /// Before start(): an end that an earlier process of this worker wrote down and got no verdict for.
  void restore(wire::EndedItem end, std::string body, std::vector<BlobDigest> here, Actions& out);

  // ---- capacity
  void open_lane(wire::Lane lane, std::uint32_t capacity);
  void close_lane(std::uint16_t lane);
  void set_devices(std::vector<wire::Device> devices) { devices_ = std::move(devices); }
  void set_kinds(Instant now, std::vector<std::string> kinds, Actions& out);   ///< says HELLO again when they changed

  // ---- the end
  void drain(Instant now, Actions& out);                        ///< SIGTERM: no new work, finish or give back, goodbye
  void stop(Instant now, Actions& out);                         ///< second SIGTERM, SIGINT: now

  [[nodiscard]] bool up() const { return link_ == Link::up; }
  [[nodiscard]] bool leaving() const { return leaving_ != Leaving::no; }
  [[nodiscard]] bool holds(const Grant& grant) const { return held_.contains(grant); }
  [[nodiscard]] std::size_t running() const;                    ///< held and not ended
  [[nodiscard]] std::size_t journal() const;                    ///< ended, no verdict yet
  [[nodiscard]] const Options& options() const { return options_; }

 private:
  enum class Link : std::uint8_t { down, dialling, greeting, up };
  enum class Leaving : std::uint8_t { no, draining, stopping, left };

  struct GrantHash {
    std::size_t operator()(const Grant& g) const noexcept { return std::hash<JobId>{}(g.job) ^ (std::size_t{g.attempt} << 20U); }
  };
  struct LaneState {
    wire::Lane declared;
    std::uint32_t capacity{};
    std::uint32_t held{};
    std::uint64_t taken{};               ///< assignments since HELLO
    std::uint64_t limit_sent{};
    bool announced{};                    ///< named in HELLO or in a Pull
  };
  struct Held {
    std::uint16_t lane{};
    bool lane_charged{true};
    std::string kind;
    bool exclusive{};
    Duration timeout{};
    bool started{};
    bool started_said{};
    bool preempt_asked{};
    std::optional<StopCause> stopping;
    bool ended{};
    wire::EndedItem end;
    std::string body;
    Instant said{};                      ///< when the end was last sent
    bool queued{};                       ///< stands in ended_queue_
    bool waiting_upload{};
    bool waiting_journal{};
    bool journaled{};
    std::vector<BlobDigest> here;        ///< to be sent to the broker before the end is said
    BlobDigest checkpoint;
    std::uint64_t checkpoint_step{};
    bool checkpoint_said{};
    bool released{};
    bool released_said{};
    std::optional<wire::Progress> progress;
    [[nodiscard]] bool can_be_said() const;   ///< ended, written down, its blobs at the broker
  };
  using HeldMap = std::unordered_map<Grant, Held, GrantHash>;

  /// Long jobs are asked to leave when a worker drains (the others are quicker to finish), and their ends are journaled.
  static bool is_long(const std::string& kind);
  static bool is_journaled(const Held& held, Outcome outcome);
  // session.cpp: link and time
  bool observe(Instant now, Actions& out);                      ///< false: a thaw was found, a new link is being made
  void reconnect(Instant now, Duration wait, Actions& out);
  void dial(Instant now, Actions& out);
  void say_hello(Instant now, Actions& out);
  void beat(Instant now, Actions& out);
  Duration next_backoff(Duration cap);
  void on_welcome(Instant now, wire::WorkerWelcome&& message, Actions& out);
  void on_failure(Instant now, std::uint64_t id, const wire::Failure& message, Actions& out);
  void on_beat_reply(Instant now, const wire::WorkerBeatReply& message, Actions& out);
  bool term_is_current(Term term, Actions& out);
  void check_fences(Instant now, Actions& out);
  void check_leaving(Instant now, Actions& out);
  bool saw_number(std::uint64_t number);                        ///< false: seen before
  // session_jobs.cpp: jobs; session_journal.cpp: the way of an end
  void on_assign(Instant now, wire::Assign&& message, std::string_view body, Actions& out);
  void take(Instant now, wire::AssignItem&& item, std::string_view body, Actions& out);
  std::optional<std::pair<Errc, std::string>> objection(const wire::AssignItem& item, Actions& out);
  void on_accepted(std::uint64_t id, const wire::Accepted& message, Actions& out);
  void on_cancel(const wire::CancelJob& message, Actions& out);
  void on_preempt(const wire::PreemptJob& message, Actions& out);
  void on_evict(const std::string& device, const std::string& model, Actions& out);
  void revoke(const std::vector<Grant>& grants, Actions& out);
  void stop_job(const Grant& grant, StopCause cause, Actions& out);
  void free_lane(Held& held);
  void flush_started(Actions& out);
  void flush_ended(Instant now, Actions& out);
  void flush_pull(Actions& out);
  void flush_reports(Instant now, Actions& out);
  void queue_end(const Grant& grant);
  void send_blobs_then_end(const Grant& grant, Actions& out);
  void drop_end(HeldMap::iterator held, Actions& out);

  Options options_;
  Link link_{Link::down};
  Leaving leaving_{Leaving::no};
  Term term_{};
  std::uint64_t random_;
  std::uint32_t failures_in_row_{};
  std::uint64_t next_request_{1};

  Instant seen_{};                       ///< last look at the clock
  Instant link_due_{};                   ///< dialling, greeting: give up; down: dial
  Instant beat_due_{};
  Instant heard_{};                      ///< last message of the broker
  Instant renewed_{};                    ///< when the newest answered beat (or HELLO) was sent
  Instant hello_sent_{};
  Instant leave_by_{};
  Instant progress_due_{};
  bool orphaned_{};
  bool dropped_note_{};
  Duration lease_;
  Duration beat_interval_;
  Duration orphan_timeout_;

  std::uint64_t number_max_{};           ///< of ASSIGN, PREEMPT, CANCEL on this link
  std::set<std::uint64_t> number_missing_;
  Instant missing_since_{};

  HeldMap held_;
  std::map<std::uint16_t, LaneState> lanes_;
  std::vector<std::uint16_t> lanes_closed_;
  bool lanes_changed_{};
  std::vector<wire::Device> devices_;
  std::vector<Grant> started_queue_;
  std::vector<Grant> ended_queue_;
  std::vector<Grant> report_queue_;      ///< progress, checkpoint or release to say
  std::vector<Send> refusals_;
  std::vector<Send> logs_;
  std::multimap<Instant, Grant> timeouts_;
  std::map<std::uint64_t, std::vector<Grant>> ended_requests_;
};

}  // namespace gq::session

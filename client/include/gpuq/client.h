// client.h - libgpuq: submit work to a gpuq broker and get results. Thread-safe; no third-party type in sight.
//
// Every submit carries a job id made here, so a resend after a lost connection never makes a second job. Every call has a
// deadline. Calls that return a Future never block; the blocking forms are Future::get with the client's default timeout.
// Sizes: an image is the encoded JPEG or PNG file, not pixels. Memory is in MiB, times are UTC milliseconds, durations std::chrono.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gpuq {

/// Thrown by blocking calls and futures. `code` is the stable text ("NO_FIT", "TIMED_OUT", …); `next` says what to do.
class Error : public std::exception {
 public:
  Error(std::string code, std::string what, std::string next);
  Error(const Error&);
  Error& operator=(const Error&);
  ~Error() override;
  const char* what() const noexcept override { return text_.c_str(); }
  const std::string& code() const noexcept { return code_; }
  const std::string& next() const noexcept { return next_; }
  int exit_code() const noexcept;   ///< what the CLI would exit with
 private:
  std::string code_, next_, text_;
};

struct Options {
  std::string broker;        ///< "tcp://host:7700"; empty = from the access file
  std::string access_file;   ///< empty = $GPUQ_ACCESS_FILE, ~/.config/gpuq/client.json, /etc/gpuq/client.json
  bool insecure = false;     ///< no CURVE; only to a broker started --insecure, on loopback
  std::string name;          ///< shown to operators
  std::chrono::milliseconds timeout{30'000};   ///< default deadline of blocking calls
  /// A broker that has never answered this client is given up on after this long (UNREACHABLE). Once it has answered, a lost
  /// broker is waited for until each call's own deadline: a restart is not an error.
  std::chrono::milliseconds connect_timeout{10'000};
  /// Tell the broker that a result was fetched, which frees it first under memory pressure. false = results leave by age only.
  bool acknowledge = true;
  /// "NAME=DIR": folders that workers see too, under the same name (their --share). Empty = $GPUQ_SHARES, separated by commas.
  std::vector<std::string> shares{};
};

/// A named piece of data of a job or a result. Larger than 64 KiB travels through the broker's blob store by itself.
struct Part {
  std::string name;
  std::string media = "application/octet-stream";
  std::string bytes;         ///< results: filled unless the part is large, then fetch() it
  std::string blob;          ///< hex digest when it lies in the blob store
  std::uint64_t size = 0;
  std::string share{};       ///< "NAME/path" when it lies on a share: passed by reference, by_reference() makes such a part
  std::int64_t share_mtime_ms = 0;   ///< as seen when it was submitted; a worker that finds another file refuses it. 0 = not looked at
};

struct JobSpec {
  std::string kind;                               ///< detect, infer, train.detector, command, echo, sleep, …
  std::string job_class;                          ///< empty = the kind's own
  int priority = 5;                               ///< 0..9, 9 first
  std::string model;                              ///< NAME or NAME@VERSION
  std::int64_t vram_min_mib = 0, vram_max_mib = 0;///< 0 = the kind's default; max INT64_MAX = the rest of the device
  int devices = 1;
  bool per_device = false;                        ///< command: one process for each device, with RANK, WORLD_SIZE, … as torchrun sets them
  std::vector<std::string> where;                 ///< "key=value" labels a worker must have
  std::map<std::string, std::string> params;      ///< --set
  std::vector<std::string> argv;                  ///< command
  std::map<std::string, std::string> env;
  std::string cwd;
  std::string cwd_identity;                       ///< which folder that is here, as the command line sees it; empty = any of that name
  std::vector<Part> parts;                        ///< inputs
  std::string outputs;                            ///< "NAME/path" on a share: artefacts are written there; empty = they come with the result
  std::vector<std::string> after;                 ///< job ids that must succeed first
  std::int64_t not_before_ms = 0, deadline_ms = 0;
  std::chrono::milliseconds timeout{0};           ///< of one attempt
  int retries = 0;
  std::string on_preempt;                         ///< checkpoint|pause|restart|never; empty = the kind's own
  std::string unique;                             ///< at most one unfinished job with this key
  std::string id;                                 ///< 26 characters; empty = made here
  std::string label;
  bool exclusive = false;                         ///< stops itself when its worker loses the broker
  bool strict = false;                            ///< refuse it (NO_FIT) when no device known could ever hold it
  std::string durability;                         ///< empty = as its class says (the broker's policy; "always" without one); "always": on disk before the answer; "none": never on disk, gone with the broker (wait() then fails with UNAVAILABLE) and once fetched; kinds that answer only
};

struct Submitted {
  std::string id;
  bool existing = false;
  bool ok = true;
  std::string code, what, next;                   ///< when !ok
  bool durable = true;                            ///< false: kept in memory only, asked for or by its class's policy
};

struct JobResult {
  std::string id, state;                          ///< succeeded | failed | cancelled | expired | quarantined; on_final also: refused | unknown
  std::string code, what;                         ///< unless succeeded
  int attempt = 0;
  std::string worker, device, model_version;
  std::int64_t submitted_ms = 0, started_ms = 0, ended_ms = 0;
  std::map<std::string, std::string> values;      ///< small facts: exit_code, …
  std::vector<Part> parts;
  bool ok() const { return state == "succeeded"; }
  const Part* part(std::string_view name) const;  ///< nullptr when absent
};

struct Detection { float x1, y1, x2, y2, score; int label; std::string name; };   ///< pixels of the submitted image

struct JobStatus {   ///< what `gpuq status` shows; fields as in PROTOCOL.md, StatusReply
  std::string id, kind, job_class, state, model, model_version, label, owner, worker, device, code, what, reason, on_preempt;
  bool found = false, cancel_asked = false;
  int priority = 0, attempt = 0, failures = 0, losses = 0, preemptions = 0, retries = 0;
  std::int64_t budget_min_mib = 0, budget_max_mib = 0, granted_mib = 0;
  std::int64_t submitted_ms = 0, started_ms = 0, ended_ms = 0, due_ms = 0, deadline_ms = 0;
  std::uint64_t ahead = 0, result_bytes = 0, checkpoint_step = 0, progress_step = 0, progress_total = 0;
  std::map<std::string, double> metrics;
  std::string checkpoint, last_lines, retry_of;
  std::vector<std::string> result_blobs, after;
  bool held = false;                              ///< by hold(); not started until release()
  int evictions = 0;                              ///< of `preemptions`: for work of a higher class
  bool durable = true;                            ///< false: kept in memory only, gone with the broker
  std::string leave_reason, leave_for;            ///< why, and for which job, it was asked to leave its device last; empty = never
};

struct ListFilter { std::string state, job_class, kind; bool active_only = false; std::string after; int limit = 100; };

struct DeviceStatus {
  std::string uuid, name, kind; int index = 0; bool healthy = true; int temperature_c = -1, utilization_pct = -1;
  std::int64_t total_mib = 0, driver_mib = 0, used_mib = 0, used_by_us_mib = 0, headroom_mib = 0, foreign_mib = 0, granted_mib = 0, free_mib = 0;
  std::vector<std::string> holders, warm;
  std::string state;                              ///< "ok", "draining", "hot (85 C)", "held for job …", "unhealthy"
  std::vector<std::string> reserved;              ///< what the policy keeps there, a sentence for each class
};
struct WorkerStatus { std::string name, host, version, state; std::int64_t since_beat_ms = 0; std::vector<std::string> labels, kinds; int running = 0; std::vector<DeviceStatus> devices; };
struct Model { std::string name, version, runtime, metadata, owner, blob; std::uint64_t bytes = 0; std::int64_t budget_mib = 0, pushed_ms = 0; bool promoted = false; std::int64_t promoted_ms = 0; };
struct Top {
  std::string broker_version, store, space; std::uint64_t term = 0; std::int64_t uptime_ms = 0;
  std::uint64_t jobs[3][10] = {};                 ///< [class][state], names by class_name(), state_name()
  std::uint64_t submitted = 0, succeeded = 0, failed = 0, lost = 0, stale = 0, assigned = 0, queued_bytes = 0, final_bytes = 0, broker_bytes = 0, commits = 0;
  double commit_p50_ms = 0, commit_p99_ms = 0, jobs_per_commit = 0;
  std::uint64_t preempted = 0, evicted_models = 0, plans_made = 0, plans_expired = 0, killed_at_deadline = 0;   ///< since the broker started
  std::vector<std::string> switches;              ///< drains and pauses that hold now, a sentence each
};
// ---- the scheduler's side

/// What became of one job, or one target, of a command.
struct CommandResult {
  bool ok = false;
  std::string text;                               ///< what was done: "asked to leave w1 GPU-7 by 12:00:30Z"
  std::string code, what, next;                   ///< when !ok
};

/// What `update` changes; what is not set stays as it is.
struct JobUpdate {
  std::optional<int> priority;
  std::optional<std::int64_t> deadline_ms, not_before_ms;          ///< 0 = none
  std::optional<std::chrono::milliseconds> timeout;                ///< 0 = none
  std::optional<int> retries;
  std::optional<std::string> job_class, on_preempt;
  std::optional<std::pair<std::int64_t, std::int64_t>> vram_mib;   ///< min..max
  std::optional<std::vector<std::string>> where;
};

/// The first constraint that says no at one place, and by how much.
struct PlaceVerdict {
  std::string worker, host, device;               ///< device: UUID; empty = the worker's CPU slots
  int index = 0;                                  ///< of the device on its host
  bool warm = false;                              ///< a warm model, not a fresh start
  std::string constraint, sentence;               ///< constraint empty = every one holds
  std::int64_t lacking_mib = 0, until_ms = 0;     ///< until: when it may say yes at the soonest; 0 = not known
};
struct Remedy {
  std::string kind;                               ///< none_needed, wait_until, wait_for_jobs, victims, smaller_budget, release_hold, resume_class, undrain, add_worker, change_policy
  std::string text;
  std::int64_t when_ms = 0, budget_mib = 0;
  std::vector<std::string> jobs;                  ///< victims, or whom it waits for
};
struct Refusals { std::string constraint; std::uint64_t count = 0; };
/// Why a job waits and what would make it run: the scheduler's own constraints, asked without effects.
struct Explanation {
  std::string job, state, summary;                ///< job empty for a plan
  bool would_start = false, never = false;        ///< never: fits nowhere even when all is idle (NO_FIT)
  std::uint64_t ahead = 0, places_looked_at = 0;
  std::vector<PlaceVerdict> places;               ///< the closest to yes first
  std::vector<Refusals> refusals;                 ///< how many devices or workers each constraint refuses first
  std::vector<Remedy> remedies;                   ///< the cheapest first
};

/// What another policy would do to what is here now.
struct PolicyPlan {
  struct Change { std::string job, text; };
  std::vector<std::string> warnings;
  std::vector<Change> stranded, would_start, would_wait;
};
struct Setting { std::string key, value, origin, where; };   ///< origin: default, file, environment or flag; where: file:line:column
struct Configuration { std::string file; std::int64_t loaded_ms = 0; std::vector<Setting> settings; std::vector<std::string> warnings; };

struct LogChunk { std::string bytes; std::uint64_t offset = 0, next = 0; bool end = false; };

std::string make_job_id();
const char* class_name(int c);
const char* state_name(int s);

class Client {
 public:
  explicit Client(Options options = {});
  ~Client();
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;

  // Blocking calls throw Error and must not be made from a callback of on_final (it runs on the client's own thread).

  /// Answered when all are on disk (or refused one by one: look at ok). Large parts are uploaded first.
  std::future<std::vector<Submitted>> submit_async(std::vector<JobSpec> jobs);
  std::vector<Submitted> submit(std::vector<JobSpec> jobs);
  Submitted submit(JobSpec job);                                  ///< throws when it was refused

  /// Ready when the job is final, whatever came of it. Survives reconnects. Jobs submitted here are watched already.
  std::future<JobResult> result_async(const std::string& id);
  JobResult wait(const std::string& id, std::optional<std::chrono::milliseconds> timeout = {});
  /// The result of a job that is already final; UNAVAILABLE while it is not, NOT_FOUND, RESULT_EXPIRED.
  JobResult result(const std::string& id);
  /// Calls back on the client's thread for each job as it becomes final, until all are; no per-job future. For many jobs.
  /// Before or after the submit: what became final in between is kept. The callback must not throw.
  void on_final(const std::vector<std::string>& ids, std::function<void(JobResult&&)> callback);
  /// These results are here, the broker need not keep them: with Options::acknowledge false, for whoever decides job by job.
  void acknowledge(const std::vector<std::string>& ids);
  std::string fetch(const Part& part);                            ///< bytes of a part, from the blob store when large, from this host's share when it lies there
  std::string fetch_blob(const std::string& digest);
  void fetch_to(const Part& part, const std::string& path);       ///< streamed to a file (tmp + rename), digest verified
  /// An input by reference: `path` is "share:NAME/path", or a file or folder below one of Options::shares that a live worker has, too.
  /// nullopt = it has to travel. USAGE, BAD_INPUT (it is not there).
  std::optional<Part> by_reference(const std::string& name, const std::string& path);
  std::string upload(std::string_view bytes);                     ///< digest
  std::string upload_file(const std::string& path);

  std::vector<Detection> detect(const std::string& model, std::string_view image, const std::map<std::string, std::string>& params = {});

  std::vector<std::string> cancel(const std::vector<std::string>& ids);   ///< per id: cancelled|asked|already_final|unknown|refused (another key's job; admins may)
  Submitted retry(const std::string& id);
  std::vector<JobStatus> status(const std::vector<std::string>& ids);
  std::vector<JobStatus> list(const ListFilter& filter = {});
  std::vector<WorkerStatus> workers();
  Top top();
  LogChunk logs(const std::string& id, std::uint64_t offset);
  LogChunk model_logs(const std::string& model, std::uint64_t offset);   ///< what the processes of a Python model print: NAME or NAME@VERSION; `end` never comes
  void follow_logs(const std::string& id, std::uint64_t offset, std::function<bool(const LogChunk&)> on_chunk);  ///< until end or false; an empty chunk comes a few times a second, so that you may leave
  /// Uploads one file and registers it; `promote`: NAME means it from now on (the first version of a name always is). Admin keys only.
  /// BAD_MODEL: empty, or known by its content as something no worker serves; BAD_INPUT: no file. metadata: JSON, "metrics" for promote_model.
  Model push_model(const std::string& name, const std::string& path, const std::string& runtime = "torchscript", std::int64_t budget_mib = 0, bool promote = true);
  Model push_model_from_blob(const std::string& name, const std::string& blob, std::uint64_t bytes, const std::string& runtime, const std::string& metadata = {}, std::int64_t budget_mib = 0, bool promote = true);
  /// NAME means this version from now on, if `condition` holds ("map50 > current and recall >= 0.9", over metadata.metrics): else Error
  /// CONDITION_FALSE. Running jobs finish on the version they began with.
  Model promote_model(const std::string& name, const std::string& version, const std::string& condition = {});
  Model rollback_model(const std::string& name);                  ///< the version promoted before; said again, the one before that
  std::vector<Model> models();
  Model remove_model(const std::string& name, const std::string& version = {});

  // Commands to the scheduler. Many jobs: one result each, in order. One target: the sentence of what was done, or Error.
  // Settings (drains, pauses, holds) are on disk when the call returns and survive the broker. Admin keys, but for one's own jobs.

  /// Ask running jobs to leave their devices; they keep their place and go on from their checkpoint. deadline 0 = the class's grace.
  std::vector<CommandResult> preempt(const std::vector<std::string>& ids, const std::string& reason = {}, std::chrono::milliseconds deadline = {});
  std::vector<CommandResult> hold(const std::vector<std::string>& ids, const std::string& reason = {});   ///< not started until released
  std::vector<CommandResult> release(const std::vector<std::string>& ids);
  std::string update(const std::string& id, const JobUpdate& change);
  /// target: a worker's name, a device's UUID, "worker/index" or "host/index". deadline: who still runs then is asked to leave; 0 = none.
  std::string drain(const std::string& target, const std::string& reason = {}, std::chrono::milliseconds deadline = {});
  std::string undrain(const std::string& target);
  std::string pause_class(const std::string& job_class, const std::string& reason = {});
  std::string resume_class(const std::string& job_class);

  Explanation explain(const std::string& id);
  Explanation plan(JobSpec job);                                  ///< as if it were submitted now; nothing is
  PolicyPlan plan_policy(const std::string& toml, const std::string& name = "gpuq.toml");   ///< throws when the text is no policy
  Configuration config();                                         ///< the policy that holds, value by value
  Configuration reload_config();                                  ///< throws when it is refused; then the old one holds on
  bool connected() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A command job for each index, in the order written: "0-9", "0-90:10" (step), "1,4,7" and these mixed; at most 10,000. Each finds its
/// own in $GPUQ_ARRAY_INDEX and their number in $GPUQ_ARRAY_COUNT; label and unique key get the index behind, an id is counted up, so
/// that the same array submitted again makes no second one. Throws Error USAGE (no list, no command), OVER_LIMIT.
std::vector<JobSpec> array_of(const JobSpec& job, std::string_view indices);

/// Boxes of a detect result; empty when the part "detections" is absent. Throws Error BAD_MESSAGE on anything else.
std::vector<Detection> parse_detections(const JobResult& result);

}  // namespace gpuq

// state.h - everything the core knows, and its verbs, grouped by the file that holds them.
//
// One step: clocks move, due timers act, the event acts, final jobs are settled (keys, notices, children), and at the end every
// place with new room and every shape not yet tried is matched. No verb below schedules by itself.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "broker/core/core.h"
#include "broker/core/flat_map.h"
#include "broker/core/fleet.h"
#include "broker/core/jobs.h"
#include "broker/core/shapes.h"

namespace gq::core {

enum class TimerKind : std::uint8_t {
  worker,       ///< silence, then the end of its leases
  rescue,       ///< a lost link's second is over
  offer,        ///< an ASSIGN neither processed nor answered for a whole lease
  attempt,      ///< a job's timeout, five seconds after the worker should have enforced it
  back_off,     ///< a failed job may try again
  place,        ///< shape x place may be tried again
  plan,         ///< a plan's time is up, or a shape may plan again
  drain,        ///< a drain's deadline
  not_before,   ///< wall clock from here on
  deadline,
  window,       ///< some window opens or closes, or is about to
};
struct Timer {
  std::int64_t at{};   ///< microseconds of the lease clock, or milliseconds of the wall clock
  TimerKind kind{};
  Index index{};
  std::uint64_t stamp{};  ///< what `index` must still be: a job's seq (and attempt), a shape x place
  bool operator>(const Timer& other) const { return at != other.at ? at > other.at : stamp > other.stamp; }
};
using Timers = std::vector<Timer>;  ///< min-heaps

struct ModelVersion {
  std::string text;        ///< NAME@VERSION
  std::string name;
  bool registered{};
  ModelRecord record;
  Ring warm;               ///< open lanes with credit
  Index lanes{};           ///< open warm lanes
  Index loading{};         ///< charges without a lane
};

struct Client {
  PeerId peer;
  bool gone{true};
  Index watches{};
};

struct Tombstone {
  Digest128 digest;
  std::int64_t ended_ms{};
};
struct TombstoneEntry {
  std::int64_t until_ms{};
  JobId id;
};
struct Offer {
  std::uint64_t seq{};
  Index job{};
  Attempt attempt{};
  std::uint64_t batch{};
  std::int64_t since{};    ///< lease clock, once committed
};

/// Where a job may start, and with what.
struct Pick {
  Index lane{kNone};
  Mib granted;
  Mib loads;                       ///< a model of this size is loaded by it; 0 = none
  std::vector<Index> devices;
};

struct Core::State {
  explicit State(CoreConfig c) : config(std::move(c)) {}

  CoreConfig config;

  // ---- the step
  Moment now;
  std::uint64_t entropy{};
  Effects* out{};
  bool room_reopened{};            ///< a dispatch gave room back: the pass over the shapes begins again
  bool started{};                  ///< a step or a load has been
  bool stepped{};                  ///< a step has been: everything loaded has been tried

  // ---- clocks
  Duration lease_shift{};          ///< steady - lease clock: pauses and own stalls so far
  bool store_is_down{};
  Instant grace_until{};           ///< lease clock
  Timers lease_timers;
  Timers wall_timers;

  // ---- jobs
  Strings texts;
  JobTable jobs;
  Pool<Extra, 6> extras;
  std::uint64_t last_seq{};
  std::int64_t last_submitted_ms{};
  std::unordered_map<std::string, Index> uniques;
  FlatMap<JobId, Tombstone> tombstones;
  std::deque<TombstoneEntry> tombstone_ends;
  std::deque<Entry> finals;        ///< by end
  std::deque<Entry> fetched;       ///< final and fetched, by time of the fetch
  std::deque<Entry> expired;       ///< result dropped by age, the record stays a while
  std::vector<std::pair<Index, Token>> settling;  ///< became final in this step
  std::vector<Index> amends;            ///< found by load: blocked jobs whose parents are settled already
  Totals totals;
  std::uint64_t unfinished{};

  // ---- shapes
  Pool<Shape, 4> shapes;
  std::map<Needs, Index> shape_of[2];   ///< [suspect]
  Index last_shape{kNone};
  std::set<ShapeKey> fresh[2], parked[2];  ///< [uses a device]
  std::unordered_map<std::uint64_t, std::int64_t> backoffs;  ///< shape x place -> until, lease clock
  std::vector<Index> touched_slots, touched_device_lanes;

  // ---- fleet
  Pool<Worker, 4> workers;
  std::unordered_map<Index, Index> worker_of;        ///< name text -> worker
  FlatMap<std::uint64_t, Index> peers;               ///< live connections, by PeerId + 1
  Pool<Device, 4> devices;
  std::unordered_map<Index, Index> device_of;        ///< uuid text -> device
  Pool<Lane, 6> lanes;
  std::vector<Group> groups;
  Pool<Hold, 6> holds;
  std::vector<ModelVersion> versions;
  std::unordered_map<std::string, Index> version_of; ///< NAME@VERSION -> version
  std::map<std::string, Index> promoted;             ///< NAME -> version
  std::uint32_t models_epoch{1};
  std::int64_t smallest_capacity{INT64_MAX};         ///< of any device ever seen: below it no budget is clamped
  std::uint64_t reconciliation{};

  // ---- clients
  Pool<Client, 6> clients;
  std::unordered_map<std::uint64_t, Index> client_of;

  // ---- batches
  std::uint64_t gathering{1};      ///< number of the batch that this step's effects go into
  std::uint64_t committed{};
  std::deque<Offer> uncommitted;
  std::deque<Offer> offers;        ///< committed, not known to be answered

  // ---- operators
  std::map<std::pair<OperatorSetting::Kind, std::string>, OperatorSetting> settings;

  // ---- core.cpp: the step and its clocks
  [[nodiscard]] Instant lease_now() const { return now.steady - lease_shift; }
  void advance(const Moment& moment);
  void run_timers();
  void on_timer(const Timer& timer);
  void arm(Instant lease_at, TimerKind kind, Index index, std::uint64_t stamp = 0);
  void arm_wall(WallTime at, TimerKind kind, Index index, std::uint64_t stamp);
  [[nodiscard]] std::optional<Instant> wakeup() const;
  void commit(Mutation mutation) { out->emplace_back(Commit{std::move(mutation)}); }
  void send(Message message) { out->emplace_back(Send{std::move(message)}); }
  void send_now(Message message) { out->emplace_back(SendNow{std::move(message)}); }

  // ---- life.cpp: the one place where a job changes state
  void move_job(Index slot, Verb verb, Token result = 0);
  void commit_change(Index slot, JobState from);
  void arm_waiting(Index slot);
  void settle();
  void settle_one(Index slot, Token result);
  void settle_children(Index parent);
  void leave_blocked(Index slot);
  void fail_child(Index child, Index parent);
  void set_error(Job& job, Errc code, std::string_view text);
  Extra& extra_of(Job& job);
  [[nodiscard]] const Extra* extra(const Job& job) const { return job.extra == kNone ? nullptr : &extras[job.extra]; }
  [[nodiscard]] JobFixed fixed_of(Index slot) const;
  [[nodiscard]] JobDynamic dynamic_of(Index slot) const;
  [[nodiscard]] std::uint64_t bytes_of(const Job& job) const;
  [[nodiscard]] const Needs& needs_of(const Job& job) const { return shapes[job.shape].needs; }
  [[nodiscard]] Grant grant_of(Index slot) const { return {jobs[slot].id, jobs[slot].attempt, jobs[slot].nonce}; }

  // ---- submit.cpp
  void on_submit(SubmitReceived& e);
  SubmitOutcome submit_one(SubmitItem& item, const std::string& owner, PeerId peer);
  [[nodiscard]] std::optional<Error> refuse_form(const JobFixed& f) const;
  [[nodiscard]] std::optional<Error> refuse_state(const JobFixed& f) const;
  Index create(JobFixed& f, Token body, JobId body_of);
  Index remember(const JobFixed& f);
  void on_retry(RetryReceived& e);
  void on_cancel(CancelReceived& e);
  CancelResult cancel_one(Index slot);

  // ---- watchers.cpp
  void on_watch(WatchReceived& e);
  void on_client_gone(const ClientGone& e);
  void watch(Index slot, PeerId peer);
  void notify(Index slot, Token result);
  void drop_watch(Index client);
  void send_notice(Index slot, PeerId peer, Token result);

  // ---- retention.cpp
  void keep_final(Index slot);
  void on_fetched(const FetchedReceived& e);
  void retain();
  void forget(Index slot);
  void expire_result(Index slot);
  [[nodiscard]] bool is_entry(const Entry& entry) const;
  [[nodiscard]] std::optional<std::int64_t> next_retention_ms() const;

  // ---- shapes.cpp
  Index shape_for(const Needs& needs, bool suspect);
  void release_shape(Index shape);
  void enqueue(Index slot);
  void leave_line(Index slot);
  [[nodiscard]] std::int64_t order_of(const Job& job) const;
  std::optional<Entry> head(Index shape, ShapeKey* key);
  void stand(Index shape, Standing standing);
  void rekey(Index shape);
  void make_fresh(Index shape);
  void wake_version(Index version);
  void wake_all_parked();
  [[nodiscard]] static bool on_device(const Shape& shape) { return kKinds[shape.needs.kind].uses_device; }

  // ---- fleet.cpp: workers' places
  Index group_for(std::uint32_t kinds, const std::vector<std::string>& labels);
  Index worker_for(const std::string& name);
  void open_lane(Index worker, const LaneDeclared& declared);
  void close_lane(Index lane);
  void set_credit(Index worker, const LaneCredit& credit);
  [[nodiscard]] Index lane_of(Index worker, std::uint16_t id) const;
  void refresh_lane(Index lane, bool more_room);
  void refresh_worker(Index worker, bool more_room);
  Index device_for(Index uuid);
  void list_devices(Index worker, const std::vector<DeviceReport>& reports);
  void unlist_devices(Index worker);

  // ---- ledger.cpp
  void measure(Index device);
  void refresh_device(Index device, bool more_room);
  void charge(Index device, Charge c);
  template <class Which>
  bool uncharge(Index device, Which which);
  void charge_hold(Index hold, Mib loads);
  void detach_hold(Index hold, bool stays_loaded);
  void release_hold(Index hold);
  void drop_ghosts(Index worker);
  void drop_worker_charges(Index worker);
  void model_opened(Index lane);
  void end_awaiting(Index device);
  [[nodiscard]] bool has_model(Index device, Index version) const;
  [[nodiscard]] Mib model_size(Index version, Index device) const;

  // ---- placement.cpp
  [[nodiscard]] Mib budget_base(const Shape& shape) const;
  [[nodiscard]] Mib budget_min(const Shape& shape, const Device& device) const;
  [[nodiscard]] Mib budget_max(const Shape& shape, const Device& device) const;
  [[nodiscard]] Index resolved(const Shape& shape) const;
  bool fits_group(Index shape, Index group);
  bool pick_anywhere(Index shape, Pick& pick);
  bool pick_touched(Index shape, Pick& pick);
  bool pick_slots(Index shape, Pick& pick);
  bool pick_warm(Index shape, Pick& pick);
  bool pick_start(Index shape, Pick& pick);
  bool pick_gang(Index shape, Pick& pick);
  bool gang_at(Index shape, Index worker, Pick& pick) const { return gang_at(shapes[shape], shape, worker, pick); }
  bool gang_at(const Shape& shape, Index index, Index worker, Pick& pick) const;
  bool take(Index shape, Index lane, Pick& pick) const;
  [[nodiscard]] std::size_t first_refusal(const Shape& shape, Index index, Index lane, const Without* without = nullptr) const;
  [[nodiscard]] std::size_t first_refusal(Index shape, Index lane, const Without* without = nullptr) const;  ///< index into kHardConstraints; its size = none
  void await_device(Index shape);
  void stop_awaiting(Index shape);

  // ---- dispatch.cpp
  void schedule();
  void schedule_domain(bool uses_device);
  void dispatch(Index shape, const Pick& pick);
  Nonce next_nonce();

  // ---- rules.cpp: the policy, resolved for this fleet
  void on_policy_loaded(PolicyLoaded& e);
  void on_window_timer();

  // ---- preempt.cpp: who leaves for whom
  void on_preempt_asked(PreemptAsked& e);
  bool ask_to_leave(Index slot, std::string reason, Duration deadline, JobId leaves_for);
  void on_plan_timer(Index plan, std::uint64_t stamp);

  // ---- commands.cpp: what people switch by hand
  void on_job_command(JobCommand& e);
  void on_update(UpdateReceived& e);
  void on_fleet_command(FleetCommand& e);
  void on_drain_timer(Index setting, std::uint64_t stamp);

  // ---- attempts.cpp
  void on_started(const AttemptsStarted& e);
  void on_refused(const AttemptRefused& e);
  void on_ended(AttemptsEnded& e);
  EndVerdict end_one(AttemptEnd& e);
  void end_attempt(Index slot, AttemptEnd& e);
  void fail_attempt(Index slot, AttemptEnd& e, bool final_failure);
  void crash_attempt(Index slot, AttemptEnd& e);
  void on_checkpoint(const CheckpointSaved& e);
  void on_memory_released(const MemoryReleased& e);
  void on_payload_missing(const PayloadMissing& e);
  void mark_started(Index hold);
  [[nodiscard]] Index find_current(const Grant& grant) const;
  [[nodiscard]] Duration backoff_after(std::uint32_t failures) const;
  void back_off(Index shape, Index place);

  // ---- leases.cpp
  void on_batch_cut(const BatchCut& e);
  void on_batch_committed(const BatchCommitted& e);
  void check_offers();
  void on_offer_timer(Index slot, Nonce nonce);
  void return_offer(Index slot);
  [[nodiscard]] bool in_grace() const { return lease_now() < grace_until; }
  void lose_attempt(Index slot, std::string_view why);
  void watch_worker(Index worker);
  void on_worker_timer(Index worker);
  void end_leases(Index worker);
  void on_links_gone(const LinksGone& e);
  void on_rescue_timer(Index worker, std::uint64_t stamp);
  void on_attempt_timer(Index slot, Nonce nonce);
  void on_store_down();
  void on_store_up();

  // ---- workers.cpp
  void on_hello(WorkerHello& e);
  void on_pulled(WorkerPulled& e);
  void on_beat(WorkerBeat& e);
  void on_goodbye(const WorkerGoodbye& e);
  void disconnect(Index worker);
  void reconcile(Index worker, const std::vector<Grant>& running, std::uint64_t judged_to, std::vector<Grant>& revoke);
  bool adopt(Index worker, Index slot);
  [[nodiscard]] std::vector<Index> devices_of(Index slot);
  Index hold_again(Index worker, Index slot);
  void recharge(Index hold);
  [[nodiscard]] bool is_durable(const Job& job) const;
  void repeat_intents(Index worker, BeatAnswer& answer) const;
  [[nodiscard]] Index worker_at(PeerId peer) const;

  // ---- models.cpp
  Index version_for(std::string_view text);
  void on_model_pushed(ModelPushed& e);
  void on_model_removed(ModelRemoveReceived& e);
  void store_model(const ModelRecord& record);
  void promote(Index version);

  // ---- load.cpp
  void load(const Image& image);
  void amend();

  // ---- views.cpp, invariants.cpp
  [[nodiscard]] std::string reason_of(Index slot) const;
  [[nodiscard]] std::uint64_t ahead_of(Index slot) const;
  [[nodiscard]] DeviceView view(Index device, Index worker) const;
  [[nodiscard]] std::uint64_t memory() const;
  void check_all() const;
};

template <class Which>
bool Core::State::uncharge(Index device, Which which) {
  Device& d = devices[device];
  bool any = false;
  for (std::size_t i = d.charges.size(); i-- > 0;) {
    if (!which(d.charges[i])) continue;
    d.charged -= d.charges[i].size;
    d.charges.erase(d.charges.begin() + static_cast<std::ptrdiff_t>(i));
    any = true;
  }
  return any;
}

}  // namespace gq::core

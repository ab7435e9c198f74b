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
#include "broker/core/packing.h"
#include "broker/core/plans.h"
#include "broker/core/shapes.h"
#include "broker/core/tenants.h"

namespace gq::core {

enum class TimerKind : std::uint8_t {
  worker,       ///< silence, then the end of its leases
  rescue,       ///< a lost link's second is over
  offer,        ///< an ASSIGN neither processed nor answered for a whole lease
  attempt,      ///< a job's timeout, five seconds after the worker should have enforced it
  back_off,     ///< a failed job may try again
  place,        ///< shape x place may be tried again
  plan,         ///< a plan's time is up
  replan,       ///< a shape that still waits may plan again
  leave,        ///< a yielding attempt's deadline has passed, and not even its worker has killed it
  drain,        ///< a drain's deadline
  shares,       ///< what tenants use is added up, and the shapes are put in order by it
  not_before,   ///< wall clock from here on
  deadline,
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
  std::vector<Index> open_lanes;   ///< those
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

/// What holds for a class now, whatever the place. It changes when a window turns, the policy or an operator's switch.
struct ClassNow {
  std::uint8_t rank{};
  std::uint8_t not_beside{};       ///< bit per class whose attempts it shares no device with
  bool paused{};
  bool starts{true};               ///< its window is open, and long enough for its minimum run time
  bool leaves{};                   ///< its window closes, or is closed: whoever runs is asked to leave
  std::int64_t opens_ms{};         ///< when it may start again; 0 = now, or not known
  std::int64_t closes_ms{};        ///< 0 = never, or not known
};

/// Where a job may start, and with what.
struct Pick {
  Index lane{kNone};
  Mib granted;
  Mib loads;                       ///< a model of this size is loaded by it; 0 = none
  std::vector<Index> devices;
  Index backfills{kNone};          ///< it uses room kept for this reservation, and ends before
};

inline constexpr std::uint64_t kRecordBytes = 600;   ///< what a job takes of a store or of memory, beside its body and result

struct Core::State {
  explicit State(CoreConfig c);

  CoreConfig config;

  // ---- the step
  Moment now;
  std::uint64_t entropy{};
  Effects* out{};
  bool rehearses{};                ///< a throw-away core: nothing starts until everybody has said HELLO
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
  std::deque<Entry> brief;         ///< by end, of those kept in memory only; they are in no other list
  std::deque<Entry> fetched;       ///< final and fetched, by time of the fetch
  std::deque<Entry> expired;       ///< result dropped by age, the record stays a while
  std::vector<std::pair<Index, Token>> settling;  ///< became final in this step
  std::vector<Index> amends;            ///< found by load: blocked jobs whose parents are settled already
  Totals totals;
  std::uint64_t unfinished{};
  std::unordered_map<Index, std::uint64_t> unfinished_of;   ///< by owner text

  // ---- shapes
  Pool<Shape, 4> shapes;
  std::unordered_map<Index, std::map<Needs, Index>> shape_of[2];   ///< [suspect], by tenant
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
  std::vector<Shelf> shelves;
  std::vector<Index> stale_lanes;                    ///< changed since they were listed; brought up to date before anybody searches
  std::vector<Shelf::List::node_type> spare_nodes;   ///< of shelves: a lane that closes and opens allocates nothing
  Pool<Hold, 6> holds;
  std::vector<ModelVersion> versions;
  std::unordered_map<std::string, Index> version_of; ///< NAME@VERSION -> version
  std::map<std::string, Index> promoted;             ///< NAME -> version
  std::uint32_t models_epoch{1};
  std::int64_t smallest_capacity{INT64_MAX};         ///< of any device ever seen: below it no budget is clamped
  std::int64_t largest_capacity{1};                  ///< likewise: what packing calls a whole device
  std::size_t accelerators{};                        ///< devices ever seen that are no CPU
  DevicePacking packing;                             ///< what jobs usually ask of a device
  std::uint64_t reconciliation{};

  // ---- clients
  Pool<Client, 6> clients;
  std::unordered_map<std::uint64_t, Index> client_of;

  // ---- batches
  std::uint64_t gathering{1};      ///< number of the batch that this step's effects go into
  std::uint64_t committed{};
  bool wrote{};                    ///< something for the store goes into `gathering` already
  std::deque<Offer> uncommitted;
  std::deque<Offer> offers;        ///< committed, not known to be answered

  // ---- the policy, resolved
  std::array<ClassNow, kJobClasses> classes{};
  std::vector<bool> window_open;                     ///< by WindowIndex, as of now
  std::int64_t rules_from_ms{INT64_MAX}, rules_until_ms{INT64_MIN};  ///< the wall clock for which all this is true: [from, until)
  bool any_exclusion{};
  bool any_bare_index{};
  std::map<std::string, Index> hosts;                ///< host -> how many of its workers offer devices
  std::vector<Index> squeezed;                       ///< devices with less memory than they were charged for, in this step

  // ---- plans
  Pool<Plan, 4> plans;
  std::map<Index, std::vector<Index>> plans_of;      ///< shape -> its plans, the oldest first
  std::vector<Index> plans_touched;                  ///< something changed on their devices in this step
  std::vector<Index> to_plan;                        ///< shapes that parked in this step, or may plan again
  Ring devices_running[kJobClasses];                 ///< devices on which attempts of that class run
  Ring devices_warm;                                 ///< devices with a warm lane
  std::uint64_t plan_stamp{};

  // ---- tenants
  bool tenants_apart{};            ///< running caps or fair shares: the tenant belongs to the shape
  std::unordered_map<Index, Tenant> tenants;         ///< by owner text; only meaningful while they are told apart
  std::int64_t shares_from{};      ///< steady microseconds: use of this moment counts once, later use more (tenants.h)
  bool shares_armed{};

  // ---- operators
  std::map<std::pair<OperatorSetting::Kind, std::string>, OperatorSetting> settings;
  std::int64_t drain_timer_ms{INT64_MAX};            ///< when drains are looked at next

  // ---- core.cpp: the step and its clocks
  [[nodiscard]] Instant lease_now() const { return now.steady - lease_shift; }
  void advance(const Moment& moment);
  void run_timers();
  void on_timer(const Timer& timer);
  void arm(Instant lease_at, TimerKind kind, Index index, std::uint64_t stamp = 0);
  void arm_wall(WallTime at, TimerKind kind, Index index, std::uint64_t stamp);
  [[nodiscard]] std::optional<Instant> wakeup() const;
  void commit(Mutation mutation, bool durable = true) {
    wrote |= durable;
    out->emplace_back(Commit{std::move(mutation), durable});
  }
  /// The batch behind which words about this job leave: that of its own write, or, when it writes nothing, the newest that has not left.
  [[nodiscard]] std::uint64_t batch_of(const Job& job) const { return job.durable || wrote ? gathering : gathering - 1; }
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
  [[nodiscard]] std::optional<Error> refuse_class_full(JobClass c) const;
  [[nodiscard]] std::optional<Error> refuse_never(const JobFixed& f) const;   ///< explain.cpp
  Index create(JobFixed& f, Token body, JobId body_of);
  Index remember(const JobFixed& f);
  void on_retry(RetryReceived& e);
  void on_cancel(CancelReceived& e);
  CancelResult cancel_one(Index slot);

  // ---- tenants.cpp
  [[nodiscard]] const TenantPolicy* tenant_policy(const std::string& owner) const;
  [[nodiscard]] std::optional<Error> refuse_tenant_full(const std::string& owner) const;
  void count_unfinished(Index owner, int more);
  [[nodiscard]] static bool tells_apart(const Policy& policy);
  [[nodiscard]] Index tenant_for(Index owner) const { return tenants_apart ? owner : kNone; }
  [[nodiscard]] Tenant& tenant_at(Index owner);      ///< made when it is new
  [[nodiscard]] bool tenant_may_start(Index tenant) const;
  [[nodiscard]] std::int64_t share_of(const Shape& shape) const;
  [[nodiscard]] std::string used_lately(const Job& job) const;   ///< for people; empty = nothing to say
  void follow_tenants();           ///< after a load or another policy: caps, weights, and use rebuilt from the records
  void regroup();                  ///< waiting jobs move to the shapes they belong to now
  void count_use(const Hold& hold, bool begins);
  void spend(Use& use) const;
  void price(Tenant& tenant, Use& use) const;
  [[nodiscard]] double growth(std::int64_t at) const;
  [[nodiscard]] double use_of_record(const Job& job) const;
  void begin_standing(Index shape);
  void end_standing(Index shape);
  void arm_shares();
  void rebase_shares();
  void on_shares_timer();

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
  bool kept_for_heirs(Index slot);
  void leave_parents(Index slot);
  void expire_result(Index slot);
  [[nodiscard]] bool is_entry(const Entry& entry) const;
  [[nodiscard]] std::optional<std::int64_t> next_retention_ms() const;

  // ---- shapes.cpp
  Index shape_for(const Needs& needs, bool suspect, Index owner);
  void release_shape(Index shape);
  void enqueue(Index slot);
  [[nodiscard]] bool is_one_too_many(const Shape& shape) const;
  void leave_line(Index slot);
  void drop_entry(Index slot);
  [[nodiscard]] std::int64_t order_of(const Job& job) const;
  std::optional<Entry> head(Index shape, ShapeKey* key);
  void stand(Index shape, Standing standing);
  void rekey(Index shape);
  void make_fresh(Index shape);
  void wake_version(Index version);
  void wake_all_parked();
  void wake_class(JobClass c);
  void rekey_all();
  [[nodiscard]] static bool on_device(const Shape& shape) { return kKinds[shape.needs.kind].uses_device; }

  // ---- fleet.cpp: workers' places
  void shelve(Index lane);         ///< find the start lane's shelf anew
  void list_lane(Index lane, bool open);
  void freshen_lists();
  [[nodiscard]] bool is_open(const Lane& lane) const;
  Index group_for(std::uint32_t kinds, const std::vector<std::string>& labels);
  Index worker_for(const std::string& name);
  void open_lane(Index worker, const LaneDeclared& declared);
  void close_lane(Index lane);
  void set_credit(Index worker, const LaneCredit& credit);
  [[nodiscard]] Index lane_of(Index worker, std::uint16_t id) const;
  void refresh_lane(Index lane, bool more_room);
  void refresh_serves(Lane& lane);
  void refresh_worker(Index worker, bool more_room);
  Index device_for(Index uuid);
  void list_devices(Index worker, const std::vector<DeviceReport>& reports);
  void unlist_devices(Index worker);

  // ---- ledger.cpp
  void measure(Index device, bool reported = false);
  void relieve();                  ///< where others have grown into what is charged, somebody leaves
  void eased(Index device);
  void refresh_device(Index device, bool more_room);
  void charge(Index device, Charge c);
  static void drop_charge(Device& d, std::size_t at) {
    d.charged -= d.charges[at].size;
    d.used_by[static_cast<std::size_t>(d.charges[at].job_class)] -= d.charges[at].size;
    d.charges.erase(d.charges.begin() + static_cast<std::ptrdiff_t>(at));
  }
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
  [[nodiscard]] std::int64_t reserved_for_others(JobClass c, const Device& device, const Without* without, const Charge* also_gone = nullptr) const;
  [[nodiscard]] std::int64_t room_of(JobClass c, const Device& device) const;        ///< as the shelves list it; -1 = nothing starts
  [[nodiscard]] std::int64_t room_for(const Shape& shape, Index index, Index device, const Without* without = nullptr) const;
  [[nodiscard]] bool class_may_start(JobClass c) const;
  [[nodiscard]] bool may_start(const Shape& shape) const { return class_may_start(shape.needs.job_class) && tenant_may_start(shape.tenant); }
  [[nodiscard]] Mib model_base(Index version) const;
  [[nodiscard]] Mib budget_base(const Shape& shape) const;
  [[nodiscard]] Mib budget_min(const Shape& shape, const Device& device) const;
  [[nodiscard]] Mib budget_max(const Shape& shape, const Device& device) const;
  [[nodiscard]] Index resolved(const Shape& shape) const;
  /// So many of its jobs may wait for the copies that are there or coming; with more another one is worth its memory.
  [[nodiscard]] Index content_with(const Shape& shape, Index version) const;
  bool fits_group(Index shape, Index group);
  bool pick_anywhere(Index shape, Pick& pick);
  bool pick_touched(Index shape, Pick& pick);
  bool pick_slots(Index shape, Pick& pick);
  bool pick_warm(Index shape, Pick& pick);
  bool pick_start(Index shape, Pick& pick);
  [[nodiscard]] bool packs_by_fgd() const;
  bool pick_packed(Index shape, std::int64_t need, Pick& pick);
  bool pick_gang(Index shape, Pick& pick);
  bool gang_at(Index shape, Index worker, Pick& pick) const { return gang_at(shapes[shape], shape, worker, pick); }
  bool gang_at(const Shape& shape, Index index, Index worker, Pick& pick) const;
  bool take(Index shape, Index lane, Pick& pick) const;
  [[nodiscard]] Place place_at(const Shape& shape, Index index, Index lane, const Without* without) const;
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
  void on_window_timer();          ///< brings everything that depends on the wall clock up to date
  void settings_changed();         ///< after any change of `settings`: flags of workers, devices and classes follow, and shapes wake
  void apply_settings();           ///< the flags alone
  void resolve_classes();
  void look_at_selectors();
  void resolve_rules(Index device);
  void resolve_all_rules();
  [[nodiscard]] static Mib capacity_of(const DeviceReport& report, const DeviceRules& rules);
  void host_comes(const std::string& host);
  void host_goes(const std::string& host);
  void leave_for_window(Index slot);
  [[nodiscard]] bool selects(const DeviceSelector& selector, const Device& device, const std::vector<std::string>& labels) const;
  [[nodiscard]] std::uint64_t running_of(JobClass c) const;  ///< granted attempts of a class

  // ---- preempt.cpp: who leaves for whom
  void on_preempt_asked(PreemptAsked& e);
  bool ask_to_leave(Index slot, std::string reason, Duration deadline, JobId leaves_for);
  void ask_again(Index hold);                          ///< the worker said HELLO anew, or the broker restarted: is it still to leave?
  void on_leave_timer(Index slot, Nonce nonce);
  [[nodiscard]] bool is_leaving(const Hold& hold) const { return jobs[hold.job].state == JobState::yielding || jobs[hold.job].cancel_asked; }
  void evict(Index lane);                              ///< an idle model leaves its device: no starts from here on
  void stop_evicting(Index lane);
  void repeat_evictions(Index worker, BeatAnswer& answer) const;
  [[nodiscard]] bool in_use(Index lane) const;         ///< warm: an attempt runs its model there
  void used_model(const Hold& hold);                   ///< an attempt ended: its model is idle from now on, perhaps
  void count_running(const Hold& hold, Index device, bool begins);  ///< and where to look for victims of its class
  void list_models(Index device);                      ///< after a warm lane of it opened or closed
  void lane_closed(Index lane);                        ///< it may have been evicted: its plan knows

  // ---- plans.cpp: room kept for one start
  bool tend_plans();                                   ///< likewise, once plans have been brought up to date
  bool plan_for_waiting();                             ///< true: room came back, shapes are to be asked again
  void want_plan(Index shape);
  bool plan_shape(Index shape);
  Index make_plan(Index shape, Plan::Kind kind, Proposal& proposal);
  bool tend_plan(Index plan);                          ///< false: it is gone
  void hold_room(Index plan);
  void drop_plan(Index plan);                          ///< room that was held is free again; who was asked still leaves
  void drop_plans_of(Index shape);
  void started_on(Index shape, const std::vector<Index>& on);  ///< the start that a plan was made for: its room is the job's now
  void touch_plan(Index device) { if (const Index p = devices[device].plan; p != kNone && !plans[p].touched) { plans[p].touched = true; plans_touched.push_back(p); } }
  void on_plan_timer(Index plan, std::uint64_t stamp);
  void on_replan_timer(Index shape);
  bool pick_planned(Index shape, Pick& pick);
  bool pick_backfill(Index shape, Pick& pick);         ///< room kept for a reservation, for a job that surely ends before it starts
  void backfilled(Index hold, Index plan);
  [[nodiscard]] Mib coming(const Plan& plan, Index device) const;   ///< what is charged there now and leaves
  [[nodiscard]] bool comes_true(const Plan& plan) const;            ///< once all that leaves has left, the shape fits
  [[nodiscard]] bool has_come(const Plan& plan) const;              ///< the shape fits now
  [[nodiscard]] JobId first_job(Index shape) const;
  [[nodiscard]] Mib held_for(Index shape, Index device) const;  ///< what a plan of this very shape holds there: its fit adds it back
  [[nodiscard]] const Charge* held_for_lower(JobClass c, const Device& device) const;  ///< what a plan of a lower class holds there; null: nothing
  bool pick_held_for_lower(Index shape, Pick& pick);
  [[nodiscard]] std::size_t plans_wanted(Index shape) const;
  [[nodiscard]] std::size_t prepared_ahead(const Shape& shape) const;

  // ---- victims.cpp: whom it would take; reserve.cpp: where waiting is shortest. Nothing is changed by asking.
  struct Ground;
  [[nodiscard]] std::vector<Proposal> find_room(const Shape& shape, Index index, std::size_t wanted, std::size_t* cursor) const;  ///< cursor null: all devices are looked at
  [[nodiscard]] std::vector<Proposal> find_device_room(const Shape& shape, Index index, std::size_t* cursor) const;
  [[nodiscard]] std::vector<Proposal> find_gang_room(const Shape& shape, Index index, std::size_t* cursor) const;
  [[nodiscard]] std::optional<std::int64_t> glance(const Shape& shape, Index device) const;
  [[nodiscard]] std::optional<Proposal> room_at(const Shape& shape, Index index, Index device) const;
  [[nodiscard]] std::optional<Proposal> gang_room_at(const Shape& shape, Index index, Index worker) const;
  [[nodiscard]] bool may_evict(Index hold, JobClass by, const JobId& by_job) const;
  [[nodiscard]] bool may_evict_model(const Charge& model, JobClass by, bool idle) const;
  [[nodiscard]] bool attempts_of(Index lane, std::vector<Index>& holds) const;
  [[nodiscard]] std::optional<Proposal> find_reservation(const Shape& shape, Index index, Instant* starts_at) const;

  // ---- commands.cpp: what people switch by hand
  void on_job_command(JobCommand& e);
  void on_update(UpdateReceived& e);
  void on_fleet_command(FleetCommand& e);
  [[nodiscard]] bool in_scope(Index slot, const std::string& scope) const;       ///< may words of that scope touch it
  [[nodiscard]] Error out_of_scope(Index slot, const std::string& scope) const;
  CommandOutcome command_one(const JobCommand& e, Index slot);
  CommandOutcome preempt_one(const JobCommand& e, Index slot);
  CommandOutcome hold_one(Index slot);
  CommandOutcome release_one(Index slot);
  CommandOutcome update_one(const UpdateReceived& e, Index slot);
  void revise(Index slot, const JobFixed& f);
  CommandOutcome switch_drain(const FleetCommand& e);
  CommandOutcome switch_class(const FleetCommand& e);
  [[nodiscard]] Result<std::pair<OperatorSetting::Kind, std::string>> drain_target(const std::string& target) const;
  [[nodiscard]] std::vector<Index> drained_holds(const OperatorSetting& setting) const;
  std::int64_t enforce_drains();
  void on_drain_timer();

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
  void back_off(Index shape, Index place, Duration wait = {});

  // ---- leases.cpp
  void on_batch_cut(const BatchCut& e);
  void take_committed();   ///< the clocks of offers start whose batch is durable
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
  [[nodiscard]] Index version_of_grant(Index slot);
  [[nodiscard]] Mib load_of(Index worker, Index device, Index version, const Job& job) const;
  void recharge(Index hold);
  [[nodiscard]] bool is_durable(const Job& job) const;
  void repeat_intents(Index worker, BeatAnswer& answer) const;
  [[nodiscard]] Index worker_at(PeerId peer) const;

  // ---- models.cpp
  Index version_for(std::string_view text);
  void on_model_pushed(ModelPushed& e);
  void on_model_removed(ModelRemoveReceived& e);
  void on_model_command(const ModelCommand& e);
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
  void check_plans() const;
  void check_tenants() const;
};

template <class Which>
bool Core::State::uncharge(Index device, Which which) {
  Device& d = devices[device];
  bool any = false;
  for (std::size_t i = d.charges.size(); i-- > 0;) {
    if (!which(d.charges[i])) continue;
    drop_charge(d, i);
    any = true;
  }
  return any;
}

}  // namespace gq::core

// sim.h - the simulated world: one thread, one seed, the real core.
//
// Broker (the shell's rules of group commit), store (a disk that lies down, forgets to answer, takes its time), network (in order
// within one connection; connections are torn, cut, slow), workers and clients all live here as flat rows; a happening names a row
// by number. Only simulated time passes. The methods lie by concern in broker.cpp, workers.cpp, clients.cpp, faults.cpp, world.cpp.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/core/core.h"
#include "tests/checker/findings.h"
#include "tests/checker/history.h"
#include "tests/checker/job_numbers.h"
#include "tests/checker/store_fold.h"
#include "tests/sim/options.h"
#include "tests/sim/rows.h"

namespace gq::sim {

using checker::Note;

inline constexpr std::uint32_t kBatchJobs = 256;  ///< per commit; at the bound the shell stops reading clients

class Play;       ///< a scenario under way (play.h)
struct Scenario;

struct World {
  explicit World(const Options& options, const Scenario* scenario = nullptr);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  Report run();

  // world.cpp: time, network
  void at_us(std::int64_t us, Happening what) { wheel.at((us + kTickUs - 1) / kTickUs, what); }
  void in_us(std::int64_t us, Happening what) { at_us(now_us() + us, what); }
  [[nodiscard]] std::int64_t now_us() const { return wheel.now() * kTickUs; }
  [[nodiscard]] Moment moment() const;
  void happen(const Happening& what);
  Link& link(Side side, std::uint32_t index) { return side == Side::worker ? workers[index].link : clients[index].link; }
  PeerId peer(Side side, std::uint32_t index) { return {(std::uint64_t{link(side, index).epoch} << 32U) | (std::uint64_t{index} << 1U) | (side == Side::client ? 1U : 0U)}; }
  /// Where a peer's number leads, if that connection still stands.
  std::optional<std::pair<Side, std::uint32_t>> who(PeerId peer);
  void up(Side side, std::uint32_t index, core::Event&& event);
  void down(PeerId peer, core::Message&& message);
  void arrive_up(std::uint32_t packet);
  void arrive_down(std::uint32_t packet);
  void tear(Side side, std::uint32_t index, std::int64_t redial_us);
  void dial(Side side, std::uint32_t index, std::int64_t in_us);
  void random_fleet();
  void scenario_fleet(const Scenario& scenario);
  void skip_ahead();
  [[nodiscard]] bool all_done() const;
  [[nodiscard]] bool finished();
  [[nodiscard]] bool out_of_time() const;
  void final_checks();
  void print_progress();

  // broker.cpp: the shell and the store
  void step(core::Event&& event);
  void route();
  void release(core::Message&& message);
  void end_of_tick();
  void send_batch();
  void batch_apply(std::uint32_t generation);
  void batch_reply(std::uint32_t generation);
  void broker_stop(bool applied, std::int64_t down_us);
  void broker_start(std::uint32_t generation);
  void broker_freeze(std::int64_t us);
  void broker_thaw();
  void store_outage(std::int64_t us);
  void store_back();
  void say_unavailable(PeerId peer, core::Event& event);
  [[nodiscard]] bool broker_up() const { return core != nullptr; }

  // workers.cpp (life, manners), runs.cpp (attempts, models, memory)
  void worker_boot(std::uint32_t index);
  void worker_connected(std::uint32_t index);
  void worker_hears(std::uint32_t index, core::Message&& message);
  void worker_assigned(std::uint32_t index, core::Assign& assign);
  void worker_beat(std::uint32_t index);
  void worker_flush(std::uint32_t index);
  void ask_flush(std::uint32_t index);
  void run_started(std::uint32_t index, std::uint32_t serial);
  void run_ended(std::uint32_t index, std::uint32_t serial);
  void worker_yield(std::uint32_t index, std::uint32_t serial);
  void end_run(std::uint32_t index, std::size_t run, Outcome outcome, bool report);
  [[nodiscard]] Outcome fate(const Run& run);
  void drop_runs(std::uint32_t index);
  void revoke(std::uint32_t index, const core::Grant& grant);
  void cancel_soon(std::uint32_t index, const core::Grant& grant);
  void leave_soon(std::uint32_t index, const core::Grant& grant, Duration deadline);
  void model_asked_out(std::uint32_t index, const core::EvictModel& asked);
  void model_out(std::uint32_t index, std::uint32_t serial);
  void run_checkpoint(std::uint32_t index, std::uint32_t serial);
  [[nodiscard]] core::Checkpoint state_of(const Run& run) const;
  void give_memory_back(std::uint32_t index, Run& run);
  void worker_kill(std::uint32_t index, std::int64_t restart_us);
  void worker_freeze(std::uint32_t index, std::int64_t us);
  void worker_thaw(std::uint32_t index);
  void hello(std::uint32_t index);
  void refuse(std::uint32_t index, const core::Grant& grant, Errc code);
  void leave_lane(WorkerRow& w, Run& run);
  void evict(std::uint32_t index, std::size_t warm);
  bool saw_number(WorkerRow& w, std::uint64_t number);
  void excuse(const WorkerRow& w, Run& run);
  void excuse_zombies(std::uint32_t asking, std::uint32_t device);
  bool make_room(std::uint32_t index, std::uint16_t device, Mib size, JobNumber job);
  std::vector<core::DeviceReport> device_reports(const WorkerRow& w);

  // clients.cpp
  void fill(JobNumber job, core::SubmitItem& item) const;
  [[nodiscard]] std::int64_t duration_us(JobNumber job, Attempt attempt) const;
  [[nodiscard]] std::uint64_t dice(JobNumber job, std::uint64_t salt) const { return checker::mix64(dice_key ^ (std::uint64_t{job} << 20U) ^ salt); }
  void client_connected(std::uint32_t index);
  void client_turn(std::uint32_t index);
  void client_hears(std::uint32_t index, core::Message&& message);
  void client_submit(std::uint32_t index);
  [[nodiscard]] std::int64_t think_us();
  void client_resend(std::uint32_t index);
  void client_cancel(std::uint32_t index, JobNumber job);
  void ask_turn(std::uint32_t index, std::int64_t in_us);
  core::ModelRecord model(std::uint32_t index) const;

  // faults.cpp
  void schedule_faults();
  void fault();
  void heal();
  [[nodiscard]] Mib foreign_at_rest(std::uint32_t device) const { return Mib{dice(device, 77) % 8 == 0 ? 1024 : 0}; }

  // operators.cpp: people who switch things, and policies that change under way
  core::Policy random_policy();
  void load_policy(core::Policy policy);
  void operate();
  void device_fault();
  void tidy_up();
  void watch_overdue();

  Options options;
  Rng rng;
  std::uint64_t dice_key{};
  checker::Findings findings;
  checker::JobNumbers numbers;
  checker::StoreFold store;
  checker::History history;
  Wheel wheel;
  Report report;

  std::vector<WorkerRow> workers;
  std::vector<ClientRow> clients;
  std::vector<PhysicalDevice> physical;
  std::int64_t model_idle_us{3'000'000};  ///< after which a worker lets an unused model go
  std::vector<JobNumber> held_jobs;       ///< asked to be held, perhaps
  std::map<JobId, std::int64_t> overdue_since_us;  ///< jobs for which nobody has been asked to leave, though somebody could be
  Tick done_at{};                         ///< when the last job was final; models leave after that
  JobNumber next_job{};        ///< the next one nobody has submitted yet
  JobNumber next_extra{};      ///< ids of retries
  std::vector<std::uint16_t> extra_retries;  ///< per job: has a retry been asked
  std::uint64_t refused_jobs{};
  std::vector<bool> job_done;  ///< noticed as final, or refused for good
  std::uint64_t jobs_done{};

  // network
  struct UpPacket { std::uint32_t index{}, epoch{}; Side side{}; core::Event event; };
  struct DownPacket { std::uint32_t index{}, epoch{}; Side side{}; core::Message message; };
  std::vector<UpPacket> up_packets;
  std::vector<std::uint32_t> up_free;
  std::vector<DownPacket> down_packets;
  std::vector<std::uint32_t> down_free;
  bool lossy{};                ///< messages may be dropped or doubled just now
  std::uint64_t drop_ppm{}, double_ppm{};
  bool closings_dropped{};     ///< the broker believes a lane open that is closed

  // broker
  std::unique_ptr<core::Core> core;
  core::CoreConfig core_config;
  std::uint32_t generation{};  ///< of the core
  std::int64_t steady_zero_us{};
  std::int64_t wall_zero_ms{1'790'000'000'000};
  std::int64_t wall_jump_ms{};
  std::int64_t wall_jump_back_ms{};  ///< sum of the jumps back: what dates may come later for
  core::Effects effects;
  Batch gathering;
  Batch in_flight;
  bool flying{}, applied{};
  std::uint64_t batch{};       ///< last number used
  bool stopped_once{};         ///< --stop-at-batch has done its work
  Tick last_batch{};
  bool stepped{};
  bool stepped_since_load{};
  Tick wake_at{};
  bool frozen{};
  std::uint32_t freeze_serial{};
  std::vector<std::uint32_t> frozen_inbox;   ///< packets that wait for the thaw
  bool draining_inbox{};
  std::deque<std::uint32_t> client_inbox;    ///< packets that wait because the batch is full
  std::vector<JobId> missing;                ///< bodies that the batch in flight did not find
  bool store_is_up{true}, core_knows_down{};
  Tick store_up_at{};
  std::vector<PeerId> gone_links;
  bool gone_asked{};

  std::unique_ptr<Play> play;  ///< null: a storm of random jobs

  bool submitting{true};
  bool healing{};
  Tick healed_at{};
};

}  // namespace gq::sim

// play.h - a scenario under way: arrivals by the clock, cards whose compute is shared, and a record of who had what when.
//
// Jobs on one card share its compute evenly while they run; a class that pauses for another stands still from its next micro-step on
// while that other one runs there. A training job's work is optimizer steps made of micro-steps: it leaves, pauses and is saved
// between micro-steps, and goes on from whole optimizer steps. What an attempt was handed to go on from, held against how far
// the job had come, is what stopping it has cost.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/sim/record.h"
#include "tests/sim/rows.h"
#include "tests/sim/scenario.h"

namespace gq::sim {

struct World;

class Play {
 public:
  Play(World& world, const Scenario& scenario);
  /// Every job of the scenario, in the order of arrival; their number is the world's `jobs`.
  static std::vector<PlannedJob> plan(const Scenario& scenario);

  void begin();
  void happen(std::uint32_t what, std::uint32_t which);
  void client_turn(std::uint32_t index);
  void fill(JobNumber job, core::SubmitItem& item) const;
  [[nodiscard]] core::ModelRecord model(std::uint32_t index) const;

  // ---- what the workers ask
  [[nodiscard]] std::int64_t load_us(const std::string& model) const;
  [[nodiscard]] std::int64_t rest_of_load_us(const Warm& m) const;
  [[nodiscard]] std::int64_t start_us(JobNumber job) const;
  [[nodiscard]] std::int64_t durable_us(JobNumber job) const;
  [[nodiscard]] std::int64_t checkpoint_every_us(JobNumber job) const;
  [[nodiscard]] std::uint64_t step_of(const Run& run) const;

  // ---- what happens to them
  void deciding(const core::Effects& effects);   ///< of one step, before decided() of each
  void decided(const core::Assign& assign);                ///< the core has just granted it
  void tell(const core::Message& leaves) const;            ///< --verbose
  void refused(const core::Assign& assign);
  void assigned(std::uint32_t worker, const Run& run);     ///< its memory is taken
  void began(std::uint32_t worker, const Run& run);
  void asked_to_leave(std::uint32_t worker, Run& run);
  void released(std::uint32_t worker, const Run& run);     ///< off the card, its state on the way to the disk
  void ended(std::uint32_t worker, const Run& run, Outcome outcome);
  void model_in(std::uint32_t worker, const Warm& m);
  void model_gone(std::uint32_t worker, const Warm& m);
  void acknowledged(JobNumber job);
  void final(JobNumber job, JobState state);

  Record& finish();
  [[nodiscard]] std::int64_t length_us() const { return scenario_.length_us; }

 private:
  struct Share {                      ///< one attempt computing on one card
    std::uint32_t worker{}, serial{};
    JobNumber job{};
    JobClass job_class{};
    bool leads{};                     ///< a gang computes on all its cards and ends on the first
    bool paused{}, pausing{}, leaving{};
    std::int64_t done_ns{}, target_ns{}, resumed_at_ns{};
  };
  struct Card {
    std::vector<Share> shares;
    std::int64_t counted_us{};        ///< progress is counted up to here
    std::uint32_t stamp{};            ///< of the milestone that is waited for
  };
  struct JobRow {
    std::int64_t furthest_ns{};       ///< how far its computing ever came
    std::int64_t first_began_us{-1};
    std::int64_t waiting_since_us{};
    Stop stopped{Stop::none};         ///< by what its last attempt was stopped
    bool granted{}, done{};
  };

  [[nodiscard]] const Stream& stream(JobNumber job) const { return scenario_.streams[record_.jobs[job].stream]; }
  [[nodiscard]] std::uint64_t draw(JobNumber job, std::uint64_t salt) const;
  [[nodiscard]] std::int64_t drawn(JobNumber job, std::uint64_t salt, const Spread& spread) const;
  [[nodiscard]] std::int64_t work_ns(JobNumber job) const;
  void arrive();
  void lose_host(std::uint32_t worker);
  void count(std::uint32_t card);
  void aim(Share& share) const;
  void wait_for_next(std::uint32_t card);
  void milestone(std::uint32_t card, std::uint32_t stamp);
  void pause_and_resume(Card& card);
  [[nodiscard]] std::vector<Share*> shares_of(const Run& run) const;
  void take_off(const Run& run);
  void note_stop(std::uint32_t worker, const Run& run, Stop why);
  void open_block(std::uint32_t worker, std::uint32_t serial, const Block& block);
  void close_blocks(std::uint32_t worker, std::uint32_t serial, bool model, Stop why);
  void charge_loss(JobNumber job, std::uint64_t step);
  void inversions(JobNumber starts, std::uint32_t global);
  [[nodiscard]] std::int64_t known_free(std::uint32_t worker, const std::string& uuid) const;
  [[nodiscard]] std::int64_t reserved_for_others(JobClass c, const WorkerRow& w, std::size_t device, std::int64_t capacity) const;

  World& world_;
  const Scenario& scenario_;
  Record record_;
  std::vector<Card> cards_;
  std::vector<JobRow> rows_;
  std::vector<std::set<JobNumber>> waiting_;   ///< by stream: acknowledged, not granted
  std::map<std::string, Mib> granted_now_;     ///< by card: in this step
  std::vector<Mib> promised_;                  ///< by card: what the core has granted and nobody has given back
  std::unordered_map<JobNumber, std::vector<std::uint32_t>> on_;  ///< computing: its cards, the leading one first
  std::unordered_map<std::uint64_t, std::vector<std::size_t>> open_;  ///< worker, serial -> blocks that last
  std::vector<std::uint32_t> loading_;         ///< by model: granted, not yet on its card
  std::size_t next_{};
};

}  // namespace gq::sim

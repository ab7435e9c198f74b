// options.h - what a run of the simulator is told; printed first, so that any run can be made again.
#pragma once

#include <cstdint>
#include <string>

namespace gq::sim {

enum class Mix : std::uint8_t { echo, mixed };

struct Faults {
  bool crashes{};   ///< workers and executors die, freeze, restart; the broker is killed and restarted
  bool network{};   ///< links torn, cut, slow; messages dropped and doubled
  bool store{};     ///< outages, refused batches, lost replies, reloads, lost bodies
};

struct Options {
  std::uint32_t workers = 20;
  std::uint32_t jobs = 1000;
  std::uint64_t seed = 1;
  Faults faults{};
  std::uint32_t devices_per_worker = 1;
  Mix mix = Mix::mixed;
  bool light = false;              ///< faults at the rate of a large healthy fleet, not of a torture chamber
  bool operators = false;          ///< policies change, people hold, drain, pause and preempt, cards are shared with strangers
  bool verbose = false;            ///< a line per second of a storm; in a scenario one per start on a card, request to leave, and return
  bool check_every_step = false;   ///< the core's own invariants after every step, which is named on stderr
  std::uint32_t reload_every = 0;  ///< destroy and reload the core at every n-th batch
  std::uint64_t stop_at_batch = 0; ///< destroy the core once, exactly at this batch
};

struct Report {
  Options options;
  std::uint64_t events{};          ///< facts given to the core
  std::uint64_t happenings{};      ///< everything simulated
  double simulated_s{};
  double wall_s{};
  double cpu_s{};                  ///< of this process: what the wall time would be on an idle machine
  std::uint64_t decisions{};       ///< assignments that left
  std::uint64_t attempts{};        ///< executions started
  std::uint64_t asked_to_leave{}, killed_at_deadline{}, models_asked_out{}, checkpoints{}, commands{}, policies{};
  std::uint64_t losses{}, preemptions{}, stale{}, duplicates{}, reloads{}, outages{}, torn{}, killed{}, frozen{}, beats{}, batches{};
  std::uint64_t final_jobs{}, succeeded{}, failed{}, cancelled{}, expired{}, quarantined{};
  std::uint64_t violations{};
  std::uint64_t trace_hash{};
  std::string findings;            ///< the first violations, in words
};

Report simulate(const Options& options);
std::string describe(const Options& options);
/// "none", "crashes", "network", "store", "all" or a comma list; false when it is none of these.
bool parse_faults(const std::string& text, Faults& faults);
std::string to_string(const Faults& faults);

}  // namespace gq::sim

// record.h - what a scenario's run leaves behind: who held which memory and computed when, waits, and what was lost; the table, the
// verdicts and the picture are made from it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/checker/job_numbers.h"
#include "tests/sim/options.h"
#include "tests/sim/scenario.h"

namespace gq::sim {

using checker::JobNumber;
using checker::kNoJob;

struct PlannedJob {
  std::int64_t at_us{};
  std::uint32_t stream{};
};

/// Why an attempt left its device before its work was done.
enum class Stop : std::uint8_t { none, for_class, window, by_hand, killed, lost, other };
inline constexpr std::size_t kStops = 7;

/// Memory held on one card for a while: a job's own, or a model's.
struct Block {
  std::uint32_t card{};
  std::int64_t from_us{}, to_us{-1};      ///< -1 = to the end
  Mib size{};
  JobClass job_class{};
  JobNumber job{kNoJob};                  ///< kNoJob: a model
  std::uint16_t model{UINT16_MAX};
  Stop stopped{Stop::none};
};

struct Mark {                             ///< something worth a sign in the picture
  std::uint32_t card{};
  std::int64_t at_us{};
  Stop why{};
  JobClass job_class{}, by_class{};
  JobNumber job{kNoJob};
};

struct ClassRecord {
  std::uint64_t submitted{}, started{}, done{}, failed{}, waiting_at_end{};
  std::vector<std::int64_t> waits_us;   ///< arrival to the first start
  std::vector<std::int64_t> takes_us;   ///< arrival to the end
  std::array<std::uint64_t, kStops> stops{};
  std::array<std::uint64_t, kJobClasses> preempted_by{};
  std::uint64_t steps_lost_asked{};        ///< optimizer steps done again because somebody asked it to leave
  std::uint64_t steps_lost{};              ///< because machines went, or the deadline killed it
  std::int64_t redone_asked_ns{}, redone_ns{};  ///< GPU time likewise, of jobs that restart as well
  std::int64_t busy_ns{};                  ///< GPU time
  double mib_s{};
  std::uint64_t inversions{};              ///< a lower class took room that one of these was waiting for
  std::uint64_t outside_window{};          ///< starts outside, or still there when it closed
  std::uint64_t closings{};                ///< windows that closed
};

struct Record {
  std::int64_t length_us{}, bin_us{};
  std::vector<PlannedJob> jobs;
  std::vector<Mib> cards;                  ///< total memory
  std::vector<std::string> card_names;
  std::vector<Block> blocks;
  std::vector<Mark> marks;
  std::array<ClassRecord, kJobClasses> classes;
  /// Per card and bin: nanoseconds computed by class.
  std::vector<std::array<std::vector<std::int32_t>, kJobClasses>> busy;
  std::uint64_t hosts_lost{};
  std::vector<std::string> inversions;     ///< the first few, in words
  [[nodiscard]] std::size_t bins() const { return static_cast<std::size_t>((length_us + bin_us - 1) / bin_us); }
};

struct Verdict {
  std::string promise;   ///< "inference: 99 of 100 wait at most 100 ms"
  std::string found;
  bool kept{};
};

/// Figures derived from a record; one function, so that table, JSON, tests and picture cannot disagree.
struct Figures {
  struct OfClass {
    double utilisation_pct{}, memory_pct{};          ///< of all cards, all the time
    double wait_p50_ms{}, wait_p99_ms{}, wait_max_ms{}, takes_p50_ms{}, takes_p99_ms{};
    double share_of_rest_pct{};
    double window_s{};                               ///< card-seconds inside its window
  };
  std::array<OfClass, kJobClasses> of;
  double idle_pct{};
  std::vector<Verdict> verdicts;
  [[nodiscard]] bool all_kept() const;
};
Figures figure_out(const Scenario& scenario, const Record& record, std::uint64_t violations);

struct Played {
  Record record;
  Figures figures;
  Report report;
};
Played play(const Scenario& scenario, bool verbose = false);

std::string table(const Scenario& scenario, const Record& record, const Figures& figures);
std::string picture(const Scenario& scenario, const Record& record, const Figures& figures);   ///< SVG

int scenario_main(int argc, char** argv, const std::string& commit, const std::string& machine);

}  // namespace gq::sim

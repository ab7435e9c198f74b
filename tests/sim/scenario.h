// scenario.h - a day of a fleet, as a person writes it down: machines, models, streams of jobs, a policy, and what it promises.
//
// The file is TOML; scenarios/*.toml are the manual. Everything is checked when it is read: an error names file:line:column, what is
// wrong, and what to write instead. Times are local to `zone`; sizes and durations are written as in gpuq.toml.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "broker/core/policy.h"
#include "common/vocabulary/errors.h"

namespace gq::sim {

struct Host {
  std::string name;
  std::vector<Mib> gpus;
  Mib driver{}, foreign{};
  std::vector<std::string> labels;
  std::int64_t lost_every_us{};      ///< mean time between losses of the whole machine; 0 = never
  std::int64_t back_after_us{};
};

struct ScenarioModel {
  std::string name;
  Mib vram{};
  std::int64_t load_us{};
};

/// A span of time, drawn evenly on a logarithmic scale: most are short, some are long.
struct Spread {
  std::int64_t low_us{}, high_us{};
};

struct Stream {
  std::string name;
  JobClass job_class{};
  KindIndex kind{};
  std::uint16_t model{UINT16_MAX};
  Mib vram_min{}, vram_max{};        ///< 0, 0 = the class's default
  std::uint16_t devices{1};
  std::uint8_t priority{5};
  OnPreempt on_preempt{OnPreempt::restart};
  std::vector<std::string> where;
  std::array<double, 24> per_hour{}; ///< by hour of the local day
  std::vector<std::int64_t> at_us;   ///< of each local day, after midnight
  std::uint32_t at_count{1};
  std::int64_t burst_every_us{}, burst_within_us{};
  std::uint32_t burst_jobs{};
  Spread takes;                      ///< GPU-time of a job that has the card for itself
  Spread start_takes;                ///< from ASSIGN to the first step
  std::int64_t optimizer_step_us{}, micro_step_us{};
  std::int64_t checkpoint_every_us{}, checkpoint_takes_us{}, release_takes_us{};
};

/// What the policy is to keep; what is not named is only reported.
struct Promise {
  std::optional<std::int64_t> wait_p99_us, wait_max_us;
  std::optional<double> share_of_rest_pct;   ///< of the GPU time that higher classes leave inside the class's window
  std::optional<std::uint64_t> done_min;     ///< jobs
};

struct Scenario {
  std::string path, title, zone;
  std::int64_t start_ms{};           ///< UTC
  std::int64_t local_start_us{};     ///< after local midnight
  std::int64_t length_us{};
  std::uint64_t seed{1};
  std::int64_t pause_slice_us{};     ///< a paused training goes on for at least so long before it is paused again
  core::Policy policy;
  std::string policy_name;
  std::vector<Host> hosts;           ///< one each
  std::vector<ScenarioModel> models;
  std::vector<Stream> streams;
  std::array<Promise, kJobClasses> promises;
  std::uint64_t inversions_max{};
};

Result<Scenario> read_scenario(const std::string& path);
/// As read_scenario(), from text; `name` stands in messages, relative policy files are looked for beside it.
Result<Scenario> parse_scenario(std::string_view text, const std::string& name);

}  // namespace gq::sim

// policy_file.h - gpuq.toml into what the core follows.
//
// One file holds what the broker is told ([broker], settings.h) and what the operator wants ([policy], [class.*], [device.*],
// [tenant.*]). Everything is checked here: an unknown key, a value of the wrong kind, a window that never opens, a ladder that is
// none, more reserved than there is. An error names file:line:column, what is wrong with what, and what to do next; a file is
// taken whole or not at all. What only the fleet can tell (a device that does not exist) is core::Core::plan(policy)'s business.
//
// Windows are turned into spans of UTC time around `now` (windows.h) and have to be renewed: see PolicySource.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "broker/core/policy.h"
#include "common/config/config.h"
#include "common/vocabulary/errors.h"

namespace gq::policy {

struct Loaded {
  core::Policy policy;
  std::vector<EffectiveSetting> effective;   ///< every setting with its value and where it came from, sorted; passwords masked
  std::vector<std::string> warnings;         ///< legal, but perhaps not meant; sentences for people
  std::string file;                          ///< empty = the built-in policy
  std::int64_t loaded_ms{};                  ///< UTC; the windows' spans lie around it
};

/// `file` empty = what holds without one (the environment, GPUQ_*, still counts).
Result<Loaded> load(const std::string& file, WallTime now, const Config::Environment& environment = {});
/// As load(), from text; `name` stands in messages and origins.
Result<Loaded> parse(std::string_view text, const std::string& name, WallTime now, const Config::Environment& environment = {});
/// From settings that were read already (settings.h), for a program that has flags on top of them.
Result<Loaded> from_config(const Config& config, const std::string& file, WallTime now, const Config::Environment& environment = {});

/// "key = value   # where" lines for people: what `gpuq config show` prints.
std::string to_text(const std::vector<EffectiveSetting>& settings);

}  // namespace gq::policy

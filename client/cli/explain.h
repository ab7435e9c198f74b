// explain.h - why a job waits and what would make it run, at a glance: one line, one table, numbered ways out.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "client/cli/cli.h"

namespace gq::cli {

/// What is free now, by device UUID; devices that are not in it show "-".
using FreeByDevice = std::map<std::string, std::int64_t>;

void print_explanation(Cli& cli, const gpuq::Explanation& explanation, const FreeByDevice& free_mib, std::int64_t now_ms);
nlohmann::ordered_json to_json(const gpuq::Explanation& explanation, const FreeByDevice& free_mib);
void print_policy_plan(Cli& cli, const gpuq::PolicyPlan& plan, const std::string& file);
/// The command that does what a remedy says, when its text names none; empty = there is none.
std::string command_of(const gpuq::Remedy& remedy, const std::string& job);
/// A job that can never run is accepted all the same (a larger worker may come): said loudly, on stderr.
void warn_when_it_never_fits(Cli& cli, gpuq::Client& client, const std::string& job);

}  // namespace gq::cli

// operate.h - what was typed to order the scheduler around, and how its answers look. Pure, so that tests need no broker.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/cli/cli.h"

namespace gq::cli {

struct UpdateArguments {
  std::string job, job_class, vram, deadline, not_before, timeout, on_preempt;
  std::optional<int> priority, retries;
  std::vector<std::string> where;
};

/// Throws gpuq::Error USAGE.
gpuq::JobUpdate update_of(const UpdateArguments& arguments, std::int64_t now_ms);
/// One line per job on stdout, or its error on stderr; the exit code of the first that failed.
int show_commands(Cli& cli, const std::vector<std::string>& ids, const std::vector<gpuq::CommandResult>& results);
void print_config(Cli& cli, const gpuq::Configuration& config, std::int64_t now_ms);

}  // namespace gq::cli

// results.h - waiting for jobs so that ctrl-C works, and showing what came of them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/cli.h"

namespace gq::cli {

/// The results in the order of ids. Throws TIMED_OUT; returns nothing when interrupted (say so and exit with 130).
std::optional<std::vector<gpuq::JobResult>> wait_for(gpuq::Client& client, const std::vector<std::string>& ids, std::optional<std::chrono::milliseconds> patience);

/// What a person wants to see of one result on a terminal: values, then parts: text as it is, other parts by name and size.
void show_result(Cli& cli, const gpuq::JobResult& result);
/// One line of the JSONL that `submit detect --wait` prints.
std::string detection_line(const std::string& file, const gpuq::JobResult& result);
/// 0 when all succeeded, else 1; failed ones are reported on stderr.
int judge(Cli& cli, const std::vector<gpuq::JobResult>& results);
/// Prints a job's output as it comes, until it is final. False = interrupted.
bool follow(Cli& cli, gpuq::Client& client, const std::string& id);

}  // namespace gq::cli

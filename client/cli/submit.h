// submit.h - what was typed after `gpuq submit`, and the jobs it means. Pure but for reading the files that were named.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"

namespace CLI {
class App;
}

namespace gq::cli {

struct SubmitArguments {
  std::string kind;
  std::vector<std::string> files;
  std::vector<std::string> argv;           ///< behind "--"
  bool had_dashes = false;
  std::string job_class, model, vram, not_before, deadline, timeout, on_preempt, id, unique, label, workdir, output_dir, outputs, array;
  int priority = 5, devices = 1, retries = 0;
  std::vector<std::string> where, set, env, after, parts;
  bool per_device{};
  std::string durability;
  bool wait = false, follow = false, exclusive = false, strict = false;
  bool only_plan = false;                  ///< nothing will run, so its images may be left out
};

struct Surroundings {                      ///< of the command line: given, so that tests need no process
  std::string cwd;
  std::map<std::string, std::string> environment;
  std::int64_t now_ms{};
  /// An input that need not travel: (part name, path or share:NAME/path) → part, or nothing. Absent = every file travels.
  std::function<std::optional<gpuq::Part>(const std::string&, const std::string&)> by_reference{};
};

struct SubmitPlan {
  std::vector<gpuq::JobSpec> jobs;
  std::vector<std::string> files;          ///< of each job, when there is one job per file
};

class Cli;
/// Asks the broker's workers, when there are shares to ask about.
std::function<std::optional<gpuq::Part>(const std::string&, const std::string&)> by_reference(Cli& cli, bool acknowledge);
Surroundings surroundings();               ///< of this process
/// What `submit` takes and `plan submit` takes alike, so that one word before a command line asks instead of doing.
void add_job_options(CLI::App& command, SubmitArguments& into);

/// Errors: USAGE, UNKNOWN_KIND, NOT_FOUND and BAD_INPUT (files), TOO_LARGE.
Result<SubmitPlan> plan_submit(const SubmitArguments& arguments, const Surroundings& around);

}  // namespace gq::cli

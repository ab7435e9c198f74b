// child_words.h - between frames and jobs: what a run carries, what an end means.
#pragma once

#include <string>

#include "worker/child/frame.h"
#include "worker/runtime/attempt.h"
#include "worker/runtime/executor.h"

namespace gq::worker {

/// `run` without the fields that only one role gets.
child::Frame run_frame(std::uint64_t id, const Job& job, const Gathered& gathered, const std::string& output_dir);
/// `done`: outputs and facts. A file outside `output_dir` is refused (BAD_MESSAGE).
Result<Output> output_of(const child::Frame& done, const std::string& output_dir);
/// `failed`: the code, and whether another try can help.
session::Ending ending_of_failure(const Grant& grant, const child::Frame& failed);
std::string model_key(const wire::Model& model);   ///< NAME@VERSION

}  // namespace gq::worker

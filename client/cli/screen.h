// screen.h - the one screen: broker, classes, workers, what is wrong. `status` prints it once, `top` again and again.
#pragma once

#include <string>
#include <vector>

#include "client/cli/cli.h"

namespace gq::cli {

enum class Detail : std::uint8_t { status, top };

struct Overview {
  gpuq::Top top;
  std::vector<gpuq::WorkerStatus> workers;
  std::vector<gpuq::JobStatus> running, failed;
};

Overview look(gpuq::Client& client);
int show_screen(Cli& cli, Detail detail);
void print_screen(Cli& cli, const Overview& view, Detail detail, std::int64_t now_ms);
/// Sentences, each with what to do; empty = all is well.
std::vector<std::string> whats_wrong(const Overview& view);
void print_workers(Cli& cli, const std::vector<gpuq::WorkerStatus>& workers, bool wide);
void print_job(Cli& cli, const gpuq::JobStatus& job, std::int64_t now_ms);   ///< all about one
void print_jobs(Cli& cli, const std::vector<gpuq::JobStatus>& jobs, std::int64_t now_ms);

}  // namespace gq::cli

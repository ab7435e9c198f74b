// ranks.h - a command gang: one process per device, told apart as torchrun does it.
//
// `gpuq-worker --ranks N -- PROGRAM ARGS…` is what runs in the job's process group then: it starts PROGRAM N times with RANK, LOCAL_RANK,
// WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT (https://pytorch.org/docs/stable/elastic/run.html) and waits. All see all
// devices of the job; LOCAL_RANK chooses. Only rank 0 has GPUQ_PROGRESS_FD. Signals reach the ranks by their group.
#pragma once

#include <string>
#include <vector>

namespace gq::worker {

/// The command line that runs `argv` once for each of `ranks`.
std::vector<std::string> ranked(const std::vector<std::string>& argv, std::size_t ranks);

/// How it ends: 0 when all ranks did; 75 when one left on request and none failed; else as the first that failed, after the others were
/// told (SIGTERM, 5 s later SIGKILL).
int ranks_main(int argc, char** argv);

}  // namespace gq::worker

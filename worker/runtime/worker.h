// worker.h - the supervisor: one loop that turns the session's actions into real things and real things into the session's facts.
//
// It holds no CUDA context and no model code, and outlives any child. One flush per turn of the loop: whatever happened in the turn
// leaves in as few messages as possible.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/net/asio.h"
#include "common/vocabulary/errors.h"
#include "common/vocabulary/units.h"
#include "worker/runtime/devices.h"
#include "worker/runtime/pauses.h"

namespace gq::worker {

struct WorkerOptions {
  std::string broker;                        ///< tcp://host:7701; empty with an access file: what that says
  std::string access_file;                   ///< empty = the default path
  bool insecure{};
  std::string name;                          ///< empty = this host's name; with CURVE the access file's name counts
  DeviceChoice devices;
  std::vector<std::string> labels;           ///< key=value
  std::vector<std::string> shares;           ///< NAME=DIR; seen by jobs as share:NAME/path, by the broker as label share=NAME
  std::uint32_t slots = 256;                 ///< jobs without a device at a time
  std::string scratch;                       ///< empty = $XDG_RUNTIME_DIR or /tmp, gpuq-worker-<uid>-<name>
  std::uint64_t cache_bytes = std::uint64_t{20} << 30U;
  int ready_fd = -1;                         ///< one JSON line once welcomed
  Duration orphan_timeout = 15min;
  Duration term_grace = 30s;                 ///< SIGTERM to SIGKILL of a command
  Duration drain_grace = 30s;
  PauseTerms pauses;                         ///< of lower classes beside work of higher ones
  bool once{};
  std::string version;
};

/// Runs until told to leave; the exit code.
int run_worker(WorkerOptions options);

}  // namespace gq::worker

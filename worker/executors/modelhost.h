// modelhost.h - the child that keeps models warm on one device and forms batches; speaks worker/CHILD_PROTOCOL.md on `fd`.
//
// Threads: the reader (this one: frames, pings, cancel), a loader, decode threads (image files to network input), and device threads
// (one on a CPU, two on a GPU, so that one batch computes while the other's boxes are read). Only device threads run models.
#pragma once

namespace gq::exec {

/// Returns the exit code after `stop`; end of file on `fd` ends the process at once.
int run_modelhost(int fd);

}  // namespace gq::exec

// process.h - what every child process of a worker does first and last. POSIX only.
#pragma once

#include <atomic>

namespace gq::exec {

inline constexpr int kExitYielded = 75;    ///< left on request, state saved
inline constexpr int kExitDevice = 70;     ///< the device's context is poisoned; a new process is needed
inline constexpr int kExitKilled = 143;
inline constexpr int kChannelFd = 3;       ///< the child's end of the supervisor's socket

/// Dies with the supervisor, whatever happens to it; tunes malloc for LibTorch (freed megabytes stay mapped: page faults cost a third of
/// the throughput of small CPU batches). To be called before any thread exists.
void become_child();

/// SIGTERM sets `asked_to_leave` (a second one ends the process at once), SIGUSR1 sets `asked_to_save`.
extern std::atomic<bool> asked_to_leave;
extern std::atomic<bool> asked_to_save;
void handle_signals();

}  // namespace gq::exec

#include "worker/executors/process.h"

#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdlib>

namespace gq::exec {

std::atomic<bool> asked_to_leave{false};
std::atomic<bool> asked_to_save{false};

namespace {
void on_signal(int signal) {   // async-signal-safe: lock-free atomics and _exit
  if (signal == SIGUSR1) {
    asked_to_save = true;
  } else if (asked_to_leave.exchange(true)) {
    ::_exit(kExitKilled);
  }
}
}  // namespace

void become_child() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  // A supervisor that died before the line above closed its end of fd 3: the first read says so. (getppid() == 1 proves nothing: in a
  // container the supervisor is process 1.)
  // libgomp reads its environment while it is loaded, so this takes a second exec. Its default makes a waiting thread spin for
  // milliseconds: with a trainer and a modelhost on the same cores each then burns the time that the other needs.
  if (::getenv("GOMP_SPINCOUNT") == nullptr && ::getenv("OMP_WAIT_POLICY") == nullptr) {
    ::setenv("GOMP_SPINCOUNT", "10000", 1);
    ::setenv("CUDA_MODULE_LOADING", "LAZY", 0);
    char name[] = "/proc/self/exe";
    std::array<char, 4096> path{};
    if (::readlink(name, path.data(), path.size() - 1) > 0) {
      char* argv[]{path.data(), nullptr};
      ::execv(path.data(), argv);   // keeps fd 3 and the death signal; on failure we go on without
    }
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGINT, SIG_IGN);                    // ctrl-C in a terminal reaches the whole group: the supervisor decides, not the key
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, INT_MAX);
  ::mallopt(M_TOP_PAD, 64 << 20);
}

void handle_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGUSR1, &action, nullptr);
}

}  // namespace gq::exec

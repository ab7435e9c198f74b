// trainer_main.cpp - gpuq-trainer: started by gpuq-worker for one job, never by hand.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "worker/executors/process.h"
#include "worker/executors/trainer.h"

int main() {
  gq::exec::become_child();
  if (::fcntl(gq::exec::kChannelFd, F_GETFD) < 0) {
    std::fputs("gpuq-trainer is started by gpuq-worker, with its socket on fd 3 (worker/CHILD_PROTOCOL.md)\n", stderr);
    return 2;
  }
  const int code = gq::exec::run_trainer(gq::exec::kChannelFd);
  std::fflush(nullptr);
  ::_exit(code);   // LibTorch's and the reader's threads are still there; static destructors would race with them
}

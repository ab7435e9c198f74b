// modelhost_main.cpp - gpuq-modelhost: started by gpuq-worker, never by hand.
#include <fcntl.h>

#include <cstdio>

#include "worker/executors/modelhost.h"
#include "worker/executors/process.h"

int main() {
  gq::exec::become_child();
  if (::fcntl(gq::exec::kChannelFd, F_GETFD) < 0) {
    std::fputs("gpuq-modelhost is started by gpuq-worker, with its socket on fd 3 (worker/CHILD_PROTOCOL.md)\n", stderr);
    return 2;
  }
  return gq::exec::run_modelhost(gq::exec::kChannelFd);
}

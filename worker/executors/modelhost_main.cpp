// modelhost_main.cpp - gpuq-modelhost: started by gpuq-worker, never by hand but for one question:
//
//   gpuq-modelhost --which     the device that it would use here, as "cuda NVIDIA H200" or "cpu CPU, 2 threads", then a line for each better
//                              kind with the reason why not; `gpuq doctor` asks this
#include <fcntl.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "worker/executors/backend.h"
#include "worker/executors/modelhost.h"
#include "worker/executors/process.h"

namespace {

int say_which() {
  std::vector<std::string> notes;
  const auto backend = gq::exec::Backend::open({}, notes);
  if (!backend) return 1;
  std::printf("%s %s\n", gq::exec::to_string((*backend)->kind()).c_str(), (*backend)->name().c_str());
  for (const auto& note : notes) std::printf("%s\n", note.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--which") return say_which();
  gq::exec::become_child();
  if (::fcntl(gq::exec::kChannelFd, F_GETFD) < 0) {
    std::fputs("gpuq-modelhost is started by gpuq-worker, with its socket on fd 3 (worker/CHILD_PROTOCOL.md)\n", stderr);
    return 2;
  }
  return gq::exec::run_modelhost(gq::exec::kChannelFd);
}

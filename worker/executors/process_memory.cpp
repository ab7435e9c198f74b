#include "worker/executors/process_memory.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace gq::exec {
namespace {

struct Process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };   // v3 of the list
static_assert(sizeof(Process) == 24);
constexpr unsigned kProcessesMax = 1024;

template <class F>
bool find(void* library, const char* symbol, F& function) {
  void* found = ::dlsym(library, symbol);
  if (found != nullptr) std::memcpy(&function, &found, sizeof found);
  return found != nullptr;
}

std::int64_t ask(void* library, const std::string& uuid, unsigned pid) {
  int (*init)(){};
  int (*shutdown)(){};
  int (*by_uuid)(const char*, void**){};
  int (*processes)(void*, unsigned*, Process*){};
  if (!find(library, "nvmlInit_v2", init) || !find(library, "nvmlShutdown", shutdown) || !find(library, "nvmlDeviceGetHandleByUUID", by_uuid) ||
      !find(library, "nvmlDeviceGetComputeRunningProcesses_v3", processes) || init() != 0)
    return -1;
  std::int64_t held = -1;
  void* device = nullptr;
  std::vector<Process> list(kProcessesMax);
  unsigned count = kProcessesMax;
  if (by_uuid(uuid.c_str(), &device) == 0 && processes(device, &count, list.data()) == 0) {
    for (unsigned i = 0; i < std::min(count, kProcessesMax); ++i)
      if (list[i].pid == pid && list[i].used != ~0ULL) held = static_cast<std::int64_t>(list[i].used >> 20U);
  }
  shutdown();
  return held;
}

}  // namespace

std::int64_t process_mib(const std::string& uuid, unsigned pid) {
  const char* chosen = std::getenv("GPUQ_NVML");
  void* library = ::dlopen(chosen != nullptr && *chosen != '\0' ? chosen : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return -1;
  const std::int64_t held = ask(library, uuid, pid);
  ::dlclose(library);
  return held;
}

}  // namespace gq::exec

#include "worker/executors/backend.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "worker/executors/process_memory.h"
#include "worker/executors/torch_device.h"

namespace gq::exec {
namespace {

constexpr std::int64_t kContextReserveMib = 700;   // where it cannot be measured; an H200's is 612
constexpr std::int64_t kMarginMib = 160;           // what LibTorch's allocator does not count: code and buffers of cuDNN and cuBLAS (112 on an H200)
constexpr std::int64_t kLeastMib = 64;

std::vector<std::string> plugin_places(const std::string& asked) {
  if (!asked.empty()) return {asked};
  std::error_code error;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  return {program / "libgpuq_cuda.so", program / ".." / "lib" / "libgpuq_cuda.so", program / ".." / "lib" / "gpuq" / "libgpuq_cuda.so"};
}

const CudaApi* open_cuda(const std::string& asked, std::string& why) {
  // Read by the driver and by LibTorch's allocator when they start, which is below.
  ::setenv("CUDA_MODULE_LOADING", "LAZY", 0);
  ::setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", 0);
  for (const auto& place : plugin_places(asked)) {
    if (::access(place.c_str(), R_OK) != 0) continue;
    void* library = ::dlopen(place.c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (library == nullptr) {
      why = ::dlerror();
      return nullptr;
    }
    const auto entry = reinterpret_cast<gpuq_cuda_entry_fn>(::dlsym(library, "gpuq_cuda_entry"));
    const CudaApi* api = entry == nullptr ? nullptr : entry(kCudaApiVersion);
    if (api == nullptr) {
      why = place + " is of another version";
      return nullptr;
    }
    std::array<char, 512> text{};
    if (api->open(text.data(), text.size()) != 0) {
      why = text.data();
      return nullptr;
    }
    return api;
  }
  why = "no libgpuq_cuda.so beside the program";
  return nullptr;
}

std::int64_t resident_mib() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t size{}, resident{};
  statm >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE) / (1 << 20);
}

bool cpu_has_bf16() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

}  // namespace

std::string to_string(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::cuda: return "cuda";
    case DeviceKind::mps: return "mps";
    case DeviceKind::cpu: break;
  }
  return "cpu";
}

double memory_fraction(std::int64_t vram_mib, std::int64_t context_mib, std::int64_t total_mib) {
  if (vram_mib <= 0 || total_mib <= 0) return 1.0;
  const std::int64_t tensors = std::clamp(vram_mib - context_mib - kMarginMib, std::min(kLeastMib, total_mib), total_mib);
  return static_cast<double>(tensors) / static_cast<double>(total_mib);
}

Expected<std::unique_ptr<Backend>> Backend::open(const DeviceRequest& request, std::vector<std::string>& notes) {
  if (request.kind != "auto" && request.kind != "cuda" && request.kind != "mps" && request.kind != "cpu")
    return Failure{"NO_DEVICE", "device kind '" + request.kind + "' is unknown", "use auto, cuda, mps or cpu"};
  auto backend = std::unique_ptr<Backend>(new Backend);   // NOLINT: the constructor is private by default members only
  backend->threads_ = request.threads;

  if (request.kind == "auto" || request.kind == "cuda") {
    std::string why;
    backend->cuda_ = open_cuda(request.plugin, why);
    if (backend->cuda_ == nullptr && request.kind == "cuda")
      return Failure{"NO_DEVICE", "CUDA cannot be used: " + why, "gpuq doctor says what the driver sees; --devices cpu goes on without"};
    if (backend->cuda_ == nullptr) notes.push_back("no CUDA: " + why);
  }
  if (backend->cuda_ != nullptr) {
    const CudaApi& api = *backend->cuda_;
    std::array<char, 128> name{};
    std::int64_t total{}, free{}, free_total{};
    std::int32_t major{}, minor{};
    api.describe(name.data(), name.size(), &total, &major, &minor);
    api.memory(&free, &free_total);
    backend->kind_ = DeviceKind::cuda;
    backend->name_ = name.data();
    std::array<char, 64> uuid{};
    api.uuid(uuid.data(), uuid.size());
    backend->uuid_ = uuid.data();
    const std::int64_t context = backend->process_mib();   // nothing else is in this process yet
    backend->context_mib_ = context > 0 ? context : kContextReserveMib;
    backend->total_mib_ = total;
    backend->bf16_ = major >= 8;
    backend->opened_mib_ = request.vram_mib;
    backend->limit_memory(request.vram_mib);
    at::set_num_threads(request.threads > 0 ? request.threads : 1);
    return backend;
  }
  if ((request.kind == "auto" || request.kind == "mps") && at::hasMPS()) {
    backend->kind_ = DeviceKind::mps;
    backend->name_ = "Apple GPU (MPS)";
    return backend;
  }
  if (request.kind == "mps") return Failure{"NO_DEVICE", "this LibTorch has no MPS", "--devices auto takes what is there"};
  backend->name_ = "CPU, " + std::to_string(request.threads > 0 ? request.threads : at::get_num_threads()) + " threads";
  backend->bf16_ = cpu_has_bf16();
  backend->enter_thread();
  return backend;
}

void Backend::limit_memory(std::int64_t vram_mib) const {
  if (cuda_ != nullptr) cuda_->limit_memory(memory_fraction(vram_mib > 0 ? vram_mib : opened_mib_, context_mib_, total_mib_));
}

std::int64_t Backend::process_mib() const { return cuda_ == nullptr ? -1 : exec::process_mib(uuid_, static_cast<unsigned>(::getpid())); }

double Backend::fraction() const { return cuda_ == nullptr ? 1.0 : cuda_->memory_fraction(); }

void Backend::enter_thread() const {
  if (cuda_ != nullptr) cuda_->enter_thread();
  if (threads_ > 0) at::set_num_threads(threads_);
}

void Backend::empty_cache() const {
  if (cuda_ != nullptr) cuda_->empty_cache();
}

bool Backend::synchronize(std::string& why) const {
  if (cuda_ == nullptr) return true;
  std::array<char, 512> text{};
  if (cuda_->synchronize(text.data(), text.size()) == 0) return true;
  why = text.data();
  return false;
}

std::int64_t Backend::used_mib() const {
  if (cuda_ == nullptr) return resident_mib();
  std::int64_t now{}, peak{}, ooms{};
  cuda_->allocated(&now, &peak, &ooms);
  return peak;
}

}  // namespace gq::exec

// plugin.cpp - libgpuq_cuda.so: the table of cuda_api.h over LibTorch's CUDA half and our kernels. Uses c10/cuda only: ATen's CUDA
// headers would want cuBLAS, cuSPARSE and cuSOLVER headers.
#include <ATen/Context.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

#include "worker/executors/cuda/cuda_api.h"
#include "worker/executors/cuda/kernels.h"

namespace gq::exec {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;
constexpr c10::DeviceIndex kDevice = 0;   // CUDA_VISIBLE_DEVICES names the one card by UUID
constexpr std::int64_t kMiB = 1 << 20;

void say(char* why, std::uint64_t bytes, const char* text) {
  if (why != nullptr && bytes > 0) std::snprintf(why, bytes, "%s", text);
}

int open(char* why, std::uint64_t bytes) {
  try {
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
      cudaGetLastError();
      say(why, bytes, error != cudaSuccess ? cudaGetErrorString(error) : "no CUDA device is visible");
      return 1;
    }
    at::globalContext().lazyInitDevice(at::kCUDA);   // setMemoryFraction and the allocator need it
    c10::cuda::set_device(kDevice);
    std::int32_t* cell = nullptr;
    std::int32_t back = 0;
    cudaError_t error = cudaMalloc(&cell, sizeof *cell);
    if (error == cudaSuccess) error = launch_smoke(cell, 42, nullptr);
    if (error == cudaSuccess) error = cudaMemcpy(&back, cell, sizeof back, cudaMemcpyDeviceToHost);
    cudaFree(cell);
    if (error != cudaSuccess || back != 42) {        // "no kernel image is available": the card is newer or older than this build
      cudaGetLastError();
      say(why, bytes, error != cudaSuccess ? cudaGetErrorString(error) : "the smoke kernel answered wrongly");
      return 1;
    }
    return 0;
  } catch (const std::exception& e) {
    say(why, bytes, e.what());
    return 1;
  }
}

void describe(char* name, std::uint64_t bytes, std::int64_t* total_mib, std::int32_t* major, std::int32_t* minor) {
  cudaDeviceProp properties{};
  cudaGetDeviceProperties(&properties, kDevice);
  say(name, bytes, properties.name);
  *total_mib = static_cast<std::int64_t>(properties.totalGlobalMem) / kMiB;
  *major = properties.major;
  *minor = properties.minor;
}

void memory(std::int64_t* free_mib, std::int64_t* total_mib) {
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  *free_mib = static_cast<std::int64_t>(free) / kMiB;
  *total_mib = static_cast<std::int64_t>(total) / kMiB;
}

/// "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", as NVML and nvidia-smi write it.
void uuid(char* text, std::uint64_t bytes) {
  cudaDeviceProp properties{};
  cudaGetDeviceProperties(&properties, kDevice);
  std::string out = "GPU-";
  for (int i = 0; i < 16; ++i) {
    char two[8];
    std::snprintf(two, sizeof two, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", static_cast<unsigned>(static_cast<unsigned char>(properties.uuid.bytes[i])));
    out += two;
  }
  say(text, bytes, out.c_str());
}

void limit_memory(double fraction) { allocator::setMemoryFraction(fraction, kDevice); }
double memory_fraction() { return allocator::getMemoryFraction(kDevice); }

void allocated(std::int64_t* now_mib, std::int64_t* peak_reserved_mib, std::int64_t* ooms) {
  const auto stats = allocator::getDeviceStats(kDevice);
  *now_mib = stats.allocated_bytes[0].current / kMiB;
  *peak_reserved_mib = stats.reserved_bytes[0].peak / kMiB;
  *ooms = stats.num_ooms;
}
void reset_peak() { allocator::resetPeakStats(kDevice); }

void empty_cache() {
  try {
    allocator::emptyCache();
  } catch (const std::exception&) {
    // The context is poisoned; synchronize() says so.
  }
}

int synchronize(char* why, std::uint64_t bytes) {
  const cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return 0;
  say(why, bytes, cudaGetErrorString(error));
  return static_cast<int>(error);
}

void enter_thread() {
  c10::cuda::set_device(kDevice);
  c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(false, kDevice));
}

int letterbox(const LetterboxJob* job) { return static_cast<int>(launch_letterbox(*job, c10::cuda::getCurrentCUDAStream(kDevice))); }

int nms(const float* boxes, const std::int32_t* valid, std::uint64_t* mask, std::uint8_t* keep, std::int32_t images, std::int32_t count, const float* iou) {
  return static_cast<int>(launch_nms(boxes, valid, iou, mask, keep, images, count, c10::cuda::getCurrentCUDAStream(kDevice)));
}

constexpr CudaApi kApi{kCudaApiVersion, open, describe, uuid, memory, limit_memory, memory_fraction, allocated, reset_peak, empty_cache,
                       synchronize, enter_thread, letterbox, nms};

}  // namespace
}  // namespace gq::exec

extern "C" __attribute__((visibility("default"))) const gq::exec::CudaApi* gpuq_cuda_entry(std::uint32_t version) {
  return version == gq::exec::kCudaApiVersion ? &gq::exec::kApi : nullptr;
}

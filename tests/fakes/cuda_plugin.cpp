// cuda_plugin.cpp - a pretend libgpuq_cuda.so: a card of 24,564 MiB that does nothing but remember its limit.
#include <algorithm>
#include <cstdio>

#include "worker/executors/cuda/cuda_api.h"

namespace {

double fraction = 1.0;

int open(char*, std::uint64_t) { return 0; }
void describe(char* name, std::uint64_t bytes, std::int64_t* total_mib, std::int32_t* major, std::int32_t* minor) {
  std::snprintf(name, bytes, "Pretend RTX 0");
  *total_mib = 24'564;
  *major = 9;
  *minor = 0;
}
void uuid(char* text, std::uint64_t bytes) { std::snprintf(text, bytes, "GPU-00000000-1111-2222-3333-444444444444"); }
void memory(std::int64_t* free_mib, std::int64_t* total_mib) { *free_mib = *total_mib = 24'564; }
void limit(double f) { fraction = f; }
double limited() { return fraction; }
void allocated(std::int64_t* now, std::int64_t* peak, std::int64_t* ooms) { *now = *peak = *ooms = 0; }
void nothing() {}
int synchronize(char*, std::uint64_t) { return 0; }

constexpr gq::exec::CudaApi kApi{gq::exec::kCudaApiVersion, open, describe, uuid, memory, limit, limited, allocated, nothing, nothing, synchronize, nothing, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) const gq::exec::CudaApi* gpuq_cuda_entry(std::uint32_t version) {
  return version == gq::exec::kCudaApiVersion ? &kApi : nullptr;
}

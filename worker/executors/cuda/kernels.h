// kernels.h - our CUDA kernels, as plain functions: no LibTorch header (a .cu with them takes a minute to compile), C++17 for nvcc.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace gq::exec {

struct LetterboxJob;

cudaError_t launch_smoke(std::int32_t* device_out, std::int32_t value, cudaStream_t stream);
cudaError_t launch_letterbox(const LetterboxJob& job, cudaStream_t stream);
cudaError_t launch_nms(const float* boxes, const std::int32_t* valid, const float* iou, std::uint64_t* mask, std::uint8_t* keep,
                       std::int32_t images, std::int32_t count, cudaStream_t stream);

}  // namespace gq::exec

// cuda_api.h - what libgpuq_cuda.so offers, as a table of C functions: no LibTorch type crosses, so the programs that dlopen it need no
// CUDA header and the plug-in can be missing. Pointers named device_* are device memory of LibTorch tensors; work is queued on the
// calling thread's current CUDA stream.
#pragma once

#include <cstdint>

namespace gq::exec {

inline constexpr std::uint32_t kCudaApiVersion = 2;

struct LetterboxJob {
  const std::uint8_t* device_pixels;   ///< interleaved, source_channels each
  float* device_out;                   ///< channels x height x width
  std::int32_t source_width, source_height, source_channels;
  std::int32_t width, height, channels, scaled_width, scaled_height, left, top;
};

struct CudaApi {
  std::uint32_t version;
  /// Makes device 0 current, starts LibTorch's CUDA half, runs a smoke kernel. 0 = usable; else `why` says what is wrong.
  int (*open)(char* why, std::uint64_t why_bytes);
  void (*describe)(char* name, std::uint64_t name_bytes, std::int64_t* total_mib, std::int32_t* major, std::int32_t* minor);
  void (*uuid)(char* text, std::uint64_t bytes);                     ///< "GPU-…", as NVML writes it
  void (*memory)(std::int64_t* free_mib, std::int64_t* total_mib);   ///< of the device, as the driver sees it
  void (*limit_memory)(double fraction);                             ///< of LibTorch's allocator; 1.0 = no limit
  double (*memory_fraction)();
  void (*allocated)(std::int64_t* now_mib, std::int64_t* peak_reserved_mib, std::int64_t* ooms);
  void (*reset_peak)();
  void (*empty_cache)();
  /// 0 ok; anything else: the context is poisoned and only leaving the process helps.
  int (*synchronize)(char* why, std::uint64_t why_bytes);
  void (*enter_thread)();                                            ///< device 0, a stream of the pool's own for this thread
  int (*letterbox)(const LetterboxJob* job);                         ///< 0 = queued
  /// boxes: [images][count][4] x1,y1,x2,y2 sorted by falling score, classes already moved apart; valid: how many per image take part;
  /// iou: the threshold of each image.
  /// keep: [images][count] bytes. count <= 1024. mask: scratch of images*count*ceil(count/64) u64.
  int (*nms)(const float* device_boxes, const std::int32_t* device_valid, std::uint64_t* device_mask, std::uint8_t* device_keep,
             std::int32_t images, std::int32_t count, const float* device_iou);
};

}  // namespace gq::exec

extern "C" {
/// The only exported symbol. nullptr: another version is wanted.
using gpuq_cuda_entry_fn = const gq::exec::CudaApi* (*)(std::uint32_t version);
}

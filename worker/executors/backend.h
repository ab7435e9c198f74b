// backend.h - the one device of a child process: CUDA by plug-in, Apple's MPS (compiled, never tried), or the CPU. The same code runs on
// all three; what differs is behind this interface.
//
// Order matters: open() must be the process's first use of LibTorch. CUDA's hooks are looked up once, and a plug-in loaded after any
// other call would succeed and yet leave CUDA off.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "worker/executors/cuda/cuda_api.h"
#include "worker/executors/failure.h"

namespace gq::exec {

enum class DeviceKind : std::uint8_t { cpu, cuda, mps };
std::string to_string(DeviceKind kind);

struct DeviceRequest {
  std::string kind = "auto";     ///< auto: CUDA, then MPS, then CPU; cuda, mps, cpu
  std::int64_t vram_mib = 0;     ///< the budget with the context inside; 0 = no limit
  int threads = 0;               ///< of one operation on the CPU; 0 = LibTorch's choice
  std::string plugin;            ///< path of libgpuq_cuda.so; empty: beside the program, then in ../lib
};

/// What the allocator may use of the card: (budget - context - 160 MiB) / total, at least 64 MiB of it (a budget below its context ends as
/// out of memory, which says so) and at most all.
double memory_fraction(std::int64_t vram_mib, std::int64_t context_mib, std::int64_t total_mib);

class Backend {
 public:
  /// Never fails for auto (the CPU is always there); `notes` says in one line each why something better was not taken.
  static Expected<std::unique_ptr<Backend>> open(const DeviceRequest& request, std::vector<std::string>& notes);

  [[nodiscard]] DeviceKind kind() const { return kind_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  /// What the CUDA context takes: measured where the driver tells what this process holds (not in some containers), else 700 MiB.
  [[nodiscard]] std::int64_t context_mib() const { return context_mib_; }
  /// What this process holds of its card, as the driver tells: context, libraries and tensors; -1 where it does not tell.
  [[nodiscard]] std::int64_t process_mib() const;
  /// From now on at most so much of the card for this process, the context included; 0 = as it was opened. What is held beyond it stays
  /// until freed.
  void limit_memory(std::int64_t vram_mib) const;
  [[nodiscard]] double fraction() const;
  [[nodiscard]] bool bf16() const { return bf16_; }           ///< bf16 arithmetic pays on this device
  [[nodiscard]] const CudaApi* cuda() const { return cuda_; } ///< nullptr unless kind() == cuda

  void enter_thread() const;                                  ///< once in every thread that runs LibTorch
  void empty_cache() const;
  /// False: the device's context is poisoned; report and leave the process (exit 70).
  [[nodiscard]] bool synchronize(std::string& why) const;
  [[nodiscard]] std::int64_t used_mib() const;                ///< allocator's on CUDA, resident set on the CPU

 private:
  DeviceKind kind_ = DeviceKind::cpu;
  std::string name_, uuid_;
  std::int64_t context_mib_{}, total_mib_{}, opened_mib_{};
  int threads_{};
  bool bf16_{};
  const CudaApi* cuda_{};
};

}  // namespace gq::exec

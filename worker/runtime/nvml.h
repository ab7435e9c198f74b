// nvml.h - what NVIDIA's management library says of the cards, without a CUDA context: the library is opened at run time.
//
// Traps handled here: unsuffixed symbols are the old ABI, so the newest suffix is tried first; only init, count and handle are fatal when
// absent; used memory is total - free, for only some drivers count what they reserve as used; process ids are host ids and may match
// nobody in a container; a per-process value may be all ones; calls take up to 10 ms, so only the monitor's thread makes them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/vocabulary/errors.h"

namespace gq::worker {

struct CardReading {
  unsigned index{};
  std::string uuid, name;
  std::int64_t total_mib{}, reserved_mib{}, used_mib{};
  int temperature_c{-1};
  int utilization_pct{-1};
  bool healthy{true};
  std::string trouble;                                   ///< why not healthy
  unsigned xid{};                                        ///< the last fatal Xid seen since this library was opened; sticks
  struct Process { unsigned pid{}; std::int64_t mib{-1}; };
  std::vector<Process> processes;
};

/// Xids are the driver's error numbers. Some are the running program's own fault and say nothing of the card: those do not count.
bool is_fatal_xid(unsigned xid);

class Nvml {
 public:
  /// $GPUQ_NVML when set (a path, or "none"), else libnvidia-ml.so.1, else libnvidia-ml.so. NO_DEVICE with the reason.
  static Result<std::unique_ptr<Nvml>> open();
  ~Nvml();
  /// All cards in NVML's (= PCI) order. A card that fails to answer is there with healthy = false as long as its UUID is known.
  std::vector<CardReading> read();

 private:
  Nvml();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gq::worker

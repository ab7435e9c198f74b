// process_memory.h - what this process holds of a card, its CUDA context included, as NVML tells.
#pragma once

#include <cstdint>
#include <string>

namespace gq::exec {

/// MiB of device `uuid` ("GPU-…") that process `pid` holds; -1 where nobody says: no driver, ids of another namespace (containers), a
/// driver without figures by process. Opens $GPUQ_NVML when set, else libnvidia-ml.so.1, for this one question: some milliseconds.
std::int64_t process_mib(const std::string& uuid, unsigned pid);

}  // namespace gq::exec

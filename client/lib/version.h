// version.h - what this build calls itself.
#pragma once

namespace gq::client {
#ifndef GPUQ_VERSION
#define GPUQ_VERSION "0.0.0"
#endif
inline constexpr const char* kVersion = GPUQ_VERSION;
}  // namespace gq::client

// checks.h - a test main for a machine without GoogleTest: a check that fails prints its place and is counted.
#pragma once

#include <cstdio>

namespace gq::exec::gpu {

inline int failures = 0;

#define CHECK_THAT(condition, ...)                                          \
  do {                                                                      \
    if (!(condition)) {                                                     \
      ++gq::exec::gpu::failures;                                            \
      std::printf("FAILED %s:%d: %s  ", __FILE__, __LINE__, #condition);    \
      std::printf(__VA_ARGS__);                                             \
      std::printf("\n");                                                    \
    }                                                                       \
  } while (false)

}  // namespace gq::exec::gpu

namespace gq::exec {
class Backend;
/// kernels_check.cpp: our CUDA kernels against their CPU references. Prints its own rows.
void check_letterbox_kernel(const Backend& cuda);
void check_suppression_kernel(const Backend& cuda);
}  // namespace gq::exec

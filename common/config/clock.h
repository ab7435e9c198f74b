// clock.h - the only place where time and randomness are read; both then travel as arguments.
#pragma once

#include <cstdint>

#include "common/vocabulary/units.h"

namespace gq {

/// Both clocks, read together. The steady one is CLOCK_BOOTTIME: it counts on while a machine sleeps, so a lease cannot outlive it.
Moment now();
/// 64 bits from the kernel. Stops the program when the kernel gives none.
std::uint64_t random_u64();

}  // namespace gq

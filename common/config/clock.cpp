// clock.cpp - see clock.h.
#include "common/config/clock.h"

#include <cerrno>
#include <ctime>
#include <sys/random.h>

#include "common/vocabulary/errors.h"

namespace gq {

Moment now() {
  timespec boot{};
  timespec wall{};
  check(clock_gettime(CLOCK_BOOTTIME, &boot) == 0 && clock_gettime(CLOCK_REALTIME, &wall) == 0, "the kernel has no clock");
  const auto us = [](const timespec& t) { return static_cast<std::int64_t>(t.tv_sec) * 1'000'000 + t.tv_nsec / 1000; };
  return {Instant{Duration{us(boot)}}, WallTime{us(wall) / 1000}};
}

std::uint64_t random_u64() {
  std::uint64_t value = 0;
  ssize_t got = 0;
  do got = getrandom(&value, sizeof value, 0);
  while (got < 0 && errno == EINTR);
  check(got == static_cast<ssize_t>(sizeof value), "the kernel gives no random bytes");
  return value;
}

}  // namespace gq

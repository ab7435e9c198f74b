// job_numbers.h - job ids that look random and still name a row of a flat array.
//
// A checker that keeps a million histories must not pay a hash look-up per event. The ids handed to the code under test are a
// keyed bijection of 0, 1, 2, …: full of random-looking bits for whoever hashes them, one multiplication away from the row here.
#pragma once

#include <cstdint>

#include "common/vocabulary/ids.h"

namespace gq::checker {

using JobNumber = std::uint32_t;
inline constexpr JobNumber kNoJob = UINT32_MAX;

constexpr std::uint64_t mix64(std::uint64_t x) {
  x ^= x >> 33U;
  x *= 0xFF51AFD7ED558CCDULL;
  x ^= x >> 33U;
  x *= 0xC4CEB9FE1A85EC53ULL;
  x ^= x >> 33U;
  return x;
}
constexpr std::uint64_t unmix64(std::uint64_t x) {
  x ^= x >> 33U;
  x *= 0x9CB4B2F8129337DBULL;  // inverses of the two odd factors modulo 2^64
  x ^= x >> 33U;
  x *= 0x4F74430C22A54005ULL;
  x ^= x >> 33U;
  return x;
}
static_assert(unmix64(mix64(0x0123456789ABCDEFULL)) == 0x0123456789ABCDEFULL);

class JobNumbers {
 public:
  explicit JobNumbers(std::uint64_t key) : key_(mix64(key ^ 0x5EEDULL)) {}
  [[nodiscard]] JobId id(JobNumber number) const { return {high(number), mix64(number ^ key_)}; }
  /// kNoJob when the id is none of ours.
  [[nodiscard]] JobNumber number(const JobId& id) const {
    const std::uint64_t raw = unmix64(id.lo) ^ key_;
    if (raw >= kNoJob || id.hi != high(static_cast<JobNumber>(raw))) return kNoJob;
    return static_cast<JobNumber>(raw);
  }

 private:
  [[nodiscard]] std::uint64_t high(JobNumber number) const {  // 48 bits of milliseconds, 16 random ones: a ULID's look
    return ((1'790'000'000'000ULL + number / 64U) << 16U) | (mix64(key_ + number) & 0xFFFFU);
  }
  std::uint64_t key_;
};

}  // namespace gq::checker

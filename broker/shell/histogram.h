// histogram.h - how long commits take: log-spaced buckets, 8 to a doubling, from 1 us to over an hour. A quantile is exact to 9 %.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/vocabulary/units.h"

namespace gq::broker {

class Histogram {
 public:
  void add(Duration d) {
    const auto us = static_cast<double>(d.count() < 1 ? 1 : d.count());
    const auto at = static_cast<std::size_t>(std::log2(us) * kPerDoubling);
    ++counts_[at < kBuckets ? at : kBuckets - 1];
    ++total_;
    sum_ += d;
  }
  [[nodiscard]] std::uint64_t count() const { return total_; }
  [[nodiscard]] Duration sum() const { return sum_; }
  /// Upper edge of the bucket that holds the q-quantile; 0 when nothing was added.
  [[nodiscard]] Duration quantile(double q) const {
    if (total_ == 0) return Duration{0};
    const auto wanted = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(total_)));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
      seen += counts_[i];
      if (seen >= wanted && counts_[i] > 0) return Duration{static_cast<std::int64_t>(std::ceil(std::exp2(static_cast<double>(i + 1) / kPerDoubling)))};
    }
    return Duration{0};
  }

 private:
  static constexpr double kPerDoubling = 8;
  static constexpr std::size_t kBuckets = 256;
  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t total_{};
  Duration sum_{};
};

}  // namespace gq::broker

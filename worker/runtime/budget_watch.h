// budget_watch.h - what a child measurably holds of a device against what it was granted, looked at once a second: flagged at the first
// look above it, to be sent away at the third. A peak may pass, but not at the cost of the others on the device.
//
// For children that hold themselves to nothing: commands and Python models. gpuq-modelhost and gpuq-trainer limit their own allocator.
#pragma once

#include <cstdint>
#include <string>

#include "common/vocabulary/units.h"

namespace gq::worker {

class BudgetWatch {
 public:
  static constexpr Duration kPeriod = 1s;
  enum class Verdict : std::uint8_t { within, flag, wait, send_away };

  /// `used_mib` is that of the device where most is used; 5 % of the budget are forgiven, for allocators round. 0 granted = no limit.
  Verdict look(std::int64_t used_mib, std::int64_t granted_mib) {
    if (granted_mib <= 0 || used_mib <= granted_mib + granted_mib / kForgivenShare) {
      over_ = 0;
      return Verdict::within;
    }
    text_ = "it uses " + std::to_string(used_mib) + " MiB, " + std::to_string(granted_mib) + " were granted";
    ++over_;
    return over_ == 1 ? Verdict::flag : over_ < kLooksMax ? Verdict::wait : Verdict::send_away;
  }
  /// "it uses 9000 MiB, 3072 were granted"
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  static constexpr std::int64_t kForgivenShare = 20;
  static constexpr unsigned kLooksMax = 3;
  unsigned over_{};
  std::string text_;
};

}  // namespace gq::worker

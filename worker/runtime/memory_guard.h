// memory_guard.h - what a child measurably holds of its devices against what it was granted, looked at once a second: flagged at the first
// look above it, too long at the third in a row. A peak may pass, but not at the cost of the others on the device.
//
// For children that hold themselves to nothing: commands and Python models. gpuq-modelhost and gpuq-trainer limit their own allocator.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/net/asio.h"
#include "common/vocabulary/units.h"

namespace gq::worker {

class Devices;

/// The judgement alone. Pure.
class BudgetWatch {
 public:
  enum class Verdict : std::uint8_t { within, flag, wait, too_long };

  /// `used_mib` is that of the device where most is used; 5 % of the budget are forgiven, for allocators round. 0 granted = no limit.
  Verdict look(std::int64_t used_mib, std::int64_t granted_mib);
  /// "it uses 9000 MiB, 3072 were granted"
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  unsigned over_{};
  std::string text_;
};

class MemoryGuard {
 public:
  /// Only flag and too_long are said; after too_long it looks no more.
  using Said = std::function<void(BudgetWatch::Verdict verdict, const std::string& text)>;
  MemoryGuard(asio::io_context& io, const Devices& devices) : timer_(io), devices_(devices) {}

  /// From now on, afresh. `said` may hold no owner of this guard.
  void start(std::vector<std::string> uuids, pid_t group, std::int64_t granted_mib, Said said);
  void stop();

 private:
  void wait();
  void look();
  asio::steady_timer timer_;
  const Devices& devices_;
  std::vector<std::string> uuids_;
  pid_t group_{-1};
  std::int64_t granted_mib_{};
  Said said_;
  BudgetWatch watch_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace gq::worker

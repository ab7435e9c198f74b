#include "worker/runtime/memory_guard.h"

#include <algorithm>
#include <utility>

#include "worker/runtime/devices.h"

namespace gq::worker {
namespace {

constexpr Duration kPeriod = 1s;
constexpr std::int64_t kForgivenShare = 20;
constexpr unsigned kLooksMax = 3;

}  // namespace

BudgetWatch::Verdict BudgetWatch::look(std::int64_t used_mib, std::int64_t granted_mib) {
  if (granted_mib <= 0 || used_mib <= granted_mib + granted_mib / kForgivenShare) {
    over_ = 0;
    return Verdict::within;
  }
  text_ = "it uses " + std::to_string(used_mib) + " MiB, " + std::to_string(granted_mib) + " were granted";
  ++over_;
  return over_ == 1 ? Verdict::flag : over_ < kLooksMax ? Verdict::wait : Verdict::too_long;
}

void MemoryGuard::start(std::vector<std::string> uuids, pid_t group, std::int64_t granted_mib, Said said) {
  uuids_ = std::move(uuids);
  group_ = group;
  granted_mib_ = granted_mib;
  said_ = std::move(said);
  watch_ = {};
  if (!uuids_.empty()) wait();
}

void MemoryGuard::stop() {
  timer_.cancel();
  uuids_.clear();
}

void MemoryGuard::wait() {
  timer_.expires_after(kPeriod);
  timer_.async_wait([this, alive = std::weak_ptr<bool>(alive_)](const ErrorCode& ec) {
    if (!ec && alive.lock() && !uuids_.empty()) look();
  });
}

void MemoryGuard::look() {
  std::int64_t most = 0;
  for (const std::string& uuid : uuids_) most = std::max(most, devices_.group_mib(uuid, group_).value_or(0));
  const auto verdict = watch_.look(most, granted_mib_);
  if (verdict != BudgetWatch::Verdict::too_long) wait();
  if (verdict == BudgetWatch::Verdict::flag || verdict == BudgetWatch::Verdict::too_long) said_(verdict, watch_.text());
}

}  // namespace gq::worker

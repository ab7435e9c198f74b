// reader.h - settings that were read, checked and put together as a core::Policy. The inside of from_config().
//
// A reader stops at the first mistake: every function that can find one returns it, with the place of the key in front.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/core/policy.h"
#include "broker/policy/windows.h"
#include "common/config/config.h"

namespace gq::policy {

/// "GPU-…", "label:shared", "host1/0", "0", "*".
Result<core::DeviceSelector> parse_selector(const std::string& text);

class Reader {
 public:
  Reader(const Config& config, WallTime now, const char* tz_variable) : config_(config), now_(now), tz_variable_(tz_variable) {}

  Result<core::Policy> read();
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }
  /// What "local" turned out to be, when a window asked.
  [[nodiscard]] const std::string& local_zone() const { return local_zone_; }

 private:
  // reader.cpp
  Result<void> general();
  Result<void> ladder();
  Result<void> one_class(JobClass c);
  Result<void> class_lists(JobClass c);
  Result<void> devices();
  Result<void> tenants();
  Result<void> temperatures(const std::string& prefix, std::optional<std::int16_t>& hold, std::optional<std::int16_t>& resume) const;
  // reader_reservations.cpp
  Result<void> reservations(JobClass c);
  Result<core::Reservation> reservation(JobClass c, const std::string& key, const std::string& place);
  Result<void> reserved_in_all() const;
  Result<core::WindowIndex> window(const std::string& key, const std::string& zone_key, const std::string& class_zone_key);
  Result<std::string> zone(const std::string& key, const std::string& class_key);
  Result<void> window_long_enough(JobClass c) const;

  // values with bounds
  [[nodiscard]] Error wrong(const std::string& key, const std::string& what, const std::string& next) const;
  [[nodiscard]] Error about(const std::string& key, const Error& error) const { return wrong(key, error.what, error.next); }
  Result<std::uint32_t> count(const std::string& key) const;
  Result<std::uint32_t> percent(const std::string& key, const std::string& text) const;
  Result<std::vector<JobClass>> classes(const std::string& key) const;

  const Config& config_;
  WallTime now_;
  const char* tz_variable_;
  core::Policy policy_;
  std::vector<std::string> warnings_;
  std::string local_zone_;
  std::map<std::pair<std::string, std::string>, core::WindowIndex> known_windows_;
  std::vector<std::string> places_;   ///< of policy_.reservations
};

}  // namespace gq::policy

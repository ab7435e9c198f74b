// windows.h - "22:00-07:00, sat-sun" in a time zone -> spans of UTC time.
//
// A window is a list of items separated by commas. An item is days ("sat", "mon-fri", "mon+wed+fri", wrapping ranges such as
// "fri-mon"), hours ("22:00-07:00"), or both ("mon-fri 22:00-07:00"). Days alone mean all of each day, hours alone mean every day.
// Hours that end at or before they begin run into the next day; the day named is the one on which they begin. "always" is always.
//
// The rule for days on which clocks change: an item is open from the first instant at which a clock there shows its beginning or
// later, to the last at which it shows less than its end. So an hour that comes twice belongs to it both times, without a break
// between; an hour that does not come is left out, and a beginning or an end within it falls on the change itself.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "broker/core/policy.h"
#include "common/vocabulary/errors.h"

namespace gq::policy {

struct WindowItem {
  std::uint8_t days{};          ///< bit 0 = Monday … bit 6 = Sunday: the days on which it begins
  std::int32_t open_min{};      ///< minutes after midnight
  std::int32_t close_min{};     ///< above 1440: on the next day
  bool operator==(const WindowItem&) const = default;
};
struct WindowText {
  std::vector<WindowItem> items;
  bool always{};                ///< every minute of the week
  std::vector<std::string> warnings;
};

/// A window that is no window, or never opens: an error USAGE that says what to write.
Result<WindowText> parse_window(std::string_view text);

/// The IANA name that `name` stands for: itself when the system knows it, or for "local" what TZ or the machine says.
Result<std::string> resolve_zone(const std::string& name, const char* tz_variable);

/// Open spans within [from_ms, to_ms], sorted, disjoint, not touching; cut off at both ends. `zone`: from resolve_zone().
Result<std::vector<core::Span>> window_spans(const std::vector<WindowItem>& items, const std::string& zone, std::int64_t from_ms, std::int64_t to_ms);

inline constexpr std::int64_t kDayMs = 24LL * 3'600'000;
inline constexpr std::int64_t kSpansBackMs = 2 * kDayMs;      ///< so that a window that is open now is known from its beginning
inline constexpr std::int64_t kSpansAheadMs = 35 * kDayMs;
static_assert(kSpansAheadMs > core::kWindowHorizonMs + kDayMs);

/// Fills in the spans of all windows from their text and zone, around `now_ms`.
Result<void> renew_spans(core::Policy& policy, std::int64_t now_ms);

}  // namespace gq::policy

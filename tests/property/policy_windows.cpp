// policy_windows.cpp - spans against a minute-by-minute reading of the C library's clock, across clock changes all over the world.
//
// The oracle knows no calendars of its own: it asks localtime_r what a clock shows at every minute. An item that begins on some
// day is open from the first minute that shows its beginning or later to the last that shows less than its end (windows.h).
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>

#include "broker/policy/windows.h"

namespace gq::policy {
namespace {

constexpr std::int64_t kDayMin = 24 * 60;

struct Change { const char* zone; std::int64_t utc_min; };
/// Around these, clocks go forward or back: by an hour, by half of one, at midnight, by a whole day.
constexpr std::array kChanges{
    Change{"Europe/Berlin", 28'530'780},      // 2024-03-31 01:00
    Change{"Europe/Berlin", 28'833'180},      // 2024-10-27 01:00
    Change{"America/New_York", 28'500'900},   // 2024-03-10 07:00
    Change{"America/New_York", 28'843'560},   // 2024-11-03 06:00
    Change{"Asia/Seoul", 28'530'780},         // none
    Change{"Australia/Lord_Howe", 28'540'260},// half an hour back
    Change{"America/Santiago", 28'540'980},   // at midnight, back
    Change{"Africa/Cairo", 28'568'040},       // at midnight, forward
    Change{"Pacific/Apia", 22'087'320},       // the 30th of December 2011 did not come
    Change{"UTC", 28'530'780}};

/// What a clock in `zone` shows at each minute: minutes since 1970 of its own.
std::vector<std::int64_t> clock_of(const char* zone, std::int64_t from_min, std::int64_t to_min) {
  ::setenv("TZ", zone, 1);
  ::tzset();
  std::vector<std::int64_t> shown;
  for (std::int64_t m = from_min; m < to_min; ++m) {
    const std::time_t at = m * 60;
    std::tm t{};
    ::localtime_r(&at, &t);
    shown.push_back((at + t.tm_gmtoff) / 60);
  }
  ::unsetenv("TZ");
  return shown;
}

/// Day 0 of 1970 was a Thursday.
bool begins_on(const WindowItem& item, std::int64_t local_day) { return (item.days >> static_cast<unsigned>((local_day + 3) % 7) & 1U) != 0; }

std::vector<bool> by_the_minute(const std::vector<WindowItem>& items, const std::vector<std::int64_t>& shown) {
  std::vector<bool> open(shown.size());
  const auto [least, most] = std::minmax_element(shown.begin(), shown.end());
  for (std::int64_t day = *least / kDayMin - 2; day <= *most / kDayMin + 1; ++day)
    for (const WindowItem& item : items) {
      if (!begins_on(item, day)) continue;
      const std::int64_t begin = day * kDayMin + item.open_min, end = day * kDayMin + item.close_min;
      const auto first = std::find_if(shown.begin(), shown.end(), [&](std::int64_t m) { return m >= begin; });
      const auto past = std::find_if(shown.rbegin(), shown.rend(), [&](std::int64_t m) { return m < end; }).base();
      for (auto at = first; at < past; ++at) open[static_cast<std::size_t>(at - shown.begin())] = true;
    }
  return open;
}

/// Items whose beginning or end is near what the clock shows at the change, before or after it: there mistakes live.
rc::Gen<WindowItem> any_item(std::int64_t shown_before, std::int64_t shown_after) {
  return rc::gen::exec([=] {
    const auto near = [=] {
      const auto at = *rc::gen::element(shown_before, shown_after) + *rc::gen::element(-61, -60, -31, -30, -1, 0, 1, 15, 29, 30, 59, 60, 61);
      return static_cast<std::int32_t>((at % kDayMin + kDayMin) % kDayMin);
    };
    const auto anywhere = [] { return *rc::gen::inRange<std::int32_t>(0, 24 * 60); };
    const auto days = *rc::gen::weightedOneOf<int>({{1, rc::gen::just(0x7F)}, {1, rc::gen::inRange<int>(1, 0x80)}});
    const std::int32_t open = *rc::gen::arbitrary<bool>() ? near() : anywhere(), end = *rc::gen::arbitrary<bool>() ? near() : anywhere();
    return WindowItem{static_cast<std::uint8_t>(days), open, end > open ? end : open == 0 ? end + 24 * 60 : open == end ? end + 24 * 60 - 1 : end + 24 * 60};
  });
}

RC_GTEST_PROP(Windows, agree_with_a_clock_read_every_minute, ()) {
  const Change change = *rc::gen::elementOf(std::vector<Change>(kChanges.begin(), kChanges.end()));
  // The oracle looks further than what is compared: an item's first minute may lie before it.
  const std::int64_t from = change.utc_min - 2 * kDayMin, to = change.utc_min + 2 * kDayMin, slack = 4 * kDayMin;
  const auto shown = clock_of(change.zone, from - slack, to + slack);
  const auto at = static_cast<std::size_t>(change.utc_min - from + slack);
  const auto items = *rc::gen::resize(2, rc::gen::nonEmpty(rc::gen::container<std::vector<WindowItem>>(any_item(shown[at - 1] + 1, shown[at]))));
  const auto open = by_the_minute(items, shown);
  auto spans = window_spans(items, change.zone, from * 60'000, to * 60'000);
  RC_ASSERT(spans.has_value());
  core::Window window{"", change.zone, *spans};
  for (std::int64_t m = from; m < to; ++m)
    if (window.open_at(m * 60'000) != open[static_cast<std::size_t>(m - from + slack)]) RC_FAIL(std::string(change.zone) + " differs at minute " + std::to_string(m) + " after 1970");
  for (std::size_t i = 0; i < spans->size(); ++i) {
    RC_ASSERT((*spans)[i].open_ms < (*spans)[i].close_ms);
    if (i > 0) RC_ASSERT((*spans)[i - 1].close_ms < (*spans)[i].open_ms);   // disjoint, not touching
  }
}

}  // namespace
}  // namespace gq::policy

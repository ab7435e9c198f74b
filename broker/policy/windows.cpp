// windows.cpp - see windows.h. Time zones come from the system's tzdata through Howard Hinnant's date library.
#include "broker/policy/windows.h"

#include <algorithm>
#include <bitset>
#include <cctype>
#include <charconv>
#include <date/tz.h>
#include <exception>
#include <optional>

#include "common/config/nearest.h"

namespace gq::policy {

namespace {

constexpr std::int32_t kDayMin = 24 * 60;
constexpr std::array<std::string_view, 7> kDays{"monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"};
constexpr std::size_t kItemsMax = 32;
constexpr const char* kHowTo = "write for example \"22:00-07:00, sat-sun\" or \"mon-fri 22:00-07:00\" or \"always\"";

/// Lower case, single spaces, none around '-' and '+'; a typographic dash is a dash.
std::string normal(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i, 3) == "\u2013") plain += '-', i += 2;
    else plain += static_cast<char>(std::tolower(static_cast<unsigned char>(text[i])));
  }
  std::string out;
  for (const char c : plain) {
    const bool space = std::isspace(static_cast<unsigned char>(c)) != 0;
    if (space && (out.empty() || out.back() == ' ' || out.back() == '-' || out.back() == '+')) continue;
    if ((c == '-' || c == '+') && !out.empty() && out.back() == ' ') out.pop_back();
    out += space ? ' ' : c;
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

std::vector<std::string_view> cut(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t end = text.find(at); end != std::string_view::npos; end = text.find(at)) {
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  parts.push_back(text);
  return parts;
}

std::optional<int> parse_day(std::string_view text) {
  if (text.size() < 3) return std::nullopt;
  for (std::size_t i = 0; i < kDays.size(); ++i)
    if (text == kDays[i] || text == kDays[i].substr(0, 3)) return static_cast<int>(i);
  return std::nullopt;
}

std::optional<std::uint8_t> parse_days(std::string_view text) {
  unsigned days = 0;
  for (const std::string_view part : cut(text, '+')) {
    const auto ends = cut(part, '-');
    const auto first = parse_day(ends.front()), last = parse_day(ends.back());
    if (ends.size() > 2 || !first || !last) return std::nullopt;
    for (int day = *first;; day = (day + 1) % 7) {
      days |= 1U << static_cast<unsigned>(day);
      if (day == *last) break;
    }
  }
  return static_cast<std::uint8_t>(days);
}

std::optional<std::int32_t> parse_two(std::string_view text) {
  std::int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text.size() > 2 || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int32_t> parse_clock(std::string_view text) {
  const auto colon = text.find(':');
  if (colon == std::string_view::npos || text.size() - colon != 3) return std::nullopt;
  const auto hour = parse_two(text.substr(0, colon)), minute = parse_two(text.substr(colon + 1));
  if (!hour || !minute || *hour < 0 || *minute < 0 || *minute > 59 || *hour * 60 + *minute > kDayMin) return std::nullopt;
  return *hour * 60 + *minute;
}

Result<void> parse_hours(std::string_view text, WindowItem& item) {
  const auto ends = cut(text, '-');
  const auto open = parse_clock(ends.front()), close = parse_clock(ends.back());
  if (ends.size() != 2 || !open || !close || *open == kDayMin)
    return fail(Errc::usage, "'" + std::string(text) + "' is no span of hours", "write HH:MM-HH:MM, from 00:00 to 24:00, for example 22:00-07:00");
  if (*open == *close)
    return fail(Errc::usage, "'" + std::string(text) + "' never opens: it begins and ends at the same time", "for whole days write the days alone, such as mon-sun or sat");
  item.open_min = *open;
  item.close_min = *close > *open ? *close : *close + kDayMin;
  return {};
}

Result<WindowItem> parse_item(std::string_view text) {
  WindowItem item{0x7F, 0, kDayMin};
  const auto words = cut(text, ' ');
  const bool days_first = std::isalpha(static_cast<unsigned char>(text.front())) != 0;
  if (words.size() > (days_first ? 2U : 1U))
    return fail(Errc::usage, "'" + std::string(text) + "' is no item of a window", std::string("days come before hours, items are separated by commas: ") + kHowTo);
  if (days_first) {
    const auto days = parse_days(words.front());
    if (!days) return fail(Errc::usage, "'" + std::string(words.front()) + "' names no days", "days are mon tue wed thu fri sat sun, a range mon-fri, or several mon+wed+fri");
    item.days = *days;
  }
  if (!days_first || words.size() == 2)
    if (auto hours = parse_hours(words.back(), item); !hours) return tl::unexpected(hours.error());
  return item;
}

bool covers_week(const std::vector<WindowItem>& items) {
  std::bitset<7 * kDayMin> open;
  for (const WindowItem& item : items)
    for (int day = 0; day < 7; ++day)
      if ((item.days >> static_cast<unsigned>(day) & 1U) != 0)
        for (std::int32_t m = item.open_min; m < item.close_min; ++m) open.set(static_cast<std::size_t>((day * kDayMin + m) % (7 * kDayMin)));
  return open.all();
}

bool is_whole_days(const WindowItem& item) { return item.open_min == 0 && item.close_min == kDayMin; }

// ---- zones

using Seconds = std::chrono::seconds;

Result<const date::time_zone*> find_zone(const std::string& name) {
  try {
    return date::locate_zone(name);
  } catch (const std::exception&) {
    std::vector<std::string> known;
    try {
      for (const date::time_zone& zone : date::get_tzdb().zones) known.push_back(zone.name());
    } catch (const std::exception& absent) {
      return fail(Errc::usage, std::string("the system has no time zones: ") + absent.what(), "install them: apt-get install tzdata");
    }
    if (known.empty()) return fail(Errc::usage, "the system has no time zones", "install them: apt-get install tzdata");
    const std::string meant = nearest(known, name);
    return fail(Errc::usage, "'" + name + "' is no time zone of this system",
                meant.empty() ? "write an IANA name such as Europe/Berlin, Asia/Seoul or UTC" : "did you mean " + meant + "?");
  }
}

date::local_seconds local(std::int64_t local_s) { return date::local_seconds(Seconds(local_s)); }
std::int64_t utc_of(std::int64_t local_s, const date::sys_info& info) { return local_s - info.offset.count(); }

/// The first instant at which a clock there shows `local_s` or later.
std::int64_t first_at(const date::time_zone& zone, std::int64_t local_s) {
  const date::local_info info = zone.get_info(local(local_s));
  if (info.result == date::local_info::nonexistent) return info.first.end.time_since_epoch().count();
  return utc_of(local_s, info.first);   // the earlier one of two
}

/// The end of the last instant at which a clock there shows less than `local_s`.
std::int64_t last_before(const date::time_zone& zone, std::int64_t local_s) {
  const date::local_info info = zone.get_info(local(local_s));
  if (info.result == date::local_info::nonexistent) return info.first.end.time_since_epoch().count();
  if (info.result == date::local_info::unique) return utc_of(local_s, info.first);
  // Shown twice. When the second time is the very moment at which the clock goes back, nothing earlier is shown after the first.
  const std::int64_t second = utc_of(local_s, info.second);
  return second == info.second.begin.time_since_epoch().count() ? utc_of(local_s, info.first) : second;
}

std::vector<core::Span> merged(std::vector<core::Span> spans) {
  std::sort(spans.begin(), spans.end(), [](const core::Span& a, const core::Span& b) { return a.open_ms < b.open_ms; });
  std::vector<core::Span> out;
  for (const core::Span& span : spans) {
    if (!out.empty() && span.open_ms <= out.back().close_ms) out.back().close_ms = std::max(out.back().close_ms, span.close_ms);
    else out.push_back(span);
  }
  return out;
}

}  // namespace

Result<WindowText> parse_window(std::string_view text) {
  WindowText window;
  const std::string plain = normal(text);
  if (plain.empty()) return fail(Errc::usage, "an empty window never opens", kHowTo);
  if (plain == "never") return fail(Errc::usage, "'never' never opens", "to keep a class from starting: gpuq queue pause CLASS");
  if (plain == "always") {
    window.always = true;
    window.items.push_back({0x7F, 0, kDayMin});
    return window;
  }
  std::string whole_days;
  for (std::string_view part : cut(plain, ',')) {
    while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
    while (!part.empty() && part.back() == ' ') part.remove_suffix(1);
    if (window.items.size() == kItemsMax) return fail(Errc::usage, "a window of more than " + std::to_string(kItemsMax) + " items", kHowTo);
    if (part.empty()) return fail(Errc::usage, "'" + std::string(text) + "' has an empty item", kHowTo);
    auto item = parse_item(part);
    if (!item) return tl::unexpected(item.error());
    // "mon, wed 22:00-07:00" reads like both days at night, and is not.
    const bool days_with_hours = !is_whole_days(*item) && item->days != 0x7F;
    if (days_with_hours && !whole_days.empty())
      window.warnings.push_back("'" + whole_days + "' before '" + std::string(part) + "' means all of " + whole_days + "; if its hours were meant too, write " + whole_days + "+" +
                                std::string(part));
    whole_days = is_whole_days(*item) ? std::string(part) : std::string();
    window.items.push_back(*item);
  }
  window.always = covers_week(window.items);
  return window;
}

Result<std::string> resolve_zone(const std::string& name, const char* tz_variable) {
  if (name != "local") {
    auto zone = find_zone(name);
    if (!zone) return tl::unexpected(zone.error());
    return name;
  }
  std::string variable = tz_variable == nullptr ? "" : tz_variable;
  if (!variable.empty() && variable.front() == ':') variable.erase(0, 1);
  if (!variable.empty() && find_zone(variable)) return variable;
  try {
    const date::time_zone* zone = date::current_zone();
    return std::string(zone->name());
  } catch (const std::exception&) {
    return fail(Errc::usage, "this machine does not say which time zone it is in", "name it: time_zone = \"Europe/Berlin\"");
  }
}

Result<std::vector<core::Span>> window_spans(const std::vector<WindowItem>& items, const std::string& zone_name, std::int64_t from_ms, std::int64_t to_ms) {
  auto zone = find_zone(zone_name);
  if (!zone) return tl::unexpected(zone.error());
  // A day of slack on both sides: offsets, and items that run into the next day.
  const auto first_day = date::floor<date::days>(date::sys_seconds(Seconds(from_ms / 1000))) - date::days(2);
  const auto last_day = date::floor<date::days>(date::sys_seconds(Seconds(to_ms / 1000))) + date::days(2);
  std::vector<core::Span> spans;
  for (auto day = first_day; day <= last_day; day += date::days(1)) {
    const unsigned weekday = date::weekday(day).iso_encoding() - 1;
    const std::int64_t midnight = std::int64_t{day.time_since_epoch().count()} * kDayMin * 60;
    for (const WindowItem& item : items) {
      if ((item.days >> weekday & 1U) == 0) continue;
      const std::int64_t open = std::max(first_at(**zone, midnight + item.open_min * 60LL) * 1000, from_ms);
      const std::int64_t close = std::min(last_before(**zone, midnight + item.close_min * 60LL) * 1000, to_ms);
      if (open < close) spans.push_back({open, close});
    }
  }
  return merged(std::move(spans));
}

Result<void> renew_spans(core::Policy& policy, std::int64_t now_ms) {
  for (core::Window& window : policy.windows) {
    auto text = parse_window(window.text);
    if (!text) return tl::unexpected(text.error());
    auto spans = window_spans(text->items, window.zone, now_ms - kSpansBackMs, now_ms + kSpansAheadMs);
    if (!spans) return tl::unexpected(spans.error());
    window.spans = std::move(*spans);
  }
  return {};
}

}  // namespace gq::policy

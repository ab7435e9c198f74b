// policy_windows.cpp - what a window means, in words, minutes and on the nights when clocks change.
#include <date/tz.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "broker/policy/windows.h"

namespace gq::policy {
namespace {

constexpr std::uint8_t kEveryDay = 0x7F, kWeekend = 0x60, kWorkdays = 0x1F;

std::int64_t utc(const std::string& text) {
  int year = 0;   // by hand: date::parse makes g++ 12 see a ghost in a release build
  unsigned month = 0, day = 0, hour = 0, minute = 0;
  EXPECT_EQ(std::sscanf(text.c_str(), "%d-%u-%u %u:%u", &year, &month, &day, &hour, &minute), 5) << text;
  const date::sys_seconds at = date::sys_days(date::year{year} / date::month{month} / date::day{day}) + std::chrono::hours(hour) + std::chrono::minutes(minute);
  return at.time_since_epoch().count() * 1000;
}
std::string shown(std::int64_t ms) { return date::format("%F %R", date::sys_seconds(std::chrono::seconds(ms / 1000))); }

std::vector<WindowItem> items(std::string_view text) {
  auto parsed = parse_window(text);
  EXPECT_TRUE(parsed) << text;
  return parsed ? parsed->items : std::vector<WindowItem>{};
}
/// "open -> close" in UTC, within the span of time.
std::vector<std::string> spans(std::string_view text, const std::string& zone, const std::string& from, const std::string& to) {
  auto found = window_spans(items(text), zone, utc(from), utc(to));
  EXPECT_TRUE(found);
  std::vector<std::string> lines;
  for (const core::Span& span : *found) lines.push_back(shown(span.open_ms) + " -> " + shown(span.close_ms));
  return lines;
}
std::string mistake(std::string_view text) {
  const auto parsed = parse_window(text);
  return parsed ? "accepted" : std::string(to_string(parsed.error().code)) + " " + parsed.error().what + " | " + parsed.error().next;
}

using Lines = std::vector<std::string>;

TEST(WindowText, is_days_hours_or_both_separated_by_commas) {
  EXPECT_EQ(items("22:00-07:00, sat-sun"), (std::vector<WindowItem>{{kEveryDay, 22 * 60, 31 * 60}, {kWeekend, 0, 24 * 60}}));
  EXPECT_EQ(items("mon-fri 22:00-07:00"), (std::vector<WindowItem>{{kWorkdays, 22 * 60, 31 * 60}}));
  EXPECT_EQ(items("Mon+Wednesday + fri 9:30 - 24:00"), (std::vector<WindowItem>{{0b10101, 9 * 60 + 30, 24 * 60}}));
  EXPECT_EQ(items("fri-mon"), (std::vector<WindowItem>{{0b1110001, 0, 24 * 60}})) << "a range may run over the weekend";
  EXPECT_EQ(items("22:00\u201307:00"), items("22:00-07:00")) << "a typographic dash is a dash";
}

TEST(WindowText, that_covers_the_whole_week_is_always) {
  for (const char* text : {"always", "mon-sun", "00:00-24:00", "22:00-07:00, 07:00-22:00", "sat-sun, mon-fri 06:00-18:00, 18:00-06:00"}) {
    auto parsed = parse_window(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_TRUE(parsed->always) << text;
  }
  EXPECT_FALSE(parse_window("mon-sat, sun 00:00-23:59")->always);
}

TEST(WindowText, that_never_opens_or_is_none_says_what_to_write) {
  EXPECT_EQ(mistake("07:00-07:00"), "USAGE '07:00-07:00' never opens: it begins and ends at the same time | for whole days write the days alone, such as mon-sun or sat");
  EXPECT_EQ(mistake("  ").substr(0, 35), "USAGE an empty window never opens |");
  EXPECT_EQ(mistake("never"), "USAGE 'never' never opens | to keep a class from starting: gpuq queue pause CLASS");
  EXPECT_EQ(mistake("22:00-07:00,").substr(0, 40), "USAGE '22:00-07:00,' has an empty item |");
  EXPECT_EQ(mistake("mon-fry 22:00-07:00"), "USAGE 'mon-fry' names no days | days are mon tue wed thu fri sat sun, a range mon-fri, or several mon+wed+fri");
  EXPECT_THAT(mistake("22:00-07:00 sat"), testing::StartsWith("USAGE '22:00-07:00 sat' is no item of a window | days come before hours"));
  EXPECT_THAT(mistake("mon fri 22:00-07:00"), testing::StartsWith("USAGE 'mon fri 22:00-07:00' is no item of a window"));
  for (const char* hours : {"22-07", "24:00-07:00", "22:00-25:00", "22:60-23:00", "22:00", "22:00-23:00-01:00", "-1:00-02:00", "22:0-7:00"})
    EXPECT_THAT(mistake(hours), testing::EndsWith("| write HH:MM-HH:MM, from 00:00 to 24:00, for example 22:00-07:00")) << hours;
}

TEST(WindowText, that_reads_like_two_days_with_hours_and_is_not_gets_a_warning) {
  auto parsed = parse_window("mon, wed 22:00-07:00");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->warnings, (Lines{"'mon' before 'wed 22:00-07:00' means all of mon; if its hours were meant too, write mon+wed 22:00-07:00"}));
  EXPECT_TRUE(parse_window("22:00-07:00, sat-sun")->warnings.empty());
}

TEST(WindowSpans, run_over_midnight_and_merge_where_they_touch) {
  // Friday 2024-03-15 to Monday: the night to Saturday, the weekend and the nights around it are one span.
  EXPECT_EQ(spans("22:00-07:00, sat-sun", "UTC", "2024-03-14 12:00", "2024-03-19 12:00"),
            (Lines{"2024-03-14 22:00 -> 2024-03-15 07:00", "2024-03-15 22:00 -> 2024-03-18 07:00", "2024-03-18 22:00 -> 2024-03-19 07:00"}));
  EXPECT_EQ(spans("fri 22:00-07:00", "UTC", "2024-03-14 12:00", "2024-03-19 12:00"), (Lines{"2024-03-15 22:00 -> 2024-03-16 07:00"})) << "the day is the one it begins on";
}

TEST(WindowSpans, are_cut_off_where_the_time_looked_at_ends) {
  EXPECT_EQ(spans("22:00-07:00", "UTC", "2024-03-15 01:30", "2024-03-15 23:15"), (Lines{"2024-03-15 01:30 -> 2024-03-15 07:00", "2024-03-15 22:00 -> 2024-03-15 23:15"}));
}

TEST(WindowSpans, without_clock_changes_keep_their_offset) {
  EXPECT_EQ(spans("22:00-07:00", "Asia/Seoul", "2024-03-31 00:00", "2024-04-01 00:00"), (Lines{"2024-03-31 13:00 -> 2024-03-31 22:00"}));
}

TEST(WindowSpans, lose_the_hour_that_does_not_come) {
  // Berlin, 2024-03-31: 02:00 CET is followed by 03:00 CEST, at 01:00 UTC.
  EXPECT_EQ(spans("22:00-07:00", "Europe/Berlin", "2024-03-30 12:00", "2024-03-31 12:00"), (Lines{"2024-03-30 21:00 -> 2024-03-31 05:00"})) << "eight hours that night";
  EXPECT_EQ(spans("22:00-02:30", "Europe/Berlin", "2024-03-30 12:00", "2024-03-31 12:00"), (Lines{"2024-03-30 21:00 -> 2024-03-31 01:00"})) << "an end that does not come: at the change";
  EXPECT_EQ(spans("02:30-07:00", "Europe/Berlin", "2024-03-30 12:00", "2024-03-31 12:00"), (Lines{"2024-03-31 01:00 -> 2024-03-31 05:00"})) << "a beginning that does not come: at the change";
  EXPECT_EQ(spans("02:15-02:45", "Europe/Berlin", "2024-03-30 12:00", "2024-03-31 12:00"), (Lines{})) << "nothing of it comes";
  EXPECT_EQ(spans("01:00-04:00", "America/New_York", "2024-03-10 00:00", "2024-03-10 12:00"), (Lines{"2024-03-10 06:00 -> 2024-03-10 08:00"}));
}

TEST(WindowSpans, have_the_hour_that_comes_twice_both_times_and_without_a_break) {
  // Berlin, 2024-10-27: 03:00 CEST is followed by 02:00 CET, at 01:00 UTC. New York, 2024-11-03: 02:00 EDT by 01:00 EST, at 06:00.
  EXPECT_EQ(spans("22:00-07:00", "Europe/Berlin", "2024-10-26 12:00", "2024-10-27 12:00"), (Lines{"2024-10-26 20:00 -> 2024-10-27 06:00"})) << "ten hours that night";
  EXPECT_EQ(spans("22:00-02:30", "Europe/Berlin", "2024-10-26 12:00", "2024-10-27 12:00"), (Lines{"2024-10-26 20:00 -> 2024-10-27 01:30"})) << "closes the second time";
  EXPECT_EQ(spans("02:30-07:00", "Europe/Berlin", "2024-10-26 12:00", "2024-10-27 12:00"), (Lines{"2024-10-27 00:30 -> 2024-10-27 06:00"})) << "opens the first time";
  EXPECT_EQ(spans("22:00-02:00", "Europe/Berlin", "2024-10-26 12:00", "2024-10-27 12:00"), (Lines{"2024-10-26 20:00 -> 2024-10-27 00:00"})) << "02:00 itself: nothing before it comes again";
  EXPECT_EQ(spans("01:00-02:00", "America/New_York", "2024-11-03 00:00", "2024-11-03 12:00"), (Lines{"2024-11-03 05:00 -> 2024-11-03 07:00"}));
}

TEST(Zones, that_the_system_does_not_know_are_refused_with_the_nearest_name) {
  auto zone = resolve_zone("Europe/Berln", nullptr);
  ASSERT_FALSE(zone);
  EXPECT_EQ(zone.error().what + " | " + zone.error().next, "'Europe/Berln' is no time zone of this system | did you mean Europe/Berlin?");
  EXPECT_EQ(resolve_zone("Mars/Olympus_Mons_Base", nullptr).error().next, "write an IANA name such as Europe/Berlin, Asia/Seoul or UTC");
}

TEST(Zones, local_is_what_TZ_says) {
  EXPECT_EQ(*resolve_zone("local", ":Asia/Seoul"), "Asia/Seoul");
  EXPECT_EQ(*resolve_zone("local", "America/New_York"), "America/New_York");
  EXPECT_EQ(*resolve_zone("Europe/Berlin", "Asia/Seoul"), "Europe/Berlin");
}

TEST(Renewal, computes_every_window_anew_around_the_given_time) {
  core::Policy policy;
  policy.windows = {{"22:00-07:00", "UTC", {{1, 2}}}, {"sat-sun", "Asia/Seoul", {}}};
  const std::int64_t at = utc("2024-03-15 12:00");
  ASSERT_TRUE(renew_spans(policy, at));
  EXPECT_EQ(shown(policy.windows[0].spans.front().open_ms), "2024-03-13 22:00");
  EXPECT_EQ(shown(policy.windows[0].spans.back().close_ms), "2024-04-19 07:00");
  EXPECT_EQ(shown(*policy.windows[1].opens_after(at)), "2024-03-15 15:00");
  EXPECT_EQ(shown(*policy.windows[1].closes_after(at + 4 * 3'600'000)), "2024-03-17 15:00");
}

}  // namespace
}  // namespace gq::policy

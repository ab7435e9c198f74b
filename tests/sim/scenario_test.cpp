// The scenarios as tests: what a policy promises over a day is simulated time, the same for every run of a seed, so it may be asserted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/sim/record.h"

namespace gq::sim {
namespace {

using testing::HasSubstr;

std::string file(const std::string& name) { return std::string(GPUQ_SCENARIOS) + "/" + name; }

Scenario scenario(const std::string& name) {
  auto read = read_scenario(file(name));
  EXPECT_TRUE(read) << (read ? "" : read.error().what);
  return read ? *read : Scenario{};
}

std::string refusal(const std::string& text) {
  const auto read = parse_scenario(text, "day.toml");
  return read ? "accepted" : read.error().what + " | " + read.error().next;
}

constexpr const char* kSmall = R"(
start = "2026-03-02 21:00"
length = "2h"
pause_slice = "20ms"
[class.training]
window = "22:00-07:00"
budget = "rest"
pause_for = ["inference"]
[[host]]
name = "anna"
gpus = ["8GiB"]
[[model]]
name = "yolo"
vram = "1GiB"
[[model]]
name = "large"
vram = "5GiB"
[[stream]]
name = "camera"
kind = "detect"
model = "yolo"
per_hour = "3000"
takes = "10ms..30ms"
[[stream]]
name = "rare"
kind = "infer"
model = "large"
at = ["22:20", "22:40"]
count = 5
takes = "200ms"
[[stream]]
name = "night"
kind = "train.detector"
vram = "3GiB..rest"
at = ["21:30"]
takes = "3h"
optimizer_step = "400ms"
micro_step = "50ms"
checkpoint_every = "5min"
[promise.inference]
wait_p99 = "100ms"
[promise.training]
share_of_rest = 90
)";

Scenario small() {
  auto read = parse_scenario(kSmall, "day.toml");
  EXPECT_TRUE(read) << (read ? "" : read.error().what);
  return read ? *read : Scenario{};
}

TEST(ScenarioDay, one_card_answers_requests_within_100_ms_and_trains_through_its_window) {
  const Played day = play(scenario("one-gpu-day.toml"));
  EXPECT_TRUE(day.figures.all_kept()) << table(scenario("one-gpu-day.toml"), day.record, day.figures) << day.report.findings;
  const auto& inference = day.figures.of[static_cast<std::size_t>(JobClass::inference)];
  const auto& training = day.record.classes[static_cast<std::size_t>(JobClass::training)];
  EXPECT_LE(inference.wait_p99_ms, 100);
  EXPECT_GE(day.figures.of[static_cast<std::size_t>(JobClass::training)].share_of_rest_pct, 90);
  EXPECT_EQ(training.steps_lost_asked, 0U);
  EXPECT_GE(training.preempted_by[static_cast<std::size_t>(JobClass::inference)], 2U) << "the audits of the night were to take its card";
  EXPECT_GE(training.stops[static_cast<std::size_t>(Stop::window)], 1U) << "the window was to close on a running training";
  EXPECT_GT(day.record.classes[static_cast<std::size_t>(JobClass::inference)].done, 100'000U);
}

TEST(ScenarioDay, two_cards_keep_their_promises) {
  const Scenario s = scenario("two-gpu-day.toml");
  const Played day = play(s);
  EXPECT_TRUE(day.figures.all_kept()) << table(s, day.record, day.figures) << day.report.findings;
}

TEST(ScenarioDay, a_fleet_of_spot_machines_keeps_its_promises_for_half_an_hour) {
  Scenario s = scenario("fleet-1000-spot.toml");
  s.length_us = 1'800'000'000;
  const Played day = play(s);
  EXPECT_EQ(day.report.violations, 0U) << day.report.findings;
  EXPECT_TRUE(day.figures.all_kept()) << table(s, day.record, day.figures);  // inversions, too: half an hour is long enough to have met one
  EXPECT_GT(day.record.hosts_lost, 0U);
  EXPECT_EQ(day.record.classes[static_cast<std::size_t>(JobClass::training)].steps_lost_asked, 0U);
  std::uint64_t lost = 0;
  for (const ClassRecord& of : day.record.classes) lost += of.stops[static_cast<std::size_t>(Stop::lost)];
  EXPECT_GT(lost, 0U);
}

TEST(Scenario, a_training_gives_way_to_a_model_and_closing_windows_without_losing_a_step) {
  const Played day = play(small());
  const auto& training = day.record.classes[static_cast<std::size_t>(JobClass::training)];
  EXPECT_TRUE(day.figures.all_kept()) << table(small(), day.record, day.figures) << day.report.findings;
  EXPECT_EQ(training.preempted_by[static_cast<std::size_t>(JobClass::inference)], 2U);
  EXPECT_EQ(training.steps_lost_asked, 0U);
  EXPECT_EQ(training.waiting_at_end, 0U);
}

TEST(Scenario, the_least_of_a_class_gets_its_turn_by_waiting) {
  const auto day = [](const std::string& aging) {
    auto read = parse_scenario("start = \"2026-03-02 00:00\"\nlength = \"12h\"\n[policy]\naging = \"" + aging + R"("
[[host]]
name = "anna"
gpus = ["8GiB"]
[[stream]]
name = "urgent"
kind = "command"
vram = "6GiB"
priority = 9
per_hour = "105"
takes = "30s"
[[stream]]
name = "patient"
kind = "command"
vram = "6GiB"
priority = 0
per_hour = "8"
takes = "30s"
)", "day.toml");
    EXPECT_TRUE(read) << (read ? "" : read.error().what);
    if (!read) return 0.0;
    return play(*read).figures.of[static_cast<std::size_t>(JobClass::training)].wait_max_ms / 60'000;
  };
  const double aged = day("1min"), strict = day("off");
  EXPECT_LT(aged, 45) << "minutes: nine steps of aging and what was queued before it";
  EXPECT_GT(strict, aged * 1.5) << "without aging nothing bounds the wait";
}

TEST(Scenario, the_same_seed_is_the_same_day_and_another_seed_another) {
  Scenario s = small();
  const Played once = play(s), again = play(s);
  s.seed = 2;
  const Played other = play(s);
  EXPECT_EQ(once.report.trace_hash, again.report.trace_hash);
  EXPECT_EQ(picture(s, once.record, once.figures), picture(s, again.record, again.figures));
  EXPECT_NE(once.report.trace_hash, other.report.trace_hash);
}

TEST(Scenario, a_policy_that_lets_training_run_all_day_breaks_no_window_but_one_that_is_not_followed_would_be_told) {
  Scenario s = small();
  Played day = play(s);
  day.record.classes[static_cast<std::size_t>(JobClass::training)].outside_window = 1;
  day.record.classes[static_cast<std::size_t>(JobClass::inference)].inversions = 1;
  day.record.classes[static_cast<std::size_t>(JobClass::training)].steps_lost_asked = 1;
  const Figures f = figure_out(s, day.record, 1);
  EXPECT_EQ(std::count_if(f.verdicts.begin(), f.verdicts.end(), [](const Verdict& v) { return !v.kept; }), 4);
  EXPECT_THAT(table(s, day.record, f), HasSubstr("BROKEN"));
}

TEST(Scenario, the_picture_shows_the_window_the_jobs_and_the_models) {
  const Scenario s = small();
  const Played day = play(s);
  const std::string svg = picture(s, day.record, day.figures);
  for (const char* part : {"training's window", "anna/0", "<title>night #", "<title>yolo", "left for a higher class", "</svg>"}) EXPECT_THAT(svg, HasSubstr(part));
}

TEST(ScenarioFile, a_mistake_is_told_with_its_place_and_what_to_write) {
  EXPECT_THAT(refusal("[[host]]\nname = \"a\"\ngpus = [\"8GiB\"]\n[[stream]]\nname = \"x\"\nkind = \"dance\"\n"), HasSubstr("day.toml:6:1: stream[0].kind = 'dance' is no kind of work"));
  EXPECT_THAT(refusal("[[host]]\nname = \"a\"\ngpus = [\"8 pounds\"]\n"), HasSubstr("'8 pounds', which is no size of a card"));
  EXPECT_THAT(refusal("start = \"tomorrow\"\n"), HasSubstr("'tomorrow' is no date with a time"));
  EXPECT_THAT(refusal("zone = \"Mars/Olympus\"\n"), HasSubstr("'Mars/Olympus' is no time zone"));
  EXPECT_THAT(refusal("lenght = \"24h\"\n"), HasSubstr("lenght"));
  EXPECT_THAT(refusal("policy_file = \"no-such.toml\"\n"), HasSubstr("no-such.toml"));
  EXPECT_THAT(refusal("[class.training]\nwindow = \"25:00-26:00\"\n"), HasSubstr("25:00"));
  EXPECT_THAT(refusal("title = \"empty\"\n"), HasSubstr("there is no machine"));
  EXPECT_THAT(refusal("[[host]]\nname = \"a\"\ngpus = [\"8GiB\"]\n[[stream]]\nname = \"x\"\nkind = \"detect\"\nmodel = \"none\"\n"), HasSubstr("is no [[model]] of this file"));
  EXPECT_THAT(refusal("[[host]]\nname = \"a\"\ngpus = [\"8GiB\"]\n[[stream]]\nname = \"x\"\nkind = \"command\"\ntakes = \"soon\"\n"), HasSubstr("no duration"));
}

}  // namespace
}  // namespace gq::sim

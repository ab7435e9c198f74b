// core_policy_windows.cpp - windows open and close by the wall clock, whatever happens to clock, broker and policy meanwhile.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

constexpr std::int64_t kStart = 1'700'000'000'000;  // 2023-11-14 22:13:20 UTC
constexpr std::int64_t kMinute = 60'000;

/// The story begins 40 s before 22:14. Training's window: 22:20 to 22:40, and the next evening again.
class Windows : public Story {
 protected:
  static constexpr std::int64_t kOpen = kStart + 400'000;           // 22:20:00
  static constexpr std::int64_t kClose = kOpen + 20 * kMinute;      // 22:40:00
  static constexpr std::int64_t kDay = 24 * 60 * kMinute;
  PeerId anna;

  void policy(const std::function<void(Policy&)>& change) {
    change(config.policy);
    say(PolicyLoaded{config.policy});
    forget_effects();
  }
  void evenings() {
    policy([](Policy& p) {
      p.windows = {{"22:20-22:40", "UTC", {{kOpen, kClose}, {kOpen + kDay, kClose + kDay}}}};
      p.of(JobClass::training).window = 0;
      p.of(JobClass::training).min_run = 30s;
      p.of(JobClass::training).grace = 1min;
    });
  }
  void until(std::int64_t ms) { after(std::chrono::milliseconds(ms - now.wall.ms)); }
  static SubmitItem train(std::uint64_t n, OnPreempt on_preempt = OnPreempt::checkpoint) {
    return with(training(n, {1000}, {1000}), [&](SubmitItem& i) { i.fixed.needs.on_preempt = on_preempt; });
  }
  std::string why(JobId job) { return core->find(job, now)->reason; }
  void SetUp() override {
    evenings();
    anna = worker("anna", {.devices = {gpu("G")}, .starts = 99});
    keep_beating("anna");
    forget_effects();
  }
};

TEST_F(Windows, a_job_waits_for_its_class_s_window_says_when_it_opens_and_starts_at_that_moment) {
  const auto job = submitted(train(1));
  EXPECT_EQ(effects(), (Effects{created(train(1), JobState::ready), answered({ok(job)})}));
  EXPECT_EQ(why(job), "the window of class training opens at 2023-11-14 22:20 UTC");
  EXPECT_EQ(state(submitted(with(train(2), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }))), JobState::running) << "others have none";
  keep_beating("anna", {grant(job_id(2))});
  until(kOpen - 500);
  EXPECT_EQ(state(job), JobState::ready);
  forget_effects();
  until(kOpen);
  EXPECT_EQ(effects(), (Effects{granted(job, "anna", {"G"}, {1000}), reads(job), assigns("anna", 2, job, 10)}));
}

TEST_F(Windows, the_core_asks_to_be_woken_when_a_window_turns) {
  core = std::make_unique<Core>(config);
  tick(TimerFired{});
  ASSERT_TRUE(core->next_wakeup().has_value());
  EXPECT_EQ(*core->next_wakeup() - now.steady, std::chrono::milliseconds(kOpen - now.wall.ms));
}

TEST_F(Windows, nothing_starts_that_could_not_run_as_long_as_it_must_before_the_close) {
  policy([](Policy& p) { p.of(JobClass::training).min_run = 10min; });
  until(kClose - 10 * kMinute);
  const auto in_time = submitted(train(1));
  EXPECT_EQ(state(in_time), JobState::running) << "ten minutes are left to the millisecond";
  ends(anna, in_time, Outcome::succeeded);
  until(kClose - 10 * kMinute + 500);
  const auto late = submitted(train(2));
  EXPECT_EQ(state(late), JobState::ready);
  EXPECT_EQ(why(late), "the window of class training closes at 2023-11-14 22:40 UTC, too soon for a start; it opens at 2023-11-15 22:20 UTC");
  until(kOpen + kDay);
  EXPECT_EQ(state(late), JobState::running);
}

TEST_F(Windows, who_still_runs_is_asked_to_leave_in_time_to_save_its_state_and_comes_back_at_the_next_opening) {
  until(kOpen);
  const auto job = submitted(train(1));
  (void)created(train(1), JobState::ready);
  started(anna, job);
  keep_beating("anna", {grant(job)});
  until(kClose - kMinute - 500);
  EXPECT_EQ(state(job), JobState::running);
  was(job) = dynamic(job);
  forget_effects();
  until(kClose - kMinute);
  const auto asked = changed(job, JobState::yielding, [](JobDynamic& d) { d.leave_reason = "window closes at 22:40 UTC"; });
  EXPECT_EQ(effects(), (Effects{asked, Send{Preempt{anna, 2, grant(job), "window closes at 22:40 UTC", 1min}}}));
  keep_beating("anna");
  ends(anna, job, Outcome::yielded);
  EXPECT_EQ(state(job), JobState::ready) << "it keeps its place and does not start again";
  until(kOpen + kDay);
  EXPECT_EQ(state(job), JobState::running);
  EXPECT_EQ(dynamic(job).preemptions, 1U);
  EXPECT_EQ(dynamic(job).evictions, 0U) << "it left for nobody";
}

TEST_F(Windows, a_job_that_may_never_be_stopped_is_left_to_finish) {
  until(kOpen);
  const auto job = submitted(train(1, OnPreempt::never));
  started(anna, job);
  keep_beating("anna", {grant(job)});
  until(kClose + kMinute);
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Windows, a_broker_that_was_away_at_the_close_asks_when_it_is_back) {
  until(kOpen);
  const auto job = submitted(train(1));
  started(anna, job);
  const Grant g = grant(job);
  now.wall.ms = kClose + 5 * kMinute;
  now.steady += 1h;
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  forget_effects();
  was(job) = dynamic(job);
  WorkerHello back = hello("anna", {.devices = {gpu("G")}, .running = {g}});
  peers["anna"] = back.peer;
  say(std::move(back));
  EXPECT_EQ(state(job), JobState::yielding);
  EXPECT_EQ(dynamic(job).leave_reason, "the window of class training is closed");
  int told = 0;
  for (const Effect& e : effects())
    if (const auto* s = std::get_if<Send>(&e)) told += std::holds_alternative<Preempt>(s->message) ? 1 : 0;
  EXPECT_EQ(told, 1);
}

TEST_F(Windows, a_clock_that_jumps_back_closes_the_window_again_and_one_that_jumps_on_opens_it) {
  const auto first = submitted(train(1));
  now.wall.ms = kOpen + kMinute;
  tick(TimerFired{});
  EXPECT_EQ(state(first), JobState::running);
  ends(anna, first, Outcome::succeeded);
  now.wall.ms = kOpen - kMinute;
  tick(TimerFired{});
  const auto second = submitted(train(2));
  EXPECT_EQ(state(second), JobState::ready);
  EXPECT_EQ(why(second), "the window of class training opens at 2023-11-14 22:20 UTC");
  until(kOpen);
  EXPECT_EQ(state(second), JobState::running);
}

TEST_F(Windows, a_policy_that_is_loaded_brings_its_own_windows_at_once) {
  const auto job = submitted(train(1));
  EXPECT_EQ(state(job), JobState::ready);
  policy([](Policy& p) { p.windows[0].spans = {{kStart - kMinute, kStart + 2 * kMinute}}; });
  EXPECT_EQ(state(job), JobState::running);
  started(anna, job);
  keep_beating("anna", {grant(job)});
  until(kStart + kMinute);
  EXPECT_EQ(dynamic(job).leave_reason, "window closes at 22:15 UTC");
  keep_beating("anna");
  ends(anna, job, Outcome::yielded);
  EXPECT_EQ(why(job), "the window of class training closes at 2023-11-14 22:15 UTC, too soon for a start; it does not open again, as far as known");
  policy([](Policy& p) { p.of(JobClass::training).window = kAlways; });
  EXPECT_EQ(state(job), JobState::running) << "without a window it may start any time";
}

TEST_F(Windows, a_policy_that_closes_the_window_over_running_jobs_asks_them_to_leave) {
  until(kOpen);
  const auto job = submitted(train(1));
  started(anna, job);
  keep_beating("anna", {grant(job)});
  policy([](Policy& p) { p.windows[0].spans = {{kOpen + kDay, kClose + kDay}}; });
  EXPECT_EQ(state(job), JobState::yielding);
  EXPECT_EQ(dynamic(job).leave_reason, "the window of class training is closed");
}

TEST_F(Windows, an_attempt_that_was_thought_lost_and_lives_is_asked_to_leave_like_any_other) {
  until(kOpen);
  const auto job = submitted(train(1));
  started(anna, job);
  const Grant g = grant(job);
  beat(anna, {});  // it says that it holds nothing: lost, and granted again
  ASSERT_EQ(dynamic(job).losses, 1U);
  keep_beating("anna", {grant(job)});
  until(kClose - kMinute);
  EXPECT_EQ(state(job), JobState::yielding);
  (void)g;
}

TEST_F(Windows, a_reservation_holds_inside_its_window_only) {
  policy([](Policy& p) {
    p.of(JobClass::training).window = kAlways;
    Reservation r;
    r.for_class = JobClass::inference;
    r.device = {DeviceSelector::Kind::uuid, "G", 0};
    r.size = {6000};
    r.when = 0;
    p.reservations = {r};
  });
  const auto by_day = submitted(training(1, {4000}, {4000}));
  EXPECT_EQ(state(by_day), JobState::running);
  keep_beating("anna", {grant(by_day)});
  until(kOpen);
  const auto evening = submitted(training(2, {1000}, {1000}));
  EXPECT_EQ(state(evening), JobState::ready);
  EXPECT_EQ(device("G").reserved, std::vector<std::string>{"inference 6000 MiB, 0 MiB of it in use"});
  forget_effects();
  until(kClose);
  EXPECT_EQ(assigned_now(), std::vector{evening}) << "at the very moment";
  EXPECT_TRUE(device("G").reserved.empty());
}

}  // namespace
}  // namespace gq::core::story

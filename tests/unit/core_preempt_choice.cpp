// core_preempt_choice.cpp - whom a preemption takes, whom it spares, and when it takes nobody.
#include "tests/unit/core_preempt_story.h"

namespace gq::core::story {
namespace {

struct Choice : PreemptStory {};

TEST_F(Choice, falls_on_the_lowest_class_first) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId trains = running(w, train(1, {4000}));
  const JobId draws = running(w, synthesis(2, {4000}));
  wait(60s);
  forget_effects();
  submit({inference(3, {5000})});
  EXPECT_EQ(asked_now(), Jobs{draws});
  EXPECT_EQ(state(trains), JobState::running);
}

TEST_F(Choice, falls_on_whoever_loses_least_since_its_last_acknowledged_checkpoint) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId old = running(w, train(1, {4000}));
  wait(60s);
  const JobId young = running(w, train(2, {4000}));
  wait(30s);
  say(CheckpointSaved{w, grant(old), {blob(1), 10}});
  wait(5s);
  forget_effects();
  submit({inference(3, {5000})});
  EXPECT_EQ(asked_now(), Jobs{old}) << "it saved its state five seconds ago; the other would lose thirty-five";
  EXPECT_EQ(state(young), JobState::running);
}

TEST_F(Choice, is_not_averted_by_never_saving_anything) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId silent = running(w, train(1, {4000}));
  wait(400s);
  const JobId tidy = running(w, train(2, {4000}));
  wait(350s);  // both have lost more than one interval of five minutes by now: equal, and the younger leaves
  forget_effects();
  submit({inference(3, {5000})});
  EXPECT_EQ(asked_now(), Jobs{tidy});
  EXPECT_EQ(state(silent), JobState::running);
}

TEST_F(Choice, is_no_larger_than_needed_and_takes_one_large_job_rather_than_two_small_ones_of_the_same_worth) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId large = running(w, train(1, {5000}));
  const JobId one = running(w, train(2, {2500}));
  const JobId two = running(w, train(3, {2500}));
  wait(10s);
  forget_effects();
  submit({inference(4, {5000})});
  EXPECT_EQ(asked_now(), Jobs{large});
  EXPECT_EQ(state(one), JobState::running);
  EXPECT_EQ(state(two), JobState::running);
}

TEST_F(Choice, among_more_candidates_than_can_be_tried_still_spares_everyone_it_can) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0", {24'000})}, .starts = 20});
  Jobs small;
  for (std::uint64_t n = 1; n <= 10; ++n) {
    small.push_back(running(w, synthesis(n, {400})));
    wait(500ms);
  }
  const JobId large = running(w, synthesis(11, {20'000}));
  wait(60s);
  forget_effects();
  submit({inference(20, {20'000})});
  EXPECT_EQ(asked_now(), Jobs{large}) << "the small ones were cheaper one by one, and turned out to be of no help";
}

TEST_F(Choice, is_made_on_one_device_and_leaves_the_others_alone) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0"), gpu("GPU-1")}});
  const JobId zero = running(w, train(1, {9000}));
  const JobId one = running(w, train(2, {9000}));
  wait(5s);
  say(CheckpointSaved{w, grant(one), {blob(1), 10}});
  forget_effects();
  submit({inference(3, {2000})});
  EXPECT_EQ(asked_now(), Jobs{one});
  EXPECT_EQ(dynamic(one).leave_reason, "command needs 2.0 GiB on GPU-1");
  EXPECT_EQ(state(zero), JobState::running);
}

TEST_F(Choice, asks_as_many_as_there_are_jobs_that_wait) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0"), gpu("GPU-1"), gpu("GPU-2")}});
  for (std::uint64_t n = 1; n <= 3; ++n) running(w, train(n, {9000}));
  wait(5s);
  forget_effects();
  submit({inference(4, {2000}), inference(5, {2000})});
  EXPECT_EQ(asked_now().size(), 2U);
  EXPECT_EQ(core->totals().plans_made, 2U);
}

// ---- pitfalls others fell into

TEST_F(Choice, frees_room_for_nobody_but_the_preemptor) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId fast = running(w, synthesis(1, {4000}));
  const JobId slow = running(w, synthesis(2, {4000}));
  const JobId head = submitted(inference(3, {9000}));
  const JobId other = submitted(synthesis(4, {3000}));
  released(w, fast);
  yields(w, fast);
  EXPECT_EQ(state(fast), JobState::ready) << "its old room is held, or it would be back at once, and evicted for ever";
  EXPECT_EQ(state(other), JobState::ready);
  EXPECT_EQ(device("GPU-0").free, Mib{1000});
  wait(5s);
  yields(w, slow);
  EXPECT_EQ(state(head), JobState::running);
  EXPECT_EQ(std::tuple(dynamic(fast).evictions, dynamic(slow).evictions), std::tuple(1U, 1U));
}

TEST_F(Choice, takes_nobody_for_a_job_that_fits_no_device_and_blocks_nobody_behind_it) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId trains = running(w, train(1, {8000}));
  std::vector<SubmitItem> impossible;
  for (std::uint64_t n = 100; n < 300; ++n) impossible.push_back(inference(n, {20'000}));
  submit(impossible);
  wait(5s);
  EXPECT_EQ(state(trains), JobState::running);
  EXPECT_EQ(core->totals().preempted, 0U);
  EXPECT_EQ(state(submitted(inference(400, {2000}))), JobState::running);
}

TEST_F(Choice, takes_nobody_for_an_equal_or_a_lower_class) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId trains = running(w, train(1, {8000}));
  submit({with(train(2, {8000}), [](SubmitItem& i) { i.fixed.priority = 9; }), synthesis(3, {8000})});
  wait(30s);
  EXPECT_EQ(state(trains), JobState::running);
}

TEST_F(Choice, does_not_bring_the_same_two_together_again) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId trains = running(w, train(1, {8000}));
  const JobId head = submitted(inference(2, {6000}));
  yields(w, trains);
  EXPECT_EQ(state(head), JobState::running);
  say(AttemptRefused{w, grant(head), Errc::unavailable, "the driver is being reloaded"});
  EXPECT_EQ(state(trains), JobState::running) << "while the head backs off there, somebody else uses the card";
  started(w, trains);
  forget_effects();
  wait(60s);
  EXPECT_EQ(asked_now(), Jobs{}) << "else they would take turns for ever";
  EXPECT_EQ(state(trains), JobState::running);
  wait(540s);
  EXPECT_EQ(asked_now(), Jobs{trains}) << "after ten minutes of work it is as good a victim as any";
}

TEST_F(Choice, of_jobs_that_have_left_already_is_not_made_twice) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId trains = running(w, train(1, {4000}));
  const JobId also = running(w, train(2, {4000}));
  wait(1s);
  say(PreemptAsked{trains, "by hand", 10s});
  forget_effects();
  submit({inference(3, {6000})});
  EXPECT_EQ(asked_now(), Jobs{}) << "it ends soon anyway";
  wait(3s);
  EXPECT_EQ(state(also), JobState::running);
  const JobId greedy = submitted(synthesis(4, {4000}));
  yields(w, trains);
  EXPECT_EQ(state(job_id(3)), JobState::running);
  EXPECT_EQ(state(greedy), JobState::ready);
}

TEST_F(Choice, of_a_higher_class_overrides_a_plan_of_a_lower_one) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId draws = running(w, synthesis(1, {9000}));
  const JobId trains = submitted(train(2, {6000}));
  EXPECT_EQ(state(draws), JobState::yielding);
  const JobId head = submitted(inference(3, {6000}));
  EXPECT_EQ(core->totals().preempted, 1U);
  yields(w, draws);
  EXPECT_EQ(state(head), JobState::running);
  EXPECT_EQ(state(trains), JobState::ready);
}

TEST_F(Choice, of_room_for_a_lower_class_keeps_no_higher_one_waiting_whose_own_room_comes_later) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0"), gpu("GPU-1")}});
  const JobId one = running(w, synthesis(1, {9000}));
  const JobId two = running(w, synthesis(2, {9000}));
  const JobId head = submitted(inference(3, {6000}));
  const JobId trains = submitted(train(4, {6000}));
  EXPECT_EQ(std::tuple(state(one), state(two)), std::tuple(JobState::yielding, JobState::yielding)) << "one for each";
  const bool for_head = dynamic(one).leave_for == head;
  yields(w, for_head ? two : one);
  EXPECT_EQ(state(head), JobState::running) << "the room is there now, whoever it was made for";
  EXPECT_EQ(state(trains), JobState::ready);
  yields(w, for_head ? one : two);
  EXPECT_EQ(state(trains), JobState::running) << "it takes what was to be the head's";
  EXPECT_EQ(core->totals().preempted, 2U);
}

TEST_F(Choice, of_a_job_with_precedence_overrides_the_plan_of_one_behind_it) {
  const PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}});
  const JobId draws = running(w, synthesis(1, {9000}));
  const JobId slow = submitted(with(inference(2, {6000}), [](SubmitItem& i) { i.fixed.priority = 1; }));
  EXPECT_EQ(state(draws), JobState::yielding);
  const JobId urgent = submitted(with(inference(3, {7000}), [](SubmitItem& i) { i.fixed.priority = 9; }));
  yields(w, draws);
  EXPECT_EQ(state(urgent), JobState::running);
  EXPECT_EQ(state(slow), JobState::ready);
  EXPECT_EQ(core->totals().preempted, 1U);
}

// ---- guards

struct Guards : PreemptStory {
  PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}, .starts = 100});
  /// The core under another policy, from the start.
  void under(const std::function<void(Policy&)>& change) {
    change(config.policy);
    say(PolicyLoaded{config.policy});
  }
  [[nodiscard]] bool is_asked(JobId id) const { return state(id) == JobState::yielding; }
};

TEST_F(Guards, the_minimum_run_time_is_waited_for_to_the_second) {
  under([](Policy& p) { p.of(JobClass::training).min_run = 30s; });
  const JobId trains = running(w, train(1, {8000}));
  wait(5s);
  submit({inference(2, {6000})});
  wait(24s);
  EXPECT_FALSE(is_asked(trains));
  wait(2s);
  EXPECT_TRUE(is_asked(trains));
}

TEST_F(Guards, inference_may_break_synthesis_minimum_run_time_and_training_may_not) {
  under([](Policy& p) {
    p.of(JobClass::synthesis).min_run = 30s;
    p.of(JobClass::synthesis).min_run_ignored_by = {JobClass::inference};
  });
  const JobId draws = running(w, synthesis(1, {8000}));
  submit({train(2, {6000})});
  wait(2s);
  EXPECT_FALSE(is_asked(draws));
  submit({inference(3, {6000})});
  EXPECT_TRUE(is_asked(draws));
}

TEST_F(Guards, a_job_that_says_never_and_a_class_that_is_not_preemptible_stay) {
  const JobId never = running(w, with(train(1, {4000}), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  under([](Policy& p) { p.of(JobClass::synthesis).preemptible = false; });
  const JobId draws = running(w, synthesis(2, {4000}));
  submit({inference(3, {6000})});
  wait(60s);
  EXPECT_FALSE(is_asked(never));
  EXPECT_FALSE(is_asked(draws));
}

TEST_F(Guards, nobody_leaves_for_a_job_that_its_class_cap_keeps_from_starting) {
  under([](Policy& p) { p.of(JobClass::inference).running_max = 1; });
  const JobId one = running(w, synthesis(1, {4000}));
  const JobId two = running(w, synthesis(2, {4000}));
  submit({inference(3, {5000}), inference(4, {5000})});
  wait(2s);
  EXPECT_NE(is_asked(one), is_asked(two)) << "one at a time";
  for (const JobId& id : {one, two})
    if (is_asked(id)) yields(w, id);
  EXPECT_EQ(state(job_id(3)), JobState::running);
  wait(5s);
  EXPECT_EQ(core->totals().preempted, 1U);
}

TEST_F(Guards, nobody_leaves_for_a_second_job_when_the_cap_lets_in_one_though_they_ask_for_different_things) {
  under([](Policy& p) { p.of(JobClass::inference).running_max = 1; });
  const PeerId v = gpu_worker("v", {.devices = {gpu("GPU-1")}});
  const JobId one = running(w, synthesis(1, {9000}));
  const JobId two = submitted(synthesis(2, {9000}));
  started(v, two);
  submit({inference(3, {5000}), inference(4, {5100})});
  wait(5s);
  EXPECT_EQ(core->totals().preempted, 1U);
  const bool first = is_asked(one);
  yields(first ? w : v, first ? one : two);
  EXPECT_EQ(state(job_id(3)), JobState::running);
  wait(5s);
  EXPECT_EQ(core->totals().preempted, 1U);
  ends(first ? w : v, job_id(3), Outcome::succeeded);
  EXPECT_EQ(state(job_id(4)), JobState::running) << "now it may, where the first one ran";
}

TEST_F(Guards, a_job_that_was_evicted_often_runs_longer_each_time_and_may_finish_in_the_end) {
  under([](Policy& p) {
    p.of(JobClass::training).min_run = 10s;
    p.of(JobClass::training).protect_after = 1;
    p.of(JobClass::training).preemptions_max = 3;
  });
  const JobId trains = submitted(train(1, {8000}));
  std::vector<std::int64_t> ran;
  for (std::uint64_t n = 0; n < 3; ++n) {
    started(w, trains);
    const JobId head = submitted(inference(10 + n, {6000}));
    const Instant since = now.steady;
    for (int i = 0; i < 400 && !is_asked(trains); ++i) wait(500ms);
    ran.push_back(std::chrono::duration_cast<std::chrono::seconds>(now.steady - since).count());
    yields(w, trains);
    started(w, head);
    ends(w, head, Outcome::succeeded);
  }
  ASSERT_EQ(ran.size(), 3U);
  EXPECT_NEAR(static_cast<double>(ran[0]), 10, 1);
  EXPECT_NEAR(static_cast<double>(ran[1]), 20, 1);
  EXPECT_NEAR(static_cast<double>(ran[2]), 30, 1);
  started(w, trains);
  submit({inference(20, {6000})});
  wait(300s);
  EXPECT_FALSE(is_asked(trains)) << "three times is enough";
}

}  // namespace
}  // namespace gq::core::story

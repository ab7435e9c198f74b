// core_life.cpp - a job's life in whole effect lists: submit, grant, end, requeue in place, retry, cancel.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

using Life = Story;

TEST_F(Life, a_job_goes_from_submit_to_its_watchers_and_everything_is_committed_before_it_is_said) {
  worker("anna", {.slots = 1});
  forget_effects();
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.watch = true; }));
  EXPECT_EQ(effects(), (Effects{created(with(item(1, "echo"), [](SubmitItem& i) { i.watch = true; }), JobState::ready), answered({ok(job)}),
                                granted(job, "anna"), reads(job), assigns("anna", 1, job, 1)}));
  const Grant g = grant(job);
  started(peers["anna"], job);
  expect_silence();
  after(3s);
  forget_effects();
  ends(peers["anna"], job, Outcome::succeeded, [](AttemptEnd& e) {
    e.result = 77;
    e.result_bytes = 12;
  });
  const auto done = changed(job, JobState::succeeded, [&](JobDynamic& d) {
    d.ended = now.wall;
    d.result_bytes = 12;
  });
  EXPECT_EQ(effects(), (Effects{done, Commit{ResultStored{job, 1, 77, 12}}, verdict(peers["anna"], g, EndVerdict::accepted), notice(job, 77)}));
  expect_reload_is_the_same();
}

TEST_F(Life, without_credit_nothing_starts_and_one_more_credit_starts_exactly_one_in_submit_order) {
  const PeerId anna = worker("anna", {.slots = 0});
  const auto first = submitted(item(1, "echo"));
  submitted(item(2, "echo"));
  EXPECT_TRUE(assigned_now().empty());
  pull(anna, 1, 1);
  EXPECT_EQ(assigned_now(), std::vector{first});
  pull(anna, 1, 1);  // the same limit again: cumulative, so it says nothing new
  EXPECT_TRUE(assigned_now().empty());
}

TEST_F(Life, higher_priority_is_worth_ten_minutes_a_step_and_submit_order_breaks_ties) {
  const auto low = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.priority = 4; }));
  after(9min);
  const auto high = submitted(with(item(2, "echo"), [](SubmitItem& i) { i.fixed.priority = 5; }));
  after(2min);
  const auto late = submitted(with(item(3, "echo"), [](SubmitItem& i) { i.fixed.priority = 5; }));
  forget_effects();
  worker("anna", {.slots = 3});
  EXPECT_EQ(assigned_now(), (std::vector{high, low, late}));
}

TEST_F(Life, the_class_ladder_comes_before_age) {
  const auto synthesis = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  const auto train = submitted(with(item(2, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::training; }));
  const auto infer = submitted(item(3, "echo"));
  forget_effects();
  worker("anna", {.slots = 3});
  EXPECT_EQ(assigned_now(), (std::vector{infer, train, synthesis}));
}

TEST_F(Life, a_lost_job_goes_back_to_its_own_place_with_its_own_counter) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto first = submitted(item(1, "echo"));
  const auto second = submitted(item(2, "echo"));
  started(anna, first);
  const Grant g = grant(first);
  forget_effects();
  was(first) = dynamic(first);
  beat(anna, {});  // it processed the assignment and holds nothing: lost
  EXPECT_EQ(state(first), JobState::ready);
  EXPECT_EQ(dynamic(first).losses, 1U);
  EXPECT_EQ(dynamic(first).failures, 0U);
  forget_effects();
  pull(anna, 1, 2);
  EXPECT_EQ(assigned_now(), std::vector{first});
  EXPECT_EQ(grant(first).attempt, g.attempt + 1);
  EXPECT_NE(grant(first).nonce, g.nonce);
  EXPECT_EQ(state(second), JobState::ready);
  expect_reload_is_the_same();
}

TEST_F(Life, a_failure_uses_the_retry_budget_backs_off_doubling_and_then_is_final) {
  const PeerId anna = worker("anna", {.slots = 9});
  keep_beating("anna");
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.retries = 2; }));
  for (const Duration wait : {Duration{1s}, Duration{2s}}) {
    started(anna, job);
    ends(anna, job, Outcome::failed);
    EXPECT_EQ(state(job), JobState::waiting);
    after(wait - 500ms);
    EXPECT_EQ(state(job), JobState::waiting);
    after(500ms);
    ASSERT_EQ(state(job), JobState::running);
  }
  started(anna, job);
  ends(anna, job, Outcome::failed);
  EXPECT_EQ(state(job), JobState::failed);
  EXPECT_EQ(dynamic(job).failures, 3U);
  EXPECT_EQ(dynamic(job).error_text, "boom");
  expect_reload_is_the_same();
}

TEST_F(Life, a_failure_that_no_retry_can_mend_is_final_at_once) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.retries = 9; }));
  ends(anna, job, Outcome::failed_final, [](AttemptEnd& e) { e.error = Errc::bad_image; });
  EXPECT_EQ(state(job), JobState::failed);
  EXPECT_EQ(dynamic(job).error, Errc::bad_image);
}

TEST_F(Life, three_crashes_of_its_own_quarantine_a_job_and_a_lost_host_never_does) {
  const PeerId anna = worker("anna", {.slots = 99});
  const auto job = submitted(item(1, "echo"));
  for (int i = 0; i < 5; ++i) {
    started(anna, job);
    ends(anna, job, Outcome::lost);
    ASSERT_EQ(state(job), JobState::running);
  }
  ends(anna, job, Outcome::crashed, [](AttemptEnd& e) { e.started = false; });  // it had not started there: not its own
  EXPECT_EQ(dynamic(job).own_losses, 0U);
  for (std::uint32_t i = 1; i <= 2; ++i) {
    ends(anna, job, Outcome::crashed);
    ASSERT_EQ(state(job), JobState::running);
    EXPECT_EQ(dynamic(job).own_losses, i);
  }
  ends(anna, job, Outcome::crashed);
  EXPECT_EQ(state(job), JobState::quarantined);
  EXPECT_EQ(dynamic(job).losses, 9U);
  EXPECT_EQ(dynamic(job).failures, 0U);
}

TEST_F(Life, a_refused_grant_keeps_its_place_uses_no_counter_and_that_place_backs_off) {
  const PeerId anna = worker("anna", {.slots = 9});
  keep_beating("anna");
  const auto job = submitted(item(1, "echo"));
  forget_effects();
  const Grant refused = grant(job);
  say(AttemptRefused{anna, refused, Errc::no_fit, "no room"});
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_TRUE(assigned_now().empty());
  const auto other = submitted(with(item(2, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::training; }));
  EXPECT_EQ(assigned_now(), std::vector{other});  // another shape is not held up
  worker("bert", {.slots = 1});
  EXPECT_EQ(assigned_now(), std::vector{job});  // nor another place
  say(AttemptRefused{peers["bert"], grant(job), Errc::no_fit, "no room"});
  forget_effects();
  keep_beating("anna", {grant(other)});
  after(1s);
  EXPECT_EQ(assigned_now(), std::vector{job});
  EXPECT_EQ(dynamic(job).losses + dynamic(job).failures + dynamic(job).preemptions, 0U);
}

TEST_F(Life, a_deadline_ends_whatever_has_not_started) {
  const auto job = submitted(with(item(1, "echo"), [&](SubmitItem& i) { i.fixed.deadline = now.wall + 2s; }));
  after(1500ms);
  EXPECT_EQ(state(job), JobState::ready);
  after(500ms);
  EXPECT_EQ(state(job), JobState::expired);
  EXPECT_EQ(dynamic(job).error, Errc::expired);
}

TEST_F(Life, a_deadline_leaves_a_running_job_alone_but_meets_it_when_it_comes_back) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(with(item(1, "echo"), [&](SubmitItem& i) { i.fixed.deadline = now.wall + 2s; i.fixed.retries = 5; }));
  started(anna, job);
  keep_beating("anna", {grant(job)});
  after(4s);
  EXPECT_EQ(state(job), JobState::running);
  ends(anna, job, Outcome::failed);
  after(500ms);
  EXPECT_EQ(state(job), JobState::expired);
}

TEST_F(Life, a_job_not_before_a_date_waits_for_it) {
  worker("anna", {.slots = 1});
  keep_beating("anna");
  const auto job = submitted(with(item(1, "echo"), [&](SubmitItem& i) { i.fixed.not_before = now.wall + 90s; }));
  EXPECT_EQ(state(job), JobState::waiting);
  after(89500ms);
  EXPECT_EQ(state(job), JobState::waiting);
  after(500ms);
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Life, a_timeout_that_its_worker_does_not_enforce_is_enforced_five_seconds_later) {
  const PeerId anna = worker("anna", {.slots = 1, .devices = {gpu("G")}});
  const auto job = submitted(with(training(1, {4000}), [](SubmitItem& i) { i.fixed.timeout = 10s; }));
  after(2s);  // counted from STARTED, not from the grant
  started(anna, job);
  const Grant g = grant(job);
  keep_beating("anna", {g});
  after(14500ms);
  EXPECT_EQ(state(job), JobState::running);
  after(500ms);
  EXPECT_EQ(state(job), JobState::failed);
  EXPECT_EQ(dynamic(job).error, Errc::timed_out);
  EXPECT_EQ(device("G").granted, Mib{4000}) << "it still sits there until a beat omits it";
  forget_effects();
  ends(anna, {end_of(g, Outcome::succeeded)});
  EXPECT_EQ(effects(), (Effects{verdict(anna, g, EndVerdict::stale)}));
  beat(anna, {});
  EXPECT_EQ(device("G").granted, Mib{0});
}

TEST_F(Life, a_missing_payload_fails_the_job_payload_lost) {
  worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  say(PayloadMissing{job});
  EXPECT_EQ(state(job), JobState::failed);
  EXPECT_EQ(dynamic(job).error, Errc::payload_lost);
}

}  // namespace
}  // namespace gq::core::story

// Each checker is fed a bad history and must fire; the same history told rightly must pass. A checker that cannot fail proves nothing.
#include <gtest/gtest.h>

#include "tests/checker/findings.h"
#include "tests/checker/history.h"
#include "tests/checker/job_numbers.h"
#include "tests/checker/store_fold.h"

namespace gq::checker {
namespace {

class CheckerStory : public testing::Test {
 protected:
  core::JobCreated created(JobNumber job, JobState state = JobState::ready) {
    core::JobCreated m;
    m.record.fixed.id = numbers.id(job);
    m.record.fixed.seq = ++seq;
    m.record.dynamic.state = state;
    m.body = 7;
    return m;
  }
  core::JobChanged changed(JobNumber job, JobState from, JobState to, Attempt attempt = 1, Nonce nonce = 9) {
    core::JobChanged m;
    m.id = numbers.id(job);
    m.from = from;
    m.now.state = to;
    m.now.attempt = attempt;
    m.now.nonce = nonce;
    m.seq = store.find(job) ? store.find(job)->fixed.seq : 0;
    m.job_class = JobClass::inference;
    return m;
  }
  core::Grant grant(JobNumber job, Attempt attempt, Nonce nonce = 9) { return {numbers.id(job), attempt, nonce}; }
  void a_job_that_succeeds(JobNumber job) {
    history.attempted(job);
    store.apply(created(job));
    history.acknowledged(job);
    store.apply(changed(job, JobState::ready, JobState::running));
    history.granted(grant(job, 1), 0);
    history.started(grant(job, 1), 0);
    store.apply(changed(job, JobState::running, JobState::succeeded));
    store.apply(core::ResultStored{numbers.id(job), 1, 5, 100});
    history.verdict(grant(job, 1), core::EndVerdict::accepted, Outcome::succeeded);
    core::JobDynamic now;
    now.state = JobState::succeeded;
    now.attempt = 1;
    history.noticed(job, now);
  }
  void expect_broken(const char* rule) {
    EXPECT_TRUE(findings.broke(rule)) << "the rule '" << rule << "' did not fire";
    EXPECT_GT(findings.violations(), 0U);
  }

  JobNumbers numbers{42};
  Findings findings{42, 1024};
  StoreFold store{numbers, findings};
  History history{numbers, findings};
  std::uint64_t seq{};
};

TEST_F(CheckerStory, a_right_history_passes_and_its_image_holds_what_was_stored) {
  a_job_that_succeeds(0);
  a_job_that_succeeds(1);
  history.finish(store, 2);
  EXPECT_EQ(findings.violations(), 0U) << (findings.kept().empty() ? "" : findings.kept().front());
  const core::Image image = store.image();
  ASSERT_EQ(image.jobs.size(), 2U);
  EXPECT_EQ(image.jobs[1], *store.find(1));
  EXPECT_EQ(history.counts().final, 2U);
}

TEST_F(CheckerStory, an_acknowledged_job_that_the_store_never_held_is_lost) {
  history.attempted(0);
  history.acknowledged(0);
  history.finish(store, 1);
  expect_broken("lost");
}

TEST_F(CheckerStory, an_acknowledged_job_that_never_ends_is_lost) {
  history.attempted(0);
  store.apply(created(0));
  history.acknowledged(0);
  history.finish(store, 1);
  expect_broken("lost");
}

TEST_F(CheckerStory, a_job_that_nobody_submitted_is_unexpected) {
  store.apply(created(0));
  history.finish(store, 1);
  expect_broken("unexpected");
}

TEST_F(CheckerStory, a_foreign_id_is_unexpected) {
  core::JobCreated m = created(0);
  m.record.fixed.id = {1, 2};
  store.apply(std::move(m));
  expect_broken("unexpected");
}

TEST_F(CheckerStory, results_of_two_attempts_break_single_accept) {
  history.attempted(0);
  history.granted(grant(0, 1), 0);
  history.granted(grant(0, 2, 10), 1);
  history.verdict(grant(0, 1), core::EndVerdict::accepted, Outcome::succeeded);
  history.verdict(grant(0, 2, 10), core::EndVerdict::accepted, Outcome::succeeded);
  expect_broken("single accept");
}

TEST_F(CheckerStory, a_second_stored_result_breaks_single_accept) {
  a_job_that_succeeds(0);
  store.apply(core::ResultStored{numbers.id(0), 1, 6, 100});
  expect_broken("single accept");
}

TEST_F(CheckerStory, a_job_that_leaves_its_final_state_breaks_single_accept) {
  a_job_that_succeeds(0);
  store.apply(changed(0, JobState::succeeded, JobState::running, 2, 10));
  expect_broken("single accept");
}

TEST_F(CheckerStory, an_older_attempts_result_breaks_highest_attempt) {
  store.apply(created(0));
  store.apply(changed(0, JobState::ready, JobState::running, 1));
  store.apply(changed(0, JobState::running, JobState::ready, 1));
  store.apply(changed(0, JobState::ready, JobState::running, 2, 10));
  EXPECT_EQ(findings.violations(), 0U);
  store.apply(core::ResultStored{numbers.id(0), 1, 5, 100});
  expect_broken("highest attempt");
}

TEST_F(CheckerStory, an_accepted_result_of_an_older_attempt_breaks_highest_attempt_at_the_end) {
  a_job_that_succeeds(0);
  history.attempted(1);
  store.apply(created(1));
  store.apply(changed(1, JobState::ready, JobState::running, 2));
  store.apply(changed(1, JobState::running, JobState::succeeded, 2));
  history.verdict(grant(1, 1), core::EndVerdict::accepted, Outcome::succeeded);
  history.finish(store, 2);
  expect_broken("highest attempt");
}

TEST_F(CheckerStory, an_attempt_number_granted_twice_is_noticed) {
  history.attempted(0);
  history.granted(grant(0, 1), 0);
  history.granted(grant(0, 1, 10), 1);
  expect_broken("attempts only grow");
}

TEST_F(CheckerStory, a_grant_without_a_fresh_attempt_is_noticed_in_the_store) {
  store.apply(created(0));
  store.apply(changed(0, JobState::ready, JobState::running, 1));
  store.apply(changed(0, JobState::running, JobState::ready, 1));
  EXPECT_EQ(findings.violations(), 0U);
  store.apply(changed(0, JobState::ready, JobState::running, 1, 10));
  expect_broken("attempts only grow");
}

TEST_F(CheckerStory, an_execution_nobody_granted_is_noticed) {
  history.attempted(0);
  history.started(grant(0, 1), 0);
  expect_broken("starts");
}

TEST_F(CheckerStory, an_execution_under_a_forged_nonce_is_noticed) {
  history.attempted(0);
  history.granted(grant(0, 1, 9), 0);
  history.started(grant(0, 1, 8), 0);
  expect_broken("starts");
}

TEST_F(CheckerStory, an_attempt_that_starts_twice_is_noticed) {
  history.attempted(0);
  history.granted(grant(0, 1), 0);
  history.started(grant(0, 1), 0);
  EXPECT_EQ(findings.violations(), 0U);
  history.started(grant(0, 1), 1);
  expect_broken("starts");
}

TEST_F(CheckerStory, one_mebibyte_too_many_on_a_device_is_an_overlap) {
  history.device(0, Mib{1000});
  history.charge(0, 0, Mib{600});
  history.charge(0, 1, Mib{400});
  EXPECT_EQ(findings.violations(), 0U);
  history.charge(0, 2, Mib{1});
  expect_broken("overlap");
}

TEST_F(CheckerStory, memory_of_an_ended_lease_is_excused) {
  history.device(0, Mib{1000});
  history.charge(0, 0, Mib{600});
  history.excuse(0, Mib{600});
  history.charge(0, 1, Mib{1000});
  history.excused_gone(0, Mib{600});
  history.release(0, 1, Mib{1000});
  EXPECT_EQ(findings.violations(), 0U);
}

TEST_F(CheckerStory, a_start_beyond_its_lanes_credit_is_noticed) {
  history.over_credit(3, 0, 9, 8);
  expect_broken("credit");
}

TEST_F(CheckerStory, notices_that_contradict_each_other_or_the_store_are_noticed) {
  a_job_that_succeeds(0);
  core::JobDynamic other;
  other.state = JobState::failed;
  other.attempt = 1;
  history.noticed(0, other);
  expect_broken("notices");
}

TEST_F(CheckerStory, a_notice_that_the_store_does_not_confirm_is_noticed) {
  history.attempted(0);
  store.apply(created(0));
  store.apply(changed(0, JobState::ready, JobState::cancelled, 0, 0));
  core::JobDynamic told;
  told.state = JobState::succeeded;
  history.noticed(0, told);
  history.finish(store, 1);
  expect_broken("notices");
}

TEST_F(CheckerStory, a_cancel_that_was_confirmed_and_did_not_happen_is_noticed) {
  a_job_that_succeeds(0);
  history.told_cancelled(0);
  history.finish(store, 1);
  expect_broken("cancel");
}

TEST_F(CheckerStory, a_change_out_of_a_set_the_job_is_not_in_breaks_one_set) {
  store.apply(created(0, JobState::waiting));
  store.apply(changed(0, JobState::ready, JobState::running));
  expect_broken("one set");
}

TEST_F(CheckerStory, a_change_that_no_verb_allows_breaks_the_life) {
  store.apply(created(0, JobState::blocked));
  store.apply(changed(0, JobState::blocked, JobState::succeeded, 0, 0));
  expect_broken("life");
}

TEST_F(CheckerStory, an_id_made_twice_is_noticed) {
  store.apply(created(0));
  store.apply(created(0));
  expect_broken("created twice");
}

TEST_F(CheckerStory, an_id_with_a_tombstone_may_not_be_made_again) {
  a_job_that_succeeds(0);
  store.apply(core::JobForgotten{numbers.id(0), JobState::succeeded, true, {}, {}});
  EXPECT_EQ(store.image().tombstones.size(), 1U);
  EXPECT_EQ(findings.violations(), 0U);
  store.apply(created(0));
  expect_broken("created twice");
}

TEST_F(CheckerStory, a_job_forgotten_before_its_end_is_lost) {
  store.apply(created(0));
  store.apply(core::JobForgotten{numbers.id(0), JobState::ready, true, {}, {}});
  expect_broken("lost");
}

TEST_F(CheckerStory, a_result_that_was_never_fetched_must_still_be_there) {
  a_job_that_succeeds(0);
  auto again = changed(0, JobState::succeeded, JobState::succeeded);
  again.now.result_bytes = 100;
  store.apply(std::move(again));
  store.apply(core::ResultDropped{numbers.id(0)});
  history.finish(store, 1);
  expect_broken("lost");
}

TEST_F(CheckerStory, two_jobs_may_not_hold_one_unique_key) {
  store.apply(core::UniqueTaken{"night", numbers.id(0)});
  store.apply(core::UniqueReleased{"night"});
  store.apply(core::UniqueTaken{"night", numbers.id(1)});
  EXPECT_EQ(findings.violations(), 0U);
  store.apply(core::UniqueTaken{"night", numbers.id(2)});
  expect_broken("unique key");
}

TEST_F(CheckerStory, submit_numbers_only_grow) {
  store.apply(created(0));
  seq = 0;
  store.apply(created(1));
  expect_broken("submit order");
}

TEST_F(CheckerStory, a_counter_may_not_go_down) {
  store.apply(created(0));
  auto m = changed(0, JobState::ready, JobState::running);
  m.now.losses = 2;
  store.apply(std::move(m));
  store.apply(changed(0, JobState::running, JobState::ready));
  expect_broken("counters");
}

TEST_F(CheckerStory, a_violation_tells_the_jobs_story_with_the_seed) {
  findings.at(1'500'000);
  a_job_that_succeeds(3);
  findings.violation("lost", 3, "gone");
  ASSERT_EQ(findings.kept().size(), 1U);
  EXPECT_NE(findings.kept()[0].find("violation of 'lost' at 1.5000 s, seed 42, job #3: gone"), std::string::npos) << findings.kept()[0];
  EXPECT_NE(findings.kept()[0].find("assign left"), std::string::npos) << findings.kept()[0];
}

TEST(JobNumbers, ids_are_a_bijection_and_foreign_ids_are_recognised) {
  const JobNumbers numbers(7);
  for (JobNumber n = 0; n < 10'000; ++n) ASSERT_EQ(numbers.number(numbers.id(n)), n);
  EXPECT_EQ(numbers.number({}), kNoJob);
  EXPECT_EQ(numbers.number(JobNumbers(8).id(5)), kNoJob);
}

}  // namespace
}  // namespace gq::checker

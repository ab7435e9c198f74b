// core_races.cpp - every row of design-correctness 5.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

using Races = Story;

TEST_F(Races, cancel_against_result_the_result_came_first_and_counts) {
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  const auto job = submitted(training(1, {4000}));
  started(anna, job);
  was(job) = dynamic(job);
  const Grant g = grant(job);
  created(training(1, {4000}), JobState::ready);  // teaches the story the job's fixed part
  was(job) = dynamic(job);
  forget_effects();
  tick(CancelReceived{kClient, 7, {job}});
  EXPECT_EQ(effects(), (Effects{changed(job, JobState::running, [](JobDynamic& d) { d.cancel_asked = true; }),
                                Send{Cancel{anna, 2, g, "asked"}}, Send{CancelAnswer{kClient, 7, {CancelResult::asked}}}}));
  tick(WorkerBeat{anna, 1, {g}, {}});
  EXPECT_EQ(effects(), (Effects{SendNow{BeatAnswer{anna, {}, {}, {}, {}}}})) << "an intent is not repeated before it is durable";
  commit_now();
  beat(anna, {g});
  EXPECT_EQ(effects(), (Effects{SendNow{BeatAnswer{anna, {}, {Cancel{anna, 2, g, "asked"}}, {}, {}}}}));
  EXPECT_EQ(device("G").granted, Mib{4000}) << "charged until it has left";
  ends(anna, job, Outcome::succeeded);
  EXPECT_EQ(state(job), JobState::succeeded);
  EXPECT_EQ(device("G").granted, Mib{0});
}

TEST_F(Races, cancel_against_result_else_on_the_workers_word) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.retries = 3; }));
  started(anna, job);
  const Grant g = grant(job);
  say(CancelReceived{kClient, 7, {job}});
  ends(anna, job, Outcome::cancelled);
  EXPECT_EQ(state(job), JobState::cancelled);
  forget_effects();
  ends(anna, {end_of(g, Outcome::cancelled)});
  EXPECT_EQ(effects(), (Effects{verdict(anna, g, EndVerdict::accepted)}));
}

TEST_F(Races, cancel_against_result_else_at_lease_end_and_a_later_word_is_stale) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(anna, job);
  const Grant g = grant(job);
  say(CancelReceived{kClient, 7, {job}});
  after(10s);
  EXPECT_EQ(state(job), JobState::cancelled);
  forget_effects();
  ends(anna, {end_of(g, Outcome::succeeded)});
  EXPECT_EQ(effects(), (Effects{verdict(anna, g, EndVerdict::stale)}));
}

TEST_F(Races, a_failure_after_cancel_was_asked_is_not_tried_again) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.retries = 3; }));
  started(anna, job);
  say(CancelReceived{kClient, 7, {job}});
  ends(anna, job, Outcome::failed);
  EXPECT_EQ(state(job), JobState::cancelled);
}

TEST_F(Races, a_cancel_survives_a_reconnect_with_a_new_number) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(anna, job);
  say(CancelReceived{kClient, 7, {job}});
  forget_effects();
  const PeerId again = worker("anna", {.slots = 0, .running = {grant(job)}});
  EXPECT_THAT(effects(), ::testing::Contains(Effect{Send{Cancel{again, 1, grant(job), "asked"}}}));
}

TEST_F(Races, cancel_of_what_does_not_run_is_done_at_once) {
  worker("anna", {.slots = 1});
  const auto running = submitted(item(1, "echo"));
  const auto blocked = submitted(with(item(2, "echo"), [&](SubmitItem& i) { i.fixed.after = {running}; }));
  const auto waiting = submitted(with(item(3, "echo"), [&](SubmitItem& i) { i.fixed.not_before = now.wall + 60s; }));
  const auto ready = submitted(item(4, "echo"));
  forget_effects();
  say(CancelReceived{kClient, 7, {blocked, waiting, ready, job_id(99), ready}});
  using enum CancelResult;
  EXPECT_THAT(effects(), ::testing::Contains(Effect{Send{CancelAnswer{kClient, 7, {cancelled, cancelled, cancelled, unknown, already_final}}}}));
  for (const JobId id : {blocked, waiting, ready}) EXPECT_EQ(state(id), JobState::cancelled);
}

class Yielding : public Story {
 protected:
  JobId job;
  PeerId anna;
  void SetUp() override {
    anna = worker("anna", {.devices = {gpu("G")}, .starts = 1});
    job = submitted(with(training(1, {4000}), [](SubmitItem& i) { i.fixed.retries = 1; }));
    started(anna, job);
    say(PreemptAsked{job, "inference needs the card", 30s});
    ASSERT_EQ(state(job), JobState::yielding);
  }
};

TEST_F(Yielding, the_worker_is_told_and_told_again) {
  EXPECT_THAT(effects(), ::testing::Contains(Effect{Send{Preempt{anna, 2, grant(job), "inference needs the card", 30s}}}));
  beat(anna, {grant(job)});
  EXPECT_EQ(effects(), (Effects{SendNow{BeatAnswer{anna, {}, {}, {Preempt{anna, 2, grant(job), "inference needs the card", 30s}}, {}}}}));
}
TEST_F(Yielding, memory_released_frees_the_ledger_before_the_checkpoint_is_durable) {
  say(MemoryReleased{anna, grant(job)});
  EXPECT_EQ(device("G").granted, Mib{0});
  EXPECT_EQ(state(job), JobState::yielding);
  ends(anna, job, Outcome::yielded, [](AttemptEnd& e) { e.checkpoint = {blob(7), 40}; });
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_EQ(dynamic(job).preemptions, 1U);
  EXPECT_EQ(dynamic(job).failures, 0U);
  EXPECT_EQ(dynamic(job).checkpoint, (Checkpoint{blob(7), 40}));
  forget_effects();
  pull(anna, 10, 2);
  const Effects all = effects();
  const auto* assign = std::get_if<Assign>(&std::get<Send>(all.at(2)).message);
  ASSERT_NE(assign, nullptr);
  EXPECT_EQ(assign->resume, (Checkpoint{blob(7), 40}));
}
TEST_F(Yielding, a_result_counts) {
  ends(anna, job, Outcome::succeeded);
  EXPECT_EQ(state(job), JobState::succeeded);
}
TEST_F(Yielding, a_failure_uses_the_retry_budget) {
  ends(anna, job, Outcome::failed);
  EXPECT_EQ(state(job), JobState::waiting);
  EXPECT_EQ(dynamic(job).failures, 1U);
}
TEST_F(Yielding, a_crash_counts_as_a_failure_of_the_job_not_as_a_yield) {
  ends(anna, job, Outcome::crashed);
  EXPECT_EQ(state(job), JobState::waiting);
  EXPECT_EQ(dynamic(job).failures, 1U);
  EXPECT_EQ(dynamic(job).preemptions, 0U);
  EXPECT_EQ(dynamic(job).own_losses, 0U);
}
TEST_F(Yielding, a_refusal_a_loss_and_a_cancel_are_legal) {
  say(CancelReceived{kClient, 7, {job}});
  EXPECT_EQ(state(job), JobState::yielding);
  ends(anna, job, Outcome::cancelled);
  EXPECT_EQ(state(job), JobState::cancelled);
}
TEST_F(Yielding, the_worker_may_be_lost) {
  after(10s);
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_EQ(dynamic(job).losses, 1U);
}

TEST_F(Races, a_deadline_applies_whenever_a_job_is_blocked_waiting_or_ready) {
  worker("anna", {.slots = 1});
  const auto running = submitted(item(1, "echo"));
  started(peers["anna"], running);
  keep_beating("anna", {grant(running)});
  const auto soon = now.wall + 2s;
  const auto blocked = submitted(with(item(2, "echo"), [&](SubmitItem& i) { i.fixed.after = {running}; i.fixed.deadline = soon; }));
  const auto waiting = submitted(with(item(3, "echo"), [&](SubmitItem& i) { i.fixed.not_before = now.wall + 60s; i.fixed.deadline = soon; }));
  const auto ready = submitted(with(item(4, "echo"), [&](SubmitItem& i) { i.fixed.deadline = soon; }));
  after(2s);
  for (const JobId id : {blocked, waiting, ready}) EXPECT_EQ(state(id), JobState::expired);
}

TEST_F(Races, every_other_end_is_terminal_releases_the_unique_key_and_a_retry_is_a_new_job) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto keyed = [](std::uint64_t n) { return with(item(n, "echo"), [](SubmitItem& i) { i.fixed.unique = "nightly"; }); };
  const auto failed = submitted(keyed(1));
  forget_effects();
  submit({keyed(2)});
  EXPECT_EQ(effects(), (Effects{answered({{job_id(2), false, false,
                                           Error{Errc::duplicate, "key 'nightly' is held by job " + to_string(failed), "gpuq status " + to_string(failed)}}})}));
  ends(anna, failed, Outcome::failed);
  EXPECT_THAT(effects(), ::testing::Contains(Effect{Commit{UniqueReleased{"nightly"}}}));
  say(RetryReceived{kClient, 8, "ann", failed, job_id(3), true});
  EXPECT_EQ(record(job_id(3)).fixed.retry_of, failed);
  EXPECT_EQ(record(job_id(3)).fixed.unique, "nightly");
  EXPECT_EQ(state(failed), JobState::failed);
  EXPECT_EQ(state(job_id(3)), JobState::running);
  const Effects all = effects();
  const auto& made = std::get<JobCreated>(std::get<Commit>(all.at(0)).mutation);
  EXPECT_EQ(made.body_of, failed);
  EXPECT_EQ(made.body, Token{0});
  say(RetryReceived{kClient, 9, "ann", failed, job_id(3), true});  // the same request again makes no second job
  EXPECT_EQ(effects(), (Effects{Send{RetryAnswer{kClient, 9, existing(job_id(3))}}}));
}

TEST_F(Races, two_workers_that_report_one_card_share_one_ledger) {
  worker("anna", {.devices = {gpu("G", {10'000})}});
  worker("bert", {.devices = {gpu("G", {10'000})}});
  for (std::uint64_t i = 1; i <= 4; ++i) submit({training(i, {4000})});
  int running = 0;
  for (std::uint64_t i = 1; i <= 4; ++i) running += state(job_id(i)) == JobState::running ? 1 : 0;
  EXPECT_EQ(running, 2);
  EXPECT_EQ(device("G").granted, Mib{8000});
  EXPECT_EQ(device("G").free, Mib{2000});
}

TEST_F(Races, result_blobs_are_kept_with_the_job) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  ends(anna, job, Outcome::succeeded, [](AttemptEnd& e) { e.result_blobs = {blob(3)}; });
  EXPECT_EQ(dynamic(job).result_blobs, std::vector{blob(3)});
}

}  // namespace
}  // namespace gq::core::story

// core_leases.cpp - attempts, leases and workers: design-correctness 2 and 4, rule by rule.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

using Leases = Story;

TEST_F(Leases, a_result_from_a_lost_worker_is_accepted_while_nobody_else_was_granted_and_gets_the_same_answer_again) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(anna, job);
  const Grant g = grant(job);
  after(11s);
  ASSERT_EQ(state(job), JobState::ready);
  was(job) = dynamic(job);
  forget_effects();
  ends(anna, {end_of(g, Outcome::succeeded)});
  EXPECT_EQ(state(job), JobState::succeeded);
  EXPECT_EQ(dynamic(job).losses, 1U);
  forget_effects();
  for (int again = 0; again < 2; ++again) {
    ends(anna, {end_of(g, Outcome::failed)});  // whatever it says now
    EXPECT_EQ(effects(), (Effects{verdict(anna, g, EndVerdict::accepted)}));
  }
  EXPECT_EQ(state(job), JobState::succeeded);
}

TEST_F(Leases, a_result_of_an_old_attempt_is_stale_and_of_a_forgotten_job_gone) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(anna, job);
  const Grant old = grant(job);
  after(11s);
  const PeerId bert = worker("bert", {.slots = 1});
  ASSERT_EQ(state(job), JobState::running);
  forget_effects();
  ends(anna, {end_of(old, Outcome::succeeded)});
  EXPECT_EQ(effects(), (Effects{verdict(anna, old, EndVerdict::stale)}));
  Grant guessed = grant(job);
  guessed.nonce ^= 1;  // the number alone is not enough
  ends(anna, {end_of(guessed, Outcome::succeeded)});
  EXPECT_EQ(effects(), (Effects{verdict(anna, guessed, EndVerdict::stale)}));
  const Grant unknown{job_id(99), 1, 1};
  ends(anna, {end_of(unknown, Outcome::succeeded)});
  EXPECT_EQ(effects(), (Effects{verdict(anna, unknown, EndVerdict::gone)}));
  ends(bert, job, Outcome::succeeded);
  EXPECT_EQ(state(job), JobState::succeeded);
}

TEST_F(Leases, the_same_failed_end_said_twice_counts_once_across_a_restart_too) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.retries = 5; }));
  started(anna, job);
  const Grant g = grant(job);
  ends(anna, {end_of(g, Outcome::failed)});
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  forget_effects();
  ends(anna, {end_of(g, Outcome::failed)});
  EXPECT_EQ(effects(), (Effects{verdict(anna, g, EndVerdict::accepted)}));
  EXPECT_EQ(dynamic(job).failures, 1U);
}

TEST_F(Leases, a_silent_worker_gets_no_new_work_after_5_s_and_loses_its_jobs_after_10) {
  worker("anna", {.slots = 2});
  const auto first = submitted(item(1, "echo"));
  started(peers["anna"], first);
  after(5s);
  forget_effects();
  const auto second = submitted(item(2, "echo"));
  EXPECT_TRUE(assigned_now().empty());
  EXPECT_EQ(state(first), JobState::running);
  after(4500ms);
  EXPECT_EQ(state(first), JobState::running);
  after(500ms);
  EXPECT_EQ(state(first), JobState::ready);
  beat(peers["anna"], {});  // thawed: it is welcome at once
  EXPECT_EQ(state(first), JobState::running);
  EXPECT_EQ(state(second), JobState::ready) << "the credit of the lost attempt is spent";
}

TEST_F(Leases, a_heartbeat_that_left_before_the_assignment_arrived_judges_nothing) {
  const PeerId anna = worker("anna", {.slots = 2});
  const auto job = submitted(item(1, "echo"));
  beat(anna, {}, 0);
  EXPECT_EQ(state(job), JobState::running);
  beat(anna, {}, 1);  // it has processed number 1 and does not hold it
  EXPECT_EQ(dynamic(job).losses, 0U) << "never started: place kept, no counter";
  EXPECT_EQ(dynamic(job).attempt, 2U);
}

TEST_F(Leases, an_offer_is_timed_from_its_commit_and_goes_back_unanswered) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = job_id(1);
  tick(SubmitReceived{kClient, 1, "ann", {item(1, "echo")}});
  beating["anna"] = {anna, 0, {}, {}};
  for (int i = 0; i < 40; ++i) {  // twenty seconds, and the disk does not answer
    now.steady += 500ms;
    now.wall.ms += 500;
    tick(beating["anna"]);
  }
  EXPECT_EQ(state(job), JobState::running);
  commit_now();
  after(9500ms);
  EXPECT_EQ(state(job), JobState::running) << "sent, perhaps on its way: its lease";
  after(500ms);
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_EQ(dynamic(job).losses, 0U);
}

TEST_F(Leases, a_batch_cut_keeps_offers_of_later_steps_out_of_the_batch_in_flight) {
  worker("anna", {.slots = 2});
  tick(SubmitReceived{kClient, 1, "ann", {item(1, "echo")}});
  tick(BatchCut{++batch});
  now.steady += 100ms;
  tick(SubmitReceived{kClient, 2, "ann", {item(2, "echo")}});
  tick(BatchCommitted{batch});
  for (int i = 0; i < 25; ++i) {
    now.steady += 500ms;
    tick(TimerFired{});
  }
  EXPECT_EQ(state(job_id(1)), JobState::ready) << "its lease ran and ended";
  EXPECT_EQ(state(job_id(2)), JobState::running) << "it has not even left";
}

TEST_F(Leases, lease_clocks_stand_still_while_the_store_is_down) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(anna, job);
  after(9s);
  tick(StoreDown{});
  for (int i = 0; i < 60; ++i) {
    now.steady += 500ms;
    tick(TimerFired{});
  }
  tick(StoreUp{});
  EXPECT_EQ(state(job), JobState::running);
  after(1s);
  EXPECT_EQ(state(job), JobState::ready);
}

TEST_F(Leases, nobody_is_lost_for_a_stall_of_our_own) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(anna, job);
  ASSERT_TRUE(core->next_wakeup().has_value());
  EXPECT_LE(*core->next_wakeup(), now.steady + 1s) << "else idling could not be told from a stall";
  now.steady += 60s;
  tick(TimerFired{});
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Leases, a_new_process_of_a_worker_without_the_grant_has_lost_it_at_once) {
  worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(peers["anna"], job);
  const PeerId old = peers["anna"];
  forget_effects();
  const PeerId again = worker("anna", {.slots = 1, .instance = 2});
  const Effects all = effects();
  ASSERT_GE(all.size(), 3U);
  EXPECT_EQ(all[0], (Effect{SendNow{WorkerRejected{old, Error{Errc::refused, "a newer connection speaks for worker anna",
                                                               "give each worker process a name of its own"}}}}));
  EXPECT_EQ(dynamic(job).losses, 1U);
  EXPECT_EQ(dynamic(job).own_losses, 0U);
  EXPECT_EQ(dynamic(job).attempt, 2U) << "and runs again right there";
  EXPECT_NE(again, old);
  forget_effects();
  beat(old, {});
  EXPECT_TRUE(std::holds_alternative<SendNow>(effects().at(0)));
}

TEST_F(Leases, a_reconnecting_worker_keeps_what_it_still_runs_and_is_told_what_to_stop) {
  worker("anna", {.slots = 2});
  const auto keeps = submitted(item(1, "echo"));
  const auto loses = submitted(item(2, "echo"));
  started(peers["anna"], keeps);
  started(peers["anna"], loses);
  const Grant unknown{job_id(50), 3, 9};
  forget_effects();
  worker("anna", {.slots = 0, .running = {grant(keeps), unknown}});
  EXPECT_EQ(state(keeps), JobState::running);
  EXPECT_EQ(dynamic(keeps).attempt, 1U);
  EXPECT_EQ(state(loses), JobState::ready);
  EXPECT_THAT(effects(), ::testing::Contains(Effect{Send{WorkerWelcome{peers["anna"], {unknown}}}}));
}

TEST_F(Leases, a_frozen_worker_that_thaws_before_its_job_was_granted_again_goes_on_with_the_same_attempt) {
  worker("anna", {.devices = {gpu("G")}});
  const auto job = submitted(training(1, {4000}));
  started(peers["anna"], job);
  const Grant g = grant(job);
  after(12s);
  ASSERT_EQ(state(job), JobState::ready);
  beat(peers["anna"], {g});
  EXPECT_EQ(state(job), JobState::running);
  EXPECT_EQ(grant(job), g);
  EXPECT_EQ(device("G").granted, Mib{4000});
}

TEST_F(Leases, after_a_restart_running_jobs_keep_their_grants_for_the_grace_and_a_hello_reconciles_at_once) {
  worker("anna", {.devices = {gpu("G")}});
  worker("bert", {.slots = 1});
  const auto mine = submitted(training(1, {4000}));
  const auto his = submitted(item(2, "echo"));
  started(peers["anna"], mine);
  started(peers["bert"], his);
  const Grant g = grant(mine);
  config.restarted = true;
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  after(14s);
  EXPECT_EQ(state(mine), JobState::running) << "14 s without a word, but we are within the grace";
  worker("anna", {.devices = {gpu("G")}, .running = {g}});
  EXPECT_EQ(grant(mine), g);
  EXPECT_EQ(device("G").granted, Mib{4000});
  keep_beating("anna", {g});
  after(1500ms);
  EXPECT_EQ(state(his), JobState::ready) << "the grace is over";
  EXPECT_EQ(state(mine), JobState::running);
  expect_reload_is_the_same();
}

TEST_F(Leases, a_worker_whose_link_is_gone_is_rescued_within_2_s_and_its_device_stays_charged) {
  worker("anna", {.devices = {gpu("G")}});
  worker("bert", {.devices = {gpu("H")}});
  keep_beating("bert");
  const auto job = submitted(training(1, {4000}));
  const std::string first = dynamic(job).worker;
  const std::string second = first == "anna" ? "bert" : "anna";
  const std::string card = dynamic(job).devices.front();
  beating.clear();
  keep_beating(second);
  started(peers[first], job);
  say(LinksGone{{peers[first]}});
  after(1s);
  EXPECT_EQ(state(job), JobState::running);
  EXPECT_EQ(dynamic(job).worker, second);
  EXPECT_EQ(dynamic(job).losses, 1U);
  EXPECT_EQ(device(card).granted, Mib{4000}) << "until lease end or its HELLO";
  keep_beating(second, {grant(job)});
  after(9s);
  EXPECT_EQ(device(card).granted, Mib{0});
}

TEST_F(Leases, a_hello_within_a_second_cancels_the_rescue) {
  worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(peers["anna"], job);
  say(LinksGone{{peers["anna"]}});
  after(500ms);
  worker("anna", {.slots = 0, .running = {grant(job)}});
  keep_beating("anna", {grant(job)});
  after(3s);
  EXPECT_EQ(dynamic(job).attempt, 1U);
  EXPECT_EQ(dynamic(job).losses, 0U);
}

TEST_F(Leases, a_switch_that_resets_does_not_requeue_the_fleet) {
  for (int i = 0; i < 10; ++i) worker("w" + std::to_string(i), {.slots = 1});
  std::vector<SubmitItem> items;
  for (std::uint64_t i = 1; i <= 10; ++i) items.push_back(item(i, "echo"));
  submit(items);
  for (const auto& [name, peer] : peers) say(LinksGone{{peer}});  // even when it is told one by one
  after(3s);
  for (std::uint64_t i = 1; i <= 10; ++i) EXPECT_EQ(state(job_id(i)), JobState::running);
  after(7500ms);
  for (std::uint64_t i = 1; i <= 10; ++i) EXPECT_EQ(state(job_id(i)), JobState::ready);
}

TEST_F(Leases, a_worker_that_was_silent_before_its_link_went_is_not_sudden_death) {
  worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(peers["anna"], job);
  after(3s);
  say(LinksGone{{peers["anna"]}});
  after(2s);
  EXPECT_EQ(state(job), JobState::running);
  after(5s);
  EXPECT_EQ(state(job), JobState::ready);
}

TEST_F(Leases, a_grant_made_after_its_workers_last_beat_keeps_its_memory_as_long_as_it_lives) {
  // Both report one card. The broker's store was slow: the grant was committed long after anna was heard last.
  worker("anna", {.devices = {gpu("G", {4000})}, .labels = {"at=anna"}});
  worker("bert", {.devices = {gpu("G", {4000})}, .labels = {"at=bert"}});
  keep_beating("bert");
  after(4s);
  tick(SubmitReceived{kClient, ++request, "ann", {with(training(1, {4000}), [](SubmitItem& i) { i.fixed.needs.where = {"at=anna"}; })}});
  ASSERT_EQ(state(job_id(1)), JobState::running);
  tick(LinksGone{{peers["anna"]}});
  after(1s);
  const JobId other = submitted(with(training(2, {4000}), [](SubmitItem& i) { i.fixed.needs.where = {"at=bert"}; }));
  after(6s);  // anna's last beat is 11 s old, the grant's commit 7 s
  EXPECT_EQ(state(job_id(1)), JobState::running);
  EXPECT_EQ(state(other), JobState::ready) << "anna may come back with it any moment";
  after(4s);
  EXPECT_EQ(state(job_id(1)), JobState::ready);
  EXPECT_EQ(state(other), JobState::running);
}

TEST_F(Leases, a_goodbye_returns_what_is_left_at_once) {
  worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(peers["anna"], job);
  say(WorkerGoodbye{peers["anna"]});
  EXPECT_EQ(state(job), JobState::ready);
}

TEST_F(Leases, a_beat_that_lists_a_foreign_grant_is_told_to_stop_it_once_that_is_durable) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto job = submitted(item(1, "echo"));
  started(anna, job);
  const Grant old = grant(job);
  after(10s);
  worker("bert", {.slots = 1});
  ASSERT_EQ(dynamic(job).worker, "bert");
  forget_effects();
  beat(anna, {old});
  EXPECT_EQ(effects(), (Effects{SendNow{BeatAnswer{anna, {old}, {}, {}, {}}}}));
}

}  // namespace
}  // namespace gq::core::story

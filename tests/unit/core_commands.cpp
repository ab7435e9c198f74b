// core_commands.cpp - what people switch by hand, in whole effect lists: hold, release, preempt, drain, pause.
#include "tests/unit/core_commands.h"

namespace gq::core::story {
namespace {

// ---- hold and release

TEST_F(Commands, a_job_on_hold_lets_the_others_pass_and_starts_in_its_old_place_once_released) {
  const PeerId anna = worker("anna", {.slots = 0});
  const auto a = submitted(echo(1)), b = submitted(echo(2)), c = submitted(echo(3));
  (void)created(echo(1), JobState::ready);
  forget_effects();
  order(JobVerb::hold, {a});
  EXPECT_EQ(effects(), (Effects{changed(a, JobState::ready, [](JobDynamic& d) { d.held = true; }), said({"is on hold"})}));
  expect_reload_is_the_same();
  pull(anna, 1, 1);
  EXPECT_EQ(assigned_now(), std::vector{b});
  order(JobVerb::hold, {a});
  EXPECT_EQ(effects(), Effects{said({"is on hold already"})});
  order(JobVerb::release, {a});
  EXPECT_EQ(effects(), (Effects{changed(a, JobState::ready, [](JobDynamic& d) { d.held = false; }), said({"is released"})}));
  order(JobVerb::release, {a});
  EXPECT_EQ(effects(), Effects{said({"is not on hold"})});
  pull(anna, 1, 3);
  EXPECT_EQ(assigned_now(), (std::vector{a, c}));
}

TEST_F(Commands, a_hold_on_a_running_job_holds_it_when_it_comes_back_also_after_a_restart) {
  const PeerId anna = worker("anna", {.slots = 2});
  const auto job = submitted(echo(1));
  started(anna, job);
  forget_effects();
  order(JobVerb::hold, {job});
  EXPECT_EQ(answer().text, "runs on; on hold should it come back");
  ends(anna, job, Outcome::lost);
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_TRUE(assigned_now().empty());
  EXPECT_EQ(core->find(job, now)->reason, "on hold until it is released (gpuq release " + to_string(job) + ")");
  reload();
  worker("anna", {.slots = 2, .instance = 2});
  EXPECT_TRUE(assigned_now().empty());
  order(JobVerb::release, {job});
  EXPECT_EQ(assigned_now(), std::vector{job});
}

TEST_F(Commands, a_held_job_that_waits_for_another_one_stays_held_when_that_succeeds) {
  const PeerId anna = worker("anna", {.slots = 2});
  const auto first = submitted(echo(1));
  const auto second = submitted(with(echo(2), [&](SubmitItem& i) { i.fixed.after = {first}; }));
  order(JobVerb::hold, {second});
  forget_effects();
  ends(anna, first, Outcome::succeeded);
  EXPECT_EQ(state(second), JobState::ready);
  EXPECT_TRUE(assigned_now().empty());
  order(JobVerb::release, {second});
  EXPECT_EQ(assigned_now(), std::vector{second});
}

TEST_F(Commands, a_held_job_still_expires_and_may_still_be_cancelled) {
  const auto late = submitted(with(echo(1), [&](SubmitItem& i) { i.fixed.deadline = now.wall + 60s; }));
  const auto unwanted = submitted(echo(2)), after_it = submitted(echo(3));
  order(JobVerb::hold, {late, unwanted});
  forget_effects();
  say(CancelReceived{kClient, ++request, {unwanted}});
  EXPECT_EQ(state(unwanted), JobState::cancelled);
  after(61s);
  EXPECT_EQ(state(late), JobState::expired);
  forget_effects();
  worker("anna", {.slots = 9});
  EXPECT_EQ(assigned_now(), std::vector{after_it});
}

// ---- whose they are

TEST_F(Commands, words_of_another_key_touch_no_job_and_say_whose_it_is) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto runs = submitted(echo(1)), waits = submitted(echo(2));
  started(anna, runs);
  forget_effects();
  const auto anothers = [](const JobId& job) { return CommandOutcome{false, {Errc::refused, "job " + to_string(job) + " belongs to ann, this is the key of bob", "use its key or an admin's"}, {}}; };
  for (const JobVerb verb : {JobVerb::hold, JobVerb::preempt, JobVerb::release}) {
    say(JobCommand{kClient, ++request, verb, "bob", "", {}, {runs, waits}, "bob"});
    EXPECT_EQ(effects(), (Effects{Send{CommandAnswer{kClient, request, {anothers(runs), anothers(waits)}}}}));
  }
  JobUpdate update;
  update.priority = 9;
  say(UpdateReceived{kClient, ++request, "bob", waits, update, "bob"});
  EXPECT_EQ(effects(), (Effects{Send{CommandAnswer{kClient, request, {anothers(waits)}}}}));
  say(CancelReceived{kClient, ++request, {runs, job_id(99), waits}, "bob"});
  EXPECT_EQ(effects(), (Effects{Send{CancelAnswer{kClient, request, {CancelResult::refused, CancelResult::unknown, CancelResult::refused}}}}));
  ends(anna, runs, Outcome::succeeded);
  forget_effects();
  say(RetryReceived{kClient, ++request, "bob", runs, job_id(3), true, "bob"});
  EXPECT_EQ(effects(), (Effects{Send{RetryAnswer{kClient, request, {job_id(3), false, false, anothers(runs).error}}}}));
  say(FetchedReceived{kClient, {runs}, "bob"});
  EXPECT_TRUE(effects().empty()) << "a stranger cannot have a result forgotten early";
}

TEST_F(Commands, the_key_that_submitted_a_job_and_an_admin_may_touch_it) {
  const auto own = submitted(echo(1)), anothers = submitted(echo(2));
  forget_effects();
  say(CancelReceived{kClient, ++request, {own}, "ann"});
  EXPECT_EQ(state(own), JobState::cancelled);
  say(CancelReceived{kClient, ++request, {anothers}, ""});
  EXPECT_EQ(state(anothers), JobState::cancelled);
}

TEST_F(Commands, each_job_of_a_command_gets_its_own_answer_in_order) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto done = submitted(echo(1));
  ends(anna, done, Outcome::succeeded);
  const auto ready = submitted(echo(2));
  forget_effects();
  order(JobVerb::hold, {job_id(77), done, ready});
  const auto all = std::get<CommandAnswer>(std::get<Send>(effects().back()).message).items;
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all[0].error, (Error{Errc::not_found, "job " + to_string(job_id(77)) + " is not known", "gpuq list"}));
  EXPECT_EQ(all[1].error, (Error{Errc::refused, "job " + to_string(done) + " is succeeded", "gpuq retry " + to_string(done) + " makes a new one of it"}));
  EXPECT_TRUE(all[2].ok);
}

// ---- preempt by hand

TEST_F(Commands, a_running_job_is_asked_to_leave_within_its_classs_grace_and_says_who_asked_and_why) {
  const PeerId anna = worker("anna", {.devices = {gpu("GPU-1")}});
  forget_effects();
  const auto job = submitted(training(1));
  (void)created(training(1), JobState::ready);
  (void)granted(job, "anna", {"GPU-1"}, dynamic(job).granted);
  started(anna, job);
  forget_effects();
  order(JobVerb::preempt, {job}, "my turn");
  const Grant g = grant(job);
  EXPECT_EQ(effects(), (Effects{changed(job, JobState::yielding, [](JobDynamic& d) { d.leave_reason = "preempted by ann: my turn"; }),
                                Send{Preempt{anna, 2, g, "preempted by ann: my turn", 30s}}, said({"asked to leave anna GPU-1 within 30 s"})}));
  order(JobVerb::preempt, {job}, "again");
  EXPECT_EQ(effects(), Effects{said({"has been asked to leave already"})});
  expect_reload_is_the_same();
}

TEST_F(Commands, with_a_deadline_of_its_own_and_what_does_not_run_has_nothing_to_leave) {
  worker("anna", {.slots = 1});
  const auto job = submitted(echo(1)), next = submitted(echo(2));
  forget_effects();
  order(JobVerb::preempt, {job}, "", 10min);
  const auto asked = asked_to_leave();
  ASSERT_EQ(asked.size(), 1U);
  EXPECT_EQ(asked[0].deadline, Duration(10min));
  EXPECT_EQ(asked[0].reason, "preempted by ann");
  order(JobVerb::preempt, {next});
  EXPECT_EQ(effects(), Effects{said({"does not run: it is ready"})});
}

TEST_F(Commands, who_said_never_is_not_asked_by_hand) {
  worker("anna", {.slots = 1});
  const auto job = submitted(with(echo(1), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  forget_effects();
  order(JobVerb::preempt, {job});
  EXPECT_EQ(effects(), Effects{refused(Errc::refused, "job " + to_string(job) + " was submitted with --on-preempt never",
                                       "gpuq cancel " + to_string(job) + "; a drain with a deadline asks it, too")});
}

TEST_F(Commands, held_and_preempted_a_job_leaves_and_stays_away_with_its_checkpoint) {
  const PeerId anna = worker("anna", {.devices = {gpu("GPU-1")}});
  const auto job = submitted(training(1));
  started(anna, job);
  order(JobVerb::hold, {job});
  forget_effects();
  order(JobVerb::preempt, {job});
  EXPECT_EQ(answer().text, "asked to leave anna GPU-1 within 30 s; on hold then");
  ends(anna, job, Outcome::yielded, [](AttemptEnd& e) { e.checkpoint = {blob(3), 40}; });
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_TRUE(assigned_now().empty());
  pull(anna, 10, 9);
  EXPECT_TRUE(assigned_now().empty());
  order(JobVerb::release, {job});
  EXPECT_EQ(assigned_now(), std::vector{job});
  EXPECT_EQ(dynamic(job).checkpoint.step, 40U);
}

// ---- pause and resume

TEST_F(Commands, a_paused_class_starts_nothing_also_after_a_restart_and_what_runs_goes_on) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto runs = submitted(echo(1));
  started(anna, runs);
  forget_effects();
  fleet(FleetVerb::pause_class, "inference", {}, "a demo");
  const OperatorSetting setting{OperatorSetting::Kind::pause_class, "inference", {}, "a demo", "ann", now.wall};
  EXPECT_EQ(effects(), (Effects{Commit{SettingStored{setting}}, said({"class inference starts no more jobs; 1 job may finish"})}));
  EXPECT_EQ(core->settings(), std::vector{setting});
  const auto waits = submitted(echo(2));
  const auto other = submitted(with(echo(3), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  EXPECT_EQ(assigned_now(), std::vector{other});
  fleet(FleetVerb::pause_class, "inference", {}, "a demo");
  EXPECT_EQ(effects(), Effects{said({"class inference is paused already"})});
  ends(anna, runs, Outcome::succeeded);
  EXPECT_EQ(state(runs), JobState::succeeded);
  expect_reload_is_the_same();
  reload();
  worker("anna", {.slots = 9, .instance = 2});
  EXPECT_EQ(state(waits), JobState::ready);
  forget_effects();
  fleet(FleetVerb::resume_class, "inference");
  const auto after_it = effects();
  EXPECT_EQ(Effects(after_it.begin(), after_it.begin() + 2),
            (Effects{Commit{SettingDropped{OperatorSetting::Kind::pause_class, "inference"}}, said({"class inference starts again; 1 job ready"})}));
  EXPECT_EQ(state(waits), JobState::running);
  fleet(FleetVerb::resume_class, "inference");
  EXPECT_EQ(answer().text, "class inference is not paused");
  fleet(FleetVerb::pause_class, "express");
  EXPECT_EQ(effects(), Effects{refused(Errc::not_found, "no class is called 'express'", "classes: inference, training, synthesis")});
}

// ---- drain and undrain

TEST_F(Commands, a_drained_worker_takes_nothing_new_finishes_what_it_has_and_starts_again_when_undrained) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto runs = submitted(echo(1));
  started(anna, runs);
  forget_effects();
  fleet(FleetVerb::drain, "anna", {}, "new disk");
  const OperatorSetting setting{OperatorSetting::Kind::drain_worker, "anna", {}, "new disk", "ann", now.wall};
  EXPECT_EQ(effects(), (Effects{Commit{SettingStored{setting}}, said({"worker anna takes no new work; 1 job may finish"})}));
  const auto waits = submitted(echo(2));
  EXPECT_TRUE(assigned_now().empty());
  fleet(FleetVerb::drain, "anna", {}, "new disk");
  EXPECT_EQ(effects(), Effects{said({"worker anna takes no new work; 1 job may finish"})});
  ends(anna, runs, Outcome::succeeded);
  EXPECT_TRUE(assigned_now().empty());
  EXPECT_EQ(core->workers(now).at(0).state, "draining");
  forget_effects();
  fleet(FleetVerb::undrain, "anna");
  EXPECT_EQ(state(waits), JobState::running);
  EXPECT_EQ(answer().text, "worker anna takes work again");
  EXPECT_TRUE(core->settings().empty());
  fleet(FleetVerb::undrain, "anna");
  EXPECT_EQ(answer().text, "worker anna is not drained");
}

TEST_F(Commands, a_drain_holds_by_name_for_a_worker_that_comes_back_and_after_a_restart) {
  worker("anna", {.slots = 9});
  fleet(FleetVerb::drain, "anna");
  const auto waits = submitted(echo(1));
  worker("anna", {.slots = 9, .instance = 2});
  EXPECT_EQ(state(waits), JobState::ready);
  reload();
  worker("anna", {.slots = 9, .instance = 3});
  EXPECT_EQ(state(waits), JobState::ready);
  fleet(FleetVerb::undrain, "anna");
  EXPECT_EQ(state(waits), JobState::running);
}

TEST_F(Commands, after_a_restart_a_drained_name_is_found_before_anybody_of_that_name_is_here) {
  worker("anna", {.devices = {gpu("GPU-1")}});
  fleet(FleetVerb::drain, "anna");
  fleet(FleetVerb::drain, "GPU-1");
  reload();
  fleet(FleetVerb::undrain, "anna");
  EXPECT_EQ(answer().text, "worker anna takes work again");
  fleet(FleetVerb::undrain, "GPU-1");
  EXPECT_EQ(answer().text, "device GPU-1 takes work again");
}

TEST_F(Commands, a_device_is_drained_by_uuid_or_by_its_place_and_its_neighbour_goes_on) {
  auto second = gpu("GPU-2");
  second.index = 1;
  worker("anna", {.devices = {gpu("GPU-1"), second}});
  forget_effects();
  fleet(FleetVerb::drain, "anna/1");
  EXPECT_EQ(answer().text, "device GPU-2 takes no new work; 0 jobs may finish");
  const auto a = submitted(training(1, {6000})), b = submitted(training(2, {6000}));
  EXPECT_EQ(assigned_now(), std::vector{a});
  EXPECT_EQ(dynamic(a).devices, std::vector<std::string>{"GPU-1"});
  EXPECT_EQ(device("GPU-2").state, "draining");
  reload();
  WorkerSpec again{.devices = {gpu("GPU-1"), second}, .running = {grant(a)}, .instance = 2};
  worker("anna", again);
  EXPECT_EQ(state(b), JobState::ready);
  fleet(FleetVerb::undrain, "GPU-2");
  EXPECT_EQ(dynamic(b).devices, std::vector<std::string>{"GPU-2"});
}

TEST_F(Commands, an_unknown_or_ambiguous_target_is_told_what_is_known) {
  fleet(FleetVerb::drain, "nobody");
  EXPECT_EQ(effects(), Effects{refused(Errc::not_found, "no worker or device is called 'nobody'", "no worker has been here yet")});
  auto two = hello("w1", {.devices = {gpu("GPU-1")}});
  two.host = "box";
  say(two);
  auto other = hello("w2", {.devices = {gpu("GPU-9")}});
  other.host = "box";
  say(other);
  forget_effects();
  fleet(FleetVerb::drain, "nobody");
  EXPECT_EQ(effects(), Effects{refused(Errc::not_found, "no worker or device is called 'nobody'", "known: w1, w1/0, w2, w2/0")});
  fleet(FleetVerb::drain, "box/0");
  EXPECT_EQ(effects(), Effects{refused(Errc::usage, "box/0 may be GPU-1 or GPU-9", "name the device by its UUID")});
  fleet(FleetVerb::drain, "w2/0");
  EXPECT_EQ(answer().text, "device GPU-9 takes no new work; 0 jobs may finish");
}

TEST_F(Commands, a_drain_with_a_deadline_asks_everybody_in_time_also_who_said_never) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto a = submitted(echo(1));
  const auto b = submitted(with(echo(2), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  keep_beating("anna", {grant(a), grant(b)});
  started(anna, a);
  started(anna, b);
  forget_effects();
  fleet(FleetVerb::drain, "anna", 10min, "power");
  EXPECT_EQ(answer().text, "worker anna takes no new work; 2 jobs may run on, and whoever still does is asked to leave in time for 10 min from now");
  after(9min + 20s);
  EXPECT_TRUE(asked_to_leave().empty());
  after(20s);
  const auto asked = asked_to_leave();
  ASSERT_EQ(asked.size(), 2U);
  EXPECT_EQ(asked[0].grant.job, a);
  EXPECT_EQ(asked[0].reason, "anna is drained by ann: power");
  EXPECT_LE(asked[0].deadline, Duration(30s));
  EXPECT_GE(asked[0].deadline, Duration(20s));
  EXPECT_EQ(asked[1].grant.job, b);
  EXPECT_EQ(dynamic(b).leave_reason, "anna is drained by ann: power");
  ends(anna, {end_of(grant(a), Outcome::yielded), end_of(grant(b), Outcome::yielded)});
  EXPECT_EQ(state(a), JobState::ready);
  EXPECT_TRUE(assigned_now().empty());
}

TEST_F(Commands, a_deadline_that_came_while_the_broker_was_away_is_kept_when_it_is_back) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(echo(1));
  started(anna, job);
  fleet(FleetVerb::drain, "anna", 10min);
  now.steady += 20min;
  now.wall.ms += 20 * 60'000;
  reload();
  tick(TimerFired{});
  EXPECT_EQ(state(job), JobState::yielding);
  EXPECT_EQ(dynamic(job).leave_reason, "anna is drained by ann");
}

TEST_F(Commands, who_comes_back_to_a_drained_worker_after_its_deadline_is_asked_at_once) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(echo(1));
  started(anna, job);
  const Grant g = grant(job);
  fleet(FleetVerb::drain, "anna", 1min);
  after(15s);   // not heard for a lease, or longer: declared lost, and nobody else may take it
  EXPECT_EQ(state(job), JobState::ready);
  after(2min);
  forget_effects();
  worker("anna", {.slots = 9, .running = {g}});
  EXPECT_EQ(state(job), JobState::yielding);
  const auto asked = asked_to_leave();
  ASSERT_EQ(asked.size(), 1U);
  EXPECT_EQ(asked[0].grant, g);
}

TEST_F(Commands, a_drain_may_be_given_another_deadline_or_none) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(echo(1));
  started(anna, job);
  keep_beating("anna", {grant(job)});
  fleet(FleetVerb::drain, "anna", 10min);
  fleet(FleetVerb::drain, "anna");
  after(20min);
  EXPECT_EQ(state(job), JobState::running);
  fleet(FleetVerb::drain, "anna", 1h);
  fleet(FleetVerb::drain, "anna", 1min);
  after(45s);
  EXPECT_EQ(state(job), JobState::yielding);
}

}  // namespace
}  // namespace gq::core::story

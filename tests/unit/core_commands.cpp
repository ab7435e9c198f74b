// core_commands.cpp - what people switch by hand, in whole effect lists: hold, release, preempt, update, drain, pause.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

class Commands : public Story {
 protected:
  void order(JobVerb verb, std::vector<JobId> jobs, std::string reason = {}, Duration deadline = {}) {
    say(JobCommand{kClient, ++request, verb, "ann", std::move(reason), deadline, std::move(jobs)});
  }
  void fleet(FleetVerb verb, std::string target, Duration deadline = {}, std::string reason = {}) {
    say(FleetCommand{kClient, ++request, verb, std::move(target), "ann", std::move(reason), deadline});
  }
  void update(JobId job, const std::function<void(JobUpdate&)>& change) {
    JobUpdate u;
    change(u);
    say(UpdateReceived{kClient, ++request, "ann", job, std::move(u)});
  }
  Effect said(const std::vector<std::string>& texts) {
    CommandAnswer answer{kClient, request, {}};
    for (const std::string& text : texts) answer.items.push_back({true, {}, text});
    return Send{answer};
  }
  Effect refused(Errc code, std::string what, std::string next) {
    return Send{CommandAnswer{kClient, request, {{false, {code, std::move(what), std::move(next)}, {}}}}};
  }
  /// The one answer of the newest command; the test has looked at the effects already or does not care.
  CommandOutcome answer() {
    CommandOutcome found;
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* a = std::get_if<CommandAnswer>(&s->message)) found = a->items.at(0);
    return found;
  }
  void reload() {
    core = std::make_unique<Core>(config);
    core->load(store.image(), now);
    core->check_invariants();
    batch = 0;
    seen.clear();
  }
  std::vector<Preempt> asked_to_leave() {
    std::vector<Preempt> all;
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* p = std::get_if<Preempt>(&s->message)) all.push_back(*p);
    return all;
  }
  static SubmitItem echo(std::uint64_t n, std::uint8_t priority = 5) {
    return with(item(n, "echo"), [&](SubmitItem& i) { i.fixed.priority = priority; });
  }
};

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

// ---- update

TEST_F(Commands, a_new_priority_moves_a_waiting_job_to_its_new_place) {
  const PeerId anna = worker("anna", {.slots = 0});
  forget_effects();
  const auto a = submitted(echo(1)), b = submitted(echo(2)), c = submitted(echo(3));
  (void)created(echo(1), JobState::ready), (void)created(echo(2), JobState::ready), (void)created(echo(3), JobState::ready);
  forget_effects();
  update(c, [](JobUpdate& u) { u.priority = 9; });
  EXPECT_EQ(effects(), (Effects{revised(c, [](JobFixed& f) { f.priority = 9; }), said({"is updated"})}));
  update(a, [](JobUpdate& u) { u.priority = 0; });
  forget_effects();
  update(a, [](JobUpdate& u) { u.priority = 0; });
  EXPECT_EQ(effects(), Effects{said({"is so already"})});
  expect_reload_is_the_same();
  pull(anna, 1, 3);
  EXPECT_EQ(assigned_now(), (std::vector{c, b, a}));
}

TEST_F(Commands, a_job_moved_up_and_down_stands_in_line_once) {
  const PeerId anna = worker("anna", {.slots = 0});
  std::vector<JobId> all;
  for (std::uint64_t n = 1; n <= 6; ++n) all.push_back(submitted(echo(n)));
  for (const std::uint8_t p : {std::uint8_t{9}, std::uint8_t{1}, std::uint8_t{5}, std::uint8_t{9}, std::uint8_t{5}}) update(all[3], [&](JobUpdate& u) { u.priority = p; });
  order(JobVerb::hold, {all[3]});
  update(all[3], [&](JobUpdate& u) { u.priority = 7; });
  order(JobVerb::release, {all[3]});
  update(all[3], [&](JobUpdate& u) { u.priority = 5; });
  forget_effects();
  pull(anna, 1, 9);
  EXPECT_EQ(assigned_now(), all);
}

TEST_F(Commands, a_running_jobs_new_priority_counts_when_it_comes_back) {
  const PeerId anna = worker("anna", {.slots = 1});
  const auto a = submitted(echo(1)), b = submitted(echo(2, 7)), c = submitted(echo(3, 7));
  started(anna, a);
  forget_effects();
  update(a, [](JobUpdate& u) { u.priority = 9; });
  EXPECT_EQ(answer().text, "is updated; it runs, so this counts from its next start on");
  ends(anna, a, Outcome::lost);
  forget_effects();
  pull(anna, 1, 4);
  EXPECT_EQ(assigned_now(), (std::vector{a, b, c}));
}

TEST_F(Commands, a_new_class_moves_it_on_the_ladder_and_in_the_counts) {
  const PeerId anna = worker("anna", {.slots = 0});
  forget_effects();
  const auto a = submitted(echo(1)), b = submitted(echo(2));
  (void)created(echo(1), JobState::ready);
  forget_effects();
  update(a, [](JobUpdate& u) { u.job_class = JobClass::synthesis; });
  const auto now_synthesis = revised(a, [](JobFixed& f) { f.needs.job_class = JobClass::synthesis; });
  EXPECT_EQ(effects(), (Effects{now_synthesis, changed(a, JobState::ready), said({"is updated"})}));
  EXPECT_EQ(core->totals().by_class_and_state[2][static_cast<std::size_t>(JobState::ready)], 1U);
  expect_reload_is_the_same();
  pull(anna, 1, 2);
  EXPECT_EQ(assigned_now(), (std::vector{b, a}));
}

TEST_F(Commands, what_keeps_a_job_from_fitting_can_be_changed) {
  worker("anna", {.devices = {gpu("GPU-1", {8000})}, .labels = {"zone=a"}});
  const auto large = submitted(training(1, {9000}));
  const auto elsewhere = submitted(with(training(2, {1000}), [](SubmitItem& i) { i.fixed.needs.where = {"zone=b"}; }));
  EXPECT_TRUE(assigned_now().empty());
  update(large, [](JobUpdate& u) { u.budget = std::pair{Mib{2000}, kRestOfDevice}; });
  EXPECT_EQ(dynamic(large).state, JobState::running);
  EXPECT_GE(dynamic(large).granted.value, 2000);
  ends(peers["anna"], large, Outcome::succeeded);
  update(elsewhere, [](JobUpdate& u) { u.where = std::vector<std::string>{}; });
  EXPECT_EQ(state(elsewhere), JobState::running);
  expect_reload_is_the_same();
}

TEST_F(Commands, what_the_worker_was_told_stays_while_it_runs) {
  worker("anna", {.slots = 1});
  const auto job = submitted(echo(1));
  forget_effects();
  const std::string next = "gpuq hold " + to_string(job) + " and gpuq preempt " + to_string(job) + ", then update and release it";
  const auto stays = [&](const std::string& what, const std::function<void(JobUpdate&)>& change) {
    update(job, change);
    EXPECT_EQ(effects(), Effects{refused(Errc::refused, "job " + to_string(job) + " runs: " + what + " stays as it is until it has left", next)});
  };
  stays("its class", [](JobUpdate& u) { u.job_class = JobClass::training; });
  stays("its device memory", [](JobUpdate& u) { u.budget = std::pair{Mib{1}, Mib{2}}; });
  stays("its labels", [](JobUpdate& u) { u.where = std::vector<std::string>{"zone=a"}; });
  stays("what it does when asked to leave", [](JobUpdate& u) { u.on_preempt = OnPreempt::never; });
  stays("its start date", [&](JobUpdate& u) { u.not_before = now.wall + 1h; });
  stays("its timeout", [](JobUpdate& u) { u.timeout = 1h; });
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Commands, a_deadline_may_move_both_ways_and_go) {
  const auto early = submitted(with(echo(1), [&](SubmitItem& i) { i.fixed.deadline = now.wall + 1h; }));
  const auto late = submitted(with(echo(2), [&](SubmitItem& i) { i.fixed.deadline = now.wall + 1min; }));
  const auto free = submitted(with(echo(3), [&](SubmitItem& i) { i.fixed.deadline = now.wall + 1min; }));
  const auto given = submitted(echo(4));
  update(early, [&](JobUpdate& u) { u.deadline = now.wall + 30s; });
  update(late, [&](JobUpdate& u) { u.deadline = now.wall + 1h; });
  update(free, [&](JobUpdate& u) { u.deadline = WallTime{}; });
  update(given, [&](JobUpdate& u) { u.deadline = now.wall + 40s; });
  expect_reload_is_the_same();
  after(35s);
  EXPECT_EQ(state(early), JobState::expired);
  EXPECT_EQ(state(given), JobState::ready);
  after(30s);
  EXPECT_EQ(state(given), JobState::expired);
  EXPECT_EQ(state(late), JobState::ready);
  after(1h);
  EXPECT_EQ(state(late), JobState::expired);
  EXPECT_EQ(state(free), JobState::ready);
  forget_effects();
  update(free, [&](JobUpdate& u) { u.deadline = WallTime{now.wall.ms - 1}; });
  EXPECT_EQ(effects(), Effects{refused(Errc::bad_message, "that deadline has passed", "gpuq cancel " + to_string(free))});
}

TEST_F(Commands, a_start_date_may_be_given_moved_and_taken_back) {
  worker("anna", {.slots = 0});
  forget_effects();
  const auto job = submitted(echo(1));
  (void)created(echo(1), JobState::ready);
  forget_effects();
  const WallTime at = now.wall + 1h, sooner = now.wall + 10min;
  update(job, [&](JobUpdate& u) { u.not_before = at; });
  const auto dated = revised(job, [&](JobFixed& f) { f.not_before = at; });
  EXPECT_EQ(effects(), (Effects{dated, changed(job, JobState::waiting, [&](JobDynamic& d) { d.due = at; }), said({"is updated; it waits for its date"})}));
  expect_reload_is_the_same();
  update(job, [&](JobUpdate& u) { u.not_before = sooner; });
  EXPECT_EQ(dynamic(job).due, sooner);
  after(9min);
  EXPECT_EQ(state(job), JobState::waiting);
  after(2min);
  EXPECT_EQ(state(job), JobState::ready);
  update(job, [&](JobUpdate& u) { u.not_before = at; });
  after(20min);
  EXPECT_EQ(state(job), JobState::waiting);
  forget_effects();
  update(job, [](JobUpdate& u) { u.not_before = WallTime{}; });
  EXPECT_EQ(answer().text, "is updated");
  EXPECT_EQ(state(job), JobState::ready);
  after(1h);
  EXPECT_EQ(state(job), JobState::ready);
  expect_reload_is_the_same();
}

TEST_F(Commands, a_blocked_jobs_start_date_counts_when_it_is_free_and_a_later_date_overrules_a_back_off) {
  const PeerId anna = worker("anna", {.slots = 2});
  const auto first = submitted(with(echo(1), [](SubmitItem& i) { i.fixed.retries = 3; }));
  const auto second = submitted(with(echo(2), [&](SubmitItem& i) { i.fixed.after = {first}; }));
  update(second, [&](JobUpdate& u) { u.not_before = now.wall + 1h; });
  EXPECT_EQ(state(second), JobState::blocked);
  keep_beating("anna");
  ends(anna, first, Outcome::failed);
  EXPECT_EQ(state(first), JobState::waiting);
  update(first, [&](JobUpdate& u) { u.not_before = now.wall + 5min; });
  after(4min);
  EXPECT_EQ(state(first), JobState::waiting);
  forget_effects();
  update(first, [](JobUpdate& u) { u.not_before = WallTime{}; });
  EXPECT_EQ(state(first), JobState::running);
  ends(anna, first, Outcome::succeeded);
  EXPECT_EQ(state(second), JobState::waiting);
}

TEST_F(Commands, a_value_that_a_submit_would_refuse_is_refused_in_the_same_words) {
  const auto job = submitted(echo(1));
  forget_effects();
  update(job, [](JobUpdate& u) { u.priority = 12; });
  EXPECT_EQ(effects(), Effects{refused(Errc::bad_message, "priority 12 is not within 0..9", "9 starts first, 5 is the default")});
  update(job, [](JobUpdate& u) { u.retries = 101; });
  EXPECT_EQ(effects(), Effects{refused(Errc::over_limit, "101 retries are more than 100", "")});
  update(job, [](JobUpdate& u) { u.budget = std::pair{Mib{4096}, Mib{512}}; });
  EXPECT_EQ(answer().error.what, "the memory range runs from 4096 MiB to 512 MiB");
  update(job, [](JobUpdate& u) { u.where = std::vector<std::string>{"nonsense"}; });
  EXPECT_EQ(answer().error.what, "label 'nonsense' is not key=value");
  EXPECT_EQ(core->find(job, now)->record.fixed.priority, 5);
  update(job_id(99), [](JobUpdate& u) { u.priority = 1; });
  EXPECT_EQ(answer().error.code, Errc::not_found);
}

// ---- at the door

TEST_F(Commands, a_strict_submit_is_refused_when_nothing_known_could_ever_hold_it_and_any_other_waits) {
  const auto strict = [](SubmitItem i) {
    i.strict = true;
    return i;
  };
  submit({strict(training(1, {90'000}))});   // no worker has been here: nobody can say
  EXPECT_EQ(state(job_id(1)), JobState::ready);
  worker("anna", {.devices = {gpu("GPU-1", {8000})}});
  const auto busy = submitted(training(2, {8000}));
  EXPECT_EQ(state(busy), JobState::running);
  forget_effects();
  submit({strict(training(3, {9000})), strict(training(4, {8000})), training(5, {9000})});
  const auto items = std::get<SubmitAnswer>(std::get<Send>(effects().back()).message).items;
  ASSERT_EQ(items.size(), 3U);
  EXPECT_EQ(items[0].error.code, Errc::no_fit);
  EXPECT_TRUE(items[0].error.what.starts_with("no worker that is known could ever run it")) << items[0].error.what;
  EXPECT_NE(items[0].error.next, "");
  EXPECT_EQ(items[1], ok(job_id(4)));
  EXPECT_EQ(items[2], ok(job_id(5)));
}

// ---- caps

class ClassFull : public Commands {
 protected:
  ClassFull() {
    config.policy.of(JobClass::synthesis).queued_max = 2;
    core = std::make_unique<Core>(config);
  }
  static SubmitItem synthesis(std::uint64_t n) {
    return with(item(n, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; });
  }
};

TEST_F(ClassFull, a_class_takes_as_many_waiting_jobs_as_the_policy_says) {
  submit({synthesis(1), synthesis(2), synthesis(3), echo(4)});
  const Error full{Errc::queue_full, "2 synthesis jobs are waiting, and class.synthesis.queued_max is 2", "wait, cancel some, or raise the cap"};
  ASSERT_FALSE(seen.empty());
  const auto items = std::get<SubmitAnswer>(std::get<Send>(effects().back()).message).items;
  EXPECT_EQ(items, (std::vector<SubmitOutcome>{ok(job_id(1)), ok(job_id(2)), {job_id(3), false, false, full}, ok(job_id(4))}));
  submit({synthesis(1)});
  EXPECT_EQ(effects(), Effects{answered({existing(job_id(1))})});   // sent again: it is here
  update(job_id(4), [](JobUpdate& u) { u.job_class = JobClass::synthesis; });
  EXPECT_EQ(effects(), Effects{refused(full.code, full.what, full.next)});
  worker("anna", {.slots = 1});
  forget_effects();
  submit({synthesis(5)});   // inference went first: still two are waiting
  EXPECT_EQ(effects(), Effects{answered({{job_id(5), false, false, full}})});
  say(CancelReceived{kClient, ++request, {job_id(1)}});
  forget_effects();
  submit({synthesis(5)});
  EXPECT_EQ(std::get<SubmitAnswer>(std::get<Send>(effects().back()).message).items.at(0), ok(job_id(5)));
}

}  // namespace
}  // namespace gq::core::story

// core_update.cpp - `gpuq update`, and what is refused at the door: in whole effect lists.
#include "tests/unit/core_commands.h"

namespace gq::core::story {
namespace {

using Update = Commands;

TEST_F(Update, a_new_priority_moves_a_waiting_job_to_its_new_place) {
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

TEST_F(Update, a_job_moved_up_and_down_stands_in_line_once) {
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

TEST_F(Update, a_running_jobs_new_priority_counts_when_it_comes_back) {
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

TEST_F(Update, a_new_class_moves_it_on_the_ladder_and_in_the_counts) {
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

TEST_F(Update, what_keeps_a_job_from_fitting_can_be_changed) {
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

TEST_F(Update, what_the_worker_was_told_stays_while_it_runs) {
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

TEST_F(Update, a_deadline_may_move_both_ways_and_go) {
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

TEST_F(Update, a_start_date_may_be_given_moved_and_taken_back) {
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

TEST_F(Update, a_blocked_jobs_start_date_counts_when_it_is_free_and_a_later_date_overrules_a_back_off) {
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

TEST_F(Update, a_value_that_a_submit_would_refuse_is_refused_in_the_same_words) {
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

TEST_F(Update, a_strict_submit_is_refused_when_nothing_known_could_ever_hold_it_and_any_other_waits) {
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

// core_submit.cpp - what a submit may say and what is answered; keys, parents, watchers, retention.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

using Submit = Story;

TEST_F(Submit, the_same_id_and_digest_again_is_the_same_job_and_another_digest_is_a_conflict) {
  const auto job = submitted(item(1, "echo"));
  forget_effects();
  submit({item(1, "echo"), with(item(1, "echo"), [](SubmitItem& i) { i.fixed.digest = {8, 8}; })});
  EXPECT_EQ(effects(), (Effects{answered({existing(job), {job, false, false,
      Error{Errc::id_conflict, "job " + to_string(job) + " exists and is another one", "submit with a new id"}}})}));
  say(SubmitReceived{kClient, 9, "bob", {item(1, "echo")}});
  const Effects all = effects();
  EXPECT_EQ(std::get<SubmitAnswer>(std::get<Send>(all.at(0)).message).items[0].error.code, Errc::id_conflict) << "ids are per tenant";
}

TEST_F(Submit, every_mistake_is_answered_with_its_own_code_and_changes_nothing) {
  push_model("yolo", 1);
  forget_effects();
  const auto refused = [&](const SubmitItem& i) {
    submit({i});
    const Effects all = effects();
    EXPECT_EQ(all.size(), 1U) << all;
    const auto& outcome = std::get<SubmitAnswer>(std::get<Send>(all.at(0)).message).items.at(0);
    EXPECT_FALSE(outcome.ok);
    EXPECT_FALSE(outcome.error.what.empty());
    return outcome.error.code;
  };
  const auto echo = [&](const std::function<void(JobFixed&)>& change) {
    return with(item(1, "echo"), [&](SubmitItem& i) { change(i.fixed); });
  };
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.id = {}; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.kind = 99; })), Errc::unknown_kind);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.job_class = static_cast<JobClass>(7); })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.priority = 10; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.retries = 101; })), Errc::over_limit);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.devices = 2; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.devices = 0; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.budget_min = {-1}; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.budget_min = {5}; f.needs.budget_max = {4}; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.model = "yolo"; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.where = {"nonsense"}; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.needs.where.assign(17, "a=b"); })), Errc::over_limit);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.label.assign(65, 'x'); })), Errc::over_limit);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.unique.assign(65, 'x'); })), Errc::over_limit);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.after.assign(257, job_id(1)); })), Errc::over_limit);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.after = {job_id(77)}; })), Errc::not_found);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.timeout = Duration{-1}; })), Errc::bad_message);
  EXPECT_EQ(refused(echo([](JobFixed& f) { f.body_bytes = 5U << 20U; })), Errc::too_large);
  EXPECT_EQ(refused(detect(1, "")), Errc::unknown_model);
  EXPECT_EQ(refused(detect(1, "ghost")), Errc::unknown_model);
  EXPECT_EQ(refused(detect(1, "yolo@nope")), Errc::unknown_model);
  EXPECT_EQ(core->totals().submitted, 0U);
}

TEST_F(Submit, arguments_beyond_their_budget_are_refused_until_some_jobs_are_final) {
  config.queued_bytes_max = 250;
  core = std::make_unique<Core>(config);
  submit({item(1, "echo"), item(2, "echo"), item(3, "echo")});
  EXPECT_FALSE(core->find(job_id(3), now).has_value());
  say(CancelReceived{kClient, 3, {job_id(1)}});
  submit({item(3, "echo")});
  EXPECT_EQ(state(job_id(3)), JobState::ready);
}

TEST_F(Submit, a_job_after_others_starts_when_the_last_has_succeeded) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto one = submitted(item(1, "echo"));
  const auto two = submitted(item(2, "echo"));
  const auto child = submitted(with(item(3, "echo"), [&](SubmitItem& i) { i.fixed.after = {one, two}; }));
  EXPECT_EQ(core->find(child, now)->reason, "waiting for 2 job(s) to succeed");
  ends(anna, one, Outcome::succeeded);
  EXPECT_EQ(state(child), JobState::blocked);
  expect_reload_is_the_same();
  ends(anna, two, Outcome::succeeded);
  EXPECT_EQ(state(child), JobState::running);
  const auto told = assignment(child);
  ASSERT_TRUE(told);
  EXPECT_EQ(told->after, (std::vector{one, two})) << "its worker fetches what they brought";
  const auto late = submitted(with(item(4, "echo"), [&](SubmitItem& i) { i.fixed.after = {one, two}; }));
  EXPECT_EQ(state(late), JobState::running) << "both have succeeded already";
}

TEST_F(Submit, a_parent_that_ends_otherwise_fails_its_whole_line_of_children) {
  const auto parent = submitted(item(1, "echo"));
  const auto child = submitted(with(item(2, "echo"), [&](SubmitItem& i) { i.fixed.after = {parent}; }));
  const auto grandchild = submitted(with(item(3, "echo"), [&](SubmitItem& i) { i.fixed.after = {child}; }));
  say(CancelReceived{kClient, 3, {parent}});
  EXPECT_EQ(state(child), JobState::failed);
  EXPECT_EQ(dynamic(child).error, Errc::dependency_failed);
  EXPECT_EQ(dynamic(grandchild).error, Errc::dependency_failed);
  const auto late = submitted(with(item(4, "echo"), [&](SubmitItem& i) { i.fixed.after = {parent}; }));
  EXPECT_EQ(dynamic(late).error, Errc::dependency_failed);
  expect_reload_is_the_same();
}

TEST_F(Submit, each_watching_connection_is_told_once_and_one_that_is_gone_not_at_all) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.watch = true; }));
  say(WatchReceived{kClient, 3, {job}});
  say(WatchReceived{kOther, 4, {job, job_id(99)}});
  say(WatchReceived{PeerId{3}, 5, {job}});
  say(ClientGone{PeerId{3}});
  forget_effects();
  ends(anna, job, Outcome::succeeded, [](AttemptEnd& e) { e.result = 5; });
  std::vector<std::uint64_t> told;
  for (const Effect& e : effects())
    if (const auto* s = std::get_if<Send>(&e))
      if (const auto* n = std::get_if<JobNotice>(&s->message)) {
        told.push_back(n->peer.value);
        EXPECT_EQ(n->result, Token{5});
      }
  EXPECT_EQ(told, (std::vector<std::uint64_t>{1, 2}));
  say(WatchReceived{PeerId{4}, 6, {job, job_id(99)}});
  EXPECT_EQ(effects(), (Effects{Send{WatchAnswer{PeerId{4}, 6, {job_id(99)}}}, Send{JobNotice{PeerId{4}, job, dynamic(job), 0}}}));
  submit({with(item(1, "echo"), [](SubmitItem& i) { i.watch = true; })}, kOther);
  EXPECT_EQ(effects(), (Effects{answered({existing(job)}, kOther), Send{JobNotice{kOther, job, dynamic(job), 0}}}));
}

class Retention : public Story {
 protected:
  PeerId anna;
  void restart_with(std::uint64_t final_bytes) {
    config.final_bytes_max = final_bytes;
    core = std::make_unique<Core>(config);
    anna = worker("anna", {.slots = 99});
  }
  JobId finished(std::uint64_t n, std::uint32_t bytes = 1000) {
    const JobId job = submitted(item(n, "echo"));
    ends(anna, job, Outcome::succeeded, [&](AttemptEnd& e) {
      e.result = 5;
      e.result_bytes = bytes;
    });
    return job;
  }
  void leap(std::chrono::milliseconds d) {  // the wall clock alone: a day is long
    now.wall.ms += d.count();
    now.steady += 100ms;
    say(TimerFired{});
  }
};

TEST_F(Retention, a_result_is_kept_for_those_that_come_after_its_job_however_old_and_large_it_is) {
  restart_with(5000);
  const auto old = finished(1), large = finished(2, 2000);   // 1700 and 2700 bytes with their records
  const auto child = submitted(with(item(3, "detect"), [&](SubmitItem& i) {   // nothing runs it here
    i.fixed.needs.model.clear();
    i.fixed.needs.kind = *kind_index("command");
    i.fixed.after = {old, large};
  }));
  say(FetchedReceived{kClient, {large}});
  finished(4);
  EXPECT_TRUE(core->find(large, now).has_value()) << "there is no room, and it is fetched, and yet it is kept";
  leap(30h);
  EXPECT_EQ(dynamic(old).result_bytes, 1000U);
  EXPECT_EQ(dynamic(large).result_bytes, 2000U);
  expect_reload_is_the_same();
  say(CancelReceived{kClient, ++request, {child}});
  leap(1s);
  EXPECT_FALSE(core->find(large, now).has_value()) << "nobody comes after it any more";
  EXPECT_EQ(dynamic(old).error, Errc::result_expired);
  leap(24h);
  EXPECT_FALSE(core->find(old, now).has_value());
}

TEST_F(Retention, for_room_fetched_results_go_first_and_then_submits_are_refused_until_somebody_fetches) {
  restart_with(5000);
  const auto one = finished(1), two = finished(2), three = finished(3);  // 1700 bytes each with their records
  EXPECT_TRUE(core->find(three, now).has_value());
  forget_effects();
  submit({item(4, "echo")});
  EXPECT_EQ(std::get<SubmitAnswer>(std::get<Send>(effects().at(0)).message).items[0].error.code, Errc::queue_full);
  say(FetchedReceived{kClient, {two}});
  EXPECT_FALSE(core->find(two, now).has_value());
  EXPECT_TRUE(core->find(one, now).has_value()) << "nobody fetched it: it leaves only by age";
  EXPECT_EQ(store.tombstones.count(two), 1U);
  forget_effects();
  submit({item(2, "echo"), with(item(2, "echo"), [](SubmitItem& i) { i.fixed.digest = {9, 9}; }), item(4, "echo")});
  const Effects all = effects();
  std::vector<SubmitOutcome> outcomes;
  for (const Effect& e : all)
    if (const auto* s = std::get_if<Send>(&e))
      if (const auto* a = std::get_if<SubmitAnswer>(&s->message)) outcomes = a->items;
  ASSERT_EQ(outcomes.size(), 3U);
  EXPECT_EQ(outcomes[0], existing(two)) << "its id is remembered though its record is gone";
  EXPECT_EQ(outcomes[1].error.code, Errc::id_conflict);
  EXPECT_TRUE(outcomes[2].ok);
  leap(1h);
  EXPECT_EQ(store.tombstones.count(two), 0U);
}

TEST_F(Retention, by_age_a_fetched_job_is_forgotten_and_an_unfetched_one_first_loses_its_result) {
  restart_with(1U << 20U);
  const auto fetched = finished(1), unfetched = finished(2);
  say(FetchedReceived{kClient, {fetched}});
  leap(24h - 1ms);
  EXPECT_TRUE(core->find(fetched, now).has_value());
  forget_effects();
  leap(1ms);
  EXPECT_FALSE(core->find(fetched, now).has_value());
  EXPECT_EQ(state(unfetched), JobState::succeeded);
  EXPECT_EQ(dynamic(unfetched).error, Errc::result_expired);
  EXPECT_EQ(dynamic(unfetched).result_bytes, 0U);
  EXPECT_THAT(effects(), ::testing::Contains(Effect{Commit{ResultDropped{unfetched}}}));
  EXPECT_EQ(store.tombstones.size(), 0U) << "an hour has passed long ago";
  expect_reload_is_the_same();
  leap(24h);
  EXPECT_FALSE(core->find(unfetched, now).has_value());
  EXPECT_EQ(core->totals().final_bytes, 0U);
}

TEST_F(Submit, lists_come_newest_first_in_pages_and_filtered) {
  for (std::uint64_t i = 1; i <= 7; ++i) submit({item(i, i % 2 == 0 ? "sleep" : "echo")});
  say(CancelReceived{kClient, 3, {job_id(7)}});
  const auto ids = [&](const ListFilter& f) {
    std::vector<std::uint64_t> all;
    for (const JobRecord& r : core->list(f)) all.push_back(r.fixed.id.lo);
    return all;
  };
  using Ids = std::vector<std::uint64_t>;
  EXPECT_EQ(ids({.limit = 3}), (Ids{7, 6, 5}));
  EXPECT_EQ(ids({.after = job_id(5), .limit = 2}), (Ids{4, 3}));
  EXPECT_EQ(ids({.kind = "sleep"}), (Ids{6, 4, 2}));
  EXPECT_EQ(ids({.active_only = true, .limit = 2}), (Ids{6, 5}));
  EXPECT_EQ(ids({.state = JobState::cancelled}), (Ids{7}));
  EXPECT_EQ(core->find(job_id(6), now)->ahead, 5U);
  EXPECT_EQ(core->find(job_id(6), now)->reason, "no worker is connected");
}

}  // namespace
}  // namespace gq::core::story

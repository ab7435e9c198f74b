// core_undurable.cpp - jobs with durability none: kept in memory, waited for by nobody but their caller.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

SubmitItem brief(std::uint64_t n, std::string_view kind = "echo") {
  return with(item(n, kind), [](SubmitItem& i) { i.fixed.durable = false; });
}

class Undurable : public Story {
 protected:
  /// What one step wants written to the store; the rest of it is for memory.
  std::size_t written() {
    std::size_t n = 0;
    for (const Effect& e : effects())
      if (const auto* c = std::get_if<Commit>(&e)) n += c->durable ? 1 : 0;
    return n;
  }
  std::vector<SubmitOutcome> outcomes() {
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* a = std::get_if<SubmitAnswer>(&s->message)) return a->items;
    return {};
  }
  Error refusal(SubmitItem i) {
    forget_effects();
    submit({std::move(i)});
    const auto all = outcomes();
    EXPECT_EQ(all.size(), 1U);
    EXPECT_FALSE(all.at(0).ok);
    return all.at(0).error;
  }
};

TEST_F(Undurable, a_class_may_decide_for_those_who_say_nothing) {
  Policy policy;
  policy.of(JobClass::inference).durable = false;
  say(PolicyLoaded{policy});
  const auto saying = [&](std::uint64_t n, std::string_view kind, const std::function<void(SubmitItem&)>& more = {}) {
    forget_effects();
    submit({with(item(n, kind), [&](SubmitItem& i) {
      i.durability_of_class = true;
      if (more) more(i);
    })});
    const auto all = outcomes();
    EXPECT_TRUE(all.at(0).ok) << all.at(0).error.what;
    EXPECT_EQ(all.at(0).durable, record(job_id(n)).fixed.durable) << "told in the answer";
    return all.at(0).durable;
  };
  EXPECT_FALSE(saying(1, "echo"));
  EXPECT_FALSE(saying(1, "echo")) << "said again";
  EXPECT_TRUE(saying(2, "echo", [](SubmitItem& i) { i.durability_of_class = false; })) << "who says always gets it";
  EXPECT_TRUE(saying(3, "echo", [](SubmitItem& i) { i.fixed.unique = "u"; })) << "a unique key holds over restarts";
  EXPECT_TRUE(saying(4, "echo", [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; })) << "another class";
  EXPECT_TRUE(saying(5, "command", [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::inference; })) << "it outlives its caller";
}

TEST_F(Undurable, its_whole_life_writes_nothing_and_leaves_nothing) {
  const PeerId anna = worker("anna", {.slots = 9});
  forget_effects();
  tick(SubmitReceived{kClient, ++request, "ann", {brief(1)}});
  EXPECT_EQ(written(), 0U);
  EXPECT_EQ(state(job_id(1)), JobState::running);
  EXPECT_FALSE(record(job_id(1)).fixed.durable);
  tick(AttemptsStarted{anna, {grant(job_id(1))}});
  tick(AttemptsEnded{anna, ++request, {end_of(grant(job_id(1)), Outcome::succeeded, [](AttemptEnd& e) { e.result = 5, e.result_bytes = 1000; })}});
  EXPECT_EQ(state(job_id(1)), JobState::succeeded);
  EXPECT_EQ(core->totals().undurable_bytes, 600U + 100 + 1000);
  tick(FetchedReceived{kClient, {job_id(1)}});
  EXPECT_EQ(written(), 0U);
  EXPECT_FALSE(core->find(job_id(1), now).has_value()) << "its caller has it";
  EXPECT_EQ(core->totals().undurable_bytes, 0U);
  EXPECT_TRUE(store.jobs.empty());
  EXPECT_TRUE(store.tombstones.empty());
}

TEST_F(Undurable, nobody_fetches_it_and_it_is_forgotten_a_minute_after_its_end) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(brief(1));
  ends(anna, job, Outcome::succeeded);
  now.wall.ms += 59'000;
  say(TimerFired{});
  EXPECT_TRUE(core->find(job, now).has_value());
  now.wall.ms += 2'000;
  say(TimerFired{});
  EXPECT_FALSE(core->find(job, now).has_value());
}

TEST_F(Undurable, the_clock_of_its_offer_runs_though_no_batch_is_ever_written) {
  worker("anna", {.slots = 9});
  keep_beating("anna");
  tick(SubmitReceived{kClient, ++request, "ann", {brief(1)}});   // and its ASSIGN is lost
  ASSERT_EQ(state(job_id(1)), JobState::running);
  EXPECT_EQ(dynamic(job_id(1)).attempt, 1U);
  after(config.timing.offer_timeout + 1s);
  EXPECT_GE(dynamic(job_id(1)).attempt, 2U) << "it was offered again";
}

TEST_F(Undurable, behind_something_that_is_written_it_waits_for_that_batch) {
  worker("anna", {.slots = 9});
  keep_beating("anna");
  tick(SubmitReceived{kClient, ++request, "ann", {item(1, "command")}});   // a batch gathers; nothing runs this one here
  tick(SubmitReceived{kClient, ++request, "ann", {brief(2)}});             // and nothing of this step leaves before that batch
  ASSERT_EQ(state(job_id(2)), JobState::running);
  for (Duration passed{}; passed < config.timing.offer_timeout + 1s; passed += 500ms) {   // as after() does, but nothing is committed
    now.steady += 500ms;
    now.wall.ms += 500;
    tick(beating["anna"]);
    tick(TimerFired{});
  }
  EXPECT_EQ(dynamic(job_id(2)).attempt, 1U) << "it has not even left yet: no clock runs";
  commit_now();
}

TEST_F(Undurable, a_broker_that_starts_anew_knows_nothing_of_it_and_its_worker_is_told_to_stop) {
  worker("anna", {.slots = 9});
  const auto kept = submitted(item(1, "echo")), lost = submitted(brief(2));
  const Grant one = grant(kept), two = grant(lost);
  const Image image = store.image();
  core = std::make_unique<Core>(config);
  core->load(image, now);
  EXPECT_TRUE(core->find(kept, now).has_value());
  EXPECT_FALSE(core->find(lost, now).has_value());
  forget_effects();
  worker("anna", {.slots = 9, .running = {one, two}});
  for (const Effect& e : effects())
    if (const auto* s = std::get_if<Send>(&e))
      if (const auto* w = std::get_if<WorkerWelcome>(&s->message)) {
        EXPECT_EQ(w->revoke, std::vector{two});
        return;
      }
  FAIL() << "no welcome";
}

TEST_F(Undurable, what_outlives_its_caller_cannot_be_one) {
  push_model("yolo", 1);
  for (const char* kind : {"command", "train.detector", "reserve"}) {
    const Error error = refusal(brief(1, kind));
    EXPECT_EQ(error.code, Errc::bad_message) << kind;
    EXPECT_NE(error.what.find("outlives its caller"), std::string::npos) << error.what;
  }
  EXPECT_EQ(refusal(with(brief(1), [](SubmitItem& i) { i.fixed.unique = "key"; })).code, Errc::bad_message);
  const auto parent = submitted(brief(2));
  EXPECT_EQ(refusal(with(item(3, "echo"), [&](SubmitItem& i) { i.fixed.after = {parent}; })).code, Errc::refused) << "a child on disk would look for it after a restart";
  forget_effects();
  submit({with(detect(4), [](SubmitItem& i) { i.fixed.durable = false; })});
  EXPECT_TRUE(outcomes().at(0).ok);
}

TEST_F(Undurable, the_memory_set_aside_for_them_is_a_limit_and_ends_free_it) {
  config.undurable_bytes_max = 1500;   // two with 100 bytes of arguments
  core = std::make_unique<Core>(config);
  const PeerId anna = worker("anna", {.slots = 1});
  const auto one = submitted(brief(1)), two = submitted(brief(2));
  EXPECT_EQ(refusal(brief(3)).code, Errc::queue_full);
  EXPECT_TRUE(core->find(submitted(item(4, "echo")), now).has_value()) << "the store has room";
  ends(anna, one, Outcome::succeeded, [](AttemptEnd& e) { e.result = 5, e.result_bytes = 500; });
  EXPECT_EQ(refusal(brief(3)).code, Errc::queue_full) << "its result lies there now";
  say(FetchedReceived{kClient, {one}});
  EXPECT_TRUE(core->find(submitted(brief(3)), now).has_value());
  say(CancelReceived{kClient, ++request, {two}});
}

TEST_F(Undurable, a_retry_of_one_is_one) {
  const PeerId anna = worker("anna", {.slots = 9});
  const auto job = submitted(brief(1));
  ends(anna, job, Outcome::failed_final);
  forget_effects();
  tick(RetryReceived{.peer = kClient, .request = ++request, .owner = "ann", .job = job, .new_id = job_id(2), .watch = true});
  EXPECT_FALSE(record(job_id(2)).fixed.durable);
  EXPECT_EQ(written(), 0U);
}

TEST_F(Undurable, it_makes_room_like_any_other_when_a_worker_is_lost) {
  worker("anna", {.slots = 9});
  keep_beating("anna");
  const auto job = submitted(brief(1));
  after(1s);
  beating.clear();
  say(LinksGone{{peers["anna"]}});
  after(config.timing.lease + 5s);
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_EQ(dynamic(job).losses, 1U);
  worker("bert", {.slots = 9});
  EXPECT_EQ(state(job), JobState::running);
}

}  // namespace
}  // namespace gq::core::story

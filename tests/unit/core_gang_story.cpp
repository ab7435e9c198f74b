// core_gang_story.cpp - several devices of one host or nothing; and room that is kept for whoever would wait for ever.
#include "tests/unit/core_preempt_story.h"

namespace gq::core::story {
namespace {

struct Gang : PreemptStory {
  static SubmitItem gang(std::uint64_t n, JobClass c, Mib size, std::uint16_t devices) { return job(n, c, size, devices); }
  static SubmitItem short_one(std::uint64_t n, Mib size, Duration timeout) {
    return with(synthesis(n, size), [&](SubmitItem& i) { i.fixed.timeout = timeout; });
  }
};

TEST_F(Gang, gets_all_devices_of_one_host_or_none) {
  gpu_worker("a", {.devices = {gpu("GPU-0")}});
  gpu_worker("b", {.devices = {gpu("GPU-1")}});
  const JobId pair = submitted(gang(1, JobClass::training, {8000}, 2));
  EXPECT_EQ(state(pair), JobState::ready) << "two hosts with one each are not a pair";
  gpu_worker("c", {.devices = {gpu("GPU-2"), gpu("GPU-3")}});
  EXPECT_EQ(state(pair), JobState::running);
  EXPECT_EQ(dynamic(pair).devices, (std::vector<std::string>{"GPU-2", "GPU-3"}));
}

TEST_F(Gang, preempts_on_all_devices_of_one_host_and_starts_when_the_last_has_come) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0"), gpu("GPU-1"), gpu("GPU-2")}});
  const JobId zero = running(a, synthesis(1, {9000}));
  const JobId one = running(a, synthesis(2, {9000}));
  wait(5s);
  const JobId two = running(a, synthesis(3, {9000}));
  say(CheckpointSaved{a, grant(one), {blob(1), 1}});
  forget_effects();
  const JobId pair = submitted(gang(4, JobClass::training, {8000}, 2));
  EXPECT_EQ(asked_now(), (Jobs{one, two})) << "the two that lose least";
  EXPECT_EQ(state(zero), JobState::running);
  yields(a, one);
  EXPECT_EQ(state(pair), JobState::ready);
  EXPECT_EQ(state(one), JobState::ready) << "what it gave back is held for the pair";
  yields(a, two);
  EXPECT_EQ(state(pair), JobState::running);
}

TEST_F(Gang, asks_nobody_while_one_host_cannot_hold_it) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0"), gpu("GPU-1")}});
  const JobId draws = running(a, synthesis(1, {9000}));
  const JobId trains = running(a, train(2, {9000}));
  submit({gang(3, JobClass::training, {8000}, 2)});
  wait(60s);
  EXPECT_EQ(state(draws), JobState::running) << "its equal on the other card would not leave: why should it";
  EXPECT_EQ(state(trains), JobState::running);
}

TEST_F(Gang, whose_one_victim_sits_on_two_devices_asks_it_once) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0"), gpu("GPU-1")}});
  const JobId wide = submitted(gang(1, JobClass::synthesis, {9000}, 2));
  started(a, wide);
  wait(1s);
  forget_effects();
  const JobId pair = submitted(gang(2, JobClass::training, {8000}, 2));
  EXPECT_EQ(asked_now(), Jobs{wide});
  yields(a, wide);
  EXPECT_EQ(state(pair), JobState::running);
}

TEST_F(Gang, that_has_waited_for_long_gets_room_that_small_jobs_cannot_eat_up) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0"), gpu("GPU-1")}, .starts = 10'000});
  std::uint64_t n = 100;
  Jobs small;
  const auto refill = [&] {  // always more small jobs than fit
    std::vector<SubmitItem> more;
    for (int i = 0; i < 6; ++i) more.push_back(train(++n, {4000}));
    for (const SubmitItem& i : more) small.push_back(i.fixed.id);
    submit(more);
  };
  refill();
  refill();
  const JobId pair = submitted(gang(1, JobClass::training, {8000}, 2));
  const auto end_one_of_them = [&] {
    for (const JobId& id : small)
      if (state(id) == JobState::running) return ends(a, id, Outcome::succeeded);
  };
  int minutes = 0;
  for (; minutes < 60 && state(pair) != JobState::running; ++minutes) {
    wait(60s);
    end_one_of_them();
    if (minutes % 4 == 0) refill();
  }
  EXPECT_GE(minutes, 10) << "nothing is kept before it has waited for ten minutes";
  EXPECT_LE(minutes, 16) << "four small jobs ran then; each minute one ends";
  EXPECT_EQ(state(pair), JobState::running);
}

TEST_F(Gang, or_a_job_that_only_fits_a_whole_device_waits_no_longer_than_those_who_run_there) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0")}, .starts = 10'000});
  running(a, train(1, {5000}));
  running(a, train(2, {5000}));
  const JobId large = submitted(train(3, {9000}));
  std::vector<SubmitItem> small;
  for (std::uint64_t i = 10; i < 30; ++i) small.push_back(synthesis(i, {4000}));
  submit(small);
  wait(601s);
  ends(a, job_id(1), Outcome::succeeded);
  EXPECT_EQ(state(job_id(10)), JobState::ready) << "5,000 MiB are free, and kept";
  EXPECT_EQ(device("GPU-0").free, Mib{1000});
  EXPECT_EQ(state(submitted(synthesis(50, {900}))), JobState::running) << "what fits beside it may start";
  ends(a, job_id(2), Outcome::succeeded);
  EXPECT_EQ(state(large), JobState::running);
}

TEST_F(Gang, is_passed_only_by_jobs_that_surely_end_before_it_could_start) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0"), gpu("GPU-1")}, .starts = 10'000});
  const JobId first = running(a, with(train(1, {9000}), [](SubmitItem& i) { i.fixed.timeout = 700s; }));
  const JobId second = running(a, with(train(2, {9000}), [](SubmitItem& i) { i.fixed.timeout = 1000s; }));
  const JobId pair = submitted(gang(3, JobClass::training, {8000}, 2));
  wait(601s);  // about 400 seconds remain until the second one's timeout
  ends(a, first, Outcome::succeeded);
  const JobId open_end = submitted(synthesis(4, {5000}));
  const JobId too_long = submitted(short_one(5, {5100}, 500s));
  const JobId short_enough = submitted(short_one(6, {5200}, 120s));
  EXPECT_EQ(state(open_end), JobState::ready);
  EXPECT_EQ(state(too_long), JobState::ready);
  EXPECT_EQ(state(short_enough), JobState::running);
  started(a, short_enough);
  ends(a, short_enough, Outcome::succeeded);
  EXPECT_EQ(state(pair), JobState::ready);
  ends(a, second, Outcome::succeeded);
  EXPECT_EQ(state(pair), JobState::running);
}

TEST_F(Gang, that_goes_away_gives_its_reservation_back_at_once) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0")}, .starts = 100});
  running(a, train(1, {5000}));
  running(a, train(2, {5000}));
  const JobId large = submitted(train(3, {9000}));
  const JobId small = submitted(synthesis(4, {4000}));
  wait(601s);
  ends(a, job_id(1), Outcome::succeeded);
  EXPECT_EQ(state(small), JobState::ready);
  say(CancelReceived{kClient, ++request, {large}});
  EXPECT_EQ(state(small), JobState::running);
}

TEST_F(Gang, or_a_large_job_has_nothing_reserved_against_a_higher_class) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0")}, .starts = 100});
  const auto never = [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; };
  running(a, with(train(1, {5000}), never));
  running(a, with(train(2, {5000}), never));
  const JobId large = submitted(synthesis(3, {9000}));
  const JobId equal = submitted(synthesis(4, {4000}));
  wait(601s);
  const JobId head = submitted(inference(5, {4000}));
  EXPECT_EQ(state(head), JobState::ready) << "it has just looked for room, and nobody may be asked";
  ends(a, job_id(1), Outcome::succeeded);
  EXPECT_EQ(state(head), JobState::running) << "at once, and not when it looks again";
  EXPECT_EQ(state(equal), JobState::ready) << "of its own class nobody passes";
  EXPECT_EQ(state(large), JobState::ready);
}

TEST_F(Gang, or_a_large_job_gives_its_room_to_a_higher_class_that_is_let_in_later) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0")}, .starts = 100});
  running(a, train(1, {5000}));
  running(a, train(2, {5000}));
  config.policy.of(JobClass::inference).running_max = 1;
  say(PolicyLoaded{config.policy});
  const JobId large = submitted(train(3, {9000}));
  wait(601s);
  ends(a, job_id(1), Outcome::succeeded);
  const JobId first = running(a, inference(5, {1000}));
  const JobId second = submitted(inference(6, {5000}));
  EXPECT_EQ(state(second), JobState::ready) << "its class is full";
  ends(a, first, Outcome::succeeded);
  EXPECT_EQ(state(second), JobState::running);
  EXPECT_EQ(state(large), JobState::ready);
  EXPECT_EQ(core->totals().preempted, 0U);
}

TEST_F(Gang, or_a_large_job_with_a_reservation_on_one_card_gives_it_up_for_a_victim_on_another) {
  config.policy.of(JobClass::synthesis).min_run = 700s;
  say(PolicyLoaded{config.policy});
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0"), gpu("GPU-1")}, .starts = 100});
  running(a, with(train(1, {9000}), [](SubmitItem& i) { i.fixed.timeout = 2000s; }));
  const JobId draws = running(a, synthesis(2, {9000}));
  const JobId large = submitted(train(3, {9000}));
  wait(650s);
  EXPECT_EQ(core->totals().plans_made, 1U) << "a reservation, where the end is known";
  EXPECT_EQ(state(draws), JobState::running);
  wait(52s);
  EXPECT_EQ(state(draws), JobState::yielding);
  EXPECT_EQ(core->totals().plans_made, 2U);
  yields(a, draws);
  EXPECT_EQ(state(large), JobState::running);
  EXPECT_EQ(state(draws), JobState::ready);
}

TEST_F(Gang, or_a_large_job_gives_its_reservation_up_for_a_higher_class) {
  const PeerId a = gpu_worker("a", {.devices = {gpu("GPU-0")}, .starts = 100});
  running(a, train(1, {5000}));
  running(a, train(2, {5000}));
  const JobId large = submitted(train(3, {9000}));
  wait(601s);
  ends(a, job_id(1), Outcome::succeeded);
  EXPECT_EQ(state(large), JobState::ready);
  EXPECT_EQ(state(submitted(inference(4, {4000}))), JobState::running) << "nobody needs to leave for it";
  EXPECT_EQ(core->totals().preempted, 0U);
}

}  // namespace
}  // namespace gq::core::story

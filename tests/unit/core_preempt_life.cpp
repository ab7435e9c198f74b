// core_preempt_life.cpp - one preemption from the request to the return of the victim, and everything that may cut it short.
#include "tests/unit/core_preempt_story.h"

namespace gq::core::story {
namespace {

class Preemption : public PreemptStory {
 protected:
  /// A card of 10,000 MiB; a training job holds 8,000 of it; an inference job needs 6,000.
  PeerId w = gpu_worker("w", {.devices = {gpu("GPU-7")}});
  JobId victim = running(w, train(1, {8000}));
  JobId head{job_id(2)};
  void ask() {
    wait(2s);
    forget_effects();
    submit({inference(2, {6000})});
  }
};

TEST_F(Preemption, is_asked_for_with_a_reason_a_deadline_and_the_name_of_whom_it_serves) {
  wait(2s);
  forget_effects();
  const JobRecord before = record(victim);
  submit({inference(2, {6000})});
  JobDynamic asked = before.dynamic;
  asked.state = JobState::yielding;
  asked.leave_reason = "command needs 5.9 GiB on GPU-7";
  asked.leave_for = head;
  const Grant grant{victim, 1, before.dynamic.nonce};
  JobRecord created = record(head);
  EXPECT_EQ(effects(), (Effects{Commit{JobCreated{created, 1002, {}}}, answered({ok(head)}),
                                Commit{JobChanged{victim, JobState::running, asked, 1, JobClass::training}},
                                Send{Preempt{w, 2, grant, "command needs 5.9 GiB on GPU-7", 10s}}}));
  EXPECT_EQ(state(head), JobState::ready) << "it may not start before the memory is released";
  EXPECT_EQ(core->totals().preempted, 1U);
  EXPECT_EQ(core->totals().plans_made, 1U);
}

TEST_F(Preemption, starts_the_preemptor_when_the_memory_is_released_and_the_victim_is_ready_when_its_state_is_safe) {
  ask();
  wait(3s);
  EXPECT_EQ(state(head), JobState::ready);
  released(w, victim);
  EXPECT_EQ(state(head), JobState::running) << "the first acknowledgement is what it waits for";
  EXPECT_EQ(state(victim), JobState::yielding) << "its checkpoint is still being written";
  yields(w, victim, 40);
  const JobDynamic v = dynamic(victim);
  EXPECT_EQ(v.state, JobState::ready);
  EXPECT_EQ(std::tuple(v.evictions, v.preemptions, v.failures, v.losses), std::tuple(1U, 1U, 0U, 0U));
  EXPECT_EQ(v.checkpoint.step, 40U);
  expect_reload_is_the_same();
}

TEST_F(Preemption, gives_the_victim_its_old_place_and_its_checkpoint_back) {
  ask();
  submit({train(3, {8000})});  // behind the victim, and has never run
  yields(w, victim, 40);
  EXPECT_EQ(state(head), JobState::running);
  started(w, head);
  forget_effects();
  ends(w, head, Outcome::succeeded);
  EXPECT_EQ(state(victim), JobState::running);
  EXPECT_EQ(state(job_id(3)), JobState::ready) << "who left comes back before those behind it";
  Checkpoint resumed;
  for (const Effect& e : effects())
    if (const auto* s = std::get_if<Send>(&e))
      if (const auto* a = std::get_if<Assign>(&s->message)) resumed = a->resume;
  EXPECT_EQ(resumed.step, 40U);
}

TEST_F(Preemption, is_rolled_back_at_once_when_the_preemptor_is_cancelled) {
  ask();
  released(w, victim);
  EXPECT_EQ(state(head), JobState::running);
  const JobId second = submitted(inference(4, {9000}));  // needs the first one's place: an equal, nobody leaves
  EXPECT_EQ(state(second), JobState::ready);
  EXPECT_EQ(core->totals().plans_made, 1U);

  // Again, cancelled before anything was released: a small job of the lowest class gets the room that was held.
  yields(w, victim);
  say(CancelReceived{kClient, ++request, {second}});
  ends(w, head, Outcome::succeeded);
  EXPECT_EQ(state(victim), JobState::running);
  started(w, victim);
  const JobId third = submitted(inference(5, {6000}));
  EXPECT_EQ(state(victim), JobState::yielding);
  const JobId small = submitted(synthesis(6, {8000}));
  say(CancelReceived{kClient, ++request, {third}});
  EXPECT_EQ(device("GPU-7").granted, Mib{8000}) << "nothing is held for nobody";
  EXPECT_EQ(state(victim), JobState::yielding) << "who was asked still leaves";
  yields(w, victim);
  EXPECT_EQ(state(victim), JobState::running) << "and is first in line again";
  EXPECT_EQ(state(small), JobState::ready);
}

TEST_F(Preemption, needs_no_victim_that_ends_by_itself) {
  ask();
  ends(w, victim, Outcome::succeeded);
  EXPECT_EQ(state(victim), JobState::succeeded);
  EXPECT_EQ(state(head), JobState::running);
  EXPECT_EQ(dynamic(victim).evictions, 0U);
}

TEST_F(Preemption, counts_a_crash_inside_the_grace_as_a_failure_and_not_as_having_yielded) {
  ask();
  ends(w, victim, Outcome::crashed, [](AttemptEnd& e) { e.error = Errc::job_failed; });
  EXPECT_EQ(state(victim), JobState::failed);
  EXPECT_EQ(std::tuple(dynamic(victim).failures, dynamic(victim).preemptions, dynamic(victim).evictions), std::tuple(1U, 0U, 0U));
  EXPECT_EQ(state(head), JobState::running);
}

TEST_F(Preemption, outlives_the_worker_that_dies_while_its_victim_yields) {
  ask();
  beating.clear();
  const PeerId other = gpu_worker("v", {.devices = {gpu("GPU-9", {7000})}});
  EXPECT_EQ(state(head), JobState::running) << "it starts where there is room";
  EXPECT_EQ(device("GPU-7").granted, Mib{8000}) << "the room on the other card is held no longer";
  started(other, head);
  wait(12s);
  EXPECT_EQ(state(victim), JobState::ready);
  EXPECT_EQ(dynamic(victim).losses, 1U);
  EXPECT_EQ(core->totals().plans_expired, 0U);
}

TEST_F(Preemption, of_a_victim_that_does_not_hear_ends_in_its_kill_and_costs_the_job_nothing) {
  ask();
  wait(14s);
  EXPECT_EQ(state(victim), JobState::yielding) << "its worker should have killed it after ten; it has five more to say so";
  const Grant deaf = grant(victim);
  wait(1s);
  const JobDynamic v = dynamic(victim);
  EXPECT_EQ(v.state, JobState::ready);
  EXPECT_EQ(std::tuple(v.evictions, v.failures, v.losses, v.attempt), std::tuple(1U, 0U, 0U, 1U));
  EXPECT_EQ(core->totals().killed_at_deadline, 1U);
  EXPECT_EQ(core->totals().plans_expired, 0U);

  // It may still sit in memory: the room is charged until a heartbeat omits it, and the heartbeat is told to stop it.
  say(WorkerBeat{w, UINT64_MAX, {deaf}, {}});
  EXPECT_EQ(state(head), JobState::ready);
  beat(w, {});
  EXPECT_EQ(state(head), JobState::running);
  ends(w, {end_of(deaf, Outcome::succeeded)});
  EXPECT_EQ(state(victim), JobState::ready) << "words of a grant that was taken back are stale";
}

TEST_F(Preemption, that_cannot_come_true_any_more_is_given_up_at_once) {
  ask();
  DeviceReport grown = gpu("GPU-7");
  grown.used = {5000};  // somebody else's process, beside what is ours
  say(WorkerBeat{w, UINT64_MAX, {grant(victim)}, {grown}});
  EXPECT_EQ(device("GPU-7").granted, Mib{8000}) << "held room would keep the rest from others for nothing";
  yields(w, victim);
  EXPECT_EQ(state(head), JobState::ready);
  EXPECT_EQ(state(submitted(synthesis(9, {4000}))), JobState::running);
}

TEST_F(Preemption, that_cannot_come_true_any_more_is_soon_planned_elsewhere) {
  const PeerId v = gpu_worker("v", {.devices = {gpu("GPU-9")}});
  const JobId other = running(v, train(3, {9500}));
  ask();
  const Jobs first = asked_now();
  ASSERT_EQ(first.size(), 1U);
  const bool here = first.front() == victim;
  DeviceReport grown = gpu(here ? "GPU-7" : "GPU-9");
  grown.used = {5000};
  forget_effects();
  say(WorkerBeat{here ? w : v, UINT64_MAX, {grant(here ? victim : other)}, {grown}});
  EXPECT_EQ(asked_now(), Jobs{});
  after(100ms);
  EXPECT_EQ(asked_now(), Jobs{here ? other : victim}) << "not a whole second later";
}

TEST_F(Preemption, is_repeated_in_heartbeats_and_after_a_restart_until_the_job_has_left) {
  ask();
  const Grant g = grant(victim);
  say(WorkerBeat{w, 1, {g}, {}});
  bool repeated = false;
  for (const Effect& e : effects())
    if (const auto* now_sent = std::get_if<SendNow>(&e))
      if (const auto* a = std::get_if<BeatAnswer>(&now_sent->message)) repeated = repeated || (a->preempts.size() == 1 && a->preempts[0].grant == g);
  EXPECT_TRUE(repeated);

  config.restarted = true;
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  core->check_invariants();
  const PeerId again = worker("w", {.devices = {gpu("GPU-7")}, .running = {g}, .instance = 1});
  EXPECT_EQ(asked_now(), Jobs{victim}) << "whether the word got out before the restart, nobody knows";
  EXPECT_EQ(state(head), JobState::ready);
  yields(again, victim, 7);
  EXPECT_EQ(state(head), JobState::running);
  EXPECT_EQ(dynamic(victim).evictions, 1U) << "for whom it left is on record";
  EXPECT_EQ(core->totals().preempted, 0U) << "nobody was asked twice";
}

TEST_F(Preemption, by_hand_serves_nobody_and_protects_nobody) {
  say(PreemptAsked{victim, "ann preempted it", 5s});
  EXPECT_EQ(dynamic(victim).leave_reason, "ann preempted it");
  yields(w, victim);
  EXPECT_EQ(std::tuple(dynamic(victim).preemptions, dynamic(victim).evictions), std::tuple(1U, 0U));
}

}  // namespace
}  // namespace gq::core::story

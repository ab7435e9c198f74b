// core_preempt_models.cpp - models that leave their device: the cheapest step before anybody is asked, and the last one after.
#include "tests/unit/core_preempt_story.h"

namespace gq::core::story {
namespace {

struct Models : PreemptStory {
  PeerId w = gpu_worker("w", {.devices = {gpu("GPU-0")}, .starts = 100});
  std::uint16_t next_lane{20};
  std::map<std::string, std::uint16_t> lanes;

  void under(const std::function<void(Policy&)>& change) {
    change(config.policy);
    say(PolicyLoaded{config.policy});
  }
  SubmitItem asks(std::uint64_t n, const std::string& model, JobClass c = JobClass::inference) {
    return with(detect(n, model), [&](SubmitItem& i) { i.fixed.needs.job_class = c; });
  }
  /// Pushed, loaded by a job of that class, warm and idle.
  void warm(const std::string& model, std::uint8_t content, Mib size, JobClass c = JobClass::inference) {
    push_model(model, content, size);
    const JobId loader = submitted(asks(1000 + content, model, c));
    EXPECT_EQ(state(loader), JobState::running);
    started(w, loader);
    lanes[model] = next_lane;
    open_warm(w, next_lane++, "GPU-0", model + "@" + version_of(content), 64);
    ends(w, loader, Outcome::succeeded);
    forget_effects();
  }
  void closes(const std::string& model) { say(WorkerPulled{w, {}, {lanes[model]}, {}}); }
};

TEST_F(Models, idle_ones_leave_before_any_job_is_asked_and_the_least_recently_used_first) {
  warm("old", 1, {3000});
  wait(1s);
  warm("new", 2, {3000});
  const JobId trains = running(w, train(1, {2000}));
  wait(20s);
  forget_effects();
  submit({inference(2, {4000})});
  EXPECT_EQ(evicted_now(), std::vector<std::string>{"GPU-0 old"});
  EXPECT_EQ(state(trains), JobState::running);
  EXPECT_EQ(state(job_id(2)), JobState::ready);
  closes("old");
  EXPECT_EQ(state(job_id(2)), JobState::running);
  EXPECT_EQ(core->totals().evicted_models, 1U);
  EXPECT_EQ(device("GPU-0").warm.size(), 1U);
}

TEST_F(Models, of_a_higher_class_leave_for_a_lower_one_only_after_they_were_idle_for_a_while) {
  warm("yolo", 1, {6000});
  submit({train(1, {6000})});
  wait(8s);
  EXPECT_EQ(evicted_now(), std::vector<std::string>{});
  wait(3s);
  EXPECT_EQ(evicted_now().size(), 1U);
}

TEST_F(Models, of_a_lower_class_leave_for_a_higher_one_at_once) {
  warm("paint", 1, {6000}, JobClass::synthesis);
  submit({inference(1, {6000})});
  EXPECT_EQ(evicted_now().size(), 1U);
}

TEST_F(Models, in_use_for_a_lower_class_leave_once_their_jobs_have) {
  warm("paint", 1, {6000}, JobClass::synthesis);
  const JobId draws = running(w, asks(1, "paint", JobClass::synthesis));
  forget_effects();
  const JobId head = submitted(inference(2, {6000}));
  EXPECT_EQ(state(draws), JobState::yielding);
  EXPECT_EQ(evicted_now(), std::vector<std::string>{}) << "its job still runs there";
  EXPECT_EQ(state(submitted(asks(3, "paint", JobClass::synthesis))), JobState::ready) << "and nothing new starts on it";
  forget_effects();
  yields(w, draws);
  EXPECT_EQ(evicted_now(), std::vector<std::string>{"GPU-0 paint"});
  EXPECT_EQ(state(head), JobState::ready);
  closes("paint");
  EXPECT_EQ(state(head), JobState::running);
}

TEST_F(Models, in_use_for_a_higher_class_stay) {
  warm("yolo", 1, {6000});
  const JobId detects = running(w, asks(1, "yolo"));
  submit({train(2, {6000})});
  wait(60s);
  EXPECT_EQ(state(detects), JobState::running);
  EXPECT_EQ(evicted_now(), std::vector<std::string>{});
}

TEST_F(Models, that_are_kept_loaded_by_the_policy_stay_for_others_and_leave_for_their_own_class) {
  Reservation keep;
  keep.kind = Reservation::Size::loaded;
  keep.for_class = JobClass::inference;
  under([&](Policy& p) { p.reservations.push_back(keep); });
  warm("yolo", 1, {6000});
  submit({train(1, {6000})});
  wait(60s);
  EXPECT_EQ(evicted_now(), std::vector<std::string>{});
  submit({inference(2, {6000})});
  wait(1s);
  EXPECT_EQ(evicted_now().size(), 1U);
}

TEST_F(Models, that_a_worker_goes_on_using_stop_being_asked_for_and_the_plan_expires) {
  warm("yolo", 1, {6000});
  wait(20s);
  const JobId head = submitted(inference(1, {6000}));
  EXPECT_EQ(evicted_now().size(), 1U);
  bool reminded = false;
  say(WorkerBeat{w, UINT64_MAX, {}, {}});
  for (const Effect& e : effects())
    if (const auto* s = std::get_if<SendNow>(&e))
      if (const auto* a = std::get_if<BeatAnswer>(&s->message)) reminded = reminded || a->evictions.size() == 1;
  EXPECT_TRUE(reminded);
  wait(9s);
  EXPECT_EQ(core->totals().plans_expired, 0U);
  wait(2s);
  EXPECT_EQ(core->totals().plans_expired, 1U);
  EXPECT_EQ(state(submitted(asks(2, "yolo"))), JobState::running) << "its model may be used again";
  EXPECT_EQ(state(head), JobState::ready);
}

TEST_F(Models, beside_which_a_class_may_not_run_are_vacated_but_not_unloaded) {
  under([](Policy& p) { p.of(JobClass::inference).not_beside = {JobClass::training}; });
  warm("yolo", 1, {3000});
  const JobId one = running(w, train(1, {2000}));
  const JobId two = running(w, train(2, {2000}));
  wait(2s);
  forget_effects();
  const JobId head = submitted(asks(3, "yolo"));
  EXPECT_EQ(asked_now(), (Jobs{one, two})) << "both: memory there is enough of";
  yields(w, one);
  EXPECT_EQ(state(one), JobState::ready) << "it would only be in the way again";
  EXPECT_EQ(state(head), JobState::ready);
  yields(w, two);
  EXPECT_EQ(state(head), JobState::running);
  EXPECT_EQ(core->totals().evicted_models, 0U);
}

}  // namespace
}  // namespace gq::core::story

// core_explain.cpp - what a person reads who asks why: the first no of every device, by how much, and what would make it run.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

using Kind = Remedy::Kind;

class ExplainStory : public Story {
 protected:
  ExplainStory() : Story(plain()) {}
  static CoreConfig plain() {
    CoreConfig c = fresh();
    for (ClassPolicy& of : c.policy.classes) of.budget = {}, of.min_run = {}, of.grace = 10s;
    return c;
  }
  Explanation why(JobId job) { return core->explain(job, now).value(); }
  Explanation planned(const SubmitItem& i) { return core->plan(i.fixed, now).value(); }
  static std::optional<Remedy> remedy(const Explanation& e, Kind kind) {
    for (const Remedy& r : e.remedies)
      if (r.kind == kind) return r;
    return std::nullopt;
  }
  static DeviceReport card(const std::string& uuid, std::uint16_t index, Mib total) {
    DeviceReport r = gpu(uuid, total);
    r.index = index;
    return r;
  }
  void two_cards() { worker("anna", {.devices = {card("GPU-a", 0, {8000}), card("GPU-b", 1, {4000})}}); }
};

TEST_F(ExplainStory, the_closest_device_comes_first_with_what_it_lacks) {
  two_cards();
  const JobId holder = submitted(training(1, {6000}));
  const JobId waiting = submitted(training(2, {5000}));
  const Explanation e = why(waiting);
  ASSERT_EQ(e.places.size(), 2U);
  EXPECT_EQ(e.places[0].device, "GPU-b");
  EXPECT_EQ(e.places[0].constraint, "fits_the_ledger");
  EXPECT_EQ(e.places[0].lacking, Mib{1000});
  EXPECT_EQ(e.places[1].device, "GPU-a");
  EXPECT_EQ(e.places[1].lacking, Mib{3000});
  EXPECT_EQ(e.refusals, (std::vector<std::pair<std::string, std::uint64_t>>{{"fits_the_ledger", 2}}));
  EXPECT_FALSE(e.would_start);
  EXPECT_FALSE(e.never);
  const std::optional<Remedy> smaller = remedy(e, Kind::smaller_budget);
  ASSERT_TRUE(smaller.has_value());
  EXPECT_EQ(smaller->text, "gpuq update " + to_string(waiting) + " --vram 4000MiB   (fits on anna/1 now)");
  const std::optional<Remedy> wait = remedy(e, Kind::wait_for_jobs);
  ASSERT_TRUE(wait.has_value());
  EXPECT_EQ(wait->jobs, std::vector<JobId>{holder});
  const std::optional<Remedy> pod = remedy(e, Kind::add_worker);
  ASSERT_TRUE(pod.has_value());
  EXPECT_EQ(pod->text, "add a worker with 5000 MiB of free device memory: a pod with NVIDIA RTX A4000");
}

TEST_F(ExplainStory, the_proposed_budget_really_starts_it) {
  two_cards();
  submitted(training(1, {6000}));
  const JobId waiting = submitted(training(2, {5000}));
  const Mib offered = remedy(why(waiting), Kind::smaller_budget)->budget;
  JobUpdate update;
  update.budget = std::pair(offered, offered);
  say(UpdateReceived{kClient, ++request, "ann", waiting, update});
  EXPECT_EQ(state(waiting), JobState::running);
}

TEST_F(ExplainStory, who_would_be_stopped_is_named_before_anybody_is) {
  config.policy.of(JobClass::training).min_run = 60s;
  core = std::make_unique<Core>(config);
  worker("anna", {.devices = {gpu("GPU-a", {8000})}});
  const JobId victim = submitted(training(1, {6000}));
  SubmitItem urgent = with(item(2, "command"), [](SubmitItem& i) {
    i.fixed.needs.job_class = JobClass::inference;
    i.fixed.needs.budget_min = {4000};
  });
  EXPECT_FALSE(remedy(planned(urgent), Kind::victims).has_value()) << "it may not be stopped before its minimum run time";
  started(peers["anna"], victim);
  keep_beating("anna", {grant(victim)});
  after(61s);
  const Explanation e = planned(urgent);
  EXPECT_FALSE(e.would_start);
  const std::optional<Remedy> victims = remedy(e, Kind::victims);
  ASSERT_TRUE(victims.has_value());
  EXPECT_EQ(victims->jobs, std::vector<JobId>{victim});
  EXPECT_EQ(state(victim), JobState::running) << "planning stops nobody";
  const JobId job = submitted(urgent);
  EXPECT_EQ(state(victim), JobState::yielding);
  const std::optional<Remedy> asked = remedy(why(job), Kind::wait_for_jobs);
  ASSERT_TRUE(asked.has_value());
  EXPECT_EQ(asked->jobs, std::vector<JobId>{victim});
}

TEST_F(ExplainStory, a_window_is_named_with_the_moment_it_opens) {
  config.policy.windows.push_back({"nights", "UTC", {{now.wall.ms + 3'600'000, now.wall.ms + 7'200'000}}});
  config.policy.of(JobClass::training).window = 0;
  core = std::make_unique<Core>(config);
  worker("anna", {.devices = {gpu("GPU-a", {8000})}});
  const Explanation e = why(submitted(training(1, {4000})));
  ASSERT_EQ(e.places.size(), 1U);
  EXPECT_EQ(e.places[0].constraint, "window_open");
  const std::optional<Remedy> wait = remedy(e, Kind::wait_until);
  ASSERT_TRUE(wait.has_value());
  EXPECT_EQ(wait->when.ms, now.wall.ms + 3'600'000);
}

TEST_F(ExplainStory, what_a_person_switched_can_be_switched_back) {
  two_cards();
  say(FleetCommand{kClient, ++request, FleetVerb::drain, "anna", "root", "new driver", {}});
  say(FleetCommand{kClient, ++request, FleetVerb::pause_class, "synthesis", "root", "", {}});
  EXPECT_EQ(remedy(why(submitted(training(1, {4000}))), Kind::undrain)->text, "gpuq undrain anna   (drained: new driver)");
  say(FleetCommand{kClient, ++request, FleetVerb::undrain, "anna", "root", "", {}});
  const JobId gan = submitted(with(item(2, "command"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  EXPECT_EQ(remedy(why(gan), Kind::resume_class)->text, "gpuq queue resume synthesis");
  say(JobCommand{kClient, ++request, JobVerb::hold, "ann", "", {}, {gan}});
  EXPECT_EQ(why(gan).remedies.front().text, "gpuq release " + to_string(gan));
}

TEST_F(ExplainStory, what_fits_nowhere_says_so_and_says_what_to_rent) {
  two_cards();
  const Explanation e = planned(training(1, {30'000}));
  EXPECT_TRUE(e.never);
  EXPECT_EQ(e.summary, "NO_FIT: no worker that is known could ever run it");
  ASSERT_EQ(e.remedies.size(), 1U);
  EXPECT_EQ(e.remedies[0].text, "add a worker with 29.3 GiB of free device memory: a pod with NVIDIA RTX 5000 Ada Generation");
  EXPECT_TRUE(planned(with(training(2, {1000}), [](SubmitItem& i) { i.fixed.needs.devices = 3; })).never) << "no host has three devices";
  EXPECT_TRUE(planned(with(training(3, {1000}), [](SubmitItem& i) { i.fixed.needs.where = {"zone=moon"}; })).never);
}

TEST_F(ExplainStory, without_a_worker_nobody_can_say_never) {
  const Explanation e = planned(training(1, {30'000}));
  EXPECT_FALSE(e.never);
  EXPECT_EQ(e.summary, "no worker is connected");
}

TEST_F(ExplainStory, what_submit_would_refuse_the_plan_refuses_with_the_same_words) {
  SubmitItem bad = training(1, {5000}, {4000});
  const auto plan = core->plan(bad.fixed, now);
  ASSERT_FALSE(plan.has_value());
  submit({bad});
  const auto answer = std::get<SubmitAnswer>(std::get<Send>(effects().front()).message);
  EXPECT_EQ(answer.items.front().error, plan.error());
}

// ---- another policy, rehearsed

TEST_F(ExplainStory, another_policy_is_tried_on_what_is_here_and_changes_nothing) {
  two_cards();
  const JobId on_a = submitted(training(1, {6000}));
  const JobId waiting = submitted(training(2, {3000}));  // on GPU-b
  const JobId blocked = submitted(training(3, {2000}));  // 2000 left on a
  const JobId stuck = submitted(training(4, {3900}));
  ASSERT_EQ(state(stuck), JobState::ready);
  forget_effects();
  EXPECT_EQ(core->plan(config.policy, now), (PolicyPlan{})) << "the policy in force changes nothing";

  Policy other = config.policy;
  other.of(JobClass::training).devices = {{DeviceSelector::Kind::uuid, "GPU-b", 0}};
  PolicyPlan plan = core->plan(other, now);
  std::set<JobId> stranded;
  for (const auto& c : plan.stranded) stranded.insert(c.job);
  EXPECT_EQ(stranded, (std::set<JobId>{on_a, blocked}));
  EXPECT_TRUE(plan.would_start.empty());
  EXPECT_EQ(state(on_a), JobState::running);
  EXPECT_EQ(state(waiting), JobState::running);
  expect_silence();

  Policy roomier = config.policy;
  roomier.devices.push_back({{DeviceSelector::Kind::uuid, "GPU-nowhere", 0}, 10, {}, {}, {}, {}});
  roomier.reservations.push_back({Reservation::Size::mib, JobClass::inference, {DeviceSelector::Kind::uuid, "GPU-b", 0}, Mib{9000}, 0, kAlways});
  plan = core->plan(roomier, now);
  EXPECT_EQ(plan.warnings, (std::vector<std::string>{"[class.inference] reserve keeps 9000 MiB on GPU-b, which has only 4000 MiB: all of it is kept",
                                                     "[device.\"GPU-nowhere\"] names device GPU-nowhere, and no worker reports it now"}));
}

TEST_F(ExplainStory, a_policy_that_closes_the_window_would_ask_who_runs_to_leave) {
  two_cards();
  const JobId job = submitted(training(1, {6000}));
  Policy nights = config.policy;
  nights.windows.push_back({"nights", "UTC", {{now.wall.ms + 3'600'000, now.wall.ms + 7'200'000}}});
  nights.of(JobClass::training).window = 0;
  const PolicyPlan plan = core->plan(nights, now);
  ASSERT_EQ(plan.stranded.size(), 1U);
  EXPECT_EQ(plan.stranded[0].job, job);
  EXPECT_THAT(plan.stranded[0].text, testing::HasSubstr("would be asked to leave: the window of class training is closed"));
}

TEST_F(ExplainStory, a_policy_that_frees_a_device_starts_who_waits_there) {
  config.policy.of(JobClass::synthesis).devices = {{DeviceSelector::Kind::uuid, "GPU-b", 0}};
  core = std::make_unique<Core>(config);
  two_cards();
  const JobId gan = submitted(with(item(1, "command"), [](SubmitItem& i) {
    i.fixed.needs.job_class = JobClass::synthesis;
    i.fixed.needs.budget_min = {6000};
  }));
  EXPECT_EQ(state(gan), JobState::ready);
  EXPECT_TRUE(why(gan).never);
  Policy open = config.policy;
  open.of(JobClass::synthesis).devices.clear();
  const PolicyPlan plan = core->plan(open, now);
  EXPECT_EQ(plan.would_start, (std::vector<PolicyPlan::Change>{{gan, "it would start on GPU-a"}}));
}

}  // namespace
}  // namespace gq::core::story

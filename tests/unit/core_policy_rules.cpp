// core_policy_rules.cpp - which class may be where: device lists, exclusions, caps, pauses, drains, heat, and a policy that changes.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

DeviceSelector uuid(std::string text) { return {DeviceSelector::Kind::uuid, std::move(text), 0}; }
DeviceSelector label(std::string text) { return {DeviceSelector::Kind::label, std::move(text), 0}; }
DeviceSelector host(std::string text, std::uint16_t index) { return {DeviceSelector::Kind::host_index, std::move(text), index}; }
DeviceSelector bare(std::uint16_t index) { return {DeviceSelector::Kind::index, "", index}; }

class Rules : public Story {
 protected:
  void policy(const std::function<void(Policy&)>& change) {
    change(config.policy);
    say(PolicyLoaded{config.policy});
  }
  std::string why(JobId job) { return core->find(job, now)->reason; }
  std::vector<std::string> at(JobId job) { return dynamic(job).devices; }
  static SubmitItem of(JobClass c, std::uint64_t n, Mib size = {1000}) {
    return with(training(n, size, size), [&](SubmitItem& i) { i.fixed.needs.job_class = c; });
  }
  static DeviceReport at_index(DeviceReport r, std::uint16_t index) {
    r.index = index;
    return r;
  }
  void temperature(PeerId peer, std::int16_t celsius) {
    DeviceReport r = gpu("G");
    r.temperature_c = celsius;
    say(WorkerBeat{peer, UINT64_MAX, {}, {r}});
  }
  void settle(FleetVerb verb, std::string target) {
    say(FleetCommand{kClient, ++request, verb, std::move(target), "ann", "cleaning", {}});
    forget_effects();
  }
};

// ---- device lists

TEST_F(Rules, a_class_uses_only_the_devices_that_the_policy_gives_it) {
  policy([](Policy& p) { p.of(JobClass::training).devices = {uuid("B")}; });
  worker("anna", {.devices = {gpu("A"), gpu("B", {4'000})}});
  forget_effects();
  const auto small = submitted(of(JobClass::training, 1, {3000}));
  EXPECT_EQ(effects(), (Effects{created(of(JobClass::training, 1, {3000}), JobState::ready), answered({ok(small)}), granted(small, "anna", {"B"}, {3000}),
                                reads(small), assigns("anna", 1, small, 11)}));
  const auto large = submitted(of(JobClass::training, 2, {5000}));
  EXPECT_EQ(state(large), JobState::ready) << "it would fit on A";
  EXPECT_EQ(why(large).substr(0, 50), "B is the closest: needs 5000 MiB, the whole device");
  EXPECT_EQ(at(submitted(of(JobClass::inference, 3, {5000}))), std::vector<std::string>{"A"});
}

TEST_F(Rules, a_device_is_named_by_a_label_of_its_worker_or_of_the_policy_with_any_value_or_one) {
  policy([](Policy& p) {
    DevicePolicy d;
    d.device = uuid("B");
    d.labels = {"pool=night"};
    p.devices = {d};
    p.of(JobClass::training).devices = {label("pool=night")};
    p.of(JobClass::synthesis).devices = {label("rack")};
  });
  worker("anna", {.devices = {gpu("A"), gpu("B")}, .labels = {"pool=day"}});
  worker("bert", {.devices = {gpu("C")}, .labels = {"rack=7"}});
  EXPECT_EQ(at(submitted(of(JobClass::training, 1))), std::vector<std::string>{"B"});
  EXPECT_EQ(at(submitted(of(JobClass::synthesis, 2))), std::vector<std::string>{"C"});
  const auto too_much = submitted(of(JobClass::synthesis, 3, {9'500}));
  EXPECT_EQ(state(too_much), JobState::ready);
}

TEST_F(Rules, a_second_worker_on_a_card_brings_its_labels_and_what_they_allow_starts_at_once) {
  policy([](Policy& p) { p.of(JobClass::training).devices = {label("pool=night")}; });
  worker("anna", {.devices = {gpu("A")}, .labels = {"pool=day"}});
  const auto job = submitted(of(JobClass::training, 1));
  EXPECT_EQ(state(job), JobState::ready);
  worker("bert", {.devices = {gpu("A")}, .labels = {"pool=night"}});
  EXPECT_EQ(at(job), std::vector<std::string>{"A"});
}

TEST_F(Rules, host_and_index_mean_the_pci_order_of_that_host) {
  policy([](Policy& p) { p.of(JobClass::training).devices = {host("bert", 1)}; });
  worker("anna", {.devices = {at_index(gpu("A0"), 0), at_index(gpu("A1"), 1)}});
  const auto job = submitted(of(JobClass::training, 1));
  EXPECT_EQ(why(job), "class training runs on bert/1 only");
  worker("bert", {.devices = {at_index(gpu("B0"), 0), at_index(gpu("B1"), 1)}});
  EXPECT_EQ(at(job), std::vector<std::string>{"B1"});
}

TEST_F(Rules, a_bare_index_names_a_device_only_while_one_host_is_known) {
  policy([](Policy& p) { p.of(JobClass::training).devices = {bare(1)}; });
  worker("anna", {.devices = {at_index(gpu("A0"), 0), at_index(gpu("A1"), 1)}});
  EXPECT_EQ(at(submitted(of(JobClass::training, 1))), std::vector<std::string>{"A1"});
  const PeerId bert = worker("bert", {.devices = {at_index(gpu("B0"), 0), at_index(gpu("B1"), 1)}});
  const auto waits = submitted(of(JobClass::training, 2));
  EXPECT_EQ(state(waits), JobState::ready) << "which 1?";
  EXPECT_EQ(why(waits), "class training runs on 1 only");
  say(WorkerGoodbye{bert});
  EXPECT_EQ(at(waits), std::vector<std::string>{"A1"}) << "it means a device again";
}

// ---- exclusions

TEST_F(Rules, what_is_not_beside_another_class_waits_until_that_has_left_the_device_and_the_other_way_round) {
  policy([](Policy& p) { p.of(JobClass::synthesis).not_beside = {JobClass::training}; });
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  const auto train = submitted(with(of(JobClass::training, 1), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  forget_effects();
  const auto fill = submitted(of(JobClass::synthesis, 2));
  EXPECT_EQ(state(fill), JobState::ready);
  EXPECT_EQ(why(fill), "a job of class training runs on the device, and class synthesis does not run beside it");
  EXPECT_EQ(state(submitted(of(JobClass::inference, 3))), JobState::running) << "inference may be beside both";
  ends(anna, train, Outcome::succeeded);
  EXPECT_EQ(state(fill), JobState::running);
  const auto next = submitted(with(of(JobClass::training, 4), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  ends(anna, fill, Outcome::succeeded);
  EXPECT_EQ(state(next), JobState::running);
}

TEST_F(Rules, an_exclusion_holds_per_device_and_a_class_may_exclude_itself) {
  policy([](Policy& p) { p.of(JobClass::training).not_beside = {JobClass::training}; });
  worker("anna", {.devices = {gpu("A"), gpu("B")}});
  const auto one = submitted(of(JobClass::training, 1));
  const auto two = submitted(of(JobClass::training, 2));
  const auto three = submitted(of(JobClass::training, 3));
  EXPECT_NE(at(one), at(two));
  EXPECT_EQ(state(three), JobState::ready);
  ends(peers["anna"], one, Outcome::succeeded);
  EXPECT_EQ(at(three), at(one));
}

TEST_F(Rules, an_idle_warm_model_is_beside_nobody) {
  push_model("yolo", 1, {3000});
  policy([](Policy& p) { p.of(JobClass::training).not_beside = {JobClass::inference}; });
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  const auto look = submitted(detect(1));
  open_warm(anna, 20, "G", "yolo@" + version_of(1), 8);
  const auto train = submitted(with(of(JobClass::training, 2), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  EXPECT_EQ(state(train), JobState::ready);
  ends(anna, look, Outcome::succeeded);
  EXPECT_EQ(state(train), JobState::running);
  const auto more = submitted(detect(3));
  EXPECT_EQ(state(more), JobState::ready) << "warm or not: it would run beside training";
  ends(anna, train, Outcome::succeeded);
  EXPECT_EQ(state(more), JobState::running);
}

// ---- rented devices

TEST_F(Rules, a_class_that_stays_out_of_the_cloud_starts_on_no_rented_worker_and_says_so) {
  policy([](Policy& p) { p.of(JobClass::synthesis).cloud = false; });
  const PeerId pod = worker("pod", {.slots = 4, .devices = {gpu("A")}, .labels = {"cloud=runpod"}});
  const auto train = submitted(of(JobClass::training, 1));
  EXPECT_EQ(at(train), std::vector<std::string>{"A"}) << "other classes go there";
  const auto job = submitted(of(JobClass::synthesis, 2));
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_EQ(why(job), "class synthesis starts on no rented device, and worker pod is rented");
  const auto on_slot = submitted(with(item(3, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  EXPECT_EQ(state(on_slot), JobState::ready) << "nor on the rented machine's processor";
  const auto e = core->explain(job, now);
  EXPECT_EQ(e->refusals, (std::vector<std::pair<std::string, std::uint64_t>>{{"class_allowed_in_cloud", 1}}));
  EXPECT_EQ(e->remedies.front().text, "start a worker of your own, or allow rented ones: cloud = \"allowed\" in [class.synthesis] of gpuq.toml, then gpuq config reload");
  EXPECT_TRUE(e->never);
  worker("home", {.devices = {gpu("B")}, .labels = {"cloudy=yes"}});
  EXPECT_EQ(at(job), std::vector<std::string>{"B"});
  const auto more = submitted(of(JobClass::synthesis, 4, {9'500}));
  EXPECT_EQ(state(more), JobState::ready);
  ends(pod, train, Outcome::succeeded);
  EXPECT_EQ(state(more), JobState::ready);
  policy([](Policy& p) { p.of(JobClass::synthesis).cloud = true; });
  EXPECT_EQ(at(more), std::vector<std::string>{"A"});
  EXPECT_EQ(state(on_slot), JobState::running);
}

// ---- caps, pauses, drains

TEST_F(Rules, no_more_jobs_of_a_class_run_than_its_cap_wherever_there_is_room) {
  policy([](Policy& p) { p.of(JobClass::training).running_max = 2; });
  const PeerId anna = worker("anna", {.slots = 9, .devices = {gpu("A"), gpu("B")}});
  const auto echo = with(item(1, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::training; });
  const auto on_slots = submitted(echo);
  const auto on_device = submitted(of(JobClass::training, 2));
  const auto third = submitted(of(JobClass::training, 3, {2000}));
  const auto fourth = submitted(of(JobClass::training, 4));
  EXPECT_EQ(state(third), JobState::ready);
  EXPECT_EQ(why(third), "2 jobs of class training run, at most 2 may");
  EXPECT_EQ(state(submitted(of(JobClass::synthesis, 5))), JobState::running);
  ends(anna, on_slots, Outcome::succeeded);
  EXPECT_EQ(state(third), JobState::running) << "on a device, though it was a slot that came free";
  EXPECT_EQ(state(fourth), JobState::ready);
  ends(anna, on_device, Outcome::succeeded);
  EXPECT_EQ(state(fourth), JobState::running);
  const auto fifth = submitted(of(JobClass::training, 6));
  policy([](Policy& p) { p.of(JobClass::training).running_max = 0; });
  EXPECT_EQ(state(fifth), JobState::running);
}

TEST_F(Rules, a_paused_class_starts_nothing_says_who_paused_it_and_goes_on_when_resumed_also_after_a_restart) {
  worker("anna", {.devices = {gpu("G")}});
  settle(FleetVerb::pause_class, "training");
  const auto job = submitted(of(JobClass::training, 1));
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_EQ(why(job), "class training is paused by ann: cleaning");
  EXPECT_EQ(state(submitted(of(JobClass::synthesis, 2))), JobState::running);
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  worker("bert", {.devices = {gpu("H")}});
  EXPECT_EQ(state(job), JobState::ready);
  settle(FleetVerb::resume_class, "training");
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Rules, a_draining_place_takes_nothing_new_says_so_and_a_model_warm_there_keeps_nobody_waiting) {
  push_model("yolo", 1, {3000});
  const PeerId anna = worker("anna", {.devices = {gpu("A")}});
  const auto first = submitted(detect(1));
  open_warm(anna, 20, "A", "yolo@" + version_of(1), 8);
  settle(FleetVerb::drain, "A");
  EXPECT_EQ(device("A").state, "draining");
  const auto second = submitted(detect(2));
  EXPECT_EQ(why(second), "device A is draining by ann: cleaning");
  EXPECT_EQ(state(first), JobState::running) << "who runs may finish";
  worker("bert", {.devices = {gpu("B")}});
  EXPECT_EQ(at(second), std::vector<std::string>{"B"}) << "a copy of the model, because the warm one is out of reach";
  settle(FleetVerb::undrain, "A");
  EXPECT_EQ(device("A").state, "ok");
}

TEST_F(Rules, a_model_warm_where_a_class_may_not_go_does_not_keep_the_class_from_loading_its_own) {
  push_model("yolo", 1, {3000});
  policy([](Policy& p) { p.of(JobClass::synthesis).devices = {uuid("B")}; });
  const PeerId anna = worker("anna", {.devices = {gpu("A", {9'000}), gpu("B")}});
  const auto look = submitted(detect(1));
  EXPECT_EQ(at(look), std::vector<std::string>{"A"});
  open_warm(anna, 20, "A", "yolo@" + version_of(1), 8);
  const auto batch_look = submitted(with(detect(2), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  EXPECT_EQ(at(batch_look), std::vector<std::string>{"B"});
}

// ---- heat

TEST_F(Rules, a_hot_device_rests_from_83_degrees_until_75) {
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  temperature(anna, 83);
  EXPECT_EQ(device("G").state, "hot (83 C)");
  const auto job = submitted(of(JobClass::training, 1));
  forget_effects();
  temperature(anna, 76);
  EXPECT_EQ(effects(), (Effects{SendNow{BeatAnswer{anna, {}, {}, {}, {}}}}));
  EXPECT_EQ(why(job), "the device is at 76 C: it takes jobs again at 75 C");
  temperature(anna, 75);
  EXPECT_EQ(state(job), JobState::running);
  EXPECT_EQ(device("G").state, "ok");
  temperature(anna, 82);
  EXPECT_EQ(device("G").state, "ok");
}

TEST_F(Rules, when_a_device_is_too_hot_is_the_policy_s_to_say_for_each_device) {
  policy([](Policy& p) {
    DevicePolicy d;
    d.device = uuid("G");
    d.hold_at_c = std::int16_t{60};
    d.resume_at_c = std::int16_t{50};
    p.devices = {d};
  });
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  temperature(anna, 60);
  EXPECT_EQ(device("G").state, "hot (60 C)");
  temperature(anna, 51);
  EXPECT_EQ(device("G").state, "hot (51 C)");
  temperature(anna, -1);
  EXPECT_EQ(device("G").state, "ok") << "a worker that cannot measure is believed";
}

// ---- another policy

TEST_F(Rules, another_ladder_reorders_who_waits_at_once) {
  const auto train = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::training; }));
  const auto infer = submitted(item(2, "echo"));
  policy([](Policy& p) { p.ladder = {JobClass::training, JobClass::synthesis, JobClass::inference}; });
  const auto fill = submitted(with(item(3, "echo"), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  forget_effects();
  worker("anna", {.slots = 3});
  EXPECT_EQ(assigned_now(), (std::vector{train, fill, infer}));
}

TEST_F(Rules, aging_switched_off_means_strict_priority_at_once) {
  const auto old = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.priority = 4; }));
  after(60min);
  const auto urgent = submitted(with(item(2, "echo"), [](SubmitItem& i) { i.fixed.priority = 5; }));
  policy([](Policy& p) { p.aging = false; });
  forget_effects();
  worker("anna", {.slots = 1});
  EXPECT_EQ(assigned_now(), std::vector{urgent});
  EXPECT_EQ(state(old), JobState::ready);
}

TEST_F(Rules, a_policy_that_gives_room_starts_what_waited_for_it_and_one_that_takes_it_stops_nobody) {
  policy([](Policy& p) { p.of(JobClass::training).devices = {uuid("elsewhere")}; });
  worker("anna", {.devices = {gpu("G")}});
  const auto job = submitted(of(JobClass::training, 1));
  forget_effects();
  was(job) = dynamic(job);
  policy([](Policy& p) { p.of(JobClass::training).devices.clear(); });
  EXPECT_EQ(assigned_now(), std::vector{job});
  policy([](Policy& p) { p.of(JobClass::training).devices = {uuid("elsewhere")}; });
  EXPECT_EQ(effects(), Effects{});
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Rules, a_gang_obeys_the_rules_on_each_of_its_devices) {
  policy([](Policy& p) {
    p.of(JobClass::training).devices = {label("gang")};
    DevicePolicy d;
    d.device = uuid("A");
    d.labels = {"gang=1"};
    p.devices = {d};
  });
  worker("anna", {.devices = {gpu("A"), gpu("B")}});
  const auto gang = submitted(with(of(JobClass::training, 1), [](SubmitItem& i) { i.fixed.needs.devices = 2; }));
  EXPECT_EQ(state(gang), JobState::ready);
  policy([](Policy& p) { p.devices[0].device = {DeviceSelector::Kind::any, "", 0}; });
  EXPECT_EQ(at(gang), (std::vector<std::string>{"A", "B"}));
}

}  // namespace
}  // namespace gq::core::story

// core_devices.cpp - ledgers, budgets, best fit, models and their lanes, suspects: where a job may start, and with how much.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

using Devices = Story;

TEST_F(Devices, best_fit_takes_the_tightest_card_that_suffices) {
  worker("anna", {.devices = {gpu("big", {24'000}), gpu("small", {8'000})}});
  const auto job = submitted(training(1, {6000}));
  EXPECT_EQ(dynamic(job).devices, std::vector<std::string>{"small"});
  const auto next = submitted(training(2, {6000}));
  EXPECT_EQ(dynamic(next).devices, std::vector<std::string>{"big"});
}

TEST_F(Devices, foreign_use_headroom_and_the_driver_are_not_ours_to_grant) {
  config.policy.headroom_pct = 5;
  core = std::make_unique<Core>(config);
  DeviceReport r = gpu("G", {10'000});
  r.driver = {300};
  r.used = {4300};        // 300 driver, 1000 ours, 3000 a notebook
  r.used_by_us = {1000};
  worker("anna", {.devices = {r}});
  EXPECT_EQ(device("G").foreign, Mib{3000});
  EXPECT_EQ(device("G").headroom, Mib{500});
  EXPECT_EQ(device("G").free, Mib{6200});
  const auto job = submitted(training(1, {6201}));
  EXPECT_EQ(state(job), JobState::ready);
  EXPECT_EQ(core->find(job, now)->reason, "G is the closest: needs 6201 MiB, 6200 MiB is free: 1 MiB short (used by others: 3000 MiB)");
  r.used = {4299};
  say(WorkerBeat{peers["anna"], 0, {}, {r}});
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Devices, what_several_workers_children_use_of_one_card_is_not_foreign) {
  DeviceReport a = gpu("G"), b = gpu("G");
  a.used = b.used = {5000};
  a.used_by_us = {2000};
  b.used_by_us = {3000};
  worker("anna", {.devices = {a}});
  EXPECT_EQ(device("G").foreign, Mib{3000});
  worker("bert", {.devices = {b}});
  EXPECT_EQ(device("G").foreign, Mib{0});
}

TEST_F(Devices, a_range_is_granted_as_large_as_fits_and_a_default_is_clamped_to_the_card) {
  worker("anna", {.devices = {gpu("G", {10'000}), gpu("tiny", {1'000})}});
  const auto fixed = submitted(training(1, {6000}));
  const auto range = submitted(training(2, {1000}, kRestOfDevice));
  EXPECT_EQ(dynamic(fixed).granted, Mib{6000});
  EXPECT_EQ(dynamic(range).granted, Mib{1000}) << "the tightest card that suffices, all of it";
  EXPECT_EQ(dynamic(range).devices, std::vector<std::string>{"tiny"});
  const auto rest = submitted(training(3, {2000}, kRestOfDevice));
  EXPECT_EQ(dynamic(rest).granted, Mib{4000});
  const auto by_default = submitted(training(4));
  EXPECT_EQ(state(by_default), JobState::ready);
  ends(peers["anna"], range, Outcome::succeeded);
  EXPECT_EQ(dynamic(by_default).granted, Mib{1000}) << "2048 by default, clamped to a card of 1000";
}

TEST_F(Devices, a_gang_gets_all_its_devices_on_one_host_or_none) {
  worker("anna", {.devices = {gpu("A")}});
  worker("bert", {.devices = {gpu("B1"), gpu("B2")}});
  const auto single = submitted(training(1, {9000}));
  const auto gang = submitted(with(training(2, {5000}), [](SubmitItem& i) { i.fixed.needs.devices = 2; }));
  if (dynamic(single).devices.front() == "A") {
    EXPECT_EQ(dynamic(gang).devices.size(), 2U);
  } else {
    EXPECT_EQ(state(gang), JobState::ready);
    ends(peers["bert"], single, Outcome::succeeded);
  }
  EXPECT_EQ(dynamic(gang).devices, (std::vector<std::string>{"B1", "B2"}));
  EXPECT_EQ(device("B1").granted, Mib{5000});
  EXPECT_EQ(device("B2").granted, Mib{5000});
  ends(peers["bert"], gang, Outcome::succeeded);
  EXPECT_EQ(device("B1").granted, Mib{0});
  expect_reload_is_the_same();
}

TEST_F(Devices, labels_and_kinds_decide_where) {
  worker("anna", {.slots = 5, .labels = {"zone=b"}});
  const auto job = submitted(with(item(1, "echo"), [](SubmitItem& i) { i.fixed.needs.where = {"zone=a"}; }));
  EXPECT_EQ(core->find(job, now)->reason, "no worker has these labels");
  worker("bert", {.slots = 5, .labels = {"disk=fast", "zone=a"}});
  EXPECT_EQ(dynamic(job).worker, "bert");
}

TEST_F(Devices, five_thousand_impossible_jobs_do_not_hold_up_the_one_behind_them) {
  worker("anna", {.devices = {gpu("G", {8'000})}});
  std::vector<SubmitItem> items;
  for (std::uint64_t i = 1; i <= 5000; ++i) items.push_back(training(i, {80'000}));
  items.push_back(training(9000, {4000}));
  submit(items);
  EXPECT_EQ(assigned_now(), std::vector{job_id(9000)});
}

TEST_F(Devices, a_model_is_loaded_once_charged_once_and_served_from_its_warm_lane) {
  push_model("yolo", 1, {3000});
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  const auto first = submitted(detect(1));
  const auto second = submitted(detect(2));
  EXPECT_EQ(dynamic(first).granted, Mib{3000});
  EXPECT_EQ(dynamic(first).model_version, version_of(1));
  EXPECT_EQ(state(second), JobState::ready) << "it waits for the warm lane instead of loading the model twice";
  EXPECT_EQ(device("G").granted, Mib{3000});
  open_warm(anna, 20, "G", "yolo@" + version_of(1), 8);
  EXPECT_EQ(state(second), JobState::running);
  EXPECT_EQ(device("G").granted, Mib{3000});
  EXPECT_EQ(device("G").warm, std::vector<std::string>{"yolo@" + version_of(1)});
  ends(anna, first, Outcome::succeeded);
  ends(anna, second, Outcome::succeeded);
  EXPECT_EQ(device("G").granted, Mib{3000}) << "it stays loaded";
  say(WorkerPulled{anna, {}, {20}, {}});
  EXPECT_EQ(device("G").granted, Mib{0}) << "evicted";
}

TEST_F(Devices, a_load_that_fails_gives_its_memory_back_and_the_next_job_tries) {
  push_model("yolo", 1, {3000});
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  const auto first = submitted(detect(1));
  const auto second = submitted(detect(2));
  ends(anna, first, Outcome::failed_final);
  EXPECT_EQ(state(second), JobState::running);
  EXPECT_EQ(device("G").granted, Mib{3000});
  ends(anna, second, Outcome::succeeded);
  beat(anna, {});
  EXPECT_EQ(device("G").granted, Mib{0}) << "it ended, and its worker keeps no lane for the model";
}

TEST_F(Devices, a_long_queue_is_worth_a_second_copy_on_a_free_card) {
  push_model("yolo", 1, {3000});
  worker("anna", {.devices = {gpu("A"), gpu("B")}});
  for (std::uint64_t i = 1; i <= 9; ++i) submit({detect(i)});
  EXPECT_EQ(device("A").granted.value + device("B").granted.value, 3000);
  submit({detect(10)});
  EXPECT_EQ(device("A").granted.value + device("B").granted.value, 6000) << "nine wait behind one load";
}

TEST_F(Devices, a_name_means_the_promoted_version_at_the_time_of_the_grant) {
  push_model("yolo", 1);
  const auto plain = submitted(detect(1));
  const auto pinned = submitted(detect(2, "yolo@" + version_of(1)));
  push_model("yolo", 2);
  worker("anna", {.devices = {gpu("G")}});
  EXPECT_EQ(dynamic(plain).model_version, version_of(2));
  EXPECT_EQ(dynamic(pinned).model_version, version_of(1));
  forget_effects();
  say(ModelRemoveReceived{kClient, 5, "yolo", version_of(2)});
  const Effects all = effects();
  EXPECT_EQ(all.at(0), (Effect{Commit{ModelRemoved{"yolo", version_of(2)}}}));
  const auto& answer = std::get<ModelAnswer>(std::get<Send>(all.at(2)).message);
  EXPECT_TRUE(answer.ok);
  EXPECT_EQ(answer.dropped, std::vector{blob(2)});
  ASSERT_EQ(core->models().size(), 1U);
  EXPECT_TRUE(core->models()[0].promoted) << "the newest that is left";
  const auto orphan = submitted(detect(3, "yolo@" + version_of(1)));
  say(ModelRemoveReceived{kClient, 6, "yolo", ""});
  forget_effects();
  submit({detect(4)});
  EXPECT_EQ(effects(), (Effects{answered({{job_id(4), false, false, Error{Errc::unknown_model, "model yolo is not registered", "gpuq model push NAME PATH"}}})}));
  EXPECT_EQ(core->find(orphan, now)->reason, "its model has been removed");
  say(ModelRemoveReceived{kClient, 7, "yolo", ""});
  EXPECT_EQ(effects(), (Effects{Send{ModelAnswer{kClient, 7, false, Error{Errc::unknown_model, "model yolo is not registered", "gpuq model list"}, {}, {}}}}));
}

class Suspects : public Story {
 protected:
  PeerId anna;
  void SetUp() override {
    push_model("yolo", 1, {3000});
    anna = worker("anna", {.devices = {gpu("G")}, .starts = 100});
    open_warm(anna, 20, "G", "yolo@" + version_of(1), 1000);
  }
  void crash(std::vector<JobId> together) {
    std::vector<AttemptEnd> all;
    for (const JobId job : together) all.push_back(end_of(grant(job), Outcome::crashed));
    ends(anna, std::move(all));
  }
};

TEST_F(Suspects, from_its_second_crash_on_a_job_runs_alone_so_that_the_poison_condemns_only_itself) {
  std::vector<JobId> batch_of_jobs;
  for (std::uint64_t i = 1; i <= 4; ++i) batch_of_jobs.push_back(submitted(detect(i)));
  crash(batch_of_jobs);
  for (const JobId job : batch_of_jobs) ASSERT_EQ(state(job), JobState::running) << "once may be anybody's fault";
  crash(batch_of_jobs);
  int running = 0;
  for (const JobId job : batch_of_jobs) running += state(job) == JobState::running ? 1 : 0;
  EXPECT_EQ(running, 1) << "now one after the other";
  const auto bystander = submitted(detect(50));
  EXPECT_EQ(state(bystander), JobState::ready);
  crash({batch_of_jobs[0]});  // the poison
  EXPECT_EQ(state(batch_of_jobs[0]), JobState::quarantined);
  for (std::size_t i = 1; i < 4; ++i) {
    ASSERT_EQ(state(batch_of_jobs[i]), JobState::running);
    ends(anna, batch_of_jobs[i], Outcome::succeeded);
  }
  EXPECT_EQ(state(bystander), JobState::running);
  ends(anna, bystander, Outcome::succeeded);
}

TEST_F(Suspects, a_busy_device_makes_room_for_a_suspect) {
  const auto suspect = submitted(detect(1));
  crash({suspect});
  std::vector<JobId> busy;
  for (std::uint64_t i = 10; i < 14; ++i) busy.push_back(submitted(detect(i)));
  crash({suspect});
  EXPECT_EQ(state(suspect), JobState::ready);
  const auto later = submitted(detect(20));
  EXPECT_EQ(state(later), JobState::ready) << "the device lets its jobs finish and takes no more";
  for (const JobId job : busy) ends(anna, job, Outcome::succeeded);
  EXPECT_EQ(state(suspect), JobState::running);
  EXPECT_EQ(state(later), JobState::ready);
  ends(anna, suspect, Outcome::succeeded);
  EXPECT_EQ(state(later), JobState::running);
}

TEST_F(Suspects, a_cancelled_suspect_gives_the_device_free_again) {
  const auto suspect = submitted(detect(1));
  crash({suspect});
  const auto busy = submitted(detect(10));
  crash({suspect});
  const auto later = submitted(detect(20));
  EXPECT_EQ(state(later), JobState::ready);
  say(CancelReceived{kClient, 4, {suspect}});
  EXPECT_EQ(state(later), JobState::running);
  EXPECT_EQ(state(busy), JobState::running);
}

}  // namespace
}  // namespace gq::core::story

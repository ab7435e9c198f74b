// core_policy_ledger.cpp - memory to the MiB: budgets, reservations, headroom, what others use, and who gives way to them.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

class Ledger : public Story {
 protected:
  void policy(const std::function<void(Policy&)>& change) {
    change(config.policy);
    say(PolicyLoaded{config.policy});
    forget_effects();
  }
  static Reservation keep(JobClass c, std::string uuid, Mib size) {
    Reservation r;
    r.for_class = c;
    r.device = {DeviceSelector::Kind::uuid, std::move(uuid), 0};
    r.size = size;
    return r;
  }
  std::string why(JobId job) { return core->find(job, now)->reason; }
  /// A model of that size, loaded by a job that goes on running.
  JobId holds_model(PeerId peer, std::uint64_t n, Mib size) {
    const std::string name = "model" + std::to_string(n);
    push_model(name, static_cast<std::uint8_t>(n), size);
    const JobId job = submitted(detect(n, name));
    EXPECT_EQ(state(job), JobState::running) << name;
    open_warm(peer, static_cast<std::uint16_t>(20 + n), dynamic(job).devices.at(0), name + "@" + version_of(static_cast<std::uint8_t>(n)), 8);
    return job;
  }
  void others_use(PeerId peer, Mib foreign, Mib ours, std::vector<Grant> running) {
    DeviceReport r = gpu("G");
    r.used = foreign + ours;
    r.used_by_us = ours;
    say(WorkerBeat{peer, UINT64_MAX, std::move(running), {r}});
  }
};

TEST_F(Ledger, an_8192_mib_card_with_1000_used_by_others_holds_four_models_and_a_fifth_of_exactly_the_rest_and_refuses_one_mib_more) {
  DeviceReport card = gpu("G", {8192});
  card.used = {1000};
  const PeerId anna = worker("anna", {.devices = {card}, .starts = 99});
  std::uint64_t n = 0;
  for (const Mib size : {Mib{600}, Mib{3500}, Mib{1200}, Mib{300}}) holds_model(anna, ++n, size);
  EXPECT_EQ(device("G").free, Mib{1592});

  push_model("more", 60, {1593});
  const auto one_too_large = submitted(detect(60, "more"));
  EXPECT_EQ(state(one_too_large), JobState::ready);
  EXPECT_EQ(why(one_too_large), "G is the closest: needs 1593 MiB, 1592 MiB is free: 1 MiB short (used by others: 1000 MiB)");

  const auto fifth = holds_model(anna, 5, {1592});
  EXPECT_EQ(dynamic(fifth).granted, Mib{1592});
  EXPECT_EQ(device("G").free, Mib{0});
  EXPECT_EQ(device("G").granted, Mib{7192});
  const auto last_straw = submitted(training(70, {1}, {1}));
  EXPECT_EQ(state(last_straw), JobState::ready);
  EXPECT_EQ(why(last_straw), "G is the closest: needs 1 MiB, 0 MiB is free: 1 MiB short (used by others: 1000 MiB)");
  EXPECT_EQ(device("G").holders.size(), 5U);
}

TEST_F(Ledger, two_workers_that_report_one_card_share_one_ledger_and_together_never_exceed_it) {
  worker("anna", {.devices = {gpu("G")}});
  worker("bert", {.devices = {gpu("G")}});
  forget_effects();
  std::vector<SubmitItem> items;
  for (std::uint64_t i = 1; i <= 5; ++i) items.push_back(training(i, {3000}, {3000}));
  submit(items);
  EXPECT_EQ(assigned_now(), (std::vector{job_id(1), job_id(2), job_id(3)}));
  EXPECT_EQ(device("G").granted, Mib{9000});
  EXPECT_EQ(device("G").free, Mib{1000});
  const PeerId of_first = peers[dynamic(job_id(1)).worker];
  ends(of_first, job_id(1), Outcome::succeeded);
  EXPECT_EQ(assigned_now(), std::vector{job_id(4)});
  EXPECT_EQ(device("G").free, Mib{1000});
  // Both lose their workers' word at once: what each held stays charged until its own worker says otherwise.
  say(WorkerGoodbye{of_first});
  EXPECT_LE(device("G").granted, Mib{10'000});
}

TEST_F(Ledger, a_job_that_names_no_budget_gets_as_much_as_is_free_up_to_its_class_s_budget) {
  worker("anna", {.devices = {gpu("big", {24'000})}});
  const auto first = submitted(training(1));
  EXPECT_EQ(dynamic(first).granted, Mib{12'288}) << "training's budget";
  const auto second = submitted(training(2));
  EXPECT_EQ(dynamic(second).granted, Mib{11'712}) << "what is left, which is more than the kind's 2048";
  const auto third = submitted(training(3));
  EXPECT_EQ(state(third), JobState::ready);
  ends(peers["anna"], second, Outcome::succeeded);
  EXPECT_EQ(dynamic(third).granted, Mib{11'712});
}

TEST_F(Ledger, a_class_s_budget_is_clamped_to_the_card_and_bounds_nobody_who_asks_for_more) {
  worker("anna", {.devices = {gpu("small", {8'000})}});
  const auto by_default = submitted(training(1));
  EXPECT_EQ(dynamic(by_default).granted, Mib{8'000});
  worker("bert", {.devices = {gpu("big", {24'000})}});
  const auto asks = submitted(training(2, {20'000}, {20'000}));
  EXPECT_EQ(dynamic(asks).granted, Mib{20'000});
  ends(peers["bert"], asks, Outcome::succeeded);
  const auto rest = submitted(training(3, {2'000}, kRestOfDevice));
  EXPECT_EQ(dynamic(rest).granted, Mib{24'000});
}

TEST_F(Ledger, a_class_s_budget_of_nothing_means_the_kind_s_default) {
  policy([](Policy& p) { p.of(JobClass::training).budget = {}; });
  worker("anna", {.devices = {gpu("G")}});
  EXPECT_EQ(dynamic(submitted(training(1))).granted, Mib{2048});
  policy([](Policy& p) { p.of(JobClass::training).budget = {1000}; });
  EXPECT_EQ(dynamic(submitted(training(2))).granted, Mib{1000}) << "a ceiling below the kind's default";
}

TEST_F(Ledger, a_model_pushed_without_a_budget_is_charged_a_gibibyte_and_its_weights) {
  const auto anna = worker("anna", {.devices = {gpu("G", {24'000})}});
  push_model("small", 1, {}, 60ULL << 20U);
  submitted(detect(1, "small"));
  EXPECT_EQ(device("G").granted, Mib{1024}) << "there is room for small ones in it";
  push_model("large", 2, {}, 1024ULL << 20U);
  submitted(detect(2, "large"));
  EXPECT_EQ(device("G").granted, Mib{1024 + 1024 + 1024 - 64});
  push_model("told", 3, {500}, 1024ULL << 20U);
  submitted(detect(3, "told"));
  EXPECT_EQ(device("G").granted, Mib{1024 + 1024 + 1024 - 64 + 500}) << "what was said counts";
  (void)anna;
}

TEST_F(Ledger, a_model_gets_exactly_its_budget_whatever_its_class_may_have) {
  push_model("yolo", 1, {9000});
  worker("anna", {.devices = {gpu("small", {8'000}), gpu("big", {24'000})}});
  const auto job = submitted(detect(1));
  EXPECT_EQ(dynamic(job).granted, Mib{9000});
  EXPECT_EQ(dynamic(job).devices, std::vector<std::string>{"big"}) << "it would not run in the small card's 8000";
}

TEST_F(Ledger, what_is_reserved_for_a_class_others_do_not_see_and_its_own_use_counts_towards_it) {
  policy([](Policy& p) { p.reservations = {keep(JobClass::inference, "G", {6000})}; });
  const PeerId anna = worker("anna", {.devices = {gpu("G")}, .starts = 99});
  EXPECT_EQ(device("G").reserved, std::vector<std::string>{"inference 6000 MiB, 0 MiB of it in use"});
  forget_effects();
  const auto large = submitted(training(1, {5000}, {5000}));
  EXPECT_EQ(effects(), (Effects{created(training(1, {5000}, {5000}), JobState::ready), answered({ok(large)})}));
  EXPECT_EQ(why(large), "G is the closest: needs 5000 MiB, 4000 MiB is free: 1000 MiB short (reserved for inference: 6000 MiB)");
  const auto fits = submitted(training(2, {4000}, {4000}));
  EXPECT_EQ(effects(), (Effects{created(training(2, {4000}, {4000}), JobState::ready), answered({ok(fits)}), granted(fits, "anna", {"G"}, {4000}),
                                reads(fits), assigns("anna", 1, fits, 10)}));

  const auto model = holds_model(anna, 3, {5000});
  EXPECT_EQ(device("G").reserved, std::vector<std::string>{"inference 6000 MiB, 5000 MiB of it in use"});
  const auto crumb = submitted(training(4, {1}, {1}));
  EXPECT_EQ(why(crumb), "G is the closest: needs 1 MiB, 0 MiB is free: 1 MiB short (reserved for inference: 1000 MiB)");
  ends(anna, fits, Outcome::succeeded);
  EXPECT_EQ(state(crumb), JobState::running);
  EXPECT_EQ(state(large), JobState::ready) << "4000 less one are free beside the reservation";
  ends(anna, model, Outcome::succeeded);
  say(WorkerPulled{anna, {}, {23}, {}});
  EXPECT_EQ(state(large), JobState::ready) << "memory that its own class gives back is reserved again";
}

TEST_F(Ledger, a_range_is_granted_as_large_as_fits_beside_what_is_reserved) {
  policy([](Policy& p) { p.reservations = {keep(JobClass::inference, "G", {6000})}; });
  worker("anna", {.devices = {gpu("G")}});
  EXPECT_EQ(dynamic(submitted(training(1, {1000}, kRestOfDevice))).granted, Mib{4000});
}

TEST_F(Ledger, a_reservation_of_the_whole_card_or_more_keeps_it_for_its_class_alone) {
  policy([](Policy& p) {
    Reservation r = keep(JobClass::inference, "G", {});
    r.kind = Reservation::Size::percent;
    r.percent = 100;
    p.reservations = {r, keep(JobClass::inference, "H", {80'000})};
  });
  worker("anna", {.devices = {gpu("G"), gpu("H")}});
  const auto train = submitted(training(1, {1}, {1}));
  EXPECT_EQ(state(train), JobState::ready);
  push_model("yolo", 1, {9'000});
  EXPECT_EQ(state(submitted(detect(2))), JobState::running);
  EXPECT_EQ(why(train).substr(0, 60), "G is the closest: needs 1 MiB, 0 MiB is free: 1 MiB short (r");
}

TEST_F(Ledger, of_two_reservations_for_a_class_the_larger_counts_and_those_of_two_classes_add_up) {
  policy([](Policy& p) {
    p.reservations = {keep(JobClass::inference, "G", {2000}), keep(JobClass::inference, "G", {3000}), keep(JobClass::training, "G", {4000})};
  });
  worker("anna", {.devices = {gpu("G")}});
  const auto synthesis = [](std::uint64_t n, Mib size) {
    return with(training(n, size, size), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; });
  };
  EXPECT_EQ(state(submitted(synthesis(1, {3001}))), JobState::ready);
  EXPECT_EQ(state(submitted(synthesis(2, {3000}))), JobState::running);
  EXPECT_EQ(state(submitted(training(3, {4001}, {4001}))), JobState::ready);
  EXPECT_EQ(state(submitted(training(4, {4000}, {4000}))), JobState::running);
}

TEST_F(Ledger, headroom_is_what_the_narrowest_word_about_a_device_says) {
  policy([](Policy& p) {
    p.headroom_pct = 5;
    DevicePolicy all, one, host;
    all.device = {DeviceSelector::Kind::any, "", 0};
    all.headroom_pct = 20;
    one.device = {DeviceSelector::Kind::uuid, "H", 0};
    one.headroom = Mib{123};
    host.device = {DeviceSelector::Kind::host_index, "bert", 0};
    host.headroom_pct = 1;
    p.devices = {one, host, all};
  });
  worker("anna", {.devices = {gpu("G"), gpu("H")}});
  worker("bert", {.devices = {gpu("B")}});
  EXPECT_EQ(device("G").headroom, Mib{2000});
  EXPECT_EQ(device("H").headroom, Mib{123});
  EXPECT_EQ(device("B").headroom, Mib{100});
  policy([](Policy& p) { p.devices.clear(); });
  EXPECT_EQ(device("H").headroom, Mib{500}) << "a policy that is loaded holds at once";
}

TEST_F(Ledger, a_process_outside_the_queue_is_seen_before_a_job_is_started_on_the_card_and_the_job_says_so) {
  DeviceReport card = gpu("G");
  card.used = {9'500};
  const PeerId anna = worker("anna", {.devices = {card}});
  forget_effects();
  const auto job = submitted(training(1, {4000}, {4000}));
  EXPECT_EQ(effects(), (Effects{created(training(1, {4000}, {4000}), JobState::ready), answered({ok(job)})}));
  EXPECT_EQ(why(job), "G is the closest: needs 4000 MiB, 500 MiB is free: 3500 MiB short (used by others: 9500 MiB)");
  others_use(anna, {1000}, {}, {});
  EXPECT_EQ(assigned_now(), std::vector{job}) << "the other process has gone";
}

TEST_F(Ledger, when_others_take_promised_memory_idle_models_leave_first_and_then_the_lowest_class) {
  const PeerId anna = worker("anna", {.devices = {gpu("G")}, .starts = 99});
  const auto used = holds_model(anna, 1, {3000});
  const auto model = "model1@" + version_of(1);
  ends(anna, used, Outcome::succeeded);
  const auto train = submitted(training(2, {4000}, {4000}));
  const auto fill = submitted(with(training(3, {2000}, {2000}), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  for (const JobId job : {train, fill}) started(anna, job);
  forget_effects();

  others_use(anna, {2000}, {6000}, {grant(train), grant(fill)});  // 1000 more than there is
  EXPECT_EQ(effects(), (Effects{SendNow{BeatAnswer{anna, {}, {}, {}, {}}}, Send{EvictModel{anna, "G", model}}}));
  others_use(anna, {2000}, {6000}, {grant(train), grant(fill)});
  EXPECT_EQ(effects(), (Effects{SendNow{BeatAnswer{anna, {}, {}, {}, {{anna, "G", model}}}}})) << "said again; nobody else leaves for it";

  was(fill) = dynamic(fill);
  others_use(anna, {5000}, {6000}, {grant(train), grant(fill)});  // 4000 more, 3000 of which leave already
  const Grant g = grant(fill);
  EXPECT_EQ(state(fill), JobState::yielding);
  EXPECT_EQ(state(train), JobState::running);
  EXPECT_EQ(dynamic(fill).leave_reason, "others use the memory of G");
  std::vector<Preempt> asked;
  for (const Effect& e : effects())
    if (const auto* s = std::get_if<Send>(&e))
      if (const auto* p = std::get_if<Preempt>(&s->message)) asked.push_back(*p);
  ASSERT_EQ(asked.size(), 1U);
  EXPECT_EQ(asked[0].grant, g);
  EXPECT_EQ(asked[0].deadline, config.policy.of(JobClass::synthesis).grace);

  others_use(anna, {8000}, {6000}, {grant(train), grant(fill)});
  EXPECT_EQ(state(train), JobState::yielding) << "the next class up";
}

TEST_F(Ledger, who_may_never_be_stopped_is_not_stopped_for_others_either) {
  const PeerId anna = worker("anna", {.devices = {gpu("G")}});
  const auto job = submitted(with(training(1, {9000}, {9000}), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  started(anna, job);
  others_use(anna, {5000}, {9000}, {grant(job)});
  EXPECT_EQ(state(job), JobState::running);
}

TEST_F(Ledger, a_neighbour_whose_last_word_is_a_beat_old_is_not_mistaken_for_a_stranger) {
  DeviceReport a = gpu("G"), b = gpu("G");
  const PeerId anna = worker("anna", {.devices = {a}});
  const PeerId bert = worker("bert", {.devices = {b}});
  std::vector<JobId> jobs;
  for (std::uint64_t i = 1; i <= 2; ++i) jobs.push_back(submitted(training(i, {5000}, {5000})));
  const auto grants = [&](const std::string& name) {
    std::vector<Grant> all;
    for (const JobId job : jobs)
      if (dynamic(job).worker == name) all.push_back(grant(job));
    return all;
  };
  for (const JobId job : jobs) started(peers[dynamic(job).worker], job);
  a.used = b.used = {10'000};
  a.used_by_us = {5'000};
  b.used_by_us = {5'000};
  say(WorkerBeat{anna, UINT64_MAX, grants("anna"), {a}});  // bert's 5000 look like a stranger's for a moment
  say(WorkerBeat{bert, UINT64_MAX, grants("bert"), {b}});
  for (const JobId job : jobs) EXPECT_EQ(state(job), JobState::running);
  EXPECT_EQ(device("G").foreign, Mib{0});
}

TEST_F(Ledger, an_attempt_that_was_thought_lost_does_not_come_back_into_memory_that_its_own_worker_holds_for_another) {
  const auto of = [](std::uint64_t n, JobClass c) {
    return with(training(n, {4000}, {4000}), [&](SubmitItem& i) {
      i.fixed.needs.job_class = c;
      i.fixed.needs.on_preempt = OnPreempt::never;
    });
  };
  const PeerId anna = worker("anna", {.devices = {gpu("G", {4'000})}});
  const auto lost = submitted(of(1, JobClass::synthesis));
  started(anna, lost);
  const Grant alive = grant(lost);
  const auto other = submitted(of(2, JobClass::training));
  beat(anna, {});  // it says that it holds nothing: the card goes to the next one
  ASSERT_EQ(state(other), JobState::running);
  forget_effects();
  WorkerHello back = hello("anna", {.devices = {gpu("G", {4'000})}, .running = {alive, grant(other)}});
  const PeerId peer = back.peer;
  say(std::move(back));
  EXPECT_EQ(effects(), (Effects{SendNow{WorkerRejected{anna, Error{Errc::refused, "a newer connection speaks for worker anna", "give each worker process a name of its own"}}},
                                Send{WorkerWelcome{peer, {alive}, 0}}}));
  EXPECT_EQ(device("G").granted, Mib{4'000});
}

TEST_F(Ledger, models_kept_loaded_for_a_class_are_not_evicted_for_another_one) {
  policy([](Policy& p) {
    Reservation r = keep(JobClass::inference, "G", {});
    r.kind = Reservation::Size::loaded;
    p.reservations = {r};
  });
  const PeerId anna = worker("anna", {.devices = {gpu("G")}, .starts = 99});
  keep_beating("anna");
  EXPECT_EQ(device("G").reserved, std::vector<std::string>{"inference: what is loaded"});
  ends(anna, holds_model(anna, 1, {8000}), Outcome::succeeded);
  const auto train = submitted(training(2, {3000}, {3000}));
  after(1min);
  EXPECT_EQ(state(train), JobState::ready);
  EXPECT_EQ(device("G").warm.size(), 1U);
  policy([](Policy& p) { p.reservations.clear(); });
  forget_effects();
  after(2s);
  bool evicted = false;
  for (const Effect& e : effects())
    if (const auto* s = std::get_if<Send>(&e)) evicted = evicted || std::holds_alternative<EvictModel>(s->message);
  EXPECT_TRUE(evicted) << "without the reservation an idle model makes room";
}

TEST_F(Ledger, a_queue_that_shrank_and_grows_again_is_worth_a_copy_on_the_card_that_came_free_meanwhile) {
  push_model("yolo", 1, {3000});
  const PeerId anna = worker("anna", {.devices = {gpu("A", {9'500}), gpu("B")}, .starts = 99});
  const auto blocker = submitted(with(training(1, {9'800}, {9'800}), [](SubmitItem& i) { i.fixed.needs.on_preempt = OnPreempt::never; }));
  ASSERT_EQ(dynamic(blocker).devices, std::vector<std::string>{"B"});
  submit({detect(2)});
  open_warm(anna, 20, "A", "yolo@" + version_of(1), 0);
  for (std::uint64_t i = 3; i <= 12; ++i) submit({detect(i)});  // ten wait: worth another copy, and there is no room for one
  pull(anna, 20, 3);                                            // seven wait
  ends(anna, blocker, Outcome::succeeded);
  EXPECT_EQ(device("B").granted, Mib{0}) << "not worth it for seven";
  for (std::uint64_t i = 13; i <= 14; ++i) submit({detect(i)});
  EXPECT_EQ(device("B").granted, Mib{3000}) << "nine wait";
}

}  // namespace
}  // namespace gq::core::story

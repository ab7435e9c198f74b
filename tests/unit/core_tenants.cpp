// core_tenants.cpp - caps per owner of jobs, and fair shares between them. Off unless the policy says so.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

class Tenants : public Story {
 protected:
  void with_caps(std::vector<TenantPolicy> tenants) {
    config.policy.tenants = std::move(tenants);
    core = std::make_unique<Core>(config);
  }
  SubmitOutcome asked(const std::string& owner, std::uint64_t n) { return asked(owner, item(n, "echo")); }
  SubmitOutcome asked(const std::string& owner, SubmitItem one) {
    say(SubmitReceived{kClient, ++request, owner, {std::move(one)}});
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* a = std::get_if<SubmitAnswer>(&s->message)) return a->items.at(0);
    return {};
  }
  JobId of(const std::string& owner, SubmitItem one) {
    const JobId id = one.fixed.id;
    EXPECT_TRUE(asked(owner, std::move(one)).ok);
    return id;
  }
  /// Training on a whole card of 10,000 MiB.
  JobId trains(const std::string& owner, std::uint64_t n) { return of(owner, training(n, {10'000}, {10'000})); }
  void with_policy(const std::function<void(Policy&)>& change) {
    change(config.policy);
    say(PolicyLoaded{config.policy});
  }
  void fairly(Duration half_life = std::chrono::hours{24}) {
    with_policy([&](Policy& p) {
      p.fair = true;
      p.fair_half_life = half_life;
    });
  }
  std::string why(JobId job) { return core->find(job, now)->reason; }
  std::string owner_of(JobId job) { return record(job).fixed.owner; }
};

TEST_F(Tenants, without_a_word_in_the_policy_nobody_is_capped) {
  for (std::uint64_t n = 1; n <= 50; ++n) ASSERT_TRUE(asked("ann", n).ok);
}

TEST_F(Tenants, a_full_queue_of_one_owner_is_nobody_elses) {
  with_caps({{"ann", 0, 2, 1.0}});
  EXPECT_TRUE(asked("ann", 1).ok);
  EXPECT_TRUE(asked("ann", 2).ok);
  EXPECT_EQ(asked("ann", 3).error, (Error{Errc::queue_full, "2 jobs of ann are waiting or running, and tenant.\"ann\".queued_max is 2", "wait, cancel some, or raise the cap"}));
  EXPECT_TRUE(asked("ann", 2).existing) << "a repeated submit is no new job";
  for (std::uint64_t n = 10; n <= 20; ++n) EXPECT_TRUE(asked("bob", n).ok);
}

TEST_F(Tenants, room_comes_back_when_a_job_is_final_and_not_when_it_starts) {
  with_caps({{"ann", 0, 1, 1.0}});
  const auto first = job_id(1);
  EXPECT_TRUE(asked("ann", 1).ok);
  const PeerId anna = worker("anna", {.slots = 1});
  ASSERT_EQ(state(first), JobState::running);
  EXPECT_EQ(asked("ann", 2).error.code, Errc::queue_full);
  ends(anna, first, Outcome::succeeded);
  EXPECT_TRUE(asked("ann", 3).ok);
}

TEST_F(Tenants, the_star_caps_everyone_who_is_not_named_each_for_itself) {
  with_caps({{"*", 0, 1, 1.0}, {"ann", 0, 2, 1.0}});
  EXPECT_TRUE(asked("bob", 1).ok);
  EXPECT_EQ(asked("bob", 2).error.code, Errc::queue_full);
  EXPECT_TRUE(asked("eve", 3).ok);
  EXPECT_TRUE(asked("ann", 4).ok);
  EXPECT_TRUE(asked("ann", 5).ok);
  EXPECT_EQ(asked("ann", 6).error.code, Errc::queue_full);
}

TEST_F(Tenants, a_cap_holds_after_a_restart_and_changes_with_the_policy) {
  with_caps({{"ann", 0, 2, 1.0}});
  EXPECT_TRUE(asked("ann", 1).ok);
  EXPECT_TRUE(asked("ann", 2).ok);
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  EXPECT_EQ(asked("ann", 3).error.code, Errc::queue_full);
  Policy policy = config.policy;
  policy.tenants[0].queued_max = 3;
  say(PolicyLoaded{policy});
  EXPECT_TRUE(asked("ann", 3).ok);
  EXPECT_EQ(asked("ann", 4).error.code, Errc::queue_full);
}

// ---- running caps

TEST_F(Tenants, a_running_cap_holds_wherever_there_is_room_and_its_end_starts_the_next) {
  with_policy([](Policy& p) { p.tenants = {{"ann", 1, 0, 1.0}}; });
  const PeerId anna = worker("anna", {.slots = 9, .devices = {gpu("A"), gpu("B")}});
  forget_effects();
  const auto first = submitted(item(1, "echo"));
  EXPECT_EQ(effects(), (Effects{created(item(1, "echo"), JobState::ready), answered({ok(first)}), granted(first, "anna"), reads(first), assigns("anna", 1, first, 1)}));
  const auto second = submitted(training(2, {1000}, {1000}));
  EXPECT_EQ(effects(), (Effects{created(training(2, {1000}, {1000}), JobState::ready), answered({ok(second)})})) << "on a card, where there is room, for all that";
  EXPECT_EQ(why(second), "1 jobs of ann run, and tenant.\"ann\".running_max is 1");
  EXPECT_EQ(state(trains("bob", 3)), JobState::running) << "it is nobody else's cap";
  forget_effects();
  const Grant g = grant(first);
  ends(anna, first, Outcome::succeeded);
  EXPECT_EQ(effects(), (Effects{changed(first, JobState::succeeded, [&](JobDynamic& d) { d.ended = now.wall; }), verdict(anna, g, EndVerdict::accepted),
                                granted(second, "anna", {"B"}, {1000}), reads(second), assigns("anna", 3, second, 11)}));
}

TEST_F(Tenants, explain_names_the_cap_and_how_to_raise_it) {
  with_policy([](Policy& p) { p.tenants = {{"*", 1, 0, 1.0}}; });
  worker("anna", {.slots = 9});
  of("ann", item(1, "echo"));
  const auto second = of("ann", item(2, "echo"));
  const auto e = core->explain(second, now);
  ASSERT_TRUE(e);
  EXPECT_FALSE(e->would_start);
  EXPECT_EQ(e->refusals, (std::vector<std::pair<std::string, std::uint64_t>>{{"tenant_running_cap", 1}}));
  ASSERT_EQ(e->remedies.size(), 2U);
  EXPECT_EQ(e->remedies[0].text, "nothing: it starts when another job of ann has ended");
  EXPECT_EQ(e->remedies[1].text, "raise running_max in [tenant.\"*\"] of gpuq.toml, then gpuq config reload");
  SubmitItem next = item(3, "echo");
  next.fixed.owner = "ann";
  EXPECT_FALSE(core->plan(next.fixed, now)->would_start);
  next.fixed.owner = "bob";
  EXPECT_TRUE(core->plan(next.fixed, now)->would_start);
}

TEST_F(Tenants, a_running_cap_holds_after_a_restart_and_follows_the_policy) {
  config.policy.tenants = {{"ann", 1, 0, 1.0}};
  core = std::make_unique<Core>(config);
  worker("anna", {.slots = 9});
  const auto first = of("ann", item(1, "echo"));
  const auto second = of("ann", item(2, "echo"));
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  worker("anna", {.slots = 9, .running = {grant(first)}});
  EXPECT_EQ(state(second), JobState::ready);
  with_policy([](Policy& p) { p.tenants[0].running_max = 2; });
  EXPECT_EQ(state(second), JobState::running);
  const auto third = of("ann", item(3, "echo"));
  const auto other = of("bob", item(4, "echo"));
  EXPECT_EQ(state(third), JobState::ready);
  EXPECT_EQ(state(other), JobState::running);
  with_policy([](Policy& p) { p.tenants.clear(); });
  EXPECT_EQ(state(third), JobState::running) << "without a word about tenants nobody is told apart";
}

TEST_F(Tenants, a_lost_attempt_that_lives_is_not_taken_back_over_the_cap) {
  with_policy([](Policy& p) { p.tenants = {{"ann", 1, 0, 1.0}}; });
  worker("anna", {.slots = 1});
  const auto first = of("ann", item(1, "echo"));
  const Grant g = grant(first);
  after(30s);
  ASSERT_EQ(state(first), JobState::ready);
  say(JobCommand{kClient, ++request, JobVerb::hold, "root", "", {}, {first}});   // so that another one of hers is next
  worker("bert", {.slots = 9});
  const auto second = of("ann", item(2, "echo"));
  ASSERT_EQ(state(second), JobState::running);
  forget_effects();
  const PeerId anna = worker("anna", {.slots = 1, .running = {g}});
  const Effects all = effects();
  EXPECT_EQ(all.back(), (Effect{Send{WorkerWelcome{anna, {g}, 0}}})) << "it is to stop";
  EXPECT_EQ(state(first), JobState::ready);
}

// ---- fair shares

TEST_F(Tenants, without_fair_shares_the_queue_is_one_line) {
  const PeerId anna = worker("anna", {.devices = {gpu("A")}});
  const auto first = trains("ann", 1);
  const auto second = trains("ann", 2);
  const auto third = trains("bob", 3);
  ends(anna, first, Outcome::succeeded);
  EXPECT_EQ(state(second), JobState::running);
  EXPECT_EQ(state(third), JobState::ready);
}

TEST_F(Tenants, who_has_used_less_of_the_class_lately_comes_first) {
  fairly();
  const PeerId anna = worker("anna", {.devices = {gpu("A")}});
  keep_beating("anna");
  const auto first = trains("ann", 1);
  const auto second = trains("ann", 2);
  const auto third = trains("bob", 3);
  beating["anna"].running = {grant(first)};
  after(100s);
  EXPECT_EQ(core->explain(third, now)->ahead, 0U);
  EXPECT_EQ(core->explain(second, now)->ahead, 1U);
  ends(anna, first, Outcome::succeeded);
  EXPECT_EQ(state(third), JobState::running) << "bob has had nothing yet";
  EXPECT_EQ(state(second), JobState::ready);
  beating["anna"].running = {grant(third)};
  after(10s);
  const auto fourth = trains("bob", 4);
  ends(anna, third, Outcome::succeeded);
  EXPECT_EQ(state(fourth), JobState::running) << "10 s are less than 100 s";
}

TEST_F(Tenants, classes_keep_accounts_of_their_own_and_the_ladder_stands_above_shares) {
  fairly();
  const PeerId anna = worker("anna", {.devices = {gpu("A")}});
  keep_beating("anna");
  const auto first = trains("ann", 1);
  beating["anna"].running = {grant(first)};
  after(100s);
  const auto low = of("bob", with(training(2, {10'000}, {10'000}), [](SubmitItem& i) { i.fixed.needs.job_class = JobClass::synthesis; }));
  const auto high = trains("ann", 3);
  ends(anna, first, Outcome::succeeded);
  EXPECT_EQ(state(high), JobState::running) << "training stands above synthesis, whoever asks";
  EXPECT_EQ(state(low), JobState::ready);
}

TEST_F(Tenants, many_starts_in_one_step_are_shared_out_too) {
  fairly();
  for (std::uint64_t n = 1; n <= 6; ++n) trains("ann", n);
  for (std::uint64_t n = 11; n <= 16; ++n) trains("bob", n);
  forget_effects();
  worker("anna", {.devices = {gpu("A"), gpu("B"), gpu("C"), gpu("D")}});
  std::map<std::string, int> count;
  for (const JobId& job : assigned_now()) ++count[owner_of(job)];
  EXPECT_EQ(count, (std::map<std::string, int>{{"ann", 2}, {"bob", 2}}));
}

TEST_F(Tenants, use_is_found_again_after_a_restart_in_running_attempts_and_final_records) {
  fairly();
  PeerId anna = worker("anna", {.devices = {gpu("A"), gpu("B")}});
  keep_beating("anna");
  const auto first = trains("ann", 1);
  const auto other = trains("bob", 2);
  beating["anna"].running = {grant(first), grant(other)};
  after(10s);
  ends(anna, other, Outcome::succeeded);   // bob: 10 s, final
  beating["anna"].running = {grant(first)};
  after(20s);                              // ann: 30 s, running
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  const auto third = trains("ann", 3);
  const auto fourth = trains("bob", 4);
  anna = worker("anna", {.devices = {gpu("A"), gpu("B")}, .running = {grant(first)}, .instance = 2});
  EXPECT_EQ(state(fourth), JobState::running) << "before ann's, which was submitted first";
  EXPECT_EQ(state(third), JobState::ready);
}

TEST_F(Tenants, shares_are_switched_on_and_off_while_jobs_wait) {
  const PeerId anna = worker("anna", {.devices = {gpu("A")}});
  const auto first = trains("ann", 1);
  const auto second = trains("ann", 2);
  const auto third = trains("bob", 3);
  const auto fourth = trains("ann", 4);
  now.wall.ms += 60'000;
  fairly();
  ends(anna, first, Outcome::succeeded);
  EXPECT_EQ(state(third), JobState::running);
  with_policy([](Policy& p) { p.fair = false; });
  const auto fifth = trains("bob", 5);
  ends(anna, third, Outcome::succeeded);
  EXPECT_EQ(state(second), JobState::running);
  ends(anna, second, Outcome::succeeded);
  EXPECT_EQ(state(fourth), JobState::running) << "one line again, in submit order";
  EXPECT_EQ(state(fifth), JobState::ready);
}

TEST_F(Tenants, whoever_has_waited_for_four_half_lives_comes_first_whatever_they_used) {
  fairly(1min);
  with_policy([](Policy& p) { p.tenants = {{"ann", 0, 0, 0.001}}; });   // a thousandth of everybody else's share
  const PeerId anna = worker("anna", {.devices = {gpu("A")}, .starts = 1000});
  keep_beating("anna");
  std::uint64_t n = 100;
  JobId running = trains("ann", 1);
  const auto patient = trains("ann", 2);
  (void)trains("bob", ++n);
  const auto next = [&] {   // bob always has another one
    (void)trains("bob", ++n);
    beating["anna"].running = {grant(running)};
    after(20s);
    forget_effects();
    ends(anna, running, Outcome::succeeded);
    const auto started = assigned_now();
    ASSERT_EQ(started.size(), 1U);
    running = started.front();
  };
  for (int i = 0; i < 12; ++i) {
    next();
    ASSERT_EQ(owner_of(running), "bob") << "turn " << i;
  }
  for (int i = 0; i < 3 && running != patient; ++i) next();
  EXPECT_EQ(running, patient);
}

/// Two or more tenants who always have more to do, on four cards, with attempts of random length.
class Hungry : public Tenants {
 protected:
  std::map<std::string, double> used;
  struct Running { JobId job; std::string owner; Instant since, until; };
  std::vector<Running> running;
  std::map<std::string, int> waiting;
  std::uint64_t number{0}, random{1};
  PeerId anna{};

  std::uint64_t pick(std::uint64_t below) {
    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    return (random >> 33U) % below;
  }
  void feed(const std::string& owner) {
    while (waiting[owner] < 8) {
      trains(owner, ++number);
      ++waiting[owner];
    }
  }
  void see_starts() {
    for (const JobId& job : assigned_now()) {
      const std::string owner = owner_of(job);
      --waiting[owner];
      running.push_back({job, owner, now.steady, now.steady + std::chrono::seconds(1 + pick(20))});
    }
  }
  void turn() {
    const auto first = std::min_element(running.begin(), running.end(), [](const Running& a, const Running& b) { return a.until < b.until; });
    const Running ended = *first;
    running.erase(first);
    beating["anna"].running.clear();
    for (const Running& r : running) beating["anna"].running.push_back(grant(r.job));
    beating["anna"].running.push_back(grant(ended.job));
    if (ended.until > now.steady) after(ended.until - now.steady);
    used[ended.owner] += static_cast<double>((now.steady - ended.since).count()) / 1e6;
    see_starts();
    ends(anna, ended.job, Outcome::succeeded);
    see_starts();
  }
  void begin() {
    anna = worker("anna", {.devices = {gpu("A"), gpu("B"), gpu("C"), gpu("D")}, .starts = 100'000});
    keep_beating("anna");
    see_starts();
  }
};

TEST_F(Hungry, shares_of_those_who_always_wait_come_to_their_weights) {
  config.final_bytes_max = 1U << 30U;
  fairly(1h);
  with_policy([](Policy& p) { p.tenants = {{"ann", 0, 0, 3.0}, {"bob", 0, 0, 1.0}}; });
  feed("ann");
  feed("bob");
  begin();
  for (int i = 0; i < 300; ++i) {
    feed("ann");
    feed("bob");
    turn();
  }
  EXPECT_NEAR(used["ann"] / used["bob"], 3.0, 0.3) << used["ann"] << " against " << used["bob"];
}

TEST_F(Hungry, nobody_is_over_a_cap_at_any_step_and_what_a_cap_leaves_the_others_take) {
  fairly(5min);
  with_policy([](Policy& p) { p.tenants = {{"ann", 1, 0, 5.0}, {"bob", 2, 0, 1.0}}; });
  for (const char* owner : {"ann", "bob", "eve"}) feed(owner);
  begin();
  for (int i = 0; i < 120; ++i) {
    for (const char* owner : {"ann", "bob", "eve"}) feed(owner);
    turn();
    if (i % 40 == 39) with_policy([&](Policy& p) { p.tenants[1].running_max = static_cast<std::uint32_t>(i / 40 % 2 + 1); });
    see_starts();
    const auto of = [&](const char* owner) { return std::count_if(running.begin(), running.end(), [&](const Running& r) { return r.owner == owner; }); };
    ASSERT_LE(of("ann"), 1) << "turn " << i;
    ASSERT_LE(of("bob"), 2) << "turn " << i;
    ASSERT_EQ(running.size(), 4U) << "eve has no cap";
  }
  EXPECT_GT(used["ann"], 0.0);
}

TEST_F(Hungry, somebody_new_is_served_at_once_and_in_the_end_all_have_the_same) {
  fairly(5min);
  feed("ann");
  feed("bob");
  begin();
  for (int i = 0; i < 100; ++i) {
    feed("ann");
    feed("bob");
    turn();
  }
  feed("eve");
  turn();
  EXPECT_TRUE(std::any_of(running.begin(), running.end(), [](const Running& r) { return r.owner == "eve"; }));
  for (int i = 0; i < 150; ++i) {   // until what was before hardly counts any more
    for (const char* owner : {"ann", "bob", "eve"}) feed(owner);
    turn();
  }
  used.clear();
  for (int i = 0; i < 200; ++i) {
    for (const char* owner : {"ann", "bob", "eve"}) feed(owner);
    turn();
  }
  for (const char* owner : {"ann", "bob"}) EXPECT_NEAR(used[owner] / used["eve"], 1.0, 0.2) << owner;
}

}  // namespace
}  // namespace gq::core::story

// core_preemption.cpp - preemption among workers that behave as workers do: whatever the mix, the cards and the moment of a crash.
//
// In every step: the invariants; no card holds more than it has, by the workers' own count; nobody who could start by preemption
// waits longer than a second for a plan. At every request to leave: the victim sorts after whom it leaves for, and could not have
// been spared. In the end everybody has finished.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <iostream>
#include <random>

#include "tests/property/core_preempt_world.h"

namespace gq::core::story {
namespace {

SubmitItem job(std::uint64_t n, JobClass c, std::int64_t size, std::uint16_t devices = 1) {
  return with(item(n, "command"), [&](SubmitItem& i) {
    i.fixed.needs.job_class = c;
    i.fixed.needs.budget_min = i.fixed.needs.budget_max = {size};
    i.fixed.needs.devices = devices;
  });
}

CoreConfig plain() {
  CoreConfig c;
  c.restarted = false;
  c.policy.headroom_pct = 0;
  for (ClassPolicy& of : c.policy.classes) of.grace = 5s;
  c.policy.of(JobClass::training).min_run = 3s;
  c.policy.of(JobClass::synthesis).min_run = 1s;
  return c;
}

/// At every request to leave.
struct Judge {
  std::map<JobId, JobFixed> jobs;
  std::uint64_t judged{0};

  void operator()(const Preempt& p, const JobDynamic& victim) {
    ++judged;
    ASSERT_EQ(victim.leave_for.empty(), false);
    const JobFixed& v = jobs[p.grant.job];
    const JobFixed& by = jobs[victim.leave_for];
    EXPECT_LT(static_cast<int>(by.needs.job_class), static_cast<int>(v.needs.job_class)) << "nobody leaves for an equal or a lower class";
    EXPECT_EQ(p.deadline, 5s);
    EXPECT_NE(p.reason.find("needs"), std::string::npos);
  }
};

std::uint64_t weighed{0};   // victims of which it was asked whether they could have been spared

void random_day(std::uint64_t seed, bool with_deaths) {
  std::mt19937_64 random(seed);
  const auto pick = [&](std::uint64_t below) { return random() % below; };
  CoreConfig config = plain();
  const bool apart = pick(4) == 0;
  const bool reserved = pick(4) == 0;
  if (apart) config.policy.of(JobClass::inference).not_beside = {pick(2) == 0 ? JobClass::training : JobClass::synthesis};
  const bool capped = pick(4) == 0;
  if (capped) config.policy.of(JobClass::training).running_max = static_cast<std::uint32_t>(1 + pick(3));
  if (pick(4) == 0) config.policy.of(JobClass::synthesis).preemptible = false;
  if (pick(4) == 0) config.policy.reserve_after = 20s;
  if (reserved) {
    Reservation r;
    r.size = {3000};
    config.policy.reservations.push_back(r);
  }
  World world(config);
  world.weigh = !apart && !reserved && !capped;  // then memory alone does not tell
  Judge judge;
  world.on_preempt = std::ref(judge);
  for (std::uint64_t w = 0; w < 1 + pick(3); ++w) {
    std::vector<World::Card> cards;
    for (std::uint64_t c = 0; c < 1 + pick(3); ++c) cards.push_back({"GPU-" + std::to_string(w) + "-" + std::to_string(c), static_cast<std::int64_t>(8000 + 8000 * pick(2))});
    world.add_worker("w" + std::to_string(w), std::move(cards));
  }
  std::vector<JobId> ids;
  std::uint64_t n = 0;
  for (int wave = 0; wave < 40; ++wave) {
    for (std::uint64_t i = pick(4); i > 0; --i) {
      const auto c = static_cast<JobClass>(pick(3));
      SubmitItem one = job(++n, c, static_cast<std::int64_t>(500 + 500 * pick(14)), pick(10) == 0 ? 2 : 1);
      if (pick(8) == 0) one.fixed.needs.on_preempt = OnPreempt::never;
      if (pick(4) == 0) one.fixed.timeout = 60s;
      World::Plan_ plan;
      plan.runs = std::chrono::milliseconds(500 + pick(c == JobClass::inference ? 3000 : 20'000));
      plan.leaves = static_cast<World::Leaves>(pick(6));
      plan.release = std::chrono::milliseconds(100 + pick(2000));
      plan.yield = plan.release + std::chrono::milliseconds(pick(2000));
      judge.jobs[one.fixed.id] = one.fixed;
      ids.push_back(one.fixed.id);
      world.submit(std::move(one), plan);
    }
    if (pick(6) == 0 && !ids.empty()) world.cancel(ids[pick(ids.size())]);
    if (with_deaths && pick(10) == 0) world.restart();
    if (with_deaths && pick(12) == 0) {
      world.die("w0");
      world.pass(std::chrono::milliseconds(pick(15'000)));
      world.revive("w0");
    }
    world.pass(std::chrono::milliseconds(100 + pick(3000)));
    if (testing::Test::HasFailure()) {
      std::cerr << "seed " << seed << " wave " << wave << '\n';
      return;
    }
  }
  world.pass(400s);
  for (const JobId& id : ids) {
    const JobDynamic d = world.dynamic(id);
    const bool impossible = d.state == JobState::ready && d.attempt == 0;
    EXPECT_TRUE(is_terminal(d.state) || impossible) << "seed " << seed << ": " << to_string(id) << " is still " << to_string(d.state);
    EXPECT_LE(d.evictions, 10U);
  }
  EXPECT_EQ(judge.judged, world.asked);
  weighed += world.weighed;
}

TEST(CorePreemption, keeps_its_promises_in_any_mix) {
  EXPECT_TRUE(rc::check([] {
    random_day(*rc::gen::arbitrary<std::uint64_t>(), false);
    RC_ASSERT(!testing::Test::HasFailure());
  }));
  EXPECT_GT(weighed, 100U);
}

/// Found by chance: two plans in one step, and the second one's victim is a gang that also held memory on the first one's card.
TEST(CorePreemption, a_gang_that_leaves_for_a_later_plan_was_no_help_to_an_earlier_one) { random_day(64095632244, false); }

/// Found by chance: the head was looked at 1.3 s after it could have had a plan, when looks were a second apart.
TEST(CorePreemption, a_head_whose_plan_failed_is_looked_at_again_within_a_second) { random_day(40377335, true); }

TEST(CorePreemption, keeps_its_promises_while_workers_and_the_broker_die) {
  EXPECT_TRUE(rc::check([] {
    random_day(*rc::gen::arbitrary<std::uint64_t>(), true);
    RC_ASSERT(!testing::Test::HasFailure());
  }));
}

/// Two training jobs of 4,000 MiB leave a card for an inference job of 9,000; one of a second card leaves for a gang.
std::uint64_t story(std::uint64_t crash_at) {
  World world(plain());
  world.restart_after = crash_at;
  world.add_worker("w", {{"GPU-0", 10'000}, {"GPU-1", 10'000}});
  world.submit(job(1, JobClass::training, 4000), {.runs = 60s});
  world.submit(job(2, JobClass::synthesis, 4000), {.runs = 60s, .release = 1500ms, .yield = 2500ms});
  world.submit(job(3, JobClass::synthesis, 9000), {.runs = 60s});
  world.pass(5s);
  world.submit(job(4, JobClass::inference, 9000), {.runs = 3s});
  world.submit(job(5, JobClass::training, 9000, 2), {.runs = 4s});
  world.pass(220s);
  for (std::uint64_t n = 1; n <= 5; ++n) EXPECT_EQ(world.state(job_id(n)), JobState::succeeded) << "job " << n << ", restarted after step " << crash_at;
  for (std::uint64_t n = 1; n <= 3; ++n) EXPECT_LE(world.dynamic(job_id(n)).evictions, 3U);
  EXPECT_EQ(world.dynamic(job_id(4)).evictions, 0U);
  for (std::uint64_t n = 1; n <= 5; ++n) EXPECT_EQ(world.dynamic(job_id(n)).failures, 0U);
  EXPECT_EQ(world.restarts, crash_at == UINT64_MAX ? 0U : 1U);
  return world.steps;
}

TEST(CorePreemption, recovers_from_a_crash_after_any_step) {
  const std::uint64_t steps = story(UINT64_MAX);
  for (std::uint64_t at = 3; at < steps && !testing::Test::HasFailure(); at += at < 200 ? 1 : 17) (void)story(at);
}

TEST(CorePreemption, is_the_same_for_the_same_facts) {
  const auto asked = [] {
    std::vector<std::pair<JobId, std::string>> all;
    World world(plain());
    world.on_preempt = [&](const Preempt& p, const JobDynamic&) { all.emplace_back(p.grant.job, p.reason); };
    world.add_worker("w", {{"GPU-0", 16'000}, {"GPU-1", 8'000}});
    std::mt19937_64 random(3);
    for (std::uint64_t n = 1; n <= 60; ++n) {
      world.submit(job(n, static_cast<JobClass>(random() % 3), static_cast<std::int64_t>(1000 + random() % 6000)), {.runs = 8s});
      world.pass(700ms);
    }
    return all;
  };
  const auto first = asked();
  EXPECT_GT(first.size(), 5U);
  EXPECT_EQ(first, asked());
}

}  // namespace
}  // namespace gq::core::story

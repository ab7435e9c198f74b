// core_tenants.cpp - caps per owner of jobs. Off unless the policy names tenants.
#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

class Tenants : public Story {
 protected:
  void with_caps(std::vector<TenantPolicy> tenants) {
    config.policy.tenants = std::move(tenants);
    core = std::make_unique<Core>(config);
  }
  SubmitOutcome asked(const std::string& owner, std::uint64_t n) {
    say(SubmitReceived{kClient, ++request, owner, {item(n, "echo")}});
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* a = std::get_if<SubmitAnswer>(&s->message)) return a->items.at(0);
    return {};
  }
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

}  // namespace
}  // namespace gq::core::story

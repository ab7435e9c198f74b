// core_packing.cpp - where tasks go so that what is left stays of use, in small fleets a reader can do by hand.
#include <gtest/gtest.h>

#include "broker/core/packing.h"
#include "tests/unit/core_story.h"

namespace gq::core {
namespace {

using Spot = Packer::Spot;

PackTask share(std::int64_t milli) { return {0, 0, 1, milli, ~0ULL}; }
PackTask cards(std::uint32_t n) { return {0, 0, n, 1000, ~0ULL}; }
PackNode node(std::vector<std::int64_t> free) { return {1'000'000, 1'000'000, 0, std::move(free)}; }
Packer packer(PackPolicy policy, std::vector<PackNode> nodes, std::vector<TypicalTask> mix) {
  Packer::Options options;
  options.policy = policy;
  return {std::move(nodes), std::move(mix), options};
}

TEST(Packing, a_drop_is_rated_in_steps_of_a_logistic_curve) {
  EXPECT_EQ(packing_step(0, 10, 1000), 50U);                 // logistic(0) = 0.5
  EXPECT_EQ(packing_step(10 * 1000, 10, 1000), 73U);         // one whole device: 0.731
  EXPECT_EQ(packing_step(-10 * 1000, 10, 1000), 26U);        // 0.269
  EXPECT_EQ(packing_step(10, 10, 1000), 50U);                // a thousandth of a device is no reason
  EXPECT_EQ(packing_step(INT64_C(1) << 60, 1, 1000), 99U);
  EXPECT_EQ(packing_step(-(INT64_C(1) << 60), 1, 1000), 0U);
  EXPECT_EQ(packing_step(123, 0, 1000), 50U);                // no history: nothing is preferred
}

TEST(Packing, fragmentation_is_what_the_usual_tasks_could_not_use) {
  const PackNode n = node({300, 700, 1000});
  EXPECT_EQ(fragmentation(n, {{share(500), 1}}), 300);           // the device with 300 is too small
  EXPECT_EQ(fragmentation(n, {{share(800), 1}}), 300 + 700);
  EXPECT_EQ(fragmentation(n, {{cards(1), 2}}), 2 * (300 + 700)); // weights count
  EXPECT_EQ(fragmentation(n, {{cards(2), 1}}), 2000);            // cannot run here at all: all of it
  EXPECT_EQ(fragmentation(n, {{PackTask{10, 0, 0, 0, ~0ULL}, 1}}), 2000);  // uses no device
  EXPECT_EQ(fragmentation(n, {{PackTask{0, 0, 1, 500, 0b10}, 1}}), 2000);  // wants another model of card
  PackNode busy = n;
  busy.cpu = 9;
  EXPECT_EQ(fragmentation(busy, {{PackTask{10, 0, 1, 500, ~0ULL}, 1}}), 2000);  // devices without CPU are of no use
  EXPECT_EQ(fragmentation(node({0, 0}), {{share(500), 1}}), 0);
}

TEST(Packing, the_usual_tasks_are_the_most_frequent_that_make_up_the_asked_percentage) {
  std::vector<PackTask> seen(90, share(500));
  seen.insert(seen.end(), 7, share(200));
  seen.insert(seen.end(), 3, share(900));
  const auto usual = typical_tasks(seen, 95);
  ASSERT_EQ(usual.size(), 2U);
  EXPECT_EQ(usual[0].task, share(500));
  EXPECT_EQ(usual[0].weight, 90U);
  EXPECT_EQ(usual[1].task, share(200));
  EXPECT_EQ(typical_tasks(seen).size(), 3U);
}

TEST(Packing, a_small_task_does_not_spoil_the_place_that_the_usual_task_needs) {
  const std::vector<TypicalTask> mix{{share(600), 9}, {share(200), 1}};
  const std::vector<PackNode> nodes{node({600}), node({800})};
  Packer tight = packer(PackPolicy::best_fit, nodes, mix);
  Packer wise = packer(PackPolicy::fgd, nodes, mix);
  EXPECT_EQ(tight.pick(tight.shape_of(share(200))), (Spot{0, {0}}));  // leaves 400: none of the usual 600 starts there any more
  EXPECT_EQ(wise.pick(wise.shape_of(share(200))), (Spot{1, {0}}));    // leaves 600
}

TEST(Packing, the_same_choice_between_the_devices_of_one_node) {
  Packer wise = packer(PackPolicy::fgd, {node({600, 800})}, {{share(600), 9}, {share(200), 1}});
  EXPECT_EQ(wise.pick(wise.shape_of(share(200))), (Spot{0, {1}}));
}

TEST(Packing, equal_ratings_go_to_the_best_fit_and_equal_fits_to_the_lowest_index) {
  const std::vector<TypicalTask> mix{{share(100), 1}};
  Packer p = packer(PackPolicy::fgd, {node({1000}), node({500}), node({500})}, mix);
  const Index shape = p.shape_of(share(100));
  EXPECT_EQ(p.pick(shape), (Spot{1, {0}}));
  p.place(shape, {1, {0}});
  EXPECT_EQ(p.pick(shape), (Spot{1, {0}}));
  p.remove(shape, {1, {0}});
  EXPECT_EQ(p.pick(shape), (Spot{1, {0}}));
}

TEST(Packing, several_devices_come_from_one_node_or_not_at_all) {
  Packer p = packer(PackPolicy::fgd, {node({1000}), node({400, 1000, 1000}), node({1000})}, {{cards(1), 1}});
  const Index pair = p.shape_of(cards(2));
  ASSERT_EQ(p.pick(pair), (Spot{1, {1, 2}}));
  p.place(pair, {1, {1, 2}});
  EXPECT_EQ(p.pick(pair), std::nullopt);
}

TEST(Packing, cpu_memory_and_model_are_hard_limits) {
  Packer p = packer(PackPolicy::fgd, {{3, 100, 0, {1000}}, {100, 3, 0, {1000}}, {100, 100, 1, {1000}}, {100, 100, 2, {1000}}}, {});
  EXPECT_EQ(p.pick(p.shape_of({10, 10, 1, 500, 0b101})), (Spot{3, {0}}));
  EXPECT_EQ(p.pick(p.shape_of({10, 10, 1, 500, 0b001})), std::nullopt);
}

TEST(Packing, a_placement_has_only_its_own_node_rated_again) {
  std::vector<PackNode> nodes(500, node({1000, 1000}));
  Packer p = packer(PackPolicy::fgd, nodes, {{share(300), 1}, {share(700), 2}});
  const Index small = p.shape_of(share(300)), large = p.shape_of(share(700));
  for (const Index shape : {small, large}) ASSERT_TRUE(p.pick(shape));
  EXPECT_EQ(p.ratings(), 1000U);
  for (std::uint64_t placed = 1; placed <= 100; ++placed) {
    p.place(small, *p.pick(small));
    ASSERT_TRUE(p.pick(small) && p.pick(large));
    ASSERT_EQ(p.ratings(), 1000 + 2 * placed);
  }
}

TEST(Packing, a_shape_never_seen_before_can_be_rated_in_slices) {
  std::vector<PackNode> nodes(1000, node({1000, 1000}));
  nodes[777] = node({300, 1000});
  Packer p = packer(PackPolicy::fgd, nodes, {{share(300), 1}});
  const Index shape = p.shape_of(share(300));
  int slices = 1;
  for (std::uint64_t before = 0; p.refresh(shape, 256) != 0; ++slices) {
    EXPECT_LE(p.ratings() - before, 128U);  // of two devices each
    before = p.ratings();
  }
  EXPECT_EQ(slices, 8);
  EXPECT_EQ(p.ratings(), 1000U);
  EXPECT_EQ(p.pick(shape), (Spot{777, {0}}));
  EXPECT_EQ(p.ratings(), 1000U);
  p.set_mix({{share(500), 1}});
  EXPECT_EQ(p.refresh(shape, 256), 1000U - 128);
}

TEST(Packing, the_history_forgets_and_stays_small) {
  AskMix mix;
  for (int i = 0; i < 20'000; ++i) mix.count(1000);
  EXPECT_EQ(mix.asks().size(), 1U);
  for (int i = 0; i < 200'000; ++i) mix.count(2000);
  EXPECT_FALSE(mix.asks().contains(1000)) << "weighs " << mix.asks().at(1000);
  for (int i = 0; i < 200'000; ++i) mix.count(i % 5000);
  EXPECT_LE(mix.asks().size(), 64U);
}

TEST(Packing, what_is_derived_from_the_history_may_be_kept_for_thousands_of_asks) {
  AskMix mix;
  std::uint32_t changes = 0, epoch = mix.epoch();
  for (int i = 0; i < 100'000; ++i) {
    mix.count(500 + i % 50);
    changes += mix.epoch() != epoch;
    epoch = mix.epoch();
  }
  EXPECT_LE(changes, 40U);
  EXPECT_GE(changes, 10U);
}

// ---- as the scheduler uses it

class PackingStory : public story::Story {
 protected:
  /// Eight jobs of 6000 MiB came and went; now one of 2000 MiB comes. One card has exactly 6000 MiB, another 8000, the others are tiny.
  std::vector<std::string> small_job_goes_to(std::size_t cards, Packing packing) {
    config.policy.packing = packing;
    core = std::make_unique<Core>(config);
    std::vector<JobId> usual;
    for (std::uint64_t n = 1; n <= 8; ++n) usual.push_back(submitted(story::training(n, {6000})));
    say(CancelReceived{story::kClient, ++request, usual});
    WorkerSpec spec{.devices = {story::gpu("tight", {6000}), story::gpu("wide", {8000})}};
    while (spec.devices.size() < cards) spec.devices.push_back(story::gpu("tiny" + std::to_string(spec.devices.size()), {1000}));
    worker("anna", spec);
    return dynamic(submitted(story::training(9, {2000}))).devices;
  }
};

TEST_F(PackingStory, above_eight_cards_a_small_job_leaves_the_place_that_the_usual_job_needs) {
  EXPECT_EQ(small_job_goes_to(9, Packing::automatic), std::vector<std::string>{"wide"});
}
TEST_F(PackingStory, up_to_eight_cards_the_tightest_fit_decides) {
  EXPECT_EQ(small_job_goes_to(8, Packing::automatic), std::vector<std::string>{"tight"});
}
TEST_F(PackingStory, the_policy_may_ask_for_either_whatever_the_fleet) {
  EXPECT_EQ(small_job_goes_to(9, Packing::best_fit), std::vector<std::string>{"tight"});
}
TEST_F(PackingStory, and_for_the_other_one) {
  EXPECT_EQ(small_job_goes_to(2, Packing::fgd), std::vector<std::string>{"wide"});
}
TEST_F(PackingStory, a_core_that_was_restarted_knows_the_usual_jobs_from_the_store) {
  config.policy.packing = Packing::fgd;
  core = std::make_unique<Core>(config);
  std::vector<JobId> usual;
  for (std::uint64_t n = 1; n <= 8; ++n) usual.push_back(submitted(story::training(n, {6000})));
  say(CancelReceived{story::kClient, ++request, usual});
  core = std::make_unique<Core>(config);
  core->load(store.image(), now);
  worker("anna", {.devices = {story::gpu("tight", {6000}), story::gpu("wide", {8000})}});
  EXPECT_EQ(dynamic(submitted(story::training(9, {2000}))).devices, std::vector<std::string>{"wide"});
}

}  // namespace
}  // namespace gq::core

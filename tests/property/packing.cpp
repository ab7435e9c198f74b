// packing.cpp - the cached, indexed choice is the one that a look at every device would make.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "broker/core/packing.h"

namespace gq::core {
namespace {

constexpr std::int64_t kShares[] = {100, 250, 320, 470, 500, 650, 810, 1000};

struct World {
  explicit World(std::uint64_t seed) : random(seed) {
    for (std::size_t i = 0, n = 1 + random() % 12; i < n; ++i)
      nodes.push_back({static_cast<std::int64_t>(random() % 200), static_cast<std::int64_t>(random() % 200), static_cast<std::uint32_t>(random() % 3),
                       std::vector<std::int64_t>(random() % 5, 1000)});
    for (std::size_t i = 0, n = random() % 8; i < n; ++i) mix.push_back({task(), 1 + random() % 9});
  }
  PackTask task() {
    PackTask t{static_cast<std::int64_t>(random() % 20), static_cast<std::int64_t>(random() % 20), static_cast<std::uint32_t>(random() % 4), 0, 1 + random() % 7};
    if (t.devices == 1) t.share = kShares[random() % std::size(kShares)];
    if (t.devices > 1) t.share = 1000;
    return t;
  }
  std::mt19937_64 random;
  std::vector<PackNode> nodes;
  std::vector<TypicalTask> mix;
};

/// The rating of one concrete choice, straight from the definition: larger step, then less left, then lower node.
struct Choice {
  std::uint32_t step{};
  std::int64_t left{};
  Index node{};
  std::int64_t device_free{};
  [[nodiscard]] auto key() const { return std::tuple(-static_cast<std::int64_t>(step), left, node, device_free); }
};
std::vector<Choice> choices(const Packer& packer, const PackTask& task, const std::vector<TypicalTask>& mix) {
  std::uint64_t weight = 0;
  for (const auto& m : mix) weight += m.weight;
  std::vector<Choice> all;
  for (Index i = 0; i < packer.nodes().size(); ++i) {
    const PackNode& node = packer.nodes()[i];
    if (node.cpu < task.cpu || node.memory < task.memory || (task.devices > 0 && (task.models >> node.model & 1U) == 0)) continue;
    std::vector<std::uint32_t> fitting;
    for (std::uint32_t d = 0; d < node.free.size(); ++d)
      if (node.free[d] >= task.share) fitting.push_back(d);
    if (fitting.size() < task.devices) continue;
    const auto consider = [&](const std::vector<std::uint32_t>& devices) {
      PackNode after = node;
      after.cpu -= task.cpu;
      after.memory -= task.memory;
      std::int64_t idle = 0;
      for (const auto d : devices) after.free[d] -= task.share;
      for (const auto f : after.free) idle += f;
      all.push_back({packing_step(fragmentation(node, mix) - fragmentation(after, mix), weight, 1000), after.cpu * 8 * 1000 + idle * 128'000, i,
                     devices.empty() ? 0 : node.free[devices[0]]});
    };
    if (task.devices == 1) for (const auto d : fitting) consider({d});
    else consider({fitting.begin(), fitting.begin() + task.devices});
  }
  return all;
}

TEST(PackingProperty, the_cached_choice_is_the_best_of_all_choices_after_any_history) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    World w(seed);
    Packer packer(w.nodes, w.mix, {});
    std::vector<std::pair<Index, Packer::Spot>> placed;
    std::vector<PackTask> tasks;
    for (int i = 0; i < 12; ++i) tasks.push_back(w.task());
    for (int step = 0; step < 150; ++step) {
      const PackTask& task = tasks[w.random() % tasks.size()];
      const Index shape = packer.shape_of(task);
      if (w.random() % 3 == 0) (void)packer.refresh(shape, w.random() % 8);
      if (w.random() % 50 == 0) {
        w.mix.push_back({w.task(), 1 + w.random() % 9});
        packer.set_mix(w.mix);
      }
      const auto all = choices(packer, task, w.mix);
      const auto spot = packer.pick(shape);
      ASSERT_EQ(spot.has_value(), !all.empty()) << "seed " << seed << " step " << step;
      if (spot) {
        const auto best = std::min_element(all.begin(), all.end(), [](const Choice& a, const Choice& b) { return a.key() < b.key(); });
        ASSERT_EQ(spot->node, best->node) << "seed " << seed << " step " << step;
        if (task.devices == 1) {
          ASSERT_EQ(packer.nodes()[spot->node].free[spot->devices[0]], best->device_free) << "seed " << seed << " step " << step;
        }
        if (w.random() % 3 != 0) {
          packer.place(shape, *spot);
          placed.emplace_back(shape, *spot);
        }
      }
      if (!placed.empty() && w.random() % 4 == 0) {
        const std::size_t i = w.random() % placed.size();
        packer.remove(placed[i].first, placed[i].second);
        placed.erase(placed.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }
}

struct Rated {
  std::uint32_t step{};
  std::int64_t free{-1};              ///< of the device chosen; -1 = none
  bool operator==(const Rated&) const = default;
};
using Asks = std::map<std::int64_t, std::uint64_t>;

DevicePacking history(const Asks& asks) {
  DevicePacking packing;
  std::uint64_t counted = 0;
  for (const auto& [ask, times] : asks)
    for (std::uint64_t i = 0; i < times; ++i, ++counted) packing.count(ask);
  return packing;
}

/// As the scheduler walks them: over the free amounts in order, preference by preference.
Rated walked(DevicePacking& packing, std::int64_t need, const std::multiset<std::int64_t>& free, std::int64_t whole) {
  Rated best;
  for (const Preference& p : packing.preferences(need, whole)) {
    if (best.free >= 0 && p.step < best.step) break;
    const auto it = free.lower_bound(p.from);
    if (it == free.end() || *it >= p.to) continue;
    const std::uint32_t step = packing.step_at(p, *it, whole);
    if (best.free < 0 || step > best.step || (step == best.step && *it < best.free)) best = {step, *it};
  }
  return best;
}

/// Numbers of asks for which the history has just been published: 8 + 16 + 32 + … .
constexpr std::uint64_t kPublished[] = {8, 24, 56, 120};

TEST(PackingProperty, a_walk_over_the_preferences_finds_the_best_device_of_all) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 2000; ++round) {
    const std::int64_t whole = random() % 2 == 0 ? 1000 : 24'000;
    const auto any = [&] { return 1 + static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(whole)); };
    std::vector<std::int64_t> kinds;
    for (std::size_t i = 0, n = 1 + random() % 12; i < n; ++i) kinds.push_back(any());
    Asks asks;
    for (std::uint64_t i = 0, n = kPublished[random() % 4]; i < n; ++i) ++asks[kinds[random() % kinds.size() * (random() % 2)]];
    const std::int64_t need = random() % 3 != 0 ? kinds.front() : any();
    std::multiset<std::int64_t> free;
    for (std::size_t i = 0, n = random() % 40; i < n; ++i) free.insert(any() - 1);
    DevicePacking packing = history(asks);
    std::vector<TypicalTask> mix;   // the same rating by the other form: nodes with one device each, every one of them tried
    std::uint64_t weight = 0;
    for (const auto& [ask, times] : asks) {
      mix.push_back({{0, 0, 1, ask, ~0ULL}, times});
      weight += times;
    }
    Rated best;
    for (auto it = free.lower_bound(need); it != free.end(); ++it) {
      const PackNode before{0, 0, 0, {*it}}, after{0, 0, 0, {*it - need}};
      const std::uint32_t step = packing_step(fragmentation(before, mix) - fragmentation(after, mix), weight, whole);
      if (best.free < 0 || step > best.step) best = {step, *it};
    }
    ASSERT_EQ(walked(packing, need, free, whole), best) << "round " << round;
    if (whole != 1000) continue;
    std::vector<PackNode> nodes;
    for (const std::int64_t f : free) nodes.push_back({0, 0, 0, {f}});
    Packer packer(nodes, mix, {});
    const auto spot = packer.pick(packer.shape_of({0, 0, 1, need, ~0ULL}));
    ASSERT_EQ(spot ? nodes[spot->node].free[0] : -1, best.free) << "round " << round;
  }
}

TEST(PackingProperty, preferences_follow_the_history_and_the_need) {
  DevicePacking packing;
  const auto of = [&](std::int64_t need) { return packing.preferences(need, 1000); };
  EXPECT_EQ(of(200), (std::vector<Preference>{{50, 200, INT64_MAX, 0, 0}}));  // no history: best fit
  for (int i = 0; i < 8; ++i) packing.count(600);
  const auto some = of(200);
  ASSERT_FALSE(some.empty());
  EXPECT_EQ(some.front().from, 200) << "whatever is too small for the usual job is used up first";
  EXPECT_NE(of(300), some);
  EXPECT_NE(of(200 + 251), some);   // stands where 200 stood
  EXPECT_EQ(of(200), some);
  for (int i = 0; i < 16 + 32; ++i) packing.count(100);
  EXPECT_NE(of(200), some);
}

}  // namespace
}  // namespace gq::core

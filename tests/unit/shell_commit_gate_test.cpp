// What may leave when: the gate's promises, one by one, and against a plain model over random histories.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <string>

#include "broker/shell/commit_gate.h"

namespace gq::broker {
namespace {

using Gate = CommitGate<std::string, std::string>;
using Words = std::vector<std::string>;

struct CommitGateStory : testing::Test {
  Gate gate{40, {.jobs = 3, .bytes = 1000}};

  void step(Words mutations, Words sends, std::size_t bytes = 0) {
    const BatchWeight weight{.created = mutations.size(), .started = 0, .other = 0, .bytes = bytes};
    gate.push(mutations, weight, sends);
    EXPECT_TRUE(mutations.empty() && sends.empty()) << "push takes everything";
  }
  Words leaves() { return std::exchange(gate.released(), {}); }
  Words cut(std::uint64_t expected_number) {
    auto cut = gate.cut();
    if (!cut) return {"nothing"};
    EXPECT_EQ(cut->number, expected_number);
    return cut->items;
  }
};

TEST_F(CommitGateStory, a_send_leaves_only_after_the_commit_of_its_step) {
  step({"create a"}, {"submitted a"});
  EXPECT_EQ(leaves(), Words{});
  EXPECT_EQ(cut(41), Words{"create a"});
  EXPECT_EQ(leaves(), Words{});
  gate.committed(41);
  EXPECT_EQ(leaves(), Words{"submitted a"});
  EXPECT_EQ(leaves(), Words{}) << "each comes out once";
}

TEST_F(CommitGateStory, a_send_without_mutations_leaves_at_once_when_nothing_is_under_way) {
  step({}, {"status"});
  EXPECT_EQ(leaves(), Words{"status"});
}

TEST_F(CommitGateStory, a_send_without_mutations_waits_for_the_batch_in_flight) {
  step({"create a"}, {"submitted a"});
  cut(41);
  step({}, {"status of a"});
  EXPECT_EQ(leaves(), Words{});
  gate.committed(41);
  EXPECT_EQ(leaves(), (Words{"submitted a", "status of a"}));
}

TEST_F(CommitGateStory, a_send_without_mutations_waits_for_what_gathers_before_it) {
  step({"create a"}, {"submitted a"});
  cut(41);
  step({"create b"}, {"submitted b"});
  step({}, {"status of b"});
  gate.committed(41);
  EXPECT_EQ(leaves(), Words{"submitted a"});
  EXPECT_EQ(cut(42), Words{"create b"});
  gate.committed(42);
  EXPECT_EQ(leaves(), (Words{"submitted b", "status of b"}));
}

TEST_F(CommitGateStory, one_batch_is_in_flight_at_a_time) {
  step({"create a"}, {});
  EXPECT_EQ(cut(41), Words{"create a"});
  step({"create b"}, {});
  EXPECT_EQ(cut(0), Words{"nothing"});
  gate.committed(41);
  EXPECT_EQ(cut(42), Words{"create b"});
}

TEST_F(CommitGateStory, at_the_bound_a_batch_is_sealed_and_the_next_begins) {
  step({"1", "2"}, {});
  EXPECT_FALSE(gate.full());
  step({"3", "4"}, {"four"});
  EXPECT_TRUE(gate.full()) << "3 jobs is the bound; a step is never torn";
  EXPECT_EQ(gate.take_sealed(), 41U);
  step({"5"}, {"five"});
  EXPECT_EQ(gate.take_sealed(), std::nullopt);
  EXPECT_EQ(cut(41), (Words{"1", "2", "3", "4"}));
  EXPECT_FALSE(gate.full());
  gate.committed(41);
  EXPECT_EQ(leaves(), Words{"four"});
  EXPECT_EQ(cut(42), Words{"5"});
}

TEST_F(CommitGateStory, bytes_seal_a_batch_too) {
  step({"large"}, {}, 1000);
  EXPECT_TRUE(gate.full());
  step({"small"}, {}, 1);
  EXPECT_EQ(cut(41), Words{"large"});
}

TEST_F(CommitGateStory, what_is_abandoned_comes_out_in_order_and_nothing_stays) {
  step({"a"}, {"A"});
  cut(41);
  step({"b"}, {"B"});
  EXPECT_EQ(gate.abandon(), (Words{"A", "B"}));
  EXPECT_FALSE(gate.in_flight() || gate.gathering());
  EXPECT_EQ(leaves(), Words{});
}

/// Model: number every step; a send may leave when all mutations of steps up to its own are durable, and must once they are.
TEST(CommitGateProperty, random_histories_never_release_early_and_never_withhold) {
  for (unsigned seed = 1; seed <= 300; ++seed) {
    std::mt19937 random(seed);
    CommitGate<int, int> gate(0, {.jobs = 4, .bytes = 100});
    std::set<int> not_durable;       // mutations, numbered by their step
    std::vector<int> in_flight;
    std::uint64_t number = 0;
    int last_left = 0;
    std::set<int> waiting;           // sends, numbered by their step
    const auto check_released = [&] {
      for (const int send : gate.released()) {
        ASSERT_TRUE(not_durable.empty() || *not_durable.begin() > send) << "seed " << seed << ": send of step " << send << " left early";
        ASSERT_LE(last_left, send) << "seed " << seed << ": out of order";
        last_left = send;
        waiting.erase(send);
      }
      gate.released().clear();
      if (!waiting.empty()) {
        ASSERT_FALSE(not_durable.empty()) << "seed " << seed << ": withheld though all is durable";
        ASSERT_LE(*not_durable.begin(), *waiting.begin()) << "seed " << seed << ": withheld too long";
      }
    };
    for (int s = 1; s <= 200; ++s) {
      switch (random() % 4) {
        case 0: case 1: {
          std::vector<int> items(random() % 3, s), sends(random() % 2, s);
          if (!items.empty()) not_durable.insert(s);
          if (!sends.empty()) waiting.insert(s);
          gate.push(items, {.created = items.size(), .started = 0, .other = 0, .bytes = random() % 30}, sends);
          break;
        }
        case 2:
          if (auto cut = gate.cut()) {
            ASSERT_EQ(cut->number, ++number);
            in_flight = cut->items;
          }
          break;
        default:
          if (gate.in_flight()) {
            for (const int item : in_flight) not_durable.erase(item);
            gate.committed(number);
          }
      }
      check_released();
    }
  }
}

}  // namespace
}  // namespace gq::broker

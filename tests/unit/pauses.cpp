// pauses.cpp - who stands still for whom, and that nobody starves.
#include <gtest/gtest.h>

#include "broker/core/policy.h"
#include "worker/runtime/pauses.h"

namespace gq::worker {
namespace {

constexpr std::uint8_t kForInference = 1U << static_cast<unsigned>(JobClass::inference);
const Instant kStart{Duration{1h}};

TEST(PauseGate, it_is_held_at_once_and_goes_on_at_once) {
  PauseGate gate({}, kStart);
  EXPECT_FALSE(gate.step(kStart, false));
  EXPECT_FALSE(gate.next().has_value()) << "nothing to wait for";
  EXPECT_TRUE(gate.step(kStart + 10ms, true));
  EXPECT_FALSE(gate.step(kStart + 60ms, false));
  EXPECT_EQ(gate.paused(), Duration{50ms});
}

TEST(PauseGate, beside_work_without_end_it_runs_a_slice_of_every_period) {
  PauseGate gate({.period = 2s, .slice = 200ms}, kStart);
  Duration ran{}, stood{};
  Instant at = kStart;
  gate.step(at, true);
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(gate.next().has_value());
    ASSERT_GT(*gate.next(), at) << "it moves on";
    (gate.held() ? stood : ran) += *gate.next() - at;
    at = *gate.next();
    gate.step(at, true);
  }
  EXPECT_EQ(ran, Duration{20 * 200ms});
  EXPECT_EQ(stood, Duration{20 * 1800ms});
  EXPECT_EQ(gate.paused(), stood);
}

TEST(PauseGate, what_it_runs_between_requests_counts_as_its_slice) {
  PauseGate gate({.period = 2s, .slice = 200ms}, kStart);
  Instant at = kStart;
  for (int i = 0; i < 1000; ++i) {   // a request of 10 ms every 50 ms
    EXPECT_TRUE(gate.step(at, true)) << "held at once, request " << i;
    EXPECT_FALSE(gate.step(at + 10ms, false));
    at += 50ms;
  }
}

TEST(PauseGate, dense_requests_leave_it_its_slice_all_the_same) {
  PauseGate gate({.period = 2s, .slice = 200ms}, kStart);
  Instant at = kStart;
  Duration ran{};
  gate.step(at, false);
  for (; at < kStart + 100s;) {      // 49 ms of every 50
    for (const auto& [wanted, span] : {std::pair{true, Duration{49ms}}, {false, Duration{1ms}}}) {
      Instant to = at + span;
      gate.step(at, wanted);
      while (at < to) {
        const Instant step = gate.next() ? std::min(to, *gate.next()) : to;
        if (!gate.held()) ran += step - at;
        at = step;
        gate.step(at, wanted);
      }
    }
  }
  EXPECT_GE(ran, Duration{100s} / 10 * 9 / 10);
  EXPECT_LE(ran, Duration{100s} / 10 * 2);
}

TEST(PauseGate, without_a_slice_it_stands_as_long_as_there_is_work) {
  PauseGate gate({.period = 2s, .slice = 0s}, kStart);
  gate.step(kStart, true);
  EXPECT_FALSE(gate.next().has_value());
  EXPECT_TRUE(gate.step(kStart + 1h, true));
}

struct Turns : testing::Test {
  asio::io_context io;
  Pauses pauses{io, {.period = 2s, .slice = 0s}};
  std::vector<bool> said;
  std::unique_ptr<Pauses::Place> join(std::vector<std::string> devices, std::uint8_t classes = kForInference) {
    auto place = pauses.join(std::move(devices), classes, [this](bool held) { said.push_back(held); });
    settle();
    return place;
  }
  void settle() {
    io.restart();
    io.poll();
  }
  static wire::Grant grant(std::uint64_t n) { return {JobId{1, n}, Attempt{1}, Nonce{}}; }
};
using Said = std::vector<bool>;

TEST_F(Turns, only_work_of_the_named_classes_on_its_own_devices_holds_it) {
  const auto place = join({"GPU-a", "GPU-b"});
  pauses.work_begins(grant(1), JobClass::training, {"GPU-a"});
  pauses.work_begins(grant(2), JobClass::inference, {"GPU-c"});
  pauses.work_begins(grant(3), JobClass::inference, {});
  EXPECT_EQ(said, Said{});
  pauses.work_begins(grant(4), JobClass::inference, {"GPU-b"});
  pauses.work_begins(grant(5), JobClass::inference, {"GPU-a"});
  EXPECT_EQ(said, Said{true});
  pauses.work_ends(grant(4));
  pauses.work_ends(grant(4));
  pauses.work_ends(grant(99));
  EXPECT_EQ(said, Said{true}) << "one is left";
  pauses.work_ends(grant(5));
  EXPECT_EQ(said, (Said{true, false}));
}

TEST_F(Turns, one_that_joins_beside_work_is_held_and_one_that_leaves_goes_on_first) {
  pauses.work_begins(grant(1), JobClass::inference, {"GPU-a"});
  auto place = join({"GPU-a"});
  EXPECT_EQ(said, Said{true});
  place->leave();
  EXPECT_EQ(said, (Said{true, false}));
  pauses.work_begins(grant(2), JobClass::inference, {"GPU-a"});
  EXPECT_EQ(said, (Said{true, false})) << "it is out";
  auto gone = join({"GPU-a"});
  gone.reset();
  pauses.work_ends(grant(1));
  pauses.work_ends(grant(2));
  EXPECT_EQ(said, (Said{true, false, true})) << "nothing is said to one that is gone";
}

TEST_F(Turns, one_may_end_in_the_very_moment_it_is_told) {
  std::unique_ptr<Pauses::Place> a, b;
  a = pauses.join({"GPU-a"}, kForInference, [&](bool) { a.reset(), b.reset(); });
  b = pauses.join({"GPU-a"}, kForInference, [&](bool) { a.reset(), b.reset(); });
  settle();
  pauses.work_begins(grant(1), JobClass::inference, {"GPU-a"});
  EXPECT_TRUE(a == nullptr && b == nullptr);
}

TEST(PausePolicy, the_policy_names_the_classes_and_a_wish_without_one_means_all_above) {
  core::Policy policy;
  EXPECT_EQ(policy.pauses_for(JobClass::training, OnPreempt::checkpoint), 0);
  EXPECT_EQ(policy.pauses_for(JobClass::training, OnPreempt::pause), kForInference);
  EXPECT_EQ(policy.pauses_for(JobClass::synthesis, OnPreempt::pause), kForInference | (1U << static_cast<unsigned>(JobClass::training)));
  EXPECT_EQ(policy.pauses_for(JobClass::inference, OnPreempt::pause), 0) << "nothing is above it";
  policy.of(JobClass::synthesis).pause_for = {JobClass::inference};
  EXPECT_EQ(policy.pauses_for(JobClass::synthesis, OnPreempt::restart), kForInference);
  EXPECT_EQ(policy.pauses_for(JobClass::synthesis, OnPreempt::pause), kForInference) << "the policy's word counts";
}

}  // namespace
}  // namespace gq::worker

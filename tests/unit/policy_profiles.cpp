// policy_profiles.cpp - the shipped profiles, on cards of 8, 12 and 24 GB alike: what starts, where, and with how much.
#include <fstream>
#include <iterator>

#include "broker/policy/policy_file.h"
#include "tests/unit/core_story.h"

namespace gq::policy {
namespace {

using namespace core;
using namespace core::story;

constexpr std::int64_t kNoon = 1'710'504'000'000;                    // Friday 2024-03-15 12:00 UTC
constexpr std::int64_t kNight = kNoon + 11 * 3'600'000LL;            // 23:00
constexpr std::int64_t kSunday = kNoon + 2 * 24 * 3'600'000LL;       // 12:00
constexpr Mib kDriver{300};

/// A core that follows a profile, in UTC, on cards of one size.
class Profile : public Story, public testing::WithParamInterface<int> {
 protected:
  void follow(const std::string& name, std::int64_t at_ms) {
    auto loaded = load(std::string(GPUQ_PROFILES) + "/" + name + ".toml", WallTime{at_ms}, [](const char* variable) { return std::string_view(variable) == "TZ" ? "UTC" : nullptr; });
    ASSERT_TRUE(loaded) << loaded.error().what;
    EXPECT_TRUE(loaded->warnings.empty()) << loaded->warnings.front();
    now.wall.ms = at_ms;
    config.policy = loaded->policy;
    core = std::make_unique<Core>(config);
  }
  void cards(std::uint16_t count, DeviceKind kind = DeviceKind::cuda) {
    std::vector<DeviceReport> reports;
    for (std::uint16_t i = 0; i < count; ++i) {
      DeviceReport r = gpu("card" + std::to_string(i), {std::int64_t{GetParam()} * 1024});
      r.kind = kind;
      r.index = i;
      if (kind == DeviceKind::cuda) r.driver = r.used = kDriver;
      reports.push_back(std::move(r));
    }
    worker("anna", {.devices = reports, .starts = 1000});
  }
  [[nodiscard]] Mib capacity() const {
    const std::int64_t total = std::int64_t{GetParam()} * 1024;
    return {total - kDriver.value - total * 5 / 100};
  }
  SubmitItem work(JobClass c, Mib min = {}, Mib max = {}) {
    return with(item(++last_, "command"), [&](SubmitItem& i) {
      i.fixed.needs.job_class = c;
      i.fixed.needs.budget_min = min;
      i.fixed.needs.budget_max = max == Mib{} ? min : max;
    });
  }
  /// Synthesis jobs of `size`, until one must wait; how many run.
  int fill_with_synthesis(Mib size) {
    int running = 0;
    while (running < 100 && state(submitted(work(JobClass::synthesis, size))) == JobState::running) ++running;
    return running;
  }
  std::uint64_t last_ = 0;
};

TEST_P(Profile, one_gpu_by_day_keeps_most_of_the_card_for_requests) {
  follow("one-gpu", kNoon);
  cards(1);
  EXPECT_EQ(state(submitted(work(JobClass::training))), JobState::ready) << "training waits for the night";
  const Mib part{256};
  const int running = fill_with_synthesis(part);
  const Mib left{capacity().value - capacity().value * 65 / 100};
  EXPECT_GE(left, Mib{2048}) << "a synthesis of the usual size has room beside requests, on the smallest card too";
  EXPECT_NEAR(running, static_cast<int>(left.value / part.value), 1) << "the rest is kept, though nobody asks for it yet";
  const auto asked = submitted(work(JobClass::inference, {capacity().value * 60 / 100}));
  EXPECT_EQ(state(asked), JobState::running) << "there is room at once";
  EXPECT_EQ(core->totals().preempted, 0U);
}

TEST_P(Profile, one_gpu_at_night_trains_with_all_that_loaded_models_leave) {
  for (const std::int64_t at : {kNight, kSunday}) {
    follow("one-gpu", at);
    cards(1);
    const auto asked = submitted(work(JobClass::inference, {1500}));
    EXPECT_EQ(state(asked), JobState::running);
    const auto night = submitted(work(JobClass::training));
    EXPECT_EQ(state(night), JobState::running);
    EXPECT_EQ(dynamic(night).granted, Mib{capacity().value - 1500});
    EXPECT_EQ(state(submitted(work(JobClass::synthesis, {256}))), JobState::ready) << "not beside a training";
  }
}

TEST_P(Profile, one_gpu_starts_no_training_that_cannot_reach_its_minimum_before_morning) {
  follow("one-gpu", kNight + 8 * 3'600'000LL - 20 * 1'000 - 24 * 3'600'000LL);   // Friday 06:59:40
  cards(1);
  EXPECT_EQ(state(submitted(work(JobClass::training))), JobState::ready);
}

TEST_P(Profile, two_gpu_trains_on_the_second_card_and_answers_on_the_first) {
  follow("two-gpu", kNoon);
  cards(2);
  const auto training_job = submitted(work(JobClass::training));
  EXPECT_EQ(dynamic(training_job).devices, std::vector<std::string>{"card1"});
  EXPECT_EQ(dynamic(training_job).granted, std::min(Mib{12 * 1024}, capacity())) << "12 GiB, clamped to the card";
  EXPECT_EQ(state(submitted(work(JobClass::training))), GetParam() > 13 ? JobState::running : JobState::ready) << "two of them share a card of 24 GB";
  const Mib left{capacity().value - capacity().value * 55 / 100}, part{256};
  EXPECT_GE(left, Mib{2048});
  EXPECT_NEAR(fill_with_synthesis(part), static_cast<int>(left.value / part.value), 1);
  EXPECT_EQ(device("card1").granted, GetParam() > 13 ? device("card1").granted : capacity()) << "synthesis stays off the card of training";
  const auto asked = submitted(work(JobClass::inference, {4000}));
  EXPECT_EQ(dynamic(asked).devices, std::vector<std::string>{"card0"}) << "four of the 4 to 6 GB that are always kept";
  EXPECT_EQ(core->totals().preempted, 0U);
}

TEST_P(Profile, cpu_runs_everything_one_training_at_a_time) {
  follow("cpu", kNoon);
  cards(1, DeviceKind::cpu);
  EXPECT_EQ(state(submitted(work(JobClass::training, {1024}))), JobState::running);
  EXPECT_EQ(state(submitted(work(JobClass::training, {1024}))), JobState::ready) << "one at a time";
  EXPECT_EQ(state(submitted(work(JobClass::synthesis, {256}))), JobState::ready) << "not beside a training";
  EXPECT_EQ(state(submitted(work(JobClass::inference, {1024}))), JobState::running);
}

INSTANTIATE_TEST_SUITE_P(Cards, Profile, testing::Values(8, 12, 24), [](const auto& size) { return std::to_string(size.param) + "GB"; });

}  // namespace
}  // namespace gq::policy

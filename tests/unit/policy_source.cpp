// policy_source.cpp - the policy in force: reloads that are refused, flags that outlast them, windows that are renewed in time.
#include "broker/policy/source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>

#include "broker/policy/windows.h"

namespace gq::policy {
namespace {

constexpr std::int64_t kNow = 1'710'504'000'000;   // Friday 2024-03-15 12:00 UTC
constexpr std::int64_t kDay = 86'400'000;

struct PolicyInForce : testing::Test {
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "gpuq-policy-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    dir = pattern;
    file = (dir / "gpuq.toml").string();
  }
  void TearDown() override { std::filesystem::remove_all(dir); }
  void write(const std::string& text) const { std::ofstream(file) << text; }
  PolicySource opened(std::vector<PolicySource::Flag> flags = {}) {
    auto source = PolicySource::open(file, std::move(flags), [](const char*) -> const char* { return nullptr; }, [this] { return WallTime{*clock}; });
    EXPECT_TRUE(source);
    return std::move(*source);
  }
  std::filesystem::path dir;
  std::string file;
  std::shared_ptr<std::int64_t> clock = std::make_shared<std::int64_t>(kNow);
};

constexpr const char* kNights = "[policy]\ntime_zone = \"UTC\"\n[class.training]\nwindow = \"22:00-07:00\"\n";

TEST_F(PolicyInForce, is_the_files_and_after_a_reload_the_new_files) {
  write("[class.training]\nrunning_max = 1\n");
  PolicySource source = opened();
  EXPECT_EQ(source.current().policy.of(JobClass::training).running_max, 1U);
  write("[class.training]\nrunning_max = 2\n");
  EXPECT_EQ(source.current().policy.of(JobClass::training).running_max, 1U);
  ASSERT_TRUE(source.reload());
  EXPECT_EQ(source.current().policy.of(JobClass::training).running_max, 2U);
}

TEST_F(PolicyInForce, stays_when_the_new_file_is_wrong_or_gone) {
  write(kNights);
  PolicySource source = opened();
  const core::Policy before = source.current().policy;
  write("[class.training]\nrunning_max = 2\nwindow = \"07:00-07:00\"\n");
  auto refused = source.reload();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, testing::StartsWith(file + ":3:1: class.training.window: '07:00-07:00' never opens"));
  EXPECT_EQ(source.current().policy, before) << "whole or not at all";
  std::filesystem::remove(file);
  EXPECT_FALSE(source.reload());
  EXPECT_EQ(source.current().policy, before);
}

TEST_F(PolicyInForce, is_not_touched_by_trying_another) {
  write(kNights);
  PolicySource source = opened();
  const core::Policy before = source.current().policy;
  EXPECT_TRUE(source.try_text("", "new.toml")->policy.windows.empty());
  EXPECT_THAT(source.try_text("[clas.training]\n", "new.toml").error().what, testing::StartsWith("new.toml:1:"));
  EXPECT_EQ(source.try_text(std::string(300U << 10U, '#'), "new.toml").error().code, Errc::too_large);
  EXPECT_EQ(source.current().policy, before);
}

TEST_F(PolicyInForce, keeps_the_flags_of_the_command_line_over_reloads) {
  write("[broker]\nlisten_http = \"none\"\nnamespace = \"a\"\n");
  PolicySource source = opened({{"broker.namespace", "b", "--namespace"}});
  write("[broker]\nlisten_http = \"127.0.0.1:0\"\nnamespace = \"c\"\n");
  auto loaded = source.reload();
  ASSERT_TRUE(loaded);
  EXPECT_THAT(loaded->warnings, testing::ElementsAre("broker.listen_http has changed: it counts from the broker's next start on"));
  EXPECT_EQ(source.started_with().text("broker.listen_http"), "none");
  EXPECT_EQ(source.started_with().text("broker.namespace"), "b");
}

TEST_F(PolicyInForce, has_its_windows_renewed_before_less_than_the_horizon_remains) {
  write(kNights);
  PolicySource source = opened();
  int renewed = 0;
  for (int hour = 0; hour < 24 * 60; ++hour, *clock += 3'600'000) {
    if (source.renew_windows()) ++renewed;
    EXPECT_GE(source.current().policy.windows.at(0).spans.back().close_ms, *clock + core::kWindowHorizonMs - kDay);
    EXPECT_EQ(source.current().policy.windows.at(0).open_at(*clock), hour % 24 >= 10 && hour % 24 < 19) << hour;
  }
  EXPECT_GE(renewed, 8);
  EXPECT_LE(renewed, 12) << "about once a week, not all the time";
}

TEST_F(PolicyInForce, has_its_windows_renewed_when_the_clock_is_set) {
  write(kNights);
  PolicySource source = opened();
  *clock -= 40 * kDay;
  EXPECT_TRUE(source.renew_windows());
  EXPECT_TRUE(source.current().policy.windows.at(0).open_at(*clock + 11 * 3'600'000));
  *clock += 400 * kDay;
  EXPECT_TRUE(source.renew_windows());
  EXPECT_TRUE(source.current().policy.windows.at(0).open_at(*clock + 11 * 3'600'000));
  EXPECT_FALSE(source.renew_windows());
}

TEST_F(PolicyInForce, without_a_file_is_the_built_in_one) {
  PolicySource source;
  EXPECT_EQ(source.current().policy, core::Policy{});
  EXPECT_FALSE(source.current().effective.empty());
  ASSERT_TRUE(source.reload());
  EXPECT_EQ(source.current().policy, core::Policy{});
  EXPECT_FALSE(source.renew_windows());
}

}  // namespace
}  // namespace gq::policy

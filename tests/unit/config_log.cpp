// config_log.cpp - a line of the log can be read by people and taken apart by programs.
#include <functional>

#include <gtest/gtest.h>

#include "common/config/clock.h"
#include "common/log.h"

namespace gq {
namespace {

std::string written(const std::function<void()>& by) {
  ::testing::internal::CaptureStderr();
  by();
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, a_line_is_program_time_level_event_and_quoted_fields) {
  log::set_name("gpuq-test");
  log::set_level(log::Level::info);
  const std::string line = written([] {
    log::warn("worker_rejected", {{"worker", "gpu-7"}, {"reason", "unknown \"key\"\n"}, {"empty", ""}, {"try", "gpuq keys list"}});
  });
  EXPECT_TRUE(line.starts_with("gpuq-test 20")) << line;
  EXPECT_NE(line.find("Z warn"), std::string::npos) << line;
  EXPECT_TRUE(line.ends_with(" worker_rejected worker=gpu-7 reason=\"unknown \\\"key\\\"\\n\" empty=\"\" try=\"gpuq keys list\"\n")) << line;
}

TEST(Log, what_is_below_the_level_is_not_written) {
  log::set_level(log::Level::warn);
  EXPECT_EQ(written([] { log::info("quiet"); }), "");
  EXPECT_NE(written([] { log::error("loud"); }), "");
  log::set_level(log::Level::info);
}

TEST(Clock, never_goes_back_and_randomness_does_not_repeat) {
  const Moment first = now();
  const Moment second = now();
  EXPECT_LE(first.steady, second.steady);
  EXPECT_GT(first.wall.ms, INT64_C(1'600'000'000'000));
  EXPECT_NE(random_u64(), random_u64());
}

}  // namespace
}  // namespace gq

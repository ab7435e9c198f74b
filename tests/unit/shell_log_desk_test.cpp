// Output of running jobs: one stream per job over all attempts, resent pieces once, bounded.
#include <gtest/gtest.h>

#include "broker/shell/body_cache.h"
#include "broker/shell/histogram.h"
#include "broker/shell/log_desk.h"

namespace gq::broker {
namespace {

struct LogDeskStory : testing::Test {
  LogDesk desk{4096, 64};
  JobId job{1, 1};
  wire::Grant attempt(Attempt n) const { return {job, n, 7}; }
};

TEST_F(LogDeskStory, pieces_become_one_stream) {
  desk.wrote(attempt(1), 0, "hello ");
  desk.wrote(attempt(1), 6, "world\n");
  EXPECT_EQ(desk.read(job, 0).bytes, "hello world\n");
  EXPECT_EQ(desk.read(job, 6).bytes, "world\n");
  EXPECT_EQ(desk.read(job, 6).next, 12U);
}

TEST_F(LogDeskStory, a_piece_sent_twice_appears_once) {
  desk.wrote(attempt(1), 0, "one two ");
  desk.wrote(attempt(1), 0, "one two ");
  desk.wrote(attempt(1), 4, "two three");
  EXPECT_EQ(desk.read(job, 0).bytes, "one two three");
}

TEST_F(LogDeskStory, a_gap_is_said_and_what_follows_is_kept) {
  desk.wrote(attempt(1), 0, "start ");
  desk.wrote(attempt(1), 100, "later");
  const std::string text = desk.read(job, 0).bytes;
  EXPECT_EQ(text, "start [gpuq] 94 bytes are only in the job's own log\nlater");
  desk.wrote(attempt(1), 105, " still");
  EXPECT_EQ(desk.read(job, 0).bytes.substr(desk.read(job, 0).bytes.size() - 11), "later still");
}

TEST_F(LogDeskStory, a_new_attempt_goes_on_in_the_same_stream) {
  desk.wrote(attempt(1), 0, "first\n");
  desk.wrote(attempt(2), 0, "second\n");
  EXPECT_EQ(desk.read(job, 0).bytes, "first\n[gpuq] attempt 2\nsecond\n");
}

TEST_F(LogDeskStory, the_ring_moves_on_and_says_from_where) {
  std::uint64_t at = 0;
  for (int i = 0; i < 50; ++i, at += 10) desk.wrote(attempt(1), at, "0123456789");
  const LogChunk chunk = desk.read(job, 0);
  EXPECT_EQ(chunk.bytes.size(), 64U);
  EXPECT_EQ(chunk.offset, 500U - 64U);
  EXPECT_EQ(chunk.next, 500U);
}

TEST_F(LogDeskStory, a_follower_gets_each_byte_once) {
  desk.wrote(attempt(1), 0, "before ");
  desk.follow(job, {PeerId{9}, 77, 7});
  desk.wrote(attempt(1), 7, "after");
  auto news = desk.news(job);
  ASSERT_EQ(news.size(), 1U);
  EXPECT_EQ(news[0].second.bytes, "after");
  EXPECT_EQ(news[0].first.request, 77U);
  EXPECT_TRUE(desk.news(job).empty());
  desk.drop_peer(PeerId{9});
  EXPECT_FALSE(desk.followed(job));
}

TEST_F(LogDeskStory, all_together_stay_below_the_bound) {
  for (std::uint64_t j = 0; j < 200; ++j) desk.wrote({{2, j}, 1, 1}, 0, std::string(60, 'x'));
  EXPECT_LE(desk.bytes(), 4096U + 512U);
  EXPECT_EQ(desk.read({2, 199}, 0).bytes.size(), 60U) << "the newest is there";
  EXPECT_TRUE(desk.read({2, 0}, 0).bytes.empty()) << "the oldest has gone";
}

TEST_F(LogDeskStory, status_shows_progress_and_the_last_lines) {
  desk.wrote(attempt(1), 0, "epoch 1\nepoch 2\n");
  desk.progressed({attempt(1), 20, 100, {{"loss", 0.5}}});
  wire::JobStatus status;
  status.id = job;
  desk.describe(status);
  EXPECT_EQ(status.progress_step, 20U);
  EXPECT_EQ(status.progress_total, 100U);
  EXPECT_EQ(status.metrics.at("loss"), 0.5);
  EXPECT_EQ(status.last_lines, "epoch 1\nepoch 2\n");
}

TEST(BodyCacheTest, it_gives_a_body_once_and_stays_below_its_bound) {
  BodyCache cache(1000);
  const auto body = std::make_shared<const Bytes>(std::string(100, 'b'));
  for (std::uint64_t j = 0; j < 100; ++j) cache.add({1, j}, body);
  EXPECT_FALSE(cache.contains({1, 0}));
  EXPECT_TRUE(cache.contains({1, 99}));
  EXPECT_EQ(cache.take({1, 99}), body);
  EXPECT_EQ(cache.take({1, 99}), nullptr);
  for (std::uint64_t j = 0; j < 100'000; ++j) {   // taken at once: nothing may pile up, and nothing that is there is lost
    cache.add({2, j}, body);
    ASSERT_NE(cache.take({2, j}), nullptr);
  }
  cache.add({3, 1}, body);
  EXPECT_TRUE(cache.contains({3, 1}));
}

TEST(HistogramTest, quantiles_are_within_nine_percent) {
  Histogram h;
  EXPECT_EQ(h.quantile(0.5), Duration{0});
  for (int us = 1; us <= 1000; ++us) h.add(Duration{us});
  EXPECT_NEAR(static_cast<double>(h.quantile(0.5).count()), 500, 50);
  EXPECT_NEAR(static_cast<double>(h.quantile(0.99).count()), 990, 95);
}

}  // namespace
}  // namespace gq::broker

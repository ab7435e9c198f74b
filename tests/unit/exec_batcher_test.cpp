// Which requests leave together, in which order, and what happens when memory runs out.
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "worker/executors/batcher.h"

namespace gq::exec {
namespace {

using Waiting = Batcher<int>;
const auto four = [](const std::string&) { return 4; };

std::vector<std::uint64_t> ids(const std::vector<Waiting::Request>& batch) {
  std::vector<std::uint64_t> out;
  for (const auto& r : batch) out.push_back(r.id);
  return out;
}
void push(Waiting& waiting, std::uint64_t id, const std::string& key, int priority = 5, std::int64_t deadline = INT64_MAX) {
  waiting.push({.id = id, .key = key, .priority = priority, .deadline_ms = deadline, .work = 0});
}

TEST(Batcher, forms_the_batch_when_asked_by_priority_then_deadline_then_arrival) {
  Waiting waiting;
  push(waiting, 1, "m");
  push(waiting, 2, "m", 5, 1000);
  push(waiting, 3, "m", 9);
  push(waiting, 4, "m");
  push(waiting, 5, "m", 0);
  EXPECT_EQ(ids(waiting.take(four)), (std::vector<std::uint64_t>{3, 2, 1, 4}));
  push(waiting, 6, "m", 9);   // late and urgent: leads the next batch
  EXPECT_EQ(ids(waiting.take(four)), (std::vector<std::uint64_t>{6, 5}));
}

TEST(Batcher, a_busy_model_does_not_starve_another) {
  Waiting waiting;
  for (std::uint64_t i = 0; i < 6; ++i) push(waiting, i, "busy");
  push(waiting, 100, "rare");
  for (std::uint64_t i = 6; i < 20; ++i) push(waiting, i, "busy");
  EXPECT_EQ(ids(waiting.take(four)), (std::vector<std::uint64_t>{0, 1, 2, 3}));
  EXPECT_EQ(ids(waiting.take(four)).front(), 4U);
  EXPECT_EQ(ids(waiting.take(four)), (std::vector<std::uint64_t>{100}));   // its turn by arrival, though 10 busy ones wait
}

TEST(Batcher, what_still_waits_can_be_withdrawn_and_closing_drains) {
  Waiting waiting;
  push(waiting, 1, "m");
  push(waiting, 2, "m");
  EXPECT_TRUE(waiting.withdraw(1));
  EXPECT_FALSE(waiting.withdraw(1));
  waiting.close();
  EXPECT_EQ(ids(waiting.take(four)), (std::vector<std::uint64_t>{2}));
  EXPECT_TRUE(waiting.take(four).empty());
}

TEST(Batcher, several_device_threads_get_every_request_exactly_once) {
  Waiting waiting;
  std::mutex mutex;
  std::map<std::uint64_t, int> seen;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (auto batch = waiting.take(four); !batch.empty(); batch = waiting.take(four)) {
        const std::lock_guard lock(mutex);
        for (const auto& r : batch) ++seen[r.id];
      }
    });
  }
  for (std::uint64_t i = 0; i < 2000; ++i) push(waiting, i, i % 3 == 0 ? "a" : "b");
  waiting.close();
  for (auto& t : threads) t.join();
  EXPECT_EQ(seen.size(), 2000U);
  for (const auto& [id, times] : seen) ASSERT_EQ(times, 1) << id;
}

TEST(Buckets, a_gpu_pads_up_and_a_cpu_fills_down) {
  EXPECT_EQ(batch_buckets(32), (std::vector<int>{1, 2, 4, 8, 16, 32}));
  EXPECT_EQ(batch_buckets(0), (std::vector<int>{1}));
  EXPECT_EQ(choose_bucket(5, 32, true), 8);
  EXPECT_EQ(choose_bucket(5, 32, false), 4);
  EXPECT_EQ(choose_bucket(3, 4, true), 4);
  EXPECT_EQ(choose_bucket(1, 32, true), 1);
  EXPECT_EQ(choose_bucket(40, 32, true), 32);
}

TEST(Ladder, halves_until_it_fits_and_reports_what_did) {
  std::vector<int> done(8), sizes;
  const int worked = run_with_ladder(8, [&](int begin, int size) {
    sizes.push_back(size);
    if (size > 2) return false;
    for (int i = 0; i < size; ++i) ++done[static_cast<std::size_t>(begin + i)];
    return true;
  }, [](int) { FAIL() << "everything fits in twos"; });
  EXPECT_EQ(worked, 2);
  EXPECT_EQ(done, std::vector<int>(8, 1));
  EXPECT_EQ(sizes, (std::vector<int>{8, 4, 2, 2, 4, 2, 2}));
}

TEST(Ladder, only_the_request_that_never_fits_fails) {
  std::vector<int> gave_up, tries(4);
  std::vector<bool> done(4);
  run_with_ladder(4, [&](int begin, int size) {
    for (int i = 0; i < size; ++i) ++tries[static_cast<std::size_t>(begin + i)];
    if (begin <= 2 && 2 < begin + size) return false;   // the third is too large in any company
    for (int i = 0; i < size; ++i) done[static_cast<std::size_t>(begin + i)] = true;
    return true;
  }, [&](int index) { gave_up.push_back(index); });
  EXPECT_EQ(gave_up, (std::vector<int>{2}));
  EXPECT_EQ(done, (std::vector<bool>{true, true, false, true}));
  for (const int t : tries) EXPECT_LE(t, 4);            // log2(4) + 2
}

}  // namespace
}  // namespace gq::exec

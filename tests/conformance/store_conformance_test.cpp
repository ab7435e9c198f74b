// store_conformance_test.cpp - one suite, every Store: in memory, and on a real redis-server of its own per test.
#include <random>

#include "broker/store/memory_store.h"
#include "tests/integration/store_driver.h"
#include "tests/integration/store_lives.h"
#include "tests/integration/store_redis_server.h"

namespace gq::test {
namespace {

using store::BatchItem;

/// A namespace that outlives the stores opened on it.
struct World {
  virtual ~World() = default;
  virtual std::unique_ptr<store::Store> make(asio::io_context& io, store::Watcher watcher) = 0;
  virtual void lose_body(JobId id) = 0;
  virtual std::optional<JobId> unique(const std::string& key) = 0;
};
struct MemoryWorld final : World {
  std::unique_ptr<store::Store> make(asio::io_context& io, store::Watcher watcher) override {
    return store::make_memory_store(io, std::move(watcher), disk);
  }
  void lose_body(JobId id) override { disk->jobs.at(id).body = nullptr; }
  std::optional<JobId> unique(const std::string& key) override {
    const auto it = disk->unique.find(key);
    return it == disk->unique.end() ? std::nullopt : std::optional(it->second);
  }
  std::shared_ptr<store::MemoryDisk> disk = std::make_shared<store::MemoryDisk>();
};
struct RedisWorld final : World {
  std::unique_ptr<store::Store> make(asio::io_context& io, store::Watcher watcher) override {
    return store::make_redis_store(io, server.options(), std::move(watcher));
  }
  void lose_body(JobId id) override { server.client()("DEL", "gpuq:{test}:b:" + to_string(id)); }
  std::optional<JobId> unique(const std::string& key) override {
    const auto reply = server.client()("HGET", "gpuq:{test}:unique", key);
    return reply.is(store::Reply::Type::string) ? parse_job_id(reply.text) : std::nullopt;
  }
  RedisServer server;
};

class StoreConformance : public testing::TestWithParam<std::string> {
 protected:
  StoreConformance() {
    if (GetParam() == "memory") world = std::make_unique<MemoryWorld>();
    else world = std::make_unique<RedisWorld>();
    broker.store = world->make(io, broker.watcher());
  }
  /// What a broker that starts now would see.
  core::Image reloaded() {
    broker.store->close();
    StoreDriver next(io);
    next.store = world->make(io, next.watcher());
    return next.open().image;
  }

  asio::io_context io;
  std::unique_ptr<World> world;
  StoreDriver broker{io};
};

TEST_P(StoreConformance, a_new_name_space_is_empty_and_each_take_over_raises_the_term) {
  const auto first = broker.open();
  EXPECT_TRUE(first.brand_new);
  EXPECT_EQ(first.batch, 0U);
  EXPECT_TRUE(first.image.jobs.empty());
  const auto again = broker.open();
  EXPECT_FALSE(again.brand_new);
  EXPECT_GT(again.term, first.term);
}

TEST_P(StoreConformance, a_life_is_remembered_step_by_step) {
  broker.open();
  auto job = a_job(1, 5);
  broker.commit({created(job, "hello")});
  const auto granted = broker.commit({moved(job, JobState::running), item(core::PayloadRead{job.fixed.id})});
  ASSERT_EQ(granted.payloads.size(), 1U);
  ASSERT_TRUE(granted.payloads.at(job.fixed.id));
  EXPECT_EQ(*granted.payloads.at(job.fixed.id), "hello");
  broker.commit({moved(job, JobState::succeeded, [](auto& d) { d.result_bytes = 5; }),
                 item(core::ResultStored{job.fixed.id, 1, 2, 5}, "world")});
  const auto found = broker.results({job.fixed.id, job_id(99)});
  ASSERT_TRUE(found.has_value());
  ASSERT_TRUE((*found)[0]);
  EXPECT_EQ(*(*found)[0], "world");
  EXPECT_FALSE((*found)[1]);
  expect_equal(reloaded(), {.jobs = {job}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, batches_are_numbered_and_the_number_survives) {
  broker.open();
  for (std::uint64_t n = 1; n <= 5; ++n) EXPECT_EQ(broker.commit({created(a_job(n), "x")}).number, n);
  broker.store->close();
  StoreDriver next(io);
  next.store = world->make(io, next.watcher());
  EXPECT_EQ(next.open().batch, 5U);
  EXPECT_EQ(next.commit({created(a_job(6), "x")}).number, 6U);
}

TEST_P(StoreConformance, submit_grant_and_end_in_one_batch_leave_the_end) {
  broker.open();
  auto job = a_job(1, 4);
  auto submit = created(job, "body");
  const auto done = broker.commit({submit, moved(job, JobState::running), item(core::PayloadRead{job.fixed.id}),
                                   moved(job, JobState::succeeded), item(core::ResultStored{job.fixed.id, 1, 2, 6}, "result")});
  ASSERT_TRUE(done.payloads.at(job.fixed.id));
  EXPECT_EQ(*done.payloads.at(job.fixed.id), "body");
  EXPECT_EQ(*broker.results({job.fixed.id}).value()[0], "result");
  expect_equal(reloaded(), {.jobs = {job}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, a_job_submitted_and_forgotten_in_one_batch_leaves_its_tombstone_only) {
  broker.open();
  auto job = a_job(1, 4);
  auto submit = created(job, "body");
  auto cancel = moved(job, JobState::cancelled);
  broker.commit({submit, cancel, item(core::JobForgotten{job.fixed.id, JobState::cancelled, true, job.fixed.digest, job.dynamic.ended})});
  EXPECT_FALSE(broker.payloads({job.fixed.id}).value()[0]);
  expect_equal(reloaded(), {.jobs = {}, .models = {}, .tombstones = {{job.fixed.id, job.fixed.digest, job.dynamic.ended}}});
}

TEST_P(StoreConformance, forgetting_removes_record_body_and_result) {
  broker.open();
  auto job = a_job(1, 4);
  broker.commit({created(job, "body")});
  broker.commit({moved(job, JobState::running)});
  broker.commit({moved(job, JobState::succeeded), item(core::ResultStored{job.fixed.id, 1, 2, 1}, "r")});
  broker.commit({item(core::JobForgotten{job.fixed.id, JobState::succeeded, true, job.fixed.digest, job.dynamic.ended})});
  EXPECT_FALSE(broker.payloads({job.fixed.id}).value()[0]);
  EXPECT_FALSE(broker.results({job.fixed.id}).value()[0]);
  broker.commit({item(core::TombstoneDropped{job.fixed.id})});
  expect_equal(reloaded(), {});
}

TEST_P(StoreConformance, an_id_forgotten_may_come_again_even_in_the_same_batch) {
  broker.open();
  auto job = a_job(1, 4);
  broker.commit({created(job, "old")});
  broker.commit({moved(job, JobState::cancelled), item(core::ResultStored{job.fixed.id, 1, 2, 1}, "r")});
  auto again = a_job(1, 3);
  again.fixed.seq = 7;
  again.fixed.label = "second life";
  broker.commit({item(core::JobForgotten{job.fixed.id, JobState::cancelled, false, {}, {}}), created(again, "new")});
  EXPECT_EQ(*broker.payloads({job.fixed.id}).value()[0], "new");
  EXPECT_FALSE(broker.results({job.fixed.id}).value()[0]);
  expect_equal(reloaded(), {.jobs = {again}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, a_ready_job_may_be_forgotten_whatever_its_class) {
  broker.open();
  auto job = a_job(1);
  job.fixed.needs.job_class = JobClass::synthesis;
  broker.commit({created(job, "x")});
  broker.commit({item(core::JobForgotten{job.fixed.id, JobState::ready, false, {}, {}})});
  expect_equal(reloaded(), {});
}

TEST_P(StoreConformance, a_missing_payload_is_told_as_missing) {
  broker.open();
  auto job = a_job(1, 4), whole = a_job(2, 4);
  broker.commit({created(job, "body"), created(whole, "here")});
  world->lose_body(job.fixed.id);
  const auto granted = broker.commit({moved(job, JobState::running), item(core::PayloadRead{job.fixed.id}), moved(whole, JobState::running),
                                      item(core::PayloadRead{whole.fixed.id})});
  ASSERT_EQ(granted.payloads.size(), 2U);
  EXPECT_FALSE(granted.payloads.at(job.fixed.id));
  EXPECT_EQ(*granted.payloads.at(whole.fixed.id), "here");
}

TEST_P(StoreConformance, an_empty_body_is_there_and_empty) {
  broker.open();
  auto job = a_job(1);
  broker.commit({item(core::JobCreated{job, 0, {}})});
  const auto granted = broker.commit({moved(job, JobState::running), item(core::PayloadRead{job.fixed.id})});
  ASSERT_TRUE(granted.payloads.at(job.fixed.id));
  EXPECT_EQ(*granted.payloads.at(job.fixed.id), "");
}

TEST_P(StoreConformance, bytes_are_bytes) {
  broker.open();
  std::string all(70'000, '\0');
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<char>(i * 7);
  all.replace(100, 4, "\r\n$-");
  auto job = a_job(1);
  broker.commit({created(job, all)});
  const auto granted = broker.commit({moved(job, JobState::running), item(core::PayloadRead{job.fixed.id})});
  EXPECT_TRUE(*granted.payloads.at(job.fixed.id) == all);
  broker.commit({moved(job, JobState::failed, [](auto& d) {
                   d.error = Errc::job_failed;
                   d.error_text = std::string("odd \0 text\r\n", 12);
                 }),
                 item(core::ResultStored{job.fixed.id, 1, 1, 1}, all)});
  EXPECT_TRUE(*broker.results({job.fixed.id}).value()[0] == all);
  expect_equal(reloaded(), {.jobs = {job}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, a_retry_gets_its_origins_body) {
  broker.open();
  auto origin = a_job(1, 4), retry = a_job(2, 4), at_once = a_job(3, 4), chain = a_job(4, 4);
  broker.commit({created(origin, "body")});
  retry.fixed.retry_of = origin.fixed.id;
  broker.commit({item(core::JobCreated{retry, 0, origin.fixed.id})});
  at_once.fixed.retry_of = chain.fixed.retry_of = retry.fixed.id;
  auto first = item(core::JobCreated{at_once, 0, retry.fixed.id}), second = item(core::JobCreated{chain, 0, at_once.fixed.id});
  const auto granted = broker.commit({first, second, moved(chain, JobState::running), item(core::PayloadRead{chain.fixed.id}),
                                      moved(retry, JobState::running), item(core::PayloadRead{retry.fixed.id})});
  EXPECT_EQ(*granted.payloads.at(chain.fixed.id), "body");
  EXPECT_EQ(*granted.payloads.at(retry.fixed.id), "body");
  const auto bodies = broker.payloads({retry.fixed.id, at_once.fixed.id, chain.fixed.id}).value();
  for (const auto& body : bodies) EXPECT_EQ(*body, "body");
}

TEST_P(StoreConformance, results_may_be_dropped_while_the_record_stays) {
  broker.open();
  auto job = a_job(1);
  broker.commit({created(job, "x")});
  broker.commit({moved(job, JobState::succeeded), item(core::ResultStored{job.fixed.id, 1, 1, 1}, "r")});
  broker.commit({item(core::ResultDropped{job.fixed.id})});
  EXPECT_FALSE(broker.results({job.fixed.id}).value()[0]);
  expect_equal(reloaded(), {.jobs = {job}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, unique_keys_are_taken_and_released) {
  broker.open();
  broker.commit({item(core::UniqueTaken{"nightly \n", job_id(1)}), item(core::UniqueTaken{"other", job_id(2)})});
  EXPECT_EQ(world->unique("nightly \n"), job_id(1));
  broker.commit({item(core::UniqueReleased{"nightly \n"}), item(core::UniqueReleased{"other"}), item(core::UniqueTaken{"other", job_id(3)})});
  EXPECT_EQ(world->unique("nightly \n"), std::nullopt);
  EXPECT_EQ(world->unique("other"), job_id(3));
}

TEST_P(StoreConformance, models_are_kept_replaced_and_removed) {
  broker.open();
  core::ModelRecord a{.name = "yolo", .version = "0123456789ab", .blob = {}, .bytes = 123, .runtime = "torchscript", .budget = {900},
                      .metadata = R"({"names":["open"]})", .pushed = {5}, .owner = "ops", .promoted = true};
  a.blob.bytes[3] = 7;
  auto b = a;
  b.version = "ba9876543210";
  broker.commit({item(core::ModelStored{a}), item(core::ModelStored{b})});
  a.promoted = false;
  broker.commit({item(core::ModelStored{a})});
  core::Image wanted;
  wanted.models = {a, b};
  expect_equal(broker.open().image, wanted);
  broker.commit({item(core::ModelRemoved{"yolo", b.version})});
  wanted.models = {a};
  expect_equal(reloaded(), wanted);
}

TEST_P(StoreConformance, a_revised_job_is_remembered_as_revised_and_keeps_its_body) {
  broker.open();
  auto job = a_job(1, 4), other = a_job(2, 4);
  broker.commit({created(job, "body"), created(other, "else")});
  job.fixed.priority = 9;
  job.fixed.needs.job_class = JobClass::synthesis;
  job.fixed.deadline = {1'760'000'000'000};
  broker.commit({item(core::JobRevised{job.fixed}), moved(job, JobState::ready)});
  EXPECT_EQ(*broker.payloads({job.fixed.id}).value()[0], "body");
  expect_equal(broker.open().image, {.jobs = {job, other}, .models = {}, .tombstones = {}});
  broker.commit({moved(job, JobState::running), item(core::PayloadRead{job.fixed.id})});
  job.fixed.retries = 7;   // while it runs
  broker.commit({item(core::JobRevised{job.fixed})});
  expect_equal(reloaded(), {.jobs = {job, other}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, a_job_may_be_revised_granted_and_forgotten_in_one_batch) {
  broker.open();
  auto job = a_job(1, 4), made = a_job(2, 4), kept = a_job(3, 4);
  broker.commit({created(job, "body"), created(kept, "kept")});
  job.fixed.needs.job_class = JobClass::training;
  std::vector<BatchItem> all{item(core::JobRevised{job.fixed}), moved(job, JobState::ready), moved(job, JobState::running), item(core::PayloadRead{job.fixed.id}),
                             moved(job, JobState::succeeded)};
  all.push_back(item(core::JobForgotten{job.fixed.id, JobState::succeeded, false, {}, {}}));
  all.push_back(created(made, "made"));
  made.fixed.needs.job_class = JobClass::training, made.fixed.label = "again";
  all.push_back(item(core::JobRevised{made.fixed}));
  all.push_back(moved(made, JobState::ready));
  kept.fixed.label = "once", all.push_back(item(core::JobRevised{kept.fixed}));
  kept.fixed.label = "twice", all.push_back(item(core::JobRevised{kept.fixed}));
  const auto done = broker.commit(std::move(all));
  EXPECT_EQ(*done.payloads.at(job.fixed.id), "body");
  expect_equal(reloaded(), {.jobs = {made, kept}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, a_job_on_hold_and_one_that_left_are_remembered_as_such) {
  broker.open();
  auto held = a_job(1, 4), left = a_job(2, 4);
  broker.commit({created(held, "a"), created(left, "b")});
  broker.commit({moved(held, JobState::ready, [](auto& d) { d.held = true; }),
                 moved(left, JobState::yielding, [](auto& d) { d.evictions = 1, d.leave_reason = "for a higher class", d.leave_for = job_id(1); })});
  expect_equal(reloaded(), {.jobs = {held, left}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, switches_are_kept_replaced_and_removed) {
  using Kind = core::OperatorSetting::Kind;
  broker.open();
  core::OperatorSetting worker{Kind::drain_worker, "w1", {1'760'000'000'000}, "new disk", "ops", {7}};
  const core::OperatorSetting device{Kind::drain_device, "w1", {}, "", "ann", {8}}, paused{Kind::pause_class, "synthesis", {}, "quiet hours", "ops", {9}};
  broker.commit({item(core::SettingStored{worker}), item(core::SettingStored{device}), item(core::SettingStored{paused})});
  expect_equal(broker.open().image, {.jobs = {}, .models = {}, .tombstones = {}, .settings = {worker, device, paused}});
  worker.deadline = {}, worker.reason = "still";
  broker.commit({item(core::SettingStored{worker}), item(core::SettingDropped{paused.kind, paused.target})});
  expect_equal(broker.open().image, {.jobs = {}, .models = {}, .tombstones = {}, .settings = {worker, device}});
  broker.commit({item(core::SettingDropped{worker.kind, worker.target}), item(core::SettingStored{paused})});
  expect_equal(reloaded(), {.jobs = {}, .models = {}, .tombstones = {}, .settings = {device, paused}});
}

TEST_P(StoreConformance, a_big_batch_is_one_batch) {
  broker.open();
  std::vector<BatchItem> items;
  core::Image wanted;
  for (std::uint64_t n = 1; n <= 5000; ++n) {
    auto job = a_job(n, 200);
    items.push_back(created(job, std::string(700, static_cast<char>('a' + n % 26))));
    wanted.jobs.push_back(job);
  }
  EXPECT_EQ(broker.commit(std::move(items)).number, 1U);
  expect_equal(reloaded(), wanted);
}

TEST_P(StoreConformance, the_second_broker_of_a_name_space_fences_the_first) {
  broker.open();
  auto job = a_job(1);
  broker.commit({created(job, "x")});
  StoreDriver second(io);
  second.store = world->make(io, second.watcher());
  expect_equal(second.open().image, {.jobs = {job}, .models = {}, .tombstones = {}});
  broker.start_commit({moved(job, JobState::running)});
  EXPECT_TRUE(broker.wait_told("fenced FENCED"));
  EXPECT_FALSE(broker.committed);
  job.dynamic = {};
  second.commit({moved(job, JobState::cancelled)});
  expect_equal(second.open().image, {.jobs = {job}, .models = {}, .tombstones = {}});
}

TEST_P(StoreConformance, what_is_not_open_cannot_be_read_but_answers) {
  const auto found = broker.results({});
  ASSERT_TRUE(found.has_value());
  EXPECT_TRUE(found->empty());
}

// ---- the property: whatever is committed, the image read back is the image of the plain model

TEST_P(StoreConformance, the_image_read_back_is_the_image_of_a_plain_model_whatever_is_committed) {
  broker.open();
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    if (seed > 1) {   // a fresh namespace each time
      broker.store->close();
      if (GetParam() == "memory") world = std::make_unique<MemoryWorld>();
      else world = std::make_unique<RedisWorld>();
      broker.store = world->make(io, broker.watcher());
      broker.open();
    }
    Lives lives(seed);
    for (int n = 0; n < 60; ++n) {
      broker.commit(lives.batch(1 + static_cast<std::size_t>(n * 7 % 90)));
      if (n % 20 == 19) expect_equal(broker.open().image, lives.model.image());
    }
    std::vector<JobId> ids;
    for (const auto& [id, job] : lives.model.jobs) ids.push_back(id);
    const auto results = broker.results(ids).value(), bodies = broker.payloads(ids).value();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto& job = lives.model.jobs.at(ids[i]);
      ASSERT_EQ(bool(results[i]), bool(job.result));
      EXPECT_TRUE(!job.result || *results[i] == *job.result);
      ASSERT_TRUE(bodies[i]);
      EXPECT_TRUE(*bodies[i] == *job.body);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreConformance, testing::Values("memory", "redis"), [](const auto& which) { return which.param; });

}  // namespace
}  // namespace gq::test

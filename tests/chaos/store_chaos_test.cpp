// store_chaos_test.cpp - RedisStore against a real redis-server that is killed, frozen, cut off, filled and meddled with.
#include <sys/mount.h>

#include <random>

#include "broker/store/memory_store.h"
#include "broker/store/redis_store.h"
#include "tests/chaos/store_proxy.h"
#include "tests/integration/store_driver.h"
#include "tests/integration/store_redis_server.h"

namespace gq::test {
namespace {

class StoreChaos : public testing::Test {
 protected:
  void make(store::RedisOptions options) { broker.store = store::make_redis_store(io, std::move(options), broker.watcher()); }
  std::unique_ptr<StoreDriver> another(store::RedisOptions options) {
    auto driver = std::make_unique<StoreDriver>(io);
    driver->store = store::make_redis_store(io, std::move(options), driver->watcher());
    return driver;
  }
  /// Starts n lives and remembers them in the model; bodies are told by the job's number.
  std::vector<store::BatchItem> submits(std::uint64_t n) {
    std::vector<store::BatchItem> items;
    for (; n > 0; --n) {
      jobs.push_back(a_job(jobs.size() + 1, 10));
      items.push_back(created(jobs.back(), "body " + std::to_string(jobs.size())));
    }
    return items;
  }
  core::Image wanted() { return {.jobs = jobs, .models = {}, .tombstones = {}}; }
  void expect_image_is_wanted(const RedisServer& server) {
    broker.store->close();
    const auto next = another(server.options());
    expect_equal(next->open().image, wanted());
  }

  asio::io_context io;
  StoreDriver broker{io};
  std::vector<core::JobRecord> jobs;
};

TEST_F(StoreChaos, redis_killed_again_and_again_with_a_batch_in_flight_loses_and_doubles_nothing) {
  RedisServer server;
  make(server.options());
  broker.open();
  std::mt19937 random(7);
  for (int round = 0; round < 25; ++round) {
    const auto at = jobs.size();
    broker.commit(submits(20));
    std::vector<store::BatchItem> grants;
    for (std::size_t i = at; i < jobs.size(); ++i) {
      grants.push_back(moved(jobs[i], JobState::running));
      grants.push_back(item(core::PayloadRead{jobs[i].fixed.id}));
    }
    broker.start_commit(std::move(grants));
    io.restart();
    io.run_for(std::chrono::microseconds(random() % 1500));   // anywhere between not sent and answered
    server.kill(SIGKILL);
    server.start(false);
    const auto granted = broker.wait_committed();
    ASSERT_EQ(granted.payloads.size(), 20U);
    for (std::size_t i = at; i < jobs.size(); ++i) ASSERT_EQ(*granted.payloads.at(jobs[i].fixed.id), "body " + std::to_string(i + 1));
  }
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, a_batch_lost_before_redis_saw_it_is_applied_once) {
  RedisServer server;
  Proxy proxy(io, (server.folder() / "proxy").string(), server.socket_path());
  auto options = server.options();
  options.address.socket_path = proxy.path();
  make(options);
  broker.open();
  proxy.hold_requests = true;
  broker.start_commit(submits(3));
  ASSERT_TRUE(run_until(io, [&] { return proxy.held_bytes() > 0; }));
  proxy.hold_requests = false;
  proxy.cut();
  broker.wait_committed();
  EXPECT_EQ(broker.told, (std::vector<std::string>{"down UNAVAILABLE", "up"}));
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, a_batch_applied_whose_reply_was_lost_is_not_applied_again_and_its_bodies_are_read_again) {
  RedisServer server;
  Proxy proxy(io, (server.folder() / "proxy").string(), server.socket_path());
  auto options = server.options();
  options.address.socket_path = proxy.path();
  make(options);
  broker.open();
  broker.commit(submits(1));
  proxy.mute_replies = true;
  broker.start_commit({moved(jobs[0], JobState::running), item(core::PayloadRead{jobs[0].fixed.id})});
  auto client = server.client();
  ASSERT_TRUE(run_until(io, [&] { return client("GET", "gpuq:{test}:batch").text == "2"; }));
  proxy.mute_replies = false;
  proxy.cut();
  const auto granted = broker.wait_committed();
  EXPECT_EQ(*granted.payloads.at(jobs[0].fixed.id), "body 1");
  EXPECT_EQ(dynamic_cast<store::RedisStore&>(*broker.store).statistics().replies_lost, 1U);
  EXPECT_EQ(client("GET", "gpuq:{test}:batch").text, "2");
  expect_image_is_wanted(server);
}

// Rule 1: without moving the term on a mere reconnect, the late EXEC put a finished job back to running.
TEST_F(StoreChaos, an_exec_still_travelling_on_the_dead_connection_does_nothing_when_it_arrives_late) {
  RedisServer server;
  Proxy proxy(io, (server.folder() / "proxy").string(), server.socket_path());
  auto options = server.options();
  options.address.socket_path = proxy.path();
  make(options);
  broker.open();
  broker.commit(submits(1));
  proxy.hold_requests = true;
  broker.start_commit({moved(jobs[0], JobState::running)});           // batch 2 leaves, and hangs in the network
  ASSERT_TRUE(run_until(io, [&] { return proxy.held_bytes() > 0; }));
  proxy.cut();
  ASSERT_TRUE(run_until(io, [&] { return !broker.told.empty(); }));
  // New connections pass while the old one's bytes stay held.
  proxy.hold_requests = false;
  broker.wait_committed();                                            // batch 2 was sent again
  broker.commit({moved(jobs[0], JobState::succeeded)});               // batch 3: the job is final
  const auto before = server.client()("GET", "gpuq:{test}:batch").text;
  ASSERT_EQ(before, "3");
  ASSERT_GT(proxy.held_bytes(), 0U);
  proxy.release_held();                                               // and now batch 2 arrives once more
  ASSERT_TRUE(run_until(io, [&] { return proxy.late_answers().find("*-1\r\n") != std::string::npos; })) << proxy.late_answers();
  EXPECT_EQ(server.client()("GET", "gpuq:{test}:batch").text, "3");
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, a_frozen_redis_is_noticed_by_silence_and_its_batch_settled_when_it_thaws) {
  RedisServer server;
  auto options = server.options();
  options.silence = 500ms;
  make(options);
  broker.open();
  broker.commit(submits(1));
  server.signal(SIGSTOP);
  broker.start_commit(submits(2));
  EXPECT_TRUE(broker.wait_told("down UNAVAILABLE"));
  const auto thaw = std::chrono::steady_clock::now() + 2500ms;   // several silences: connections pile up in the frozen server
  run_until(io, [&] { return std::chrono::steady_clock::now() > thaw; });
  EXPECT_FALSE(broker.committed);
  server.signal(SIGCONT);
  broker.wait_committed();
  EXPECT_TRUE(broker.wait_told("up"));
  broker.commit(submits(1));
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, an_idle_leader_learns_within_a_second_that_another_took_over) {
  RedisServer server;
  make(server.options());
  broker.open();
  const auto second = another(server.options());
  second->open();
  EXPECT_TRUE(broker.wait_told("fenced FENCED", 1000ms)) << broker.story();
  EXPECT_NE(broker.last.what.find("another broker leads name space 'test'"), std::string::npos) << broker.last.what;
}

TEST_F(StoreChaos, a_deposed_leader_that_was_frozen_writes_nothing) {
  RedisServer server;
  make(server.options());
  broker.open();
  broker.commit(submits(1));
  asio::io_context other;                        // the second broker runs while the first one's loop stands still
  StoreDriver second(other);
  second.store = store::make_redis_store(other, server.options(), second.watcher());
  second.open();
  auto taken = jobs[0];
  second.commit({moved(taken, JobState::cancelled)});
  broker.start_commit({moved(jobs[0], JobState::running)});
  EXPECT_TRUE(broker.wait_told("fenced FENCED"));
  EXPECT_FALSE(broker.committed);
  jobs[0] = taken;
  second.store->close();
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, a_full_memory_reloads_and_loses_nothing_acknowledged) {
  RedisServer server;
  auto options = server.options();
  options.open_patience = 300ms;
  make(options);
  broker.open();
  broker.commit(submits(5));
  auto client = server.client();
  client("CONFIG", "SET", "maxmemory", "100kb");
  const auto acknowledged = jobs;
  broker.start_commit(submits(5));
  EXPECT_TRUE(broker.wait_told("reload STORAGE_FULL")) << broker.story();
  jobs = acknowledged;
  EXPECT_EQ(broker.try_open().error().code, Errc::storage_full);
  client("CONFIG", "SET", "maxmemory", "1gb");
  expect_equal(broker.open().image, wanted());
  broker.commit(submits(1));
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, a_full_memory_gives_up_results_that_were_fetched_and_no_others) {
  RedisServer server;
  auto options = server.options();
  options.open_patience = 10s;
  make(options);
  broker.open();
  const std::string result(20'000, 'r');
  std::vector<store::BatchItem> ends;
  for (std::uint64_t n = 0; n < 60; ++n) {   // every third was never fetched
    auto items = submits(1);
    core::JobRecord& job = jobs.back();
    items.push_back(moved(job, JobState::running));
    items.push_back(item(core::ResultStored{job.fixed.id, 1, 1, static_cast<std::uint32_t>(result.size())}, result));
    items.push_back(moved(job, JobState::succeeded, [&](core::JobDynamic& d) { d.result_bytes = static_cast<std::uint32_t>(result.size()), d.fetched = n % 3 != 0; }));
    broker.commit(std::move(items));
  }
  auto client = server.client();
  const std::string info = client("INFO", "memory").text;
  const auto used = std::strtoull(info.c_str() + info.find("used_memory:") + 12, nullptr, 10);
  client("CONFIG", "SET", "maxmemory", std::to_string(used - 300'000));
  const auto acknowledged = jobs;
  broker.start_commit(submits(5));
  EXPECT_TRUE(broker.wait_told("reload STORAGE_FULL")) << broker.story();
  jobs = acknowledged;
  expect_equal(broker.open().image, wanted());            // by itself, nobody raised the limit
  std::vector<JobId> ids;
  for (const auto& job : jobs) ids.push_back(job.fixed.id);
  const auto found = broker.results(ids);
  ASSERT_TRUE(found.has_value());
  std::size_t given_up = 0;
  for (std::size_t n = 0; n < ids.size(); ++n) {
    if (n % 3 == 0) EXPECT_TRUE((*found)[n] && *(*found)[n] == result) << "an unfetched result is gone: " << n;
    else given_up += (*found)[n] ? 0 : 1;
  }
  EXPECT_GT(given_up, 0U);
  broker.commit(submits(1));
}

TEST_F(StoreChaos, a_redis_that_becomes_a_read_only_replica_is_waited_out) {
  RedisServer server;
  make(server.options());
  broker.open();
  broker.commit(submits(1));
  auto client = server.client();
  client("REPLICAOF", "127.0.0.1", "1");
  broker.start_commit(submits(1));
  EXPECT_TRUE(broker.wait_told("down REDIS_ROLE")) << broker.story();
  client("REPLICAOF", "NO", "ONE");
  broker.wait_committed();
  EXPECT_TRUE(broker.wait_told("up"));
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, too_few_replicas_for_longer_than_five_seconds_is_a_reload) {
  RedisServer server;
  auto options = server.options();
  options.refused_max = 300ms;
  make(options);
  broker.open();
  auto client = server.client();
  client("CONFIG", "SET", "min-replicas-to-write", "1");
  broker.start_commit(submits(1));
  EXPECT_TRUE(broker.wait_told("reload UNAVAILABLE")) << broker.story();
  EXPECT_EQ(broker.told.front(), "down UNAVAILABLE");
  client("CONFIG", "SET", "min-replicas-to-write", "0");
  EXPECT_TRUE(broker.open().image.jobs.empty());
}

// With appendfsync always, Redis ends itself when it cannot write: a batch in flight is refused or unknown, never half applied.
TEST_F(StoreChaos, a_full_disk_holds_batches_back_until_there_is_room) {
  TempFolder small;
  if (::mount("tmpfs", small.path().c_str(), "tmpfs", 0, "size=2m") != 0) GTEST_SKIP() << "needs the right to mount a 2 MiB tmpfs (root)";
  struct Unmount {
    std::string path;
    ~Unmount() { ::umount2(path.c_str(), MNT_DETACH); }
  } unmount{small.path().string()};
  {
    RedisServer server({}, small.path());
    make(server.options());
    broker.open();
    broker.commit(submits(5));
    std::ofstream(small.path() / "filler") << std::string(4U << 20U, 'x');   // as much as fits
    auto big = a_job(jobs.size() + 1, 300'000);
    jobs.push_back(big);
    broker.start_commit({created(big, std::string(300'000, 'b'))});
    EXPECT_TRUE(run_until(io, [&] { return !broker.told.empty(); }));
    EXPECT_TRUE(broker.told.front().starts_with("down")) << broker.story();
    EXPECT_FALSE(broker.committed);
    server.kill(SIGKILL);                     // it has ended itself; reap it
    fs::remove(small.path() / "filler");
    server.start();
    broker.wait_committed(30s);
    expect_image_is_wanted(server);
    broker.store.reset();
  }
}

TEST_F(StoreChaos, a_foreign_key_in_our_place_stops_a_running_broker_with_the_keys_name) {
  RedisServer server;
  make(server.options());
  broker.open();
  server.client()("SET", "gpuq:{test}:ready:inference", "not ours");
  broker.start_commit(submits(1));
  EXPECT_TRUE(broker.wait_told("fenced REDIS_CORRUPT")) << broker.story();
  EXPECT_NE(broker.last.what.find("ZADD gpuq:{test}:ready:inference"), std::string::npos) << broker.last.what;
}

TEST_F(StoreChaos, whatever_is_odd_in_the_image_is_refused_with_the_keys_name) {
  RedisServer server;
  make(server.options());
  broker.open();
  broker.commit(submits(2));
  broker.store->close();
  auto client = server.client();
  const std::string id = to_string(jobs[0].fixed.id);
  struct Odd { std::vector<std::string> plant, mend; std::string key; };
  const std::string record = client("GET", "gpuq:{test}:j:" + id).text;
  const std::vector<Odd> odds{
      {{"SET", "gpuq:{test}:j:" + id, record + "x"}, {"SET", "gpuq:{test}:j:" + id, record}, "j:" + id},
      {{"DEL", "gpuq:{test}:j:" + id}, {"SET", "gpuq:{test}:j:" + id, record}, "j:" + id},
      {{"SET", "gpuq:{test}:d:" + id, "junk"}, {"DEL", "gpuq:{test}:d:" + id}, "d:" + id},
      {{"ZADD", "gpuq:{test}:running", "1", id}, {"DEL", "gpuq:{test}:running"}, "d:" + id},
      {{"ZADD", "gpuq:{test}:running", "1", "me"}, {"DEL", "gpuq:{test}:running"}, "running"},
      {{"SET", "gpuq:{test}:running", "1"}, {"DEL", "gpuq:{test}:running"}, "running"},
      {{"SET", "gpuq:{test}:models", "1"}, {"DEL", "gpuq:{test}:models"}, "models"},
      {{"HSET", "gpuq:{test}:models", "a@1", "junk"}, {"DEL", "gpuq:{test}:models"}, "models"},
      {{"HSET", "gpuq:{test}:tombs", id, "junk"}, {"DEL", "gpuq:{test}:tombs"}, "tombs"},
  };
  const auto run = [&](const std::vector<std::string>& words) {
    if (words.size() == 2) client(words[0], words[1]);
    else if (words.size() == 3) client(words[0], words[1], words[2]);
    else client(words[0], words[1], words[2], words[3]);
  };
  for (const auto& odd : odds) {
    run(odd.plant);
    const auto next = another(server.options());
    const auto opened = next->try_open();
    ASSERT_FALSE(opened) << odd.key;
    EXPECT_EQ(opened.error().code, Errc::redis_corrupt);
    EXPECT_NE(opened.error().what.find("gpuq:{test}:" + odd.key), std::string::npos) << opened.error().what;
    run(odd.mend);
  }
  expect_image_is_wanted(server);
}

TEST_F(StoreChaos, a_namespace_flushed_under_a_broker_stops_it) {
  RedisServer server;
  make(server.options());
  broker.open();
  broker.commit(submits(1));
  server.client()("FLUSHALL");
  broker.start_commit(submits(1));
  EXPECT_TRUE(run_until(io, [&] { return !broker.told.empty(); }));
  EXPECT_TRUE(broker.told.back().starts_with("fenced")) << broker.story();
}

// ---- refused at the door

Error refused_at_open(asio::io_context& io, store::RedisOptions options) {
  options.open_patience = 300ms;
  StoreDriver driver(io);
  driver.store = store::make_redis_store(io, options, driver.watcher());
  const auto opened = driver.try_open();
  return opened ? Error{} : opened.error();
}

TEST_F(StoreChaos, no_redis_is_told_within_the_patience) {
  store::RedisOptions options;
  options.address.socket_path = "/nonexistent/redis.sock";
  const Error why = refused_at_open(io, options);
  EXPECT_EQ(why.code, Errc::unavailable);
  EXPECT_NE(why.what.find("cannot connect to unix:///nonexistent/redis.sock"), std::string::npos) << why.what;
}

TEST_F(StoreChaos, a_wrong_password_is_told_as_such_and_the_right_one_opens) {
  RedisServer server({"--requirepass", "right"}, {});
  auto options = server.options();
  EXPECT_EQ(refused_at_open(io, options).code, Errc::refused);
  options.address.password = "wrong";
  const Error why = refused_at_open(io, options);
  EXPECT_EQ(why.code, Errc::refused);
  EXPECT_EQ(why.what.find("wrong"), why.what.find("wrong-")) << why.what;
  options.address.password = "right";
  make(options);
  broker.open();
}

TEST_F(StoreChaos, dangerous_settings_are_refused_each_with_its_code) {
  RedisServer server;
  auto client = server.client();
  struct Setting { std::string name, bad, good; Errc code; };
  for (const auto& [name, bad, good, code] : {Setting{"maxmemory-policy", "allkeys-lru", "noeviction", Errc::redis_policy},
                                              Setting{"appendfsync", "everysec", "always", Errc::redis_durability},
                                              Setting{"appendonly", "no", "yes", Errc::redis_durability},
                                              Setting{"no-appendfsync-on-rewrite", "yes", "no", Errc::redis_durability},
                                              Setting{"maxmemory", "0", "1gb", Errc::redis_budget}}) {
    client("CONFIG", "SET", name, bad);
    const Error why = refused_at_open(io, server.options());
    EXPECT_EQ(to_string(why.code), to_string(code)) << name << ": " << why.what;
    EXPECT_NE(why.next.find("CONFIG SET " + name), std::string::npos) << why.next;
    client("CONFIG", "SET", name, good);
  }
  client("REPLICAOF", "127.0.0.1", "1");
  EXPECT_EQ(refused_at_open(io, server.options()).code, Errc::redis_role);
  client("REPLICAOF", "NO", "ONE");
  make(server.options());
  broker.open();
}

TEST_F(StoreChaos, a_user_without_the_right_commands_is_refused_by_name) {
  RedisServer server;
  server.client()("ACL", "SETUSER", "weak", "on", ">pw", "~gpuq:*", "+@all", "-multi");
  auto options = server.options();
  options.address.user = "weak";
  options.address.password = "pw";
  const Error why = refused_at_open(io, options);
  EXPECT_EQ(why.code, Errc::refused);
  EXPECT_NE(why.what.find("multi"), std::string::npos) << why.what;
}

}  // namespace
}  // namespace gq::test

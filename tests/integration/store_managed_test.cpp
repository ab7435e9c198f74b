// store_managed_test.cpp - the private redis-server child: lock, start, death, restart; and what a job costs on it.
#include "broker/store/managed_redis.h"

#include "tests/integration/store_driver.h"
#include "tests/integration/store_redis_server.h"

namespace gq::test {
namespace {

bool gone(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string word;
  return !(stat >> word >> word >> word) || word == "Z";
}

class ManagedStory : public testing::Test {
 protected:
  store::ManagedRedisOptions options() const {
    store::ManagedRedisOptions o;
    o.data_dir = folder.path() / "data";
    o.maxmemory_bytes = 256U << 20U;
    o.lock_patience = 200ms;
    return o;
  }
  Result<store::RedisAddress> start(store::ManagedRedis& redis) {
    std::optional<Result<store::RedisAddress>> answer;
    redis.start([&](Result<store::RedisAddress> a) { answer = std::move(a); });
    if (!run_until(io, [&] { return answer.has_value(); }, 30s)) return fail(Errc::timed_out, "start() never answered");
    return std::move(*answer);
  }
  void use(store::RedisAddress address) {
    store::RedisOptions o;
    o.address = std::move(address);
    o.managed = true;
    broker.store = store::make_redis_store(io, o, broker.watcher());
  }

  TempFolder folder;
  asio::io_context io;
  StoreDriver broker{io};
};

TEST_F(ManagedStory, it_starts_serves_keeps_and_leaves_nothing_running) {
  auto job = a_job(1, 4);
  int pid = 0;
  {
    const auto redis = make_managed_redis(io, options());
    const auto address = start(*redis);
    ASSERT_TRUE(address) << address.error().what;
    EXPECT_EQ(fs::status(address->socket_path).permissions() & fs::perms::mask, fs::perms::owner_read | fs::perms::owner_write);
    use(*address);
    EXPECT_EQ(broker.open().bytes_max, 256U << 20U);
    EXPECT_EQ(broker.store->describe(), "redis 7.0.15 managed, fsync always");
    broker.commit({created(job, "body")});
    broker.store->close();
    pid = redis->pid();
  }
  EXPECT_TRUE(gone(pid));
  const auto redis = make_managed_redis(io, options());
  use(start(*redis).value());
  expect_equal(broker.open().image, {.jobs = {job}, .models = {}, .tombstones = {}});
}

TEST_F(ManagedStory, a_killed_child_is_started_again_and_the_batch_in_flight_is_settled) {
  std::vector<std::string> told;
  const auto redis = make_managed_redis(io, options(), {.died = [&](Error) { told.emplace_back("died"); }, .restarted = [&] { told.emplace_back("restarted"); }});
  use(start(*redis).value());
  broker.open();
  std::vector<core::JobRecord> jobs;
  for (std::uint64_t n = 1; n <= 3; ++n) {
    jobs.push_back(a_job(n));
    broker.start_commit({created(jobs.back(), "x")});
    ::kill(redis->pid(), SIGKILL);
    broker.wait_committed();
    ASSERT_TRUE(run_until(io, [&] { return told.size() == 2 * n; }));
  }
  EXPECT_EQ(told, (std::vector<std::string>{"died", "restarted", "died", "restarted", "died", "restarted"}));
  expect_equal(broker.open().image, {.jobs = jobs, .models = {}, .tombstones = {}});
}

TEST_F(ManagedStory, a_data_directory_serves_one_broker_at_a_time) {
  const auto first = make_managed_redis(io, options());
  ASSERT_TRUE(start(*first));
  const auto second = make_managed_redis(io, options());
  const auto refused = start(*second);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::data_dir_in_use);
  EXPECT_NE(refused.error().what.find("process " + std::to_string(::getpid())), std::string::npos) << refused.error().what;
  first->stop();
  const auto third = make_managed_redis(io, options());
  EXPECT_TRUE(start(*third));
}

TEST_F(ManagedStory, the_child_dies_with_its_broker_and_the_lock_is_free_only_then) {
  int report[2];
  ASSERT_EQ(::pipe(report), 0);
  const pid_t other = ::fork();   // a broker of its own, to be killed
  if (other == 0) {
    asio::io_context loop;
    const auto redis = store::make_managed_redis(loop, options());
    redis->start([&](Result<store::RedisAddress> address) {
      const int pid = address ? redis->pid() : -1;
      if (::write(report[1], &pid, sizeof pid) < 0) ::_exit(1);
    });
    loop.run();
    ::_exit(0);
  }
  int server = 0;
  ASSERT_EQ(::read(report[0], &server, sizeof server), static_cast<ssize_t>(sizeof server));
  ::close(report[0]), ::close(report[1]);
  ASSERT_GT(server, 0);
  auto impatient = options();
  impatient.lock_patience = 50ms;
  EXPECT_EQ(start(*make_managed_redis(io, impatient)).error().code, Errc::data_dir_in_use);
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
  auto patient = options();
  patient.lock_patience = 5s;
  const auto next = make_managed_redis(io, patient);
  ASSERT_TRUE(start(*next));                        // had to wait until the child was dead too
  EXPECT_TRUE(gone(server));
}

TEST_F(ManagedStory, a_missing_binary_is_told_with_the_line_to_install_it) {
  auto o = options();
  o.binary = "redis-server-that-is-not-there";
  const auto refused = start(*make_managed_redis(io, o));
  EXPECT_EQ(refused.error().code, Errc::not_found);
  EXPECT_NE(refused.error().next.find("apt install redis-server"), std::string::npos);
}

TEST_F(ManagedStory, a_server_that_ends_at_once_is_told_with_its_last_words) {
  auto o = options();
  fs::create_directories(o.data_dir / "redis/appendonlydir");
  std::ofstream(o.data_dir / "redis/appendonlydir/appendonly.aof.manifest") << "file odd.aof seq 1 type q\n";
  const auto refused = start(*make_managed_redis(io, o));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Errc::unavailable);
  EXPECT_NE(refused.error().what.find("manifest"), std::string::npos) << refused.error().what;
}

TEST_F(ManagedStory, a_path_longer_than_a_socket_address_is_reached_all_the_same) {
  auto o = options();
  o.data_dir = folder.path() / std::string(120, 'd') / "data";
  const auto redis = make_managed_redis(io, o);
  const auto address = start(*redis);
  ASSERT_TRUE(address) << address.error().what;
  EXPECT_GT(address->socket_path.size(), 107U);
  use(*address);
  EXPECT_TRUE(broker.open().brand_new);
}

// ---- bytes

std::uint64_t used_memory(RawClient& client) {
  const std::string info = client("INFO", "memory").text;
  return std::strtoull(info.c_str() + info.find("used_memory:") + 12, nullptr, 10);
}

/// 200 B bodies, ids of 26 characters: what one queued job adds to Redis.
std::uint64_t bytes_per_queued_job(asio::io_context& io, StoreDriver& broker, RawClient& client) {
  broker.open();
  const std::uint64_t before = used_memory(client), jobs = 20'000;
  for (std::uint64_t n = 0; n < jobs; n += 500) {
    std::vector<store::BatchItem> items;
    for (std::uint64_t i = 1; i <= 500; ++i) items.push_back(created(a_job(n + i, 200), std::string(200, 'b')));
    broker.commit(std::move(items));
  }
  broker.store->close();
  io.restart();
  io.poll();
  return (used_memory(client) - before) / jobs;
}

TEST_F(ManagedStory, a_queued_job_costs_less_than_900_bytes_on_the_managed_redis) {
  const auto redis = make_managed_redis(io, options());
  const auto address = start(*redis).value();
  use(address);
  RawClient client(address.socket_path);
  EXPECT_LE(bytes_per_queued_job(io, broker, client), 900U);
}

TEST_F(ManagedStory, and_on_ones_own_with_every_encoding_option_at_its_default) {
  RedisServer server;
  broker.store = store::make_redis_store(io, server.options(), broker.watcher());
  auto client = server.client();
  const auto bytes = bytes_per_queued_job(io, broker, client);
  RecordProperty("bytes_per_queued_job", static_cast<int>(bytes));
  EXPECT_LE(bytes, 900U);
  const std::string id = to_string(job_id(1));
  EXPECT_EQ(client("OBJECT", "ENCODING", "gpuq:{test}:j:" + id).text, "raw");   // STRINGs: no option changes their size
  EXPECT_EQ(client("OBJECT", "ENCODING", "gpuq:{test}:b:" + id).text, "raw");
  EXPECT_EQ(client("EXISTS", "gpuq:{test}:d:" + id).integer, 0);                // a queued job needs no third key
  EXPECT_EQ(client("ZCARD", "gpuq:{test}:ready:inference").integer, 20'000);
}

}  // namespace
}  // namespace gq::test

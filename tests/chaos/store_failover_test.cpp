// store_failover_test.cpp - a primary with replicas and a sentinel, all real: what was acknowledged is on the one that is promoted.
#include "broker/store/redis_store.h"
#include "tests/integration/store_driver.h"
#include "tests/integration/store_redis_server.h"

namespace gq::test {
namespace {

std::vector<std::string> on(std::uint16_t port, std::uint16_t primary = 0) {
  std::vector<std::string> words{"--port", std::to_string(port), "--bind", "127.0.0.1", "--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"};
  if (primary != 0) words.insert(words.end(), {"--replicaof", "127.0.0.1 " + std::to_string(primary)});
  return words;
}

bool is_linked(const RedisServer& replica) {
  auto client = replica.client();
  return client("INFO", "replication").text.find("master_link_status:up") != std::string::npos;
}

class Sentinel {
 public:
  Sentinel(std::uint16_t port, std::uint16_t primary) {
    const std::string file = (folder_.path() / "sentinel.conf").string();
    std::ofstream(file) << "port " << port << "\nbind 127.0.0.1\ndir " << folder_.path().string() << "\nlogfile " << (folder_.path() / "sentinel.log").string()
                        << "\nsentinel monitor boards 127.0.0.1 " << primary << " 1\nsentinel down-after-milliseconds boards 300\n"
                        << "sentinel failover-timeout boards 2000\nsentinel parallel-syncs boards 2\n";
    std::vector<std::string> words{"setpriv", "--pdeathsig", "KILL", "redis-server", file, "--sentinel"};
    std::vector<char*> argv;
    for (auto& w : words) argv.push_back(w.data());
    argv.push_back(nullptr);
    if (::posix_spawnp(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) != 0) throw std::runtime_error("cannot start a sentinel");
  }
  ~Sentinel() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Sentinel(const Sentinel&) = delete;
  Sentinel& operator=(const Sentinel&) = delete;
  [[nodiscard]] std::string log() const {
    std::ifstream in(folder_.path() / "sentinel.log");
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// Two "+slave" lines: it knows both replicas.
  [[nodiscard]] bool knows_replicas() const {
    const std::string text = log();
    const auto first = text.find("+slave ");
    return first != std::string::npos && text.find("+slave ", first + 1) != std::string::npos;
  }

 private:
  TempFolder folder_;
  pid_t pid_{};
};

struct StoreFailover : testing::Test {
  asio::io_context io;
  StoreDriver broker{io};
  std::vector<core::JobRecord> jobs;

  template <class Predicate>
  bool until(Predicate holds, std::chrono::milliseconds patience = 30s) { return run_until(io, std::move(holds), patience); }
  std::vector<store::BatchItem> submits(int n) {
    std::vector<store::BatchItem> items;
    for (; n > 0; --n) {
      jobs.push_back(a_job(jobs.size() + 1, 10));
      items.push_back(created(jobs.back(), "body " + std::to_string(jobs.size())));
    }
    return items;
  }
};

TEST_F(StoreFailover, a_killed_primary_is_followed_by_one_that_has_all_that_was_acknowledged) {
  const std::uint16_t ports[] = {free_port(), free_port(), free_port()};
  RedisServer primary(on(ports[0])), left(on(ports[1], ports[0])), right(on(ports[2], ports[0]));
  ASSERT_TRUE(until([&] { return is_linked(left) && is_linked(right); }));
  const std::uint16_t port = free_port();
  Sentinel sentinel(port, ports[0]);
  ASSERT_TRUE(until([&] { return sentinel.knows_replicas(); })) << sentinel.log();

  auto options = primary.options();
  options.address = store::parse_redis_url("redis-sentinel://127.0.0.1:1,127.0.0.1:" + std::to_string(port) + "#boards").value();   // the first one is not there
  options.replicas = 1;
  broker.store = store::make_redis_store(io, options, broker.watcher());
  broker.open();
  for (int i = 0; i < 10; ++i) broker.commit(submits(5));
  broker.start_commit(submits(5));
  primary.kill(SIGKILL);
  broker.wait_committed(30s);
  for (int i = 0; i < 10; ++i) broker.commit(submits(5));
  EXPECT_EQ(broker.story().find("reload"), std::string::npos) << broker.story();
  EXPECT_TRUE(until([&] { return sentinel.log().find("+switch-master") != std::string::npos; })) << sentinel.log();

  broker.store->close();
  StoreDriver next(io);
  next.store = store::make_redis_store(io, options, next.watcher());
  expect_equal(next.open().image, {.jobs = jobs, .models = {}, .tombstones = {}});
}

TEST_F(StoreFailover, nothing_is_answered_before_a_replica_has_it) {
  const std::uint16_t ports[] = {free_port(), free_port()};
  RedisServer primary(on(ports[0])), replica(on(ports[1], ports[0]));
  ASSERT_TRUE(until([&] { return is_linked(replica); }));
  auto options = primary.options();
  options.replicas = 1;
  broker.store = store::make_redis_store(io, options, broker.watcher());
  broker.open();
  broker.commit(submits(3));
  replica.signal(SIGSTOP);
  broker.start_commit(submits(3));
  ASSERT_TRUE(broker.wait_told("down UNAVAILABLE"));
  EXPECT_FALSE(broker.committed.has_value());
  EXPECT_NE(broker.last.what.find("0 of 1 replicas"), std::string::npos) << broker.last.what;
  replica.signal(SIGCONT);
  broker.wait_committed();
  EXPECT_TRUE(broker.wait_told("up"));
}

TEST_F(StoreFailover, sentinels_that_know_no_such_primary_are_told_apart_from_none_that_answer) {
  const std::uint16_t port = free_port();
  auto options = store::RedisOptions{};
  options.address = store::parse_redis_url("redis-sentinel://127.0.0.1:" + std::to_string(port) + "#other").value();
  options.open_patience = 300ms;
  broker.store = store::make_redis_store(io, options, broker.watcher());
  auto opened = broker.try_open();
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code, Errc::unavailable);
  EXPECT_NE(opened.error().what.find("no sentinel answers"), std::string::npos) << opened.error().what;

  Sentinel sentinel(port, free_port());
  ASSERT_TRUE(until([&] { return sentinel.log().find("+monitor") != std::string::npos; }));
  broker.store = store::make_redis_store(io, options, broker.watcher());
  opened = broker.try_open();
  ASSERT_FALSE(opened.has_value());
  EXPECT_NE(opened.error().what.find("know no primary 'other'"), std::string::npos) << opened.error().what;
}

}  // namespace
}  // namespace gq::test

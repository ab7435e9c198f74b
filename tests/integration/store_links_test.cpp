// store_links_test.cpp - RedisStore over TCP and TLS, settings that change under it, a link lost while the image is read.
#include "broker/store/redis_store.h"

#include <cstdlib>
#include "tests/chaos/store_proxy.h"
#include "tests/integration/store_driver.h"
#include "tests/integration/store_redis_server.h"

namespace gq::test {
namespace {

class StoreLinks : public testing::Test {
 protected:
  Result<store::Opened> open(store::RedisOptions options) {
    options.open_patience = 500ms;
    broker.store = store::make_redis_store(io, std::move(options), broker.watcher());
    return broker.try_open();
  }
  void serve_a_life() {
    auto job = a_job(1, 4);
    broker.commit({created(job, "body")});
    const auto granted = broker.commit({moved(job, JobState::running), item(core::PayloadRead{job.fixed.id})});
    EXPECT_EQ(*granted.payloads.at(job.fixed.id), "body");
  }
  asio::io_context io;
  StoreDriver broker{io};
};

TEST_F(StoreLinks, tcp_serves) {
  const auto port = free_port();
  RedisServer server({"--port", std::to_string(port)});
  auto options = server.options();
  options.address = store::parse_redis_url("redis://127.0.0.1:" + std::to_string(port)).value();
  ASSERT_TRUE(open(options));
  serve_a_life();
  EXPECT_NE(broker.store->describe().find(" at redis://127.0.0.1:" + std::to_string(port) + ", fsync always"), std::string::npos) << broker.store->describe();
}

TEST_F(StoreLinks, tls_serves_with_the_right_ca_and_refuses_without_it) {
  TempFolder keys;
  const std::string key = (keys.path() / "key.pem").string(), certificate = (keys.path() / "cert.pem").string();
  if (std::system(("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=gpuq -addext subjectAltName=IP:127.0.0.1 -keyout " + key +
                   " -out " + certificate + " 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << "needs the openssl program to make a certificate";
  const auto port = free_port();
  RedisServer server({"--tls-port", std::to_string(port), "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no", "--tls-ca-cert-file", certificate});
  auto options = server.options();
  options.address = store::parse_redis_url("rediss://127.0.0.1:" + std::to_string(port)).value();
  const auto stranger = open(options);
  ASSERT_FALSE(stranger);
  EXPECT_EQ(stranger.error().code, Errc::unavailable);
  EXPECT_NE(stranger.error().what.find("certificate"), std::string::npos) << stranger.error().what;
  options.ca_file = certificate;
  ASSERT_TRUE(open(options));
  serve_a_life();
}

TEST_F(StoreLinks, a_setting_changed_at_run_time_stops_submits_until_it_is_mended) {
  RedisServer server;
  auto options = server.options();
  options.recheck = 50ms;
  ASSERT_TRUE(open(options));
  auto client = server.client();
  client("CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
  EXPECT_TRUE(broker.wait_told("down REDIS_POLICY")) << broker.story();
  broker.start_commit({created(a_job(1), "x")});
  client("CONFIG", "SET", "maxmemory-policy", "noeviction");
  EXPECT_TRUE(broker.wait_told("up"));
  broker.wait_committed();
}

TEST_F(StoreLinks, a_link_lost_while_the_image_is_read_is_read_anew) {
  RedisServer server;
  ASSERT_TRUE(open(server.options()));
  for (std::uint64_t n = 0; n < 20'000; n += 1000) {
    std::vector<store::BatchItem> items;
    for (std::uint64_t i = 1; i <= 1000; ++i) items.push_back(created(a_job(n + i), "x"));
    broker.commit(std::move(items));
  }
  broker.store->close();
  Proxy proxy(io, (server.folder() / "proxy").string(), server.socket_path());
  auto options = server.options();
  options.address.socket_path = proxy.path();
  broker.store = store::make_redis_store(io, options, broker.watcher());
  std::optional<Result<store::Opened>> answer;
  broker.store->open([&](Result<store::Opened> opened) { answer = std::move(opened); });
  ASSERT_TRUE(run_until(io, [&] { return proxy.bytes_down() > 200'000; }));   // well inside the image
  EXPECT_FALSE(answer);
  proxy.cut();
  ASSERT_TRUE(run_until(io, [&] { return answer.has_value(); }));
  ASSERT_TRUE(*answer) << answer->error().what;
  EXPECT_EQ((*answer)->image.jobs.size(), 20'000U);
  EXPECT_TRUE(broker.told.empty()) << broker.story();   // nobody was up yet
}

TEST_F(StoreLinks, reads_that_are_out_when_the_link_goes_are_answered) {
  RedisServer server;
  Proxy proxy(io, (server.folder() / "proxy").string(), server.socket_path());
  auto options = server.options();
  options.address.socket_path = proxy.path();
  ASSERT_TRUE(open(options));
  proxy.mute_replies = true;
  std::optional<Errc> answer;
  broker.store->read_results({job_id(1)}, [&](auto found) { answer = found ? Errc::internal : found.error().code; });
  run_until(io, [&] { return false; }, 20ms);
  proxy.mute_replies = false;
  proxy.cut();
  ASSERT_TRUE(run_until(io, [&] { return answer.has_value(); }));
  EXPECT_EQ(*answer, Errc::unavailable);
  EXPECT_TRUE(broker.wait_told("up"));
  EXPECT_FALSE(broker.results({job_id(1)}).value()[0]);
}

}  // namespace
}  // namespace gq::test

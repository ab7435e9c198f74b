// daemon.cpp - start, run, stop.
#include "broker/shell/daemon.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "broker/shell/broker.h"
#include "broker/shell/http.h"
#include "broker/shell/metrics.h"
#include "broker/store/managed_redis.h"
#include "broker/store/memory_store.h"
#include "common/log.h"
#include "common/net/asio.h"
#include "common/net/zap.h"

namespace gq::broker {

namespace {

constexpr Duration kDrainPatience = 1500ms;
constexpr Duration kCollectEvery = 10s;

void say_error(const Error& error) {
  std::fprintf(stderr, "error[%s]: %s\n", std::string(to_string(error.code)).c_str(), error.what.c_str());
  if (!error.next.empty()) std::fprintf(stderr, "  next: %s\n", error.next.c_str());
  std::fflush(stderr);
}

/// Each peer costs a descriptor: take what the system gives.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_cur < 4096) log::warn("few_descriptors", {{"limit", std::to_string(limit.rlim_cur)}, {"next", "ulimit -n 65536 before a fleet of workers connects"}});
}

class Daemon {
 public:
  explicit Daemon(const Options& options) : options_(options), signals_(io_), hangup_(io_), collector_(io_) {}

  int run() {
    raise_descriptor_limit();
    signals_.add(SIGINT);
    signals_.add(SIGTERM);
    hangup_.add(SIGHUP);
    wait_for_signal();
    wait_for_hangup();
    if (auto ready = prepare(); !ready) {
      say_error(ready.error());
      exit_code_ = exit_code(ready.error().code);
    } else if (!stopping_) {
      io_.restart();
      start_storage();
      io_.run();
    }
    shut_down();
    return exit_code_;
  }

 private:
  // ---- up to the point where ports are bound
  Result<void> prepare() {
    std::error_code failed;
    std::filesystem::create_directories(options_.data_dir, failed);
    if (failed)
      return fail(Errc::usage, "the data directory " + options_.data_dir + " cannot be made: " + failed.message(), "choose another: --data-dir DIR");
    if (auto locked = lock_data_dir(); !locked) return locked;
    if (auto secured = secure(); !secured) return secured;
    make_broker();
    if (auto bound = broker_->bind(); !bound) return bound;
    if (options_.listen_http == "none") return {};
    http_.emplace(io_, Http::Pages{.healthy = [this] { return broker_->figures().serving; }, .metrics = [this] { return metrics(); }});
    auto listening = http_->listen(options_.listen_http);
    if (!listening) return tl::unexpected(listening.error());
    http_address_ = std::move(*listening);
    return {};
  }

  /// The managed Redis has a lock of its own, which outlives us together with the child; without it, blobs still need one owner.
  Result<void> lock_data_dir() {
    if (options_.redis.empty() && !options_.memory_store) return {};
    const std::string path = options_.data_dir + "/broker.lock";
    lock_fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock_fd_ >= 0 && flock(lock_fd_, LOCK_EX | LOCK_NB) == 0) return {};
    return fail(Errc::data_dir_in_use, "another broker uses the data directory " + options_.data_dir, "stop it, or choose another: --data-dir DIR");
  }

  Result<void> secure() {
    if (options_.insecure) {
      log::warn("insecure", {{"what", "no keys and no encryption: every local process is an admin"}});
      return {};
    }
    auto keys = net::keys_init(options_.keys_dir);
    if (!keys) return tl::unexpected(keys.error());
    keys_.emplace(std::move(*keys));
    authority_.emplace(context_, io_, options_.keys_dir);
    authority_->revoked = [this](const std::string& name) {
      log::info("key_revoked", {{"name", name}});
      if (broker_) broker_->key_revoked(name);
    };
    authority_->failed = [this](const Error& why) { stop(why); };
    if (auto started = authority_->start(); !started) return started;
    return authority_->self_test(*keys_);
  }

  void make_broker() {
    blobs_ = store::make_blob_store(io_, {.dir = options_.data_dir + "/blobs", .quota_bytes = options_.blob_quota_bytes, .clock = {}});
    BrokerConfig config;
    config.core.timing = options_.timing;
    if (options_.queued_bytes_max != 0) config.core.queued_bytes_max = options_.queued_bytes_max;
    config.space = options_.space;
    config.policy = options_.policy;
    const net::ServerKeys* keys = keys_ ? &*keys_ : nullptr;
    net::Authority* authority = authority_ ? &*authority_ : nullptr;
    config.clients.endpoint = options_.listen_clients;
    config.clients.insecure_role = net::Role::admin;
    config.clients.keys = keys;
    config.clients.authority = authority;
    config.workers.endpoint = options_.listen_workers;
    config.workers.insecure_role = net::Role::worker;
    config.workers.keys = keys;
    config.workers.authority = authority;
    broker_.emplace(
        context_, io_, std::move(config), [this](store::Watcher watcher) { return make_store(std::move(watcher)); }, *blobs_,
        Broker::Handlers{.serving = [this] { serving(); }, .failed = [this](const Error& why) { stop(why); }});
  }

  std::unique_ptr<store::Store> make_store(store::Watcher watcher) {
    if (options_.memory_store) return store::make_memory_store(io_, std::move(watcher));
    store::RedisOptions redis;
    redis.address = address_;
    redis.name_space = options_.space;
    redis.durability = options_.durability;
    redis.managed = managed_ != nullptr;
    redis.budget_bytes = options_.redis_budget_bytes;
    redis.replicas = options_.redis_replicas.value_or(address_.sentinels.empty() ? 0U : 1U);   // sentinels may promote one: it must have what was answered
    char host[256] = "localhost";
    gethostname(host, sizeof host - 1);
    redis.leader_name = std::string(host) + " " + broker_->client_endpoint() + " pid " + std::to_string(getpid());
    return store::make_redis_store(io_, std::move(redis), std::move(watcher));
  }

  // ---- storage, then serving
  void start_storage() {
    if (options_.memory_store) {
      std::fprintf(stderr, "gpuq-broker: --memory-store: NOTHING IS DURABLE, every job is lost when this process ends\n");
      return open_blobs();
    }
    if (!options_.redis.empty()) {
      auto address = store::parse_redis_url(options_.redis);
      if (!address) return stop(address.error());
      address_ = std::move(*address);
      return open_blobs();
    }
    store::ManagedRedisOptions managed;
    managed.data_dir = options_.data_dir;
    managed.maxmemory_bytes = options_.redis_memory_bytes;
    managed.durability = options_.durability;
    managed_ = store::make_managed_redis(io_, std::move(managed),
                                         {.died = [](const Error& why) { log::error("redis_died", {{"why", why.what}, {"next", "it is started again"}}); },
                                          .restarted = [] { log::info("redis_restarted"); }});
    managed_->start([this](Result<store::RedisAddress> address) {
      if (stopping_) return;
      if (!address) return stop(address.error());
      address_ = std::move(*address);
      open_blobs();
    });
  }

  void open_blobs() {
    blobs_->open([this](Result<void> opened) {
      if (stopping_) return;
      if (!opened) return stop(opened.error());
      broker_->open_store();
      collect_later();
    });
  }

  void serving() {
    for (const std::string& warning : options_.policy->current().warnings) log::warn("policy", {{"warning", warning}});
    log::info("serving", {{"clients", broker_->client_endpoint()}, {"workers", broker_->worker_endpoint()}, {"http", http_address_.empty() ? "none" : http_address_},
                          {"namespace", options_.space}, {"security", options_.insecure ? "insecure" : "curve"}, {"policy", options_.policy->current().file.empty() ? "built-in" : options_.policy->current().file}});
    if (options_.ready_fd < 0) return;
    const std::string line = nlohmann::json{{"clients", broker_->client_endpoint()}, {"workers", broker_->worker_endpoint()}, {"http", http_address_},
                                            {"server_key", keys_ ? keys_->public_key : ""}, {"pid", getpid()}}.dump() + "\n";
    [[maybe_unused]] const ssize_t written = write(options_.ready_fd, line.data(), line.size());   // a reader that left needs no line
    close(options_.ready_fd);
  }

  void collect_later() {
    collector_.expires_after(kCollectEvery);
    collector_.async_wait([this](ErrorCode error) {
      if (error || stopping_) return;
      blobs_->collect([](std::size_t removed) {
        if (removed > 0) log::info("blobs_collected", {{"removed", std::to_string(removed)}});
      });
      collect_later();
    });
  }

  std::string metrics() { return prometheus_text(broker_->figures(), blobs_->statistics(), authority_ ? authority_->refusals() : 0); }

  // ---- the end
  void wait_for_signal() {
    signals_.async_wait([this](ErrorCode error, int signal) {
      if (error) return;
      if (stopping_) _exit(128 + signal);   // asked twice
      log::info("stopping", {{"signal", signal == SIGINT ? "SIGINT" : "SIGTERM"}});
      stopping_ = true;
      wait_for_signal();
      collector_.cancel();
      hangup_.cancel();
      if (!broker_) return io_.stop();
      broker_->drain(kDrainPatience, [this] { io_.stop(); });
    });
  }

  /// SIGHUP: read the policy file again. A terminal that closes sends it too; that does no harm.
  void wait_for_hangup() {
    hangup_.async_wait([this](ErrorCode error, int) {
      if (error) return;
      log::info("reload_asked", {{"signal", "SIGHUP"}});
      if (broker_ && !stopping_) [[maybe_unused]] const auto logged = broker_->reload_policy();
      wait_for_hangup();
    });
  }

  void stop(const Error& why) {
    if (std::exchange(stopping_, true)) return;
    say_error(why);
    exit_code_ = exit_code(why.code);
    io_.stop();
  }

  void shut_down() {
    if (http_) http_->close();
    if (broker_) broker_->close();
    if (managed_) managed_->stop();
  }

  const Options& options_;
  asio::io_context io_{1};
  net::Context context_;
  asio::signal_set signals_, hangup_;
  asio::steady_timer collector_;
  std::optional<net::ServerKeys> keys_;
  std::optional<net::Authority> authority_;
  std::unique_ptr<store::BlobStore> blobs_;
  std::unique_ptr<store::ManagedRedis> managed_;
  store::RedisAddress address_;
  std::optional<Broker> broker_;
  std::optional<Http> http_;
  std::string http_address_;
  int lock_fd_{-1};
  int exit_code_{0};
  bool stopping_{};
};

}  // namespace

int run_daemon(const Options& options) { return Daemon(options).run(); }

}  // namespace gq::broker

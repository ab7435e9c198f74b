// raw_redis.cpp - a ring of batches that may be replayed for ever: batch i submits cohort i, grants i-1, ends i-2, forgets i-3.
#include "tests/bench/raw_redis.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "broker/store/batch_encoder.h"
#include "broker/store/redis_connection.h"
#include "broker/store/redis_store.h"
#include "broker/store/reply.h"
#include "common/net/asio.h"

namespace gq::bench {

namespace {

using namespace gq::store;
using Clock = std::chrono::steady_clock;
constexpr std::size_t kRing = 32;

double thread_cpu_us() {
  rusage usage{};
  ::getrusage(RUSAGE_THREAD, &usage);
  const auto us = [](const timeval& t) { return 1e6 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec); };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

core::JobRecord job(std::uint64_t n) {
  core::JobRecord r;
  r.fixed.id = make_job_id(1'760'000'000'000 + n / 7, n & 0xFFFFU, n * 0x9E3779B97F4A7C15ULL + 1);
  r.fixed.seq = n;
  r.fixed.submitted = {1'760'000'000'000 + static_cast<std::int64_t>(n / 7)};
  r.fixed.digest = {n * 0xD1342543DE82EF95ULL, n * 0xAF251AF3B0F025B5ULL};
  r.fixed.needs.kind = *kind_index("echo");
  r.fixed.owner = "bench";
  r.fixed.body_bytes = 200;
  return r;
}
core::JobDynamic running(const core::JobRecord& r) {
  core::JobDynamic d;
  d.state = JobState::running, d.attempt = 1, d.nonce = r.fixed.digest.lo, d.worker = "bench-worker", d.started = r.fixed.submitted + std::chrono::milliseconds(3);
  return d;
}

/// The ring. When it comes round, a cohort's ids are submitted anew: they were forgotten long before.
std::vector<std::vector<BatchItem>> ring(std::size_t batch) {
  const auto body = std::make_shared<const Bytes>(200, 'b'), result = std::make_shared<const Bytes>(32, 'r');
  std::vector<std::vector<BatchItem>> batches(kRing);
  for (std::size_t cohort = 0; cohort < kRing; ++cohort) {
    for (std::size_t i = 0; i < batch; ++i) {
      const auto r = job(cohort * batch + i + 1);
      const JobId id = r.fixed.id;
      auto d = running(r);
      batches[cohort].push_back({core::JobCreated{r, 1, {}}, body});
      auto& grant = batches[(cohort + 1) % kRing];
      grant.push_back({core::JobChanged{id, JobState::ready, d, r.fixed.seq, r.fixed.needs.job_class}, nullptr});
      grant.push_back({core::PayloadRead{id}, nullptr});
      d.state = JobState::succeeded, d.ended = d.started + std::chrono::milliseconds(2), d.result_bytes = 32;
      auto& end = batches[(cohort + 2) % kRing];
      end.push_back({core::JobChanged{id, JobState::running, d, r.fixed.seq, r.fixed.needs.job_class}, nullptr});
      end.push_back({core::ResultStored{id, 1, 2, 32}, result});
      batches[(cohort + 3) % kRing].push_back({core::JobForgotten{id, JobState::succeeded, false, {}, {}}, nullptr});
    }
  }
  return batches;
}

class Socket {
 public:
  explicit Socket(const std::string& socket_path) : path_(socket_path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.path().c_str(), sizeof address.sun_path - 1);
    fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) throw std::runtime_error("cannot connect to " + socket_path);
  }
  ~Socket() { ::close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  /// Writes all, then reads that many replies; an error among them ends the bench.
  void exchange(std::string_view bytes, std::size_t replies) {
    while (!bytes.empty()) {
      const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) throw std::runtime_error("link to Redis lost");
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    while (replies > 0) {
      auto reply = reader_.next();
      if (!reply) throw std::runtime_error(reply.error().what);
      if (*reply) {
        --replies;
        if ((*reply)->is(Reply::Type::error)) throw std::runtime_error((*reply)->text);
        continue;
      }
      const auto n = ::recv(fd_, buffer_.data(), buffer_.size(), 0);
      if (n <= 0) throw std::runtime_error("link to Redis lost");
      reader_.feed({buffer_.data(), static_cast<std::size_t>(n)});
    }
  }

 private:
  ReachablePath path_;
  int fd_{-1};
  ReplyReader reader_;
  std::vector<char> buffer_ = std::vector<char>(256U << 10U);
};

void forget_everything(const std::string& socket_path, const std::string& name_space) {
  // The ring leaves three cohorts behind; the next run must not find them.
  Socket socket(socket_path);
  CommandBuffer clean;
  clean.add("EVAL", "for _,k in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', k) end", 0, "gpuq:{" + name_space + "}:*");
  socket.exchange(clean.bytes(), 1);
}

}  // namespace

StoreRate raw_redis_rate(const std::string& socket_path, std::size_t batch, double seconds) {
  const Keys keys("bench-raw");
  struct Wire { std::string bytes; std::size_t replies; };
  std::vector<Wire> wires;
  StoreRate rate;
  std::size_t bytes = 0;
  for (auto& items : ring(batch)) {
    const auto encoded = encode_batch({wires.size() + 1, std::move(items)}, keys);
    CommandBuffer out;
    out.add("MULTI").append(encoded.commands);
    out.add("SET", keys.batch, wires.size() + 1).add("EXEC").add("WATCH", keys.term).add("GET", keys.term);
    rate.commands_per_batch = static_cast<double>(encoded.commands.commands() + 1);
    bytes += out.bytes().size();
    wires.push_back({out.bytes(), out.commands()});
  }
  Socket socket(socket_path);
  const auto start = Clock::now();
  const double cpu = thread_cpu_us();
  std::size_t batches = 0;
  double elapsed = 0;
  while (elapsed < seconds) {
    const Wire& wire = wires[batches++ % kRing];
    socket.exchange(wire.bytes, wire.replies);
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  const double lives = static_cast<double>(batches * batch);
  rate.lives_per_s = lives / elapsed;
  rate.client_cpu_us_per_life = (thread_cpu_us() - cpu) / lives;
  rate.bytes_per_life = static_cast<double>(bytes) / static_cast<double>(kRing * batch);
  forget_everything(socket_path, "bench-raw");
  return rate;
}

StoreRate store_rate(const std::string& socket_path, std::size_t batch, double seconds) {
  const auto batches = ring(batch);
  asio::io_context io;
  RedisOptions options;
  options.address.socket_path = socket_path;
  options.name_space = "bench-store";
  options.leader_name = "bench";
  options.budget_bytes = 1ULL << 30U;
  std::string trouble;
  Watcher watcher;
  watcher.fenced = watcher.reload = watcher.down = [&](const Error& why) { trouble = why.what, io.stop(); };
  const auto store = make_redis_store(io, options, watcher);
  std::uint64_t number = 0;
  store->open([&](Result<Opened> opened) {
    if (!opened) trouble = opened.error().what;
    else number = opened->batch;
    io.stop();
  });
  io.run();
  io.restart();
  if (!trouble.empty()) throw std::runtime_error(trouble);

  std::size_t done = 0;
  double elapsed = 0;
  std::vector<BatchItem> next = batches[0];
  const auto before = store->statistics();
  const auto start = Clock::now();
  const double cpu = thread_cpu_us();
  std::function<void()> commit_next = [&] {
    store->commit({++number, std::move(next)}, [&](const Committed&) {
      ++done;
      elapsed = std::chrono::duration<double>(Clock::now() - start).count();
      if (elapsed >= seconds) return io.stop();
      commit_next();
    });
    next = batches[(done + 1) % kRing];   // gathered while the batch is in flight, as the shell does
  };
  commit_next();
  io.run();
  if (!trouble.empty()) throw std::runtime_error(trouble);
  const double used = thread_cpu_us() - cpu, lives = static_cast<double>(done * batch);
  const auto after = store->statistics();
  store->close();
  forget_everything(socket_path, "bench-store");
  return {.lives_per_s = lives / elapsed, .client_cpu_us_per_life = used / lives,
          .commands_per_batch = static_cast<double>(after.commands - before.commands) / static_cast<double>(done),
          .bytes_per_life = static_cast<double>(after.bytes_written - before.bytes_written) / lives};
}

}  // namespace gq::bench

// queue_bench.cpp - gpuq-bench queue: what the queue itself costs. One JSON row a line on stdout; run.py makes the table.
//
// Everything durable (managed Redis, appendfsync always), CURVE on, broker, worker and client as separate processes on this
// machine; the client is this process. README.md says how each row is made.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "client/demo/process.h"
#include "common/net/keys.h"
#include "gpuq/client.h"
#include "tests/bench/idle_worker.h"
#include "tests/bench/raw_redis.h"
#include "tests/bench/redis_info.h"

namespace gq::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using gpuq::demo::Process;

constexpr std::size_t kPayloadBytes = 200;
constexpr std::size_t kBatch = 256;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
void row(const char* name, double value, const char* unit) {
  std::printf("{\"name\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"}\n", name, value, unit);
  std::fflush(stdout);
}
double percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<std::size_t>(p * static_cast<double>(values.size())))];
}

/// A folder, a broker with its own Redis, and keys for everyone.
class System {
 public:
  System() {
    char path[] = "/tmp/gpuq-bench-XXXXXX";
    if (::mkdtemp(path) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
    folder = path;
    const std::string bin = gpuq::demo::own_folder();
    if (!net::keys_init(folder + "/keys")) throw std::runtime_error("cannot make keys");
    broker = Process::start({bin + "/gpuq-broker", "--data-dir", folder + "/data", "--keys", folder + "/keys", "--listen-clients", "tcp://127.0.0.1:0",
                             "--listen-workers", "tcp://127.0.0.1:0", "--listen-http", "none", "--ready-fd", "{ready}"},
                            folder + "/broker.log");
    const std::string ready = broker.wait_ready(std::chrono::seconds(30));
    clients = gpuq::demo::json_field(ready, "clients");
    workers = gpuq::demo::json_field(ready, "workers");
    client_access = issue("bench-client", net::Role::admin, clients);
    worker_access = issue("bench-worker", net::Role::worker, workers);
  }
  ~System() {
    worker.stop();
    broker.stop();
    std::error_code ec;
    fs::remove_all(folder, ec);
  }
  System(const System&) = delete;
  System& operator=(const System&) = delete;

  void start_worker() {
    worker = Process::start({gpuq::demo::own_folder() + "/gpuq-worker", "--broker", workers, "--access-file", worker_access, "--devices", "cpu", "--slots", "2048",
                             "--scratch", folder + "/scratch", "--ready-fd", "{ready}"},
                            folder + "/worker.log");
    worker.wait_ready(std::chrono::seconds(30));
  }
  [[nodiscard]] gpuq::Client client() const {
    gpuq::Options options;
    options.broker = clients;
    options.access_file = client_access;
    options.name = "bench";
    options.timeout = std::chrono::seconds(60);
    return gpuq::Client(options);
  }
  [[nodiscard]] std::string redis_socket() const {
    for (const auto& entry : fs::recursive_directory_iterator(folder + "/data"))
      if (entry.is_socket()) return entry.path().string();
    throw std::runtime_error("no redis socket below " + folder);
  }

  std::string folder, clients, workers, client_access, worker_access;
  Process broker, worker;

 private:
  [[nodiscard]] std::string issue(const std::string& name, net::Role role, const std::string& endpoint) const {
    const WallTime now{std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count()};
    const auto key = net::keys_issue(folder + "/keys", name, role, endpoint, now);
    std::string path = folder + "/" + name + ".json";
    if (!key || !net::write_access_file(path, *key)) throw std::runtime_error("cannot issue a key");
    return path;
  }
};

std::vector<gpuq::JobSpec> no_ops(std::size_t n, std::vector<std::string>* ids = nullptr) {
  std::vector<gpuq::JobSpec> jobs(n);
  for (gpuq::JobSpec& job : jobs) {
    job.kind = "echo";
    job.parts = {gpuq::Part{"x", "text/plain", std::string(kPayloadBytes, 'x'), {}, 0}};
    job.id = gpuq::make_job_id();
    if (ids != nullptr) ids->push_back(job.id);
  }
  return jobs;
}

void bench_disk() {
  char path[] = "/tmp/gpuq-disk-XXXXXX";
  const int fd = ::mkstemp(path);
  if (fd < 0) throw std::runtime_error("cannot write to /tmp");
  const std::string block(512, 'x');
  std::vector<double> times;
  for (int i = 0; i < 400; ++i) {
    const auto start = Clock::now();
    if (::write(fd, block.data(), block.size()) < 0 || ::fdatasync(fd) != 0) throw std::runtime_error("fdatasync failed");
    times.push_back(1e3 * seconds_since(start));
  }
  ::close(fd);
  ::unlink(path);
  row("queue.fdatasync_p50_ms", percentile(times, 0.5), "ms");
}

void bench_raw(double seconds) {
  const RedisForBench redis;
  for (const std::size_t batch : {std::size_t{16}, std::size_t{64}, std::size_t{256}}) {
    const double rate = raw_redis_lives_per_s(redis.socket(), batch, seconds / 2);
    row(("queue.raw_redis_lives_per_s_batch" + std::to_string(batch)).c_str(), rate, "1/s");
    if (batch == 256) row("queue.raw_redis_lives_per_s", rate, "1/s");
  }
}

/// Submit without any worker: durable submits per second, then what a queued job weighs.
void bench_submit() {
  System system;
  gpuq::Client client = system.client();
  client.submit(no_ops(kBatch));   // connection, first allocations
  const std::string socket = system.redis_socket();
  const double redis_before = redis_used_memory(socket);
  const auto broker_before = static_cast<double>(system.broker.resident_bytes());
  constexpr std::size_t kJobs = 120'000;
  constexpr std::size_t kOutstanding = 12;
  const auto start = Clock::now();
  std::vector<std::future<std::vector<gpuq::Submitted>>> answers;
  std::size_t next = 0;
  for (std::size_t sent = 0; sent < kJobs; sent += kBatch) {
    answers.push_back(client.submit_async(no_ops(kBatch)));
    if (answers.size() - next >= kOutstanding)
      for (const auto& s : answers[next++].get())
        if (!s.ok) throw std::runtime_error("submit refused: " + s.code + " " + s.what);
  }
  for (; next < answers.size(); ++next) answers[next].get();
  const double jobs = static_cast<double>(answers.size() * kBatch);
  row("queue.submit_per_s", jobs / seconds_since(start), "1/s");
  row("queue.broker_bytes_per_job", (static_cast<double>(system.broker.resident_bytes()) - broker_before) / jobs, "B");
  row("queue.redis_bytes_per_job", (redis_used_memory(socket) - redis_before) / jobs, "B");
}

/// Steady state: a fixed number of jobs under way, each counted when its result is here.
void bench_lives(double seconds) {
  System system;
  system.start_worker();
  gpuq::Client client = system.client();
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t under_way = 0, done = 0, failed = 0;
  constexpr std::size_t kUnderWay = 4096;
  const auto on_final = [&](gpuq::JobResult&& result) {
    const std::lock_guard lock(mutex);
    --under_way;
    ++done;
    if (!result.ok()) ++failed;
    if (under_way % 64 == 0) changed.notify_one();
  };
  const auto wave = [&](double for_seconds) {
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(for_seconds));
    while (Clock::now() < end) {
      {
        std::unique_lock lock(mutex);
        if (!changed.wait_for(lock, std::chrono::seconds(30), [&] { return under_way + kBatch <= kUnderWay; })) throw std::runtime_error("no job ended within 30 s");
        under_way += kBatch;
      }
      std::vector<std::string> ids;
      std::vector<gpuq::JobSpec> jobs = no_ops(kBatch, &ids);
      client.on_final(ids, on_final);
      client.submit_async(std::move(jobs));
    }
  };
  wave(2);
  std::size_t before = 0;
  {
    const std::lock_guard lock(mutex);
    before = done;
  }
  const double broker_cpu = system.broker.cpu_seconds(), worker_cpu = system.worker.cpu_seconds();
  const auto start = Clock::now();
  wave(seconds);
  const double elapsed = seconds_since(start);
  const double broker_used = system.broker.cpu_seconds() - broker_cpu, worker_used = system.worker.cpu_seconds() - worker_cpu;
  double lives = 0;
  {
    std::unique_lock lock(mutex);
    lives = static_cast<double>(done - before);
    if (!changed.wait_for(lock, std::chrono::seconds(60), [&] { return under_way == 0; })) throw std::runtime_error(std::to_string(under_way) + " jobs never ended");
    if (failed != 0) throw std::runtime_error(std::to_string(failed) + " no-op jobs failed");
  }
  row("queue.lives_per_s", lives / elapsed, "1/s");
  row("queue.broker_core_us_per_life", 1e6 * broker_used / lives, "us");
  row("queue.worker_core_us_per_life", 1e6 * worker_used / lives, "us");
  const gpuq::Top top = client.top();
  row("queue.jobs_per_commit", top.jobs_per_commit, "jobs");
  row("queue.commit_p50_ms", top.commit_p50_ms, "ms");
}

/// One job at a time: from the client's call to the worker holding it. The worker here is a thread of this process that speaks
/// the wire protocol, so that both ends read one clock.
void bench_idle() {
  System system;
  IdleWorker worker(system.workers, system.worker_access);
  gpuq::Client client = system.client();
  std::vector<double> start_ms, life_ms;
  for (int i = 0; i < 1200; ++i) {
    std::vector<std::string> ids;
    std::vector<gpuq::JobSpec> jobs = no_ops(1, &ids);
    const auto sent = Clock::now();
    auto result = client.result_async(ids[0]);
    client.submit_async(std::move(jobs));
    if (result.wait_for(std::chrono::seconds(10)) != std::future_status::ready) throw std::runtime_error("an idle job took over 10 s");
    if (i < 200) continue;   // warm-up
    start_ms.push_back(std::chrono::duration<double, std::milli>(worker.last_assigned() - sent).count());
    life_ms.push_back(1e3 * seconds_since(sent));
  }
  row("queue.idle_start_p50_ms", percentile(start_ms, 0.5), "ms");
  row("queue.idle_start_p99_ms", percentile(start_ms, 0.99), "ms");
  row("queue.idle_life_p50_ms", percentile(life_ms, 0.5), "ms");
}

}  // namespace
}  // namespace gq::bench

int main(int argc, char** argv) {
  CLI::App app{"gpuq-bench: what gpuq costs on this machine, as JSON rows"};
  std::string name;
  double seconds = 8;
  std::vector<std::string> only;
  app.add_option("name", name, "queue")->required()->check(CLI::IsMember({"queue"}));
  app.add_option("--seconds", seconds, "of each measured phase")->check(CLI::Range(0.2, 600.0))->capture_default_str();
  app.add_option("--only", only, "phases: disk raw submit lives idle");
  CLI11_PARSE(app, argc, argv);
  const auto wanted = [&](const char* phase) { return only.empty() || std::find(only.begin(), only.end(), phase) != only.end(); };
  try {
    using namespace gq::bench;
    if (wanted("disk")) bench_disk();
    if (wanted("raw")) bench_raw(seconds);
    if (wanted("lives")) bench_lives(seconds);
    if (wanted("idle")) bench_idle();
    if (wanted("submit")) bench_submit();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpuq-bench: %s\n", error.what());
    return 1;
  }
}

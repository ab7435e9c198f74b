// broker_load.cpp - how many whole echo lives per second one broker carries, and what each costs it.
//
// Starts the broker program with its managed Redis (or --memory), CURVE on, drives it with one scripted client and one scripted
// worker over DealerPort, each on a thread of its own, and prints lives/s with the CPU time of the broker, of Redis and of this
// program, per life. The client keeps `--window` jobs under way and submits `--batch` per message; the worker echoes at once.
//   broker_load [--jobs 100000] [--window 1024] [--batch 64] [--payload 200] [--memory]
#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

#include "common/config/clock.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/vocabulary/limits.h"
#include "common/wire/codec.h"

extern char** environ;

namespace {

using namespace gq;
using namespace std::chrono_literals;

struct Plan {
  std::size_t jobs = 100'000, window = 1024, batch = 64, payload = 200;
  bool memory = false;
};

double cpu_seconds(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skip;
  for (int i = 0; i < 11; ++i) fields >> skip;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double own_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto s = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6; };
  return s(usage.ru_utime) + s(usage.ru_stime);
}

/// A peer on its own thread; `ready` and the loop belong to it.
class LoadPeer {
 public:
  LoadPeer(std::string endpoint, net::AccessFile access) : endpoint_(std::move(endpoint)), access_(std::move(access)) {}
  virtual ~LoadPeer() { stop(); }
  void start() {
    thread_ = std::thread([this] {
      net::DealerPort::Handlers handlers;
      handlers.received = [this](net::Packet&& p) { received(std::move(p)); };
      handlers.drained = [this] { drained(); };
      handlers.connected = [this] { greet(); };
      port_ = std::make_unique<net::DealerPort>(context_, io_, std::move(handlers));
      net::DealerPort::Options options;
      options.endpoint = endpoint_;
      options.access = &access_;
      if (!port_->connect(options)) std::abort();
      auto work = asio::make_work_guard(io_);
      io_.run();
      port_.reset();
    });
  }
  void stop() {
    asio::post(io_, [this] { io_.stop(); });
    if (thread_.joinable()) thread_.join();
  }

 protected:
  virtual void greet() = 0;
  virtual void received(net::Packet&& packet) = 0;
  virtual void drained() {}
  template <class T>
  void say(const T& message, std::string_view body = {}) {
    if (port_->send(wire::encode(message, ++last_id_), body) != net::SendOutcome::sent) std::fprintf(stderr, "a message was not sent\n");
  }
  asio::io_context io_;

 private:
  std::string endpoint_;
  net::AccessFile access_;
  net::Context context_;
  std::unique_ptr<net::DealerPort> port_;
  std::thread thread_;
  std::uint64_t last_id_{};
};

class LoadWorker final : public LoadPeer {
 public:
  LoadWorker(std::string endpoint, net::AccessFile access, std::string name) : LoadPeer(std::move(endpoint), std::move(access)), name_(std::move(name)), timer_(io_) {}
  ~LoadWorker() override { stop(); }
  std::atomic<bool> welcomed{};

 private:
  void greet() override {
    wire::WorkerHello hello;
    hello.name = name_;
    hello.version = "bench";
    hello.kinds = {"echo"};
    wire::Device cpu;
    cpu.uuid = "CPU-" + name_;
    cpu.total_mib = 1024;
    hello.devices = {cpu};
    hello.lanes = {{0, 0, {}, {}}};
    hello.credit = {{0, credit_}};
    say(hello);
    beat();
  }
  void beat() {
    timer_.expires_after(1s);
    timer_.async_wait([this](ErrorCode error) {
      if (error) return;
      wire::WorkerBeat message;
      message.last_number = last_number_;
      say(message);
      beat();
    });
  }
  void received(net::Packet&& packet) override {
    auto decoded = wire::decode(packet.head);
    if (!decoded) return;
    if (std::holds_alternative<wire::WorkerWelcome>(decoded->message)) welcomed = true;
    if (auto* failure = std::get_if<wire::Failure>(&decoded->message)) std::fprintf(stderr, "worker: %s %s\n", failure->code.c_str(), failure->what.c_str());
    auto* assign = std::get_if<wire::Assign>(&decoded->message);
    if (assign == nullptr) return;
    if (ended_.items.size() + assign->items.size() > kLimits.items_max) drained();
    for (const wire::AssignItem& item : assign->items) {
      wire::EndedItem end;
      end.grant = item.grant;
      end.started = true;
      end.payload_bytes = item.payload_bytes;
      ended_.items.push_back(std::move(end));
      last_number_ = item.number;
    }
    body_ += packet.body;
  }
  void drained() override {
    if (ended_.items.empty()) return;
    credit_ += ended_.items.size();
    say(ended_, body_);
    ended_.items.clear();
    body_.clear();
    if (credit_ - told_ >= 256) {   // the limit runs ahead by a thousand: told now and then is enough
      say(wire::Pull{{}, {}, {{0, credit_}}});
      told_ = credit_;
    }
  }

  std::string name_;
  asio::steady_timer timer_;
  wire::Ended ended_;
  std::string body_;
  std::uint64_t credit_{2048}, told_{2048}, last_number_{};
};

class LoadClient final : public LoadPeer {
 public:
  LoadClient(std::string endpoint, net::AccessFile access, Plan plan) : LoadPeer(std::move(endpoint), std::move(access)), plan_(plan), payload_(plan.payload, 'p'), seen_(plan.jobs + 1) {}
  ~LoadClient() override { stop(); }
  std::atomic<std::size_t> finished{}, acknowledged{};
  std::atomic<bool> welcomed{};
  void begin() {
    asio::post(io_, [this] {
      began_ = true;
      drained();
    });
  }

 private:
  void greet() override { say(wire::ClientHello{.name = "bench", .version = "0", .protocol = wire::kProtocolVersion}); }
  void received(net::Packet&& packet) override {
    auto decoded = wire::decode(packet.head);
    if (!decoded) return;
    if (std::holds_alternative<wire::ClientWelcome>(decoded->message)) welcomed = true;
    else if (auto* notify = std::get_if<wire::Notify>(&decoded->message)) finished += count(notify->items);
    else if (auto* submitted = std::get_if<wire::Submitted>(&decoded->message)) acknowledged += submitted->items.size();
    else if (auto* failure = std::get_if<wire::Failure>(&decoded->message)) std::fprintf(stderr, "client: %s %s\n", failure->code.c_str(), failure->what.c_str());
  }
  /// Each job once, whatever is told twice.
  std::size_t count(const std::vector<wire::NotifyItem>& items) {
    std::size_t fresh = 0;
    for (const wire::NotifyItem& item : items) {
      if (item.state != static_cast<std::uint8_t>(JobState::succeeded) || item.id.lo >= seen_.size() || seen_[item.id.lo]) continue;
      seen_[item.id.lo] = true;
      ++fresh;
    }
    return fresh;
  }
  void drained() override {
    if (!began_) return;
    while (sent_ < plan_.jobs && sent_ + plan_.batch <= finished + plan_.window) {
      wire::Submit submit;
      std::string body;
      const std::size_t n = std::min(plan_.batch, plan_.jobs - sent_);
      submit.items.resize(n);
      for (wire::SubmitItem& item : submit.items) {
        item.id = make_job_id(static_cast<std::uint64_t>(now().wall.ms), 1, ++counter_);
        item.digest = {item.id.hi, item.id.lo};
        item.kind = "echo";
        item.payload_bytes = static_cast<std::uint32_t>(payload_.size());
        body += payload_;
      }
      sent_ += n;
      say(submit, body);
    }
  }

  Plan plan_;
  std::string payload_;
  std::vector<bool> seen_;   ///< by the number in the job id
  bool began_{};
  std::size_t sent_{};
  std::uint64_t counter_{};
};

struct BrokerChild {
  pid_t pid{};
  std::string clients, workers;
};

BrokerChild start_broker(const std::string& program, const std::string& dir, bool memory) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) std::abort();
  std::vector<std::string> argv{program, "--data-dir", dir, "--ready-fd", "3", "--listen-clients", "tcp://127.0.0.1:*", "--listen-workers", "tcp://127.0.0.1:*", "--listen-http", "none"};
  if (memory) argv.push_back("--memory-store");
  std::vector<char*> arguments;
  for (auto& a : argv) arguments.push_back(a.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 3);
  BrokerChild broker;
  if (posix_spawn(&broker.pid, program.c_str(), &actions, nullptr, arguments.data(), environ) != 0) std::abort();
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string line;
  for (char c = 0; read(ends[0], &c, 1) == 1 && c != '\n';) line += c;
  close(ends[0]);
  const auto ready = nlohmann::json::parse(line);
  broker.clients = ready["clients"];
  broker.workers = ready["workers"];
  return broker;
}

pid_t first_child(pid_t parent) {
  std::ifstream in("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  pid_t pid = 0;
  in >> pid;
  return pid;
}

}  // namespace

int main(int argc, char** argv) {
  Plan plan;
  for (int i = 1; i < argc; ++i) {
    const auto number = [&] { return static_cast<std::size_t>(std::stoull(argv[++i])); };
    if (std::strcmp(argv[i], "--jobs") == 0) plan.jobs = number();
    else if (std::strcmp(argv[i], "--window") == 0) plan.window = number();
    else if (std::strcmp(argv[i], "--batch") == 0) plan.batch = number();
    else if (std::strcmp(argv[i], "--payload") == 0) plan.payload = number();
    else if (std::strcmp(argv[i], "--memory") == 0) plan.memory = true;
    else return std::fprintf(stderr, "broker_load [--jobs N] [--window N] [--batch N] [--payload BYTES] [--memory]\n"), 2;
  }
  std::string dir = (std::filesystem::temp_directory_path() / "gpuq-load-XXXXXX").string();
  if (mkdtemp(dir.data()) == nullptr) return 1;
  const BrokerChild broker = start_broker(GPUQ_BROKER_PROGRAM, dir, plan.memory);
  auto client_key = net::keys_issue(dir + "/keys", "bench-client", net::Role::client, broker.clients, now().wall);
  auto worker_key = net::keys_issue(dir + "/keys", "bench-worker", net::Role::worker, broker.workers, now().wall);
  if (!client_key || !worker_key) return 1;
  {
    LoadClient client(broker.clients, *client_key, plan);
    LoadWorker worker(broker.workers, *worker_key, "bench-worker");
    client.start();
    worker.start();
    while (!client.welcomed || !worker.welcomed) std::this_thread::sleep_for(5ms);
    const pid_t redis = plan.memory ? 0 : first_child(broker.pid);
    const double broker_before = cpu_seconds(broker.pid), redis_before = redis ? cpu_seconds(redis) : 0, own_before = own_cpu_seconds();
    const auto from = std::chrono::steady_clock::now();
    client.begin();
    std::size_t last = 0;
    auto moved = from;
    while (client.finished < plan.jobs) {
      std::this_thread::sleep_for(10ms);
      const auto at = std::chrono::steady_clock::now();
      if (client.finished != last) last = client.finished, moved = at;
      if (at - moved > 10s) {
        std::fprintf(stderr, "stuck at %zu of %zu finished, %zu acknowledged\n", last, plan.jobs, client.acknowledged.load());
        kill(broker.pid, SIGTERM);
        return 1;
      }
    }
    const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
    const double lives = static_cast<double>(plan.jobs);
    std::printf("%zu lives, batch %zu, window %zu, payload %zu B, %s\n", plan.jobs, plan.batch, plan.window, plan.payload, plan.memory ? "memory store" : "redis, fsync always");
    std::printf("  %.0f lives/s   core-us per life: broker %.1f  redis %.1f  client+worker %.1f\n", lives / wall, (cpu_seconds(broker.pid) - broker_before) / lives * 1e6,
                redis ? (cpu_seconds(redis) - redis_before) / lives * 1e6 : 0.0, (own_cpu_seconds() - own_before) / lives * 1e6);
  }
  kill(broker.pid, SIGTERM);
  waitpid(broker.pid, nullptr, 0);
  std::error_code ignored;
  std::filesystem::remove_all(dir, ignored);
  return 0;
}

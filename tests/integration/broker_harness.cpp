// broker_harness.cpp - processes, sockets and scripted peers.
#include "tests/integration/broker_harness.h"

#include <fcntl.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "broker/store/blobs.h"
#include "common/config/clock.h"

extern char** environ;

namespace gq::test {

namespace {
using Clock = std::chrono::steady_clock;

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}
}  // namespace

// ---- folders and processes

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "gpuq-test-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  dir_ = pattern;
}
TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

void Process::start(std::vector<std::string> argv, const std::string& log, std::vector<std::string> environment, bool ready) {
  log_ = log;
  status_.reset();
  int pipe_ends[2] = {-1, -1};
  if (ready && pipe2(pipe_ends, O_CLOEXEC) != 0) std::abort();
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  if (ready) posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], 3);
  std::vector<char*> arguments;
  for (std::string& argument : argv) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  std::vector<char*> variables;
  for (char** v = environ; *v != nullptr; ++v) variables.push_back(*v);
  for (std::string& variable : environment) variables.push_back(variable.data());
  variables.push_back(nullptr);
  const int failed = posix_spawnp(&pid_, argv[0].c_str(), &actions, nullptr, arguments.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  if (ready) {
    close(pipe_ends[1]);
    ready_fd_ = pipe_ends[0];
  }
  if (failed != 0) {
    pid_ = -1;
    ADD_FAILURE() << "cannot start " << argv[0];
  }
}

Process::~Process() {
  if (pid_ > 0 && !exited()) {
    ::kill(pid_, SIGKILL);
    ::kill(pid_, SIGCONT);
    waitpid(pid_, nullptr, 0);
  }
  if (ready_fd_ >= 0) close(ready_fd_);
}

std::string Process::ready_line(std::chrono::milliseconds patience) {
  std::string line;
  const auto deadline = Clock::now() + patience;
  while (ready_fd_ >= 0 && Clock::now() < deadline) {
    pollfd waiting{ready_fd_, POLLIN, 0};
    poll(&waiting, 1, 100);
    if ((waiting.revents & (POLLIN | POLLHUP)) == 0) continue;
    char c = 0;
    const ssize_t n = read(ready_fd_, &c, 1);
    if (n <= 0) break;
    if (c == '\n') break;
    line += c;
  }
  if (ready_fd_ >= 0) close(std::exchange(ready_fd_, -1));
  return line;
}

void Process::signal(int signal) const {
  if (pid_ > 0 && !status_) ::kill(pid_, signal);
}

std::optional<int> Process::exited() {
  if (status_ || pid_ <= 0) return status_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) == pid_) status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return status_;
}

int Process::wait(std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  while (!exited()) {
    if (Clock::now() > deadline) {
      ADD_FAILURE() << "process " << pid_ << " still runs; its log:\n" << log();
      return -1;
    }
    std::this_thread::sleep_for(2ms);   // waitpid has no deadline of its own
  }
  return *status_;
}

std::string Process::log() const { return slurp(log_); }

Redis::Redis(const TempDir& dir) : dir_(dir.path("redis")) { std::filesystem::create_directories(dir_); }

void Redis::start() {
  process.start({"redis-server", "--port", "0", "--unixsocket", socket(), "--dir", dir_, "--appendonly", "yes", "--appendfsync", "always", "--save", "",
                 "--maxmemory", "256mb", "--maxmemory-policy", "noeviction", "--no-appendfsync-on-rewrite", "no"},
                dir_ + "/redis.log");
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> pids;
  std::istringstream tasks(slurp("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children"));
  for (pid_t pid = 0; tasks >> pid;) pids.push_back(pid);
  return pids;
}

bool process_exists(pid_t pid) {
  const std::string stat = slurp("/proc/" + std::to_string(pid) + "/stat");
  const auto behind = stat.rfind(") ");
  return behind != std::string::npos && stat[behind + 2] != 'Z';
}

// ---- the broker

namespace {
/// A loopback endpoint that is still free when the broker is started again: below the range from which the kernel gives ports to
/// other tests' connections, which would otherwise take it while the broker is down.
std::string lasting_endpoint() {
  static std::atomic<unsigned> next{static_cast<unsigned>(::getpid()) * 37U};
  for (;;) {
    const auto port = static_cast<std::uint16_t>(20'000U + next++ % 12'000U);
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    const bool free = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    ::close(fd);
    if (free) return "tcp://127.0.0.1:" + std::to_string(port);
  }
}
}  // namespace

std::vector<std::string> Broker::argv(const std::vector<std::string>& options) {
  std::vector<std::string> argv{GPUQ_BROKER_PROGRAM, "--data-dir", dir_, "--ready-fd", "3"};
  const auto given = [&](const char* flag) { return std::find(options.begin(), options.end(), flag) != options.end(); };
  if (!given("--listen-clients")) argv.insert(argv.end(), {"--listen-clients", clients.empty() ? lasting_endpoint() : clients});
  if (!given("--listen-workers")) argv.insert(argv.end(), {"--listen-workers", workers.empty() ? lasting_endpoint() : workers});
  if (!given("--listen-http")) argv.insert(argv.end(), {"--listen-http", "127.0.0.1:0"});
  argv.insert(argv.end(), options.begin(), options.end());
  return argv;
}

void Broker::start(std::vector<std::string> options, std::vector<std::string> environment) {
  options_ = options;
  process.start(argv(options), log_, std::move(environment), true);
  await_ready();
}

void Broker::start_unready(std::vector<std::string> options, std::vector<std::string> environment) {
  options_ = options;
  process.start(argv(options), log_, std::move(environment), true);
}

void Broker::restart(std::vector<std::string> environment) { start(options_, std::move(environment)); }

void Broker::kill() {
  process.signal(SIGKILL);
  process.wait();
}

void Broker::await_ready() {
  const std::string line = process.ready_line();
  ASSERT_FALSE(line.empty()) << "the broker did not come to serve; its log:\n" << log();
  const auto ready = nlohmann::json::parse(line);
  clients = ready["clients"];
  workers = ready["workers"];
  http = ready["http"];
}

// ---- the loop and the peers

bool Loop::until(const std::function<bool()>& holds, const std::string& what, std::chrono::milliseconds patience) {
  const auto deadline = Clock::now() + patience;
  while (!holds()) {
    if (Clock::now() > deadline) {
      ADD_FAILURE() << "waited in vain for " << what;
      return false;
    }
    io.restart();
    io.run_one_for(20ms);
  }
  return true;
}

void Loop::run_for(std::chrono::milliseconds span) {
  io.restart();
  io.run_for(span);
}

Peer::Peer(Loop& l, std::string endpoint, std::optional<net::AccessFile> access) : loop(l), endpoint_(std::move(endpoint)), access_(std::move(access)) {}

void Peer::connect() {
  connected_ = false;
  refused.reset();
  net::DealerPort::Handlers handlers;
  handlers.received = [this](net::Packet&& packet) {
    auto decoded = wire::decode(packet.head);
    if (!decoded) {
      ADD_FAILURE() << "the broker sent what cannot be decoded: " << decoded.error().what;
      return;
    }
    Heard one{decoded->header, std::move(decoded->message), std::move(packet.body)};
    if (!intercept || !intercept(one)) heard.push_back(std::move(one));
  };
  handlers.connected = [this] { connected_ = true; };
  handlers.disconnected = [this] { connected_ = false; };
  handlers.refused = [this](const Error& why) { refused = why; };
  port_ = std::make_unique<net::DealerPort>(loop.context, loop.io, std::move(handlers));
  net::DealerPort::Options options;
  options.endpoint = endpoint_;
  options.access = access_ ? &*access_ : nullptr;
  const auto connecting = port_->connect(options);
  ASSERT_TRUE(connecting) << connecting.error().what;
  loop.until([this] { return connected_ || refused; }, "a connection to " + endpoint_);
}

void Peer::say_raw(std::string_view head, std::string_view body) {
  net::SendOutcome outcome = net::SendOutcome::gone;
  loop.until([&] { return (outcome = port_->send(head, body)) == net::SendOutcome::sent; }, "room to send");
}

Heard Peer::next_where(const std::function<bool(const Heard&)>& wanted, const std::string& what) {
  std::optional<Heard> found;
  loop.until(
      [&] {
        for (auto it = heard.begin(); it != heard.end(); ++it) {
          if (!wanted(*it)) continue;
          found = std::move(*it);
          heard.erase(it);
          return true;
        }
        return false;
      },
      what);
  return found ? std::move(*found) : Heard{};
}

bool Peer::has_answer(std::uint64_t id) const {
  for (const Heard& h : heard)
    if (h.header.id == id) return true;
  return false;
}

std::string http_get(const std::string& address, const std::string& path) {
  const auto colon = address.rfind(':');
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  socket.connect({asio::ip::make_address(address.substr(0, colon)), static_cast<std::uint16_t>(std::stoi(address.substr(colon + 1)))});
  asio::write(socket, asio::buffer("GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n"));
  std::string text;
  ErrorCode end;
  asio::read(socket, asio::dynamic_buffer(text), end);
  return text;
}

BlobDigest upload(Peer& peer, std::string_view bytes, std::size_t chunk) {
  const BlobDigest digest = store::digest_of(bytes);
  auto reply = peer.ask<wire::BlobPutReply>(wire::BlobPut{.blob = digest, .total = bytes.size(), .offset = 0});
  while (!reply.complete && !testing::Test::HasFailure())
    reply = peer.ask<wire::BlobPutReply>(wire::BlobPut{.blob = digest, .total = bytes.size(), .offset = reply.next}, bytes.substr(reply.next, chunk));
  return digest;
}

JobId new_job_id() {
  const Moment at = now();
  return make_job_id(static_cast<std::uint64_t>(at.wall.ms), random_u64(), random_u64());
}

wire::SubmitItem echo_job(JobId id) {
  wire::SubmitItem item;
  item.id = id;
  item.digest = {id.hi, id.lo};
  item.kind = "echo";
  return item;
}

wire::ClientWelcome Client::hello() { return ask<wire::ClientWelcome>(wire::ClientHello{.name = "test", .version = "0", .protocol = wire::kProtocolVersion}); }

std::uint64_t Client::say_submit(std::vector<wire::SubmitItem> items, const std::vector<std::string>& bodies) {
  std::string body;
  for (std::size_t i = 0; i < items.size() && i < bodies.size(); ++i) {
    items[i].payload_bytes = static_cast<std::uint32_t>(bodies[i].size());
    body += bodies[i];
  }
  return say(wire::Submit{std::move(items)}, body);
}

wire::Submitted Client::submit(const std::vector<wire::SubmitItem>& items, const std::vector<std::string>& bodies) {
  const wire::Submitted submitted = answer<wire::Submitted>(say_submit(items, bodies));
  for (const wire::SubmittedItem& item : submitted.items) EXPECT_TRUE(item.ok) << item.code << ": " << item.what;
  return submitted;
}

void Client::remember_finals() {
  intercept = [this](Heard& h) {
    auto* notify = std::get_if<wire::Notify>(&h.message);
    if (notify == nullptr) return false;
    auto payloads = wire::split_payloads(notify->items, h.body);
    EXPECT_TRUE(payloads);
    for (std::size_t i = 0; i < notify->items.size(); ++i) {
      ++times_told[notify->items[i].id];
      finals[notify->items[i].id] = {notify->items[i], std::string((*payloads)[i])};
    }
    return true;
  };
}

wire::NotifyItem Client::final_of(JobId job) {
  if (!intercept) {
    remember_finals();
    for (auto it = heard.begin(); it != heard.end();) it = intercept(*it) ? heard.erase(it) : std::next(it);
  }
  loop.until([&] { return finals.contains(job); }, "the end of job " + to_string(job));
  last_body = finals[job].second;
  return finals[job].first;
}

wire::JobStatus Client::status(JobId job) {
  const auto reply = ask<wire::StatusReply>(wire::StatusQuery{{job}});
  return reply.jobs.empty() ? wire::JobStatus{} : reply.jobs.front();
}

Worker::Worker(Loop& l, std::string endpoint, std::optional<net::AccessFile> access, std::string n)
    : Peer(l, std::move(endpoint), std::move(access)), name(std::move(n)), timer_(l.io) {
  intercept = [this](Heard& h) { return on_heard(h); };
}
Worker::~Worker() { *alive_ = false; }

bool Worker::on_heard(Heard& h) {
  if (std::holds_alternative<wire::WorkerBeatReply>(h.message)) return true;
  if (const auto* accepted_ends = std::get_if<wire::Accepted>(&h.message)) {
    for (std::size_t i = 0; i < accepted_ends->grants.size(); ++i) {
      const wire::Grant& grant = accepted_ends->grants[i];
      if (accepted_ends->verdicts[i] == 0) accepted[grant.job].insert(grant);
      journal.erase(grant);
    }
    return echoes_;
  }
  const auto* assign = std::get_if<wire::Assign>(&h.message);
  if (assign == nullptr) return false;
  auto payloads = wire::split_payloads(assign->items, h.body);
  EXPECT_TRUE(payloads);
  wire::Ended ended;
  std::string bodies;
  for (std::size_t i = 0; i < assign->items.size(); ++i) {
    const wire::AssignItem& item = assign->items[i];
    ++starts[item.grant.job];
    last_number = std::max(last_number, item.number);
    if (!echoes_) {
      running.push_back(item.grant);
      assignments.emplace_back(item, std::string((*payloads)[i]));
      continue;
    }
    wire::EndedItem end;
    end.grant = item.grant;
    end.outcome = static_cast<std::uint8_t>(Outcome::succeeded);
    end.started = true;
    end.payload_bytes = static_cast<std::uint32_t>((*payloads)[i].size());
    bodies += (*payloads)[i];
    journal[item.grant] = {end, std::string((*payloads)[i])};
    ended.items.push_back(end);
  }
  if (!ended.items.empty()) {
    ended_count += ended.items.size();
    port_->send(wire::encode(ended, ++last_id_), bodies);
    credit_ += ended.items.size();
    port_->send(wire::encode(wire::Pull{.opened = {}, .closed = {}, .credit = {{0, credit_}}}, ++last_id_));
  }
  return true;
}

std::uint64_t Worker::say_hello(std::vector<wire::Grant> running_now, std::uint64_t slots) {
  running = running_now;
  credit_ = slots;
  last_number = 0;
  wire::WorkerHello hello;
  hello.name = name;
  hello.instance = reinterpret_cast<std::uintptr_t>(this);
  hello.version = "test";
  hello.host = "localhost";
  hello.kinds = {"echo", "sleep"};
  wire::Device cpu;
  cpu.uuid = "CPU-" + name;
  cpu.name = "cpu";
  cpu.total_mib = 4096;
  hello.devices = {cpu};
  hello.lanes = {{.lane = 0, .kind = 0, .device = {}, .model = {}}};
  hello.credit = {{0, slots}};
  hello.running = std::move(running_now);
  return say(hello);
}

wire::WorkerWelcome Worker::hello(std::vector<wire::Grant> running_now, std::uint64_t slots) {
  say_hello(std::move(running_now), slots);
  auto welcome = next<wire::WorkerWelcome>();
  beat_by_itself(true);
  return welcome;
}

void Worker::beat_by_itself(bool on) {
  timer_.cancel();
  if (on) beat();
}

void Worker::beat() {
  timer_.expires_after(100ms);
  timer_.async_wait([this, alive = alive_](ErrorCode error) {
    if (error || !*alive) return;
    if (connected_) {
      wire::WorkerBeat message;
      message.sent_us = static_cast<std::uint64_t>(now().steady.time_since_epoch().count());
      message.last_number = last_number;
      message.running = running;
      port_->send(wire::encode(message));
    }
    beat();
  });
}

wire::AssignItem Worker::next_assignment() {
  loop.until([this] { return !assignments.empty(); }, "an assignment for " + name);
  if (assignments.empty()) return {};
  auto [item, body] = std::move(assignments.front());
  assignments.pop_front();
  last_body = body;
  return item;
}

std::uint64_t Worker::say_end(const wire::Grant& grant, const std::string& result, Outcome outcome, std::vector<BlobDigest> blobs) {
  wire::EndedItem item;
  item.grant = grant;
  item.outcome = static_cast<std::uint8_t>(outcome);
  item.started = true;
  item.blobs = std::move(blobs);
  item.payload_bytes = static_cast<std::uint32_t>(result.size());
  std::erase(running, grant);
  return say(wire::Ended{{item}}, result);
}

std::uint8_t Worker::end(const wire::Grant& grant, const std::string& result, Outcome outcome, std::vector<BlobDigest> blobs) {
  const auto answered = answer<wire::Accepted>(say_end(grant, result, outcome, std::move(blobs)));
  return answered.verdicts.empty() ? 255 : answered.verdicts.front();
}

void Worker::resume() {
  connect();
  std::vector<wire::Grant> held;
  for (const auto& [grant, end] : journal) held.push_back(grant);
  hello(held);
  running.clear();
  wire::Ended ended;
  std::string bodies;
  for (const auto& [grant, end] : journal) {
    if (ended.items.size() == kLimits.items_max) break;
    ended.items.push_back(end.first);
    bodies += end.second;
  }
  if (!ended.items.empty()) say(ended, bodies);
}

void Worker::echo_everything(bool on) { echoes_ = on; }

// ---- the fixture

net::AccessFile BrokerStory::access(const std::string& name, net::Role role, const std::string& endpoint) {
  if (const auto known = issued_.find(name); known != issued_.end()) return known->second;
  auto issued = net::keys_issue(broker.keys_dir(), name, role, endpoint, now().wall);
  if (issued) return issued_[name] = *issued;
  ADD_FAILURE() << issued.error().what;
  return {};
}

std::unique_ptr<Client> BrokerStory::new_client(const std::string& name, net::Role role) {
  auto peer = std::make_unique<Client>(loop, broker.clients, access(name, role, broker.clients));
  peer->connect();
  return peer;
}

std::unique_ptr<Worker> BrokerStory::new_worker(const std::string& name) {
  auto peer = std::make_unique<Worker>(loop, broker.workers, access(name, net::Role::worker, broker.workers), name);
  peer->connect();
  return peer;
}

void BrokerStory::start(std::vector<std::string> options, std::vector<std::string> environment) {
  broker.start(std::move(options), std::move(environment));
  if (HasFatalFailure()) return;
  client = new_client();
  worker = new_worker();
}

void BrokerStory::TearDown() {
  if (HasFailure()) std::fprintf(stderr, "---- log of the broker\n%s\n", broker.log().c_str());
}

}  // namespace gq::test

// broker_harness.h - the real broker process, a real Redis, and scripted peers, for tests that tell a story over sockets.
//
// Everything lives in one temporary directory and on ephemeral ports of loopback; what a test starts, the harness ends, by pid.
// Nothing sleeps: `until(condition)` runs the loop until it holds or a deadline ends the test with what was being waited for.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/net/asio.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/wire/codec.h"

namespace gq::test {

using namespace std::chrono_literals;

class TempDir {
 public:
  TempDir();
  ~TempDir();
  [[nodiscard]] std::string path(const std::string& below = {}) const { return below.empty() ? dir_.string() : (dir_ / below).string(); }

 private:
  std::filesystem::path dir_;
};

/// A child of ours, ended by pid. Its stderr lies in a file.
class Process {
 public:
  Process() = default;
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  /// With `ready`: the child gets a pipe as descriptor 3, whose first line ready_line() returns.
  void start(std::vector<std::string> argv, const std::string& log, std::vector<std::string> environment = {}, bool ready = false);
  std::string ready_line(std::chrono::milliseconds patience = 20s);   ///< empty when it ended before
  void signal(int signal) const;
  /// What it exited with; 128 + signal when one ended it; nullopt while it runs.
  std::optional<int> exited();
  int wait(std::chrono::milliseconds patience = 10s);
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool running() { return pid_ > 0 && !exited(); }
  [[nodiscard]] std::string log() const;

 private:
  pid_t pid_{-1};
  int ready_fd_{-1};
  std::optional<int> status_;
  std::string log_;
};

/// A redis-server of the test's own on a unix socket, durable, that can be stopped, killed and started again.
class Redis {
 public:
  explicit Redis(const TempDir& dir);
  void start();
  [[nodiscard]] std::string socket() const { return dir_ + "/redis.sock"; }
  Process process;

 private:
  std::string dir_;
};

std::vector<pid_t> children_of(pid_t parent);
std::string http_get(const std::string& address, const std::string& path);   ///< status line and body
bool process_exists(pid_t pid);

class Broker {
 public:
  explicit Broker(const TempDir& dir, std::string name = "broker") : dir_(dir.path(name)), log_(dir.path(name + ".log")) {}
  /// Adds --data-dir, ephemeral ports and --ready-fd; waits until it serves.
  void start(std::vector<std::string> options = {}, std::vector<std::string> environment = {});
  /// The same, for one that must not come to serve.
  void start_unready(std::vector<std::string> options, std::vector<std::string> environment = {});
  /// Again with the same options, on the same ports.
  void restart(std::vector<std::string> environment = {});
  void kill();
  [[nodiscard]] std::string keys_dir() const { return dir_ + "/keys"; }
  [[nodiscard]] std::string data_dir() const { return dir_; }
  [[nodiscard]] std::string log() const { return process.log(); }
  std::string clients, workers, http;
  Process process;

 private:
  std::vector<std::string> argv(const std::vector<std::string>& options);
  void await_ready();
  std::string dir_, log_;
  std::vector<std::string> options_;
};

/// One loop for all scripted peers of a test.
class Loop {
 public:
  asio::io_context io;
  net::Context context;
  /// Runs the loop until `holds`; fails the test naming `what` after `patience`.
  bool until(const std::function<bool()>& holds, const std::string& what, std::chrono::milliseconds patience = 15s);
  void run_for(std::chrono::milliseconds span);   ///< for "nothing comes": bounded listening, not a sleep for luck
};

struct Heard {
  wire::Header header;
  wire::Message message;
  std::string body;
};

/// A peer that says exactly what it is told to and remembers what it hears.
class Peer {
 public:
  Peer(Loop& loop, std::string endpoint, std::optional<net::AccessFile> access);
  virtual ~Peer() = default;
  void connect();
  void close() { port_->close(); connected_ = false; }
  [[nodiscard]] bool connected() const { return connected_; }
  void point_at(std::string endpoint) { endpoint_ = std::move(endpoint); }

  template <class T>
  std::uint64_t say(const T& message, std::string_view body = {}) {
    const std::uint64_t id = ++last_id_;
    say_raw(wire::encode(message, id), body);
    return id;
  }
  void say_raw(std::string_view head, std::string_view body = {});
  /// The answer to request `id`, of type A or Failure.
  template <class A>
  A answer(std::uint64_t id) {
    Heard told = next_where([id](const Heard& h) { return h.header.id == id; }, wire::TypeNumber<A>::name);
    if (const auto* failure = std::get_if<wire::Failure>(&told.message); failure != nullptr && !std::is_same_v<A, wire::Failure>)
      ADD_FAILURE() << "answered " << failure->code << ": " << failure->what << " instead of " << wire::TypeNumber<A>::name;
    last_body = told.body;
    const A* wanted = std::get_if<A>(&told.message);
    if (wanted == nullptr) {
      ADD_FAILURE() << "answered type " << told.header.type << " instead of " << wire::TypeNumber<A>::name;
      return {};
    }
    return *wanted;
  }
  template <class A, class T>
  A ask(const T& message, std::string_view body = {}) { return answer<A>(say(message, body)); }
  /// The next message of type A, whatever its id; takes it out of what was heard.
  template <class A>
  A next() {
    Heard told = next_where([](const Heard& h) { return std::holds_alternative<A>(h.message); }, wire::TypeNumber<A>::name);
    last_body = told.body;
    const A* message = std::get_if<A>(&told.message);
    return message != nullptr ? *message : A{};
  }
  Heard next_where(const std::function<bool(const Heard&)>& wanted, const std::string& what);
  [[nodiscard]] bool has_answer(std::uint64_t id) const;

  Loop& loop;
  std::deque<Heard> heard;
  std::string last_body;
  std::optional<Error> refused;
  std::function<bool(Heard&)> intercept;   ///< true = taken, not remembered

 protected:
  std::string endpoint_;
  std::optional<net::AccessFile> access_;
  std::unique_ptr<net::DealerPort> port_;
  bool connected_{};
  std::uint64_t last_id_{};
};

/// Uploads `bytes` in chunks over this peer's connection; its digest.
BlobDigest upload(Peer& peer, std::string_view bytes, std::size_t chunk = 256U << 10U);
JobId new_job_id();
wire::SubmitItem echo_job(JobId id);

class Client : public Peer {
 public:
  using Peer::Peer;
  wire::ClientWelcome hello();
  /// Submits and expects OK.
  wire::Submitted submit(const std::vector<wire::SubmitItem>& items, const std::vector<std::string>& bodies = {});
  std::uint64_t say_submit(std::vector<wire::SubmitItem> items, const std::vector<std::string>& bodies = {});
  /// Waits for this job's notice; its payload is in last_body.
  wire::NotifyItem final_of(JobId job);
  wire::JobStatus status(JobId job);
  std::map<JobId, std::pair<wire::NotifyItem, std::string>> finals;   ///< filled by remember_finals()
  std::map<JobId, int> times_told;
  void remember_finals();
};

/// Offers CPU slots for echo and sleep, beats by itself, and does with assignments what the test says.
class Worker : public Peer {
 public:
  Worker(Loop& loop, std::string endpoint, std::optional<net::AccessFile> access, std::string name);
  ~Worker() override;
  wire::WorkerWelcome hello(std::vector<wire::Grant> running = {}, std::uint64_t slots = 1000);
  std::uint64_t say_hello(std::vector<wire::Grant> running = {}, std::uint64_t slots = 1000);
  wire::AssignItem next_assignment();
  /// Ends this grant as succeeded with `result`; the verdict.
  std::uint8_t end(const wire::Grant& grant, const std::string& result = {}, Outcome outcome = Outcome::succeeded, std::vector<BlobDigest> blobs = {});
  std::uint64_t say_end(const wire::Grant& grant, const std::string& result = {}, Outcome outcome = Outcome::succeeded, std::vector<BlobDigest> blobs = {});
  void started(const wire::Grant& grant) { say(wire::Started{{grant}}); }
  /// A new link to the broker: hello with what is held and not accepted yet, and those ends once more.
  void resume();
  void echo_everything(bool on = true);   ///< each assignment is ended at once with its own body
  void beat_by_itself(bool on);
  std::string name;
  std::vector<wire::Grant> running;
  std::map<JobId, int> starts;
  std::map<JobId, std::set<wire::Grant>> accepted;                              ///< grants whose result counted
  std::map<wire::Grant, std::pair<wire::EndedItem, std::string>> journal;       ///< ended, without a verdict yet
  std::deque<std::pair<wire::AssignItem, std::string>> assignments;
  std::uint64_t last_number{};
  std::uint64_t ended_count{};

 private:
  void beat();
  bool on_heard(Heard& heard);
  asio::steady_timer timer_;
  bool echoes_{};
  std::uint64_t credit_{};
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

/// A broker with CURVE and keys for one client, one worker and one admin, in a temporary directory.
struct BrokerStory : testing::Test {
  TempDir dir;
  Loop loop;
  Broker broker{dir};
  std::unique_ptr<Client> client, admin;
  std::unique_ptr<Worker> worker;

  net::AccessFile access(const std::string& name, net::Role role, const std::string& endpoint);
  std::unique_ptr<Client> new_client(const std::string& name = "ada", net::Role role = net::Role::client);
  std::unique_ptr<Worker> new_worker(const std::string& name = "anna");
  void start(std::vector<std::string> options = {}, std::vector<std::string> environment = {});
  void TearDown() override;

 private:
  std::map<std::string, net::AccessFile> issued_;
};

}  // namespace gq::test

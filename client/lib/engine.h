// engine.h - the client's one thread: it owns the socket, the link, and the table of questions not yet answered.
//
// Callers on any thread post() work; everything below "loop thread only" is called from that work. A question keeps its bytes
// until it is answered or its deadline passes, and goes out again, unchanged, on every new link: all of them are idempotent
// (submits and retries carry the ids they will make). A link that was never welcomed is given up on after connect_timeout;
// once welcomed, a lost broker is waited for until each question's own deadline.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <string>
#include <thread>
#include <vector>

#include "client/lib/link.h"
#include "common/vocabulary/errors.h"
#include "common/vocabulary/limits.h"
#include "common/wire/codec.h"
#include "common/wire/messages.h"

namespace gq::net {
struct AccessFile;
struct Packet;
}

namespace gq::client {

Instant steady_now();

struct Answer {
  wire::Message message;
  std::string body;
};

class Engine {
 public:
  struct Settings {
    std::string endpoint;
    std::shared_ptr<const net::AccessFile> access;   ///< null = insecure
    std::string name;
    Duration timeout = 30s;
    Duration connect_timeout = 10s;
    bool acknowledge = true;
  };
  /// What the parts that sit on the engine want to hear; called on the loop thread.
  struct Hooks {
    std::function<void(wire::Notify&&, std::string&& body)> notify;
    std::function<void()> resumed;                   ///< a new link is up: questions were sent again
    std::function<void()> term_changed;
    std::function<void(const Error&)> failed;        ///< nobody will be served: fail all that wait
    std::function<bool(Instant)> tick;               ///< true = something is waiting for the next tick
    std::function<void()> flush;                     ///< end of a turn: send what was gathered
  };
  using Reply = std::function<void(Result<Answer>&&)>;

  explicit Engine(Settings settings);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void start(Hooks hooks);
  /// Fails everything that waits, says goodbye, joins the thread. Idempotent.
  void stop();
  void post(std::function<void()> work);
  [[nodiscard]] bool on_loop_thread() const { return std::this_thread::get_id() == thread_.get_id(); }
  [[nodiscard]] bool connected() const { return connected_.load(std::memory_order_relaxed); }
  [[nodiscard]] const Settings& settings() const { return settings_; }

  // ---- loop thread only
  template <class M>
  std::uint64_t ask(const M& message, std::string body, Duration timeout, Reply reply) {
    const std::uint64_t id = ++last_id_;
    enter(id, wire::encode(message, id), std::move(body), timeout, std::move(reply), false);
    return id;
  }
  /// Many answers to one question, until forget().
  template <class M>
  std::uint64_t ask_stream(const M& message, Reply reply) {
    const std::uint64_t id = ++last_id_;
    enter(id, wire::encode(message, id), {}, Duration::zero(), std::move(reply), true);
    return id;
  }
  /// What is sent for a stream after a reconnect.
  template <class M>
  void renew(std::uint64_t id, const M& message) {
    if (const auto it = asked_.find(id); it != asked_.end()) it->second.head = wire::encode(message, id);
  }
  template <class M>
  void tell(const M& message) {
    if (link_.up()) send(wire::encode(message), {});
  }
  void forget(std::uint64_t id) { asked_.erase(id); }
  [[nodiscard]] bool up() const { return link_.up(); }
  [[nodiscard]] bool ever_welcomed() const { return link_.ever_welcomed(); }
  [[nodiscard]] std::size_t chunk_bytes() const { return chunk_bytes_; }
  /// The broker's folder for content handed over as files; empty = it is on another machine, or that did not work.
  [[nodiscard]] const std::string& near_folder() const { return near_folder_; }
  void near_fails() { near_folder_.clear(); }   ///< until the next link
  /// The error of someone whose deadline passed: UNREACHABLE without a link, TIMED_OUT with one.
  [[nodiscard]] Error late(const std::string& what) const;

 private:
  struct Io;   // Asio loop, ZeroMQ context and port
  struct Asked { std::string head, body; Instant deadline{}; Reply reply; bool stream{}; };
  struct Due {
    Instant at; std::uint64_t id;
    bool operator<(const Due& other) const { return at > other.at; }   // earliest on top
  };

  void enter(std::uint64_t id, std::string head, std::string body, Duration timeout, Reply reply, bool stream);
  void send(std::string_view head, std::string_view body);
  void received(net::Packet&& packet);
  void perform(const LinkActions& actions);
  void open_socket();
  void close_socket();
  void resume();
  void fail_everything(const Error& error);
  void expire(Instant now);
  void tick();
  void arm(bool busy);
  void drain_inbox();
  void turn_end();

  Settings settings_;
  Hooks hooks_;
  Link link_;
  std::unique_ptr<Io> io_;
  std::thread thread_;
  std::atomic<bool> connected_{false};
  bool stopped_{false};

  std::mutex inbox_mutex_;
  std::vector<std::function<void()>> inbox_;
  std::vector<std::function<void()>> inbox_work_;

  std::map<std::uint64_t, Asked> asked_;            // by id = in the order they were asked
  std::priority_queue<Due> dues_;
  std::uint64_t last_id_{0}, hello_id_{0};
  std::size_t chunk_bytes_{kLimits.blob_chunk_bytes};
  std::string near_folder_;
  Instant trying_since_{};
};

}  // namespace gq::client

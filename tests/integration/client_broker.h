// client_broker.h - a broker in this process that does what the test says: real sockets, real codec, every answer the test's own.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/net/asio.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/wire/codec.h"
#include "common/wire/job_body.h"

namespace gq {

using namespace std::chrono_literals;
constexpr auto kPatience = 20s;   // of a waiting test; none of them sleeps

struct Heard { PeerId peer; wire::Header header; wire::Message message; std::string body; };

/// A broker that does what the test says. Handlers run on its own thread; what it hears is kept in order.
class FakeBroker {
 public:
  using Script = std::function<bool(FakeBroker&, const Heard&)>;   ///< true = dealt with; false = the polite default

  explicit FakeBroker(std::string endpoint = "tcp://127.0.0.1:*") : wanted_(std::move(endpoint)) { open(); }
  ~FakeBroker() { close(); }

  std::string endpoint() const { return endpoint_; }
  void script(Script script) { const std::lock_guard lock(mutex_); script_ = std::move(script); }
  void set_term(Term term) { term_ = term; }
  void set_near_folder(std::string folder) { near_folder_ = std::move(folder); }   ///< before a client comes

  /// As if it had been killed and started again on the same port.
  void restart() {
    close();
    wanted_ = endpoint_;
    open();
  }
  void close() {
    if (!thread_.joinable()) return;
    asio::post(*io_, [this] { port_.reset(); keep_.reset(); io_->stop(); });
    thread_.join();
  }

  template <class M>
  void say(PeerId peer, const M& message, std::uint64_t id = 0, std::string body = {}) {
    port_->send(peer, wire::encode(message, id), body);
  }
  /// From the test's thread.
  void later(std::function<void()> work) { asio::post(*io_, std::move(work)); }

  template <class M>
  std::vector<M> all() {
    const std::lock_guard lock(mutex_);
    std::vector<M> out;
    for (const Heard& heard : heard_)
      if (const M* m = std::get_if<M>(&heard.message)) out.push_back(*m);
    return out;
  }
  /// Waits until `enough` holds over everything of this type that was said.
  template <class M>
  std::vector<M> wait_for(std::function<bool(const std::vector<M>&)> enough) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    for (;;) {
      auto got = all<M>();
      if (enough(got)) return got;
      std::unique_lock lock(mutex_);
      if (come_.wait_until(lock, until) == std::cv_status::timeout) {
        ADD_FAILURE() << "the client never said it: " << wire::TypeNumber<M>::name << ", heard " << got.size();
        return got;
      }
    }
  }
  PeerId last_peer() { const std::lock_guard lock(mutex_); return heard_.empty() ? PeerId{} : heard_.back().peer; }

 private:
  void open() {
    io_ = std::make_unique<asio::io_context>();
    keep_.emplace(io_->get_executor());
    net::RouterPort::Handlers handlers;
    handlers.received = [this](const net::Speaker& speaker, net::Packet&& packet) { received(speaker, std::move(packet)); };
    handlers.malformed = [](const net::Speaker&, Error) {};
    port_ = std::make_unique<net::RouterPort>(context_, *io_, std::move(handlers));
    net::RouterPort::Options options;
    options.endpoint = wanted_;
    options.insecure_role = net::Role::client;
    Result<std::string> bound = fail(Errc::port_in_use, "not tried", "");
    for (int i = 0; i < 200 && !bound; ++i) {   // the port of a socket closed a moment ago
      bound = port_->bind(options);
      if (!bound) std::this_thread::yield();
    }
    ASSERT_TRUE(bound) << bound.error().what;
    endpoint_ = *bound;
    thread_ = std::thread([this] { io_->run(); });
  }

  void received(const net::Speaker& speaker, net::Packet&& packet) {
    auto decoded = wire::decode(packet.head);
    ASSERT_TRUE(decoded) << decoded.error().what;
    Heard heard{speaker.peer, decoded->header, std::move(decoded->message), std::move(packet.body)};
    Script script;
    {
      const std::lock_guard lock(mutex_);
      script = script_;
      heard_.push_back(heard);   // before the answer: who has the answer may ask what was heard
    }
    if (!script || !script(*this, heard)) polite(heard);
    const std::lock_guard lock(mutex_);
    come_.notify_all();
  }

  void polite(const Heard& heard) {
    const std::uint64_t id = heard.header.id;
    if (std::holds_alternative<wire::ClientHello>(heard.message)) {
      wire::ClientWelcome welcome;
      welcome.term = term_, welcome.beat_ms = 100, welcome.blob_chunk_bytes = 4096, welcome.protocol = 1, welcome.near = near_folder_;
      say(heard.peer, welcome, id);
    } else if (const auto* beat = std::get_if<wire::Beat>(&heard.message)) {
      say(heard.peer, wire::BeatReply{beat->sent_us, term_}, id);
    } else if (const auto* submit = std::get_if<wire::Submit>(&heard.message)) {
      wire::Submitted answer;
      for (const auto& item : submit->items) answer.items.push_back({.id = item.id, .ok = true, .existing = false, .code = {}, .what = {}, .next = {}});
      say(heard.peer, answer, id);
    } else if (std::holds_alternative<wire::Watch>(heard.message)) {
      say(heard.peer, wire::Watched{}, id);
    }
  }

  std::string wanted_, endpoint_, near_folder_;
  net::Context context_;
  std::unique_ptr<asio::io_context> io_;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> keep_;
  std::unique_ptr<net::RouterPort> port_;
  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable come_;
  std::vector<Heard> heard_;
  Script script_;
  std::atomic<Term> term_{1};
};

inline gpuq::Options options_for(const std::string& endpoint, std::chrono::milliseconds timeout = 15s) {
  gpuq::Options options;
  options.broker = endpoint;
  options.insecure = true;
  options.timeout = timeout;
  return options;
}
inline gpuq::JobSpec echo() {
  gpuq::JobSpec spec;
  spec.kind = "echo";
  return spec;
}
inline wire::Notify succeeded(const JobId& job, std::string& body, const std::string& text = "hi") {
  wire::ResultBody result;
  result.parts.push_back({.name = "text", .media = "text/plain", .bytes = text, .blob = {}, .blob_bytes = 0, .share = {}});
  const std::string payload = wire::encode(result);
  body += payload;
  wire::Notify notify;
  notify.items.emplace_back();
  notify.items[0].id = job;
  notify.items[0].state = static_cast<std::uint8_t>(JobState::succeeded);
  notify.items[0].attempt = 1;
  notify.items[0].payload_bytes = static_cast<std::uint32_t>(payload.size());
  return notify;
}
template <class T>
T within(std::future<T>& future) {
  if (future.wait_for(kPatience) != std::future_status::ready) throw std::runtime_error("the future never became ready");
  return future.get();
}
inline std::string code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const gpuq::Error& error) {
    return error.code();
  }
  return "no error";
}

}  // namespace gq

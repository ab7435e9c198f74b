// engine.cpp - the loop: inbox, link, questions and answers.
#include "client/lib/engine.h"

#include <csignal>
#include <deque>
#include <random>

#include "client/lib/convert.h"
#include "client/lib/version.h"
#include "common/net/asio.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/net/socket.h"

namespace gq::client {

Instant steady_now() {
  return Instant{std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch())};
}

struct Engine::Io {
  asio::io_context loop{1};
  asio::executor_work_guard<asio::io_context::executor_type> keep{loop.get_executor()};
  asio::steady_timer timer{loop};
  asio::steady_timer unstick{loop};
  net::Context context;
  std::shared_ptr<net::DealerPort> port;
  std::uint64_t generation{0};                       // handlers of an earlier socket are deaf
  std::deque<net::Packet> outbox;                    // the socket said "stuck": keep order, try again soon
  bool unsticking{false};
};

Engine::Engine(Settings settings)
    : settings_(std::move(settings)), link_(LinkTiming{}, std::random_device{}() | (std::uint64_t{std::random_device{}()} << 32U)),
      io_(std::make_unique<Io>()) {}

Engine::~Engine() { stop(); }

void Engine::start(Hooks hooks) {
  hooks_ = std::move(hooks);
  // Signals belong to the program: this thread takes none.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] {
    trying_since_ = steady_now();
    perform(link_.start(trying_since_));
    arm(true);
    io_->loop.run();
    io_->port.reset();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Engine::stop() {
  if (stopped_ || !thread_.joinable()) return;
  stopped_ = true;
  asio::post(io_->loop, [this] {
    drain_inbox();
    fail_everything({Errc::cancelled, "the client was closed", ""});
    if (hooks_.flush) hooks_.flush();
    if (link_.up()) send(wire::encode(wire::Goodbye{"closing"}), {});
    close_socket();
    asio::post(io_->loop, [this] { io_->loop.stop(); });
  });
  thread_.join();
  connected_ = false;
}

void Engine::post(std::function<void()> work) {
  bool first = false;
  {
    const std::lock_guard lock(inbox_mutex_);
    first = inbox_.empty();
    inbox_.push_back(std::move(work));
  }
  if (first) asio::post(io_->loop, [this] { drain_inbox(); turn_end(); });   // one wake-up however many callers came
}

void Engine::drain_inbox() {
  {
    const std::lock_guard lock(inbox_mutex_);
    inbox_work_.swap(inbox_);
  }
  for (auto& work : inbox_work_) work();
  inbox_work_.clear();
}

void Engine::turn_end() {
  if (hooks_.flush) hooks_.flush();
}

void Engine::enter(std::uint64_t id, std::string head, std::string body, Duration timeout, Reply reply, bool stream) {
  const Instant now = steady_now();
  Asked& asked = asked_[id];
  asked.head = std::move(head);
  asked.body = std::move(body);
  asked.reply = std::move(reply);
  asked.stream = stream;
  asked.deadline = now + timeout;
  if (!stream) dues_.push({link_.ever_welcomed() ? asked.deadline : now + std::min(timeout, settings_.connect_timeout), id});
  if (link_.up()) send(asked.head, asked.body);
}

void Engine::send(std::string_view head, std::string_view body) {
  if (!io_->port) return;
  link_.sent(steady_now());
  if (io_->outbox.empty()) {
    const net::SendOutcome outcome = io_->port->send(head, body);
    if (outcome != net::SendOutcome::stuck) return;   // gone: the monitor says so too, and resume() sends it again
  }
  io_->outbox.push_back({std::string(head), std::string(body)});
  if (io_->unsticking) return;
  io_->unsticking = true;
  io_->unstick.expires_after(std::chrono::milliseconds(2));
  io_->unstick.async_wait([this](ErrorCode error) {
    io_->unsticking = false;
    if (error) return;
    while (!io_->outbox.empty() && io_->port) {
      if (io_->port->send(io_->outbox.front().head, io_->outbox.front().body) == net::SendOutcome::stuck) break;
      io_->outbox.pop_front();
    }
    if (io_->outbox.empty()) return;
    net::Packet again = std::move(io_->outbox.front());   // re-arm through the same door, order kept
    io_->outbox.pop_front();
    std::deque<net::Packet> rest;
    rest.swap(io_->outbox);
    send(again.head, again.body);
    for (auto& packet : rest) io_->outbox.push_back(std::move(packet));
  });
}

void Engine::perform(const LinkActions& actions) {
  for (const LinkAction& action : actions) {
    switch (action.kind) {
      case LinkAction::open: open_socket(); break;
      case LinkAction::close: close_socket(); break;
      case LinkAction::hello:
        hello_id_ = ++last_id_;
        send(wire::encode(wire::ClientHello{settings_.name, kVersion, wire::kProtocolVersion, net::is_loopback(settings_.endpoint)}, hello_id_), {});
        break;
      case LinkAction::beat: {
        const auto us = static_cast<std::uint64_t>(steady_now().time_since_epoch().count());
        send(wire::encode(wire::Beat{us}, ++last_id_), {});
        break;
      }
      case LinkAction::resume: resume(); break;
      case LinkAction::rewatch:
        if (hooks_.term_changed) hooks_.term_changed();
        break;
      case LinkAction::fail_all: fail_everything(action.error); break;
    }
  }
  connected_ = link_.up();
}

void Engine::open_socket() {
  const std::uint64_t mine = ++io_->generation;
  const auto current = [this, mine] { return io_->generation == mine && io_->port; };
  net::DealerPort::Handlers handlers;
  handlers.received = [this, current](net::Packet&& packet) { if (current()) received(std::move(packet)); };
  handlers.drained = [this, current] { if (current()) turn_end(); };
  handlers.connected = [this, current] { if (current()) perform(link_.connected(steady_now())); };
  handlers.disconnected = [this, current] { if (current()) perform(link_.disconnected(steady_now())); };
  handlers.refused = [this, current](Error error) { if (current()) perform(link_.refused(steady_now(), error)); };
  io_->port = std::make_shared<net::DealerPort>(io_->context, io_->loop, std::move(handlers));
  net::DealerPort::Options options;
  options.endpoint = settings_.endpoint;
  options.access = settings_.access.get();
  if (auto ok = io_->port->connect(options); !ok) perform(link_.refused(steady_now(), ok.error()));
}

void Engine::close_socket() {
  ++io_->generation;
  io_->outbox.clear();
  if (!io_->port) return;
  // We may be inside one of its handlers: it dies on the next turn.
  asio::post(io_->loop, [old = std::move(io_->port)]() mutable { old->close(); old.reset(); });
  io_->port.reset();
}

void Engine::resume() {
  connected_ = true;
  for (const auto& [id, asked] : asked_) send(asked.head, asked.body);
  if (hooks_.resumed) hooks_.resumed();
}

void Engine::received(net::Packet&& packet) {
  const Instant now = steady_now();
  link_.heard(now);
  auto decoded = wire::decode(packet.head);
  if (!decoded) {
    if (decoded.error().code == Errc::protocol) perform(link_.refused(now, decoded.error()));
    return;   // a broken message is dropped; whoever waits for it has a deadline, or is watched again
  }
  wire::Message& message = decoded->message;
  const std::uint64_t id = decoded->header.id;
  if (auto* notify = std::get_if<wire::Notify>(&message)) {
    if (hooks_.notify) hooks_.notify(std::move(*notify), std::move(packet.body));
    return;
  }
  if (auto* welcome = std::get_if<wire::ClientWelcome>(&message)) {
    if (welcome->blob_chunk_bytes != 0)
      chunk_bytes_ = std::clamp<std::size_t>(static_cast<std::size_t>(welcome->blob_chunk_bytes), 4096, kLimits.frame_bytes_max);
    near_folder_ = std::move(welcome->near);
    perform(link_.welcomed(now, welcome->term, std::chrono::milliseconds(welcome->beat_ms)));
    return;
  }
  if (auto* beat = std::get_if<wire::BeatReply>(&message)) return perform(link_.term_seen(beat->term));
  const auto it = asked_.find(id);
  if (auto* failure = std::get_if<wire::Failure>(&message)) {
    const Error error = from_failure(*failure);
    if (id == hello_id_ && error.code == Errc::unavailable) return perform(link_.disconnected(now));   // it still reads its image: back-off
    const bool about_us = id == hello_id_ || error.code == Errc::key_refused;
    if (about_us) return perform(link_.refused(now, error));
    if (it == asked_.end()) return;
    Reply reply = std::move(it->second.reply);
    asked_.erase(it);
    return reply(tl::unexpected(error));
  }
  if (it == asked_.end()) return;   // answered before, or its asker has left
  if (it->second.stream) {
    const Reply reply = it->second.reply;   // a copy: the handler may forget() it
    return reply(Answer{std::move(message), std::move(packet.body)});
  }
  Reply reply = std::move(it->second.reply);
  asked_.erase(it);
  reply(Answer{std::move(message), std::move(packet.body)});
}

void Engine::fail_everything(const Error& error) {
  std::map<std::uint64_t, Asked> asked;
  asked.swap(asked_);   // a reply may ask again: that is a new question
  for (auto& [id, question] : asked) question.reply(tl::unexpected(error));
  if (hooks_.failed) hooks_.failed(error);
}

Error Engine::late(const std::string& what) const {
  if (link_.up()) return {Errc::timed_out, what + " was not answered in time", "gpuq status; a longer --timeout or Options::timeout"};
  if (const auto& refusal = link_.last_refusal()) return *refusal;
  return {Errc::unreachable, "no broker answers at " + settings_.endpoint, "start one with: gpuq up   (or check the address: gpuq doctor)"};
}

void Engine::expire(Instant now) {
  while (!dues_.empty() && dues_.top().at <= now) {
    const std::uint64_t id = dues_.top().id;
    dues_.pop();
    const auto it = asked_.find(id);
    if (it == asked_.end()) continue;
    if (link_.ever_welcomed() && it->second.deadline > now) {
      dues_.push({it->second.deadline, id});
      continue;
    }
    Reply reply = std::move(it->second.reply);
    asked_.erase(it);
    reply(tl::unexpected(late("the request")));
  }
}

void Engine::tick() {
  const Instant now = steady_now();
  perform(link_.tick(now));
  expire(now);
  if (!link_.ever_welcomed() && now - trying_since_ >= settings_.connect_timeout) {
    if (hooks_.failed) hooks_.failed(late("connecting"));
    trying_since_ = now;
  }
  bool busy = !asked_.empty() || !link_.up();
  if (hooks_.tick) busy = hooks_.tick(now) || busy;
  turn_end();
  arm(busy);
}

void Engine::arm(bool busy) {
  io_->timer.expires_after(std::chrono::milliseconds(busy ? 25 : 200));
  io_->timer.async_wait([this](ErrorCode error) { if (!error) tick(); });
}

}  // namespace gq::client

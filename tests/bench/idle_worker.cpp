#include "tests/bench/idle_worker.h"

#include <future>
#include <stdexcept>
#include <thread>
#include <variant>

#include "broker/core/events.h"
#include "common/net/keys.h"
#include "common/net/port.h"
#include "common/wire/codec.h"
#include "common/wire/job_body.h"

namespace gq::bench {

using Clock = std::chrono::steady_clock;

struct IdleWorker::State {
  net::AccessFile access;
  std::string endpoint;
  asio::io_context io;
  std::atomic<Clock::rep> assigned{0};
  std::promise<void> welcomed;
  bool was_welcomed = false;
  std::unique_ptr<net::Context> context;
  std::unique_ptr<net::DealerPort> port;
  std::unique_ptr<asio::steady_timer> beat;
  std::uint64_t last_number = 0, done = 0, next_request = 1;
  std::thread thread;

  void say_hello() {
    wire::WorkerHello hello;
    hello.name = access.name;
    hello.instance = 1;
    hello.version = "bench";
    hello.host = "bench";
    hello.kinds = {"echo"};
    hello.lanes = {wire::Lane{0, static_cast<std::uint8_t>(core::LaneKind::slots), {}, {}}};
    hello.credit = {wire::Credit{0, 64}};
    port->send(wire::encode(hello, next_request++));
  }
  void say_beat() {
    wire::WorkerBeat message;
    message.last_number = last_number;
    port->send(wire::encode(message, next_request++));
    beat->expires_after(std::chrono::seconds(1));
    beat->async_wait([this](ErrorCode ec) {
      if (!ec) say_beat();
    });
  }
  void received(net::Packet&& packet) {
    const auto now = Clock::now();
    const auto decoded = wire::decode(packet.head);
    if (!decoded) return;
    if (std::holds_alternative<wire::WorkerWelcome>(decoded->message)) {
      if (!std::exchange(was_welcomed, true)) welcomed.set_value();
    } else if (const auto* assign = std::get_if<wire::Assign>(&decoded->message)) {
      assigned.store(now.time_since_epoch().count());
      wire::Ended ended;
      std::string payload;
      const std::string result = wire::encode(wire::ResultBody{});
      for (const wire::AssignItem& item : assign->items) {
        last_number = item.number;
        wire::EndedItem end;
        end.grant = item.grant;
        end.outcome = static_cast<std::uint8_t>(Outcome::succeeded);
        end.started = true;
        end.payload_bytes = static_cast<std::uint32_t>(result.size());
        payload += result;
        ended.items.push_back(end);
        ++done;
      }
      port->send(wire::encode(ended, next_request++), payload);
      wire::Pull pull;
      pull.credit = {wire::Credit{0, done + 64}};
      port->send(wire::encode(pull, next_request++));
    }
  }
};

IdleWorker::IdleWorker(const std::string& endpoint, const std::string& access_file) : state_(std::make_unique<State>()) {
  const auto access = net::read_access_file(access_file);
  if (!access) throw std::runtime_error(access.error().what);
  state_->access = *access;
  state_->endpoint = endpoint;
  auto ready = state_->welcomed.get_future();
  state_->thread = std::thread([this] {
    State& s = *state_;
    s.context = std::make_unique<net::Context>();
    s.port = std::make_unique<net::DealerPort>(*s.context, s.io, net::DealerPort::Handlers{
        [&s](net::Packet&& p) { s.received(std::move(p)); }, [] {}, [&s] { s.say_hello(); }, [] {}, [](Error) {}});
    s.beat = std::make_unique<asio::steady_timer>(s.io);
    net::DealerPort::Options options;
    options.endpoint = s.endpoint;
    options.access = &s.access;
    if (!s.port->connect(options)) return;
    s.say_beat();
    s.io.run();
    s.beat.reset();
    s.port.reset();
    s.context.reset();
  });
  if (ready.wait_for(std::chrono::seconds(15)) != std::future_status::ready) {
    state_->io.stop();
    state_->thread.join();
    throw std::runtime_error("the broker did not welcome the bench worker within 15 s");
  }
}

IdleWorker::~IdleWorker() {
  state_->io.stop();
  state_->thread.join();
}

Clock::time_point IdleWorker::last_assigned() const { return Clock::time_point(Clock::duration(state_->assigned.load())); }

}  // namespace gq::bench

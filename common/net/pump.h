// pump.h - one ZeroMQ socket's turns inside an Asio loop. Internal to common/net.
//
// The descriptor of a ZeroMQ socket is edge-triggered and "readable" only means "look at ZMQ_EVENTS now"; any call on the socket,
// a send too, may eat the edge. So one rule: the last call on the socket before waiting is a read of ZMQ_EVENTS that shows
// nothing to do, and whoever sends calls schedule(). The descriptor belongs to libzmq: it is released, never closed.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "common/net/asio.h"
#include "common/net/socket.h"

namespace gq::net {

class Pump : public std::enable_shared_from_this<Pump> {
 public:
  enum class Turn { empty, more };  ///< a receive said EAGAIN | the turn's budget is spent

  Pump(asio::io_context& io, zmq::socket_ref socket, std::function<Turn()> turn)
      : io_(io), socket_(socket), turn_(std::move(turn)), fd_(io, descriptor(socket)) {}

  /// Run a turn soon. After every send outside a turn, and once at the start.
  void schedule() {
    if (posted_ || running_ || stopped_ || paused_) return;
    posted_ = true;
    asio::post(io_, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) {
        self->posted_ = false;
        self->run();
      }
    });
  }
  void pause(bool paused) {
    paused_ = paused;
    schedule();
  }
  /// Before the socket is closed.
  void stop() {
    if (stopped_) return;
    stopped_ = true;
    fd_.release();
  }
  [[nodiscard]] bool stopped() const { return stopped_; }

 private:
  static int descriptor(zmq::socket_ref socket) {
    int fd = -1;
    check(errno_of([&] { fd = socket.get(zmq::sockopt::fd); }) == 0, "a ZeroMQ socket has no descriptor");
    return fd;
  }
  bool readable() {
    int events = 0;
    errno_of([&] { events = socket_.get(zmq::sockopt::events); });  // ETERM: nothing more to come
    return (events & ZMQ_POLLIN) != 0;
  }
  void run() {
    if (stopped_ || paused_ || running_) return;
    const auto keep = shared_from_this();
    running_ = true;
    const Turn turn = turn_();
    running_ = false;
    if (stopped_ || paused_) return;
    if (turn == Turn::more || readable()) return schedule();  // others get their turn in between
    if (armed_) return;
    armed_ = true;
    fd_.async_wait(asio::posix::stream_descriptor::wait_read, [weak = weak_from_this()](ErrorCode failed) {
      const auto self = weak.lock();
      if (!self) return;
      self->armed_ = false;
      if (!failed) self->run();
    });
  }

  asio::io_context& io_;
  zmq::socket_ref socket_;
  const std::function<Turn()> turn_;  // holds its owner weakly; a turn in progress keeps it alive
  asio::posix::stream_descriptor fd_;
  bool posted_{}, armed_{}, running_{}, paused_{}, stopped_{};
};

/// A turn that keeps `state` alive while it runs (a handler may destroy the port) and does nothing once it is gone.
template <class State>
std::function<Pump::Turn()> turn_of(const std::shared_ptr<State>& state, Pump::Turn (State::*turn)()) {
  return [weak = std::weak_ptr<State>(state), turn] {
    const auto alive = weak.lock();
    return alive ? ((*alive).*turn)() : Pump::Turn::empty;
  };
}

}  // namespace gq::net

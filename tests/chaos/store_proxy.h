// store_proxy.h - a link to Redis that a test can hold, mute and cut: between the store and the server's unix socket, in one loop.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/net/asio.h"

namespace gq::test {

class Proxy {
 public:
  Proxy(asio::io_context& io, std::string path, std::string server)
      : io_(io), path_(std::move(path)), server_(std::move(server)), acceptor_(io, asio::local::stream_protocol::endpoint(path_)) {
    accept();
  }
  ~Proxy() { *alive_ = false; }

  bool hold_requests{};   ///< what the store sends is kept, not delivered
  bool mute_replies{};    ///< what Redis answers is thrown away
  bool refuse{};          ///< new connections are closed at once

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::size_t bytes_down() const { return bytes_down_; }
  [[nodiscard]] std::size_t held_bytes() const {
    std::size_t n = 0;
    for (const auto& link : links_) n += link->held.size();
    return n;
  }
  /// The store's end breaks; Redis' end stays open, with what is held, as with packets still in flight.
  void cut() {
    for (const auto& link : links_) {
      ErrorCode ignored;
      link->store.close(ignored);
    }
  }
  /// What was held arrives now, on the connections it was sent on.
  void release_held() {
    hold_requests = false;
    for (const auto& link : links_) {
      if (!link->held.empty()) asio::write(link->redis, asio::buffer(link->held));
      link->held.clear();
    }
  }
  /// What Redis answered to a store that had gone.
  [[nodiscard]] const std::string& late_answers() const { return late_; }

 private:
  struct Link {
    explicit Link(asio::io_context& io) : store(io), redis(io) {}
    asio::local::stream_protocol::socket store, redis;
    char up[65536], down[65536];
    std::string held;
  };
  void accept() {
    const auto alive = alive_;
    auto link = std::make_shared<Link>(io_);
    acceptor_.async_accept(link->store, [this, alive, link](ErrorCode error) {
      if (error || !*alive) return;
      ErrorCode failed;
      if (!refuse) {
        link->redis.connect(asio::local::stream_protocol::endpoint(server_), failed);
        if (failed) link->store.close(failed);
        else links_.push_back(link), pump_up(link), pump_down(link);
      }
      accept();
    });
  }
  void pump_up(const std::shared_ptr<Link>& link) {
    const auto alive = alive_;
    link->store.async_read_some(asio::buffer(link->up), [this, alive, link](ErrorCode error, std::size_t n) {
      if (!*alive) return;
      ErrorCode ignored;
      if (error) {
        if (link->held.empty() && !hold_requests) link->redis.close(ignored);
        return;
      }
      if (hold_requests) link->held.append(link->up, n);
      else asio::write(link->redis, asio::buffer(link->up, n), ignored);
      pump_up(link);
    });
  }
  void pump_down(const std::shared_ptr<Link>& link) {
    const auto alive = alive_;
    link->redis.async_read_some(asio::buffer(link->down), [this, alive, link](ErrorCode error, std::size_t n) {
      if (!*alive) return;
      ErrorCode ignored;
      if (error) {
        link->store.close(ignored);
        return;
      }
      bytes_down_ += n;
      if (!link->store.is_open()) late_.append(link->down, n);
      else if (!mute_replies) asio::write(link->store, asio::buffer(link->down, n), ignored);
      pump_down(link);
    });
  }

  asio::io_context& io_;
  std::string path_, server_, late_;
  std::size_t bytes_down_{};
  asio::local::stream_protocol::acceptor acceptor_;
  std::vector<std::shared_ptr<Link>> links_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace gq::test

// door.cpp - Beast, kept in this one file.
#include "client/http/door.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "common/log.h"
#include "common/net/asio.h"
#include "common/net/tcp_listener.h"

#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

namespace gq::http {

namespace {
namespace beast = boost::beast;
namespace bhttp = boost::beast::http;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadBytes = 65536;   // Beast reads as much as its buffer holds already, and grows it from 512
constexpr auto kFarewell = std::chrono::seconds(1);   // for a refused body to be read off, so that its sender sees the reply

struct Event {
  int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  Event() { check(fd >= 0, "no eventfd"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { ::close(fd); }
};

}  // namespace

struct Door::State : std::enable_shared_from_this<Door::State> {
  State(asio::io_context& loop, Routes& r, DoorLimits l) : io(loop), routes(r), limits(l), acceptor(loop) {}

  struct Connection;
  void accept();
  void serve(std::shared_ptr<asio::io_context> own, tcp::socket socket);

  asio::io_context& io;
  Routes& routes;
  DoorLimits limits;
  tcp::acceptor acceptor;
  std::atomic<std::size_t> body_bytes{0};
  std::mutex mutex;
  std::condition_variable ended;
  std::set<int> sockets;
  std::size_t threads{};
  std::atomic<bool> closing{};
};

struct Door::State::Connection : Link {
  Connection(State& o, asio::io_context& l, tcp::socket socket) : owner(o), loop(l), stream(std::move(socket)), event(std::make_shared<Event>()) {
    buffer.reserve(kReadBytes);
    ErrorCode ignored;
    stream.socket().set_option(tcp::no_delay(true), ignored);
    const std::lock_guard lock(owner.mutex);
    owner.sockets.insert(descriptor());
    if (owner.closing) ::shutdown(descriptor(), SHUT_RDWR);
  }
  ~Connection() override {
    owner.body_bytes -= reserved;
    const std::lock_guard lock(owner.mutex);
    owner.sockets.erase(descriptor());   // before it is closed and means something else
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int descriptor() { return stream.socket().native_handle(); }

  /// Runs the one operation that was started.
  void run() {
    loop.restart();
    loop.run();
  }

  std::function<void()> wake() override {
    return [kept = event] {
      const std::uint64_t one = 1;
      [[maybe_unused]] const auto n = ::write(kept->fd, &one, sizeof one);   // full = it is awake already
    };
  }
  std::optional<bool> wait(const std::function<bool()>& ready, Clock::time_point until) override {
    for (;;) {
      if (ready()) return true;
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
      if (left <= 0) return false;
      pollfd fds[2] = {{descriptor(), POLLRDHUP, 0}, {event->fd, POLLIN, 0}};
      const int n = ::poll(fds, 2, static_cast<int>(std::min<long long>(left, 60'000)));
      if (n > 0 && (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0) return std::nullopt;
      std::uint64_t count = 0;
      if (n > 0 && (fds[1].revents & POLLIN) != 0) [[maybe_unused]] const auto got = ::read(event->fd, &count, sizeof count);
    }
  }

  bool write(Reply&& reply, bool keep, bool head, unsigned version) {
    bhttp::response<bhttp::string_body> response{static_cast<bhttp::status>(reply.status), version};
    response.set(bhttp::field::server, "gpuq");
    response.set(bhttp::field::content_type, reply.content_type);
    response.set(bhttp::field::cache_control, "no-store");
    for (auto& [name, value] : reply.headers) {   // some come from jobs: no control character ends a header early
      std::replace_if(value.begin(), value.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, '?');
      response.set(name, value);
    }
    response.keep_alive(keep);
    response.body() = std::move(reply.body);
    response.prepare_payload();
    if (head) response.body().clear();
    ErrorCode failed;
    stream.expires_after(owner.limits.idle);
    bhttp::async_write(stream, response, [&](ErrorCode error, std::size_t) { failed = error; });
    run();
    return !failed;
  }

  /// The rest of a body that nobody wants, for a moment: a reply that meets unread bytes is lost to a reset.
  void farewell() {
    ErrorCode ignored;
    stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
    stream.expires_after(kFarewell);
    char waste[65536];
    for (bool more = true; more;) {
      stream.async_read_some(asio::buffer(waste), [&](ErrorCode error, std::size_t) { more = !error; });
      run();
    }
  }

  /// nullopt: go on with the body.
  std::optional<Reply> admit(const bhttp::request_parser<bhttp::string_body>& parser, Request& request) {
    const auto& head = parser.get();
    request.method = std::string(head.method_string());
    request.content_type = std::string(head[bhttp::field::content_type]);
    request.authorization = std::string(head[bhttp::field::authorization]);
    request.idempotency_key = std::string(head["Idempotency-Key"]);
    auto target = read_target({head.target().data(), head.target().size()});
    if (!target) return Routes::failure(target.error());
    static_cast<Target&>(request) = std::move(*target);
    if (auto refused = owner.routes.admit(request)) return refused;
    const auto length = parser.content_length();
    if (length && *length > owner.limits.body_bytes_max) return too_large();
    reserved = length ? static_cast<std::size_t>(*length) : parser.chunked() ? owner.limits.body_bytes_max : 0;
    if ((owner.body_bytes += reserved) > owner.limits.bodies_bytes_max)
      return Routes::failure(Error{Errc::unavailable, "the bodies of other requests fill the memory set aside for them", "try again in a moment; gpuq-http --bodies-max"});
    return std::nullopt;
  }
  [[nodiscard]] Reply too_large() const {
    return Routes::failure(Error{Errc::too_large, "a request's body has at most " + std::to_string(owner.limits.body_bytes_max) + " bytes", "gpuq submit sends larger files piece by piece; or a share; or gpuq-http --body-max"});
  }

  void serve() {
    for (;;) {
      owner.body_bytes -= std::exchange(reserved, 0);
      bhttp::request_parser<bhttp::string_body> parser;
      parser.header_limit(static_cast<std::uint32_t>(owner.limits.header_bytes_max));
      parser.body_limit(owner.limits.body_bytes_max);
      ErrorCode failed;
      stream.expires_after(owner.limits.idle);
      bhttp::async_read_header(stream, buffer, parser, [&](ErrorCode error, std::size_t) { failed = error; });
      run();
      if (failed) {
        if (failed.category() != bhttp::make_error_code(bhttp::error::end_of_stream).category() || failed == bhttp::error::end_of_stream) return;   // it left, or was idle
        write(failed == bhttp::error::body_limit ? too_large()
                                                 : Routes::failure(Error{Errc::bad_message, "this is no HTTP/1.1 request: " + failed.message(), "GET /api/v1/openapi.json"}),
              false, false, 11);
        return farewell();
      }
      Request request;
      const unsigned version = parser.get().version();
      const bool head = parser.get().method() == bhttp::verb::head;
      if (auto refused = admit(parser, request)) {
        write(std::move(*refused), false, head, version);
        return farewell();
      }
      if (beast::iequals(parser.get()[bhttp::field::expect], "100-continue")) {
        bhttp::response<bhttp::empty_body> go_on{bhttp::status::continue_, version};
        stream.expires_after(owner.limits.idle);
        bhttp::async_write(stream, go_on, [&](ErrorCode error, std::size_t) { failed = error; });
        run();
        if (failed) return;
      }
      const auto until = Clock::now() + owner.limits.request;
      while (!parser.is_done() && !failed) {
        if (Clock::now() > until) return;
        stream.expires_after(owner.limits.idle);
        bhttp::async_read_some(stream, buffer, parser, [&](ErrorCode error, std::size_t) { failed = error; });
        run();
      }
      if (failed == bhttp::error::body_limit) {
        write(too_large(), false, head, version);
        return farewell();
      }
      if (failed) return;   // an upload that was cut: nothing was submitted
      const bool keep = parser.get().keep_alive() && !owner.closing;
      request.body = std::move(parser.get().body());
      Reply reply = owner.routes.answer(request, *this);
      if (reply.hung_up) return;
      if (!write(std::move(reply), keep, head, version) || !keep) return;
    }
  }

  State& owner;
  asio::io_context& loop;
  beast::tcp_stream stream;
  beast::flat_buffer buffer;
  std::shared_ptr<Event> event;
  std::size_t reserved{};
};

void Door::State::accept() {
  auto own = std::make_shared<asio::io_context>(1);
  acceptor.async_accept(*own, [self = shared_from_this(), own](ErrorCode error, tcp::socket socket) {
    if (error == asio::error::operation_aborted || !self->acceptor.is_open()) return;
    if (!error) self->serve(own, std::move(socket));
    self->accept();
  });
}

void Door::State::serve(std::shared_ptr<asio::io_context> own, tcp::socket socket) {
  {
    const std::lock_guard lock(mutex);
    if (threads >= limits.connections_max) {
      static constexpr std::string_view kFull = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
      ::send(socket.native_handle(), kFull.data(), kFull.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      return;
    }
    ++threads;
  }
  const auto ends = [self = shared_from_this()] {
    const std::lock_guard lock(self->mutex);
    --self->threads;
    self->ended.notify_all();
  };
  try {
    std::thread([self = shared_from_this(), own = std::move(own), socket = std::move(socket), ends]() mutable {
      try {
        Connection(*self, *own, std::move(socket)).serve();
      } catch (const std::exception& error) {   // no memory: this connection's end, not the door's
        log::error("connection_ended", {{"why", error.what()}});
      }
      ends();
    }).detach();
  } catch (const std::system_error& error) {
    ends();
    log::error("connection_refused", {{"why", error.what()}, {"next", "the machine gives no more threads: a smaller --connections-max"}});
  }
}

Door::Door(asio::io_context& io, Routes& routes, DoorLimits limits) : state_(std::make_shared<State>(io, routes, limits)) {}
Door::~Door() { close(); }

Result<std::string> Door::listen(const std::string& address) {
  auto bound = net::listen_tcp(state_->acceptor, address, "--listen");
  if (bound) state_->accept();
  return bound;
}

void Door::close() {
  State& s = *state_;
  ErrorCode ignored;
  s.acceptor.close(ignored);
  std::unique_lock lock(s.mutex);
  s.closing = true;
  for (const int fd : s.sockets) ::shutdown(fd, SHUT_RDWR);
  s.ended.wait(lock, [&] { return s.threads == 0; });
}

}  // namespace gq::http

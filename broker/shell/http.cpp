// http.cpp - Beast, kept in this one file.
#include "broker/shell/http.h"

#include <chrono>

#include "common/net/asio.h"
#include "common/net/tcp_listener.h"

#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

namespace gq::broker {

namespace {
namespace beast = boost::beast;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;

constexpr auto kPatience = std::chrono::seconds(5);
constexpr std::size_t kRequestBytesMax = 8192;
constexpr std::size_t kConnectionsMax = 64;
}  // namespace

struct Http::State : std::enable_shared_from_this<Http::State> {
  State(asio::io_context& loop, Pages p) : io(loop), pages(std::move(p)), acceptor(loop) {}

  struct Connection : std::enable_shared_from_this<Connection> {
    Connection(tcp::socket socket, std::shared_ptr<State> o) : stream(std::move(socket)), owner(std::move(o)) { ++owner->connections; }
    ~Connection() { --owner->connections; }

    void run() {
      parser.body_limit(kRequestBytesMax);
      parser.header_limit(kRequestBytesMax);
      stream.expires_after(kPatience);
      http::async_read(stream, buffer, parser, [self = shared_from_this()](ErrorCode error, std::size_t) {
        if (!error) self->answer();
      });
    }
    void answer() {
      const auto& request = parser.get();
      response.version(request.version());
      response.keep_alive(false);
      response.set(http::field::content_type, "text/plain; charset=utf-8");
      const auto path = request.target().substr(0, request.target().find('?'));
      if (request.method() != http::verb::get && request.method() != http::verb::head) {
        response.result(http::status::method_not_allowed);
        response.body() = "only GET\n";
      } else if (path == "/healthz") {
        const bool healthy = owner->pages.healthy();
        response.result(healthy ? http::status::ok : http::status::service_unavailable);
        response.body() = healthy ? "serving\n" : "not serving\n";
      } else if (path == "/metrics") {
        response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
        response.body() = owner->pages.metrics();
      } else {
        response.result(http::status::not_found);
        response.body() = "there are /healthz and /metrics\n";
      }
      response.prepare_payload();
      if (request.method() == http::verb::head) response.body().clear();
      stream.expires_after(kPatience);
      http::async_write(stream, response, [self = shared_from_this()](ErrorCode, std::size_t) {
        ErrorCode ignored;
        self->stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
      });
    }

    beast::tcp_stream stream;
    std::shared_ptr<State> owner;
    beast::flat_buffer buffer;
    http::request_parser<http::string_body> parser;
    http::response<http::string_body> response;
  };

  void accept() {
    acceptor.async_accept([self = shared_from_this()](ErrorCode error, tcp::socket socket) {
      if (error == asio::error::operation_aborted || !self->acceptor.is_open()) return;
      if (!error && self->connections < kConnectionsMax) std::make_shared<Connection>(std::move(socket), self)->run();
      self->accept();
    });
  }

  asio::io_context& io;
  Pages pages;
  tcp::acceptor acceptor;
  std::size_t connections{};
};

Http::Http(asio::io_context& io, Pages pages) : state_(std::make_shared<State>(io, std::move(pages))) {}
Http::~Http() { close(); }

Result<std::string> Http::listen(const std::string& address) {
  auto bound = net::listen_tcp(state_->acceptor, address, "--listen-http");
  if (bound) state_->accept();
  return bound;
}

void Http::close() {
  ErrorCode ignored;
  state_->acceptor.close(ignored);
}

}  // namespace gq::broker

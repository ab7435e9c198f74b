// redis_connection.cpp - tcp, tls and unix sockets behind one small stream type.
#include "broker/store/redis_connection.h"

#include <fcntl.h>
#include <sys/un.h>
#include <unistd.h>

#include <deque>
#include <optional>

#include "common/net/asio.h"
// clang-format off: after asio.h
#include <boost/asio/ssl.hpp>

namespace gq::store {

ReachablePath::ReachablePath(const std::string& path) : path_(path) {
  if (path.size() < sizeof(sockaddr_un{}.sun_path)) return;
  const auto slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  folder_ = ::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder_ >= 0) path_ = "/proc/self/fd/" + std::to_string(folder_) + "/" + path.substr(slash + 1);
}
ReachablePath::~ReachablePath() {
  if (folder_ >= 0) ::close(folder_);
}

namespace {

using Handler = std::function<void(ErrorCode, std::size_t)>;

struct Stream {
  virtual ~Stream() = default;
  virtual void connect(std::function<void(ErrorCode)> done) = 0;
  virtual void read(asio::mutable_buffer into, Handler done) = 0;
  virtual void write(asio::const_buffer from, Handler done) = 0;
  virtual void close() = 0;
};

struct UnixStream final : Stream {
  UnixStream(asio::io_context& io, const std::string& socket_path) : path(socket_path), socket(io) {}
  void connect(std::function<void(ErrorCode)> done) override {
    if (path.path().size() >= sizeof(sockaddr_un{}.sun_path))
      return asio::post(socket.get_executor(), [done] { done(asio::error::name_too_long); });
    socket.async_connect(asio::local::stream_protocol::endpoint(path.path()), std::move(done));
  }
  void read(asio::mutable_buffer into, Handler done) override { socket.async_read_some(into, std::move(done)); }
  void write(asio::const_buffer from, Handler done) override { asio::async_write(socket, from, std::move(done)); }
  void close() override {
    ErrorCode ignored;
    socket.close(ignored);
  }
  ReachablePath path;
  asio::local::stream_protocol::socket socket;
};

/// TCP, with or without TLS over it.
struct TcpStream final : Stream {
  TcpStream(asio::io_context& io, const RedisOptions& o)
      : options(o), resolver(io), context(asio::ssl::context::tls_client), stream(io, prepared(context, o)) {}

  static asio::ssl::context& prepared(asio::ssl::context& context, const RedisOptions& options) {
    if (!options.address.tls) return context;
    ErrorCode ignored;   // a CA file that cannot be read shows as a failed handshake
    if (options.ca_file.empty()) context.set_default_verify_paths(ignored);
    else context.load_verify_file(options.ca_file, ignored);
    context.set_verify_mode(options.tls_verify ? asio::ssl::verify_peer : asio::ssl::verify_none, ignored);
    return context;
  }
  void connect(std::function<void(ErrorCode)> done) override {
    resolver.async_resolve(options.address.host, std::to_string(options.address.port),
                           [this, done](ErrorCode error, const asio::ip::tcp::resolver::results_type& found) {
                             if (error) return done(error);
                             asio::async_connect(stream.next_layer(), found, [this, done](ErrorCode failed, const auto&) {
                               if (failed) return done(failed);
                               ErrorCode ignored;
                               stream.next_layer().set_option(asio::ip::tcp::no_delay(true), ignored);
                               if (!options.address.tls) return done({});
                               SSL_set_tlsext_host_name(stream.native_handle(), options.address.host.c_str());
                               if (options.tls_verify)
                                 stream.set_verify_callback(asio::ssl::host_name_verification(options.address.host));
                               stream.async_handshake(asio::ssl::stream_base::client, done);
                             });
                           });
  }
  void read(asio::mutable_buffer into, Handler done) override {
    if (options.address.tls) stream.async_read_some(into, std::move(done));
    else stream.next_layer().async_read_some(into, std::move(done));
  }
  void write(asio::const_buffer from, Handler done) override {
    if (options.address.tls) asio::async_write(stream, from, std::move(done));
    else asio::async_write(stream.next_layer(), from, std::move(done));
  }
  void close() override {
    ErrorCode ignored;
    resolver.cancel();
    stream.next_layer().close(ignored);
  }
  RedisOptions options;
  asio::ip::tcp::resolver resolver;
  asio::ssl::context context;
  asio::ssl::stream<asio::ip::tcp::socket> stream;
};

}  // namespace

struct RedisConnection::State : std::enable_shared_from_this<RedisConnection::State> {
  State(asio::io_context& loop, const RedisOptions& o) : io(loop), options(o), watchdog(loop), input(256 << 10) {
    if (options.address.host.empty()) stream = std::make_unique<UnixStream>(loop, options.address.socket_path);
    else stream = std::make_unique<TcpStream>(loop, options);
  }

  struct Request {
    std::size_t replies;
    std::vector<Reply> got;
    Replies done;
  };

  void start() {
    watch();
    stream->connect([self = shared_from_this()](ErrorCode error) {
      if (self->closed) return;
      if (error) return self->fail_with("cannot connect to " + self->options.address.describe() + ": " + error.message());
      self->open = true;
      self->heard = true;
      self->read();
      const auto connected = std::move(self->on_connected);
      connected();
      self->flush();
    });
  }

  void send(std::string bytes, std::size_t replies, Replies done) {
    if (closed) return;
    if (requests.empty()) heard = true;   // the clock of silence starts with the question
    requests.push_back({replies, {}, std::move(done)});
    requests.back().got.reserve(replies);
    if (pend.empty()) pend = std::move(bytes);
    else pend += bytes;
    flush();
  }

  void flush() {
    if (!open || writing || pend.empty() || closed) return;
    writing = true;
    wire = std::move(pend);
    pend.clear();
    written += wire.size();
    stream->write(asio::buffer(wire), [self = shared_from_this()](ErrorCode error, std::size_t) {
      if (self->closed) return;
      if (error) return self->fail_with("link to " + self->options.address.describe() + " lost: " + error.message());
      self->writing = false;
      self->heard = true;
      self->flush();
    });
  }

  void read() {
    stream->read(asio::buffer(input), [self = shared_from_this()](ErrorCode error, std::size_t n) {
      if (self->closed) return;
      if (error) return self->fail_with("link to " + self->options.address.describe() + " lost: " + error.message());
      self->heard = true;
      self->received += n;
      self->reader.feed({self->input.data(), n});
      if (self->deliver() && !self->closed) self->read();
    });
  }

  /// False when the connection is over.
  bool deliver() {
    while (!closed) {
      auto reply = reader.next();
      if (!reply) return fail_with(reply.error().what, reply.error().code), false;
      if (!*reply) return true;
      if (requests.empty()) return fail_with("Redis sent a reply to nothing", Errc::protocol), false;
      Request& front = requests.front();
      front.got.push_back(std::move(**reply));
      if (front.got.size() < front.replies) continue;
      Request whole = std::move(front);
      requests.pop_front();
      whole.done(std::move(whole.got));   // may send, may close
    }
    return false;
  }

  /// Twice per span of silence: was anything heard since the last look, while something is owed?
  void watch() {
    watchdog.expires_after(options.silence / 2);
    watchdog.async_wait([self = shared_from_this()](ErrorCode error) {
      if (error || self->closed) return;
      const bool owed = !self->open || !self->requests.empty();
      self->quiet = owed && !self->heard ? self->quiet + 1 : 0;
      self->heard = false;
      if (self->quiet >= 2)
        return self->fail_with(self->options.address.describe() + " has not answered for " +
                               std::to_string(self->options.silence.count()) + " ms");
      self->watch();
    });
  }

  void fail_with(std::string what, Errc code = Errc::unavailable) {
    if (closed) return;
    const auto lost = std::move(on_lost);
    close();
    if (lost)
      lost({code, std::move(what),
            options.managed ? "gpuq starts its redis-server again" : "is Redis running there? gpuq keeps trying"});
  }

  void close() {
    closed = true;
    stream->close();
    watchdog.cancel();
    requests.clear();
    on_connected = nullptr;
    on_lost = nullptr;
  }

  asio::io_context& io;
  RedisOptions options;
  asio::steady_timer watchdog;
  std::unique_ptr<Stream> stream;
  std::function<void()> on_connected;
  std::function<void(Error)> on_lost;
  ReplyReader reader;
  std::deque<Request> requests;
  std::string pend, wire;
  std::vector<char> input;
  std::uint64_t written{}, received{};
  bool open{}, closed{}, writing{}, heard{true};
  int quiet{};
};

RedisConnection::RedisConnection(asio::io_context& io, const RedisOptions& options)
    : state_(std::make_shared<State>(io, options)) {}
RedisConnection::~RedisConnection() {
  if (!state_->closed) state_->close();
}
void RedisConnection::connect(std::function<void()> connected, std::function<void(Error)> lost) {
  state_->on_connected = std::move(connected);
  state_->on_lost = std::move(lost);
  state_->start();
}
void RedisConnection::send(std::string bytes, std::size_t replies, Replies done) {
  state_->send(std::move(bytes), replies, std::move(done));
}
std::uint64_t RedisConnection::bytes_written() const { return state_->written; }
std::uint64_t RedisConnection::bytes_read() const { return state_->received; }

}  // namespace gq::store

#include "broker/store/sentinel.h"

#include <charconv>
#include <utility>

#include "broker/store/command.h"
#include "common/net/asio.h"

namespace gq::store {

SentinelLookup::SentinelLookup(asio::io_context& io, const RedisOptions& options, std::function<void(Result<RedisAddress>)> done)
    : io_(io), options_(options), done_(std::move(done)) {
  ask();
}
SentinelLookup::~SentinelLookup() { *alive_ = false; }

void SentinelLookup::ask() {
  const RedisAddress::Sentinel& sentinel = options_.address.sentinels[at_];
  RedisOptions there;
  there.address.host = sentinel.host;
  there.address.port = sentinel.port;
  there.silence = options_.sentinel_patience;
  connection_ = std::make_unique<RedisConnection>(io_, there);
  connection_->connect(
      [this] {
        CommandBuffer commands;
        commands.add("SENTINEL", "get-master-addr-by-name", options_.address.primary);
        connection_->send(commands.take(), 1, [this](std::vector<Reply> replies) {
          const Reply& reply = replies[0];
          std::uint16_t port = 0;
          if (reply.is(Reply::Type::array) && reply.items.size() == 2) {
            const std::string& text = reply.items[1].text;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
            if (error == std::errc{} && end == text.data() + text.size() && port != 0) {
              RedisAddress found = options_.address;
              found.host = reply.items[0].text;
              found.port = port;
              return answer(std::move(found));
            }
          }
          unknown_ = unknown_ || !reply.is(Reply::Type::error);
          next(reply.is(Reply::Type::error) ? reply.text : "knows no primary '" + options_.address.primary + "'");
        });
      },
      [this](const Error& why) { next(why.what); });
}

void SentinelLookup::next(const std::string& why) {
  const RedisAddress::Sentinel& sentinel = options_.address.sentinels[at_];
  troubles_ += (troubles_.empty() ? "" : "; ") + sentinel.host + ":" + std::to_string(sentinel.port) + ": " + why;
  if (++at_ < options_.address.sentinels.size())   // not from inside the connection's own callback
    return asio::post(io_, [this, alive = alive_] {
      if (*alive) ask();
    });
  if (unknown_) return answer(fail(Errc::usage, "the sentinels know no primary '" + options_.address.primary + "' (" + troubles_ + ")", "redis-cli -p 26379 SENTINEL masters"));
  answer(fail(Errc::unavailable, "no sentinel answers (" + troubles_ + ")", "are the sentinels running? gpuq keeps asking"));
}

void SentinelLookup::answer(Result<RedisAddress> result) {
  asio::post(io_, [this, alive = alive_, result = std::move(result)]() mutable {
    if (!*alive) return;
    const auto done = std::exchange(done_, nullptr);   // it may destroy us, and with us what it has captured
    done(std::move(result));
  });
}

}  // namespace gq::store

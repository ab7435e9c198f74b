// redis_address.cpp - where Redis listens, from text and to text.
#include <charconv>

#include "broker/store/redis_store.h"

namespace gq::store {

std::optional<Durability> parse_durability(std::string_view text) {
  if (text == "always") return Durability::always;
  if (text == "everysec") return Durability::everysec;
  return std::nullopt;
}

std::string RedisAddress::describe() const {
  if (!sentinels.empty() && host.empty()) {
    std::string all;
    for (const Sentinel& s : sentinels) all += (all.empty() ? "" : ",") + s.host + ":" + std::to_string(s.port);
    return "redis primary '" + primary + "' of sentinels " + all;
  }
  if (host.empty()) return "unix://" + socket_path;
  const bool six = host.find(':') != std::string::npos;
  return (tls ? "rediss://" : "redis://") + (six ? "[" + host + "]" : host) + ":" + std::to_string(port) +
         (database != 0 ? "/" + std::to_string(database) : "");
}

namespace {

bool number(std::string_view text, auto& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size() && !text.empty();
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size() + 0 &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16).ptr == text.data() + i + 3) {
      out.push_back(static_cast<char>(value));
      i += 2;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace

Result<RedisAddress> parse_redis_url(std::string_view url) {
  RedisAddress address;
  const auto bad = [&](const std::string& why) {
    return fail(Errc::usage, "the Redis address cannot be read: " + why,
                "redis://host:6379, rediss://user:password@host/0, unix:///path or redis-sentinel://host1,host2,host3#mymaster");
  };
  bool by_sentinels = false;
  if (url.starts_with("unix://")) url.remove_prefix(7);
  if (url.starts_with('/') || url.starts_with("./")) {
    address.socket_path = url;
    return address;
  }
  if (url.starts_with("redis-sentinel://")) by_sentinels = true, url.remove_prefix(17);
  else if (url.starts_with("rediss-sentinel://")) by_sentinels = address.tls = true, url.remove_prefix(18);
  else if (url.starts_with("rediss://")) address.tls = true, url.remove_prefix(9);
  else if (url.starts_with("redis://")) url.remove_prefix(8);
  else return bad("it begins with none of redis://, rediss://, redis-sentinel://, unix://, /");
  if (by_sentinels) {
    const auto hash = url.find('#');
    if (hash == std::string_view::npos || hash + 1 == url.size()) return bad("the name of the primary is missing behind #");
    address.primary = url.substr(hash + 1);
    url = url.substr(0, hash);
  }
  if (const auto at = url.rfind('@'); at != std::string_view::npos) {
    const auto credentials = url.substr(0, at);
    url.remove_prefix(at + 1);
    const auto colon = credentials.find(':');
    if (colon == std::string_view::npos) return bad("user:password@ needs a colon");
    address.user = percent_decoded(credentials.substr(0, colon));
    address.password = percent_decoded(credentials.substr(colon + 1));
  }
  if (const auto slash = url.find('/'); slash != std::string_view::npos) {
    if (const auto database = url.substr(slash + 1); !database.empty() && !number(database, address.database))
      return bad("the database after the slash is no number");
    url = url.substr(0, slash);
  }
  const auto host_and_port = [&](std::string_view text, std::string& host, std::uint16_t& port) -> Result<void> {
    if (text.starts_with('[')) {
      const auto close = text.find(']');
      if (close == std::string_view::npos) return bad("'[' without ']'");
      host = text.substr(1, close - 1);
      text.remove_prefix(close + 1);
    } else {
      host = text.substr(0, text.find(':'));
      text.remove_prefix(host.size());
    }
    if (!text.empty() && (!text.starts_with(':') || !number(text.substr(1), port))) return bad("the port is no number");
    if (host.empty()) return bad("the host is missing");
    return {};
  };
  if (!by_sentinels) {
    if (auto read = host_and_port(url, address.host, address.port); !read) return tl::unexpected(read.error());
    return address;
  }
  while (!url.empty()) {
    const auto comma = std::min(url.find(','), url.size());
    RedisAddress::Sentinel& sentinel = address.sentinels.emplace_back();
    if (auto read = host_and_port(url.substr(0, comma), sentinel.host, sentinel.port); !read) return tl::unexpected(read.error());
    url.remove_prefix(std::min(comma + 1, url.size()));
  }
  if (address.sentinels.empty()) return bad("no sentinel is named");
  return address;
}

}  // namespace gq::store

// tcp_listener.cpp - see tcp_listener.h.
#include "common/net/tcp_listener.h"

#include <charconv>

namespace gq::net {

namespace {
using tcp = asio::ip::tcp;
constexpr int kBacklog = 128;
}  // namespace

Result<tcp::endpoint> parse_endpoint(const std::string& address, std::string_view option) {
  const auto wrong = [&] { return fail(Errc::usage, std::string(option) + " '" + address + "' is no address:port", "for example 127.0.0.1:0, any free port"); };
  const auto colon = address.rfind(':');
  if (colon == std::string::npos) return wrong();
  std::uint16_t port = 0;
  const char* end = address.data() + address.size();
  const auto [stopped, number] = std::from_chars(address.data() + colon + 1, end, port);
  if (number != std::errc{} || stopped != end) return wrong();
  std::string text = address.substr(0, colon);
  if (text == "localhost") text = "127.0.0.1";
  if (text == "*") text = "0.0.0.0";
  if (text.size() > 2 && text.front() == '[') text = text.substr(1, text.size() - 2);
  ErrorCode error;
  const auto host = asio::ip::make_address(text, error);
  if (error) return wrong();
  return tcp::endpoint(host, port);
}

Result<std::string> listen_tcp(tcp::acceptor& acceptor, const std::string& address, std::string_view option) {
  const auto endpoint = parse_endpoint(address, option);
  if (!endpoint) return tl::unexpected(endpoint.error());
  const std::string host = endpoint->address().is_v6() ? "[" + endpoint->address().to_string() + "]" : endpoint->address().to_string();
  ErrorCode error;
  acceptor.open(endpoint->protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(*endpoint, error);
  if (!error) acceptor.listen(kBacklog, error);
  if (error == asio::error::address_in_use)
    return fail(Errc::port_in_use, "port " + std::to_string(endpoint->port()) + " of " + host + " is in use (HTTP)", "end that program, or choose another: " + std::string(option) + " 127.0.0.1:0");
  if (error) return fail(Errc::usage, "cannot listen on " + address + ": " + error.message(), "choose another " + std::string(option));
  return host + ":" + std::to_string(acceptor.local_endpoint().port());
}

}  // namespace gq::net

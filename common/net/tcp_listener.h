// tcp_listener.h - "host:port" as people write it, and an acceptor that listens there: what our HTTP doors share.
#pragma once

#include <string>
#include <string_view>

#include "common/net/asio.h"
#include "common/vocabulary/errors.h"

namespace gq::net {

/// "127.0.0.1:7702", "localhost:0", "[::1]:80", "*:80" (every address). `option` names what it was given to, for the error. USAGE.
Result<asio::ip::tcp::endpoint> parse_endpoint(const std::string& address, std::string_view option);
/// Port 0 = any free one; the address really bound, "host:port". USAGE, PORT_IN_USE.
Result<std::string> listen_tcp(asio::ip::tcp::acceptor& acceptor, const std::string& address, std::string_view option);

}  // namespace gq::net

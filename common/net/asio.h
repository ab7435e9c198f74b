// asio.h - the only way to Boost.Asio here: 1.74 does not compile as C++20 unless <utility> comes first.
#pragma once
#include <utility>

#include <boost/asio.hpp>

namespace gq {
namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;
}  // namespace gq

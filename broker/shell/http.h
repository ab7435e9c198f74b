// http.h - the small door for operators: GET /healthz ("is serving", not "is alive") and GET /metrics (Prometheus text).
//
// One request per connection, a deadline on each, nothing that costs more than a walk over the workers.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/vocabulary/errors.h"

namespace boost::asio {
class io_context;
}

namespace gq::broker {

class Http {
 public:
  struct Pages {
    std::function<bool()> healthy;
    std::function<std::string()> metrics;
  };
  Http(boost::asio::io_context& io, Pages pages);
  ~Http();
  /// "host:port"; the address really bound. PORT_IN_USE, USAGE.
  Result<std::string> listen(const std::string& address);
  void close();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace gq::broker

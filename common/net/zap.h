// zap.h - the ZAP handler: who may enter. Bound before any CURVE socket; proved alive by a self-test before the public bind and
// every minute after. Default deny. The allowed folder is re-read when it changes.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/net/keys.h"
#include "common/net/port.h"

namespace gq::net {

class Authority {
 public:
  Authority(Context& context, asio::io_context& io, std::string key_dir);
  ~Authority();
  Result<void> start();                                        ///< binds inproc://zeromq.zap.01; ZAP_SELFTEST on failure
  /// On a loopback endpoint with the same settings: a random key must be refused with 400, a known key must pass. Runs the loop's
  /// own handlers; blocking, at most 5 s, from before io.run().
  Result<void> self_test(const ServerKeys& keys);
  [[nodiscard]] bool allowed(const std::string& name) const;   ///< for links already open: false once revoked
  std::function<void(const std::string& name)> revoked;        ///< called when a key disappears or expires
  [[nodiscard]] std::uint64_t refusals() const;
 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gq::net

// zap.h - the ZAP handler: who may enter. Bound before any CURVE socket; proved alive by a self-test before the public bind and
// every minute after. Default deny. The allowed folder is re-read when it changes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

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
  /// How often the refusal test is repeated after self_test(); a minute unless said otherwise.
  void repeat_every(std::chrono::milliseconds interval);
  [[nodiscard]] std::uint64_t repeats() const;                 ///< refusal tests passed since
  void stop();                                                 ///< answers no handshake any more; what is tested repeatedly notices
  [[nodiscard]] bool allowed(const std::string& name) const;   ///< for links already open: false once revoked
  std::function<void(const std::string& name)> revoked;        ///< called when a key disappears or expires
  /// The refusal test of the self-test failed when repeated (every minute): fatal, unknown keys may be entering.
  std::function<void(Error)> failed;
  [[nodiscard]] std::uint64_t refusals() const;
  /// Grows whenever a key was added, removed or has expired: what was decided before must be asked again.
  [[nodiscard]] std::uint64_t generation() const;
  [[nodiscard]] bool allowed_user(std::string_view user_id) const;   ///< as allowed(), for exactly the key the link was opened with
 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace gq::net

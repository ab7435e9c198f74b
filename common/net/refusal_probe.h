// refusal_probe.h - knocks at a door of our own with a key, over loopback tcp and with the settings of the real doors, and sees
// whether it is refused (exactly 400), let in, or neither. Internal to common/net.
#pragma once

#include <memory>
#include <string>

#include "common/net/port.h"
#include "common/net/socket.h"

namespace gq::net {

class RefusalProbe {
 public:
  enum class Key { random, known };
  enum class Seen { nothing, refused, entered, other };
  explicit RefusalProbe(Context& context) : context_(context) {}

  Result<void> open(const ServerKeys& keys);                      ///< binds the door, for the life of this object
  std::string knock(const std::string& server_key, Key key);      ///< the public key it knocks with
  Seen look();                                                    ///< never blocks
  void sleep(zmq::socket_ref also);                                         ///< until something may have happened, at most 20 ms
  void end_knock();
  [[nodiscard]] bool is_mine(const std::string& public_key) const { return !public_key.empty() && public_key == public_key_; }
  static std::string describe(Seen seen);

 private:
  Context& context_;
  zmq::socket_t door_, knocker_, monitor_;
  std::string endpoint_, public_key_;
  Key key_{};
};

}  // namespace gq::net

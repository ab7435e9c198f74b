// ports.h - who listens on a TCP port of this machine, as /proc tells it.
#pragma once

#include <cstdint>
#include <string>
#include <sys/types.h>
#include <vector>

namespace gq::cli {

struct Listener {
  std::uint16_t port{};
  pid_t pid{};             ///< 0 = not to be seen from here: another user's, or in another namespace
  std::string program;     ///< its name; empty likewise
  bool everywhere{};       ///< not on loopback alone
};

/// Those of `ports` that somebody listens on, IPv4 or IPv6, each once.
std::vector<Listener> listeners(const std::vector<std::uint16_t>& ports);

}  // namespace gq::cli

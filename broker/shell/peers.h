// peers.h - who is connected, and what is gathered for each until the end of the turn.
//
// The core's PeerId is the port's with one bit for the port, because each port counts its own peers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/net/port.h"
#include "common/vocabulary/ids.h"
#include "common/wire/messages.h"

namespace gq::broker {

struct Peer {
  PeerId id;                        ///< what the core calls it
  PeerId at_port;
  bool on_worker_port{};
  bool greeted{};                   ///< workers: WORKER_HELLO was taken
  net::Role role{};
  std::string name, address;
  Instant heard{};
  std::uint64_t beat_sent_us{};     ///< of the newest beat, echoed in its reply

  // Gathered until the turn ends, or a bound is reached.
  wire::Assign assign;
  std::string assign_body;
  wire::Notify notify;
  std::string notify_body;
  bool dirty{};
  std::vector<JobId> notices_lost;  ///< its socket was full: told again at the next tick
};

inline PeerId core_peer(PeerId at_port, bool worker_port) { return {at_port.value * 2 + (worker_port ? 1 : 0)}; }

using Peers = std::unordered_map<PeerId, std::unique_ptr<Peer>>;

}  // namespace gq::broker

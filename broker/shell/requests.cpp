// requests.cpp - the door: who speaks, may they, and which desk it goes to.
#include "broker/shell/broker_state.h"
#include "common/config/clock.h"
#include "common/log.h"

namespace gq::broker {

Peer& Broker::State::peer_of(bool worker_port, const net::Speaker& speaker) {
  const PeerId id = core_peer(speaker.peer, worker_port);
  auto& peer = peers[id];
  if (!peer) {
    peer = std::make_unique<Peer>();
    peer->id = id;
    peer->at_port = speaker.peer;
    peer->on_worker_port = worker_port;
    peer->role = speaker.role;
    peer->name = speaker.name;
    peer->address = speaker.address;
  }
  peer->heard = now().steady;
  return *peer;
}

std::optional<Error> Broker::State::not_welcome(const Peer& peer) const {
  const bool fits = peer.on_worker_port ? peer.role == net::Role::worker : peer.role != net::Role::worker;
  if (fits) return std::nullopt;
  return Error{Errc::refused,
               "the key of " + peer.name + " has the role " + std::string(net::to_string(peer.role)) + ", this port serves " +
                   (peer.on_worker_port ? "workers" : "clients and admins"),
               peer.on_worker_port ? "gpuq keys issue NAME --role worker" : "gpuq keys issue NAME --role client"};
}

void Broker::State::malformed(bool worker_port, const net::Speaker& speaker, const Error& error) {
  const std::uint64_t n = ++counted.malformed;
  if ((n & (n - 1)) == 0)   // the 1st, 2nd, 4th, 8th …: a hostile peer must not fill the log
    log::warn("malformed", {{"peer", speaker.name}, {"address", speaker.address}, {"why", error.what}, {"so_far", std::to_string(n)}});
  if (speaker.peer == PeerId{}) return;   // nobody that could be answered
  refuse(peer_of(worker_port, speaker), 0, error);
}

void Broker::State::received(bool worker_port, const net::Speaker& speaker, net::Packet&& packet) {
  ++counted.messages_in;
  if (stopped) return;
  auto decoded = wire::decode(packet.head);
  if (!decoded) {
    Peer& peer = peer_of(worker_port, speaker);
    ++counted.malformed;
    return refuse(peer, 0, decoded.error());
  }
  Peer& peer = peer_of(worker_port, speaker);
  const std::uint64_t request = decoded->header.id;
  if (auto unwelcome = not_welcome(peer)) return refuse(peer, request, *unwelcome);
  if (worker_port) on_worker(peer, std::move(*decoded), packet.body);
  else on_client(peer, std::move(*decoded), packet.body);
}

void Broker::State::on_unexpected(Peer& peer, const wire::Header& header) {
  refuse(peer, header.id,
         {Errc::protocol, "message type " + std::to_string(header.type) + " is unknown here or not for " + (peer.on_worker_port ? "workers" : "clients"),
          "this broker speaks version " + std::to_string(wire::kProtocolVersion)});
}

}  // namespace gq::broker

// watchers.cpp - who is told when a job is final: each watching connection once, at once if it is final already.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

void Core::State::on_watch(WatchReceived& e) {
  WatchAnswer answer{e.peer, e.request, {}};
  std::vector<Index> seen_final;
  for (const JobId& id : e.jobs) {
    const Index slot = jobs.find(id);
    if (slot == kNone) answer.unknown.push_back(id);
    else if (is_terminal(jobs[slot].state)) seen_final.push_back(slot);
    else watch(slot, e.peer);
  }
  send(std::move(answer));
  for (const Index slot : seen_final) send_notice(slot, e.peer, 0);
}

void Core::State::watch(Index slot, PeerId peer) {
  const auto [it, is_new] = client_of.try_emplace(peer.value, kNone);
  if (is_new) {
    it->second = clients.make();
    clients[it->second] = {peer, false, 0};
  }
  const Index client = it->second;
  Job& job = jobs[slot];
  if (job.watcher == client) return;
  if (job.watcher == kNone) {
    job.watcher = client;
  } else {
    auto& more = extra_of(job).more_watchers;
    if (std::find(more.begin(), more.end(), client) != more.end()) return;
    more.push_back(client);
  }
  ++clients[client].watches;
}

/// A client that is gone stays as a name until the last job it watched is final.
void Core::State::on_client_gone(const ClientGone& e) {
  const auto it = client_of.find(e.peer.value);
  if (it == client_of.end()) return;
  const Index client = it->second;
  client_of.erase(it);
  clients[client].gone = true;
  if (clients[client].watches == 0) clients.drop(client);
}

void Core::State::drop_watch(Index client) {
  Client& c = clients[client];
  if (--c.watches == 0 && c.gone) clients.drop(client);
}

void Core::State::notify(Index slot, Token result) {
  Job& job = jobs[slot];
  const auto tell = [&](Index client) {
    if (!clients[client].gone) send_notice(slot, clients[client].peer, result);
    drop_watch(client);
  };
  if (job.watcher == kNone) return;
  tell(job.watcher);
  job.watcher = kNone;
  if (job.extra == kNone) return;
  for (const Index client : extras[job.extra].more_watchers) tell(client);
  extras[job.extra].more_watchers.clear();
}

void Core::State::send_notice(Index slot, PeerId peer, Token result) {
  out->emplace_back(std::in_place_type<Send>, Send{JobNotice{peer, jobs[slot].id, dynamic_of(slot), result}});
}

}  // namespace gq::core

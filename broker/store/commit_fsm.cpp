// commit_fsm.cpp - the transitions of batches and beats, and what ends a connection; those of a new one are in commit_opening.cpp.
#include "broker/store/commit_fsm.h"

#include <algorithm>

namespace gq::store {

namespace {

using Type = Reply::Type;

}  // namespace

CommitFsm::CommitFsm(RedisOptions options, const Keys& keys) : options_(std::move(options)), keys_(keys) {}

Actions CommitFsm::open(Instant now) {
  opening_ = true;
  open_since_ = now;
  pending_.reset();
  unreplicated_.reset();
  refused_since_.reset();
  down_.reset();
  backoff_ = {};
  state_ = State::disconnected;
  return {ConnectAgain{}};
}

Actions CommitFsm::close() {
  state_ = State::closed;
  opening_ = false;
  pending_.reset();
  return {};
}

Actions CommitFsm::connected(Instant, std::uint64_t random) {
  if (state_ != State::disconnected) return {};
  random_ = random;
  if (connections_++ > 0) ++statistics_.reconnects;
  Actions out;
  check_and_watch(out);
  return out;
}

Actions CommitFsm::disconnected(Instant now, const Error& why) {
  Actions out;
  if (state_ == State::closed || state_ == State::stopped) return out;
  trouble(now, why, false, out);
  return out;
}

void CommitFsm::settle_after_reconnect(Instant now, std::uint64_t in_store, Actions& out) {
  if (pending_ && in_store == pending_->number && pending_->number == applied_ + 1) {
    if (unreplicated_) return wait_for_replicas(out);
    ++statistics_.replies_lost;
    if (pending_->reads.empty()) {
      if (options_.replicas == 0) return applied(now, {}, out);
      unreplicated_.emplace();
      return wait_for_replicas(out);
    }
    state_ = State::rereading;
    CommandBuffer commands;
    commands.begin(1 + pending_->reads.size());
    commands.arg("MGET");
    for (const JobId id : pending_->reads) commands.arg(keys_.body, to_string(id));
    out.emplace_back(SendCommands{commands.take(), 1});
    return;
  }
  unreplicated_.reset();   // a failover went back behind it: it goes again
  if (in_store != applied_)
    return reload({Errc::unavailable,
                   "Redis is at batch " + std::to_string(in_store) + ", this broker at " + std::to_string(applied_) +
                       ": it has lost or gained writes",
                   "gpuq reads everything again; with appendfsync everysec a power cut does this"}, out);
  armed(now, out);
}

void CommitFsm::armed(Instant now, Actions& out) {
  state_ = State::armed;
  backoff_ = {};
  last_fenced_ = now;
  if (!refused_since_) up(out);
  if (pending_) return send_fenced(now, true, out);
  out.emplace_back(WakeAt{now + options_.idle_beat});
}

void CommitFsm::send_fenced(Instant now, bool with_batch, Actions& out) {
  check(state_ == State::armed || state_ == State::refused,
        "a MULTI on a connection that is not armed would be unfenced");
  state_ = with_batch ? State::in_flight : State::beating;
  CommandBuffer commands;
  if (with_batch) commands.reserve(pending_->commands.bytes().size() + 512);
  commands.add("MULTI");
  if (with_batch) {
    commands.append(pending_->commands);
    commands.add("SET", keys_.batch, pending_->number);
  }
  if (!with_batch || !hint_ever_ || now - last_hint_ >= options_.idle_beat) {
    commands.add("SET", keys_.leader, options_.leader_name, "PX", options_.leader_hint.count());
    hint_ever_ = true;
    last_hint_ = now;
  }
  sent_commands_ = commands.commands() - 1;
  commands.add("EXEC");
  if (with_batch && options_.replicas > 0) commands.add("WAIT", options_.replicas, options_.replica_wait.count());
  commands.add("WATCH", keys_.term).add("GET", keys_.term);
  const std::size_t replies = commands.commands();
  statistics_.commands += sent_commands_;
  if (!with_batch) ++statistics_.beats;
  out.emplace_back(SendCommands{commands.take(), replies});
}

void CommitFsm::on_executed(Instant now, std::vector<Reply>& replies, Actions& out) {
  const bool with_batch = state_ == State::in_flight;
  const bool waited = with_batch && options_.replicas > 0;
  const std::size_t at = replies.size() - (waited ? 4 : 3);   // of EXEC's answer
  Reply& exec = replies[at];
  const Reply& term = replies.back();
  const bool still_mine = term.is(Type::string) && term.text == value_;
  if (exec.is(Type::nil)) return depose(fenced_error(term.text), out);
  if (exec.is(Type::error)) {
    if (!still_mine && !term.is(Type::error)) return depose(fenced_error(term.text), out);
    if (!exec.text.starts_with("EXECABORT"))
      return depose({Errc::redis_corrupt, "Redis did not run a batch as a transaction: " + exec.text,
                     "report this with the server's version"},
                    out);
    const auto queued_end = replies.begin() + static_cast<std::ptrdiff_t>(at);
    const auto cause = std::find_if(replies.begin(), queued_end, [](const Reply& r) { return r.is(Type::error); });
    const std::string& text = cause != queued_end ? cause->text : exec.text;
    const Error why = classify(text);
    if (why.code == Errc::redis_role) return trouble(now, why, false, out);   // demoted under us: whoever is the primary now is asked for
    if (term.is(Type::error)) {   // loading, or our user was changed: arm again from the start
      refused_since_ = refused_since_.value_or(now);
      return trouble(now, why, false, out);
    }
    if (with_batch && is_out_of_memory(text)) return reload(why, out);
    return refused(now, why, out);
  }
  for (std::size_t i = 0; i < exec.items.size(); ++i)
    if (exec.items[i].is(Type::error)) {
      const std::string command = with_batch ? describe_command(pending_->commands.bytes(), i) : "";
      return depose({Errc::redis_corrupt, "a batch was applied only in part: " + command + ": " + exec.items[i].text,
                     "a foreign program wrote to this key; restore Redis' data directory, or delete the key"}, out);
    }
  refused_since_.reset();
  last_fenced_ = now;
  Reply bodies;
  if (with_batch && !pending_->reads.empty()) bodies = std::move(exec.items.front());
  if (still_mine && waited && replies[at + 1].integer < options_.replicas) {
    unreplicated_ = std::move(bodies);
    return wait_for_replicas(out);
  }
  if (!still_mine) {
    if (with_batch) applied(now, std::move(bodies), out);
    if (term.is(Type::error)) return trouble(now, classify(term.text), false, out);
    return depose(fenced_error(term.text), out);
  }
  if (with_batch) return applied(now, std::move(bodies), out);
  armed(now, out);
}

void CommitFsm::on_reread(Instant now, std::vector<Reply>& replies, Actions& out) {
  if (!replies.front().is(Type::array)) return trouble(now, classify(replies.front().text), false, out);
  if (options_.replicas == 0) return applied(now, std::move(replies.front()), out);
  unreplicated_ = std::move(replies.front());
  wait_for_replicas(out);
}

void CommitFsm::wait_for_replicas(Actions& out) {
  state_ = State::replicating;
  CommandBuffer commands;
  commands.add("WAIT", options_.replicas, options_.replica_wait.count()).add("GET", keys_.term);
  out.emplace_back(SendCommands{commands.take(), 2});
}

void CommitFsm::on_replicated(Instant now, const std::vector<Reply>& replies, Actions& out) {
  const Reply &acknowledged = replies[0], &term = replies[1];
  for (const Reply& reply : replies)
    if (reply.is(Type::error)) return trouble(now, classify(reply.text), false, out);
  const bool enough = acknowledged.integer >= options_.replicas;
  const bool still_mine = term.is(Type::string) && term.text == value_;
  if (enough) {
    last_fenced_ = now;
    Reply bodies = std::move(*unreplicated_);
    unreplicated_.reset();
    applied(now, std::move(bodies), out);
  }
  if (!still_mine) return depose(fenced_error(term.text), out);
  if (enough) return;
  ++statistics_.unreplicated;
  const Error why{Errc::unavailable,
                  options_.address.describe() + ": a batch is on the primary's disk, but " + std::to_string(acknowledged.integer) + " of " + std::to_string(options_.replicas) + " replicas have it",
                  "bring the replicas back; what is held back leaves as soon as they have it"};
  down(why, out);
  wait_for_replicas(out);
}

void CommitFsm::applied(Instant now, Reply bodies, Actions& out) {
  BatchApplied done{pending_->number, std::move(pending_->reads), std::move(bodies)};
  pending_.reset();
  applied_ = done.number;
  looked_at_ = 0;
  ++statistics_.batches;
  armed(now, out);
  out.emplace_back(std::move(done));   // last: its receiver commits the next batch at once
}

void CommitFsm::refused(Instant now, const Error& why, Actions& out) {
  ++statistics_.refused;
  state_ = State::refused;
  if (!refused_since_) refused_since_ = now;
  if (pending_ && !batch_refused_since_) batch_refused_since_ = now;
  if (pending_ && now - *batch_refused_since_ >= options_.refused_max) return reload(why, out);
  down(why, out);
  out.emplace_back(WakeAt{now + backoff()});
}

Actions CommitFsm::replied(Instant now, std::vector<Reply> replies) {
  Actions out;
  switch (state_) {
    case State::checking: on_checked(now, replies, out); break;
    case State::moving: on_moved(now, replies, out); break;
    case State::in_flight:
    case State::beating: on_executed(now, replies, out); break;
    case State::rereading: on_reread(now, replies, out); break;
    case State::listing: on_listed(now, replies, out); break;
    case State::emptying: on_room_looked_for(now, replies, out); break;
    case State::replicating: on_replicated(now, replies, out); break;
    default: break;
  }
  return out;
}

Actions CommitFsm::submit(Instant now, EncodedBatch batch) {
  Actions out;
  if (state_ == State::stopped || state_ == State::closed) return out;   // the watcher has been told
  check(!pending_, "a second batch while one is in flight");
  check(batch.number == applied_ + 1, "batch numbers must follow one another");
  pending_ = std::move(batch);
  batch_refused_since_.reset();
  if (state_ == State::armed) send_fenced(now, true, out);
  return out;
}

Actions CommitFsm::timer(Instant now) {
  Actions out;
  if (state_ == State::refused) send_fenced(now, pending_.has_value(), out);
  else if (state_ == State::armed) {
    if (now - last_fenced_ >= options_.idle_beat) send_fenced(now, false, out);
    else out.emplace_back(WakeAt{last_fenced_ + options_.idle_beat});
  }
  return out;
}

void CommitFsm::trouble(Instant now, const Error& why, bool permanent, Actions& out) {
  if (opening_) {
    if (permanent || now - open_since_ >= options_.open_patience) {
      opening_ = false;
      state_ = State::closed;
      out.emplace_back(OpenFailed{why});
      return;
    }
  } else {
    down(why, out);
  }
  state_ = State::disconnected;
  out.emplace_back(ConnectAgain{backoff()});
}

void CommitFsm::depose(const Error& why, Actions& out) {
  if (opening_) {
    opening_ = false;
    state_ = State::closed;
    out.emplace_back(OpenFailed{why});
    return;
  }
  state_ = State::stopped;
  pending_.reset();
  unreplicated_.reset();
  out.emplace_back(Deposed{why});
}

void CommitFsm::reload(const Error& why, Actions& out) {
  state_ = State::stopped;
  pending_.reset();
  unreplicated_.reset();
  out.emplace_back(MustReload{why});
}

void CommitFsm::down(const Error& why, Actions& out) {
  if (down_ == why.code) return;
  down_ = why.code;
  out.emplace_back(WentDown{why});
}

void CommitFsm::up(Actions& out) {
  if (!down_) return;
  down_.reset();
  out.emplace_back(CameUp{});
}

Error CommitFsm::fenced_error(const std::string& found) const {
  return {
      Errc::fenced,
      "another broker leads name space '" + options_.name_space + "' since term " + found.substr(0, found.find(' ')),
      "stop one of the two brokers, or give each its own --namespace"};
}

Duration CommitFsm::backoff() {
  backoff_ = std::clamp<Duration>(backoff_ * 2, options_.backoff_min, options_.backoff_max);
  return backoff_;
}

bool CommitFsm::mine(const std::string& value) const {
  return std::find(tried_.begin(), tried_.end(), value) != tried_.end();
}

}  // namespace gq::store

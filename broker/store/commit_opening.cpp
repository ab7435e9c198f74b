// commit_opening.cpp - the transitions on a new connection, before any batch: is this a Redis that keeps what it says, the term is
// moved, and where its memory is full even for that, room is made.
#include "broker/store/commit_fsm.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace gq::store {

namespace {

using Type = Reply::Type;

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// "17 89ab…" -> 17.
std::optional<Term> term_number(std::string_view value) { return parse_number(value.substr(0, value.find(' '))); }

/// Waiting may mend it; anything else needs a hand.
bool transient(Errc code) { return code == Errc::unavailable || code == Errc::storage_full || code == Errc::unreachable; }

}  // namespace

void CommitFsm::check_and_watch(Actions& out) {
  state_ = State::checking;
  CommandBuffer commands;
  append_login(options_.address, commands);
  append_fact_commands(commands);
  // A dry transaction first: a user who may not MULTI would run the next lines one by one, unfenced.
  commands.add("MULTI").add("EXEC").add("WATCH", keys_.term).add("GET", keys_.term);
  const std::size_t replies = commands.commands();
  out.emplace_back(SendCommands{commands.take(), replies});
}

void CommitFsm::on_checked(Instant now, const std::vector<Reply>& replies, Actions& out) {
  constexpr std::size_t kTail = kFactReplies + 4;
  for (std::size_t i = 0; i + kTail < replies.size(); ++i)
    if (replies[i].is(Type::error)) {
      Error why = classify(replies[i].text);
      return trouble(now, why, !transient(why.code), out);
    }
  const Reply* tail = &replies[replies.size() - kTail];
  auto facts = parse_facts(tail);
  if (!facts) return trouble(now, facts.error(), !transient(facts.error().code), out);
  if (facts->get("loading") == "1") {
    open_since_ = now;   // it works on it; no patience is used up
    return trouble(now, {Errc::unavailable, options_.address.describe() + " is loading its data", "gpuq waits for it"},
                   false, out);
  }
  if (auto why = check_server(*facts, options_)) {
    const bool moving = why->code == Errc::redis_role && !options_.address.sentinels.empty();   // they have not agreed yet
    return trouble(now, *why, !moving && !transient(why->code), out);
  }
  facts_ = std::move(*facts);

  const Reply &multi = tail[kFactReplies], &exec = tail[kFactReplies + 1], &watch = tail[kFactReplies + 2],
              &term = tail[kFactReplies + 3];
  for (const Reply* reply : {&multi, &exec, &watch, &term})
    if (reply->is(Type::error)) {
      Error why = classify(reply->text);
      if (why.code == Errc::redis_corrupt) why.what = "key " + keys_.term + ": " + why.what;
      return trouble(now, why, !transient(why.code), out);
    }
  if (!opening_) {
    if (term.is(Type::nil))
      return depose(
          {Errc::redis_corrupt,
           "key " + keys_.term + " has vanished: " + options_.address.describe() + " lost the whole namespace",
           "restore Redis' data directory before starting again: a start now would begin with an empty queue"},
          out);
    if (!mine(term.text)) return depose(fenced_error(term.text), out);
  } else {
    was_new_ = term.is(Type::nil);
    if (!was_new_ && !term_number(term.text))
      return trouble(
          now,
          {Errc::redis_corrupt, "key " + keys_.term + " holds '" + term.text.substr(0, 40) + "', which is no term",
           "another program uses this name space; choose another with --namespace"},
          true, out);
  }
  move_term(term.text, out);
}

void CommitFsm::move_term(const std::string& current, Actions& out) {
  state_ = State::moving;
  const Term next = std::max(term_number(current).value_or(0), opening_ ? 0 : term_) + 1;
  char random[20];
  std::snprintf(random, sizeof random, " %016llx", static_cast<unsigned long long>(random_));
  tried_.push_back(std::to_string(next) + random);
  CommandBuffer commands;
  commands.add("MULTI").add("SET", keys_.term, tried_.back()).add("EXEC");
  commands.add("WATCH", keys_.term).add("GET", keys_.term).add("GET", keys_.batch);
  out.emplace_back(SendCommands{commands.take(), 6});
}

void CommitFsm::on_moved(Instant now, const std::vector<Reply>& replies, Actions& out) {
  const Reply &exec = replies[2], &term = replies[4], &batch = replies[5];
  if (exec.is(Type::nil)) return check_and_watch(out);   // somebody was quicker; the GET will tell who
  if (!exec.is(Type::array)) {
    const Reply& cause = replies[1].is(Type::error) ? replies[1] : replies[0].is(Type::error) ? replies[0] : exec;
    Error why = classify(cause.text);
    if (is_out_of_memory(cause.text)) return make_room(out);
    return trouble(now, why, !transient(why.code), out);
  }
  const std::string value = tried_.back();
  if (!term.is(Type::string) || term.text != value) {
    if (term.is(Type::error)) return trouble(now, classify(term.text), false, out);
    const Error why = fenced_error(term.text);
    return opening_ ? trouble(now, why, true, out) : depose(why, out);
  }
  std::uint64_t applied_number = 0;
  if (!batch.is(Type::nil)) {
    const auto number = batch.is(Type::string) ? parse_number(batch.text) : std::nullopt;
    if (!number) {
      if (batch.is(Type::error) && transient(classify(batch.text).code))
        return trouble(now, classify(batch.text), false, out);
      const Error why{Errc::redis_corrupt, "key " + keys_.batch + " holds no batch number",
                      "gpuq fsck --repair, or restore Redis' data directory from a backup"};
      return opening_ ? trouble(now, why, true, out) : depose(why, out);
    }
    applied_number = *number;
  }
  term_ = *term_number(value);
  value_ = value;
  tried_ = {value};
  if (opening_) {
    opening_ = false;
    applied_ = applied_number;
    armed(now, out);
    out.emplace_back(TookOver{term_, applied_, was_new_, facts_});
    return;
  }
  settle_after_reconnect(now, applied_number, out);
}

/// The oldest final jobs come first; a few hundred at a time, as a slow Redis must go on answering others.
void CommitFsm::make_room(Actions& out) {
  constexpr std::uint64_t kLookAt = 512;
  state_ = State::listing;
  CommandBuffer commands;
  commands.add("ZRANGE", keys_.set(StateSet::final), looked_at_, looked_at_ + kLookAt - 1);
  looked_at_ += kLookAt;
  out.emplace_back(SendCommands{commands.take(), 1});
}

void CommitFsm::on_listed(Instant now, std::vector<Reply>& replies, Actions& out) {
  const Reply& ids = replies.front();
  if (!ids.is(Type::array) || ids.items.empty()) {
    looked_at_ = 0;
    return trouble(now, classify("OOM and no fetched result is left to give up"), false, out);
  }
  state_ = State::emptying;
  CommandBuffer commands;
  commands.begin(1 + ids.items.size());
  commands.arg("MGET");
  listed_.clear();
  for (const Reply& id : ids.items) {
    commands.arg(keys_.dynamic, id.text);
    listed_.push_back(id.text);
  }
  out.emplace_back(SendCommands{commands.take(), 1});
}

void CommitFsm::on_room_looked_for(Instant now, const std::vector<Reply>& replies, Actions& out) {
  const Reply& answer = replies.front();
  if (answer.is(Type::error)) return trouble(now, classify(answer.text), false, out);
  if (answer.is(Type::integer)) {   // of UNLINK: try again, Redis gives the memory back in a moment
    statistics_.given_up += static_cast<std::uint64_t>(answer.integer);
    return trouble(now, classify("OOM; " + std::to_string(answer.integer) + " fetched results were given up"), false, out);
  }
  std::vector<std::string_view> fetched;
  for (std::size_t i = 0; i < answer.items.size() && i < listed_.size(); ++i) {
    const auto dynamic = decode_dynamic(answer.items[i].text);
    if (dynamic && is_terminal(dynamic->state) && dynamic->fetched && dynamic->result_bytes > 0) fetched.emplace_back(listed_[i]);
  }
  if (fetched.empty()) return make_room(out);
  CommandBuffer commands;
  commands.begin(1 + fetched.size());
  commands.arg("UNLINK");
  for (const std::string_view id : fetched) commands.arg(keys_.result, id);
  out.emplace_back(SendCommands{commands.take(), 1});
}

}  // namespace gq::store

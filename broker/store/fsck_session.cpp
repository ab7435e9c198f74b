// fsck_session.cpp - see fsck_session.h.
#include "broker/store/fsck_session.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <random>
#include <thread>

#include "broker/store/server_checks.h"
#include "common/net/asio.h"

namespace gq::store {

namespace {

constexpr std::size_t kPage = 2048;
constexpr std::size_t kUnknownListed = 100;

std::string_view after(std::string_view text, std::string_view prefix) { return text.starts_with(prefix) ? text.substr(prefix.size()) : std::string_view{}; }

/// An id in the one spelling that gpuq writes.
std::optional<JobId> canonical_id(std::string_view text) {
  const auto id = parse_job_id(text);
  return id && to_string(*id) == text ? id : std::nullopt;
}

RawValue value_of(const Reply& reply) {
  if (reply.is(Reply::Type::nil)) return {};
  if (reply.is(Reply::Type::string)) return {true, reply.text};
  return {true, std::nullopt};   // WRONGTYPE
}

bool wrong_type(const Reply& reply) { return reply.is(Reply::Type::error) && reply.text.starts_with("WRONGTYPE"); }

/// "17 89ab…" -> 17
std::optional<Term> term_of(const Reply& reply) {
  Term term{};
  const std::string& text = reply.text;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), term);
  if (!reply.is(Reply::Type::string) || error != std::errc{} || end == text.data() + text.size() || *end != ' ') return std::nullopt;
  return term;
}

std::string random_word() {
  std::random_device device;
  char text[20];
  std::snprintf(text, sizeof text, "%08x%08x", device(), device());
  return text;
}

}  // namespace

FsckSession::FsckSession(asio::io_context& io, RedisOptions options) : io_(io), options_(std::move(options)), keys_(options_.name_space) {}

Result<std::vector<Reply>> FsckSession::ask(CommandBuffer commands) {
  std::optional<std::vector<Reply>> answer;
  const std::size_t replies = commands.commands();
  if (!lost_) connection_->send(commands.take(), replies, [&](std::vector<Reply> got) { answer = std::move(got); });
  io_.restart();
  while (!answer && !lost_)
    if (io_.run_one() == 0) lost_ = Error{Errc::unavailable, "the connection to " + options_.address.describe() + " ended", "run it again"};
  if (lost_) return tl::unexpected(*lost_);
  return std::move(*answer);
}

Result<Reply> FsckSession::ask_one(CommandBuffer commands) {
  auto replies = ask(std::move(commands));
  if (!replies) return tl::unexpected(replies.error());
  Reply& reply = replies->front();
  if (reply.is(Reply::Type::error) && !wrong_type(reply)) return tl::unexpected(classify(reply.text));
  return std::move(reply);
}

Result<void> FsckSession::open() {
  connection_ = std::make_unique<RedisConnection>(io_, options_);
  bool connected = false;
  connection_->connect([&] { connected = true; }, [this](const Error& why) { lost_ = Error{why.code, why.what, "start that Redis, or name it: --redis URL"}; });
  io_.restart();
  while (!connected && !lost_)
    if (io_.run_one() == 0) break;
  if (lost_) return tl::unexpected(*lost_);
  CommandBuffer commands;
  append_login(options_.address, commands);
  append_fact_commands(commands);
  const auto replies = ask(std::move(commands));
  if (!replies) return tl::unexpected(replies.error());
  for (std::size_t i = 0; i + kFactReplies < replies->size(); ++i)
    if ((*replies)[i].is(Reply::Type::error)) return tl::unexpected(classify((*replies)[i].text));
  auto facts = parse_facts(&(*replies)[replies->size() - kFactReplies]);
  if (!facts) return tl::unexpected(facts.error());
  facts_ = std::move(*facts);
  if (facts_.get("loading") == "1") return fail(Errc::unavailable, options_.address.describe() + " is loading its data", "run it again in a moment");
  return nobody_leads();
}

/// A broker renews its hint several times per span; that of one which ended just now runs out.
Result<void> FsckSession::nobody_leads() {
  const auto until = std::chrono::steady_clock::now() + options_.leader_hint + std::chrono::milliseconds(500);
  for (;;) {
    auto hint = ask_one(CommandBuffer().add("GET", keys_.leader));
    if (!hint) return tl::unexpected(hint.error());
    if (hint->is(Reply::Type::nil)) return {};
    if (std::chrono::steady_clock::now() > until)
      return fail(Errc::data_dir_in_use, "a broker leads namespace '" + options_.name_space + "': " + hint->text.substr(0, 120), "stop it first: what changes meanwhile would look like damage");
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

bool FsckSession::take_job_key(RawNamespace& raw, const std::string& key) const {
  for (const auto& [prefix, part] : {std::pair{&keys_.fixed, 0}, {&keys_.dynamic, 1}, {&keys_.body, 2}, {&keys_.result, 3}}) {
    const auto id = canonical_id(after(key, *prefix));
    if (!id) continue;
    RawJob& job = raw.jobs[*id];
    if (part == 0) job.fixed.there = true;
    if (part == 1) job.dynamic.there = true;
    if (part == 2) job.body = true;
    if (part == 3) job.result = true;
    return true;
  }
  return false;
}

Result<void> FsckSession::scan(RawNamespace& raw) {
  const std::string prefix = keys_.term.substr(0, keys_.term.size() - std::string_view("term").size());
  const std::string aside = prefix + "quarantine:";
  std::vector<std::string> ours{keys_.term, keys_.leader, keys_.batch, keys_.tombs, keys_.unique, keys_.models, keys_.settings};
  ours.insert(ours.end(), keys_.sets.begin(), keys_.sets.end());
  std::vector<std::string> unknown;
  for (std::string cursor = "0";;) {
    auto page = ask_one(CommandBuffer().add("SCAN", cursor, "MATCH", prefix + "*", "COUNT", kPage));   // a namespace has no glob's characters
    if (!page) return tl::unexpected(page.error());
    for (const Reply& key : page->items.at(1).items) {
      if (key.text.starts_with(aside)) ++raw.quarantined;
      else if (!take_job_key(raw, key.text) && std::find(ours.begin(), ours.end(), key.text) == ours.end()) unknown.push_back(key.text);
    }
    cursor = page->items.at(0).text;
    if (cursor == "0") break;
  }
  std::sort(unknown.begin(), unknown.end());   // SCAN may show a key twice
  unknown.erase(std::unique(unknown.begin(), unknown.end()), unknown.end());
  if (unknown.size() > kUnknownListed) unknown.resize(kUnknownListed);
  raw.unknown_keys = std::move(unknown);
  return {};
}

Result<void> FsckSession::read_sets(RawNamespace& raw) {
  for (std::size_t s = 0; s < kStateSets; ++s) {
    const auto set = static_cast<StateSet>(s);
    for (std::size_t at = 0;;) {
      auto page = ask_one(CommandBuffer().add("ZRANGE", keys_.sets[s], at, at + kPage - 1, "WITHSCORES"));
      if (!page) return tl::unexpected(page.error());
      if (wrong_type(*page)) {
        raw.odd_types.push_back(keys_.sets[s]);
        break;
      }
      for (std::size_t i = 0; i + 1 < page->items.size(); i += 2) {
        const auto id = canonical_id(page->items[i].text);
        // Scores are whole numbers; Redis may write large ones with an exponent.
        if (id) raw.jobs[*id].places.push_back({set, static_cast<std::int64_t>(std::strtod(page->items[i + 1].text.c_str(), nullptr))});
        else raw.odd_members.emplace_back(set, page->items[i].text);
      }
      at += page->items.size() / 2;
      if (page->items.size() / 2 < kPage) break;
    }
  }
  return {};
}

Result<void> FsckSession::read_records(RawNamespace& raw) {
  for (auto it = raw.jobs.begin(); it != raw.jobs.end();) {
    std::vector<RawValue*> values;
    std::vector<std::string> names;
    for (; it != raw.jobs.end() && values.size() < kPage; ++it) {
      const std::string id = to_string(it->first);
      if (it->second.fixed.there) values.push_back(&it->second.fixed), names.push_back(keys_.fixed + id);
      if (it->second.dynamic.there) values.push_back(&it->second.dynamic), names.push_back(keys_.dynamic + id);
    }
    if (values.empty()) continue;
    CommandBuffer commands;
    commands.begin(1 + names.size());
    commands.arg("MGET");
    for (const std::string& name : names) commands.arg(name);
    const auto got = ask_one(std::move(commands));
    if (!got) return tl::unexpected(got.error());
    for (std::size_t i = 0; i < values.size(); ++i)   // MGET says nil for a foreign type too: the scan saw that it is there
      if (got->items.at(i).is(Reply::Type::string)) values[i]->bytes = got->items[i].text;
  }
  return {};
}

Result<void> FsckSession::read_hashes(RawNamespace& raw) {
  for (const auto& [key, into] : {std::pair{&keys_.models, &raw.models}, {&keys_.settings, &raw.settings}, {&keys_.tombs, &raw.tombs}, {&keys_.unique, &raw.unique}}) {
    for (std::string cursor = "0";;) {
      auto page = ask_one(CommandBuffer().add("HSCAN", *key, cursor, "COUNT", kPage));
      if (!page) return tl::unexpected(page.error());
      if (wrong_type(*page)) {
        raw.odd_types.push_back(*key);
        break;
      }
      const auto& items = page->items.at(1).items;
      for (std::size_t i = 0; i + 1 < items.size(); i += 2) into->insert_or_assign(items[i].text, items[i + 1].text);
      cursor = page->items.at(0).text;
      if (cursor == "0") break;
    }
  }
  return {};
}

Result<RawNamespace> FsckSession::read() {
  RawNamespace raw;
  auto heads = ask(CommandBuffer().add("GET", keys_.term).add("GET", keys_.batch));
  if (!heads) return tl::unexpected(heads.error());
  for (const Reply& reply : *heads)
    if (reply.is(Reply::Type::error) && !wrong_type(reply)) return tl::unexpected(classify(reply.text));
  raw.term = value_of((*heads)[0]);
  raw.batch = value_of((*heads)[1]);
  for (const auto step : {&FsckSession::scan, &FsckSession::read_sets, &FsckSession::read_records, &FsckSession::read_hashes})
    if (auto done = (this->*step)(raw); !done) return tl::unexpected(done.error());
  return raw;
}

Result<void> FsckSession::take_term() {
  if (auto why = check_server(facts_, options_)) return tl::unexpected(*why);
  const auto seen = ask(CommandBuffer().add("WATCH", keys_.term).add("GET", keys_.term));
  if (!seen) return tl::unexpected(seen.error());
  const Reply& current = (*seen)[1];
  if (!current.is(Reply::Type::nil) && !term_of(current))
    return fail(Errc::redis_corrupt, "key " + keys_.term + " holds no term: another program may use this namespace", "choose another with --namespace");
  const std::string next = std::to_string(term_of(current).value_or(0) + 1) + " " + random_word();
  const auto moved = ask(CommandBuffer().add("MULTI").add("SET", keys_.term, next).add("EXEC"));
  if (!moved) return tl::unexpected(moved.error());
  if ((*moved)[2].is(Reply::Type::nil)) return fail(Errc::fenced, "a broker took over namespace '" + options_.name_space + "' just now", "stop it, then run the repair again");
  if (!(*moved)[2].is(Reply::Type::array)) return tl::unexpected(classify((*moved)[1].is(Reply::Type::error) ? (*moved)[1].text : (*moved)[2].text));
  term_ = next;
  return {};
}

Result<void> FsckSession::apply(const std::vector<Command>& commands) {
  if (commands.empty()) return {};
  const auto seen = ask_one(CommandBuffer().add("WATCH", keys_.term));
  if (!seen) return tl::unexpected(seen.error());
  const auto term = ask_one(CommandBuffer().add("GET", keys_.term));
  if (!term) return tl::unexpected(term.error());
  const Error fenced{Errc::fenced, "a broker took over namespace '" + options_.name_space + "' during the repair", "stop it, then run the repair again: what was repaired stays repaired"};
  if (term->text != term_) return tl::unexpected(fenced);
  CommandBuffer buffer;
  buffer.add("MULTI");
  for (const Command& command : commands) {
    buffer.begin(command.size());
    for (const std::string& argument : command) buffer.arg(argument);
  }
  buffer.add("EXEC");
  const auto replies = ask(std::move(buffer));
  if (!replies) return tl::unexpected(replies.error());
  for (const Reply& reply : *replies)
    if (reply.is(Reply::Type::error)) return tl::unexpected(classify(reply.text));
  const Reply& exec = replies->back();
  if (exec.is(Reply::Type::nil)) return tl::unexpected(fenced);
  for (const Reply& reply : exec.items)
    if (reply.is(Reply::Type::error)) return fail(Errc::redis_corrupt, "Redis refused a part of a repair: " + reply.text, "restore Redis' data directory from a backup");
  return {};
}

}  // namespace gq::store

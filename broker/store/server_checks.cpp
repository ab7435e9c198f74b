// server_checks.cpp - the start-up checks, most basic first.
#include "broker/store/server_checks.h"

#include <cstdlib>

namespace gq::store {

std::string ServerFacts::get(const std::string& key) const {
  if (const auto it = config.find(key); it != config.end()) return it->second;
  if (const auto it = info.find(key); it != info.end()) return it->second;
  return {};
}
std::uint64_t ServerFacts::number(const std::string& key) const { return std::strtoull(get(key).c_str(), nullptr, 10); }

void append_login(const RedisAddress& address, CommandBuffer& out) {
  if (!address.password.empty()) {
    if (address.user.empty()) out.add("AUTH", address.password);
    else out.add("AUTH", address.user, address.password);
  }
  if (address.database != 0) out.add("SELECT", address.database);
}

void append_fact_commands(CommandBuffer& out) {
  out.add("INFO", "default");
  out.add("CONFIG", "GET", "maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write");
}

Result<ServerFacts> parse_facts(const Reply* replies) {
  ServerFacts facts;
  if (replies[0].is(Reply::Type::error)) return tl::unexpected<Error>(classify(replies[0].text));
  const std::string& info = replies[0].text;
  for (std::size_t at = 0; at < info.size();) {
    auto end = info.find("\r\n", at);
    if (end == std::string::npos) end = info.size();
    const auto colon = info.find(':', at);
    if (colon != std::string::npos && colon < end)
      facts.info[info.substr(at, colon - at)] = info.substr(colon + 1, end - colon - 1);
    at = end + 2;
  }
  if (replies[1].is(Reply::Type::error)) {
    const Error error = classify(replies[1].text);
    if (error.code == Errc::unavailable) return tl::unexpected<Error>(error);
    // 6.x knows no CONFIG GET with several patterns; its version is the better complaint.
    if (replies[1].text.starts_with("NOPERM"))
      return fail(Errc::refused, "this Redis user may not read the durability settings: " + replies[1].text,
                  "ACL SETUSER <user> +config|get");
  }
  for (std::size_t i = 0; i + 1 < replies[1].items.size(); i += 2)
    facts.config[replies[1].items[i].text] = replies[1].items[i + 1].text;
  return facts;
}

std::optional<Error> check_server(const ServerFacts& facts, const RedisOptions& options) {
  const std::string where = options.address.describe();
  const auto error = [&](Errc code, std::string what, std::string next) {
    return Error{code, where + ": " + std::move(what), std::move(next)};
  };

  const std::string version = facts.get("redis_version");
  if (std::strtol(version.c_str(), nullptr, 10) < 7)
    return error(Errc::redis_version, "Redis " + version + " is too old", "install Redis 7.0 or newer");
  if (facts.get("role") != "master")
    return error(Errc::redis_role, "it is a replica of " + facts.get("master_host") + ":" + facts.get("master_port"),
                 "point --redis at the primary");
  if (const auto policy = facts.get("maxmemory-policy"); policy != "noeviction")
    return error(Errc::redis_policy, "maxmemory-policy is " + policy + ": it would evict acknowledged jobs",
                 "CONFIG SET maxmemory-policy noeviction   (and the same line in redis.conf)");
  if (facts.get("appendonly") != "yes")
    return error(Errc::redis_durability,
                 "appendonly is " + facts.get("appendonly") + ": a restart would lose acknowledged jobs",
                 "CONFIG SET appendonly yes   (and the same line in redis.conf)");
  const std::string fsync = facts.get("appendfsync");
  if (options.durability == Durability::always && fsync != "always")
    return error(Errc::redis_durability, "appendfsync is " + fsync + ", --durability always is asked",
                 "CONFIG SET appendfsync always   (and in redis.conf), or --durability everysec, which may lose 1-3 s "
                 "at a power cut");
  if (options.durability == Durability::everysec && fsync != "always" && fsync != "everysec")
    return error(Errc::redis_durability, "appendfsync is " + fsync + ", --durability everysec is asked",
                 "CONFIG SET appendfsync everysec   (and the same line in redis.conf)");
  if (facts.get("no-appendfsync-on-rewrite") != "no")
    return error(Errc::redis_durability,
                 "no-appendfsync-on-rewrite is yes: nothing is fsynced while the file is rewritten",
                 "CONFIG SET no-appendfsync-on-rewrite no   (and the same line in redis.conf)");
  if (options.replicas > 0 && facts.number("min-replicas-to-write") < 1)
    return error(Errc::redis_durability, "min-replicas-to-write is 0: a primary cut off from its replicas would go on acknowledging what a failover loses",
                 "CONFIG SET min-replicas-to-write 1   (and in the redis.conf of every server the sentinels may promote)");
  if (const auto state = facts.get("aof_last_write_status"); !state.empty() && state != "ok")
    return error(Errc::storage_full, "its last write to the append-only file failed",
                 "free space on the disk of Redis' dir");
  if (facts.number("maxmemory") == 0 && options.budget_bytes == 0)
    return error(Errc::redis_budget, "maxmemory is 0 (unlimited): gpuq cannot know when to refuse submits",
                 "CONFIG SET maxmemory 4gb   (and in redis.conf), or start with --redis-budget 4GiB");
  return std::nullopt;
}

std::uint64_t bytes_max(const ServerFacts& facts, const RedisOptions& options) {
  const std::uint64_t maxmemory = facts.number("maxmemory");
  if (maxmemory == 0) return options.budget_bytes;
  return options.budget_bytes == 0 ? maxmemory : std::min(maxmemory, options.budget_bytes);
}

}  // namespace gq::store

// server_checks.h - may gpuq keep acknowledged work on this Redis? Pure: facts in, the first refusal out, with the line to change.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "broker/store/command.h"
#include "broker/store/redis_store.h"
#include "broker/store/reply.h"

namespace gq::store {

struct ServerFacts {
  std::map<std::string, std::string> info;     ///< INFO's lines
  std::map<std::string, std::string> config;   ///< CONFIG GET
  [[nodiscard]] std::string get(const std::string& key) const;
  [[nodiscard]] std::uint64_t number(const std::string& key) const;
};

/// AUTH and SELECT as the address asks for them; none, one or two commands.
void append_login(const RedisAddress& address, CommandBuffer& out);

/// The commands whose replies parse_facts takes, in this order.
inline constexpr std::size_t kFactReplies = 2;
void append_fact_commands(CommandBuffer& out);
/// An error reply (NOAUTH, NOPERM, …) comes back as our Error.
Result<ServerFacts> parse_facts(const Reply* replies);

/// REDIS_VERSION, REDIS_ROLE, REDIS_POLICY, REDIS_DURABILITY, REDIS_BUDGET, STORAGE_FULL (AOF write errors).
std::optional<Error> check_server(const ServerFacts& facts, const RedisOptions& options);
/// How many bytes it may hold: maxmemory, or the budget the operator gave.
std::uint64_t bytes_max(const ServerFacts& facts, const RedisOptions& options);

}  // namespace gq::store

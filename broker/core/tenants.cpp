// tenants.cpp - what one owner of jobs may have in the queue. A tenant is the name of the key that submits.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

/// The cap that names this owner, or else the one for everyone who is not named: each of them for itself.
const TenantPolicy* Core::State::tenant_policy(const std::string& owner) const {
  const auto& all = config.policy.tenants;
  const auto named = [&](const std::string& name) { return std::find_if(all.begin(), all.end(), [&](const TenantPolicy& t) { return t.name == name; }); };
  auto it = named(owner);
  if (it == all.end()) it = named("*");
  return it == all.end() ? nullptr : &*it;
}

std::optional<Error> Core::State::refuse_tenant_full(const std::string& owner) const {
  if (config.policy.tenants.empty()) return std::nullopt;
  const TenantPolicy* tenant = tenant_policy(owner);
  if (tenant == nullptr || tenant->queued_max == 0) return std::nullopt;
  const auto it = unfinished_of.find(texts.find(owner));
  const std::uint64_t has = it == unfinished_of.end() ? 0 : it->second;
  if (has < tenant->queued_max) return std::nullopt;
  return Error{Errc::queue_full, std::to_string(has) + " jobs of " + owner + " are waiting or running, and tenant.\"" + tenant->name + "\".queued_max is " + std::to_string(tenant->queued_max),
               "wait, cancel some, or raise the cap"};
}

void Core::State::count_unfinished(Index owner, int more) {
  unfinished += static_cast<std::uint64_t>(static_cast<std::int64_t>(more));
  auto& of_owner = unfinished_of[owner];
  of_owner += static_cast<std::uint64_t>(static_cast<std::int64_t>(more));
  if (of_owner == 0) unfinished_of.erase(owner);
}

}  // namespace gq::core

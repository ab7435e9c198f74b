// tenants.cpp - what one owner of jobs may have in the queue and running, and whose turn it is under fair shares (tenants.h). A
// tenant is the name of the key that submits.
#include <algorithm>
#include <bit>
#include <cmath>

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

// ---- running caps and fair shares

namespace {
constexpr double kLn2 = 0.693147180559945309417;
double seconds(Duration d) { return static_cast<double>(d.count()) / 1e6; }
Duration half_life_of(const Policy& policy) { return std::max<Duration>(policy.fair_half_life, std::chrono::seconds{1}); }
Duration period_of(const Policy& policy) { return std::clamp(half_life_of(policy) / kSharePeriods, kSharePeriodMin, kSharePeriodMax); }
/// Not negative, so their bits are in the same order as they are.
std::int64_t comparable(double value) { return std::bit_cast<std::int64_t>(std::max(0.0, value)); }
}  // namespace

bool Core::State::tells_apart(const Policy& policy) {
  return policy.fair || std::any_of(policy.tenants.begin(), policy.tenants.end(), [](const TenantPolicy& t) { return t.running_max != 0; });
}

Tenant& Core::State::tenant_at(Index owner) {
  const auto [it, is_new] = tenants.try_emplace(owner);
  if (!is_new) return it->second;
  if (const TenantPolicy* policy = tenant_policy(texts[owner])) {
    it->second.running_max = policy->running_max;
    it->second.weight = policy->weight;
  }
  return it->second;
}

bool Core::State::tenant_may_start(Index tenant) const {
  if (tenant == kNone) return true;
  const auto it = tenants.find(tenant);
  return it == tenants.end() || it->second.running_max == 0 || it->second.running < it->second.running_max;
}

std::int64_t Core::State::share_of(const Shape& shape) const {
  if (!config.policy.fair || shape.tenant == kNone) return 0;
  if (shape.passed_over) return -1;
  const auto it = tenants.find(shape.tenant);
  return it == tenants.end() ? 0 : it->second.use_of(shape.needs).share;
}

std::string Core::State::used_lately(const Job& job) const {
  if (!config.policy.fair) return {};
  const auto it = tenants.find(job.owner);
  if (it == tenants.end()) return {};
  const Use& use = it->second.use_of(needs_of(job));
  const auto counted = static_cast<std::int64_t>(use.spent / growth(now.steady.time_since_epoch().count()));
  return ", as " + texts[job.owner] + " has used " + std::to_string(counted) + " device-seconds of class " + std::string(to_string(needs_of(job).job_class)) + " lately";
}

// ---- use, added up

double Core::State::growth(std::int64_t at) const { return std::exp2(static_cast<double>(at - shares_from) / static_cast<double>(half_life_of(config.policy).count())); }

/// The integral of the growing weight over the time since it was last added up.
void Core::State::spend(Use& use) const {
  const std::int64_t at = now.steady.time_since_epoch().count();
  const auto half_life = static_cast<double>(half_life_of(config.policy).count());
  if (use.devices != 0)
    use.spent += use.devices * (half_life / 1e6 / kLn2) * growth(use.since) * std::expm1(kLn2 * static_cast<double>(at - use.since) / half_life);
  use.since = at;
}

void Core::State::price(Tenant& tenant, Use& use) const {
  const double soon = use.devices == 0 ? 0.0 : use.devices * seconds(period_of(config.policy)) * growth(use.since);
  use.share = comparable((use.spent + soon) / std::max(tenant.weight, 1e-6));
}

/// An attempt starts to hold its devices, or has left them.
void Core::State::count_use(const Hold& hold, bool begins) {
  if (!tenants_apart) return;
  const Job& job = jobs[hold.job];
  const Needs& needs = needs_of(job);
  Tenant& tenant = tenant_at(job.owner);
  Use& use = tenant.use_of(needs);
  const Index count = counts_as(hold.devices.size());
  rebase_shares();
  spend(use);
  if (begins) {
    ++tenant.running;
    use.devices += count;
  } else {
    use.devices -= count;
    if (--tenant.running + 1 == tenant.running_max)
      for (const Index shape : tenant.standing.members) make_fresh(shape);
  }
  if (!config.policy.fair) return;
  price(tenant, use);
  for (const Index shape : tenant.standing.members)
    if (&tenant.use_of(shapes[shape].needs) == &use) rekey(shape);
  arm_shares();
}

/// What the record of a final or waiting job says that its newest attempt has used, as of now.
double Core::State::use_of_record(const Job& job) const {
  if (job.attempt == 0 || job.nonce == 0 || job.ended_ms == 0 || job.started_ms == 0 || job.ended_ms <= job.started_ms) return 0;
  const auto half_life = static_cast<double>(half_life_of(config.policy).count()) / 1000.0;
  const auto ago = [&](std::int64_t ms) { return std::exp2(-static_cast<double>(std::max<std::int64_t>(0, now.wall.ms - ms)) / half_life); };
  const Extra* x = extra(job);
  const std::size_t count = (job.device != 0 ? 1U : 0U) + (x == nullptr ? 0 : x->more_devices.size());
  return counts_as(count) * (half_life / 1000.0 / kLn2) * (ago(job.ended_ms) - ago(job.started_ms));
}

/// Of jobs that ran more than once only the newest attempt is found again, of forgotten ones nothing.
void Core::State::follow_tenants() {
  const bool knew = tenants_apart;
  tenants_apart = tells_apart(config.policy);
  for (auto& [owner, tenant] : tenants) {
    const TenantPolicy* policy = tenant_policy(texts[owner]);
    tenant.running_max = policy == nullptr ? 0 : policy->running_max;
    tenant.weight = policy == nullptr ? 1.0 : policy->weight;
    tenant.running = 0;
    for (auto& domain : tenant.use)
      for (Use& use : domain) use = {};
  }
  if (!tenants_apart && !knew) return;
  shares_from = now.steady.time_since_epoch().count();
  if (!tenants_apart) return;
  for (Index slot = 0; slot < jobs.extent(); ++slot) {
    const Job& job = jobs[slot];
    if (job.seq == 0) continue;
    if (job.hold == kNone && !config.policy.fair) continue;
    Tenant& tenant = tenant_at(job.owner);
    Use& use = tenant.use_of(needs_of(job));
    if (job.hold == kNone) {
      use.spent += use_of_record(job);
      continue;
    }
    ++tenant.running;
    Use past;
    past.devices = counts_as(holds[job.hold].devices.size());
    use.devices += past.devices;
    past.since = shares_from - std::max<std::int64_t>(0, now.wall.ms - job.started_ms) * 1000;
    spend(past);
    use.spent += past.spent;
  }
  for (auto& [owner, tenant] : tenants)
    for (auto& domain : tenant.use)
      for (Use& use : domain) {
        use.since = shares_from;
        price(tenant, use);
      }
  if (config.policy.fair) arm_shares();
}

void Core::State::regroup() {
  std::vector<std::pair<std::uint64_t, Index>> moving;
  for (Index slot = 0; slot < jobs.extent(); ++slot) {
    const Job& job = jobs[slot];
    if (job.seq != 0 && job.state == JobState::ready && !job.held && shapes[job.shape].tenant != tenant_for(job.owner)) moving.emplace_back(job.seq, slot);
  }
  std::sort(moving.begin(), moving.end());
  for (const auto& [seq, slot] : moving) {
    drop_entry(slot);
    leave_line(slot);
    enqueue(slot);
  }
}

// ---- shapes that wait

void Core::State::begin_standing(Index index) {
  Shape& shape = shapes[index];
  if (shape.tenant == kNone) return;
  shape.turn_since = now.steady.time_since_epoch().count();
  tenant_at(shape.tenant).standing.join(index, shape.tenant_at);
  if (config.policy.fair) arm_shares();
}

void Core::State::end_standing(Index index) {
  Shape& shape = shapes[index];
  shape.passed_over = false;
  if (shape.tenant_at == kNone) return;
  tenants.at(shape.tenant).standing.leave(shape.tenant_at, [&](Index other) -> Index& { return shapes[other].tenant_at; });
}

void Core::State::arm_shares() {
  if (shares_armed) return;
  shares_armed = true;
  arm(lease_now() + period_of(config.policy), TimerKind::shares, kNone);
}

/// Weights grow for ever and doubles do not: long before they end all is told from a later moment, which changes nobody's place.
void Core::State::rebase_shares() {
  const std::int64_t half_life = half_life_of(config.policy).count();
  const std::int64_t passed = (now.steady.time_since_epoch().count() - shares_from) / half_life;
  if (passed < kShareHalfLivesKept) return;
  shares_from += passed * half_life;
  for (auto& [owner, tenant] : tenants) {
    for (auto& domain : tenant.use)
      for (Use& use : domain) {
        use.spent = std::ldexp(use.spent, static_cast<int>(-std::min<std::int64_t>(passed, 4096)));
        if (use.devices == 0) use.since = shares_from;
        price(tenant, use);
      }
    for (const Index shape : tenant.standing.members) rekey(shape);
  }
}

/// Once per period: those who run have used more, those who wait may have waited for too long. Who does neither is not looked at.
void Core::State::on_shares_timer() {
  shares_armed = false;
  if (!config.policy.fair) return;
  const std::int64_t at = now.steady.time_since_epoch().count();
  const std::int64_t half_life = half_life_of(config.policy).count();
  rebase_shares();
  bool any = false;
  for (auto& [owner, tenant] : tenants) {
    if (tenant.running == 0 && tenant.standing.members.empty()) continue;
    any = true;
    for (auto& domain : tenant.use)
      for (Use& use : domain) {
        if (use.devices == 0) continue;
        spend(use);
        price(tenant, use);
      }
    for (const Index index : tenant.standing.members) {
      Shape& shape = shapes[index];
      shape.passed_over = at - shape.turn_since > kSharePatience * half_life;
      rekey(index);
    }
  }
  if (any) arm_shares();
}

}  // namespace gq::core

// victims.cpp - who would have to leave for a shape's next job, asked of concrete devices through the one fit function.
//
// Only strictly lower classes are victims, so nobody who is evicted may sort before its evictor. Idle models are cheaper than any
// victim; what leaves already costs nothing. A set is never judged by sums: the constraints themselves are asked "as if these had
// left". Up to kExactUnits candidates the cheapest set is found exactly, beyond that greedily, and then what turned out to be
// unneeded is dropped in reverse. Either way no member of the set can be spared.
#include <algorithm>
#include <numeric>

#include "broker/core/placement.h"

namespace gq::core {

/// May this attempt be asked to leave for a job of that class? The job's name keeps the same two from meeting again and again.
bool Core::State::may_evict(Index h, JobClass by, const JobId& by_job) const {
  const Hold& hold = holds[h];
  const Job& job = jobs[hold.job];
  const Needs& needs = needs_of(job);
  const ClassPolicy& of = config.policy.of(needs.job_class);
  if (config.policy.rank(needs.job_class) <= config.policy.rank(by)) return false;
  if (!of.preemptible || needs.on_preempt == OnPreempt::never || job.state != JobState::running || job.cancel_asked) return false;
  if (job.evictions >= of.preemptions_max || !workers[hold.worker].usable()) return false;
  const auto& ignored_by = of.min_run_ignored_by;
  const Duration ran = hold.run_since == Instant{} ? Duration{-1} : lease_now() - hold.run_since;
  if (std::find(ignored_by.begin(), ignored_by.end(), by) == ignored_by.end()) {
    Duration least = of.min_run;
    if (job.evictions >= of.protect_after) least += of.min_run * (job.evictions - of.protect_after + 1);
    if (least > Duration{0} && ran < least) return false;
  }
  const Extra* x = extra(job);
  return x == nullptr || by_job.empty() || x->leave_for != by_job || ran >= config.policy.reserve_after;
}

/// A model may be evicted at once for a higher class than the one that loaded it; for others only after it was idle for a while,
/// and not at all while the policy keeps such models loaded.
bool Core::State::may_evict_model(const Charge& model, JobClass by, bool idle) const {
  const Lane& lane = lanes[model.lane];
  const Device& device = devices[lane.device];
  const std::uint8_t rank = config.policy.rank(model.job_class);
  if (lane.evicting || !workers[lane.worker].usable()) return false;
  if (model.job_class != by && device.rules.keeps_loaded[static_cast<std::size_t>(model.job_class)]) return false;
  if (rank > config.policy.rank(by)) return true;
  return idle && lane.idle_since + config.policy.model_idle_min <= lease_now();
}

/// One device as one shape sees it: what leaves already, what could.
struct Core::State::Ground {
  const State& state;
  const Shape& shape;
  Index index;
  JobClass by;
  JobId by_job;
  Index device;
  Mib need{};
  std::vector<Index> open;             ///< lanes where it fits once everything that may leave has left
  Without leaving;                     ///< free: it leaves anyway, or a plan for somebody further back in line gives way
  std::vector<Leaver> forced;          ///< attempts beside which the shape may not run
  std::vector<Leaver> units;
  mutable Without scratch;

  Ground(const State& s, const Shape& of, Index i, JobClass c, const JobId& job, Index d)
      : state(s), shape(of), index(i), by(c), by_job(job), device(d) {}

  Leaver attempt(Index h, Mib frees) const {
    const Hold& hold = state.holds[h];
    const Needs& needs = state.needs_of(state.jobs[hold.job]);
    const Duration cap = state.config.policy.of(needs.job_class).checkpoint_interval;
    const Duration lost = hold.safe_since == Instant{} ? Duration{0} : std::clamp(state.lease_now() - hold.safe_since, Duration{0}, cap);
    Leaver one;
    one.holds.push_back(h);
    one.frees = frees;
    one.tier = state.config.policy.rank(needs.job_class);
    one.cost = 1 + lost.count() * static_cast<std::int64_t>(std::max<std::size_t>(1, hold.devices.size()));
    one.since = hold.run_since.time_since_epoch().count();
    return one;
  }

  void leaves(Index h, Mib frees) {
    leaving.freed += frees;
    if (std::find(leaving.holds.begin(), leaving.holds.end(), h) == leaving.holds.end()) leaving.holds.push_back(h);
  }
  [[nodiscard]] bool is_forced(Index h) const {
    return std::any_of(forced.begin(), forced.end(), [&](const Leaver& one) { return one.holds.front() == h; });
  }

  /// False: what runs here will not let it start whatever it takes.
  bool survey() {
    const Device& d = state.devices[device];
    if (d.plan != kNone) {
      const Plan& plan = state.plans[d.plan];
      const Shape& owner = state.shapes[plan.shape];
      const bool first = shape.key.shape != kNone ? shape.key < owner.key : state.config.policy.rank(by) < state.config.policy.rank(owner.needs.job_class);
      if (plan.shape == index ? plan.kind != Plan::Kind::reserve : !first) return false;
    }
    if (d.model_holds != 0 && state.any_exclusion && !force_models()) return false;
    for (const Charge& c : d.charges) {
      switch (c.kind) {
        case Charge::Kind::held:
          if (c.plan == d.plan && state.plans[c.plan].shape != index) leaving.without(c);  // its own is added by the fit itself
          break;
        case Charge::Kind::ghost: leaving.without(c); break;
        case Charge::Kind::job: add_attempt(c.hold, c.size); break;
        case Charge::Kind::model:
          if (c.lane != kNone) add_model(c);
          else if (c.hold != kNone) add_attempt(c.hold, c.size);
          break;
      }
    }
    return true;
  }

  void add_attempt(Index h, Mib frees) {
    if (state.is_leaving(state.holds[h])) leaves(h, frees);
    else if (state.may_evict(h, by, by_job)) units.push_back(attempt(h, frees));
  }

  void add_model(const Charge& c) {
    const Lane& lane = state.lanes[c.lane];
    Leaver one;
    one.kind = Leaver::Kind::model;
    one.lane = c.lane;
    one.frees = c.size;
    std::vector<Index> runs;
    const bool busy = state.devices[device].model_holds != 0 && state.attempts_of(c.lane, runs);
    if (lane.evicting) {
      for (const Index h : runs) leaves(h, {});
      leaving.lanes.push_back(c.lane);
      leaving.freed += c.size;
      return;
    }
    if (!state.may_evict_model(c, by, !busy)) return;
    if (!busy) {
      one.tier = kJobClasses;
      one.since = -lane.idle_since.time_since_epoch().count();  // least recently used first: it counts as the youngest
      one.cost = 1;
      units.push_back(std::move(one));
      return;
    }
    one.tier = state.config.policy.rank(c.job_class);
    for (const Index h : runs) {
      if (state.is_leaving(state.holds[h]) || is_forced(h)) continue;
      if (!state.may_evict(h, by, by_job)) return;
      const Leaver a = attempt(h, {});
      one.holds.push_back(h);
      one.tier = std::min(one.tier, a.tier);
      one.cost += a.cost;
      one.since = std::max(one.since, a.since);
    }
    one.cost = std::max<std::int64_t>(1, one.cost);
    units.push_back(std::move(one));
  }

  /// Attempts on warm models hold no memory of their own; they leave only where the shape may not run beside their class.
  bool force_models() {
    for (const Reporter& reporter : state.devices[device].reporters)
      for (const Index h : state.workers[reporter.worker].holds) {
        const Hold& hold = state.holds[h];
        if (!hold.is_model || hold.devices.empty() || hold.devices.front() != device) continue;
        if (!state.config.policy.excludes(by, state.needs_of(state.jobs[hold.job]).job_class)) continue;
        if (state.is_leaving(hold)) {
          leaves(h, {});
        } else if (state.may_evict(h, by, by_job)) {
          forced.push_back(attempt(h, {}));
        } else {
          return false;
        }
      }
    return true;
  }

  void take(const Leaver& one) const {
    scratch.holds.insert(scratch.holds.end(), one.holds.begin(), one.holds.end());
    if (one.lane != kNone) scratch.lanes.push_back(one.lane);
    scratch.freed += one.frees;
  }
  template <class Chosen>
  const Without& without(Chosen chosen) const {
    scratch.holds.assign(leaving.holds.begin(), leaving.holds.end());
    scratch.lanes.assign(leaving.lanes.begin(), leaving.lanes.end());
    scratch.freed = leaving.freed;
    scratch.unlisted = leaving.unlisted;
    scratch.counts_held = leaving.counts_held;
    for (const Leaver& one : forced) take(one);
    for (std::size_t i = 0; i < units.size(); ++i)
      if (chosen(i)) take(units[i]);
    return scratch;
  }

  /// Whoever leaves a start lane gives its credit back a moment later.
  bool fits_at(Index lane, const Without& w) const {
    const std::size_t refusal = state.first_refusal(shape, index, lane, &w);
    if (refusal == kHardConstraints.size()) return true;
    if (kHardConstraints[refusal].name != "has_credit" || state.lanes[lane].kind != LaneKind::start) return false;
    return std::any_of(w.holds.begin(), w.holds.end(), [&](Index h) {
      const Hold& hold = state.holds[h];
      return hold.worker == state.lanes[lane].worker && !hold.is_model;
    });
  }
  template <class Chosen>
  bool fits(Chosen chosen) const {
    const Without& w = without(chosen);
    return std::any_of(open.begin(), open.end(), [&](Index lane) { return fits_at(lane, w); });
  }

  /// Could it ever? Lanes that say no with everything gone are not asked again.
  bool can() {
    const Device& d = state.devices[device];
    const Without& all = without([](std::size_t) { return true; });
    bool warm = false;
    for (const Index lane : d.lanes)
      if (fits_at(lane, all)) {
        open.push_back(lane);
        warm = warm || state.lanes[lane].kind == LaneKind::warm;
      }
    if (!warm) need = state.budget_min(shape, d);
    return !open.empty();
  }

  void sort_units() {
    std::sort(units.begin(), units.end(), [](const Leaver& a, const Leaver& b) {
      if (a.tier != b.tier) return a.tier > b.tier;
      if (a.cost != b.cost) return a.cost < b.cost;
      if (a.since != b.since) return a.since > b.since;
      return std::pair(a.lane, a.holds) < std::pair(b.lane, b.holds);
    });
  }

  static void add(Price& price, const Leaver& one) { price[one.tier] += one.cost; }
  [[nodiscard]] Price price_of(std::uint32_t mask) const {
    Price price{};
    for (std::size_t i = 0; i < units.size(); ++i)
      if ((mask >> i & 1U) != 0) add(price, units[i]);
    return price;
  }

  /// The cheapest set, by trying every one that is cheaper than the best so far.
  [[nodiscard]] std::vector<std::size_t> exact() const {
    std::uint32_t best = (1U << units.size()) - 1;
    Price lowest = price_of(best);
    for (std::uint32_t mask = 0; mask + 1 < 1U << units.size(); ++mask) {
      const Price price = price_of(mask);
      if (price > lowest || (price == lowest && mask > best)) continue;
      if (!fits([&](std::size_t i) { return (mask >> i & 1U) != 0; })) continue;
      best = mask;
      lowest = price;
    }
    std::vector<std::size_t> chosen;
    for (std::size_t i = 0; i < units.size(); ++i)
      if ((best >> i & 1U) != 0) chosen.push_back(i);
    return chosen;
  }

  [[nodiscard]] std::vector<std::size_t> greedy() const {
    std::vector<bool> in(units.size());
    const auto chosen = [&](std::size_t i) { return static_cast<bool>(in[i]); };
    for (std::size_t i = 0; i < units.size() && !fits(chosen); ++i) in[i] = true;
    for (std::size_t i = units.size(); i-- > 0;) {
      if (!in[i]) continue;
      in[i] = false;
      if (!fits(chosen)) in[i] = true;
    }
    std::vector<std::size_t> result;
    for (std::size_t i = 0; i < units.size(); ++i)
      if (in[i]) result.push_back(i);
    return result;
  }

  Proposal solve() {
    sort_units();
    Proposal p;
    p.devices.push_back(device);
    p.needs.push_back(need);
    for (Leaver& one : forced) p.leavers.push_back(one);
    for (const std::size_t i : units.size() <= kExactUnits ? exact() : greedy()) p.leavers.push_back(units[i]);
    for (const Leaver& one : p.leavers) add(p.price, one);
    return p;
  }
};

std::optional<Proposal> Core::State::room_at(const Shape& shape, Index index, Index device) const {
  Ground ground(*this, shape, index, shape.needs.job_class, index == kNone ? JobId{} : first_job(index), device);
  if (!ground.survey() || !ground.can()) return std::nullopt;
  return ground.solve();
}

/// All devices of a gang on one host: the cheapest that can be had, and whoever sits on several of them counts once.
std::optional<Proposal> Core::State::gang_room_at(const Shape& shape, Index index, Index worker) const {
  std::vector<Proposal> each;
  for (const Index device : workers[worker].devices)
    if (auto p = room_at(shape, index, device)) each.push_back(std::move(*p));
  if (each.size() < shape.needs.devices) return std::nullopt;
  std::sort(each.begin(), each.end(), [](const Proposal& a, const Proposal& b) { return std::pair(a.price, a.devices) < std::pair(b.price, b.devices); });
  each.resize(shape.needs.devices);
  Proposal all;
  all.worker = worker;
  for (Proposal& p : each) {
    all.devices.push_back(p.devices.front());
    all.needs.push_back(p.needs.front());
    for (Leaver& one : p.leavers) {
      const auto same = [&](const Leaver& other) { return other.lane == one.lane && other.holds == one.holds; };
      if (std::any_of(all.leavers.begin(), all.leavers.end(), same)) continue;
      Ground::add(all.price, one);
      all.leavers.push_back(std::move(one));
    }
  }
  return all;
}

/// How much the shape lacks on a device beyond what idle models hold; nullopt: not even without everybody who may leave.
std::optional<std::int64_t> Core::State::glance(const Shape& shape, Index device) const {
  const Device& d = devices[device];
  if (!d.open()) return std::nullopt;
  const std::uint8_t mine = classes[static_cast<std::size_t>(shape.needs.job_class)].rank;
  std::int64_t soon = d.free();
  std::int64_t could = soon;
  for (const Charge& c : d.charges) {
    if (c.kind == Charge::Kind::model || c.kind == Charge::Kind::ghost || c.kind == Charge::Kind::held) soon += c.size.value;
    const bool stays = c.kind == Charge::Kind::job && classes[static_cast<std::size_t>(c.job_class)].rank <= mine && !is_leaving(holds[c.hold]);
    if (!stays) could += c.size.value;
  }
  const std::int64_t need = budget_min(shape, d).value;
  if (could < need && !any_exclusion) return std::nullopt;
  return std::max<std::int64_t>(0, need - soon);
}

/// The cheapest places, at most `wanted`. A large fleet is looked at in turns: each look goes on where the last one ended.
std::vector<Proposal> Core::State::find_room(const Shape& shape, Index index, std::size_t wanted, std::size_t* cursor) const {
  std::vector<Proposal> found = shape.needs.devices > 1 ? find_gang_room(shape, index, cursor) : find_device_room(shape, index, cursor);
  std::sort(found.begin(), found.end(), [](const Proposal& a, const Proposal& b) { return std::pair(a.price, a.devices) < std::pair(b.price, b.devices); });
  if (found.size() > wanted) found.resize(wanted);
  return found;
}

std::vector<Proposal> Core::State::find_device_room(const Shape& shape, Index index, std::size_t* cursor) const {
  const std::size_t glances = cursor == nullptr ? SIZE_MAX : kDevicesGlanced;
  const std::size_t from = cursor == nullptr ? 0 : *cursor;
  std::vector<std::pair<std::int64_t, Index>> best;   // (what lacks, device)
  std::size_t looked = 0;
  const auto look = [&](const Ring& ring) {
    const std::size_t all = ring.members.size();
    for (std::size_t i = 0; i < all && looked < glances; ++i, ++looked) {
      const Index device = ring.members[(from + i) % all];
      if (const auto lacking = glance(shape, device)) best.emplace_back(*lacking, device);
    }
  };
  look(devices_warm);
  for (std::size_t rank = kJobClasses; rank-- > std::size_t{config.policy.rank(shape.needs.job_class)} + 1;)
    look(devices_running[static_cast<std::size_t>(config.policy.ladder[rank])]);
  if (cursor != nullptr && looked == glances) *cursor += glances;
  std::sort(best.begin(), best.end());
  best.erase(std::unique(best.begin(), best.end()), best.end());
  if (cursor != nullptr && best.size() > kDevicesPlanned) best.resize(kDevicesPlanned);
  std::vector<Proposal> found;
  for (const auto& [lacking, device] : best)
    if (auto p = room_at(shape, index, device)) found.push_back(std::move(*p));
  return found;
}

std::vector<Proposal> Core::State::find_gang_room(const Shape& shape, Index index, std::size_t* cursor) const {
  const std::size_t glances = cursor == nullptr ? SIZE_MAX : kDevicesGlanced;
  const std::size_t from = cursor == nullptr ? 0 : *cursor;
  const std::size_t all = workers.extent();
  std::vector<std::pair<std::int64_t, Index>> best;   // (what lacks on its best devices, worker)
  std::size_t looked = 0;
  for (std::size_t i = 0; i < all && looked < glances; ++i) {
    const auto w = static_cast<Index>((from + i) % all);
    if (!workers[w].usable() || workers[w].devices.size() < shape.needs.devices) continue;
    std::vector<std::int64_t> lacking;
    for (const Index device : workers[w].devices)
      if (const auto one = glance(shape, device)) lacking.push_back(*one);
    looked += workers[w].devices.size();
    if (lacking.size() < shape.needs.devices) continue;
    std::sort(lacking.begin(), lacking.end());
    best.emplace_back(std::accumulate(lacking.begin(), lacking.begin() + shape.needs.devices, std::int64_t{0}), w);
  }
  if (cursor != nullptr && looked >= glances) *cursor += glances;
  std::sort(best.begin(), best.end());
  std::size_t closely = cursor == nullptr ? SIZE_MAX : kDevicesPlanned;
  std::vector<Proposal> found;
  for (const auto& [lacking, w] : best) {
    if (auto p = gang_room_at(shape, index, w)) found.push_back(std::move(*p));
    if (closely <= workers[w].devices.size()) break;
    closely -= workers[w].devices.size();
  }
  return found;
}

}  // namespace gq::core

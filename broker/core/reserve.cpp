// reserve.cpp - a gang, or a job too large for what others leave over, waits behind small ones for ever. After a bound room is kept.
//
// Nobody is asked to leave. What runs on the chosen devices when the reservation is made is expected to end by itself; what starts
// later must fit beside the waiting job, or surely end before that could start (backfill: a timeout that ends before the latest end
// of those it waits for; while one of those has no timeout nothing may pass).
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

namespace {
constexpr Instant kUnknown = Instant::max();
}

/// The device, or the devices of one host, where the wait is shortest as far as timeouts tell. None: it would not fit when idle.
std::optional<Proposal> Core::State::find_reservation(const Shape& shape, Index index, Instant* starts_at) const {
  struct Spot {
    Instant at{};
    std::int64_t lacking{};
    Index device{};
    auto operator<=>(const Spot&) const = default;
  };
  const auto spot_at = [&](Index device) -> std::optional<Spot> {
    const Device& d = devices[device];
    if (!d.open() || d.plan != kNone) return std::nullopt;
    Without w;
    std::vector<std::pair<Instant, std::int64_t>> ends;
    for (const Charge& c : d.charges) {
      if (c.kind == Charge::Kind::held) continue;
      if (c.kind == Charge::Kind::model && c.lane != kNone) {
        if (lanes[c.lane].evicting || in_use(c.lane) || !may_evict_model(c, shape.needs.job_class, true)) continue;
        w.lanes.push_back(c.lane);
        ends.emplace_back(lease_now(), c.size.value);
      } else if (c.hold != kNone) {
        const Hold& hold = holds[c.hold];
        const Duration limit = jobs[hold.job].timeout;
        w.holds.push_back(c.hold);
        const Instant since = hold.run_since == Instant{} ? lease_now() : hold.run_since;
        ends.emplace_back(is_leaving(hold) ? lease_now() : limit > Duration{0} ? since + limit + config.timing.timeout_margin : kUnknown, c.size.value);
      } else {
        ends.emplace_back(lease_now(), c.size.value);
      }
      w.freed += c.size;
    }
    const bool fits = std::any_of(d.lanes.begin(), d.lanes.end(), [&](Index lane) {
      const std::size_t refusal = first_refusal(shape, index, lane, &w);
      return lanes[lane].kind == LaneKind::start &&
             (refusal == kHardConstraints.size() || kHardConstraints[refusal].name == "has_credit");
    });
    if (!fits) return std::nullopt;
    std::sort(ends.begin(), ends.end());
    Spot spot{lease_now(), std::max<std::int64_t>(0, budget_min(shape, d).value - d.free()), device};
    std::int64_t lacking = spot.lacking;
    for (std::size_t i = 0; i < ends.size() && lacking > 0; ++i) {
      lacking -= ends[i].second;
      spot.at = ends[i].first;
    }
    return spot;
  };

  std::optional<std::vector<Spot>> best;
  Index best_worker = kNone;
  const std::size_t all = workers.extent();
  const std::size_t from = index == kNone ? 0 : shape.plan_cursor;   // a large fleet is looked at in turns
  std::size_t looked = 0;
  for (std::size_t i = 0; i < all && looked < kDevicesGlanced; ++i) {
    const auto w = static_cast<Index>((from + i) % all);
    if (!workers[w].usable() || workers[w].devices.size() < shape.needs.devices) continue;
    std::vector<Spot> here;
    for (const Index device : workers[w].devices)
      if (const auto spot = spot_at(device)) here.push_back(*spot);
    looked += workers[w].devices.size();
    if (here.size() < shape.needs.devices) continue;
    std::sort(here.begin(), here.end());
    here.resize(shape.needs.devices);
    if (best && !(here.back() < best->back())) continue;
    best = std::move(here);
    best_worker = w;
  }
  if (!best) return std::nullopt;
  Proposal p;
  p.worker = shape.needs.devices > 1 ? best_worker : kNone;
  for (const Spot& spot : *best) {
    p.devices.push_back(spot.device);
    p.needs.push_back(budget_min(shape, devices[spot.device]));
  }
  *starts_at = best->back().at == kUnknown ? lease_now() : best->back().at;  // it could be at any moment: nothing surely ends before
  return p;
}

/// Room that is held for lower classes is listed nowhere, and no reason to wait: the tightest of these places. Gangs look at every
/// worker anyway.
bool Core::State::pick_held_for_lower(Index shape, Pick& pick) {
  const Shape& s = shapes[shape];
  if (plans_of.empty() || !on_device(s) || s.needs.devices > 1 || !may_start(s)) return false;
  const std::int64_t base = budget_base(s).value;
  std::int64_t best = INT64_MAX;
  Pick one;
  for (const auto& [owner, list] : plans_of)
    for (const Index p : list)
      for (const Index device : plans[p].devices) {
        const Device& d = devices[device];
        if (held_for_lower(s.needs.job_class, d) == nullptr) continue;
        const std::int64_t room = room_for(s, shape, device);
        if (room >= best || room < std::min(base, d.capacity.value)) continue;
        for (const Index lane : d.lanes)
          if (lanes[lane].kind == LaneKind::start && take(shape, lane, one)) {
            best = room;
            pick = one;
            break;
          }
      }
  return best != INT64_MAX;
}

/// Room that is kept, used meanwhile by a job that ends before it is needed.
bool Core::State::pick_backfill(Index index, Pick& pick) {
  const Shape& shape = shapes[index];
  if (plans_of.empty() || !on_device(shape) || shape.needs.devices > 1 || kKinds[shape.needs.kind].uses_model) return false;
  for (const auto& [owner, list] : plans_of) {
    if (owner == index) continue;
    for (const Index p : list) {
      const Plan& plan = plans[p];
      if (plan.kind != Plan::Kind::reserve) continue;
      const Duration limit = jobs[head(index, nullptr)->job].timeout;
      if (limit == Duration{0} || lease_now() + limit + config.timing.timeout_margin > plan.until) continue;
      for (const Index device : plan.devices) {
        Without w;
        for (const Charge& c : devices[device].charges)
          if (c.kind == Charge::Kind::held && c.plan == p) w.without(c);
        for (const Index lane : devices[device].lanes) {
          if (w.freed == Mib{} || lanes[lane].kind != LaneKind::start) continue;
          if (first_refusal(index, lane, &w) != kHardConstraints.size()) continue;
          pick = {};
          pick.lane = lane;
          pick.devices.push_back(device);
          pick.granted = budget_min(shape, devices[device]);
          pick.backfills = p;
          return true;
        }
      }
    }
  }
  return false;
}

/// The reservation counts on its end, too, as if it had been there before.
void Core::State::backfilled(Index hold, Index plan) {
  holds[hold].plan = 0;
  hold_room(plan);
}

}  // namespace gq::core

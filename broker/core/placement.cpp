// placement.cpp - how much a job gets, and the search for a place. The constraints themselves are in constraints.cpp.
#include "broker/core/placement.h"

#include <algorithm>

namespace gq::core {
namespace {

constexpr Mib kWeightsInDefault{64};   // a kind's default budget has room for so much of them

}  // namespace

Index Core::State::resolved(const Shape& shape) const {
  if (!uses_model(shape)) return kNone;
  if (shape.version_epoch == models_epoch) return shape.version;
  shape.version_epoch = models_epoch;
  shape.version = kNone;
  if (shape.needs.model.find('@') == std::string::npos) {
    if (const auto it = promoted.find(shape.needs.model); it != promoted.end()) shape.version = it->second;
  } else if (const auto it = version_of.find(shape.needs.model); it != version_of.end() && versions[it->second].registered) {
    shape.version = it->second;
  }
  return shape.version;
}

/// What a model asks for that was pushed without a budget: room to work, and its weights where they are more than a little of that.
Mib Core::State::model_base(Index version) const {
  const ModelRecord& record = versions[version].record;
  if (record.budget.value > 0) return record.budget;
  const auto file = static_cast<std::int64_t>(record.bytes >> 20U);
  return {kKinds[*kind_index("infer")].default_budget.value + std::max<std::int64_t>(0, file - kWeightsInDefault.value)};
}

/// What the job asks for at least, before a default is clamped to the card. What it names itself is what it gets.
Mib Core::State::budget_base(const Shape& shape) const {
  const Needs& needs = shape.needs;
  if (needs.budget_min.value > 0) return needs.budget_min;
  Mib base = kKinds[needs.kind].default_budget;
  if (const Index version = resolved(shape); version != kNone) {
    base = model_base(version);
  } else if (const Mib most = config.policy.of(needs.job_class).budget; most.value > 0 && !uses_model(shape)) {
    base = std::min(base, most);
  }
  return needs.budget_max.value > 0 ? std::min(base, needs.budget_max) : base;
}

Mib Core::State::budget_min(const Shape& shape, const Device& device) const {
  const Mib base = budget_base(shape);
  if (shape.needs.budget_min.value > 0) return base;
  if (const Index version = resolved(shape); version != kNone && versions[version].record.budget.value > 0) return base;
  return std::min(base, device.capacity);
}

/// Without a word of its own a job gets up to its class's budget; a model gets exactly what it needs.
Mib Core::State::budget_max(const Shape& shape, const Device& device) const {
  const Mib least = budget_min(shape, device);
  if (uses_model(shape)) return least;
  const Needs& needs = shape.needs;
  if (needs.budget_min.value == 0 && needs.budget_max.value == 0) return std::max(least, config.policy.of(needs.job_class).budget);
  return std::max(least, needs.budget_max);
}

/// What is kept for other classes and not in use by them. As if some had left, they use less of it, and more is kept.
std::int64_t Core::State::reserved_for_others(JobClass c, const Device& d, const Without* without, const Charge* also_gone) const {
  if (!d.rules.reserves) return 0;
  std::int64_t sum = 0;
  for (std::size_t o = 0; o < kJobClasses; ++o) {
    if (static_cast<JobClass>(o) == c || d.rules.reserved[o] == 0) continue;
    std::int64_t used = d.used_by[o].value;
    if (also_gone != nullptr && static_cast<std::size_t>(also_gone->job_class) == o) used -= also_gone->size.value;
    if (without != nullptr) {
      used -= without->unlisted[o];
      for (const Charge& charge : d.charges) {
        const bool model = charge.kind == Charge::Kind::model && charge.lane != kNone;
        const auto& gone = model ? without->lanes : without->holds;
        if (static_cast<std::size_t>(charge.job_class) == o && std::find(gone.begin(), gone.end(), model ? charge.lane : charge.hold) != gone.end())
          used -= charge.size.value;
      }
    }
    sum += std::max<std::int64_t>(0, d.rules.reserved[o] - used);
  }
  return sum;
}

std::int64_t Core::State::room_of(JobClass c, const Device& d) const {
  const std::uint8_t refused = classes[static_cast<std::size_t>(c)].not_beside;
  for (std::size_t o = 0; o < kJobClasses; ++o)
    if (d.running[o] != 0 && (refused >> o & 1U) != 0) return -1;
  return std::max<std::int64_t>(0, d.free() - reserved_for_others(c, d, nullptr));
}

/// What plans of lower classes hold is no reason for a higher one to wait: it starts there, and they look for room elsewhere.
std::int64_t Core::State::room_for(const Shape& shape, Index index, Index device, const Without* without) const {
  const Device& d = devices[device];
  const bool counted = d.plan == kNone || (without != nullptr && without->counts_held);
  const Charge* held = counted ? nullptr : held_for_lower(shape.needs.job_class, d);
  std::int64_t room = d.free() - reserved_for_others(shape.needs.job_class, d, without, held);
  if (held != nullptr) room += held->size.value;
  if (without != nullptr) room += without->freed.value;
  if (d.plan != kNone && index != kNone) room += held_for(index, device).value;
  return room;
}

Index Core::State::content_with(const Shape& shape, Index version) const {
  const ModelVersion& v = versions[version];
  const auto serves = [&](Index lane) {
    const Worker& worker = workers[lanes[lane].worker];
    return (lanes[lane].serves >> static_cast<unsigned>(shape.needs.job_class) & 1U) != 0 && has_kind(shape.needs, worker.kinds) && has_labels(shape.needs, worker.labels);
  };
  return kJobsPerLoad * (v.loading + (std::any_of(v.open_lanes.begin(), v.open_lanes.end(), serves) ? 1U : 0U));
}

bool Core::State::fits_group(Index index, Index group) {
  Shape& shape = shapes[index];
  if (shape.fits_group.size() < groups.size()) shape.fits_group.resize(groups.size());
  std::uint8_t& known = shape.fits_group[group];
  if (known == 0) known = has_kind(shape.needs, groups[group].kinds) && has_labels(shape.needs, groups[group].labels) ? 2 : 1;
  return known == 2;
}

std::size_t Core::State::first_refusal(Index shape, Index lane, const Without* without) const {
  return first_refusal(shapes[shape], shape, lane, without);
}

Core::Place Core::State::place_at(const Shape& shape, Index index, Index lane, const Without* without) const {
  const Lane& l = lanes[lane];
  return {*this, index, shape, lane, l, workers[l.worker], l.device == kNone ? nullptr : &devices[l.device], resolved(shape), without};
}

/// The same for a shape that nobody has submitted: `index` is then kNone.
std::size_t Core::State::first_refusal(const Shape& shape, Index index, Index lane, const Without* without) const {
  const Place place = place_at(shape, index, lane, without);
  for (std::size_t i = 0; i < kHardConstraints.size(); ++i)
    if (!kHardConstraints[i].holds(place)) return i;
  return kHardConstraints.size();
}

bool Core::State::take(Index shape, Index lane, Pick& pick) const {
  if (first_refusal(shape, lane) != kHardConstraints.size()) return false;
  const Lane& l = lanes[lane];
  pick = {};
  pick.lane = lane;
  if (l.device == kNone) return true;
  const Device& d = devices[l.device];
  pick.devices.push_back(l.device);
  if (l.kind == LaneKind::warm) return true;
  pick.granted = std::min(budget_max(shapes[shape], d), Mib{room_for(shapes[shape], shape, l.device)});
  if (uses_model(shapes[shape])) pick.loads = pick.granted;
  return true;
}

bool Core::State::pick_slots(Index shape, Pick& pick) {
  for (Index g = 0; g < groups.size(); ++g) {
    Ring& ring = groups[g].slots;
    if (ring.members.empty() || !fits_group(shape, g)) continue;
    for (std::size_t i = 0; i < ring.members.size(); ++i) {
      const std::size_t at = (ring.cursor + i) % ring.members.size();
      if (!take(shape, ring.members[at], pick)) continue;
      ring.cursor = at + 1 < ring.members.size() ? at + 1 : 0;
      return true;
    }
  }
  return false;
}

bool Core::State::pick_warm(Index shape, Pick& pick) {
  const Index version = resolved(shapes[shape]);
  if (version == kNone) return false;
  Ring& ring = versions[version].warm;
  for (std::size_t i = 0; i < ring.members.size(); ++i) {
    const std::size_t at = (ring.cursor + i) % ring.members.size();
    if (!take(shape, ring.members[at], pick)) continue;
    ring.cursor = at + 1 < ring.members.size() ? at + 1 : 0;
    return true;
  }
  return false;
}

/// Best fit: the device with the least room that still suffices. A default is clamped to small cards: those are asked last.
bool Core::State::pick_start(Index shape, Pick& pick) {
  const Shape& s = shapes[shape];
  const JobClass job_class = s.needs.job_class;
  const std::int64_t base = budget_base(s).value;
  if (uses_model(s)) {
    const Index version = resolved(s);  // the same for every device: ask once
    if (version == kNone || s.ready <= content_with(s, version)) return false;
  }
  freshen_lists();
  std::int64_t best = INT64_MAX;
  const auto search = [&](std::int64_t from, std::int64_t to, bool small_only) {
    for (const Shelf& shelf : shelves) {
      const Shelf::List& starts = shelf.list(job_class);
      if (starts.empty() || (small_only && !shelf.small) || !shelf.takes(job_class) || !fits_group(shape, shelf.group)) continue;
      for (auto it = starts.lower_bound({from, 0}); it != starts.end() && it->first < std::min(to, best); ++it)
        if (take(shape, it->second, pick)) {
          best = it->first;
          break;
        }
    }
    return best != INT64_MAX;
  };
  if (packs_by_fgd() ? pick_packed(shape, base, pick) : search(base, INT64_MAX, false)) return true;
  return s.needs.budget_min.value == 0 && smallest_capacity < base && search(smallest_capacity, base, true);
}

/// With one or two devices there is no mix to speak of, and the tightest fit is as good as any rule.
bool Core::State::packs_by_fgd() const {
  return config.policy.packing == Packing::fgd || (config.policy.packing == Packing::automatic && accelerators > kFgdDevices);
}

/// The device on which the least memory becomes useless to what usually comes; among equals the one with the least room.
bool Core::State::pick_packed(Index shape, std::int64_t need, Pick& pick) {
  const JobClass job_class = shapes[shape].needs.job_class;
  bool found = false;
  std::uint32_t best_step = 0;
  std::int64_t best_room = 0;
  Pick one;
  for (const Preference& p : packing.preferences(need, largest_capacity)) {
    if (found && p.step < best_step) break;
    if (found && p.step == best_step && p.from >= best_room) continue;
    std::int64_t room = p.to;  // of the best one in [from, to)
    for (const Shelf& shelf : shelves) {
      const Shelf::List& starts = shelf.list(job_class);
      if (starts.empty() || !shelf.takes(job_class) || !fits_group(shape, shelf.group)) continue;
      for (auto it = starts.lower_bound({p.from, 0}); it != starts.end() && it->first < room; ++it)
        if (take(shape, it->second, one)) {
          room = it->first;
          break;
        }
    }
    if (room == p.to) continue;
    const std::uint32_t step = packing.step_at(p, room, largest_capacity);
    if (found && (step < best_step || (step == best_step && room >= best_room))) continue;
    found = true;
    best_step = step;
    best_room = room;
    pick = one;
  }
  return found;
}

/// All devices of a gang on one worker, or none; the tightest that suffice. Credit is taken where the first one lies.
bool Core::State::gang_at(const Shape& s, Index index, Index worker, Pick& pick) const {
  std::vector<std::pair<std::int64_t, Index>> fitting;
  for (const Index lane : workers[worker].lanes) {
    if (lanes[lane].kind != LaneKind::start) continue;
    const std::size_t refusal = first_refusal(s, index, lane);
    if (refusal != kHardConstraints.size() && kHardConstraints[refusal].name != "has_credit") continue;
    // A worker may open several start lanes on one device: it is one device all the same.
    const auto same = std::find_if(fitting.begin(), fitting.end(), [&](const auto& f) { return lanes[f.second].device == lanes[lane].device; });
    if (same == fitting.end()) fitting.emplace_back(room_for(s, index, lanes[lane].device), lane);
    else if (!lanes[same->second].has_credit()) same->second = lane;
  }
  if (fitting.size() < s.needs.devices) return false;
  std::sort(fitting.begin(), fitting.end());
  const auto lead = std::find_if(fitting.begin(), fitting.end(), [&](const auto& f) { return lanes[f.second].has_credit(); });
  if (lead == fitting.end()) return false;
  std::rotate(fitting.begin(), lead, lead + 1);
  pick = {};
  pick.lane = fitting.front().second;
  pick.granted = kRestOfDevice;
  for (std::size_t i = 0; i < s.needs.devices; ++i) {
    pick.devices.push_back(lanes[fitting[i].second].device);
    pick.granted = std::min({pick.granted, Mib{fitting[i].first}, budget_max(s, devices[pick.devices.back()])});
  }
  return true;
}

bool Core::State::pick_gang(Index shape, Pick& pick) {
  for (Index w = 0; w < workers.extent(); ++w) {
    const Worker& worker = workers[w];
    if (!worker.usable() || worker.devices.size() < shapes[shape].needs.devices || !fits_group(shape, worker.group)) continue;
    if (gang_at(shape, w, pick)) return true;
  }
  return false;
}

bool Core::State::pick_anywhere(Index shape, Pick& pick) {
  const Shape& s = shapes[shape];
  if (!may_start(s)) return false;
  if (!on_device(s)) return pick_slots(shape, pick);
  if (s.needs.devices > 1) return pick_gang(shape, pick);
  return (uses_model(s) && pick_warm(shape, pick)) || pick_start(shape, pick);
}

/// A parked shape is known to fit nowhere else: only places that got more room in this step are asked.
bool Core::State::pick_touched(Index shape, Pick& pick) {
  const Shape& s = shapes[shape];
  if (!may_start(s)) return false;
  if (!on_device(s))
    return std::any_of(touched_slots.begin(), touched_slots.end(), [&](Index lane) { return take(shape, lane, pick); });
  if (s.needs.devices > 1)
    return std::any_of(touched_device_lanes.begin(), touched_device_lanes.end(),
                       [&](Index lane) { return gang_at(shape, lanes[lane].worker, pick); });
  Pick one;
  bool found = false;
  std::int64_t best = INT64_MAX;
  const std::int64_t base = budget_base(s).value;
  for (const Index lane : touched_device_lanes) {
    // Most shapes say no to most places for want of room: seen here at a glance, before every constraint is asked in turn.
    if (const Lane& l = lanes[lane]; l.kind == LaneKind::start && room_for(s, shape, l.device) < std::min(base, devices[l.device].capacity.value)) continue;
    if (!take(shape, lane, one)) continue;
    const std::int64_t score = lanes[lane].kind == LaneKind::warm ? -1 : room_for(s, shape, lanes[lane].device);
    if (score >= best) continue;
    best = score;
    pick = one;
    found = true;
    if (score < 0) break;
  }
  return found;
}

/// A suspect must run alone, and a busy device would never let it: the least busy one takes no more model jobs until it has.
void Core::State::await_device(Index shape) {
  Shape& s = shapes[shape];
  if (!s.suspect || !uses_model(s) || s.awaited != kNone) return;
  Index best = kNone;
  for (Index w = 0; w < workers.extent(); ++w) {
    if (!workers[w].usable() || !fits_group(shape, workers[w].group)) continue;
    for (const Index lane : workers[w].lanes) {
      const Index device = lanes[lane].device;
      if (device == kNone || !devices[device].healthy || devices[device].awaits != kNone || devices[device].model_holds == 0) continue;
      if (lanes[lane].kind == LaneKind::warm ? lanes[lane].version != resolved(s) : has_model(device, resolved(s))) continue;
      if (best == kNone || devices[device].model_holds < devices[best].model_holds) best = device;
    }
  }
  if (best == kNone) return;
  devices[best].awaits = shape;
  s.awaited = best;
}

void Core::State::stop_awaiting(Index shape) {
  if (shapes[shape].awaited != kNone) end_awaiting(shapes[shape].awaited);
}

}  // namespace gq::core

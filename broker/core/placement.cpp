// placement.cpp - the constraints, and the search for a place.
#include "broker/core/placement.h"

#include <algorithm>

namespace gq::core {

namespace {
bool has_labels(const Needs& needs, const std::vector<std::string>& labels) {
  return std::all_of(needs.where.begin(), needs.where.end(),
                     [&](const std::string& w) { return std::binary_search(labels.begin(), labels.end(), w); });
}
bool has_kind(const Needs& needs, std::uint32_t kinds) { return (kinds >> needs.kind & 1U) != 0; }
bool uses_model(const Shape& shape) { return kKinds[shape.needs.kind].uses_model; }
std::uint64_t backoff_key(Index shape, Index place) { return std::uint64_t{shape} << 32U | place; }
}  // namespace

const std::array<Core::HardConstraint, 12> Core::kHardConstraints{{
    {"worker_is_live", "no live worker", [](const Place& p) { return p.worker.usable(); }},
    {"offers_the_kind", "no worker offers this kind", [](const Place& p) { return has_kind(p.shape.needs, p.worker.kinds); }},
    {"has_the_labels", "no worker has these labels", [](const Place& p) { return has_labels(p.shape.needs, p.worker.labels); }},
    {"model_is_registered", "its model has been removed",
     [](const Place& p) { return !uses_model(p.shape) || p.version != kNone; }},
    {"takes_such_starts", "no worker takes such starts",
     [](const Place& p) {
       if (p.device == nullptr) return !State::on_device(p.shape);
       return State::on_device(p.shape) && (p.lane.kind == LaneKind::start || (p.version != kNone && p.lane.version == p.version));
     }},
    {"device_is_healthy", "the device is not healthy", [](const Place& p) { return p.device == nullptr || p.device->healthy; }},
    {"not_backing_off", "backing off after a refusal",
     [](const Place& p) {
       return p.shape.backoffs == 0 ||
              !p.state.backoffs.contains(backoff_key(p.shape_index, p.device != nullptr ? p.lane.device : (p.lane.worker | 1U << 31U)));
     }},
    {"runs_alone", "a job that crashed its executor runs alone on the device",
     [](const Place& p) {
       if (p.device == nullptr || !uses_model(p.shape)) return true;
       if (p.shape.suspect) return p.device->model_holds == 0 && (p.device->awaits == kNone || p.device->awaits == p.shape_index);
       return p.device->suspects == 0 && p.device->awaits == kNone;
     }},
    {"not_loaded_here_already", "its model is being loaded",
     [](const Place& p) {
       return p.device == nullptr || p.lane.kind == LaneKind::warm || !uses_model(p.shape) ||
              !p.state.has_model(p.lane.device, p.version);
     }},
    {"worth_a_load", "its model is loaded; waiting for a turn there",
     [](const Place& p) {
       if (p.device == nullptr || p.lane.kind == LaneKind::warm || !uses_model(p.shape)) return true;
       const ModelVersion& v = p.state.versions[p.version];
       return p.shape.ready > kJobsPerLoad * (v.loading + (v.lanes > 0 ? 1U : 0U));
     }},
    {"fits_the_ledger", "not enough free device memory",
     [](const Place& p) {
       if (p.device == nullptr || p.lane.kind == LaneKind::warm) return true;
       return p.device->capacity.value > 0 && p.device->free() >= p.state.budget_min(p.shape, *p.device).value;
     }},
    {"has_credit", "all workers are busy", [](const Place& p) { return p.lane.has_credit(); }},
}};

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

/// What the job asks for, before a default is clamped to the card.
Mib Core::State::budget_base(const Shape& shape) const {
  const Needs& needs = shape.needs;
  if (needs.budget_min.value > 0) return needs.budget_min;
  Mib base = kKinds[needs.kind].default_budget;
  if (const Index version = resolved(shape); version != kNone && versions[version].record.budget.value > 0)
    base = versions[version].record.budget;
  return needs.budget_max.value > 0 ? std::min(base, needs.budget_max) : base;
}

Mib Core::State::budget_min(const Shape& shape, const Device& device) const {
  const Mib base = budget_base(shape);
  return shape.needs.budget_min.value > 0 ? base : std::min(base, device.capacity);
}

Mib Core::State::budget_max(const Shape& shape, const Device& device) const {
  const Mib least = budget_min(shape, device);
  return uses_model(shape) ? least : std::max(least, shape.needs.budget_max);
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

/// The same for a shape that nobody has submitted: `index` is then kNone.
std::size_t Core::State::first_refusal(const Shape& shape, Index index, Index lane, const Without* without) const {
  const Lane& l = lanes[lane];
  const Place place{*this, index, shape, lane, l, workers[l.worker], l.device == kNone ? nullptr : &devices[l.device],
                    resolved(shape), without};
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
  pick.granted = std::min(budget_max(shapes[shape], d), Mib{d.free()});
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

/// Best fit: the device with the least free memory that still suffices.
bool Core::State::pick_start(Index shape, Pick& pick) {
  const std::int64_t base = budget_base(shapes[shape]).value;
  if (const Index version = resolved(shapes[shape]); uses_model(shapes[shape])) {
    if (version == kNone) return false;
    const ModelVersion& v = versions[version];  // the same for every device: ask once
    if (shapes[shape].ready <= kJobsPerLoad * (v.loading + (v.lanes > 0 ? 1U : 0U))) return false;
  }
  std::int64_t best = INT64_MAX;
  const auto search = [&](std::int64_t from, std::int64_t to) {
    for (Index g = 0; g < groups.size(); ++g) {
      const auto& starts = groups[g].starts;
      if (starts.empty() || !fits_group(shape, g)) continue;
      for (auto it = starts.lower_bound({from, 0}); it != starts.end() && it->first < std::min(to, best); ++it)
        if (take(shape, it->second, pick)) {
          best = it->first;
          break;
        }
    }
    return best != INT64_MAX;
  };
  if (search(base, INT64_MAX)) return true;
  return shapes[shape].needs.budget_min.value == 0 && smallest_capacity < base && search(smallest_capacity, base);
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
    if (same == fitting.end()) fitting.emplace_back(devices[lanes[lane].device].free(), lane);
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
    const Device& d = devices[lanes[fitting[i].second].device];
    pick.devices.push_back(lanes[fitting[i].second].device);
    pick.granted = std::min({pick.granted, Mib{d.free()}, budget_max(s, d)});
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
  if (!on_device(s)) return pick_slots(shape, pick);
  if (s.needs.devices > 1) return pick_gang(shape, pick);
  return (uses_model(s) && pick_warm(shape, pick)) || pick_start(shape, pick);
}

/// A parked shape is known to fit nowhere else: only places that got more room in this step are asked.
bool Core::State::pick_touched(Index shape, Pick& pick) {
  const Shape& s = shapes[shape];
  if (!on_device(s))
    return std::any_of(touched_slots.begin(), touched_slots.end(), [&](Index lane) { return take(shape, lane, pick); });
  if (s.needs.devices > 1)
    return std::any_of(touched_device_lanes.begin(), touched_device_lanes.end(),
                       [&](Index lane) { return gang_at(shape, lanes[lane].worker, pick); });
  Pick one;
  bool found = false;
  std::int64_t best = INT64_MAX;
  for (const Index lane : touched_device_lanes) {
    if (!take(shape, lane, one)) continue;
    const std::int64_t score = lanes[lane].kind == LaneKind::warm ? -1 : devices[lanes[lane].device].free();
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

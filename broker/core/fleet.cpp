// fleet.cpp - workers' groups and lanes: which places have credit, kept so that finding one costs nothing.
//
// A start lane is listed by the room that a class finds there. What says no to every job (drained, hot, ill, silent, no credit) is
// not listed at all; what says no to a class by the policy stands on another shelf. So a search meets hardly a device in vain.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

namespace {
constexpr std::size_t kStaleMax = 128;  ///< listings that may wait: no search has to make up for more at once
}  // namespace

Index Core::State::group_for(std::uint32_t kinds, const std::vector<std::string>& labels) {
  for (Index i = 0; i < groups.size(); ++i)
    if (groups[i].kinds == kinds && groups[i].labels == labels) return i;
  groups.push_back({kinds, labels, {}});
  return static_cast<Index>(groups.size() - 1);
}

Index Core::State::worker_for(const std::string& name) {
  const Index text = texts.intern(name);
  const auto [it, is_new] = worker_of.try_emplace(text, kNone);
  if (is_new) {
    it->second = workers.make();
    workers[it->second].name = text;
    workers[it->second].draining = !settings.empty() && settings.contains({OperatorSetting::Kind::drain_worker, name});
  }
  return it->second;
}

Index Core::State::lane_of(Index worker, std::uint16_t id) const {
  for (const Index lane : workers[worker].lanes)
    if (lanes[lane].id == id) return lane;
  return kNone;
}

/// A lane that names an unknown device, or an id that is open already, is a worker's mistake: it simply gets no work.
void Core::State::open_lane(Index worker, const LaneDeclared& declared) {
  if (lane_of(worker, declared.lane) != kNone || declared.kind > LaneKind::warm) return;
  Lane lane;
  lane.worker = worker;
  lane.id = declared.lane;
  lane.kind = declared.kind;
  if (declared.kind != LaneKind::slots) {
    const auto& mine = workers[worker].devices;
    const auto at = std::find_if(mine.begin(), mine.end(), [&](Index d) { return texts[devices[d].uuid] == declared.device; });
    if (at == mine.end()) return;
    lane.device = *at;
    if (declared.kind == LaneKind::warm) {
      if (declared.model.empty() || declared.model.size() > 2 * config.limits.name_chars_max) return;
      lane.version = version_for(declared.model);
    }
  }
  const Index index = lanes.make();
  lanes[index] = lane;
  workers[worker].lanes.push_back(index);
  if (lane.device != kNone) devices[lane.device].lanes.push_back(index);
  shelve(index);
  if (lane.kind != LaneKind::warm) return;
  model_opened(index);
  refresh_device(lane.device, false);
  wake_version(lane.version);  // who waited for the load may be one whom this lane does not serve
}

void Core::State::close_lane(Index index) {
  Lane& lane = lanes[index];
  const Index worker = lane.worker;
  lane.limit = lane.used;
  refresh_lane(index, false);
  list_lane(index, false);
  if (lane.touched) {
    auto& touched = lane.kind == LaneKind::slots ? touched_slots : touched_device_lanes;
    std::erase(touched, index);
  }
  std::erase(workers[worker].lanes, index);
  const Index device = lane.device;
  if (device != kNone) std::erase(devices[device].lanes, index);
  if (lane.kind == LaneKind::warm) {
    const Index version = lane.version;
    --versions[version].lanes;
    std::erase(versions[version].open_lanes, index);
    lane_closed(index);
    list_models(device);
    (void)uncharge(device, [&](const Charge& c) { return c.kind == Charge::Kind::model && c.lane == index; });
    refresh_device(device, true);
    wake_version(version);
  }
  lanes.drop(index);
}

void Core::State::set_credit(Index worker, const LaneCredit& credit) {
  const Index index = lane_of(worker, credit.lane);
  if (index == kNone) return;
  Lane& lane = lanes[index];
  if (credit.limit <= lane.limit) return;  // cumulative: an old or doubled message says nothing new
  lane.limit = credit.limit;
  refresh_lane(index, true);
}

bool Core::State::is_open(const Lane& lane) const {
  const Worker& worker = workers[lane.worker];
  return worker.usable() && !worker.draining && lane.has_credit() && !lane.evicting && (lane.device == kNone || devices[lane.device].open());
}

/// Devices that the policy treats alike stand on one shelf; there are as many as there are groups and sets of rules.
void Core::State::shelve(Index index) {
  Lane& lane = lanes[index];
  if (lane.kind != LaneKind::start) return;
  const Device& d = devices[lane.device];
  const Index group = workers[lane.worker].group;
  const bool by_class = any_exclusion || d.rules.reserves;
  const auto same = [&](const Shelf& s) {
    return s.group == group && s.classes == d.rules.classes && s.by_class == by_class && s.small == d.small;
  };
  if (lane.shelf != kNone && same(shelves[lane.shelf])) return;
  list_lane(index, false);
  const auto found = std::find_if(shelves.begin(), shelves.end(), same);
  lane.shelf = static_cast<Index>(found - shelves.begin());
  if (found == shelves.end()) {
    Shelf& s = shelves.emplace_back();
    s.group = group;
    s.classes = d.rules.classes;
    s.by_class = by_class;
    s.small = d.small;
  }
  list_lane(index, is_open(lane));
}

void Core::State::list_lane(Index index, bool open) {
  Lane& lane = lanes[index];
  if (lane.shelf == kNone) return;
  const Device& d = devices[lane.device];
  Shelf& shelf = shelves[lane.shelf];
  for (std::size_t c = 0; c < (shelf.by_class ? kJobClasses : 1); ++c) {
    const std::int64_t room = !open ? -1 : shelf.by_class ? room_of(static_cast<JobClass>(c), d) : std::max<std::int64_t>(0, d.free());
    if (room == lane.listed[c]) continue;
    Shelf::List& list = shelf.starts[c];
    Shelf::List::node_type node;
    if (lane.listed[c] >= 0) {
      node = list.extract({lane.listed[c], index});
    } else if (!spare_nodes.empty()) {
      node = std::move(spare_nodes.back());
      spare_nodes.pop_back();
    }
    lane.listed[c] = room;
    if (room < 0) {
      if (!node.empty()) spare_nodes.push_back(std::move(node));
    } else if (node.empty()) {
      list.emplace(room, index);
    } else {
      node.value() = {room, index};
      list.insert(std::move(node));
    }
  }
}

/// What one job gives back the next one often takes in the same breath: then the lane has not moved at all.
void Core::State::freshen_lists() {
  for (const Index index : stale_lanes) {
    Lane& lane = lanes[index];
    if (!lane.stale) continue;  // closed meanwhile
    lane.stale = false;
    list_lane(index, is_open(lane));
  }
  stale_lanes.clear();
}

/// Whom a warm model may serve here at all. When it is no more than it was, a copy elsewhere may be worth its memory.
void Core::State::refresh_serves(Lane& lane) {
  const Device& d = devices[lane.device];
  std::uint8_t serves = 0;
  if (d.open() && !workers[lane.worker].draining && !lane.evicting)
    for (std::size_t c = 0; c < kJobClasses; ++c)
      if ((d.rules.classes >> c & 1U) != 0 && (!any_exclusion || room_of(static_cast<JobClass>(c), d) >= 0)) serves |= static_cast<std::uint8_t>(1U << c);
  const bool fewer = (lane.serves & ~serves) != 0;
  lane.serves = serves;
  if (!fewer) return;
  wake_version(lane.version);
  room_reopened = true;  // may happen under the hands of the pass over the shapes
}

void Core::State::refresh_lane(Index index, bool more_room) {
  Lane& lane = lanes[index];
  const bool open = is_open(lane);
  if (lane.kind == LaneKind::start) {
    if (!lane.stale) {
      lane.stale = true;
      stale_lanes.push_back(index);
      if (stale_lanes.size() >= kStaleMax) freshen_lists();
    }
  } else {
    if (lane.kind == LaneKind::warm) refresh_serves(lane);
    Ring& ring = lane.kind == LaneKind::slots ? groups[workers[lane.worker].group].slots : versions[lane.version].warm;
    if (open && lane.ring_at == kNone) ring.join(index, lane.ring_at);
    if (!open && lane.ring_at != kNone) ring.leave(lane.ring_at, [&](Index other) -> Index& { return lanes[other].ring_at; });
  }
  if (open && more_room && !lane.touched) {
    lane.touched = true;
    (lane.kind == LaneKind::slots ? touched_slots : touched_device_lanes).push_back(index);
  }
}

void Core::State::refresh_worker(Index worker, bool more_room) {
  for (const Index lane : workers[worker].lanes) refresh_lane(lane, more_room);
}

Index Core::State::device_for(Index uuid) {
  const auto [it, is_new] = device_of.try_emplace(uuid, kNone);
  if (is_new) {
    it->second = devices.make();
    devices[it->second].uuid = uuid;
    devices[it->second].draining = !settings.empty() && settings.contains({OperatorSetting::Kind::drain_device, texts[uuid]});
  }
  return it->second;
}

void Core::State::list_devices(Index worker, const std::vector<DeviceReport>& reports) {
  auto& mine = workers[worker].devices;
  for (const DeviceReport& report : reports) {
    if (report.uuid.empty() || report.uuid.size() > 2 * config.limits.name_chars_max) continue;
    const Index device = device_for(texts.intern(report.uuid));
    if (std::find(mine.begin(), mine.end(), device) != mine.end()) continue;
    mine.push_back(device);
    devices[device].reporters.push_back({worker, report});
  }
  if (mine.empty()) return;
  host_comes(workers[worker].host);
  for (const Index device : mine) {
    resolve_rules(device);
    measure(device);
  }
}

void Core::State::unlist_devices(Index worker) {
  auto& mine = workers[worker].devices;
  for (const Index device : mine) {
    std::erase_if(devices[device].reporters, [&](const Reporter& r) { return r.worker == worker; });
    resolve_rules(device);
    measure(device);
  }
  if (!mine.empty()) host_goes(workers[worker].host);
  mine.clear();
}

}  // namespace gq::core

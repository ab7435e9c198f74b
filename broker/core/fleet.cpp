// fleet.cpp - workers' groups and lanes: which places have credit, kept so that finding one costs nothing.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

Index Core::State::group_for(std::uint32_t kinds, const std::vector<std::string>& labels) {
  for (Index i = 0; i < groups.size(); ++i)
    if (groups[i].kinds == kinds && groups[i].labels == labels) return i;
  groups.push_back({kinds, labels, {}, {}});
  return static_cast<Index>(groups.size() - 1);
}

Index Core::State::worker_for(const std::string& name) {
  const Index text = texts.intern(name);
  const auto [it, is_new] = worker_of.try_emplace(text, kNone);
  if (is_new) {
    it->second = workers.make();
    workers[it->second].name = text;
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
  if (lane.kind == LaneKind::warm) model_opened(index);
}

void Core::State::close_lane(Index index) {
  Lane& lane = lanes[index];
  const Index worker = lane.worker;
  lane.limit = lane.used;
  refresh_lane(index, false);
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

void Core::State::refresh_lane(Index index, bool more_room) {
  Lane& lane = lanes[index];
  const Worker& worker = workers[lane.worker];
  const bool open = worker.usable() && lane.has_credit() && (lane.device == kNone || devices[lane.device].healthy);
  if (lane.kind == LaneKind::start) {
    auto& starts = groups[worker.group].starts;
    const std::int64_t free = open ? std::max<std::int64_t>(0, devices[lane.device].free()) : -1;
    if (free != lane.listed_free) {
      if (lane.listed_free >= 0) starts.erase({lane.listed_free, index});
      if (free >= 0) starts.insert({free, index});
      lane.listed_free = free;
    }
  } else {
    Ring& ring = lane.kind == LaneKind::slots ? groups[worker.group].slots : versions[lane.version].warm;
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
  }
  return it->second;
}

void Core::State::list_devices(Index worker, const std::vector<DeviceReport>& reports) {
  for (const DeviceReport& report : reports) {
    if (report.uuid.empty() || report.uuid.size() > 2 * config.limits.name_chars_max) continue;
    const Index device = device_for(texts.intern(report.uuid));
    auto& mine = workers[worker].devices;
    if (std::find(mine.begin(), mine.end(), device) != mine.end()) continue;
    mine.push_back(device);
    devices[device].reporters.push_back({worker, report});
    measure(device);
  }
}

void Core::State::unlist_devices(Index worker) {
  for (const Index device : workers[worker].devices) {
    std::erase_if(devices[device].reporters, [&](const Reporter& r) { return r.worker == worker; });
    measure(device);
  }
  workers[worker].devices.clear();
}

}  // namespace gq::core

// ledger.cpp - one ledger per UUID, whoever reports the card.
//
// free = total - driver - headroom - foreign - charges. Foreign is what is measured beyond the driver and beyond what the
// workers' own children use: notebooks and other services count. A model is charged once per worker, device and version.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

/// The newest report says what the card holds; each reporting worker says what its own children hold of it.
void Core::State::measure(Index index) {
  Device& d = devices[index];
  if (d.reporters.empty()) {
    d.healthy = false;
    d.capacity = d.foreign = {};
  } else {
    const DeviceReport& r = d.reporters.back().report;
    Mib ours;
    for (const Reporter& one : d.reporters) ours += one.report.used_by_us;
    const std::int64_t headroom = r.kind == DeviceKind::cpu ? 0 : r.total.value * config.policy.headroom_pct / 100;
    d.capacity = {std::max<std::int64_t>(0, r.total.value - r.driver.value - headroom)};
    d.foreign = {std::max<std::int64_t>(0, r.used.value - r.driver.value - ours.value)};
    d.healthy = r.healthy;
    if (d.capacity.value > 0) smallest_capacity = std::min(smallest_capacity, d.capacity.value);
  }
  refresh_device(index, true);
}

void Core::State::refresh_device(Index device, bool more_room) {
  for (const Index lane : devices[device].lanes) refresh_lane(lane, more_room);
}

void Core::State::charge(Index device, Charge c) {
  Device& d = devices[device];
  d.charged += c.size;
  d.charges.push_back(std::move(c));
}

bool Core::State::has_model(Index device, Index version) const {
  const auto& charges = devices[device].charges;
  return std::any_of(charges.begin(), charges.end(),
                     [&](const Charge& c) { return c.kind == Charge::Kind::model && c.version == version; });
}

Mib Core::State::model_size(Index version, Index device) const {
  const Mib own = versions[version].record.budget;
  const Mib size = own.value > 0 ? own : kKinds[*kind_index("infer")].default_budget;
  return std::min(size, devices[device].capacity);
}

/// `loads` > 0: this attempt brings the model in. A kept attempt of a model that no lane speaks for is loading it, too.
void Core::State::charge_hold(Index index, Mib loads) {
  Hold& hold = holds[index];
  hold.charged = true;
  for (const Index device : hold.devices) {
    if (!hold.is_model) {
      if (!hold.memory_released) {
        Charge c;
        c.worker = hold.worker;
        c.size = hold.granted;
        c.hold = index;
        charge(device, c);
      }
    } else {
      devices[device].model_holds++;
      if (hold.is_suspect) devices[device].suspects++;
      if (loads.value > 0 && hold.version != kNone) {
        Charge c;
        c.kind = Charge::Kind::model;
        c.worker = hold.worker;
        c.size = loads;
        c.hold = index;
        c.version = hold.version;
        charge(device, c);
        versions[hold.version].loading++;
      }
    }
    refresh_device(device, false);
  }
}

void Core::State::detach_hold(Index index, bool stays_loaded) {
  Hold& hold = holds[index];
  if (!hold.charged) return;
  hold.charged = false;
  const Job& job = jobs[hold.job];
  for (const Index device : hold.devices) {
    Device& d = devices[device];
    bool room = false;
    bool failed_load = false;
    for (std::size_t i = d.charges.size(); i-- > 0;) {
      Charge& c = d.charges[i];
      if (c.hold != index || c.kind == Charge::Kind::ghost) continue;
      if (c.kind == Charge::Kind::model) {
        c.hold = kNone;
        if (stays_loaded) {
          c.lingers = true;
          workers[c.worker].lingering++;
          continue;
        }
        versions[c.version].loading--;
        failed_load = true;
      }
      if (hold.leaves_ghost && !hold.memory_released) {
        c.kind = Charge::Kind::ghost;
        c.hold = kNone;
        c.grant = {job.id, job.attempt, hold.nonce};
        workers[c.worker].ghosts++;
        continue;
      }
      d.charged -= c.size;
      d.charges.erase(d.charges.begin() + static_cast<std::ptrdiff_t>(i));
      room = true;
    }
    if (hold.is_model) {
      d.model_holds--;
      if (hold.is_suspect && --d.suspects == 0) room = true;
      if (d.model_holds == 0 && d.awaits != kNone) make_fresh(d.awaits);
      if (d.model_holds == 0 && !shape_of[true].empty()) room = true;  // for a suspect, an idle device is room, whoever it waits for
    }
    if (room) refresh_device(device, true);
    if (failed_load) wake_version(hold.version);
  }
}

void Core::State::release_hold(Index index) {
  detach_hold(index, jobs[holds[index].job].state == JobState::succeeded);
  Hold& hold = holds[index];
  auto& held = workers[hold.worker].holds;
  held[hold.at] = held.back();
  holds[held[hold.at]].at = hold.at;
  held.pop_back();
  jobs[hold.job].hold = kNone;
  holds.drop(index);
}

void Core::State::drop_ghosts(Index worker) {
  if (workers[worker].ghosts == 0) return;
  for (const Index device : workers[worker].devices)
    if (uncharge(device, [&](const Charge& c) { return c.kind == Charge::Kind::ghost && c.worker == worker; }))
      refresh_device(device, true);
  workers[worker].ghosts = 0;
}

/// Its HELLO, its farewell or the end of its leases: nothing that it held before counts any more.
void Core::State::drop_worker_charges(Index worker) {
  for (const Index hold : workers[worker].holds) detach_hold(hold, false);
  for (const Index device : workers[worker].devices) {  // after detaching, only these can know it
    std::vector<Index> gone;
    const bool room = uncharge(device, [&](const Charge& c) {
      if (c.worker != worker) return false;
      if (c.kind == Charge::Kind::model) {
        if (c.lane == kNone) versions[c.version].loading--;
        gone.push_back(c.version);
      }
      return true;
    });
    if (room) refresh_device(device, true);
    for (const Index version : gone) wake_version(version);
  }
  workers[worker].ghosts = 0;
  workers[worker].lingering = 0;
}

void Core::State::model_opened(Index index) {
  const Lane& lane = lanes[index];
  versions[lane.version].lanes++;
  for (Charge& c : devices[lane.device].charges) {
    if (c.kind != Charge::Kind::model || c.version != lane.version || c.worker != lane.worker || c.lane != kNone) continue;
    if (c.lingers) workers[c.worker].lingering--;
    versions[lane.version].loading--;
    c.hold = kNone;
    c.lingers = false;
    c.lane = index;
    return;
  }
  Charge c;
  c.kind = Charge::Kind::model;
  c.worker = lane.worker;
  c.size = model_size(lane.version, lane.device);
  c.version = lane.version;
  c.lane = index;
  charge(lane.device, c);
  refresh_device(lane.device, false);
}

void Core::State::end_awaiting(Index device) {
  const Index shape = devices[device].awaits;
  if (shape == kNone) return;
  devices[device].awaits = kNone;
  shapes[shape].awaited = kNone;
  refresh_device(device, true);
  room_reopened = true;
}

}  // namespace gq::core

// ledger.cpp - one ledger per UUID, whoever reports the card.
//
// free = total - driver - headroom - foreign - charges. Foreign is what is measured beyond the driver and beyond what the
// workers' own children use: notebooks and other services count. A model is charged once per worker, device and version.
// When others grow into what is charged, idle models leave first, then attempts of the lowest class.
#include <algorithm>
#include <tuple>
#include <utility>

#include "broker/core/state.h"

namespace gq::core {

Mib Core::State::capacity_of(const DeviceReport& r, const DeviceRules& rules) {
  const std::int64_t share = r.kind == DeviceKind::cpu ? 0 : r.total.value * rules.headroom_pct / 100;
  return {std::max<std::int64_t>(0, r.total.value - r.driver.value - (rules.headroom ? rules.headroom->value : share))};
}

/// The newest report says what the card holds; each reporting worker says what its own children hold of it.
void Core::State::measure(Index index, bool reported) {
  Device& d = devices[index];
  const bool was_open = d.open();
  const Mib capacity_before = d.capacity;
  const std::int64_t free_before = d.free();
  if (d.reporters.empty()) {
    d.healthy = false;
    d.capacity = d.foreign = {};
  } else {
    const DeviceReport& r = d.reporters.back().report;
    Mib ours;
    for (const Reporter& one : d.reporters) ours += one.report.used_by_us;
    d.capacity = capacity_of(r, d.rules);
    d.foreign = {std::max<std::int64_t>(0, r.used.value - r.driver.value - ours.value)};
    d.healthy = r.healthy;
    d.hot = r.temperature_c >= 0 && (r.temperature_c >= d.rules.hold_at_c || (d.hot && r.temperature_c > d.rules.resume_at_c));
    if (d.capacity.value > 0) smallest_capacity = std::min(smallest_capacity, d.capacity.value);
    largest_capacity = std::max(largest_capacity, d.capacity.value);
    if (!d.accelerator && r.kind != DeviceKind::cpu) {
      d.accelerator = true;
      ++accelerators;
    }
  }
  // Of several workers on one card the others' newest words are a beat old: only when all have spoken is it no mere delay.
  if (reported && d.free() >= 0 && d.squeezed > 0) eased(index);
  if (reported) d.squeezed = d.free() < 0 ? d.squeezed + 1 : 0;
  if (reported && d.squeezed >= d.reporters.size() && d.squeezed > 0) squeezed.push_back(index);
  if (const bool small = d.capacity < kLargestDefault; small != d.small) {
    d.small = small;
    for (const Index lane : d.lanes) shelve(lane);
  }
  refresh_device(index, d.open() && (!was_open || d.free() > free_before || d.capacity != capacity_before));
}

/// Others use what was promised here. Idle models leave first, the longest unused one first; then attempts and models of the lowest
/// class, the youngest first. What leaves already is counted on; who may never be stopped is not asked.
void Core::State::relieve() {
  for (const Index device : std::exchange(squeezed, {})) {
    const Device& d = devices[device];
    std::int64_t lacking = -d.free();
    struct Unit { bool in_use; std::int64_t rank, since; std::uint64_t seq; Mib size; Index hold, lane; };
    std::vector<Unit> units;
    std::vector<Index> attempts;
    const auto rank_of = [&](JobClass c) { return std::int64_t{classes[static_cast<std::size_t>(c)].rank}; };
    for (const Charge& c : d.charges) {
      const bool residency = c.kind == Charge::Kind::model && c.lane != kNone;
      const bool goes = c.kind == Charge::Kind::held || c.kind == Charge::Kind::ghost || (residency && lanes[c.lane].evicting) ||
                        (c.kind == Charge::Kind::job && is_leaving(holds[c.hold]));
      if (goes) {
        lacking -= c.size.value;
        if (residency) attempts.push_back(c.lane);
      } else if (c.kind == Charge::Kind::job) {
        const Hold& hold = holds[c.hold];
        if (needs_of(jobs[hold.job]).on_preempt != OnPreempt::never)
          units.push_back({true, rank_of(c.job_class), hold.since.time_since_epoch().count(), jobs[hold.job].seq, c.size, c.hold, kNone});
      } else if (residency) {
        const bool kept = d.rules.keeps_loaded[static_cast<std::size_t>(c.job_class)];
        if (in_use(c.lane)) units.push_back({true, rank_of(c.job_class), INT64_MAX, UINT64_MAX, c.size, kNone, c.lane});
        else units.push_back({false, kept ? 0 : 1, -lanes[c.lane].idle_since.time_since_epoch().count(), c.lane, c.size, kNone, c.lane});
      }
    }
    for (const Index lane : attempts) evict(lane);  // told as soon as nothing runs there any more
    std::sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) {
      return std::tuple(a.in_use, -a.rank, -a.since, ~a.seq) < std::tuple(b.in_use, -b.rank, -b.since, ~b.seq);
    });
    const std::string reason = "others use the memory of " + texts[d.uuid];
    const auto ask = [&](Index h) {
      const Index slot = holds[h].job;
      if (needs_of(jobs[slot]).on_preempt != OnPreempt::never) (void)ask_to_leave(slot, reason, config.policy.of(needs_of(jobs[slot]).job_class).grace, {});
    };
    for (const Unit& unit : units) {
      if (lacking <= 0) break;
      lacking -= unit.size.value;
      if (unit.lane == kNone) {
        ask(unit.hold);
        continue;
      }
      if (attempts_of(unit.lane, attempts))
        for (const Index h : attempts) ask(h);
      evict(unit.lane);
    }
  }
}

/// There is enough again: a model that was to leave and has not been told stays.
void Core::State::eased(Index device) {
  if (devices[device].plan != kNone) return;  // it may be the plan's
  for (const Index lane : std::vector<Index>(devices[device].lanes))
    if (lanes[lane].evicting && !lanes[lane].evict_told) stop_evicting(lane);
}

void Core::State::refresh_device(Index device, bool more_room) {
  touch_plan(device);
  for (const Index lane : devices[device].lanes) refresh_lane(lane, more_room);
}

void Core::State::charge(Index device, Charge c) {
  Device& d = devices[device];
  d.charged += c.size;
  d.used_by[static_cast<std::size_t>(c.job_class)] += c.size;
  d.charges.push_back(std::move(c));
}

bool Core::State::has_model(Index device, Index version) const {
  const auto& charges = devices[device].charges;
  return std::any_of(charges.begin(), charges.end(),
                     [&](const Charge& c) { return c.kind == Charge::Kind::model && c.version == version; });
}

Mib Core::State::model_size(Index version, Index device) const {
  return std::min(model_base(version), devices[device].capacity);
}

/// `loads` > 0: this attempt brings the model in. A kept attempt of a model that no lane speaks for is loading it, too.
void Core::State::charge_hold(Index index, Mib loads) {
  Hold& hold = holds[index];
  hold.charged = true;
  const JobClass job_class = needs_of(jobs[hold.job]).job_class;
  for (const Index device : hold.devices) {
    count_running(hold, device, true);
    if (!hold.is_model) {
      if (!hold.memory_released) {
        Charge c;
        c.worker = hold.worker;
        c.size = hold.granted;
        c.hold = index;
        c.job_class = job_class;
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
        c.job_class = job_class;
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
    count_running(hold, device, false);
    bool room = any_exclusion;
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
      drop_charge(d, i);
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
  used_model(hold);
  auto& held = workers[hold.worker].holds;
  held[hold.at] = held.back();
  holds[held[hold.at]].at = hold.at;
  held.pop_back();
  jobs[hold.job].hold = kNone;
  count_use(hold, false);
  const JobClass c = needs_of(jobs[hold.job]).job_class;
  holds.drop(index);
  if (const std::uint32_t cap = config.policy.of(c).running_max; cap != 0 && running_of(c) + 1 == cap) wake_class(c);
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
  lanes[index].idle_since = lease_now();
  list_models(lane.device);
  versions[lane.version].open_lanes.push_back(index);
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

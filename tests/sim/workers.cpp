// workers.cpp - simulated workers: the session's manners (HELLO names all that is held, credit is cumulative, an end is kept until
// it has a verdict) around executors that take time, memory and sometimes the wrong turn.
#include <algorithm>

#include "tests/sim/sim.h"

namespace gq::sim {
namespace {

constexpr std::uint32_t kSlots = 8;
constexpr std::uint32_t kStarts = 3;
constexpr std::uint32_t kWarmCredit = 16;
constexpr Tick kSecond = 1'000'000 / kTickUs;

LaneRow* find_lane(WorkerRow& w, std::uint16_t number) {
  for (LaneRow& lane : w.lanes)
    if (lane.lane == number) return &lane;
  return nullptr;
}
std::size_t find_run(const WorkerRow& w, std::uint32_t serial) {
  for (std::size_t i = 0; i < w.runs.size(); ++i)
    if (w.runs[i].serial == serial) return i;
  return SIZE_MAX;
}
Warm* find_warm(WorkerRow& w, std::uint32_t serial) {
  for (Warm& m : w.warm)
    if (m.serial == serial) return &m;
  return nullptr;
}

}  // namespace

// ---- life

void World::worker_boot(std::uint32_t index) {
  WorkerRow& w = workers[index];
  if (w.alive) return;
  w.alive = true;
  w.frozen = w.welcomed = w.draining = w.flush_asked = false;
  w.instance = rng.bits();
  w.next_lane = static_cast<std::uint16_t>(w.devices.size() + 1);
  w.lanes.clear();
  w.lanes.push_back({0, core::LaneKind::slots, 0, kSlots, 0, 0, 0, {}});
  for (std::size_t d = 0; d < w.devices.size(); ++d)
    w.lanes.push_back({static_cast<std::uint16_t>(d + 1), core::LaneKind::start, static_cast<std::uint16_t>(d), kStarts, 0, 0, 0, {}});
  dial(Side::worker, index, rng.between(1'000, 50'000));
  if (!w.beat_on) in_us(rng.between(0, 1'000'000), {What::worker_beat, index, 0});
  w.beat_on = true;
}

void World::worker_connected(std::uint32_t index) {
  WorkerRow& w = workers[index];
  if (!w.alive || w.link.open) return;
  if (!core || w.frozen) return dial(Side::worker, index, rng.between(20'000, 300'000));
  w.link.open = true;
  w.link.dialling = false;
  w.link.up_last = w.link.down_last = 0;
  hello(index);
}

void World::hello(std::uint32_t index) {
  WorkerRow& w = workers[index];
  w.welcomed = false;
  w.heard = w.greeted = wheel.now();
  core::WorkerHello hello;
  hello.worker = w.name;
  hello.instance = w.instance;
  hello.version = "sim";
  hello.host = "h" + std::to_string(index);
  hello.kinds = w.kinds;
  hello.labels = w.labels;
  hello.devices = device_reports(w);
  for (LaneRow& lane : w.lanes) {
    lane.used = 0;
    lane.announced = lane.capacity - std::min(lane.held, lane.capacity);
    hello.lanes.push_back({lane.lane, lane.kind, lane.kind == core::LaneKind::slots ? std::string() : w.devices[lane.device].uuid, lane.model});
    hello.credit.push_back({lane.lane, lane.announced});
  }
  w.opened.clear();
  w.closed.clear();
  for (const Run& run : w.runs)
    if (run.stop != Run::Stop::revoke) hello.running.push_back(run.grant);
  for (const Held& held : w.held) hello.running.push_back(held.end.grant);
  std::sort(hello.running.begin(), hello.running.end());
  findings.note(Note::hello, kNoJob, index, static_cast<std::uint32_t>(hello.running.size()));
  up(Side::worker, index, std::move(hello));
}

void World::worker_beat(std::uint32_t index) {
  WorkerRow& w = workers[index];
  if (!w.alive) {
    w.beat_on = false;
    return;
  }
  in_us(1'000'000, {What::worker_beat, index, 0});
  if (w.frozen) return;
  if (!w.link.open) return;
  const Tick now = wheel.now();
  if (!w.welcomed) {
    if (now - w.greeted > 5 * kSecond) tear(Side::worker, index, rng.between(100'000, 1'000'000));
    return;
  }
  if (now - w.heard >= 5 * kSecond) return tear(Side::worker, index, rng.between(50'000, 500'000));
  if (w.number_gap != 0 && now - w.gap_since >= 5 * kSecond) return hello(index);
  for (std::size_t i = w.warm.size(); i-- > 0;)  // a model nobody has asked for lately makes room
    if (w.warm[i].lane != 0 && w.warm[i].active == 0 && now_us() - w.warm[i].last_used_us > 3'000'000) evict(index, i);
  core::WorkerBeat beat;
  beat.last_number = w.number_gap != 0 ? w.number_gap - 1 : w.number_max;
  beat.running.reserve(w.runs.size() + w.held.size());
  for (const Run& run : w.runs) beat.running.push_back(run.grant);
  bool resend = false;
  for (Held& held : w.held) {
    beat.running.push_back(held.end.grant);
    if (now - held.sent >= 5 * kSecond) {
      held.sent = 0;
      resend = true;
    }
  }
  beat.devices = device_reports(w);
  ++report.beats;
  up(Side::worker, index, std::move(beat));
  if (resend) ask_flush(index);
}

std::vector<core::DeviceReport> World::device_reports(const WorkerRow& w) {
  std::vector<core::DeviceReport> reports;
  reports.reserve(w.devices.size());
  for (std::size_t d = 0; d < w.devices.size(); ++d) {
    const WorkerDevice& device = w.devices[d];
    const PhysicalDevice& card = physical[device.global];
    core::DeviceReport r;
    r.uuid = device.uuid;
    r.name = "Simulated";
    r.kind = core::DeviceKind::simulated;
    r.index = static_cast<std::uint16_t>(d);
    r.total = device.total;
    r.driver = device.driver;
    r.used = card.driver + card.foreign + card.used;
    for (const Run& run : w.runs)
      for (std::uint16_t i = 0; i < run.devices_count; ++i)
        if (run.devices[i] == d) r.used_by_us += run.held;
    for (const Warm& m : w.warm)
      if (m.device == d) r.used_by_us += m.size;
    reports.push_back(std::move(r));
  }
  return reports;
}

// ---- what the broker says

bool World::saw_number(WorkerRow& w, std::uint64_t number) {
  if (number <= w.number_max) return false;  // doubled
  if (number > w.number_max + 1 && w.number_gap == 0) {
    w.number_gap = w.number_max + 1;
    w.gap_since = wheel.now();
  }
  w.number_max = number;
  return true;
}

void World::worker_hears(std::uint32_t index, core::Message&& message) {
  WorkerRow& w = workers[index];
  if (!w.alive) return;
  if (w.frozen) {
    w.stopped_inbox.push_back(std::move(message));
    return;
  }
  w.heard = wheel.now();
  if (auto* welcome = std::get_if<core::WorkerWelcome>(&message)) {
    if (w.welcomed) return;
    w.welcomed = true;
    w.number_max = welcome->numbered;  // what was numbered before and not taken goes back at the next beat
    w.number_gap = 0;
    findings.note(Note::welcomed, kNoJob, index, static_cast<std::uint32_t>(welcome->revoke.size()));
    for (const core::Grant& grant : welcome->revoke) {
      revoke(index, grant);  // rule 4.7: charged until lease end or this worker's HELLO; what is still being stopped, the worker sees itself
      for (Run& run : w.runs)
        if (run.grant == grant) excuse(w, run);
    }
    w.said_started.clear();
    for (const Run& run : w.runs)
      if (run.began) w.said_started.push_back(run.grant);
    for (Held& held : w.held) held.sent = 0;
    return ask_flush(index);
  }
  if (std::holds_alternative<core::WorkerRejected>(message)) return tear(Side::worker, index, rng.between(300'000, 2'000'000));
  if (!w.welcomed) return;  // said before the broker read our HELLO
  if (auto* assign = std::get_if<core::Assign>(&message)) return worker_assigned(index, *assign);
  if (const auto* ends = std::get_if<core::EndsAnswer>(&message)) {
    for (const core::Grant& grant : ends->grants) std::erase_if(w.held, [&](const Held& h) { return h.end.grant == grant; });
  } else if (const auto* cancel = std::get_if<core::Cancel>(&message)) {
    if (saw_number(w, cancel->number)) stop_soon(index, cancel->grant, true);
  } else if (const auto* preempt = std::get_if<core::Preempt>(&message)) {
    if (saw_number(w, preempt->number)) stop_soon(index, preempt->grant, false);
  } else if (const auto* beat = std::get_if<core::BeatAnswer>(&message)) {
    for (const core::Grant& grant : beat->revoke) revoke(index, grant);
    for (const core::Cancel& c : beat->cancels) stop_soon(index, c.grant, true);
    for (const core::Preempt& p : beat->preempts) stop_soon(index, p.grant, false);
  }
}

void World::refuse(std::uint32_t index, const core::Grant& grant, Errc code) {
  findings.note(Note::refused, numbers.number(grant.job), index, grant.attempt);
  up(Side::worker, index, core::AttemptRefused{{}, grant, code, "simulated"});
}

void World::worker_assigned(std::uint32_t index, core::Assign& assign) {
  WorkerRow& w = workers[index];
  const JobNumber job = numbers.number(assign.grant.job);
  if (!saw_number(w, assign.number)) {
    findings.note(Note::assign_doubled, job, index, assign.grant.attempt);
    return;
  }
  findings.note(Note::assign_seen, job, index, assign.grant.attempt);
  LaneRow* lane = find_lane(w, assign.lane);
  if (!lane) return refuse(index, assign.grant, Errc::not_here);
  if (++lane->used > lane->announced) history.over_credit(index, job, lane->used, lane->announced);
  ++lane->held;

  Run run;
  run.grant = assign.grant;
  run.job = job;
  run.serial = w.next_serial++;
  run.lane = assign.lane;
  const auto no = [&](Errc code) {
    leave_lane(w, run);
    refuse(index, assign.grant, code);
    ask_flush(index);
  };
  for (const Run& old : w.runs)
    if (old.job == job) {  // an older attempt must be gone before this one starts
      revoke(index, old.grant);
      return no(Errc::unavailable);
    }
  if (!options.light && rng.one_in(150)) return no(Errc::unavailable);
  for (const std::string& uuid : assign.devices)
    for (std::size_t d = 0; d < w.devices.size() && run.devices_count < 4; ++d)
      if (w.devices[d].uuid == uuid) run.devices[run.devices_count++] = static_cast<std::uint16_t>(d);
  if (run.devices_count != assign.devices.size()) {
    findings.violation("devices", job, "assigned to a device that this worker does not have");
    return no(Errc::no_device);
  }
  const bool uses_model = kKinds[assign.needs.kind].uses_model && run.devices_count > 0;
  std::int64_t until_start_us = 0;
  if (uses_model && lane->kind == core::LaneKind::warm) {
    for (Warm& m : w.warm)
      if (m.lane == lane->lane) {
        run.warm = m.serial;
        ++m.active;
      }
  } else if (uses_model) {
    const std::string model = assign.model.name + "@" + assign.model.version;
    for (Warm& m : w.warm)
      if (m.device == run.devices[0] && m.model == model) {
        run.warm = m.serial;
        ++m.active;
        until_start_us = m.lane == 0 ? rng.between(100'000, 300'000) : 0;
      }
    if (run.warm == 0) {
      if (!make_room(index, run.devices[0], assign.granted, job)) return no(Errc::no_fit);
      run.warm = run.serial;
      run.loads_model = true;
      w.warm.push_back({run.serial, 0, run.devices[0], false, 1, now_us(), model, assign.granted});
      until_start_us = rng.between(50'000, 300'000);
    }
  } else if (run.devices_count > 0) {
    for (std::uint16_t i = 0; i < run.devices_count; ++i)
      if (!make_room(index, run.devices[i], assign.granted, job)) {
        for (std::uint16_t k = 0; k < i; ++k) {
          physical[w.devices[run.devices[k]].global].used -= assign.granted;
          history.release(w.devices[run.devices[k]].global, job, assign.granted);
        }
        return no(Errc::no_fit);
      }
    run.held = assign.granted;
    until_start_us = rng.between(20'000, 150'000);
  }
  run.ends_by_timeout = assign.timeout > Duration::zero() && duration_us(job, assign.grant.attempt) > assign.timeout.count();
  w.runs.push_back(run);
  if (until_start_us > 0) in_us(until_start_us, {What::run_started, index, run.serial});
  else run_started(index, run.serial);
}

/// Takes `size` on a device, idle models go first. The checker judges the lease before the worker defends itself.
bool World::make_room(std::uint32_t index, std::uint16_t device, Mib size, JobNumber job) {
  WorkerRow& w = workers[index];
  const std::uint32_t global = w.devices[device].global;
  PhysicalDevice& card = physical[global];
  const auto free = [&] { return card.total - card.driver - card.foreign - card.used; };
  while (free() < size) {
    std::size_t oldest = SIZE_MAX;
    for (std::size_t i = 0; i < w.warm.size(); ++i)
      if (w.warm[i].device == device && w.warm[i].active == 0 && (oldest == SIZE_MAX || w.warm[i].last_used_us < w.warm[oldest].last_used_us)) oldest = i;
    if (oldest == SIZE_MAX) break;
    evict(index, oldest);
  }
  const bool fits = free() >= size;
  if (!fits) excuse_zombies(index, global);
  history.charge(global, job, size);
  if (!fits) {
    history.release(global, job, size);
    return false;
  }
  card.used += size;
  return true;
}

void World::excuse(const WorkerRow& w, Run& run) {
  if (run.excused || run.held <= Mib{0}) return;
  run.excused = true;
  for (std::uint16_t i = 0; i < run.devices_count; ++i) history.excuse(w.devices[run.devices[i]].global, run.held);
}

/// Leases of workers that nobody could reach for a whole lease have ended, whatever still sits on the card.
void World::excuse_zombies(std::uint32_t asking, std::uint32_t global) {
  for (const std::uint32_t other : physical[global].offered_by) {
    WorkerRow& w = workers[other];
    if (other == asking || wheel.now() - w.judged < 10 * kSecond) continue;
    for (Run& run : w.runs)
      for (std::uint16_t i = 0; i < run.devices_count; ++i)
        if (w.devices[run.devices[i]].global == global) excuse(w, run);
    for (Warm& m : w.warm)
      if (!m.excused && w.devices[m.device].global == global) {
        m.excused = true;
        history.excuse(global, m.size);
      }
  }
}

void World::evict(std::uint32_t index, std::size_t which) {
  WorkerRow& w = workers[index];
  const Warm m = w.warm[which];
  w.warm.erase(w.warm.begin() + static_cast<std::ptrdiff_t>(which));
  const std::uint32_t global = w.devices[m.device].global;
  physical[global].used -= m.size;
  if (m.excused) history.excused_gone(global, m.size);
  else history.release(global, kNoJob, m.size);
  if (m.lane == 0) return;
  if (std::erase_if(w.opened, [&](const core::LaneDeclared& l) { return l.lane == m.lane; }) == 0) w.closed.push_back(m.lane);
  std::erase_if(w.lanes, [&](const LaneRow& l) { return l.lane == m.lane; });
  ask_flush(index);
}

// ---- runs

Outcome World::fate(const Run& run) {
  if (run.ends_by_timeout) return Outcome::timed_out;
  const std::uint64_t d = dice(run.job, 1000 + run.grant.attempt) % 10'000;
  if (dice(run.job, 99) % 2'000 == 0) return Outcome::crashed;  // poison
  if (d < 100) return Outcome::failed;
  if (d < 110) return Outcome::failed_final;
  if (options.faults.crashes && !options.light && d < 150) return Outcome::crashed;
  if (options.faults.crashes && !options.light && d < 170) return Outcome::lost;
  return Outcome::succeeded;
}

void World::run_started(std::uint32_t index, std::uint32_t serial) {
  WorkerRow& w = workers[index];
  const std::size_t at = find_run(w, serial);
  if (at == SIZE_MAX) return;
  if (w.frozen) return wheel.at(w.thaw_at + 1, {What::run_started, index, serial});
  Run& run = w.runs[at];
  run.began = true;
  history.started(run.grant, index);
  std::int64_t us = duration_us(run.job, run.grant.attempt);
  if (run.ends_by_timeout) us = std::min<std::int64_t>(us, 1'000'000);
  in_us(us, {What::run_ended, index, serial});
  if (us > 2'000) {
    w.said_started.push_back(run.grant);
    ask_flush(index);
  }
  if (Warm* m = run.loads_model ? find_warm(w, run.warm) : nullptr; m && m->lane == 0) {
    m->lane = w.next_lane++;
    w.opened.push_back({m->lane, core::LaneKind::warm, w.devices[m->device].uuid, m->model});
    w.lanes.push_back({m->lane, core::LaneKind::warm, m->device, kWarmCredit, 0, 0, 0, m->model});
    ask_flush(index);
  }
  LaneRow* lane = find_lane(w, run.lane);
  if (lane && lane->kind == core::LaneKind::start) leave_lane(w, run);
}

void World::leave_lane(WorkerRow& w, Run& run) {
  if (!run.holds_lane) return;
  run.holds_lane = false;
  if (LaneRow* lane = find_lane(w, run.lane); lane && lane->held > 0) --lane->held;
}

void World::run_ended(std::uint32_t index, std::uint32_t serial) {
  WorkerRow& w = workers[index];
  const std::size_t at = find_run(w, serial);
  if (at == SIZE_MAX) return;
  if (w.frozen) return wheel.at(w.thaw_at + 1, {What::run_ended, index, serial});
  end_run(index, at, fate(w.runs[at]), w.runs[at].stop != Run::Stop::revoke);
}

void World::end_run(std::uint32_t index, std::size_t at, Outcome outcome, bool tell) {
  WorkerRow& w = workers[index];
  Run run = w.runs[at];
  if (at + 1 != w.runs.size()) w.runs[at] = w.runs.back();
  w.runs.pop_back();
  findings.note(tell ? Note::ended : Note::killed, run.job, index, static_cast<std::uint32_t>(outcome));
  if (run.held > Mib{0})
    for (std::uint16_t i = 0; i < run.devices_count; ++i) {
      const std::uint32_t global = w.devices[run.devices[i]].global;
      physical[global].used -= run.held;
      if (run.excused) history.excused_gone(global, run.held);
      else history.release(global, run.job, run.held);
    }
  if (Warm* m = run.warm != 0 ? find_warm(w, run.warm) : nullptr) {
    --m->active;
    m->last_used_us = now_us();
    if (m->lane == 0 && m->active == 0) evict(index, static_cast<std::size_t>(m - w.warm.data()));  // its load never ended
  }
  leave_lane(w, run);
  ask_flush(index);
  if (!tell) return;
  Held held;
  held.end.grant = run.grant;
  held.end.outcome = outcome;
  held.end.started = run.began;
  std::erase(w.said_started, run.grant);  // STARTED folds into the result
  if (outcome == Outcome::succeeded) {
    held.end.result = (core::Token{run.job} << 16U) | (run.grant.attempt & 0xFFFFU) | (1ULL << 60U);
    held.end.result_bytes = 100;
  } else if (outcome == Outcome::yielded) {
    held.end.checkpoint.step = run.grant.attempt;
  } else {
    held.end.error = outcome == Outcome::timed_out ? Errc::timed_out : outcome == Outcome::cancelled ? Errc::cancelled : Errc::job_failed;
    held.end.error_text = "simulated";
  }
  w.held.push_back(std::move(held));
}

void World::stop_soon(std::uint32_t index, const core::Grant& grant, bool cancel) {
  WorkerRow& w = workers[index];
  for (Run& run : w.runs) {
    if (run.grant != grant || run.stop != Run::Stop::none) continue;
    run.stop = cancel ? Run::Stop::cancel : Run::Stop::yield;
    findings.note(cancel ? Note::cancel_seen : Note::preempt_seen, run.job, index, grant.attempt);
    in_us(rng.between(1'000, cancel ? 50'000 : 500'000), {What::worker_yield, index, run.serial});
  }
}

void World::revoke(std::uint32_t index, const core::Grant& grant) {
  WorkerRow& w = workers[index];
  for (Run& run : w.runs) {
    if (run.grant != grant || run.stop == Run::Stop::revoke) continue;
    run.stop = Run::Stop::revoke;
    findings.note(Note::revoked, run.job, index, grant.attempt);
    in_us(rng.between(500, 30'000), {What::worker_yield, index, run.serial});
  }
}

/// A job that was told to stop has stopped.
void World::worker_yield(std::uint32_t index, std::uint32_t serial) {
  WorkerRow& w = workers[index];
  const std::size_t at = find_run(w, serial);
  if (at == SIZE_MAX) return;
  if (w.frozen) return wheel.at(w.thaw_at + 1, {What::worker_yield, index, serial});
  switch (w.runs[at].stop) {
    case Run::Stop::cancel: return end_run(index, at, Outcome::cancelled, true);
    case Run::Stop::revoke: return end_run(index, at, Outcome::cancelled, false);
    case Run::Stop::yield:
      up(Side::worker, index, core::MemoryReleased{{}, w.runs[at].grant});
      return end_run(index, at, Outcome::yielded, true);
    case Run::Stop::none: return;
  }
}

// ---- one flush per turn

void World::ask_flush(std::uint32_t index) {
  WorkerRow& w = workers[index];
  if (w.flush_asked) return;
  w.flush_asked = true;
  wheel.at(wheel.now() + 1, {What::worker_flush, index, 0});
}

void World::worker_flush(std::uint32_t index) {
  WorkerRow& w = workers[index];
  w.flush_asked = false;
  if (!w.alive || w.frozen || !w.welcomed || !w.link.open) return;
  if (!w.said_started.empty()) up(Side::worker, index, core::AttemptsStarted{{}, std::exchange(w.said_started, {})});
  core::AttemptsEnded ended;
  for (Held& held : w.held)
    if (held.sent == 0) {
      held.sent = wheel.now();
      ended.ends.push_back(held.end);
    }
  if (!ended.ends.empty()) {
    ended.request = ++w.request;
    up(Side::worker, index, std::move(ended));
  }
  core::WorkerPulled pull;
  pull.opened.swap(w.opened);
  pull.closed.swap(w.closed);
  for (LaneRow& lane : w.lanes) {
    const std::uint64_t limit = lane.used + lane.capacity - std::min(lane.held, lane.capacity);
    const std::uint64_t open = lane.announced - std::min(lane.used, lane.announced);
    if (limit <= lane.announced || (open * 2 > lane.capacity && (limit - lane.announced) * 4 < lane.capacity)) continue;
    lane.announced = limit;
    pull.credit.push_back({lane.lane, limit});
  }
  if (!pull.opened.empty() || !pull.closed.empty() || !pull.credit.empty()) up(Side::worker, index, std::move(pull));
}

// ---- what befalls them

void World::worker_kill(std::uint32_t index, std::int64_t restart_us) {
  WorkerRow& w = workers[index];
  if (!w.alive) return;
  ++report.killed;
  findings.note(Note::worker_killed, kNoJob, index, static_cast<std::uint32_t>(w.runs.size()));
  while (!w.runs.empty()) end_run(index, w.runs.size() - 1, Outcome::lost, false);  // children die with it
  while (!w.warm.empty()) evict(index, w.warm.size() - 1);
  w.held.clear();
  w.said_started.clear();
  w.opened.clear();
  w.closed.clear();
  w.stopped_inbox.clear();
  w.alive = w.frozen = w.welcomed = false;
  tear(Side::worker, index, 0);
  in_us(restart_us, {What::worker_start, index, 0});
}

void World::worker_freeze(std::uint32_t index, std::int64_t us) {
  WorkerRow& w = workers[index];
  if (!w.alive || w.frozen) return;
  ++report.frozen;
  findings.note(Note::worker_frozen, kNoJob, index, static_cast<std::uint32_t>(us / 1000));
  w.frozen = true;
  w.thaw_at = wheel.now() + us / kTickUs;
  in_us(us, {What::worker_thaw, index, static_cast<std::uint32_t>(us / 1'000'000)});
}

void World::worker_thaw(std::uint32_t index) {
  WorkerRow& w = workers[index];
  if (!w.frozen || wheel.now() < w.thaw_at) return;
  w.frozen = false;
  findings.note(Note::worker_thawed, kNoJob, index, 0);
  std::vector<core::Message> inbox = std::exchange(w.stopped_inbox, {});
  if (wheel.now() - w.heard > 3 * kSecond) return tear(Side::worker, index, rng.between(1'000, 50'000));  // HELLO before anything
  for (core::Message& message : inbox) worker_hears(index, std::move(message));
  ask_flush(index);
}

}  // namespace gq::sim

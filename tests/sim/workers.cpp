// workers.cpp - simulated workers: the session's manners. HELLO names all that is held, credit is cumulative, an end is kept until
// it has a verdict; they die, freeze and come back.
#include <algorithm>

#include "tests/sim/play.h"
#include "tests/sim/sim.h"

namespace gq::sim {
namespace {

constexpr Tick kSecond = 1'000'000 / kTickUs;
constexpr std::uint32_t kSlots = 8;
constexpr std::uint32_t kStarts = 3;

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
  hello.host = w.host;
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
    if (w.warm[i].lane != 0 && w.warm[i].active == 0 && now_us() - w.warm[i].last_used_us > model_idle_us) evict(index, i);
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
    r.temperature_c = card.temperature_c;
    r.healthy = !card.broken;
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
    if (saw_number(w, cancel->number)) cancel_soon(index, cancel->grant);
  } else if (const auto* preempt = std::get_if<core::Preempt>(&message)) {
    if (saw_number(w, preempt->number)) leave_soon(index, preempt->grant, preempt->deadline);
  } else if (const auto* model = std::get_if<core::EvictModel>(&message)) {
    model_asked_out(index, *model);
  } else if (const auto* beat = std::get_if<core::BeatAnswer>(&message)) {
    for (const core::Grant& grant : beat->revoke) revoke(index, grant);
    for (const core::Cancel& c : beat->cancels) cancel_soon(index, c.grant);
    for (const core::Preempt& p : beat->preempts) leave_soon(index, p.grant, p.deadline);
    for (const core::EvictModel& m : beat->evictions) model_asked_out(index, m);
  }
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

// runs.cpp - simulated executors: attempts and warm models that take time, memory and sometimes the wrong turn.
//
// An attempt that is asked to leave gives its memory back first and reports the end once its state is durable; one that restarts
// does both at once. A few ignore the request until the deadline kills them.
#include <algorithm>

#include "tests/sim/play.h"
#include "tests/sim/sim.h"

namespace gq::sim {
namespace {

constexpr Tick kSecond = 1'000'000 / kTickUs;
constexpr std::uint32_t kWarmCredit = 16;
constexpr std::int64_t kStepUs = 50'000;        ///< one optimizer step of a simulated training, in storms
constexpr std::int64_t kCheckpointUs = 900'000;

}  // namespace

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
  if (!lane) {
    if (play) play->refused(assign);
    return refuse(index, assign.grant, Errc::not_here);
  }
  if (++lane->used > lane->announced) history.over_credit(index, job, lane->used, lane->announced);
  ++lane->held;

  Run run;
  run.grant = assign.grant;
  run.job = job;
  run.resumed = assign.resume;
  run.job_class = assign.needs.job_class;
  run.on_preempt = assign.needs.on_preempt;
  run.checkpoints = run.on_preempt == OnPreempt::checkpoint && kKinds[assign.needs.kind].uses_device && !kKinds[assign.needs.kind].uses_model;
  run.serial = w.next_serial++;
  run.lane = assign.lane;
  const auto no = [&](Errc code) {
    leave_lane(w, run);
    if (play) play->refused(assign);
    refuse(index, assign.grant, code);
    ask_flush(index);
  };
  for (const Run& old : w.runs)
    if (old.job == job) {  // an older attempt must be gone before this one starts
      revoke(index, old.grant);
      return no(Errc::unavailable);
    }
  if (!options.light && !play && rng.one_in(150)) return no(Errc::unavailable);
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
        until_start_us = m.lane != 0 ? 0 : play ? play->rest_of_load_us(m) : rng.between(100'000, 300'000);
      }
    if (run.warm == 0) {
      if (!make_room(index, run.devices[0], assign.granted, job)) return no(Errc::no_fit);
      run.warm = run.serial;
      run.loads_model = true;
      w.warm.push_back({run.serial, 0, run.devices[0], false, 1, now_us(), model, assign.granted, run.job_class, false});
      until_start_us = play ? play->load_us(assign.model.name) : rng.between(50'000, 300'000);
      if (play) play->model_in(index, w.warm.back());
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
    until_start_us = play ? play->start_us(job) : rng.between(20'000, 150'000);
  }
  if (play) play->assigned(index, run);
  run.ends_by_timeout = !play && assign.timeout > Duration::zero() && duration_us(job, assign.grant.attempt) > assign.timeout.count();
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
  history.charge(global, job, size, [&] {
    std::string text = ", " + std::to_string(size.value) + " of it new";
    for (const std::uint32_t one : card.offered_by) {
      for (const Run& run : workers[one].runs)
        for (std::uint16_t i = 0; i < run.devices_count; ++i)
          if (workers[one].devices[run.devices[i]].global == global && run.held.value > 0)
            text += "; worker " + std::to_string(one) + " job #" + std::to_string(run.job) + " " + std::to_string(run.held.value) + (run.excused ? " excused" : "") + " stop " + std::to_string(static_cast<int>(run.stop));
      for (const Warm& m : workers[one].warm)
        if (workers[one].devices[m.device].global == global) text += "; worker " + std::to_string(one) + " model " + m.model + " " + std::to_string(m.size.value) + (m.excused ? " excused" : "");
    }
    for (const std::uint32_t one : card.offered_by) text += "\n  worker " + std::to_string(one) + "\n" + findings.story_of_worker(one);
    return text;
  });
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

/// The broker wants an idle model's memory. One that is in use by now simply goes on.
void World::model_asked_out(std::uint32_t index, const core::EvictModel& asked) {
  WorkerRow& w = workers[index];
  for (Warm& m : w.warm) {
    if (m.model != asked.model || w.devices[m.device].uuid != asked.device || m.lane == 0 || m.active != 0 || m.leaving) continue;
    m.leaving = true;
    findings.note(Note::model_asked_out, kNoJob, index, m.serial);
    in_us(rng.between(5'000, 120'000), {What::model_out, index, m.serial});
  }
}

void World::model_out(std::uint32_t index, std::uint32_t serial) {
  WorkerRow& w = workers[index];
  for (std::size_t i = 0; i < w.warm.size(); ++i) {
    if (w.warm[i].serial != serial || !w.warm[i].leaving) continue;
    if (w.frozen) return wheel.at(w.thaw_at + 1, {What::model_out, index, serial});
    w.warm[i].leaving = false;
    if (w.warm[i].active != 0) return;  // somebody came meanwhile
    ++report.models_asked_out;
    return evict(index, i);
  }
}

void World::evict(std::uint32_t index, std::size_t which) {
  WorkerRow& w = workers[index];
  const Warm m = w.warm[which];
  if (play) play->model_gone(index, m);
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
  if (play) return Outcome::succeeded;
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
  run.began_us = now_us();
  history.started(run.grant, index);
  std::int64_t us = duration_us(run.job, run.grant.attempt);
  if (play) {
    play->began(index, run);
    us = INT64_MAX;
  } else {
    if (run.checkpoints) us = std::max<std::int64_t>(1'000, us - static_cast<std::int64_t>(run.resumed.step) * kStepUs);
    if (run.ends_by_timeout) us = std::min<std::int64_t>(us, 1'000'000);
    in_us(us, {What::run_ended, index, serial});
    if (run.checkpoints && us > kCheckpointUs) in_us(kCheckpointUs, {What::run_checkpoint, index, serial});
  }
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
  if (w.runs[at].released) return;  // it is saving its state: nothing of it computes any more
  end_run(index, at, fate(w.runs[at]), w.runs[at].stop != Run::Stop::revoke);
}

/// How far it is: what it went on from and what it has done since.
core::Checkpoint World::state_of(const Run& run) const {
  core::Checkpoint at = run.resumed;
  at.step = play ? play->step_of(run) : run.resumed.step + static_cast<std::uint64_t>((now_us() - run.began_us) / kStepUs);
  at.blob.bytes[0] = 1;
  at.blob.bytes[1] = static_cast<std::uint8_t>(at.step);
  return at;
}

void World::run_checkpoint(std::uint32_t index, std::uint32_t serial) {
  WorkerRow& w = workers[index];
  const std::size_t at = find_run(w, serial);
  if (at == SIZE_MAX || w.runs[at].stop != Run::Stop::none) return;
  in_us(play ? play->checkpoint_every_us(w.runs[at].job) : kCheckpointUs, {What::run_checkpoint, index, serial});
  if (w.frozen || !w.welcomed) return;
  const core::Checkpoint saved = state_of(w.runs[at]);
  findings.note(Note::checkpointed, w.runs[at].job, index, static_cast<std::uint32_t>(saved.step));
  ++report.checkpoints;
  up(Side::worker, index, core::CheckpointSaved{{}, w.runs[at].grant, saved});
}

/// Off the card; what it computed is in host memory still.
void World::give_memory_back(std::uint32_t index, Run& run) {
  WorkerRow& w = workers[index];
  if (run.held > Mib{0})
    for (std::uint16_t i = 0; i < run.devices_count; ++i) {
      const std::uint32_t global = w.devices[run.devices[i]].global;
      physical[global].used -= run.held;
      if (run.excused) history.excused_gone(global, run.held);
      else history.release(global, run.job, run.held);
    }
  run.held = {};
}

void World::end_run(std::uint32_t index, std::size_t at, Outcome outcome, bool tell) {
  WorkerRow& w = workers[index];
  Run run = w.runs[at];
  if (at + 1 != w.runs.size()) w.runs[at] = w.runs.back();
  w.runs.pop_back();
  findings.note(tell ? Note::ended : Note::killed, run.job, index, static_cast<std::uint32_t>(outcome));
  if (play) play->ended(index, run, outcome);
  give_memory_back(index, run);
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
    if (run.checkpoints && run.began && run.released) held.end.checkpoint = run.resumed;
  } else {
    held.end.error = outcome == Outcome::timed_out ? Errc::timed_out : outcome == Outcome::cancelled ? Errc::cancelled : Errc::job_failed;
    held.end.error_text = "simulated";
  }
  w.held.push_back(std::move(held));
}

void World::cancel_soon(std::uint32_t index, const core::Grant& grant) {
  for (Run& run : workers[index].runs) {
    if (run.grant != grant || run.stop == Run::Stop::cancel || run.stop == Run::Stop::revoke || run.released) continue;
    run.stop = Run::Stop::cancel;
    findings.note(Note::cancel_seen, run.job, index, grant.attempt);
    in_us(rng.between(1'000, 50'000), {What::worker_yield, index, run.serial});
  }
}

/// Asked to leave: at its next micro-step, or never, until the deadline kills it.
void World::leave_soon(std::uint32_t index, const core::Grant& grant, Duration deadline) {
  for (Run& run : workers[index].runs) {
    if (run.grant != grant || run.stop != Run::Stop::none) continue;
    run.stop = Run::Stop::yield;
    findings.note(Note::preempt_seen, run.job, index, grant.attempt);
    ++report.asked_to_leave;
    if (play && run.began) {
      play->asked_to_leave(index, run);
      continue;
    }
    const bool stubborn = !play && dice(run.job, 600 + grant.attempt) % 25 == 0;
    in_us(stubborn ? deadline.count() + 50'000 : rng.between(1'000, 400'000), {What::worker_yield, index, run.serial});
    if (stubborn) run.stop = Run::Stop::kill;
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

/// A job that was told to stop has stopped: one that keeps its state gives the memory back now and reports once that is durable.
void World::worker_yield(std::uint32_t index, std::uint32_t serial) {
  WorkerRow& w = workers[index];
  const std::size_t at = find_run(w, serial);
  if (at == SIZE_MAX) return;
  if (w.frozen) return wheel.at(w.thaw_at + 1, {What::worker_yield, index, serial});
  Run& run = w.runs[at];
  switch (run.stop) {
    case Run::Stop::cancel: return end_run(index, at, Outcome::cancelled, true);
    case Run::Stop::revoke: return end_run(index, at, Outcome::cancelled, false);
    case Run::Stop::kill:
      ++report.killed_at_deadline;
      return end_run(index, at, Outcome::yielded, true);
    case Run::Stop::yield:
      if (run.warm == 0) up(Side::worker, index, core::MemoryReleased{{}, run.grant});
      if (run.released || !run.checkpoints || !run.began) return end_run(index, at, Outcome::yielded, true);
      run.resumed = state_of(run);
      run.released = true;
      if (play) play->released(index, run);
      give_memory_back(index, run);
      return in_us(play ? play->durable_us(run.job) : rng.between(20'000, 1'500'000), {What::worker_yield, index, serial});
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

}  // namespace gq::sim

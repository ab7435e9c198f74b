// commands.cpp - what people switch by hand: hold, release, preempt, drain, pause. (`gpuq update`: update.cpp)
//
// Every command is durable before it is answered and says in words what was done; said again, it finds that done already.
// Drains and pauses are settings by name: they hold for a worker or device that comes back, or comes later, and after a restart.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

namespace {

constexpr Duration kLeastGrace = 5s;   // for who is still here when a drain's deadline has passed: time for a last checkpoint
constexpr std::size_t kNamesShown = 8;

CommandOutcome done(std::string text) { return {true, {}, std::move(text)}; }
CommandOutcome refused(Errc code, std::string what, std::string next = {}) { return {false, {code, std::move(what), std::move(next)}, {}}; }

std::string in_words(Duration d) {
  const auto s = std::chrono::ceil<std::chrono::seconds>(d).count();
  return s < 120 ? std::to_string(s) + " s" : s < 7200 ? std::to_string(s / 60) + " min" : std::to_string(s / 3600) + " h";
}
std::string count_of(std::size_t n, const std::string& thing) { return std::to_string(n) + " " + thing + (n == 1 ? "" : "s"); }
std::string by_whom(const std::string& verb, const std::string& by, const std::string& reason) {
  return verb + (by.empty() ? "" : " by " + by) + (reason.empty() ? "" : ": " + reason);
}
std::string cut(const std::string& text) { return text.substr(0, 200); }
std::chrono::milliseconds ms_of(Duration d) { return std::chrono::duration_cast<std::chrono::milliseconds>(d); }

}  // namespace

// ---- jobs

bool Core::State::in_scope(Index slot, const std::string& scope) const { return scope.empty() || texts[jobs[slot].owner] == scope; }

Error Core::State::out_of_scope(Index slot, const std::string& scope) const {
  return {Errc::refused, "job " + to_string(jobs[slot].id) + " belongs to " + texts[jobs[slot].owner] + ", this is the key of " + scope, "use its key or an admin's"};
}

void Core::State::on_job_command(JobCommand& e) {
  CommandAnswer answer{e.peer, e.request, {}};
  answer.items.reserve(e.jobs.size());
  for (const JobId& id : e.jobs) {
    const Index slot = jobs.find(id);
    answer.items.push_back(slot == kNone ? refused(Errc::not_found, "job " + to_string(id) + " is not known", "gpuq list") : command_one(e, slot));
  }
  send(std::move(answer));
}

CommandOutcome Core::State::command_one(const JobCommand& e, Index slot) {
  const Job& job = jobs[slot];
  if (!in_scope(slot, e.scope)) return {false, out_of_scope(slot, e.scope), {}};
  if (is_terminal(job.state))
    return refused(Errc::refused, "job " + to_string(job.id) + " is " + std::string(to_string(job.state)), "gpuq retry " + to_string(job.id) + " makes a new one of it");
  switch (e.verb) {
    case JobVerb::preempt: return preempt_one(e, slot);
    case JobVerb::hold: return hold_one(slot);
    case JobVerb::release: return release_one(slot);
  }
  return refused(Errc::bad_message, "no such command");
}

/// It keeps its place in line, so it may well start again at once where nobody else waits: hold it first to keep it away.
CommandOutcome Core::State::preempt_one(const JobCommand& e, Index slot) {
  const Job& job = jobs[slot];
  if (job.cancel_asked) return done("is being cancelled");
  if (job.state == JobState::yielding) return done("has been asked to leave already");
  if (job.state != JobState::running) return done("does not run: it is " + std::string(to_string(job.state)));
  const Needs& needs = needs_of(job);
  if (needs.on_preempt == OnPreempt::never)
    return refused(Errc::refused, "job " + to_string(job.id) + " was submitted with --on-preempt never",
                   "gpuq cancel " + to_string(job.id) + "; a drain with a deadline asks it, too");
  const Duration grace = e.deadline > Duration{0} ? e.deadline : config.policy.of(needs.job_class).grace;
  const std::string where = texts[job.worker] + (job.device == 0 ? "" : " " + texts[job.device]);
  (void)ask_to_leave(slot, by_whom("preempted", e.by, e.reason), grace, {});
  return done("asked to leave " + where + " within " + in_words(grace) + (job.held ? "; on hold then" : ""));
}

CommandOutcome Core::State::hold_one(Index slot) {
  Job& job = jobs[slot];
  if (job.held) return done("is on hold already");
  job.held = true;
  if (job.state == JobState::ready) leave_line(slot);
  commit_change(slot, job.state);
  if (is_granted(job.state)) return done("runs on; on hold should it come back");
  return done("is on hold");
}

CommandOutcome Core::State::release_one(Index slot) {
  Job& job = jobs[slot];
  if (!job.held) return done("is not on hold");
  job.held = false;
  if (job.state == JobState::ready) enqueue(slot);
  commit_change(slot, job.state);
  return done("is released");
}

// ---- workers, devices, classes

void Core::State::on_fleet_command(FleetCommand& e) {
  e.reason = cut(e.reason);
  const bool of_class = e.verb == FleetVerb::pause_class || e.verb == FleetVerb::resume_class;
  CommandAnswer answer{e.peer, e.request, {}};
  answer.items.push_back(of_class ? switch_class(e) : switch_drain(e));
  send(std::move(answer));
}

CommandOutcome Core::State::switch_class(const FleetCommand& e) {
  const auto job_class = parse_job_class(e.target);
  if (!job_class)
    return refused(Errc::not_found, "no class is called '" + e.target.substr(0, config.limits.name_chars_max) + "'", "classes: inference, training, synthesis");
  const std::pair key{OperatorSetting::Kind::pause_class, std::string(to_string(*job_class))};
  const auto& counts = totals.by_class_and_state[static_cast<std::size_t>(*job_class)];
  const auto known = settings.find(key);
  if (e.verb == FleetVerb::resume_class) {
    if (known == settings.end()) return done("class " + key.second + " is not paused");
    settings.erase(known);
    commit(SettingDropped{key.first, key.second});
    settings_changed();
    return done("class " + key.second + " starts again; " + count_of(counts[static_cast<std::size_t>(JobState::ready)], "job") + " ready");
  }
  if (known != settings.end() && known->second.reason == e.reason) return done("class " + key.second + " is paused already");
  const OperatorSetting setting{key.first, key.second, {}, e.reason, e.by, now.wall};
  settings.insert_or_assign(key, setting);
  commit(SettingStored{setting});
  settings_changed();
  const std::uint64_t running = counts[static_cast<std::size_t>(JobState::running)] + counts[static_cast<std::size_t>(JobState::yielding)];
  return done("class " + key.second + " starts no more jobs; " + count_of(running, "job") + " may finish");
}

/// A name that is drained already is found even while nobody of that name is here.
Result<std::pair<OperatorSetting::Kind, std::string>> Core::State::drain_target(const std::string& target) const {
  using Kind = OperatorSetting::Kind;
  for (const Kind kind : {Kind::drain_worker, Kind::drain_device})
    if (settings.contains({kind, target})) return std::pair{kind, target};
  const Index text = texts.find(target);
  if (text != kNone && worker_of.contains(text)) return std::pair{Kind::drain_worker, target};
  if (text != kNone && device_of.contains(text)) return std::pair{Kind::drain_device, target};
  std::set<std::string> found, known;
  const auto slash = target.rfind('/');
  const std::string place = slash == std::string::npos ? "" : target.substr(0, slash);
  const std::string number = slash == std::string::npos ? "" : target.substr(slash + 1);
  for (Index w = 0; w < workers.extent(); ++w) {
    const Worker& worker = workers[w];
    known.insert(texts[worker.name]);
    for (const Index d : worker.devices)
      for (const Reporter& r : devices[d].reporters) {
        if (r.worker != w) continue;
        known.insert(texts[worker.name] + "/" + std::to_string(r.report.index));
        if (std::to_string(r.report.index) == number && (place == texts[worker.name] || place == worker.host)) found.insert(texts[devices[d].uuid]);
      }
  }
  if (found.size() == 1) return std::pair{Kind::drain_device, *found.begin()};
  if (found.size() > 1) return fail(Errc::usage, target + " may be " + *found.begin() + " or " + *found.rbegin(), "name the device by its UUID");
  std::string names;
  std::size_t shown = 0;
  for (const std::string& name : known) {
    if (++shown > kNamesShown) break;
    names += (names.empty() ? "" : ", ") + name;
  }
  if (known.size() > kNamesShown) names += " and " + std::to_string(known.size() - kNamesShown) + " more";
  return fail(Errc::not_found, "no worker or device is called '" + target.substr(0, 2 * config.limits.name_chars_max) + "'",
              known.empty() ? "no worker has been here yet" : "known: " + names);
}

CommandOutcome Core::State::switch_drain(const FleetCommand& e) {
  const auto key = drain_target(e.target);
  if (!key) return {false, key.error(), {}};
  const bool of_worker = key->first == OperatorSetting::Kind::drain_worker;
  const std::string name = (of_worker ? "worker " : "device ") + key->second;
  const auto known = settings.find(*key);
  if (e.verb == FleetVerb::undrain) {
    if (known == settings.end()) return done(name + " is not drained");
    settings.erase(known);
    commit(SettingDropped{key->first, key->second});
    settings_changed();
    return done(name + " takes work again");
  }
  const bool again = known != settings.end() && known->second.reason == e.reason && known->second.deadline.ms == 0 && e.deadline == Duration{0};
  const OperatorSetting setting{key->first, key->second, e.deadline > Duration{0} ? now.wall + ms_of(e.deadline) : WallTime{}, e.reason, e.by, now.wall};
  if (!again) {
    settings.insert_or_assign(*key, setting);
    commit(SettingStored{setting});
    settings_changed();
  }
  const std::string left = count_of(drained_holds(setting).size(), "job");
  on_drain_timer();
  if (e.deadline > Duration{0}) return done(name + " takes no new work; " + left + " may run on, and whoever still does is asked to leave in time for " + in_words(e.deadline) + " from now");
  return done(name + " takes no new work; " + left + " may finish");
}

/// Who runs where it applies, oldest first.
std::vector<Index> Core::State::drained_holds(const OperatorSetting& setting) const {
  std::vector<Index> all;
  const Index text = texts.find(setting.target);
  if (text == kNone) return all;
  if (setting.kind == OperatorSetting::Kind::drain_worker) {
    if (const auto it = worker_of.find(text); it != worker_of.end()) all = workers[it->second].holds;
  } else if (setting.kind == OperatorSetting::Kind::drain_device) {
    if (const auto it = device_of.find(text); it != device_of.end())
      for (Index h = 0; h < holds.extent(); ++h)
        if (holds[h].job != kNone && std::find(holds[h].devices.begin(), holds[h].devices.end(), it->second) != holds[h].devices.end()) all.push_back(h);
  }
  std::sort(all.begin(), all.end(), [&](Index a, Index b) { return jobs[holds[a].job].seq < jobs[holds[b].job].seq; });
  return all;
}

/// A drain asks everybody, `never` included: the machine is about to go. Each class is asked its grace before the deadline.
/// When to look again; INT64_MAX = no deadline is left.
std::int64_t Core::State::enforce_drains() {
  std::int64_t next = INT64_MAX;
  for (const auto& [key, setting] : settings) {
    if (setting.deadline.ms == 0) continue;
    const Duration left = std::chrono::milliseconds(setting.deadline.ms - now.wall.ms);
    for (const Index h : drained_holds(setting)) {
      const Index slot = holds[h].job;
      if (jobs[slot].state != JobState::running || jobs[slot].cancel_asked) continue;
      const Duration grace = config.policy.of(needs_of(jobs[slot]).job_class).grace;
      if (left <= grace)
        (void)ask_to_leave(slot, by_whom(setting.target + " is drained", setting.by, setting.reason), std::max(left, std::min(grace, kLeastGrace)), {});
    }
    for (std::size_t c = 0; c < kJobClasses; ++c)
      if (const std::int64_t at = setting.deadline.ms - ms_of(config.policy.classes[c].grace).count(); at > now.wall.ms) next = std::min(next, at);
  }
  return next;
}

void Core::State::on_drain_timer() {
  if (drain_timer_ms <= now.wall.ms) drain_timer_ms = INT64_MAX;
  const std::int64_t next = enforce_drains();
  if (next >= drain_timer_ms) return;
  drain_timer_ms = next;
  arm_wall({next}, TimerKind::drain, kNone, 0);
}

}  // namespace gq::core

// rules.cpp - the policy, resolved for the devices that are here and for the time that it is.
//
// Selectors are matched once, when a device is reported or the policy changes; windows are looked at when the wall clock leaves the
// span for which the last look holds, in whichever direction. What is cached here (Device::rules, ClassNow) the constraints read.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

namespace {
std::int64_t in_ms(Duration d) { return std::chrono::duration_cast<std::chrono::milliseconds>(d).count(); }

bool has_label(const std::vector<std::string>& labels, const std::string& wanted) {
  const bool exact = wanted.find('=') != std::string::npos;
  return std::any_of(labels.begin(), labels.end(), [&](const std::string& label) {
    return label == wanted || (!exact && label.size() > wanted.size() && label[wanted.size()] == '=' && label.starts_with(wanted));
  });
}

/// How much a selector says about a device: of two that give the same thing, the narrower one decides.
int narrowness(DeviceSelector::Kind kind) {
  switch (kind) {
    case DeviceSelector::Kind::any: return 0;
    case DeviceSelector::Kind::label: return 1;
    case DeviceSelector::Kind::index: case DeviceSelector::Kind::host_index: return 2;
    case DeviceSelector::Kind::uuid: return 3;
  }
  return 0;
}
}  // namespace

Core::State::State(CoreConfig c) : config(std::move(c)), tenants_apart(tells_apart(config.policy)) {
  worker_of.reserve(config.limits.workers_max);  // so that no step has to move them all
  device_of.reserve(config.limits.workers_max);
  look_at_selectors();
  resolve_classes();
  rules_until_ms = INT64_MIN;  // the time is not known yet: the first step looks again
}

// ---- the clock

/// Until when the answer for this class holds is folded into `until`.
static ClassNow class_at(const Policy& policy, JobClass c, std::int64_t ms, std::int64_t& until) {
  ClassNow result;
  const ClassPolicy& p = policy.of(c);
  result.rank = policy.rank(c);
  const Window* window = policy.window(p.window);
  if (window == nullptr) return result;
  const auto turns = [&](std::int64_t at) { if (at > ms) until = std::min(until, at); };
  const auto close = window->closes_after(ms);
  if (!close) {
    result.starts = false;
    result.leaves = true;
    result.opens_ms = window->opens_after(ms).value_or(0);
    if (result.opens_ms != 0) turns(result.opens_ms);
    return result;
  }
  const std::int64_t leave = *close - in_ms(p.grace);
  const std::int64_t no_more = std::min(*close - in_ms(p.min_run) + 1, leave);  // from here on it could not run as long as it must
  result.starts = ms < no_more;
  result.leaves = ms >= leave;
  result.closes_ms = *close;
  if (!result.starts) result.opens_ms = window->opens_after(*close).value_or(0);
  turns(no_more);
  turns(leave);
  turns(*close);
  return result;
}

void Core::State::resolve_classes() {
  const Policy& policy = config.policy;
  const std::int64_t ms = now.wall.ms;
  rules_from_ms = ms;
  rules_until_ms = INT64_MAX;
  any_exclusion = false;
  for (std::size_t i = 0; i < kJobClasses; ++i) {
    const auto c = static_cast<JobClass>(i);
    ClassNow next = class_at(policy, c, ms, rules_until_ms);
    next.paused = classes[i].paused;
    for (std::size_t o = 0; o < kJobClasses; ++o)
      if (policy.excludes(c, static_cast<JobClass>(o))) next.not_beside |= static_cast<std::uint8_t>(1U << o);
    any_exclusion = any_exclusion || next.not_beside != 0;
    classes[i] = next;
  }
  window_open.assign(policy.windows.size(), false);
  for (const Reservation& r : policy.reservations) {
    const Window* window = policy.window(r.when);
    if (window == nullptr) continue;
    window_open[r.when] = window->open_at(ms);
    if (const auto at = window->closes_after(ms)) rules_until_ms = std::min(rules_until_ms, *at);
    if (const auto at = window->opens_after(ms)) rules_until_ms = std::min(rules_until_ms, *at);
  }
}

void Core::State::on_window_timer() {
  const auto before = classes;
  const auto open_before = window_open;
  resolve_classes();
  if (window_open != open_before) {
    for (Index i = 0; i < devices.extent(); ++i) {
      if (devices[i].reporters.empty() || !devices[i].rules.reserves) continue;
      resolve_rules(i);
      refresh_device(i, false);
    }
    wake_all_parked();
  }
  for (std::size_t c = 0; c < kJobClasses; ++c)
    if (classes[c].starts && !before[c].starts) wake_class(static_cast<JobClass>(c));
  if (std::none_of(classes.begin(), classes.end(), [](const ClassNow& c) { return c.leaves; })) return;
  std::vector<std::pair<std::uint64_t, Index>> leaving;
  for (Index h = 0; h < holds.extent(); ++h)
    if (holds[h].job != kNone && classes[static_cast<std::size_t>(needs_of(jobs[holds[h].job]).job_class)].leaves)
      leaving.emplace_back(jobs[holds[h].job].seq, holds[h].job);
  std::sort(leaving.begin(), leaving.end());
  for (const auto& [seq, slot] : leaving) leave_for_window(slot);
}

/// Asked once: who is leaving already, and who may never be stopped, is left alone.
void Core::State::leave_for_window(Index slot) {
  const Needs& needs = needs_of(jobs[slot]);
  const ClassNow& c = classes[static_cast<std::size_t>(needs.job_class)];
  if (!c.leaves || needs.on_preempt == OnPreempt::never || jobs[slot].state != JobState::running) return;
  const Duration grace = config.policy.of(needs.job_class).grace;
  if (c.closes_ms == 0) {
    (void)ask_to_leave(slot, "the window of class " + std::string(gq::to_string(needs.job_class)) + " is closed", grace, {});
    return;
  }
  const Duration left = std::chrono::milliseconds(c.closes_ms - now.wall.ms);
  (void)ask_to_leave(slot, "window closes at " + utc_text(c.closes_ms).substr(11), std::min(grace, left), {});
}

// ---- the policy

/// Nobody is stopped for it: what runs where it may no longer start is left to finish. A closed window still ends as windows do.
void Core::State::on_policy_loaded(PolicyLoaded& e) {
  config.policy = std::move(e.policy);
  look_at_selectors();
  const bool were_apart = tenants_apart;
  on_window_timer();
  follow_tenants();
  rekey_all();
  if (were_apart != tenants_apart) regroup();
  resolve_all_rules();
}

void Core::State::look_at_selectors() {
  any_bare_index = false;
  const auto look = [&](const DeviceSelector& s) { any_bare_index = any_bare_index || s.kind == DeviceSelector::Kind::index; };
  for (const ClassPolicy& c : config.policy.classes) std::for_each(c.devices.begin(), c.devices.end(), look);
  for (const Reservation& r : config.policy.reservations) look(r.device);
  for (const DevicePolicy& d : config.policy.devices) look(d.device);
}

// ---- devices

bool Core::State::selects(const DeviceSelector& s, const Device& d, const std::vector<std::string>& labels) const {
  const auto reported_as = [&](auto matches) { return std::any_of(d.reporters.begin(), d.reporters.end(), matches); };
  switch (s.kind) {
    case DeviceSelector::Kind::any: return true;
    case DeviceSelector::Kind::uuid: return texts[d.uuid] == s.text;
    case DeviceSelector::Kind::label: return has_label(labels, s.text);
    case DeviceSelector::Kind::host_index:
      return reported_as([&](const Reporter& r) { return r.report.index == s.index && workers[r.worker].host == s.text; });
    case DeviceSelector::Kind::index: return hosts.size() == 1 && reported_as([&](const Reporter& r) { return r.report.index == s.index; });
  }
  return false;
}

/// A device that nobody reports keeps its rules: whoever left memory charged there left it under them.
void Core::State::resolve_rules(Index index) {
  Device& d = devices[index];
  if (d.reporters.empty()) return;
  const Policy& policy = config.policy;
  DeviceRules rules;
  rules.headroom_pct = policy.headroom_pct;
  rules.hold_at_c = policy.hold_at_c;
  rules.resume_at_c = policy.resume_at_c;
  std::vector<std::string> labels;
  for (const Reporter& r : d.reporters) labels.insert(labels.end(), workers[r.worker].labels.begin(), workers[r.worker].labels.end());
  const std::vector<std::string> own = labels;
  std::vector<const DevicePolicy*> said;
  for (const DevicePolicy& p : policy.devices)
    if (selects(p.device, d, own)) said.push_back(&p);
  std::stable_sort(said.begin(), said.end(), [](const DevicePolicy* a, const DevicePolicy* b) { return narrowness(a->device.kind) < narrowness(b->device.kind); });
  for (const DevicePolicy* p : said) {
    if (p->headroom_pct) rules.headroom_pct = *p->headroom_pct, rules.headroom.reset();
    if (p->headroom) rules.headroom = p->headroom;
    if (p->hold_at_c) rules.hold_at_c = *p->hold_at_c;
    if (p->resume_at_c) rules.resume_at_c = *p->resume_at_c;
    rules.labels.insert(rules.labels.end(), p->labels.begin(), p->labels.end());
  }
  std::sort(rules.labels.begin(), rules.labels.end());
  rules.labels.erase(std::unique(rules.labels.begin(), rules.labels.end()), rules.labels.end());
  labels.insert(labels.end(), rules.labels.begin(), rules.labels.end());

  rules.classes = 0;
  for (std::size_t c = 0; c < kJobClasses; ++c) {
    const auto& allowed = policy.classes[c].devices;
    if (!policy.classes[c].cloud && std::any_of(d.reporters.begin(), d.reporters.end(), [&](const Reporter& r) { return workers[r.worker].rented; })) continue;
    if (allowed.empty() || std::any_of(allowed.begin(), allowed.end(), [&](const DeviceSelector& s) { return selects(s, d, labels); }))
      rules.classes |= static_cast<std::uint8_t>(1U << c);
  }
  const DeviceReport& report = d.reporters.back().report;
  const std::int64_t whole = capacity_of(report, rules).value;
  for (const Reservation& r : policy.reservations) {
    if (!selects(r.device, d, labels)) continue;
    rules.reserves = true;
    if (r.when != kAlways && !window_open[r.when]) continue;
    const auto c = static_cast<std::size_t>(r.for_class);
    if (r.kind == Reservation::Size::loaded) rules.keeps_loaded[c] = true;
    const std::int64_t size = r.kind == Reservation::Size::percent ? whole * r.percent / 100 : r.kind == Reservation::Size::mib ? r.size.value : 0;
    rules.reserved[c] = std::max(rules.reserved[c], std::min(size, whole));  // of several, the largest: they are not added up
  }
  if (rules == d.rules && d.rules_known) return;
  d.rules = std::move(rules);
  d.rules_known = true;
  for (const Index lane : d.lanes) shelve(lane);
  refresh_device(index, true);  // another worker's lanes on the same card: a class may be allowed there that was not
}

void Core::State::resolve_all_rules() {
  for (Index i = 0; i < devices.extent(); ++i) {
    if (devices[i].reporters.empty()) continue;
    resolve_rules(i);
    for (const Index lane : devices[i].lanes) shelve(lane);  // exclusions move shelves, too
    measure(i);
  }
  wake_all_parked();
}

/// A bare index means a device only while one host is known.
void Core::State::host_comes(const std::string& host) {
  if (hosts[host]++ == 0 && any_bare_index && hosts.size() <= 2) resolve_all_rules();
}

void Core::State::host_goes(const std::string& host) {
  const auto it = hosts.find(host);
  check(it != hosts.end(), "a host goes that never came");
  if (--it->second != 0) return;
  hosts.erase(it);
  if (any_bare_index && hosts.size() <= 1) resolve_all_rules();
}

// ---- what operators switched

void Core::State::apply_settings() {
  using Kind = OperatorSetting::Kind;
  const auto is_set = [&](Kind kind, const std::string& target) { return !settings.empty() && settings.contains({kind, target}); };
  for (std::size_t c = 0; c < kJobClasses; ++c)
    classes[c].paused = is_set(Kind::pause_class, std::string(gq::to_string(static_cast<JobClass>(c))));
  for (Index w = 0; w < workers.extent(); ++w) {
    const bool draining = is_set(Kind::drain_worker, texts[workers[w].name]);
    if (workers[w].draining == draining) continue;
    workers[w].draining = draining;
    refresh_worker(w, !draining);
  }
  for (Index d = 0; d < devices.extent(); ++d) {
    const bool draining = is_set(Kind::drain_device, texts[devices[d].uuid]);
    if (devices[d].draining == draining) continue;
    devices[d].draining = draining;
    refresh_device(d, !draining);
  }
}

void Core::State::settings_changed() {
  const auto before = classes;
  apply_settings();
  for (std::size_t c = 0; c < kJobClasses; ++c)
    if (before[c].paused && !classes[c].paused) wake_class(static_cast<JobClass>(c));
}

}  // namespace gq::core

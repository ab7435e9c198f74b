// rehearsal.cpp - what another policy would change right now: two cores are made from what is here, one under each policy, the
// workers say HELLO to both, and their effects are compared. The same code decides, and nothing here changes.
//
// Of each shape only the first kJobsRehearsed waiting jobs come along: a million queued jobs would say nothing more.
#include <algorithm>
#include <map>
#include <set>

#include "broker/core/placement.h"

namespace gq::core {

namespace {
constexpr std::size_t kJobsRehearsed = 64;
}  // namespace

struct Core::Rehearsal {
  std::map<JobId, std::string> starts;   ///< where
  std::map<JobId, std::string> leaves;   ///< why
  std::unique_ptr<Core> core;

  Rehearsal(const State& s, const Policy& policy) {
    CoreConfig config = s.config;
    config.policy = policy;
    config.restarted = false;
    core = std::make_unique<Core>(std::move(config));
    core->load(image_of(s), s.now);
    core->state_->rehearses = true;      // nobody starts before everybody is there
    Effects effects;
    for (Index w = 0; w < s.workers.extent(); ++w)
      if (s.workers[w].usable()) core->step(s.now, w + 1, hello_of(s, w), effects);
    core->state_->rehearses = false;
    core->step(s.now, s.workers.extent() + 1, TimerFired{}, effects);
    for (const Effect& effect : effects) {
      const auto* send = std::get_if<Send>(&effect);
      if (send == nullptr) continue;
      if (const auto* a = std::get_if<Assign>(&send->message)) starts[a->grant.job] = a->devices.empty() ? "" : a->devices.front();
      if (const auto* p = std::get_if<Preempt>(&send->message)) leaves[p->grant.job] = p->reason;
    }
  }

  static Image image_of(const State& s) {
    Image image;
    std::set<Index> taken;
    const auto take = [&](Index slot) {
      if (taken.insert(slot).second) image.jobs.push_back({s.fixed_of(slot), s.dynamic_of(slot)});
    };
    for (Index h = 0; h < s.holds.extent(); ++h)
      if (s.holds[h].job != kNone) take(s.holds[h].job);
    for (Index i = 0; i < s.shapes.extent(); ++i) {
      const Shape& shape = s.shapes[i];
      if (!shape.live) continue;
      std::size_t left = kJobsRehearsed;
      for (std::size_t p = shape.lines.size(); p-- > 0;) {
        if (!shape.lines[p]) continue;
        const auto waits = [&](const Entry& e) { return s.jobs[e.job].seq == e.seq && s.jobs[e.job].state == JobState::ready && s.jobs[e.job].shape == i; };
        for (const Entry& e : shape.lines[p]->returned)
          if (left > 0 && waits(e)) take(e.job), --left;
        for (const Entry& e : shape.lines[p]->queue) {
          if (left == 0) break;
          if (waits(e)) take(e.job), --left;
        }
      }
    }
    for (const ModelVersion& v : s.versions)
      if (v.registered) image.models.push_back(v.record);
    for (const auto& [key, setting] : s.settings) image.settings.push_back(setting);
    return image;
  }

  static WorkerHello hello_of(const State& s, Index index) {
    const Worker& worker = s.workers[index];
    WorkerHello hello;
    hello.peer = worker.peer;
    hello.worker = s.texts[worker.name];
    hello.instance = worker.instance;
    hello.version = worker.version;
    hello.host = worker.host;
    for (KindIndex k = 0; k < kKinds.size(); ++k)
      if ((worker.kinds >> k & 1U) != 0) hello.kinds.push_back(k);
    hello.labels = worker.labels;
    for (const Index device : worker.devices)
      for (const Reporter& r : s.devices[device].reporters)
        if (r.worker == index) hello.devices.push_back(r.report);
    for (const Index lane : worker.lanes) {
      const Lane& l = s.lanes[lane];
      hello.lanes.push_back({l.id, l.kind, l.device == kNone ? "" : s.texts[s.devices[l.device].uuid], l.kind == LaneKind::warm ? s.versions[l.version].text : ""});
      hello.credit.push_back({l.id, l.limit - l.used});
    }
    for (const Index h : worker.holds) hello.running.push_back(s.grant_of(s.holds[h].job));
    return hello;
  }

  [[nodiscard]] std::vector<std::string> warnings() const {
    const State& s = *core->state_;
    const Policy& policy = s.config.policy;
    std::vector<std::string> all;
    if (s.workers.live() == 0) return {"no worker is connected: devices and hosts could not be checked"};
    const auto labels_of = [&](const Device& d) {
      std::vector<std::string> labels = d.rules.labels;
      for (const Reporter& r : d.reporters) labels.insert(labels.end(), s.workers[r.worker].labels.begin(), s.workers[r.worker].labels.end());
      return labels;
    };
    const auto named = [&](const DeviceSelector& selector) {
      std::vector<Index> found;
      for (Index d = 0; d < s.devices.extent(); ++d)
        if (!s.devices[d].reporters.empty() && s.selects(selector, s.devices[d], labels_of(s.devices[d]))) found.push_back(d);
      return found;
    };
    const auto warn_if_none = [&](const DeviceSelector& selector, const std::string& where) {
      if (!named(selector).empty()) return;
      std::string text = where + " names device " + to_string(selector) + ", and no worker reports it now";
      if (selector.kind == DeviceSelector::Kind::index && s.hosts.size() > 1) text = where + " names device " + to_string(selector) + " without a host, and " + std::to_string(s.hosts.size()) + " hosts are known: write HOST/" + to_string(selector);
      all.push_back(std::move(text));
    };
    for (std::size_t c = 0; c < kJobClasses; ++c) {
      const std::string section = "[class." + std::string(gq::to_string(static_cast<JobClass>(c))) + "]";
      const auto& devices = policy.classes[c].devices;
      for (const DeviceSelector& selector : devices) warn_if_none(selector, section);
      if (!devices.empty() && std::all_of(devices.begin(), devices.end(), [&](const DeviceSelector& d) { return named(d).empty(); }))
        all.push_back(section + " leaves the class no device of those that are here");
    }
    for (const Reservation& r : policy.reservations) {
      const std::string section = "[class." + std::string(gq::to_string(r.for_class)) + "] reserve";
      warn_if_none(r.device, section);
      for (const Index d : named(r.device))
        if (r.kind == Reservation::Size::mib && r.size > s.devices[d].capacity)
          all.push_back(section + " keeps " + to_string(r.size) + " on " + s.texts[s.devices[d].uuid] + ", which has only " + to_string(s.devices[d].capacity) + ": all of it is kept");
    }
    for (const DevicePolicy& d : policy.devices) warn_if_none(d.device, "[device.\"" + to_string(d.device) + "\"]");
    return all;
  }
};

PolicyPlan Core::plan(const Policy& policy, const Moment&) const {
  const State& s = *state_;
  const Rehearsal before(s, s.config.policy);
  const Rehearsal after(s, policy);
  PolicyPlan result;
  result.warnings = after.warnings();
  std::map<JobId, std::string> stranded;
  for (Index h = 0; h < s.holds.extent(); ++h) {
    const Hold& hold = s.holds[h];
    if (hold.job == kNone) continue;
    const JobClass c = s.needs_of(s.jobs[hold.job]).job_class;
    for (const Index device : hold.devices) {
      const State& other = *after.core->state_;
      const Index text = other.texts.find(s.texts[s.devices[device].uuid]);
      const auto it = text == kNone ? other.device_of.end() : other.device_of.find(text);
      if (it == other.device_of.end() || (other.devices[it->second].rules.classes >> static_cast<unsigned>(c) & 1U) != 0) continue;
      stranded[s.jobs[hold.job].id] = "class " + std::string(gq::to_string(c)) + " may no longer start on " + s.texts[s.devices[device].uuid] + ", where it runs: it is left to finish";
    }
  }
  for (const auto& [job, why] : after.leaves)
    if (!before.leaves.contains(job)) stranded[job] = "it would be asked to leave: " + why;
  for (const auto& [job, text] : stranded) result.stranded.push_back({job, text});
  for (const auto& [job, where] : after.starts)
    if (!before.starts.contains(job)) result.would_start.push_back({job, where.empty() ? "it would start" : "it would start on " + where});
  for (const auto& [job, where] : before.starts)
    if (!after.starts.contains(job)) result.would_wait.push_back({job, "it would not start" + (where.empty() ? "" : " on " + where)});
  return result;
}

}  // namespace gq::core

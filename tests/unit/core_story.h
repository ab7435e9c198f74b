// core_story.h - tells a story to a Core and compares everything that followed.
//
// Time only moves by after(). Each fact is followed by check_invariants() and is folded into a store image, so that a core
// loaded from that image can be compared with the one that lived through it. Expected commits start from the job as it was last
// committed: a test says only what changes, and nothing else may.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "broker/core/core.h"

namespace gq::core::story {

/// What a store would hold: mutations folded in order.
struct Fold {
  std::map<JobId, JobRecord> jobs;
  std::map<std::pair<std::string, std::string>, ModelRecord> models;
  std::map<JobId, Image::Tombstone> tombstones;
  std::map<std::string, JobId> uniques;
  std::map<std::pair<OperatorSetting::Kind, std::string>, OperatorSetting> settings;

  void apply(const Mutation& mutation) {
    std::visit(overloaded{[&](const JobCreated& m) { jobs[m.record.fixed.id] = m.record; },
                          [&](const JobChanged& m) {
                            ASSERT_TRUE(jobs.contains(m.id)) << "a change of an unknown job";
                            EXPECT_EQ(jobs[m.id].dynamic.state, m.from) << "the store would look for it in the wrong set";
                            EXPECT_EQ(jobs[m.id].fixed.seq, m.seq);
                            jobs[m.id].dynamic = m.now;
                          },
                          [&](const JobForgotten& m) {
                            EXPECT_TRUE(jobs.contains(m.id));
                            EXPECT_EQ(jobs[m.id].dynamic.state, m.from);
                            jobs.erase(m.id);
                            if (m.tombstone) tombstones[m.id] = {m.id, m.digest, m.ended};
                          },
                          [&](const TombstoneDropped& m) { EXPECT_EQ(tombstones.erase(m.id), 1U); },
                          [&](const UniqueTaken& m) { EXPECT_TRUE(uniques.emplace(m.key, m.id).second) << "a key taken twice"; },
                          [&](const UniqueReleased& m) { EXPECT_EQ(uniques.erase(m.key), 1U); },
                          [&](const ModelStored& m) { models[{m.record.name, m.record.version}] = m.record; },
                          [&](const ModelRemoved& m) { EXPECT_EQ(models.erase({m.name, m.version}), 1U); },
                          [&](const PayloadRead& m) { EXPECT_TRUE(jobs.contains(m.id)); },
                          [&](const ResultStored& m) { EXPECT_TRUE(jobs.contains(m.id)); },
                          [&](const ResultDropped& m) { EXPECT_TRUE(jobs.contains(m.id)); },
                          [&](const JobRevised& m) {
                            EXPECT_TRUE(jobs.contains(m.fixed.id));
                            jobs[m.fixed.id].fixed = m.fixed;
                          },
                          [&](const SettingStored& m) { settings[{m.setting.kind, m.setting.target}] = m.setting; },
                          [&](const SettingDropped& m) { EXPECT_EQ(settings.erase({m.kind, m.target}), 1U); }},
               mutation);
  }
  [[nodiscard]] Image image() const {
    Image i;
    for (const auto& [id, record] : jobs) i.jobs.push_back(record);
    for (const auto& [key, record] : models) i.models.push_back(record);
    for (const auto& [id, tombstone] : tombstones) i.tombstones.push_back(tombstone);
    for (const auto& [key, setting] : settings) i.settings.push_back(setting);
    return i;
  }
};

inline JobId job_id(std::uint64_t n) { return {0x0190'0000'0000'0000ULL, n}; }
inline constexpr PeerId kClient{1}, kOther{2};
inline BlobDigest blob(std::uint8_t n) {
  BlobDigest b;
  b.bytes.fill(n);
  return b;
}

inline SubmitItem item(std::uint64_t n, std::string_view kind) {
  SubmitItem i;
  i.fixed.id = job_id(n);
  i.fixed.digest = {7, n};
  i.fixed.needs.kind = *kind_index(kind);
  i.fixed.needs.job_class = kKinds[i.fixed.needs.kind].default_class;
  i.fixed.needs.on_preempt = kKinds[i.fixed.needs.kind].on_preempt;
  i.fixed.body_bytes = 100;
  i.body = 1000 + n;
  return i;
}
inline SubmitItem with(SubmitItem i, const std::function<void(SubmitItem&)>& change) {
  change(i);
  return i;
}
inline SubmitItem detect(std::uint64_t n, std::string model = "yolo") {
  return with(item(n, "detect"), [&](SubmitItem& i) { i.fixed.needs.model = std::move(model); });
}
inline SubmitItem training(std::uint64_t n, Mib min = {}, Mib max = {}) {
  return with(item(n, "train.detector"), [&](SubmitItem& i) {
    i.fixed.needs.budget_min = min;
    i.fixed.needs.budget_max = max;
  });
}

inline DeviceReport gpu(std::string uuid, Mib total = {10'000}) {
  DeviceReport r;
  r.uuid = std::move(uuid);
  r.kind = DeviceKind::cuda;
  r.total = total;
  return r;
}

inline std::vector<KindIndex> all_kinds() {
  std::vector<KindIndex> kinds;
  for (KindIndex k = 0; k < kKinds.size(); ++k) kinds.push_back(k);
  return kinds;
}

class Story : public ::testing::Test {
 protected:
  explicit Story(CoreConfig c = fresh()) : config(std::move(c)), core(std::make_unique<Core>(config)) {}
  static CoreConfig fresh() {
    CoreConfig c;
    c.restarted = false;
    c.policy.headroom_pct = 0;
    return c;
  }

  // ---- time and facts
  Moment now{Instant{1000s}, WallTime{1'700'000'000'000}};
  CoreConfig config;
  std::unique_ptr<Core> core;
  Effects seen;
  Fold store;
  std::uint64_t entropy{42};
  std::uint64_t batch{0};
  std::uint64_t request{100};

  void tick(Event event) {
    const std::size_t from = seen.size();
    core->step(now, entropy += 1000, std::move(event), seen);
    core->check_invariants();
    for (std::size_t i = from; i < seen.size(); ++i)
      if (const auto* c = std::get_if<Commit>(&seen[i]); c != nullptr && c->durable) store.apply(c->mutation);
  }
  /// A fact, and then the commit of all that followed from it.
  void say(Event event) {
    tick(std::move(event));
    commit_now();
  }
  void commit_now() { tick(BatchCommitted{++batch}); }

  std::map<std::string, WorkerBeat> beating;  ///< workers that keep beating while time passes
  void after(Duration d) {
    const Instant until = now.steady + d;
    while (now.steady < until) {
      const Duration step = std::min<Duration>(500ms, until - now.steady);
      now.steady += step;
      now.wall.ms += step.count() / 1000;
      for (const auto& [name, beat] : beating) {
        Effects answers;
        core->step(now, entropy += 1000, beat, answers);
        for (Effect& e : answers)
          if (!std::holds_alternative<SendNow>(e)) {
            if (const auto* c = std::get_if<Commit>(&e); c != nullptr && c->durable) store.apply(c->mutation);
            seen.push_back(std::move(e));
          }
      }
      tick(TimerFired{});
      commit_now();
    }
  }

  Effects effects() {
    Effects all = std::move(seen);
    seen.clear();
    return all;
  }
  void forget_effects() { seen.clear(); }
  void expect_silence() { EXPECT_EQ(effects(), Effects{}); }

  // ---- clients
  void submit(std::vector<SubmitItem> items, PeerId peer = kClient) { say(SubmitReceived{peer, ++request, "ann", std::move(items)}); }
  JobId submitted(SubmitItem i) {
    const JobId id = i.fixed.id;
    submit({std::move(i)});
    return id;
  }
  void push_model(std::string name, std::uint8_t content, Mib budget = {1000}, std::uint64_t bytes = 0) {
    ModelRecord m;
    m.bytes = bytes;
    m.name = std::move(name);
    m.blob = blob(content);
    m.budget = budget;
    say(ModelPushed{kClient, ++request, m});
  }
  static std::string version_of(std::uint8_t content) { return to_string(blob(content)).substr(0, 12); }

  // ---- workers
  struct WorkerSpec {
    std::uint64_t slots{0};                 ///< credit of its slots lane (lane 1)
    std::vector<DeviceReport> devices{};    ///< lane 10 + i is the start lane of device i
    std::uint64_t starts{4};
    std::vector<std::string> labels{};
    std::vector<Grant> running{};
    std::uint64_t instance{1};
  };
  std::uint64_t next_peer{10};
  std::map<std::string, PeerId> peers;

  WorkerHello hello(const std::string& name, const WorkerSpec& spec) {
    WorkerHello h;
    h.peer = {next_peer++};
    h.worker = name;
    h.instance = spec.instance;
    h.host = name;
    h.kinds = all_kinds();
    h.labels = spec.labels;
    h.devices = spec.devices;
    h.running = spec.running;
    h.lanes.push_back({1, LaneKind::slots, "", ""});
    h.credit.push_back({1, spec.slots});
    for (std::size_t i = 0; i < spec.devices.size(); ++i) {
      h.lanes.push_back({static_cast<std::uint16_t>(10 + i), LaneKind::start, spec.devices[i].uuid, ""});
      h.credit.push_back({static_cast<std::uint16_t>(10 + i), spec.starts});
    }
    return h;
  }
  PeerId worker(const std::string& name, const WorkerSpec& spec) {
    WorkerHello h = hello(name, spec);
    const PeerId peer = h.peer;
    peers[name] = peer;
    say(std::move(h));
    return peer;
  }
  void pull(PeerId peer, std::uint16_t lane, std::uint64_t limit) { say(WorkerPulled{peer, {}, {}, {{lane, limit}}}); }
  void open_warm(PeerId peer, std::uint16_t lane, std::string device, std::string model, std::uint64_t limit) {
    say(WorkerPulled{peer, {{lane, LaneKind::warm, std::move(device), std::move(model)}}, {}, {{lane, limit}}});
  }
  void beat(PeerId peer, std::vector<Grant> running, std::uint64_t last_number = UINT64_MAX) { say(WorkerBeat{peer, last_number, std::move(running), {}}); }
  void keep_beating(const std::string& name, std::vector<Grant> running = {}) { beating[name] = {peers[name], UINT64_MAX, std::move(running), {}}; }
  void started(PeerId peer, JobId job) { say(AttemptsStarted{peer, {grant(job)}}); }
  static AttemptEnd end_of(Grant g, Outcome outcome, const std::function<void(AttemptEnd&)>& change = {}) {
    AttemptEnd e;
    e.grant = g;
    e.outcome = outcome;
    if (outcome != Outcome::succeeded) e.error_text = "boom";
    if (change) change(e);
    return e;
  }
  void ends(PeerId peer, std::vector<AttemptEnd> all) { say(AttemptsEnded{peer, ++request, std::move(all)}); }
  void ends(PeerId peer, JobId job, Outcome outcome, const std::function<void(AttemptEnd&)>& change = {}) {
    ends(peer, {end_of(grant(job), outcome, change)});
  }

  // ---- what is so now
  JobDynamic& was(JobId job) { return expected_[job]; }
  [[nodiscard]] JobRecord record(JobId job) const { return core->find(job, now).value_or(JobView{}).record; }
  [[nodiscard]] JobDynamic dynamic(JobId job) const { return record(job).dynamic; }
  [[nodiscard]] JobState state(JobId job) const { return dynamic(job).state; }
  [[nodiscard]] Grant grant(JobId job) const { return {job, dynamic(job).attempt, dynamic(job).nonce}; }
  [[nodiscard]] DeviceView device(const std::string& uuid) const {
    for (const WorkerView& w : core->workers(now))
      for (const DeviceView& d : w.devices)
        if (d.report.uuid == uuid) return d;
    return {};
  }
  /// What this job's worker was told since effects() were last asked for.
  std::optional<Assign> assignment(JobId job) {
    for (const Effect& effect : effects())
      if (const auto* s = std::get_if<Send>(&effect))
        if (const auto* a = std::get_if<Assign>(&s->message); a != nullptr && a->grant.job == job) return *a;
    return std::nullopt;
  }
  std::vector<JobId> assigned_now() {
    std::vector<JobId> ids;
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* a = std::get_if<Assign>(&s->message)) ids.push_back(a->grant.job);
    return ids;
  }

  // ---- expected effects
  Effect created(SubmitItem i, JobState s, const std::function<void(JobDynamic&)>& change = {}) {
    i.fixed.seq = ++last_seq_;
    i.fixed.submitted = now.wall;
    i.fixed.owner = "ann";
    JobDynamic d;
    d.state = s;
    if (change) change(d);
    expected_[i.fixed.id] = d;
    fixed_[i.fixed.id] = i.fixed;
    return Commit{JobCreated{{i.fixed, d}, i.body, {}}};
  }
  Effect answered(std::vector<SubmitOutcome> items, PeerId peer = kClient) { return Send{SubmitAnswer{peer, request, std::move(items)}}; }
  static SubmitOutcome ok(JobId id) { return {id, true, false, {}}; }
  static SubmitOutcome existing(JobId id) { return {id, true, true, {}}; }
  Effect changed(JobId job, JobState to, const std::function<void(JobDynamic&)>& change = {}) {
    JobDynamic& d = expected_[job];
    const JobState from = d.state;
    d.state = to;
    if (change) change(d);
    return Commit{JobChanged{job, from, d, fixed_[job].seq, fixed_[job].needs.job_class}};
  }
  Effect revised(JobId job, const std::function<void(JobFixed&)>& change) {
    change(fixed_[job]);
    return Commit{JobRevised{fixed_[job]}};
  }
  /// The grant's nonce is taken from the core: it is random by design.
  Effect granted(JobId job, const std::string& to, std::vector<std::string> devices = {}, Mib size = {}, std::string version = {}) {
    return changed(job, JobState::running, [&](JobDynamic& d) {
      d.attempt++;
      d.nonce = dynamic(job).nonce;
      d.worker = to;
      d.devices = devices;
      d.granted = size;
      d.started = now.wall;
      d.ended = {};
      d.model_version = version;
    });
  }
  static Effect reads(JobId job) { return Commit{PayloadRead{job}}; }
  Effect assigns(const std::string& to, std::uint64_t number, JobId job, std::uint16_t lane, const std::function<void(Assign&)>& change = {}) {
    const JobFixed& f = fixed_[job];
    const JobDynamic& d = expected_[job];
    Assign a{peers[to], number, {job, d.attempt, d.nonce}, lane, d.devices, d.granted, {}, d.checkpoint, f.needs,
             f.priority, f.timeout, f.body_bytes, f.owner, 0, f.after};
    if (change) change(a);
    return Send{a};
  }
  Effect verdict(PeerId peer, Grant g, EndVerdict v) { return Send{EndsAnswer{peer, request, {g}, {v}}}; }
  Effect notice(JobId job, Token result = 0, PeerId peer = kClient) { return Send{JobNotice{peer, job, expected_[job], result}}; }

  /// A core loaded from what was committed is this core.
  void expect_reload_is_the_same() {
    Core loaded(config);
    loaded.load(store.image(), now);
    loaded.check_invariants();
    ListFilter all;
    all.limit = 500;
    EXPECT_EQ(loaded.list(all), core->list(all));
    EXPECT_EQ(loaded.models(), core->models());
    for (const JobRecord& r : core->list(all)) EXPECT_EQ(loaded.find(r.fixed.id, now)->record, r);
    for (std::size_t c = 0; c < kJobClasses; ++c)
      for (std::size_t s = 0; s < kJobStates; ++s)
        EXPECT_EQ(loaded.totals().by_class_and_state[c][s], core->totals().by_class_and_state[c][s]);
    EXPECT_EQ(loaded.totals().queued_bytes, core->totals().queued_bytes);
    EXPECT_EQ(loaded.totals().final_bytes, core->totals().final_bytes);
    EXPECT_EQ(loaded.settings(), core->settings());
  }

 private:
  std::map<JobId, JobDynamic> expected_;
  std::map<JobId, JobFixed> fixed_;
  std::uint64_t last_seq_{0};
};

}  // namespace gq::core::story

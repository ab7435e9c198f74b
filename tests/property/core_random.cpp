// core_random.cpp - arbitrary facts from arbitrary peers, sensible and nonsensical, never break the core.
//
// After every step: check_invariants(), no device is promised more than it has, no lane more than its credit, every request is
// answered once, and every mutation fits what the store holds. The same seed gives the same effects. A core loaded from what was
// committed says the same about every job.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <sstream>

#include "tests/unit/core_story.h"

namespace gq::core::story {
namespace {

class Chaos {
 public:
  explicit Chaos(std::uint64_t seed) : random_(seed) {
    CoreConfig c;
    c.restarted = pick(2) == 0;
    c.policy.headroom_pct = 0;
    c.policy.aging = pick(4) != 0;
    c.final_bytes_max = pick(2) == 0 ? 20'000 : 200'000;
    c.queued_bytes_max = 50'000;
    config_ = c;
    core_ = std::make_unique<Core>(c);
  }

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      const auto gap = std::array<Duration, 6>{Duration{10}, Duration{1ms}, Duration{50ms}, Duration{400ms}, Duration{900ms}, Duration{7s}}[pick(60) == 0 ? 5 : pick(5)];
      now_.steady += gap;
      now_.wall.ms += gap.count() / 1000;
      if (pick(200) == 0) now_.wall.ms += std::array<std::int64_t, 3>{3'600'000, 90'000'000, -60'000}[pick(3)];
      step(any_event());
      if (testing::Test::HasFailure()) return;
      if (pick(400) == 0) reload();
    }
  }
  [[nodiscard]] std::string log() const { return log_.str(); }
  std::map<JobState, int> reached;
  std::map<std::size_t, int> mutated, sent;

 private:
  std::mt19937_64 random_;
  CoreConfig config_;
  std::unique_ptr<Core> core_;
  Moment now_{Instant{1000s}, WallTime{1'700'000'000'000}};
  Fold store_;
  std::ostringstream log_;
  std::uint64_t request_{0}, batch_{0}, next_peer_{100};
  std::vector<Grant> grants_;                                  ///< every one ever given
  std::vector<std::uint64_t> peers_{100};
  std::map<std::pair<std::uint64_t, std::uint16_t>, std::pair<std::uint64_t, std::uint64_t>> credit_;  ///< (peer, lane) -> used, limit
  std::map<std::string, Mib> card_;

  std::uint64_t pick(std::uint64_t below) { return random_() % below; }
  JobId any_job() { return job_id(pick(40)); }
  PeerId any_peer() { return {pick(8) == 0 ? pick(200) : peers_[pick(peers_.size())]}; }
  PeerId any_client() { return {1 + pick(4)}; }
  Grant any_grant() {
    if (grants_.empty() || pick(10) == 0) return {any_job(), static_cast<Attempt>(pick(4)), pick(3)};
    const std::size_t recent = std::min<std::size_t>(grants_.size(), 12);
    return pick(5) == 0 ? grants_[pick(grants_.size())] : grants_[grants_.size() - 1 - pick(recent)];
  }
  std::vector<Grant> any_grants() {
    std::vector<Grant> all;
    for (std::uint64_t i = pick(6); i > 0; --i) all.push_back(any_grant());
    return all;
  }
  SubmitItem any_item() {
    SubmitItem i;
    i.fixed.id = any_job();
    i.fixed.digest = {7, pick(3) == 0 ? pick(3) : i.fixed.id.lo};
    i.fixed.needs.kind = static_cast<KindIndex>(pick(10) == 0 ? pick(12) : pick(kKinds.size()));
    i.fixed.needs.job_class = static_cast<JobClass>(pick(3));
    if (i.fixed.needs.kind < kKinds.size() && kKinds[i.fixed.needs.kind].uses_model) i.fixed.needs.model = pick(2) == 0 ? "yolo" : "net";
    if (pick(3) == 0) i.fixed.needs.budget_min = {static_cast<std::int64_t>(pick(6) * 1000)};
    if (pick(4) == 0) i.fixed.needs.budget_max = pick(2) == 0 ? kRestOfDevice : Mib{6000};
    if (pick(8) == 0) i.fixed.needs.devices = static_cast<std::uint16_t>(pick(4));
    if (pick(8) == 0) i.fixed.needs.where = {"zone=a"};
    i.fixed.priority = static_cast<std::uint8_t>(pick(11));
    if (pick(6) == 0) i.fixed.not_before = {now_.wall.ms + static_cast<std::int64_t>(pick(4000))};
    if (pick(6) == 0) i.fixed.deadline = {now_.wall.ms + static_cast<std::int64_t>(pick(9000)) - 1000};
    if (pick(4) == 0) i.fixed.timeout = std::chrono::milliseconds(pick(5000));
    i.fixed.retries = static_cast<std::uint32_t>(pick(3));
    if (pick(5) == 0) i.fixed.unique = "key" + std::to_string(pick(3));
    for (std::uint64_t n = pick(4) == 0 ? pick(3) : 0; n > 0; --n) i.fixed.after.push_back(any_job());
    i.fixed.body_bytes = static_cast<std::uint32_t>(pick(3000));
    i.body = 1 + pick(1000);
    i.fixed.durable = pick(5) != 0;
    i.watch = pick(2) == 0;
    i.strict = pick(10) == 0;
    return i;
  }
  DeviceReport any_device() {
    const auto n = pick(3);
    DeviceReport r = gpu("GPU-" + std::to_string(n), Mib{static_cast<std::int64_t>(4000 + 4000 * n)});
    card_[r.uuid] = r.total;
    if (pick(20) == 0) r.healthy = false;
    return r;
  }
  WorkerHello any_hello() {
    WorkerHello h;
    h.peer = pick(6) == 0 ? any_peer() : PeerId{next_peer_++};
    if (std::find(peers_.begin(), peers_.end(), h.peer.value) == peers_.end()) peers_.push_back(h.peer.value);
    if (peers_.size() > 6) peers_.erase(peers_.begin());
    h.worker = pick(40) == 0 ? "" : "w" + std::to_string(pick(4));
    h.instance = pick(3);
    h.kinds = all_kinds();
    if (pick(5) == 0) h.kinds.push_back(200);
    if (pick(2) == 0) h.labels = {"zone=a"};
    if (pick(8) == 0) h.labels.push_back("cloud=rent");
    for (std::uint64_t i = pick(3); i > 0; --i) h.devices.push_back(any_device());
    for (std::uint16_t lane = 0; lane < 6; ++lane) h.lanes.push_back(any_lane(lane));
    for (std::uint16_t lane = 0; lane < 6; ++lane) h.credit.push_back({lane, pick(4)});
    if (pick(2) == 0) h.running = any_grants();
    return h;
  }
  LaneDeclared any_lane(std::uint16_t lane) {
    return {lane, static_cast<LaneKind>(pick(3)), "GPU-" + std::to_string(pick(3)), pick(2) == 0 ? "yolo@" + Story_version(1) : "net@" + Story_version(3)};
  }
  static std::string Story_version(std::uint8_t content) { return to_string(blob(content)).substr(0, 12); }

  JobUpdate any_update() {
    JobUpdate u;
    if (pick(3) == 0) u.priority = static_cast<std::uint8_t>(pick(11));
    if (pick(4) == 0) u.deadline = pick(3) == 0 ? WallTime{} : WallTime{now_.wall.ms + static_cast<std::int64_t>(pick(9000)) - 500};
    if (pick(4) == 0) u.not_before = pick(3) == 0 ? WallTime{} : WallTime{now_.wall.ms + static_cast<std::int64_t>(pick(4000)) - 500};
    if (pick(6) == 0) u.timeout = std::chrono::milliseconds(pick(5000));
    if (pick(6) == 0) u.retries = static_cast<std::uint32_t>(pick(4));
    if (pick(4) == 0) u.job_class = static_cast<JobClass>(pick(3));
    if (pick(5) == 0) u.budget = std::pair{Mib{static_cast<std::int64_t>(pick(6) * 1000)}, pick(2) == 0 ? kRestOfDevice : Mib{6000}};
    if (pick(6) == 0) u.on_preempt = static_cast<OnPreempt>(pick(4));
    if (pick(6) == 0) u.where = pick(2) == 0 ? std::vector<std::string>{} : std::vector<std::string>{"zone=a"};
    return u;
  }
  FleetCommand any_fleet_command() {
    FleetCommand e{any_client(), ++request_, static_cast<FleetVerb>(pick(4)), "", "ann", pick(2) == 0 ? "why" : "", {}};
    if (pick(2) == 0) e.verb = e.verb == FleetVerb::drain ? FleetVerb::undrain : e.verb == FleetVerb::pause_class ? FleetVerb::resume_class : e.verb;
    if (e.verb == FleetVerb::pause_class || e.verb == FleetVerb::resume_class) {
      e.target = std::array<const char*, 4>{"inference", "training", "synthesis", "express"}[pick(4)];
      return e;
    }
    const std::string n = std::to_string(pick(4));
    e.target = std::array<std::string, 4>{"w" + n, "GPU-" + n, "w" + n + "/0", "nobody"}[pick(4)];
    if (pick(3) == 0) e.deadline = std::chrono::milliseconds(pick(60'000));
    return e;
  }
  Policy any_policy() {
    Policy p = CoreConfig{}.policy;
    p.headroom_pct = 0;
    p.aging = pick(3) != 0;
    p.model_idle_min = std::chrono::milliseconds(pick(3) * 1000);
    if (pick(3) == 0) std::swap(p.ladder[pick(3)], p.ladder[pick(3)]);
    for (ClassPolicy& c : p.classes) {
      c.min_run = std::chrono::milliseconds(pick(3) * 500);
      c.grace = std::chrono::milliseconds(500 + pick(3) * 1000);
      c.running_max = pick(5) == 0 ? static_cast<std::uint32_t>(1 + pick(4)) : 0;
      c.queued_max = pick(8) == 0 ? static_cast<std::uint32_t>(1 + pick(10)) : 0;
      c.preemptible = pick(5) != 0;
      c.cloud = pick(6) != 0;
    }
    if (pick(4) == 0) p.of(JobClass::training).not_beside = {JobClass::synthesis};
    if (pick(3) == 0) p.tenants = {{"ann", static_cast<std::uint32_t>(pick(5)), 0, 2.0}, {"*", static_cast<std::uint32_t>(pick(3)), static_cast<std::uint32_t>(pick(2) * 8), 1.0}};
    p.fair = pick(3) == 0;
    p.fair_half_life = std::chrono::seconds(1 + pick(30));
    return p;
  }

  Event any_event() {
    switch (pick(29)) {
      case 0: case 1: case 2: case 3: {
        SubmitReceived e{any_client(), ++request_, pick(4) == 0 ? "bob" : "ann", {}};
        for (std::uint64_t i = 1 + pick(4); i > 0; --i) e.items.push_back(any_item());
        return e;
      }
      case 4: return WatchReceived{any_client(), ++request_, {any_job(), any_job()}};
      case 5: return CancelReceived{any_client(), ++request_, {any_job()}};
      case 6: return RetryReceived{any_client(), ++request_, "ann", any_job(), any_job(), pick(2) == 0};
      case 7: return FetchedReceived{any_client(), {any_job(), any_job()}};
      case 8: {
        if (pick(3) == 0) return ModelRemoveReceived{any_client(), ++request_, pick(2) == 0 ? "yolo" : "net", pick(2) == 0 ? "" : Story_version(static_cast<std::uint8_t>(pick(5)))};
        ModelRecord m;
        m.name = pick(2) == 0 ? "yolo" : "net";
        m.blob = blob(static_cast<std::uint8_t>(m.name == "yolo" ? pick(3) : 3));
        m.budget = {static_cast<std::int64_t>(pick(3) * 1500)};
        return ModelPushed{any_client(), ++request_, m};
      }
      case 9: return ClientGone{any_client()};
      case 10: return any_hello();
      case 11: case 12: {
        WorkerPulled e{any_peer(), {}, {}, {}};
        if (pick(3) == 0) e.opened.push_back(any_lane(static_cast<std::uint16_t>(pick(8))));
        if (pick(5) == 0) e.closed.push_back(static_cast<std::uint16_t>(pick(8)));
        for (std::uint64_t i = pick(4); i > 0; --i) e.credit.push_back({static_cast<std::uint16_t>(pick(8)), pick(60)});
        return e;
      }
      case 13: case 14: {
        WorkerBeat e{any_peer(), pick(30), any_grants(), {}};
        if (pick(3) == 0) {
          DeviceReport r = any_device();
          r.healthy = pick(9) != 0;
          e.devices.push_back(r);
        }
        return e;
      }
      case 15: return AttemptsStarted{any_peer(), any_grants()};
      case 16: return AttemptRefused{any_peer(), any_grant(), Errc::no_fit, "no"};
      case 17: case 18: {
        AttemptsEnded e{any_peer(), ++request_, {}};
        for (const Grant& g : any_grants())
          e.ends.push_back(Story_end(g));
        return e;
      }
      case 19: return CheckpointSaved{any_peer(), any_grant(), {blob(9), pick(100)}};
      case 20: {
        if (pick(3) == 0) return WorkerGoodbye{any_peer()};
        return pick(2) == 0 ? Event{LinksGone{{any_peer(), any_peer()}}} : Event{MemoryReleased{any_peer(), any_grant()}};
      }
      case 21: {
        if (pick(3) == 0) return pick(3) == 0 ? Event{StoreDown{}} : Event{StoreUp{}};
        return pick(4) == 0 ? Event{PayloadMissing{any_job()}} : Event{PreemptAsked{any_job(), "why not", 30s}};
      }
      case 24: {
        JobCommand e{any_client(), ++request_, static_cast<JobVerb>(pick(3)), "ann", pick(2) == 0 ? "because" : "", pick(3) == 0 ? Duration{5s} : Duration{}, {}};
        for (std::uint64_t i = 1 + pick(3); i > 0; --i) e.jobs.push_back(any_job());
        return e;
      }
      case 25: case 26: return UpdateReceived{any_client(), ++request_, "ann", any_job(), any_update()};
      case 27: return any_fleet_command();
      case 28:
        if (pick(4) == 0) return PolicyLoaded{any_policy()};
        return TimerFired{};
      case 22: return pick(2) == 0 ? Event{BatchCut{batch_ + 1}} : Event{TimerFired{}};
      default: return BatchCommitted{++batch_};
    }
  }
  AttemptEnd Story_end(const Grant& g) {
    AttemptEnd end;
    end.grant = g;
    end.outcome = pick(4) == 0 ? Outcome::crashed : static_cast<Outcome>(pick(8));
    end.started = pick(4) != 0;
    end.result = pick(2) == 0 ? pick(100) : 0;
    end.result_bytes = static_cast<std::uint32_t>(pick(2000));
    if (pick(5) == 0) end.result_blobs.push_back(blob(4));
    if (end.outcome == Outcome::yielded) end.checkpoint = {blob(5), pick(100)};
    return end;
  }

  void step(Event event) {
    const Event copy = event;
    note_credit(copy);
    Effects out;
    const std::uint64_t entropy = random_();
    core_->step(now_, entropy, std::move(event), out);
    core_->check_invariants();
    if (std::getenv("GPUQ_CORE_TRACE") != nullptr) std::cerr << now_.steady.time_since_epoch().count() << " event " << copy.index() << out << std::endl;
    log_ << out;
    int answers = 0;
    for (const Effect& effect : out) {
      if (const auto* c = std::get_if<Commit>(&effect)) {
        if (c->durable) store_.apply(c->mutation);
        mutated[c->mutation.index()]++;
        if (const auto* changed = std::get_if<JobChanged>(&c->mutation); changed && changed->from != changed->now.state) reached[changed->now.state]++;
      }
      const auto* send = std::get_if<Send>(&effect);
      if (send == nullptr) continue;
      sent[send->message.index()]++;
      if (const auto* a = std::get_if<Assign>(&send->message)) on_assign(*a);
      answers += std::visit([](const auto& m) { return requires { m.request; } ? 1 : 0; }, send->message);
    }
    const int asked = std::visit([](const auto& e) { return requires { e.request; } ? 1 : 0; }, copy);
    ASSERT_EQ(answers, asked) << "every request is answered exactly once";
    if (const auto at = core_->next_wakeup()) { ASSERT_GE(*at, now_.steady); }
    no_card_is_promised_twice();
  }

  void note_credit(const Event& event) {
    const auto raise = [&](PeerId peer, const std::vector<LaneCredit>& credit) {
      for (const LaneCredit& c : credit) {
        auto& limit = credit_[{peer.value, c.lane}].second;
        limit = std::max(limit, c.limit);
      }
    };
    if (const auto* h = std::get_if<WorkerHello>(&event)) {
      if (h->worker.empty()) return;
      std::erase_if(credit_, [&](const auto& entry) { return entry.first.first == h->peer.value; });
      raise(h->peer, h->credit);
    }
    if (const auto* p = std::get_if<WorkerPulled>(&event)) {
      for (const std::uint16_t lane : p->closed) credit_.erase({p->peer.value, lane});
      raise(p->peer, p->credit);
    }
  }
  void on_assign(const Assign& a) {
    grants_.push_back(a.grant);
    auto& [used, limit] = credit_[{a.peer.value, a.lane}];
    ASSERT_LT(used++, limit) << "more was assigned than the worker's credit";
    ASSERT_TRUE(core_->current(a.grant));
  }
  /// No foreign use here, so what is promised of a card never exceeds it (a model that a worker says it has loaded is no promise).
  void no_card_is_promised_twice() {
    for (const WorkerView& w : core_->workers(now_))
      for (const DeviceView& d : w.devices) {
        const bool has_models = std::any_of(d.holders.begin(), d.holders.end(), [](const std::string& h) { return h.starts_with("model "); });
        if (!has_models) { ASSERT_LE(d.granted.value, d.report.total.value) << d.report.uuid << " " << testing::PrintToString(d.holders); }
      }
  }

  void reload() {
    auto loaded = std::make_unique<Core>(config_);
    loaded->load(store_.image(), now_);
    loaded->check_invariants();
    ListFilter all;
    all.limit = 500;
    auto expected = core_->list(all);
    std::erase_if(expected, [](const JobRecord& r) { return !r.fixed.durable; });   // these went with the old core
    ASSERT_EQ(loaded->list(all), expected);
    ASSERT_EQ(loaded->models(), core_->models());
    ASSERT_EQ(loaded->settings(), core_->settings());
    core_ = std::move(loaded);
    credit_.clear();
    batch_ = 0;
  }
};

TEST(CoreRandom, any_facts_in_any_order_leave_every_invariant_standing) {
  std::map<JobState, int> reached;
  std::map<std::size_t, int> mutated, sent;
  const char* more = std::getenv("GPUQ_CORE_SEEDS");
  const std::uint64_t seeds = more != nullptr ? std::strtoull(more, nullptr, 10) : 150;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Chaos chaos(seed);
    chaos.run(1500);
    if (testing::Test::HasFailure()) return;
    for (const auto& [state, n] : chaos.reached) reached[state] += n;
    for (const auto& [kind, n] : chaos.mutated) mutated[kind] += n;
    for (const auto& [kind, n] : chaos.sent) sent[kind] += n;
  }
  // The facts were rich enough to mean something: every state, every mutation, every message was reached.
  for (int s = static_cast<int>(JobState::waiting); s < static_cast<int>(kJobStates); ++s)
    EXPECT_GT(reached[static_cast<JobState>(s)], 5) << to_string(static_cast<JobState>(s));
  for (std::size_t m = 0; m < std::variant_size_v<Mutation>; ++m) EXPECT_GT(mutated[m], 5) << "mutation " << m;
  for (std::size_t m = 0; m < std::variant_size_v<Message>; ++m)
    if (m != 11 && m != 12) { EXPECT_GT(sent[m], 5) << "message " << m; }  // those two are SendNow
}

TEST(CoreRandom, the_same_facts_give_the_same_effects) {
  for (std::uint64_t seed = 500; seed < 504; ++seed) {
    Chaos one(seed), two(seed);
    one.run(800);
    two.run(800);
    ASSERT_EQ(one.log(), two.log()) << "seed " << seed;
  }
}

TEST(CoreTable, every_way_out_of_a_state_is_legal_and_final_states_have_none) {
  rc::check("next() agrees with kTransitions and never leaves a final state", [] {
    const auto from = static_cast<JobState>(*rc::gen::inRange(0, static_cast<int>(kJobStates)));
    const auto verb = static_cast<Verb>(*rc::gen::inRange(0, static_cast<int>(Verb::expire) + 1));
    int rows = 0;
    for (const Transition& t : kTransitions) rows += t.from == from && t.verb == verb ? 1 : 0;
    RC_ASSERT(rows <= 1);
    RC_ASSERT(next(from, verb).has_value() == (rows == 1));
    if (is_terminal(from)) { RC_ASSERT(rows == 0); }
    if (from == JobState::running && next(from, verb) && verb != Verb::preempt) { RC_ASSERT(next(JobState::yielding, verb) == next(from, verb)); }
  });
}

}  // namespace
}  // namespace gq::core::story

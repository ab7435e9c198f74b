// core_preempt_world.h - a core among workers that behave: they start what they are given, leave when asked (or not), and die.
//
// Memory is counted here on its own: what a worker's processes hold of a card, from STARTED until they have released it. The core
// may be replaced after any step by one that knows only what was committed; what the old one had not yet sent is lost then.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/unit/core_story.h"

namespace gq::core::story {

class World {
 public:
  enum class Leaves : std::uint8_t { tidily, at_once, by_succeeding, by_failing, by_crashing, deaf };
  struct Plan_ {
    Duration runs{10s};
    Leaves leaves{Leaves::tidily};
    Duration release{200ms}, yield{700ms};
  };
  struct Card { std::string uuid; std::int64_t total{}; };

  explicit World(CoreConfig config) : config_(std::move(config)), core_(std::make_unique<Core>(config_)) {}

  // ---- what happens
  void add_worker(const std::string& name, std::vector<Card> cards) {
    Machine& m = machines_[name];
    m.cards = std::move(cards);
    for (const Card& c : m.cards) card_total_[c.uuid] = c.total;
    connect(name);
  }
  void submit(SubmitItem item, Plan_ plan) {
    plans_[item.fixed.id] = plan;
    fixed_[item.fixed.id] = item.fixed;
    step(SubmitReceived{kClient, ++request_, "ann", {std::move(item)}});
  }
  void cancel(JobId id) { step(CancelReceived{kClient, ++request_, {id}}); }
  void die(const std::string& name) {
    Machine& m = machines_[name];
    m.alive = false;
    for (auto& [grant, run] : m.runs) free_memory(run);
    m.runs.clear();
    inbox_.clear();
  }
  void revive(const std::string& name) {
    machines_[name].alive = true;
    connect(name);
  }
  /// The broker dies after its newest commit: what it had not sent is lost, what workers were about to say is said to the next one.
  void restart() {
    inbox_.clear();
    config_.restarted = true;
    core_ = std::make_unique<Core>(config_);
    core_->load(store_.image(), now_);
    core_->check_invariants();
    seen_late_.clear();
    for (auto& [name, m] : machines_)
      if (m.alive) connect(name);
  }
  void pass(Duration d) {
    for (const Instant until = now_.steady + d; now_.steady < until;) {
      advance(100ms);
      work();
      if (testing::Test::HasFailure()) return;
    }
  }

  // ---- what is so
  Core& core() { return *core_; }
  [[nodiscard]] Moment now() const { return now_; }
  [[nodiscard]] JobDynamic dynamic(JobId id) const { return core_->find(id, now_).value_or(JobView{}).record.dynamic; }
  [[nodiscard]] JobState state(JobId id) const { return dynamic(id).state; }
  std::uint64_t steps{0};                  ///< so far
  std::uint64_t restart_after{UINT64_MAX}; ///< die once so many steps have been taken
  bool weigh{true};                        ///< ask of every victim whether it could have been spared
  std::uint64_t asked{0}, weighed{0}, restarts{0};
  std::function<void(const Preempt&, const JobDynamic&)> on_preempt;

 private:
  struct Run {
    Grant grant;
    std::uint16_t lane{};
    std::vector<std::string> devices;
    std::int64_t granted{};
    Instant ends{}, kill{Instant::max()}, releases{Instant::max()}, yields{Instant::max()};
    bool asked{}, holds_memory{true};
  };
  struct LaneState { std::uint64_t taken{}, held{}, limit{}; };
  struct Machine {
    std::vector<Card> cards;
    bool alive{true};
    PeerId peer;
    std::uint64_t number{};
    Instant beat{};
    std::map<Grant, Run> runs;
    std::map<std::uint16_t, LaneState> lanes;
  };
  static constexpr std::uint64_t kStarts = 40;   // memory is what lacks, not credit

  CoreConfig config_;
  std::unique_ptr<Core> core_;
  Fold store_;
  Moment now_{Instant{1000s}, WallTime{1'700'000'000'000}};
  std::uint64_t entropy_{7}, batch_{0}, request_{0}, next_peer_{100};
  std::map<std::string, Machine> machines_;
  std::map<JobId, Plan_> plans_;
  std::map<JobId, JobFixed> fixed_;
  std::map<std::string, std::int64_t> card_total_, card_used_;
  std::vector<Message> inbox_;
  std::map<JobId, Instant> seen_late_;

  void advance(Duration d) {
    now_.steady += d;
    now_.wall.ms += d.count() / 1000;
  }

  void step(Event event) {
    Effects out;
    const bool says_again = std::holds_alternative<WorkerHello>(event);   // what it may not have heard before
    core_->step(now_, entropy_ += 1001, std::move(event), out);
    core_->check_invariants();
    ++steps;
    if (weigh && !says_again) expect_nobody_could_be_spared(out);
    absorb(out);
    Effects more;
    core_->step(now_, entropy_ += 1001, BatchCommitted{++batch_}, more);
    core_->check_invariants();
    absorb(more);
    expect_nobody_waits_in_vain();
    if (steps >= restart_after) {
      restart_after = UINT64_MAX;
      ++restarts;
      restart();
    }
  }
  void absorb(Effects& out) {
    for (Effect& e : out) {
      if (auto* c = std::get_if<Commit>(&e)) {
        if (c->durable) store_.apply(c->mutation);
      } else if (auto* s = std::get_if<Send>(&e)) {
        inbox_.push_back(std::move(s->message));
      } else {
        inbox_.push_back(std::move(std::get<SendNow>(e).message));
      }
    }
  }
  /// Memory of a card that stays in use when all who were asked, or are cancelled, have left.
  [[nodiscard]] std::int64_t staying(const std::string& card) const {
    std::int64_t sum = 0;
    ListFilter all;
    all.limit = 500;
    all.active_only = true;
    for (const JobRecord& r : core_->list(all))
      if (r.dynamic.state == JobState::running && !r.dynamic.cancel_asked && std::find(r.dynamic.devices.begin(), r.dynamic.devices.end(), card) != r.dynamic.devices.end())
        sum += r.dynamic.granted.value;
    return sum;
  }
  /// Of those asked in one step for one job on one card: together they are enough, and without any one of them it would not be. Who is
  /// asked later in that step for another job, and holds memory there too (a gang), was no help when these were chosen.
  void expect_nobody_could_be_spared(const Effects& out) {
    std::map<JobId, std::vector<JobId>> victims;
    std::vector<std::pair<JobId, JobId>> in_order;   // victim, for whom: in the order of the plans
    for (const Effect& e : out)
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* p = std::get_if<Preempt>(&s->message))
          if (const JobDynamic d = dynamic(p->grant.job); !d.leave_for.empty()) {
            victims[d.leave_for].push_back(p->grant.job);
            in_order.emplace_back(p->grant.job, d.leave_for);
          }
    const auto asked_later = [&](const JobId& head, const std::string& card) {
      std::int64_t sum = 0;
      for (auto it = in_order.rbegin(); it != in_order.rend() && it->second != head; ++it)
        if (const JobDynamic d = dynamic(it->first); std::find(d.devices.begin(), d.devices.end(), card) != d.devices.end()) sum += d.granted.value;
      return sum;
    };
    for (const auto& [head, all] : victims) {
      const Needs& needs = fixed_.at(head).needs;
      if (needs.devices != 1) continue;
      for (const JobId& id : all) {
        const JobDynamic victim = dynamic(id);
        if (victim.devices.size() != 1) continue;
        const std::int64_t free = card_total_.at(victim.devices.front()) - staying(victim.devices.front());
        if (state(head) != JobState::ready) continue;
        EXPECT_GE(free, needs.budget_min.value) << "not enough is asked to leave";
        EXPECT_LT(free - asked_later(head, victim.devices.front()) - victim.granted.value, needs.budget_min.value) << to_string(id) << " could have been spared";
        ++weighed;
      }
    }
  }
  /// A head that could start by preemption gets a plan within a second, and its plan is over in time.
  void expect_nobody_waits_in_vain() {
    const std::vector<JobId> late = core_->overdue(now_);
    std::map<JobId, Instant> still;
    for (const JobId& id : late) {
      const auto before = seen_late_.find(id);
      still[id] = before == seen_late_.end() ? now_.steady : before->second;
      EXPECT_LE(now_.steady - still[id], 1000ms) << to_string(id) << " could start by preemption, and nothing is set in motion";
    }
    seen_late_ = std::move(still);
  }

  void connect(const std::string& name) {
    Machine& m = machines_[name];
    m.peer = {next_peer_++};
    m.number = 0;
    m.beat = now_.steady;
    WorkerHello h;
    h.peer = m.peer;
    h.worker = h.host = name;
    h.instance = 1;
    h.kinds = all_kinds();
    m.lanes.clear();
    for (std::size_t i = 0; i < m.cards.size(); ++i) {
      const auto lane = static_cast<std::uint16_t>(10 + i);
      h.devices.push_back(gpu(m.cards[i].uuid, {m.cards[i].total}));
      h.lanes.push_back({lane, LaneKind::start, m.cards[i].uuid, ""});
      m.lanes[lane] = {};
    }
    for (auto& [grant, run] : m.runs) {
      h.running.push_back(grant);
      ++m.lanes[run.lane].held;
    }
    for (auto& [lane, l] : m.lanes) h.credit.push_back({lane, l.limit = kStarts - std::min(kStarts, l.held)});
    step(std::move(h));
  }
  Machine* machine_at(PeerId peer) {
    for (auto& [name, m] : machines_)
      if (m.peer == peer && m.alive) return &m;
    return nullptr;
  }
  void free_memory(Run& run) {
    if (!run.holds_memory) return;
    run.holds_memory = false;
    for (const std::string& d : run.devices) card_used_[d] -= run.granted;
  }
  void over(Machine& m, const Grant& grant) {
    const auto it = m.runs.find(grant);
    if (it == m.runs.end()) return;
    free_memory(it->second);
    LaneState& l = m.lanes[it->second.lane];
    --l.held;
    const std::uint16_t lane = it->second.lane;
    m.runs.erase(it);
    l.limit = l.taken + kStarts - std::min(kStarts, l.held);
    step(WorkerPulled{m.peer, {}, {}, {{lane, l.limit}}});
  }
  void end(Machine& m, const Grant& grant, Outcome outcome) {
    AttemptEnd e;
    e.grant = grant;
    e.outcome = outcome;
    if (outcome == Outcome::yielded) e.checkpoint = {blob(9), ++request_};
    if (outcome != Outcome::succeeded && outcome != Outcome::yielded) e.error_text = "boom";
    if (const auto it = m.runs.find(grant); it != m.runs.end()) free_memory(it->second);
    step(AttemptsEnded{m.peer, ++request_, {std::move(e)}});
    over(m, grant);
  }

  void deliver(Message& message) {
    std::visit(overloaded{
                   [&](Assign& a) {
                     Machine* m = machine_at(a.peer);
                     if (m == nullptr) return;
                     m->number = std::max(m->number, a.number);
                     const Plan_& plan = plans_[a.grant.job];
                     Run run;
                     run.grant = a.grant;
                     run.lane = a.lane;
                     run.devices = a.devices;
                     run.granted = a.granted.value;
                     run.ends = now_.steady + plan.runs;
                     for (const std::string& d : a.devices) {
                       card_used_[d] += run.granted;
                       EXPECT_LE(card_used_[d], card_total_[d]) << d << " is over its budget, really";
                     }
                     ++m->lanes[a.lane].taken;
                     ++m->lanes[a.lane].held;
                     m->runs[a.grant] = run;
                     step(AttemptsStarted{a.peer, {a.grant}});
                   },
                   [&](Preempt& p) {
                     Machine* m = machine_at(p.peer);
                     if (m == nullptr) return;
                     m->number = std::max(m->number, p.number);
                     const auto it = m->runs.find(p.grant);
                     if (it == m->runs.end() || it->second.asked) return;
                     ++asked;
                     if (on_preempt) on_preempt(p, dynamic(p.grant.job));
                     Run& run = it->second;
                     const Plan_& plan = plans_[p.grant.job];
                     run.asked = true;
                     run.kill = now_.steady + p.deadline;
                     if (plan.leaves == Leaves::deaf) return;
                     run.releases = plan.leaves == Leaves::tidily ? now_.steady + plan.release : Instant::max();
                     run.yields = now_.steady + plan.yield;
                   },
                   [&](Cancel& c) {
                     if (Machine* m = machine_at(c.peer)) {
                       m->number = std::max(m->number, c.number);
                       if (m->runs.contains(c.grant)) end(*m, c.grant, Outcome::cancelled);
                     }
                   },
                   [&](BeatAnswer& b) {
                     Machine* m = machine_at(b.peer);
                     if (m == nullptr) return;
                     for (const Grant& g : b.revoke) over(*m, g);
                     for (Preempt& p : b.preempts) {
                       Message again{p};
                       deliver(again);
                     }
                   },
                   [&](WorkerWelcome& w) {
                     if (Machine* m = machine_at(w.peer))
                       for (const Grant& g : w.revoke) over(*m, g);
                   },
                   [&](auto&) {},
               },
               message);
  }

  void work() {
    if (const auto at = core_->next_wakeup(); at && *at <= now_.steady) step(TimerFired{});
    for (int rounds = 0; !inbox_.empty() && rounds < 50; ++rounds) {
      std::vector<Message> mail;
      mail.swap(inbox_);
      for (Message& m : mail) deliver(m);
    }
    for (auto& [name, m] : machines_) {
      if (!m.alive) continue;
      std::vector<std::pair<Grant, Outcome>> done;
      std::vector<Grant> released;
      for (auto& [grant, run] : m.runs) {
        const Leaves how = plans_[grant.job].leaves;
        if (run.asked && run.yields <= now_.steady) {
          done.emplace_back(grant, how == Leaves::by_succeeding ? Outcome::succeeded : how == Leaves::by_failing ? Outcome::failed
                                   : how == Leaves::by_crashing ? Outcome::crashed : Outcome::yielded);
        } else if (run.ends <= now_.steady) {
          done.emplace_back(grant, Outcome::succeeded);
        } else if (run.releases <= now_.steady && run.holds_memory) {
          free_memory(run);
          released.push_back(grant);
        }
      }
      for (const Grant& g : released) step(MemoryReleased{m.peer, g});
      for (const auto& [g, outcome] : done)
        if (m.runs.contains(g)) end(m, g, outcome);
      if (now_.steady - m.beat >= 1s) {
        m.beat = now_.steady;
        WorkerBeat b{m.peer, m.number, {}, {}};
        for (const auto& [g, run] : m.runs) b.running.push_back(g);
        step(std::move(b));
      }
    }
  }
};

}  // namespace gq::core::story

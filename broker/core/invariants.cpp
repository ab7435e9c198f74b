// invariants.cpp - every invariant, in full: for tests and the simulator, not for the hot path.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

void Core::check_invariants() const {
  state_->check_all();
  state_->check_tenants();
}

/// Heads that could start now by asking others to leave, and for which nothing has been set in motion; or for which it should be over.
std::vector<JobId> Core::overdue(const Moment& now) const {
  const State& s = *state_;
  const Instant lease_now = now.steady - s.lease_shift;
  std::vector<JobId> all;
  for (const ShapeKey& key : s.parked[1]) {
    std::size_t under_way = 0;
    bool late = false;
    if (const auto mine = s.plans_of.find(key.shape); mine != s.plans_of.end())
      for (const Index p : mine->second) {
        if (s.plans[p].kind != Plan::Kind::preempt) continue;
        ++under_way;
        late = late || s.plans[p].until < lease_now;
      }
    const bool possible = under_way == 0 && s.plans_wanted(key.shape) > 0 && !s.find_room(s.shapes[key.shape], key.shape, 1, nullptr).empty();
    if (late || possible) all.push_back(s.first_job(key.shape));
  }
  return all;
}

/// Plans: an owner that waits, room held to the MiB, models under eviction that somebody waits for.
void Core::State::check_plans() const {
  std::size_t listed = 0;
  for (const auto& [shape, list] : plans_of) {
    check(shapes[shape].live && !list.empty(), "plans of no shape");
    if (stepped) check(list.size() <= plans_wanted(shape), "room is kept for a start that nobody waits for");
    for (const Index p : list) {
      const Plan& plan = plans[p];
      ++listed;
      check(plan.kind != Plan::Kind::none && plan.shape == shape && !plan.touched, "a plan of another shape, or not tended");
      check(plan.devices.size() == std::max<std::size_t>(1, shapes[shape].needs.devices) && plan.needs.size() == plan.devices.size(), "a plan for some other number of devices");
      for (std::size_t i = 0; i < plan.devices.size(); ++i) {
        const Index device = plan.devices[i];
        check(devices[device].plan == p, "two plans on one device");
        check(held_for(shape, device).value == std::max<std::int64_t>(0, plan.needs[i].value - coming(plan, device).value), "a plan holds another size than what it still lacks");
      }
      for (const Index lane : plan.lanes)
        check(lanes[lane].evicting && std::find(plan.devices.begin(), plan.devices.end(), lanes[lane].device) != plan.devices.end(), "a plan waits for a model that nobody evicts");
    }
  }
  check(plans.live() == listed, "a plan that no shape has");
  std::vector<std::array<Index, kJobClasses>> running(devices.extent());
  for (Index h = 0; h < holds.extent(); ++h)
    if (holds[h].job != kNone && holds[h].charged)
      for (const Index device : holds[h].devices) ++running[device][static_cast<std::size_t>(needs_of(jobs[holds[h].job]).job_class)];
  for (Index i = 0; i < devices.extent(); ++i) {
    const Device& d = devices[i];
    check(d.plan == kNone || std::find(plans[d.plan].devices.begin(), plans[d.plan].devices.end(), i) != plans[d.plan].devices.end(), "a device is planned by nobody");
    check(running[i] == d.running, "a device's attempts are counted wrongly");
    for (std::size_t c = 0; c < kJobClasses; ++c) check((d.running[c] != 0) == (d.running_at[c] != kNone), "a device is not found by whom it runs");
    for (const Charge& c : d.charges)
      if (c.kind == Charge::Kind::held) check(c.plan == d.plan && c.size.value > 0, "room held for no plan");
  }
}

/// Tenants: what each has running and on how many devices; every shape of theirs that waits is listed once.
void Core::State::check_tenants() const {
  std::unordered_map<Index, Tenant> counted;
  for (Index h = 0; h < holds.extent(); ++h) {
    if (holds[h].job == kNone) continue;
    const Job& job = jobs[holds[h].job];
    Tenant& t = counted[job.owner];
    ++t.running;
    t.use_of(needs_of(job)).devices += counts_as(holds[h].devices.size());
  }
  if (tenants_apart)
    for (const auto& [owner, t] : counted) check(tenants.contains(owner), "a tenant that runs jobs is not known");
  std::size_t standing = 0;
  for (const auto& [owner, t] : tenants) {
    for (std::size_t i = 0; i < t.standing.members.size(); ++i) {
      const Shape& shape = shapes[t.standing.members[i]];
      check(shape.live && shape.ready > 0 && shape.tenant == owner && shape.tenant_at == i, "a tenant lists a shape that does not wait");
    }
    standing += t.standing.members.size();
    if (!tenants_apart) continue;
    check(t.running == counted[owner].running, "a tenant's running jobs are counted wrongly");
    for (std::size_t domain = 0; domain < 2; ++domain)
      for (std::size_t c = 0; c < kJobClasses; ++c) check(t.use[domain][c].devices == counted[owner].use[domain][c].devices, "a tenant's devices are counted wrongly");
  }
  std::size_t waiting = 0;
  for (Index i = 0; i < shapes.extent(); ++i) waiting += shapes[i].live && shapes[i].ready > 0 && shapes[i].tenant != kNone ? 1U : 0U;
  check(standing == waiting, "a shape of a tenant waits and is not listed");
}

namespace {

struct Sums {
  std::uint64_t by[kJobClasses][kJobStates]{};
  std::uint64_t queued_bytes{}, final_bytes{}, undurable_bytes{}, unfinished{};
  std::unordered_map<Index, std::uint64_t> unfinished_of;
};

}  // namespace

void Core::State::check_all() const {
  check_plans();
  check(settling.empty() && uncommitted.size() <= totals.assigned, "a step left something unsettled");

  // Jobs: one state each, counted once; granted jobs have exactly one hold; ready ones exactly one living entry.
  Sums sums;
  std::unordered_map<Index, Index> ready_of, refs_of, heirs_of;
  for (Index slot = 0; slot < jobs.extent(); ++slot) {
    const Job& job = jobs[slot];
    if (job.seq == 0) continue;
    check(jobs.find(job.id) == slot, "the job table has lost a job");
    check(job.shape != kNone && shapes[job.shape].live, "a job without a shape");
    refs_of[job.shape]++;
    sums.by[static_cast<std::size_t>(needs_of(job).job_class)][static_cast<std::size_t>(job.state)]++;
    check(is_granted(job.state) == (job.hold != kNone), "a grant without a hold, or a hold without a grant");
    if (job.hold != kNone) check(holds[job.hold].job == slot, "a hold of another job");
    if (job.state == JobState::ready && !job.held) {
      ready_of[job.shape]++;
      check(job.queued, "a ready job stands in no line");
      check(shapes[job.shape].tenant == tenant_for(job.owner), "a ready job stands among those of another tenant");
    }
    if (!job.durable) sums.undurable_bytes += bytes_of(job) - (is_terminal(job.state) ? 0U : job.result_bytes);
    if (const Extra* x = extra(job); x != nullptr && !is_terminal(job.state))
      for (const JobId& id : x->after)
        if (const Index parent = jobs.find(id); parent != kNone) ++heirs_of[parent];
    if (is_terminal(job.state)) {
      sums.final_bytes += bytes_of(job);
      check(job.watcher == kNone, "a final job is still watched");
    } else {
      sums.queued_bytes += job.body_bytes;
      ++sums.unfinished;
      ++sums.unfinished_of[job.owner];
    }
    if (job.state == JobState::blocked) check(extra(job) != nullptr && (extra(job)->parents_left > 0 || !amends.empty()), "blocked by nothing");
    if (const Extra* x = extra(job); x != nullptr && !x->unique.empty() && !is_terminal(job.state)) {
      const auto it = uniques.find(x->unique);
      check(it != uniques.end() && it->second == slot, "a live job does not hold its unique key");
    }
  }
  for (Index slot = 0; slot < jobs.extent(); ++slot)
    if (const Extra* x = jobs[slot].seq == 0 ? nullptr : extra(jobs[slot])) check(x->heirs == heirs_of[slot], "jobs that come after another are counted wrongly");
  for (std::size_t c = 0; c < kJobClasses; ++c)
    for (std::size_t s = 0; s < kJobStates; ++s) check(sums.by[c][s] == totals.by_class_and_state[c][s], "a count of jobs by state is wrong");
  check(sums.queued_bytes == totals.queued_bytes, "queued bytes are wrong");
  check(sums.final_bytes == totals.final_bytes, "final bytes are wrong");
  check(sums.undurable_bytes == totals.undurable_bytes, "bytes of what is kept in memory only are wrong");
  check(sums.unfinished == unfinished, "the count of unfinished jobs is wrong");
  check(sums.unfinished_of == unfinished_of, "an owner's count of unfinished jobs is wrong");
  for (const auto& [key, slot] : uniques)
    check(extra(jobs[slot]) != nullptr && extra(jobs[slot])->unique == key && !is_terminal(jobs[slot].state), "a unique key is held by nobody");

  // Shapes: ready counts, the set they stand in, and that a parked one really fits nowhere.
  std::size_t standing[2]{};
  for (Index i = 0; i < shapes.extent(); ++i) {
    const Shape& shape = shapes[i];
    if (!shape.live) continue;
    check(shape.refs == refs_of[i], "a shape's references are wrong");
    check(shape.ready == ready_of[i], "a shape's ready count is wrong");
    check((shape.standing == Standing::empty) == (shape.ready == 0), "a shape with ready jobs does not stand in line");
    std::unordered_map<Index, int> entries;
    ShapeKey best;
    for (const auto& line : shape.lines) {
      if (!line) continue;
      const auto count = [&](const Entry& e) {
        if (e.job == kNone) return;
        const Job& job = jobs[e.job];
        if (job.seq != e.seq || job.state != JobState::ready || job.held || job.shape != i) return;
        check(++entries[e.job] == 1, "a ready job stands in line twice");
        const ShapeKey key{classes[static_cast<std::size_t>(shape.needs.job_class)].rank, share_of(shape), order_of(job), job.seq, i};
        if (best.shape == kNone || key < best) best = key;
      };
      for (const Entry& e : line->queue) count(e);
      for (const Entry& e : line->returned) count(e);
    }
    check(entries.size() == shape.ready, "a ready job is in no line");
    if (shape.ready == 0) continue;
    check(shape.key == best, "a shape stands at the wrong place in the order");
    if (!stepped) continue;
    check(shape.standing == Standing::parked, "a step ended with a shape not tried");
    check(parked[on_device(shape)].contains(shape.key), "a parked shape is not in its set");
    standing[on_device(shape)]++;
    if (shape.needs.devices > 1) continue;
    for (Index lane = 0; lane < lanes.extent(); ++lane)
      if (lanes[lane].worker != kNone && first_refusal(i, lane) == kHardConstraints.size()) {
        const Needs& n = shape.needs;
        const std::string what = "a parked shape fits somewhere: " + std::string(kKinds[n.kind].name) + " of class " + std::string(to_string(n.job_class)) + ", " +
                                 std::to_string(n.budget_min.value) + ".." + std::to_string(n.budget_max.value) + " MiB, model '" + n.model + "', " + std::to_string(shape.ready) +
                                 " ready, on lane kind " + std::to_string(static_cast<int>(lanes[lane].kind)) + " of worker " + std::to_string(lanes[lane].worker) +
                                 (lanes[lane].device == kNone ? "" : ", device " + std::to_string(lanes[lane].device) + " with " + std::to_string(devices[lanes[lane].device].free()) + " MiB free");
        check(false, what.c_str());
      }
  }
  check(!stepped || (parked[0].size() == standing[0] && parked[1].size() == standing[1] && fresh[0].empty() && fresh[1].empty()), "a set of shapes is wrong");

  // Workers, lanes, holds.
  std::size_t holds_of_workers = 0;
  for (Index w = 0; w < workers.extent(); ++w) {
    const Worker& worker = workers[w];
    for (Index at = 0; at < worker.holds.size(); ++at) {
      const Hold& hold = holds[worker.holds[at]];
      check(hold.worker == w && hold.at == at && jobs[hold.job].hold == worker.holds[at], "a worker's holds are wrong");
      ++holds_of_workers;
    }
    for (const Index lane : worker.lanes) check(lanes[lane].worker == w, "a worker's lanes are wrong");
    if (worker.connected) check(worker_at(worker.peer) == w, "a connected worker has no peer");
    if (!worker.holds.empty()) {
      const bool offers_pending = std::all_of(worker.holds.begin(), worker.holds.end(), [&](Index h) { return !holds[h].committed; });
      check(worker.watched || offers_pending, "leases run and nobody watches them");
    }
  }
  check(holds.live() == holds_of_workers, "a hold that no worker holds");
  for (Index i = 0; i < lanes.extent(); ++i) {
    const Lane& lane = lanes[i];
    if (lane.worker == kNone) continue;
    check(lane.used <= lane.limit, "a lane's credit is overdrawn");
    const bool open = is_open(lane);
    if (lane.kind == LaneKind::start) {
      check(lane.shelf != kNone, "a start lane belongs on no shelf");
      const Shelf& shelf = shelves[lane.shelf];
      const Device& d = devices[lane.device];
      check(shelf.group == workers[lane.worker].group && shelf.classes == d.rules.classes && shelf.small == d.small &&
                shelf.by_class == (any_exclusion || d.rules.reserves), "a start lane stands on the wrong shelf");
      for (std::size_t c = 0; c < kJobClasses && !lane.stale; ++c) {
        const std::int64_t room = !open || (c > 0 && !shelf.by_class) ? -1 : shelf.by_class ? room_of(static_cast<JobClass>(c), d) : std::max<std::int64_t>(0, d.free());
        check(lane.listed[c] == room, "a start lane is listed under a wrong size");
        check(room < 0 || shelf.starts[c].contains({room, i}), "a start lane is not listed");
      }
    } else {
      check(open == (lane.ring_at != kNone), "a lane stands in its ring wrongly");
    }
  }

  // Ledgers: the sum of their charges; each charge has a living cause.
  std::unordered_map<Index, Index> loading;
  std::vector<Index> model_holds(devices.extent());
  for (Index h = 0; h < holds.extent(); ++h)
    if (holds[h].job != kNone && holds[h].charged && holds[h].is_model)
      for (const Index device : holds[h].devices) ++model_holds[device];
  for (Index i = 0; i < devices.extent(); ++i) {
    const Device& d = devices[i];
    Mib sum;
    std::array<Mib, kJobClasses> by_class{};
    for (const Charge& c : d.charges) {
      sum += c.size;
      by_class[static_cast<std::size_t>(c.job_class)] += c.size;
      check(c.size.value >= 0, "a negative charge");
      if (c.kind == Charge::Kind::job) check(c.hold != kNone && holds[c.hold].charged && holds[c.hold].worker == c.worker, "a charge of no job");
      if (c.kind != Charge::Kind::model) continue;
      if (c.lane == kNone) loading[c.version]++;
      check(c.lane != kNone || c.lingers || (c.hold != kNone && holds[c.hold].charged), "a loaded model that nobody speaks for");
    }
    check(sum == d.charged, "a ledger is not the sum of its charges");
    check(by_class == d.used_by, "a ledger's sums by class are wrong");
    check(model_holds[i] == d.model_holds, "a device's count of model jobs is wrong");
    if (d.awaits != kNone) check(shapes[d.awaits].live && shapes[d.awaits].awaited == i, "a device is kept free for nobody");
  }
  for (Index v = 0; v < versions.size(); ++v) check(loading[v] == versions[v].loading, "a model's loads are counted wrongly");
}

}  // namespace gq::core

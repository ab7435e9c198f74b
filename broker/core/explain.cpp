// explain.cpp - why a job waits, read off the functions that decide: first_refusal, gang_at, find_room, find_reservation.
//
// A settled core has tried every shape, so a ready job that "would start" is one that stands behind others of its shape; for a job
// that is not here (plan) the answer is whether its submit would end in an ASSIGN. Nothing is changed by asking.
#include <algorithm>
#include <map>

#include "broker/core/placement.h"
#include "broker/core/plans.h"

namespace gq::core {

namespace {

/// Cards that can be rented, smallest first; memory as sold.
struct RentedCard {
  std::string_view name;
  Mib total;
};
constexpr std::array kRentedCards{RentedCard{"NVIDIA RTX A4000", {16 * 1024}}, RentedCard{"NVIDIA RTX 4000 Ada Generation", {20 * 1024}},
                                  RentedCard{"NVIDIA L4", {24 * 1024}},        RentedCard{"NVIDIA RTX 5000 Ada Generation", {32 * 1024}},
                                  RentedCard{"NVIDIA A40", {48 * 1024}},       RentedCard{"NVIDIA A100 80GB PCIe", {80 * 1024}},
                                  RentedCard{"NVIDIA H200", {141 * 1024}},     RentedCard{"NVIDIA B200", {180 * 1024}}};
constexpr Mib kDriverOfACard{700};        ///< what the driver keeps of a rented card
constexpr Mib kSmallestOffer{256};        ///< no smaller budget than this is worth a proposal

std::string short_of(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& w : words) text += (text.empty() ? "" : ",") + w;
  return text;
}

const Index* find_in(const std::map<Needs, Index>& shapes, const Needs& needs) {
  const auto it = shapes.find(needs);
  return it == shapes.end() ? nullptr : &it->second;
}

}  // namespace

struct Core::Explainer {
  const State& s;
  const Shape& shape;
  Index index;                           ///< kNone: nobody has submitted such a job
  Explanation& e;
  bool unasked{};                        ///< a plan: the shape is as it would be with this job in it
  std::uint64_t open_places{};

  void explain(const std::string& id) {
    look();
    e.would_start = shape.needs.devices > 1 ? some_host_has_all() : open_places > 0;
    if (!e.would_start && unasked && shape.ready == 1 && State::on_device(shape)) e.would_start = takes_kept_room();
    e.never = !e.would_start && fits_never();
    remedies(id);
  }

  // ---- who says no

  [[nodiscard]] Place place_at(Index lane) const { return s.place_at(shape, index, lane, nullptr); }

  void look() {
    std::map<std::string_view, std::uint64_t> refusals;
    std::vector<std::pair<std::size_t, PlaceVerdict>> found;
    for (Index w = 0; w < s.workers.extent(); ++w) {
      std::map<Index, std::pair<std::size_t, Index>> closest;  // device (kNone: slots) -> refusal, lane
      for (const Index lane : s.workers[w].lanes) {
        if ((s.lanes[lane].kind == LaneKind::slots) == State::on_device(shape)) continue;
        const std::size_t refusal = s.first_refusal(shape, index, lane);
        const auto [it, is_new] = closest.try_emplace(s.lanes[lane].device, refusal, lane);
        if (!is_new && refusal > it->second.first) it->second = {refusal, lane};
      }
      for (const auto& [device, at] : closest) {
        ++e.places_looked_at;
        if (at.first == kHardConstraints.size()) ++open_places;
        else ++refusals[kHardConstraints[at.first].name];
        found.emplace_back(at.first, verdict(at.second, at.first));
      }
      if (found.size() >= 4 * kPlacesShown) keep_closest(found);
    }
    keep_closest(found);
    for (auto& [refusal, place] : found) e.places.push_back(std::move(place));
    for (const auto& [name, count] : refusals) e.refusals.emplace_back(std::string(name), count);
    std::stable_sort(e.refusals.begin(), e.refusals.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  }

  static void keep_closest(std::vector<std::pair<std::size_t, PlaceVerdict>>& found) {
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second.lacking < b.second.lacking;
    });
    if (found.size() > kPlacesShown) found.resize(kPlacesShown);
  }

  [[nodiscard]] PlaceVerdict verdict(Index lane, std::size_t refusal) const {
    const Lane& l = s.lanes[lane];
    PlaceVerdict v;
    v.worker = s.texts[s.workers[l.worker].name];
    v.host = s.workers[l.worker].host;
    v.warm = l.kind == LaneKind::warm;
    if (l.device != kNone) {
      v.device = s.texts[s.devices[l.device].uuid];
      for (const Reporter& r : s.devices[l.device].reporters)
        if (r.worker == l.worker) v.index = r.report.index;
    }
    if (refusal == kHardConstraints.size()) {
      v.sentence = shape.needs.devices > 1 ? "free for one of its devices" : "free";
      return v;
    }
    const HardConstraint& no = kHardConstraints[refusal];
    v.constraint = no.name;
    v.sentence = no.sentence;
    if (no.detail == nullptr) return v;
    Detail d = no.detail(place_at(lane));
    if (!d.sentence.empty()) v.sentence = std::move(d.sentence);
    v.lacking = d.lacking;
    v.until = {d.until_ms};
    return v;
  }

  /// Room that is kept for somebody further back in line, and is there already: it goes to whom stands before him.
  [[nodiscard]] bool takes_kept_room() const {
    const std::vector<Proposal> found = s.find_room(shape, index, 1, nullptr);
    if (found.empty() || !found.front().leavers.empty()) return false;
    return std::all_of(found.front().devices.begin(), found.front().devices.end(), [&](Index device) {
      Without kept;
      for (const Charge& c : s.devices[device].charges)
        if (c.kind == Charge::Kind::held) kept.without(c);
      const auto& lanes = s.devices[device].lanes;
      return std::any_of(lanes.begin(), lanes.end(), [&](Index lane) {
        return s.lanes[lane].kind == LaneKind::start && s.first_refusal(shape, index, lane, &kept) == kHardConstraints.size();
      });
    });
  }

  [[nodiscard]] bool some_host_has_all() const {
    Pick pick;
    for (Index w = 0; w < s.workers.extent(); ++w)
      if (s.workers[w].usable() && s.gang_at(shape, index, w, pick)) return true;
    return false;
  }

  /// Not even with everything idle, on any worker that is known. Without workers nobody can say.
  [[nodiscard]] bool fits_never() const {
    bool any = false;
    for (Index w = 0; w < s.workers.extent(); ++w) {
      const Worker& worker = s.workers[w];
      if (!worker.usable()) continue;
      any = true;
      std::vector<Index> fitting;
      for (const Index lane : worker.lanes) {
        const Lane& l = s.lanes[lane];
        if ((l.kind == LaneKind::slots) == State::on_device(shape) || !could_ever(lane)) continue;
        if (l.device == kNone) return false;
        if (std::find(fitting.begin(), fitting.end(), l.device) == fitting.end()) fitting.push_back(l.device);
      }
      if (!fitting.empty() && fitting.size() >= shape.needs.devices) return false;
    }
    return any;
  }

  [[nodiscard]] bool could_ever(Index lane) const {
    const Place place = place_at(lane);
    for (const HardConstraint& c : kHardConstraints)
      if ((c.name == "offers_the_kind" || c.name == "has_the_labels" || c.name == "class_allowed_in_cloud" || c.name == "class_allowed_on_device") && !c.holds(place)) return false;
    return place.device == nullptr || place.device->capacity.value <= 0 || s.budget_min(shape, *place.device) <= place.device->capacity;
  }

  // ---- what would make it run

  void add(Remedy::Kind kind, std::string text, WallTime when = {}, std::vector<JobId> jobs = {}, Mib budget = {}) {
    e.remedies.push_back({kind, std::move(text), when, std::move(jobs), budget});
  }

  [[nodiscard]] std::uint64_t refused_by(std::string_view name) const {
    const auto it = std::find_if(e.refusals.begin(), e.refusals.end(), [&](const auto& r) { return r.first == name; });
    return it == e.refusals.end() ? 0 : it->second;
  }

  void remedies(const std::string& id) {
    if (e.would_start) return add(Remedy::Kind::none_needed, "nothing: it starts at its turn");
    switches();
    soonest();
    if (capped()) return;
    if (!e.never && State::on_device(shape)) {
      if (!planned()) victims();
      reservation();
    }
    if (!e.never) smaller(id);
    more_workers();
  }

  /// What a person has switched and can switch back.
  void switches() {
    const std::string job_class(gq::to_string(shape.needs.job_class));
    if (refused_by("class_not_paused") != 0) add(Remedy::Kind::resume_class, "gpuq queue resume " + job_class);
    if (refused_by("not_draining") != 0)
      for (const auto& [key, setting] : s.settings)
        if (key.first != OperatorSetting::Kind::pause_class)
          add(Remedy::Kind::undrain, "gpuq undrain " + setting.target + (setting.reason.empty() ? "" : "   (drained: " + setting.reason + ")"));
    if (refused_by("class_allowed_in_cloud") != 0 && refused_by("class_allowed_in_cloud") == e.places_looked_at)
      add(Remedy::Kind::change_policy, "start a worker of your own, or allow rented ones: cloud = \"allowed\" in [class." + job_class + "] of gpuq.toml, then gpuq config reload");
    if (refused_by("class_allowed_on_device") != 0 && refused_by("class_allowed_on_device") == e.places_looked_at)
      add(Remedy::Kind::change_policy, "allow it a device: devices in [class." + job_class + "] of gpuq.toml, then gpuq config reload");
  }

  /// The tenant's own jobs stand in the way, and no place could change that. True: there is nothing else to say.
  bool capped() {
    if (refused_by("tenant_running_cap") == 0) return false;
    const std::string& name = s.texts[shape.tenant];
    add(Remedy::Kind::wait_for_jobs, "nothing: it starts when another job of " + name + " has ended");
    add(Remedy::Kind::change_policy, "raise running_max in [tenant.\"" + s.tenant_policy(name)->name + "\"] of gpuq.toml, then gpuq config reload");
    return true;
  }

  /// The soonest moment that a constraint itself names: a window opens, a back-off ends.
  void soonest() {
    const PlaceVerdict* at = nullptr;
    for (const PlaceVerdict& p : e.places)
      if (p.until.ms != 0 && (at == nullptr || p.until < at->until)) at = &p;
    if (at != nullptr) add(Remedy::Kind::wait_until, "wait until " + utc_text(at->until.ms) + ": " + at->sentence, at->until);
  }

  [[nodiscard]] std::string named(Index device) const {
    const Device& d = s.devices[device];
    if (d.reporters.empty()) return s.texts[d.uuid];
    const Reporter& r = d.reporters.back();
    return s.workers[r.worker].host + "/" + std::to_string(r.report.index) + " (" + s.texts[d.uuid] + ")";
  }
  [[nodiscard]] std::string named(const std::vector<Index>& devices) const {
    std::vector<std::string> words;
    for (const Index device : devices) words.push_back(named(device));
    return short_of(words);
  }

  /// Room is being made for its shape already.
  bool planned() {
    bool any = false;
    for (Index p = 0; index != kNone && p < s.plans.extent(); ++p) {
      const Plan& plan = s.plans[p];
      if (plan.kind == Plan::Kind::none || plan.shape != index) continue;
      any = true;
      std::vector<JobId> leaving;
      for (const Index device : plan.devices)
        for (const Charge& c : s.devices[device].charges)
          if (c.kind == Charge::Kind::job && c.hold != kNone && s.holds[c.hold].plan == p) leaving.push_back(s.jobs[s.holds[c.hold].job].id);
      std::sort(leaving.begin(), leaving.end());
      leaving.erase(std::unique(leaving.begin(), leaving.end()), leaving.end());
      const std::string where = named(plan.devices);
      if (plan.kind == Plan::Kind::reserve) add(Remedy::Kind::wait_for_jobs, "nothing: what becomes free on " + where + " is kept for it");
      else if (leaving.empty()) add(Remedy::Kind::wait_for_jobs, "nothing: room is being made on " + where);
      else add(Remedy::Kind::wait_for_jobs, "nothing: " + jobs_text(leaving) + " on " + where + (leaving.size() == 1 ? " was" : " were") + " asked to leave for it", {}, leaving);
    }
    return any;
  }

  static std::string jobs_text(const std::vector<JobId>& jobs) {
    if (jobs.size() == 1) return "job " + to_string(jobs.front());
    return std::to_string(jobs.size()) + " jobs (" + to_string(jobs.front()) + ", …)";
  }

  /// What the scheduler itself would stop for it, could it plan now.
  void victims() {
    const std::vector<Proposal> found = s.find_room(shape, index, 1, nullptr);
    if (found.empty()) return;
    std::vector<JobId> jobs;
    std::vector<std::string> models;
    for (const Leaver& leaver : found.front().leavers) {
      for (const Index h : leaver.holds) jobs.push_back(s.jobs[s.holds[h].job].id);
      if (leaver.lane != kNone) models.push_back(s.versions[s.lanes[leaver.lane].version].text);
    }
    const std::string where = named(found.front().devices);
    std::string text = jobs.empty() && models.empty() ? "nothing: what is leaving " + where + " is enough" : "the scheduler makes room on " + where + ":";
    if (!models.empty()) text += " idle model " + short_of(models) + " is evicted";
    if (!jobs.empty()) text += std::string(models.empty() ? " " : ", ") + jobs_text(jobs) + (jobs.size() == 1 ? " is" : " are") + " preempted";
    const auto kind = jobs.empty() && models.empty() ? Remedy::Kind::wait_for_jobs : Remedy::Kind::victims;   // said before jobs is moved
    add(kind, std::move(text), {}, std::move(jobs));
  }

  /// Where waiting is shortest, if nobody is stopped.
  void reservation() {
    Instant at{};
    const std::optional<Proposal> there = s.find_reservation(shape, index, &at);
    if (!there) return;
    std::vector<JobId> jobs;
    for (const Index device : there->devices)
      for (const Charge& c : s.devices[device].charges)
        if (c.kind == Charge::Kind::job && c.hold != kNone) jobs.push_back(s.jobs[s.holds[c.hold].job].id);
    std::sort(jobs.begin(), jobs.end());
    jobs.erase(std::unique(jobs.begin(), jobs.end()), jobs.end());
    if (jobs.empty()) return;
    const bool known = at > s.lease_now() && at < Instant::max() && at - s.lease_now() < std::chrono::hours{24 * 365};
    WallTime when;
    if (known) when = s.now.wall + std::chrono::duration_cast<std::chrono::milliseconds>(std::max(Duration{0}, at - s.lease_now()));
    add(Remedy::Kind::wait_for_jobs,
        jobs_text(jobs) + " on " + named(there->devices) + (jobs.size() == 1 ? " ends" : " end") + (known ? ", by their timeouts at " + utc_text(when.ms) + " at the latest" : ""),
        when, jobs);
  }

  void smaller(const std::string& id) {
    if (shape.needs.devices > 1 || kKinds[shape.needs.kind].uses_model) return;
    Mib best;
    const PlaceVerdict* at = nullptr;
    for (const PlaceVerdict& p : e.places) {
      if (p.constraint != "fits_the_ledger" || p.lacking.value <= 0) continue;
      const Mib room = s.budget_base(shape) - p.lacking;
      if (room > best) best = room, at = &p;
    }
    if (at == nullptr || best < kSmallestOffer) return;
    const std::string where = at->host + "/" + std::to_string(at->index);
    add(Remedy::Kind::smaller_budget,
        (id.empty() ? "--vram " : "gpuq update " + id + " --vram ") + std::to_string(best.value) + "MiB   (fits on " + where + " now)", {}, {}, best);
  }

  void more_workers() {
    const auto all = [&](std::string_view name) { return e.places_looked_at != 0 && refused_by(name) == e.places_looked_at; };
    const std::string kind(kKinds[shape.needs.kind].name);
    if (all("offers_the_kind")) return add(Remedy::Kind::add_worker, "start a worker that offers " + kind);
    if (all("has_the_labels")) return add(Remedy::Kind::add_worker, "start a worker with these labels: gpuq-worker --labels " + short_of(shape.needs.where));
    if (refused_by("model_is_registered") != 0) return add(Remedy::Kind::change_policy, "gpuq model push " + shape.needs.model + " PATH");
    if (!State::on_device(shape)) return add(Remedy::Kind::add_worker, "start another worker, or one with more --slots");
    const Mib need = s.budget_base(shape);
    for (const RentedCard& card : kRentedCards) {
      if (card.total.value * (100 - s.config.policy.headroom_pct) / 100 - kDriverOfACard.value < need.value) continue;
      const std::string count = shape.needs.devices > 1 ? std::to_string(shape.needs.devices) + " x " : "";
      return add(Remedy::Kind::add_worker, "add a worker with " + count + to_string(need) + " of free device memory: a pod with " + count + std::string(card.name), {}, {}, need);
    }
    add(Remedy::Kind::add_worker, "no card that can be rented has " + to_string(need) + ": ask for less with --vram", {}, {}, need);
  }
};

std::optional<Explanation> Core::explain(JobId id, const Moment&) const {
  const State& s = *state_;
  const Index slot = s.jobs.find(id);
  if (slot == kNone) return std::nullopt;
  const Job& job = s.jobs[slot];
  Explanation e;
  e.job = id;
  e.state = job.state;
  e.summary = s.reason_of(slot);
  e.ahead = s.ahead_of(slot);
  const std::string text = to_string(id);
  if (job.state == JobState::waiting) e.remedies.push_back({Remedy::Kind::wait_until, "wait until " + utc_text(job.due_ms), {job.due_ms}, {}, {}});
  if (job.state == JobState::blocked) {
    Remedy r{Remedy::Kind::wait_for_jobs, "the jobs it comes after must succeed", {}, {}, {}};
    if (const Extra* x = s.extra(job))
      for (const JobId& parent : x->after)
        if (const Index p = s.jobs.find(parent); p != kNone && s.jobs[p].state != JobState::succeeded) r.jobs.push_back(parent);
    e.remedies.push_back(std::move(r));
  }
  if (job.held && !is_terminal(job.state)) e.remedies.push_back({Remedy::Kind::release_hold, "gpuq release " + text, {}, {}, {}});
  if (job.state != JobState::ready) return e;
  const std::vector<Remedy> before = std::move(e.remedies);
  e.remedies.clear();
  Explainer{s, s.shapes[job.shape], job.shape, e}.explain(text);
  if (job.held) {
    e.would_start = false;
    std::erase_if(e.remedies, [](const Remedy& r) { return r.kind == Remedy::Kind::none_needed; });
  }
  e.remedies.insert(e.remedies.begin(), before.begin(), before.end());
  return e;
}

Result<Explanation> Core::plan(const JobFixed& asked, const Moment&) const {
  const State& s = *state_;
  if (const auto error = s.refuse_form(asked)) return tl::unexpected(*error);
  if (const auto error = s.refuse_state(asked)) return tl::unexpected(*error);
  Explanation e;
  e.state = JobState::ready;
  if (!asked.after.empty()) {
    e.state = JobState::blocked;
    e.summary = "it would wait for the jobs it comes after";
  } else if (asked.not_before.ms > s.now.wall.ms) {
    e.state = JobState::waiting;
    e.summary = "it would wait until " + utc_text(asked.not_before.ms);
  }
  // The shape as it would be with one more job in it.
  Shape shape;
  shape.live = true;
  shape.needs = asked.needs;
  shape.ready = 1;
  Index index = kNone;
  bool behind = false;                       // others of its shape are first: what it makes possible (a load) is theirs
  const std::int64_t aged = s.config.policy.aging ? s.now.wall.ms : 0;
  const std::int64_t step = s.config.policy.aging ? std::chrono::duration_cast<std::chrono::milliseconds>(s.config.policy.aging_step).count() : 1;
  shape.key = {s.config.policy.rank(asked.needs.job_class), 0, aged - asked.priority * step, s.last_seq + 1, s.shapes.extent()};
  shape.tenant = s.tenant_for(s.texts.find(asked.owner));
  shape.key.share = s.share_of(shape);
  const auto of_tenant = s.shape_of[0].find(shape.tenant);
  if (const Index* const known_shape = of_tenant == s.shape_of[0].end() ? nullptr : find_in(of_tenant->second, asked.needs)) {
    const Shape& known = s.shapes[*known_shape];
    index = *known_shape;
    shape.ready = known.ready + 1;
    behind = known.ready > 0 && known.key < shape.key;
    shape.backoffs = known.backoffs;
    shape.awaited = known.awaited;
  }
  Explainer{s, shape, index, e, true}.explain("");
  if (e.state != JobState::ready) e.would_start = false;
  if (behind && e.would_start) {
    e.would_start = false;
    e.summary = "it would wait behind " + std::to_string(shape.ready - 1) + " of its kind";
    e.remedies = {{Remedy::Kind::wait_for_jobs, "nothing: it starts at its turn", {}, {}, {}}};
  }
  if (!e.summary.empty()) return e;
  if (e.would_start) {
    const auto open = std::find_if(e.places.begin(), e.places.end(), [](const PlaceVerdict& p) { return p.constraint.empty(); });
    e.summary = "it would start at once";
    if (open != e.places.end()) e.summary += open->device.empty() ? " on worker " + open->worker : " on " + open->host + "/" + std::to_string(open->index);
  } else if (e.never) {
    e.summary = "NO_FIT: no worker that is known could ever run it";
  } else {
    e.summary = e.places.empty() ? "no worker is connected" : "it would wait: " + e.places.front().sentence;
  }
  return e;
}

/// For submits that would rather be refused than wait for a worker that does not exist. Without workers nobody can say.
std::optional<Error> Core::State::refuse_never(const JobFixed& f) const {
  Shape shape;
  shape.live = true;
  shape.needs = f.needs;
  shape.ready = 1;
  Explanation e;
  Explainer explainer{*this, shape, kNone, e};
  if (!explainer.fits_never()) return std::nullopt;
  explainer.explain("");
  return Error{Errc::no_fit, "no worker that is known could ever run it" + (e.places.empty() ? "" : ": " + e.places.front().sentence),
               e.remedies.empty() ? "submit it without --strict to let it wait" : e.remedies.front().text};
}

const Policy& Core::policy() const { return state_->config.policy; }

std::vector<OperatorSetting> Core::settings() const {
  std::vector<OperatorSetting> all;
  for (const auto& [key, setting] : state_->settings) all.push_back(setting);
  return all;
}

}  // namespace gq::core

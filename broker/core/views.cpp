// views.cpp - what people ask to see: copies, made on demand, never on the hot path.
#include <algorithm>
#include <queue>

#include "broker/core/placement.h"

namespace gq::core {

std::optional<JobView> Core::find(JobId id, const Moment& /*now*/) const {
  const State& s = *state_;
  const Index slot = s.jobs.find(id);
  if (slot == kNone) return std::nullopt;
  return JobView{{s.fixed_of(slot), s.dynamic_of(slot)}, s.ahead_of(slot), s.reason_of(slot)};
}

std::uint64_t Core::State::ahead_of(Index slot) const {
  constexpr std::uint64_t kLook = 4096;
  const Job& job = jobs[slot];
  if (job.state != JobState::ready) return 0;
  const JobClass job_class = needs_of(job).job_class;
  const std::int64_t share = share_of(shapes[job.shape]);
  const auto mine = std::tuple(share, order_of(job), job.seq);
  std::uint64_t ahead = 0;
  std::uint64_t looked = 0;
  for (Index i = 0; i < shapes.extent(); ++i) {
    const Shape& shape = shapes[i];
    if (!shape.live || shape.ready == 0 || shape.needs.job_class != job_class) continue;
    const std::int64_t its_share = share_of(shape);
    const auto count = [&](const Entry& e) {
      if (e.job == kNone) return true;
      const Job& other = jobs[e.job];
      if (other.seq == e.seq && other.state == JobState::ready && !other.held && std::tuple(its_share, order_of(other), other.seq) < mine) ++ahead;
      return other.seq != e.seq || std::tuple(its_share, order_of(other), other.seq) < mine;
    };
    for (const auto& line : shape.lines) {
      if (!line) continue;
      for (const Entry& e : line->returned) (void)count(e);
      for (const Entry& e : line->queue) {
        if (!count(e)) break;
        if (++looked > kLook) return UINT64_MAX;
      }
    }
  }
  return ahead;
}

/// A sentence from the constraint that the most promising place fails: the later in the list it says no, the closer it came.
std::string Core::State::reason_of(Index slot) const {
  const Job& job = jobs[slot];
  const Extra* x = extra(job);
  if (job.state == JobState::blocked) return "waiting for " + std::to_string(x == nullptr ? 0 : x->parents_left) + " job(s) to succeed";
  if (job.state == JobState::waiting)
    return x != nullptr && x->not_before.ms != 0 && x->not_before.ms == job.due_ms ? "its start date has not come" : "backing off after a failure";
  if (job.state == JobState::yielding) return "asked to leave";
  if (job.state != JobState::ready) return {};
  if (job.held) return "on hold until it is released (gpuq release " + to_string(job.id) + ")";
  const Shape& shape = shapes[job.shape];
  constexpr std::size_t kPlaces = 2000;
  std::size_t best = 0;
  std::size_t looked = 0;
  Index closest = kNone;
  Mib least_lacking{INT64_MAX};
  for (Index lane = 0; lane < lanes.extent() && looked < kPlaces; ++lane) {
    if (lanes[lane].worker == kNone) continue;
    ++looked;
    const std::size_t refusal = first_refusal(job.shape, lane);
    if (refusal < best) continue;
    const bool by_memory = refusal < kHardConstraints.size() && kHardConstraints[refusal].name == "fits_the_ledger";
    const Mib lacking = by_memory ? kHardConstraints[refusal].detail(place_at(shape, job.shape, lane, nullptr)).lacking : Mib{};
    if (closest != kNone && refusal == best && lacking >= least_lacking) continue;
    best = refusal;
    least_lacking = lacking;
    closest = lane;
  }
  if (looked == 0) return "no worker is connected";
  if (best == kHardConstraints.size())
    return shape.needs.devices > 1 ? "no host has " + std::to_string(shape.needs.devices) + " devices free at once" : "behind other jobs" + used_lately(job);
  const HardConstraint& no = kHardConstraints[best];
  if (no.detail == nullptr) return std::string(no.sentence);
  const std::string sentence = no.detail(place_at(shape, job.shape, closest, nullptr)).sentence;
  return no.name == "fits_the_ledger" ? texts[devices[lanes[closest].device].uuid] + " is the closest: " + sentence : sentence;
}

std::vector<JobRecord> Core::list(const ListFilter& filter) const {
  const State& s = *state_;
  const std::size_t limit = std::min<std::size_t>(filter.limit, 500);
  std::uint64_t before = UINT64_MAX;
  if (!filter.after.empty()) {
    const Index at = s.jobs.find(filter.after);
    if (at == kNone) return {};
    before = s.jobs[at].seq;
  }
  std::optional<KindIndex> kind;
  if (!filter.kind.empty()) {
    kind = kind_index(filter.kind);
    if (!kind) return {};
  }
  using Found = std::pair<std::uint64_t, Index>;
  std::priority_queue<Found, std::vector<Found>, std::greater<>> newest;
  for (Index slot = 0; slot < s.jobs.extent(); ++slot) {
    const Job& job = s.jobs[slot];
    if (job.seq == 0 || job.seq >= before) continue;
    if (newest.size() == limit && (limit == 0 || job.seq < newest.top().first)) continue;
    if (filter.state && job.state != *filter.state) continue;
    if (filter.active_only && is_terminal(job.state)) continue;
    const Needs& needs = s.needs_of(job);
    if ((filter.job_class && needs.job_class != *filter.job_class) || (kind && needs.kind != *kind)) continue;
    newest.emplace(job.seq, slot);
    if (newest.size() > limit) newest.pop();
  }
  std::vector<JobRecord> records(newest.size());
  for (std::size_t i = records.size(); i-- > 0; newest.pop())
    records[i] = {s.fixed_of(newest.top().second), s.dynamic_of(newest.top().second)};
  return records;
}

DeviceView Core::State::view(Index device, Index worker) const {
  const Device& d = devices[device];
  DeviceView v;
  for (const Reporter& r : d.reporters)
    if (r.worker == worker) v.report = r.report;
  v.worker = texts[workers[worker].name];
  v.headroom = {std::max<std::int64_t>(0, v.report.total.value - v.report.driver.value - d.capacity.value)};
  v.foreign = d.foreign;
  v.granted = d.charged;
  v.free = {std::max<std::int64_t>(0, d.free())};
  for (const Charge& c : d.charges) {
    const std::string size = " " + to_string(c.size);
    if (c.kind == Charge::Kind::model) v.holders.push_back("model " + versions[c.version].text + size);
    else if (c.kind == Charge::Kind::held) v.holders.push_back("held for job " + to_string(plans[c.plan].job) + size);
    else if (c.kind == Charge::Kind::job) v.holders.push_back("job " + to_string(jobs[holds[c.hold].job].id) + size);
    else v.holders.push_back("job " + to_string(c.grant.job) + " (no longer ours)" + size);
    if (c.kind == Charge::Kind::model && c.lane != kNone) v.warm.push_back(versions[c.version].text);
  }
  if (!d.healthy) v.state = "unhealthy";
  else if (d.hot) v.state = "hot (" + std::to_string(d.reporters.back().report.temperature_c) + " C)";
  else if (d.draining) v.state = "draining";
  else if (d.plan != kNone) v.state = "held for job " + to_string(plans[d.plan].job);
  else v.state = "ok";
  for (std::size_t c = 0; c < kJobClasses; ++c) {
    const std::string name{to_string(static_cast<JobClass>(c))};
    const Mib kept{d.rules.reserved[c]};
    if (kept.value > 0) v.reserved.push_back(name + " " + to_string(kept) + ", " + to_string(std::min(kept, d.used_by[c])) + " of it in use");
    if (d.rules.keeps_loaded[c]) v.reserved.push_back(name + ": what is loaded");
  }
  return v;
}

std::vector<WorkerView> Core::workers(const Moment& now) const {
  const State& s = *state_;
  std::vector<WorkerView> views;
  for (Index i = 0; i < s.workers.extent(); ++i) {
    const Worker& w = s.workers[i];
    WorkerView v;
    v.name = s.texts[w.name];
    v.host = w.host;
    v.version = w.version;
    v.state = w.lost ? "lost" : !w.connected ? "disconnected" : w.silent ? "silent" : w.draining ? "draining" : "live";
    v.since_beat = std::max(Duration{0}, now.steady - s.lease_shift - w.last_beat);
    v.labels = w.labels;
    for (KindIndex k = 0; k < kKinds.size(); ++k)
      if ((w.kinds >> k & 1U) != 0) v.kinds.push_back(k);
    v.running = static_cast<std::uint32_t>(w.holds.size());
    for (const Index device : w.devices) v.devices.push_back(s.view(device, i));
    views.push_back(std::move(v));
  }
  std::sort(views.begin(), views.end(), [](const WorkerView& a, const WorkerView& b) { return a.name < b.name; });
  return views;
}

std::vector<ModelRecord> Core::models() const {
  std::vector<ModelRecord> records;
  for (const ModelVersion& v : state_->versions)
    if (v.registered) records.push_back(v.record);
  std::sort(records.begin(), records.end(), [](const ModelRecord& a, const ModelRecord& b) {
    return std::tie(a.name, a.pushed, a.version) < std::tie(b.name, b.pushed, b.version);
  });
  return records;
}

Totals Core::totals() const { return state_->totals; }

bool Core::current(const Grant& grant) const {
  const Index slot = state_->find_current(grant);
  return slot != kNone && !is_terminal(state_->jobs[slot].state);
}

std::uint64_t Core::memory_bytes() const { return state_->memory(); }

std::uint64_t Core::State::memory() const {
  std::uint64_t bytes = sizeof(State) + jobs.bytes() + extras.bytes() + texts.bytes() + shapes.bytes() + workers.bytes() +
                        devices.bytes() + lanes.bytes() + holds.bytes() + clients.bytes() + tenants.size() * (sizeof(Tenant) + 32);
  bytes += (lease_timers.capacity() + wall_timers.capacity()) * sizeof(Timer);
  bytes += (finals.size() + brief.size() + fetched.size() + expired.size()) * sizeof(Entry) + tombstone_ends.size() * sizeof(TombstoneEntry);
  bytes += (uncommitted.size() + offers.size()) * sizeof(Offer) + tombstones.bytes();
  bytes += uniques.size() * 96 + client_of.size() * 40 + backoffs.size() * 40 + versions.capacity() * sizeof(ModelVersion);
  for (Index i = 0; i < shapes.extent(); ++i) {
    const Shape& shape = shapes[i];
    if (!shape.live) continue;
    bytes += sizeof(Needs) + 64 + shape.fits_group.capacity();
    for (const auto& line : shape.lines)
      if (line) bytes += sizeof(Line) + 576 + line->queue.size() * sizeof(Entry) + line->returned.capacity() * sizeof(Entry);
  }
  for (Index i = 0; i < extras.extent(); ++i) {
    const Extra& x = extras[i];
    bytes += x.after.capacity() * sizeof(JobId) + (x.blobs.capacity() + x.result_blobs.capacity()) * sizeof(BlobDigest) +
             (x.more_devices.capacity() + x.more_watchers.capacity()) * sizeof(Index) + x.children.capacity() * sizeof(Entry);
    for (const std::string* text : {&x.unique, &x.label, &x.error_text})
      if (text->capacity() > 15) bytes += text->capacity() + 1;
  }
  return bytes;
}

}  // namespace gq::core

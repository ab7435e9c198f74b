// play.cpp - see play.h: arrivals, the submitting side, and what is read off the world for the record.
#include "tests/sim/play.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <cmath>

#include "tests/sim/sim.h"

namespace gq::sim {
namespace {

constexpr std::uint32_t kArrive = 0, kLose = 1, kClose = 2, kCards = 16;
constexpr std::int64_t kDayUs = 86'400'000'000, kHourUs = 3'600'000'000;

double exponential(Rng& rng, double mean) { return -mean * std::log(1.0 - static_cast<double>(rng.bits() >> 11U) * 0x1.0p-53); }

bool selects(const core::DeviceSelector& s, const WorkerRow& w, std::size_t device) {
  switch (s.kind) {
    case core::DeviceSelector::Kind::any: return true;
    case core::DeviceSelector::Kind::uuid: return w.devices[device].uuid == s.text;
    case core::DeviceSelector::Kind::host_index: return w.host == s.text && s.index == device;
    case core::DeviceSelector::Kind::index: return s.index == device;
    case core::DeviceSelector::Kind::label:
      return std::any_of(w.labels.begin(), w.labels.end(), [&](const std::string& l) { return l == s.text || l.starts_with(s.text + "="); });
  }
  return false;
}

}  // namespace

std::vector<PlannedJob> Play::plan(const Scenario& s) {
  std::vector<PlannedJob> jobs;
  for (std::uint32_t i = 0; i < s.streams.size(); ++i) {
    const Stream& stream = s.streams[i];
    Rng rng(s.seed * 1'000'003 + i);
    const auto add = [&](std::int64_t at) { if (at >= 0 && at < s.length_us) jobs.push_back({at, i}); };
    for (std::int64_t from = 0; from < s.length_us;) {  // hour by hour of the local day
      const std::int64_t local = s.local_start_us + from;
      const std::int64_t to = from + kHourUs - local % kHourUs;
      const double rate = stream.per_hour[static_cast<std::size_t>(local / kHourUs % 24)];
      if (rate > 0)
        for (double t = static_cast<double>(from) + exponential(rng, 3.6e9 / rate); t < static_cast<double>(to); t += exponential(rng, 3.6e9 / rate))
          add(static_cast<std::int64_t>(t));
      from = to;
    }
    for (std::int64_t day = 0; day * kDayUs - s.local_start_us < s.length_us; ++day)
      for (const std::int64_t at : stream.at_us)
        for (std::uint32_t n = 0; n < stream.at_count; ++n) add(day * kDayUs + at - s.local_start_us + n * 1000);
    if (stream.burst_every_us > 0)
      for (std::int64_t at = stream.burst_every_us / 2; at < s.length_us; at += stream.burst_every_us)
        for (std::uint32_t n = 0; n < stream.burst_jobs; ++n) add(at + rng.between(0, std::max<std::int64_t>(1, stream.burst_within_us)));
  }
  std::stable_sort(jobs.begin(), jobs.end(), [](const PlannedJob& a, const PlannedJob& b) { return a.at_us < b.at_us; });
  return jobs;
}

Play::Play(World& world, const Scenario& scenario) : world_(world), scenario_(scenario) {
  record_.jobs = plan(scenario);
  record_.length_us = scenario.length_us;
  record_.bin_us = std::max<std::int64_t>(60'000'000, scenario.length_us / 1440 / 60'000'000 * 60'000'000);
  rows_.resize(record_.jobs.size());
  waiting_.resize(scenario.streams.size());
}

void Play::begin() {
  for (const WorkerRow& w : world_.workers)
    for (std::size_t d = 0; d < w.devices.size(); ++d) {
      record_.cards.push_back(w.devices[d].total);
      record_.card_names.push_back(w.host + "/" + std::to_string(d));
    }
  cards_.resize(record_.cards.size());
  promised_.resize(record_.cards.size());
  loading_.resize(scenario_.models.size());
  record_.busy.resize(record_.cards.size());
  for (auto& card : record_.busy)
    for (auto& of : card) of.assign(record_.bins(), 0);
  if (!record_.jobs.empty()) world_.at_us(std::max<std::int64_t>(record_.jobs.front().at_us, 1'000'000), {What::play, kArrive, 0});
  for (std::uint32_t i = 0; i < world_.workers.size(); ++i)
    if (scenario_.hosts[i].lost_every_us > 0)
      world_.in_us(static_cast<std::int64_t>(exponential(world_.rng, static_cast<double>(scenario_.hosts[i].lost_every_us))), {What::play, kLose, i});
  world_.in_us(1'000'000, {What::sample, 0, 0});
  for (std::size_t c = 0; c < kJobClasses; ++c) {
    const core::Window* window = scenario_.policy.window(scenario_.policy.classes[c].window);
    if (window == nullptr) continue;
    for (const core::Span& span : window->spans) {
      const std::int64_t close_us = (span.close_ms - scenario_.start_ms) * 1000;
      if (close_us > 0 && close_us < scenario_.length_us) world_.at_us(close_us + 1'000, {What::play, kClose, static_cast<std::uint32_t>(c)});
    }
  }
}

void Play::happen(std::uint32_t what, std::uint32_t which) {
  if (what >= kCards) return milestone(what - kCards, which);
  if (what == kArrive) return arrive();
  if (what == kLose) return lose_host(which);
  ClassRecord& of = record_.classes[which];
  ++of.closings;
  for (const Block& b : record_.blocks)
    if (b.to_us < 0 && b.job != kNoJob && b.job_class == static_cast<JobClass>(which) && stream(b.job).on_preempt != OnPreempt::never) ++of.outside_window;
}

void Play::arrive() {
  for (; next_ < record_.jobs.size() && record_.jobs[next_].at_us <= world_.now_us(); ++next_) {
    const auto job = static_cast<JobNumber>(next_);
    ++record_.classes[static_cast<std::size_t>(stream(job).job_class)].submitted;
    const auto client = static_cast<std::uint32_t>(job % world_.clients.size());
    world_.clients[client].to_submit.push_back(job);
    world_.next_job = std::max(world_.next_job, job + 1);
    world_.ask_turn(client, 100);
  }
  if (next_ < record_.jobs.size()) world_.at_us(record_.jobs[next_].at_us, {What::play, kArrive, 0});
}

void Play::lose_host(std::uint32_t worker) {
  const Host& host = scenario_.hosts[worker];
  ++record_.hosts_lost;
  for (const WorkerDevice& d : world_.workers[worker].devices)
    record_.marks.push_back({d.global, world_.now_us(), Stop::lost, {}, {}, kNoJob});
  world_.worker_kill(worker, host.back_after_us);
  for (const WorkerDevice& d : world_.workers[worker].devices) promised_[d.global] = {};
  const std::int64_t next = host.back_after_us + static_cast<std::int64_t>(exponential(world_.rng, static_cast<double>(host.lost_every_us)));
  world_.in_us(next, {What::play, kLose, worker});
}

// ---- clients

core::ModelRecord Play::model(std::uint32_t index) const {
  const ScenarioModel& from = scenario_.models[index];
  core::ModelRecord m;
  m.name = from.name;
  m.version = "v1";
  m.blob.bytes[0] = static_cast<std::uint8_t>(index + 1);
  m.bytes = 50'000'000;
  m.runtime = "torchscript";
  m.budget = from.vram;
  m.promoted = true;
  return m;
}

/// Models first; then whatever has arrived since the last turn, one batch under way.
void Play::client_turn(std::uint32_t index) {
  ClientRow& c = world_.clients[index];
  const auto models = static_cast<std::uint64_t>(scenario_.models.size());
  if (index == 0 && c.models_pushed < models) {
    world_.up(Side::client, 0, core::ModelPushed{{}, ++c.request, model(static_cast<std::uint32_t>(c.models_pushed))});
    return world_.ask_turn(index, 1'000'000);
  }
  if (world_.clients[0].models_pushed < models) return world_.ask_turn(index, 20'000);
  if (!c.to_fetch.empty()) {
    core::FetchedReceived fetched;
    for (const JobNumber job : c.to_fetch) fetched.jobs.push_back(world_.numbers.id(job));
    c.to_fetch.clear();
    world_.up(Side::client, index, std::move(fetched));
  }
  if (c.outstanding.empty() && !c.to_submit.empty()) {
    const auto count = static_cast<std::ptrdiff_t>(std::min<std::size_t>(256, c.to_submit.size()));
    c.outstanding.assign(c.to_submit.begin(), c.to_submit.begin() + count);
    c.to_submit.erase(c.to_submit.begin(), c.to_submit.begin() + count);
    c.sent = 0;
  }
  if (!c.outstanding.empty() && (c.sent == 0 || world_.wheel.now() - c.sent >= 2'000'000 / kTickUs)) world_.client_submit(index);
  if (!c.outstanding.empty()) world_.ask_turn(index, 500'000);
}

void Play::fill(JobNumber job, core::SubmitItem& item) const {
  const Stream& s = stream(job);
  core::JobFixed& f = item.fixed;
  f.id = world_.numbers.id(job);
  f.digest = {draw(job, 1), draw(job, 2)};
  Needs& n = f.needs;
  n.kind = s.kind;
  n.job_class = s.job_class;
  n.on_preempt = s.on_preempt;
  if (s.model != UINT16_MAX) n.model = scenario_.models[s.model].name;
  n.budget_min = s.vram_min;
  n.budget_max = s.vram_max;
  n.devices = s.devices;
  n.where = s.where;
  f.priority = s.priority;
  f.retries = 3;
  f.body_bytes = 200;
  f.label = s.name;
  item.body = (core::Token{job} + 1) | (1ULL << 61U);
  item.watch = true;
}

void Play::acknowledged(JobNumber job) {
  rows_[job].waiting_since_us = world_.now_us();
  if (!rows_[job].granted) waiting_[record_.jobs[job].stream].insert(job);
}

void Play::final(JobNumber job, JobState state) {
  JobRow& row = rows_[job];
  if (row.done) return;
  row.done = true;
  ClassRecord& of = record_.classes[static_cast<std::size_t>(stream(job).job_class)];
  if (state != JobState::succeeded) ++of.failed;
  else {
    ++of.done;
    of.takes_us.push_back(world_.now_us() - record_.jobs[job].at_us);
  }
}

// ---- what is drawn for a job, the same however often it starts

std::uint64_t Play::draw(JobNumber job, std::uint64_t salt) const { return world_.dice(job, salt); }
std::int64_t Play::drawn(JobNumber job, std::uint64_t salt, const Spread& spread) const {
  if (spread.high_us <= spread.low_us) return spread.low_us;
  const double u = static_cast<double>(draw(job, salt) >> 11U) * 0x1.0p-53;
  return static_cast<std::int64_t>(static_cast<double>(spread.low_us) * std::exp(u * std::log(static_cast<double>(spread.high_us) / static_cast<double>(spread.low_us))));
}
std::int64_t Play::work_ns(JobNumber job) const { return drawn(job, 50, stream(job).takes) * 1000; }
std::int64_t Play::start_us(JobNumber job) const { return drawn(job, 51, stream(job).start_takes); }
std::int64_t Play::durable_us(JobNumber job) const { return std::max<std::int64_t>(stream(job).checkpoint_takes_us, 1'000); }
std::int64_t Play::checkpoint_every_us(JobNumber job) const { return std::max<std::int64_t>(stream(job).checkpoint_every_us, 1'000'000); }
std::int64_t Play::load_us(const std::string& model) const {
  for (const ScenarioModel& m : scenario_.models)
    if (m.name == model) return m.load_us;
  return 0;
}
std::int64_t Play::rest_of_load_us(const Warm& m) const {
  return std::max<std::int64_t>(100, m.last_used_us + load_us(m.model.substr(0, m.model.find('@'))) - world_.now_us());
}

// ---- decisions

/// Does the policy hold, and does nobody of a higher class stand by while this one takes room that would do for it?
void Play::deciding(const core::Effects& effects) {
  granted_now_.clear();
  for (const core::Effect& effect : effects)
    if (const auto* send = std::get_if<core::Send>(&effect))
      if (const auto* assign = std::get_if<core::Assign>(&send->message))
        for (const std::string& uuid : assign->devices) granted_now_[uuid] += assign->granted;
}

/// What the core knew to be free on a card when this step's starts were decided.
std::int64_t Play::known_free(std::uint32_t worker, const std::string& uuid) const {
  const auto now = granted_now_.find(uuid);
  for (const core::WorkerView& view : world_.core->workers(world_.moment()))
    if (view.name == world_.workers[worker].name)
      for (const core::DeviceView& device : view.devices)
        if (device.report.uuid == uuid) return device.free.value + (now == granted_now_.end() ? 0 : now->second.value);
  return 0;
}

void Play::decided(const core::Assign& assign) {
  const JobNumber job = world_.numbers.number(assign.grant.job);
  const Stream& s = stream(job);
  const core::Window* window = scenario_.policy.window(scenario_.policy.of(s.job_class).window);
  if (window != nullptr && !window->open_at(world_.moment().wall.ms)) ++record_.classes[static_cast<std::size_t>(s.job_class)].outside_window;
  for (const std::string& uuid : assign.devices) {
    const auto global = static_cast<std::uint32_t>(std::stoul(uuid.substr(4)));
    if (assign.devices.size() == 1 && assign.granted.value > 0) inversions(job, global);
    promised_[global] += assign.granted;
  }
  if (s.model != UINT16_MAX && assign.granted.value > 0) ++loading_[s.model];
  rows_[job].granted = true;
  waiting_[record_.jobs[job].stream].erase(job);
}

void Play::tell(const core::Message& leaves) const {
  const auto line = [&](const std::string& text) { std::fprintf(stderr, "%12.4f s  %s\n", static_cast<double>(world_.now_us()) / 1e6, text.c_str()); };
  const auto named = [&](const JobId& id) {
    const JobNumber job = world_.numbers.number(id);
    return job == kNoJob ? std::string("?") : stream(job).name + " #" + std::to_string(job);
  };
  if (const auto* assign = std::get_if<core::Assign>(&leaves); assign && assign->granted.value > 0)
    line("start " + named(assign->grant.job) + " attempt " + std::to_string(assign->grant.attempt) + " on " + assign->devices.front() + " with " + std::to_string(assign->granted.value) + " MiB, from step " + std::to_string(assign->resume.step));
  else if (const auto* preempt = std::get_if<core::Preempt>(&leaves)) line("ask " + named(preempt->grant.job) + " to leave: " + preempt->reason);
  else if (const auto* out = std::get_if<core::EvictModel>(&leaves)) line("ask model " + out->model + " to leave " + out->device);
}

/// What the policy keeps there for other classes, as if they used none of it: a start that is not counted rather than one too many.
std::int64_t Play::reserved_for_others(JobClass c, const WorkerRow& w, std::size_t device, std::int64_t capacity) const {
  std::array<std::int64_t, kJobClasses> kept{};
  for (const core::Reservation& r : scenario_.policy.reservations) {
    const core::Window* window = scenario_.policy.window(r.when);
    if (r.for_class == c || r.kind == core::Reservation::Size::loaded || !selects(r.device, w, device)) continue;
    if (window != nullptr && !window->open_at(world_.moment().wall.ms)) continue;
    const std::int64_t size = r.kind == core::Reservation::Size::percent ? capacity * r.percent / 100 : r.size.value;
    auto& most = kept[static_cast<std::size_t>(r.for_class)];
    most = std::max(most, std::min(size, capacity));
  }
  return std::accumulate(kept.begin(), kept.end(), std::int64_t{0});
}

void Play::inversions(JobNumber starts, std::uint32_t global) {
  const core::Policy& policy = scenario_.policy;
  const std::uint32_t worker = world_.physical[global].offered_by.front();
  const WorkerRow& w = world_.workers[worker];
  const std::size_t device = static_cast<std::size_t>(global - w.devices.front().global);
  const WorkerDevice& card = w.devices[device];
  const std::int64_t capacity = card.total.value - card.driver.value - card.total.value * policy.headroom_pct / 100 - world_.physical[global].foreign.value;
  const std::int64_t free = capacity - promised_[global].value;
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    const Stream& s = scenario_.streams[i];
    if (waiting_[i].empty() || s.devices != 1 || policy.rank(s.job_class) >= policy.rank(stream(starts).job_class)) continue;
    const JobNumber job = *waiting_[i].begin();
    if (world_.now_us() - rows_[job].waiting_since_us < 100'000) continue;
    const core::JobRecord* known = world_.store.find(job);  // of a job whose machine has just gone the core does not know yet
    if (known == nullptr || known->dynamic.state != JobState::ready) continue;
    const core::ClassPolicy& of = policy.of(s.job_class);
    if (const core::Window* window = policy.window(of.window); window != nullptr && !window->open_at(world_.moment().wall.ms)) continue;
    if (!of.devices.empty() && std::none_of(of.devices.begin(), of.devices.end(), [&](const auto& d) { return selects(d, w, device); })) continue;
    if (!std::includes(w.labels.begin(), w.labels.end(), s.where.begin(), s.where.end())) continue;
    if (s.model != UINT16_MAX) {  // loaded or loading somewhere: it waits for its turn there
      const std::string name = scenario_.models[s.model].name + "@v1";
      const auto has = [&](const WorkerRow& one) { return std::any_of(one.warm.begin(), one.warm.end(), [&](const Warm& m) { return m.model == name; }); };
      if (loading_[s.model] > 0 || std::any_of(world_.workers.begin(), world_.workers.end(), has)) continue;
    }
    const bool beside = std::any_of(cards_[global].shares.begin(), cards_[global].shares.end(), [&](const Share& x) { return policy.excludes(s.job_class, x.job_class); });
    if (beside || of.running_max != 0) continue;
    std::int64_t need = s.model != UINT16_MAX ? scenario_.models[s.model].vram.value : s.vram_min.value;
    if (need == 0) need = kKinds[s.kind].default_budget.value;
    const std::int64_t kept = reserved_for_others(s.job_class, w, device, capacity);
    if (free - kept < need) continue;
    if (known_free(worker, card.uuid) - kept < need) continue;  // somebody has just left, and the core has not heard of it yet
    ++record_.classes[static_cast<std::size_t>(s.job_class)].inversions;
    if (record_.inversions.size() < 5)
      record_.inversions.push_back("at " + std::to_string(world_.now_us() / 1'000'000) + " s " + stream(starts).name + " #" + std::to_string(starts) + " starts on " + record_.card_names[global] + " with " +
                                   std::to_string(free) + " MiB free, " + s.name + " #" + std::to_string(job) + " waits for " + std::to_string(need) + " MiB since " +
                                   std::to_string((world_.now_us() - rows_[job].waiting_since_us) / 1000) + " ms");
  }
}

Record& Play::finish() {
  for (std::uint32_t c = 0; c < cards_.size(); ++c) {
    count(c);
    for (const Share& s : cards_[c].shares) rows_[s.job].furthest_ns = std::max(rows_[s.job].furthest_ns, s.done_ns);
  }
  for (JobNumber job = 0; job < next_; ++job) {
    const JobRow& row = rows_[job];
    ClassRecord& of = record_.classes[static_cast<std::size_t>(stream(job).job_class)];
    if (row.first_began_us >= 0) continue;
    ++of.waiting_at_end;
    of.waits_us.push_back(scenario_.length_us - record_.jobs[job].at_us);
  }
  for (JobNumber job = 0; job < next_; ++job)
    if (rows_[job].stopped != Stop::none && !rows_[job].done) {  // stopped, and not started again: what has the store kept of it?
      const core::JobRecord* kept = world_.store.find(job);
      if (kept != nullptr && !is_granted(kept->dynamic.state)) charge_loss(job, kept->dynamic.checkpoint.step);
    }
  for (const Block& b : record_.blocks) {
    const std::int64_t to = b.to_us < 0 ? record_.length_us : b.to_us;
    record_.classes[static_cast<std::size_t>(b.job_class)].mib_s += static_cast<double>(b.size.value) * static_cast<double>(to - b.from_us) / 1e6;
  }
  return record_;
}

}  // namespace gq::sim

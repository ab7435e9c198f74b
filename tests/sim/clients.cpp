// clients.cpp - simulated clients: what they submit (a function of the job's number, so that a resend is the same submit), their
// patience, and how they find out what became of it.
#include <algorithm>

#include "tests/sim/play.h"
#include "tests/sim/sim.h"

namespace gq::sim {
namespace {

constexpr std::uint32_t kModels = 8;
constexpr Tick kSecond = 1'000'000 / kTickUs;
constexpr std::int64_t kDurationPpm = 1'000'000;

enum class Sort : std::uint8_t { echo, sleep, detect, infer, synthesize, command, train };

Sort sort_of(Mix mix, std::uint64_t d, bool devices) {
  if (mix == Mix::echo || !devices) return d % 10 < 8 ? Sort::echo : Sort::sleep;
  const std::uint64_t p = d % 100;
  if (p < 40) return Sort::echo;
  if (p < 48) return Sort::sleep;
  if (p < 78) return Sort::detect;
  if (p < 86) return Sort::infer;
  if (p < 90) return Sort::synthesize;
  if (p < 96) return Sort::command;
  return Sort::train;
}

}  // namespace

core::ModelRecord World::model(std::uint32_t index) const {
  core::ModelRecord m;
  m.name = "m" + std::to_string(index);
  m.version = "v1";
  m.blob.bytes[0] = static_cast<std::uint8_t>(index + 1);
  m.bytes = 50'000'000;
  m.runtime = "torchscript";
  m.budget = Mib{512 + 256 * static_cast<std::int64_t>(index % 4)};
  m.promoted = true;
  return m;
}

void World::fill(JobNumber job, core::SubmitItem& item) const {
  core::JobFixed& f = item.fixed;
  f.id = numbers.id(job);
  f.digest = {dice(job, 1), dice(job, 2)};
  const std::uint64_t d = dice(job, 3);
  const Sort sort = sort_of(options.mix, d, options.devices_per_worker > 0);
  Needs& n = f.needs;
  const auto kind = [&](std::string_view name) {
    n.kind = *kind_index(name);
    n.job_class = kKinds[n.kind].default_class;
    n.on_preempt = kKinds[n.kind].on_preempt;
  };
  switch (sort) {
    case Sort::echo: kind("echo"); break;
    case Sort::sleep: kind("sleep"); break;
    case Sort::detect: kind("detect"); n.model = "m" + std::to_string(dice(job, 4) % (kModels - 2)); break;
    case Sort::infer: kind("infer"); n.model = "m" + std::to_string(dice(job, 4) % kModels); break;
    case Sort::synthesize: kind("synthesize"); n.model = "m" + std::to_string(kModels - 1); break;
    case Sort::command:
      kind("command");
      n.budget_min = n.budget_max = Mib{512 << (dice(job, 4) % 4)};
      if (dice(job, 40) % 4 == 0) n.job_class = static_cast<JobClass>(dice(job, 41) % kJobClasses);
      break;
    case Sort::train:
      kind("train.detector");
      n.budget_min = n.budget_max = Mib{2048 << (dice(job, 4) % 2)};
      if (dice(job, 5) % 4 == 0) n.budget_max = Mib{n.budget_min.value * 2};
      else if (dice(job, 5) % 4 == 1) n.budget_max = kRestOfDevice;
      else if (dice(job, 5) % 4 == 2) n.budget_min = n.budget_max = {};
      if (dice(job, 6) % 16 == 0 && options.devices_per_worker > 1) n.devices = 2;
      break;
  }
  if (dice(job, 42) % 25 == 0) n.on_preempt = static_cast<OnPreempt>(dice(job, 43) % 4);
  if (dice(job, 7) % 40 == 0 && options.workers > 2) n.where = {dice(job, 8) % 2 == 0 ? "zone=a" : "zone=b"};
  if (dice(job, 9) % 50 == 0) n.exclusive = true;
  f.priority = dice(job, 10) % 4 == 0 ? static_cast<std::uint8_t>(dice(job, 11) % 10) : std::uint8_t{5};
  f.retries = static_cast<std::uint32_t>(dice(job, 12) % 3);
  f.body_bytes = 200;
  item.body = (core::Token{job} + 1) | (1ULL << 61U);
  item.watch = dice(job, 13) % 50 != 0;
  if (dice(job, 14) % 100 == 0) f.timeout = Duration{400'000};
  if (dice(job, 15) % 200 == 0) f.not_before = WallTime{1'790'000'000'000 + static_cast<std::int64_t>(dice(job, 16) % (options.light ? 8'000 : 20'000))};
  if (dice(job, 17) % 300 == 0) f.deadline = WallTime{1'790'000'000'000 + 2'000 + static_cast<std::int64_t>(dice(job, 18) % 60'000)};
  if (job > 64 && dice(job, 19) % 100 == 0)  // comes after one or two jobs submitted shortly before
    for (std::uint64_t i = 0; i <= dice(job, 20) % 2; ++i) {
      const JobId parent = numbers.id(job - 1 - static_cast<JobNumber>(dice(job, 21 + i) % 60));
      if (std::find(f.after.begin(), f.after.end(), parent) == f.after.end()) f.after.push_back(parent);
    }
  if (dice(job, 24) % 400 == 0) f.unique = "u" + std::to_string(dice(job, 25) % 50);
  if (dice(job, 26) % 20 == 0) f.label = "night run";
}

std::int64_t World::duration_us(JobNumber job, Attempt attempt) const {
  const bool goes_on = job < options.jobs && sort_of(options.mix, dice(job, 3), options.devices_per_worker > 0) == Sort::train;
  const std::uint64_t r = dice(job, 500 + (goes_on ? 0 : attempt));
  const auto within = [&](std::int64_t low, std::int64_t high) { return low + static_cast<std::int64_t>(r % static_cast<std::uint64_t>(high - low)); };
  const std::int64_t slowness = options.light || r % 10 != 0 ? 1 : 8;  // small runs: some jobs outlive leases and restarts
  const Sort sort = job < options.jobs ? sort_of(options.mix, dice(job, 3), options.devices_per_worker > 0) : Sort::echo;
  switch (sort) {
    case Sort::echo: return within(200, 3'000);
    case Sort::sleep: return within(5'000, 100'000);
    case Sort::detect: case Sort::infer: return within(5'000, 40'000);
    case Sort::synthesize: return within(50'000, 200'000);
    case Sort::command: return within(200'000, 2'500'000) * slowness;
    case Sort::train: return within(1'000'000, 5'000'000) * slowness;
  }
  return kDurationPpm;
}

// ---- connection

void World::client_connected(std::uint32_t index) {
  ClientRow& c = clients[index];
  if (c.link.open) return;
  if (!core) return dial(Side::client, index, rng.between(20'000, 300'000));
  c.link.open = true;
  c.link.dialling = false;
  c.link.up_last = c.link.down_last = 0;
  c.rewatched = 0;
  c.sent = 0;
  ask_turn(index, 1'000);
}

void World::ask_turn(std::uint32_t index, std::int64_t us) {
  ClientRow& c = clients[index];
  const Tick tick = std::max(wheel.now() + 1, (now_us() + us) / kTickUs);
  if (c.turn_at > wheel.now() && c.turn_at <= tick) return;  // an earlier one comes
  c.turn_at = tick;
  wheel.at(tick, {What::client_turn, index, 0});
}

/// One turn: push models first, then keep one batch under way, resend what got no answer, ask again about what is not final.
void World::client_turn(std::uint32_t index) {
  ClientRow& c = clients[index];
  if (c.turn_at != wheel.now()) return;  // an earlier one was asked for since
  c.turn_at = 0;
  if (!c.link.open) return;
  if (play) return play->client_turn(index);
  if (index == 0 && c.models_pushed < kModels && options.mix == Mix::mixed) {
    up(Side::client, index, core::ModelPushed{{}, ++c.request, model(static_cast<std::uint32_t>(c.models_pushed))});
    return ask_turn(index, 1'000'000);
  }
  if (options.mix == Mix::mixed && clients[0].models_pushed < kModels) return ask_turn(index, 50'000);
  if (!c.to_fetch.empty()) {
    core::FetchedReceived fetched;
    for (const JobNumber job : c.to_fetch) fetched.jobs.push_back(numbers.id(job));
    c.to_fetch.clear();
    up(Side::client, index, std::move(fetched));
  }
  if (c.outstanding.empty() && next_job < options.jobs && wheel.now() >= c.think_until) {
    const std::uint32_t count = static_cast<std::uint32_t>(options.jobs <= 20'000 ? rng.between(1, 40) : 256);
    while (next_job < options.jobs && c.outstanding.size() < count) c.outstanding.push_back(next_job++);
    c.sent = 0;
  }
  const bool patient = options.light && !options.faults.network;
  if (!c.outstanding.empty() && (c.sent == 0 || wheel.now() - c.sent >= 2 * kSecond)) client_submit(index);
  if (wheel.now() - c.rewatched > (patient ? (next_job < options.jobs ? 20 : 4) : 5) * kSecond) {
    c.rewatched = wheel.now();
    std::erase_if(c.mine, [&](JobNumber job) { return job_done[job]; });
    for (std::size_t first = 0; first < c.mine.size(); first += 256) {
      core::WatchReceived watch;
      watch.request = ++c.request;
      for (std::size_t i = first; i < std::min(first + 256, c.mine.size()); ++i) watch.jobs.push_back(numbers.id(c.mine[i]));
      up(Side::client, index, std::move(watch));
    }
  }
  if (!c.outstanding.empty() || !c.mine.empty() || next_job < options.jobs) ask_turn(index, c.outstanding.empty() ? 2'000 + rng.between(0, 8'000) : 500'000);
}

void World::client_submit(std::uint32_t index) {
  ClientRow& c = clients[index];
  core::SubmitReceived submit;
  submit.request = c.outstanding_request = ++c.request;
  submit.owner = "client" + std::to_string(index);
  submit.items.resize(c.outstanding.size());
  for (std::size_t i = 0; i < c.outstanding.size(); ++i) {
    if (play) play->fill(c.outstanding[i], submit.items[i]);
    else fill(c.outstanding[i], submit.items[i]);
    history.attempted(c.outstanding[i]);
    findings.note(Note::submit_sent, c.outstanding[i], index, 0);
  }
  c.sent = wheel.now();
  up(Side::client, index, std::move(submit));
}

/// In a storm the submits are spread out, so that every fault meets jobs at every stage of their life.
std::int64_t World::think_us() {
  if (options.light || !(options.faults.crashes || options.faults.network || options.faults.store)) return 200;
  const std::int64_t batches_each = 1 + static_cast<std::int64_t>(options.jobs / 20 / clients.size());
  return rng.between(0, 2 * 40'000'000 / batches_each);
}

void World::client_resend(std::uint32_t index) { ask_turn(index, 1'000); }

void World::client_cancel(std::uint32_t index, JobNumber job) {
  ClientRow& c = clients[index];
  if (job_done[job]) return;
  if (!c.link.open) return in_us(500'000, {What::client_cancel, index, job});
  findings.note(Note::cancel_sent, job, index, 0);
  const std::uint64_t request = ++c.request;
  if (c.cancels.size() > 64) c.cancels.erase(c.cancels.begin());
  c.cancels.push_back({request, {job}});
  up(Side::client, index, core::CancelReceived{{}, request, {numbers.id(job)}});
}

// ---- what the broker says

void World::client_hears(std::uint32_t index, core::Message&& message) {
  ClientRow& c = clients[index];
  if (auto* submitted = std::get_if<core::SubmitAnswer>(&message)) {
    for (const core::SubmitOutcome& item : submitted->items) {
      const JobNumber job = numbers.number(item.id);
      const auto at = std::find(c.outstanding.begin(), c.outstanding.end(), job);
      if (at == c.outstanding.end()) continue;  // answered twice
      if (item.ok) {
        findings.note(Note::submit_acked, job, index, item.existing ? 1 : 0);
        history.acknowledged(job);
        c.outstanding.erase(at);
        c.mine.push_back(job);
        if (play) play->acknowledged(job);
        else if (dice(job, 30) % 60 == 0) in_us(static_cast<std::int64_t>(dice(job, 31) % 3'000'000), {What::client_cancel, index, job});
      } else if (item.error.code != Errc::unavailable && item.error.code != Errc::queue_full && item.error.code != Errc::storage_full) {
        findings.note(Note::submit_refused, job, index, static_cast<std::uint32_t>(item.error.code));
        c.outstanding.erase(at);
        ++refused_jobs;
        if (!job_done[job]) ++jobs_done;
        job_done[job] = true;
      }
    }
    if (c.outstanding.empty()) {
      const std::int64_t us = play ? 100 : think_us();
      c.think_until = wheel.now() + us / kTickUs;
      ask_turn(index, us);
    } else c.sent = wheel.now() - 3 * kSecond / 2;
  } else if (const auto* notice = std::get_if<core::JobNotice>(&message)) {
    const JobNumber job = numbers.number(notice->job);
    if (job == kNoJob) return findings.violation("unexpected", job, "a notice of a job that nobody submitted");
    findings.note(Note::noticed, job, index, static_cast<std::uint32_t>(notice->now.state));
    history.noticed(job, notice->now);
    if (play) play->final(job, notice->now.state);
    if (!job_done[job]) {
      ++jobs_done;
      if (notice->now.state == JobState::succeeded && dice(job, 32) % 10 != 0) c.to_fetch.push_back(job);
    }
    job_done[job] = true;
    ask_turn(index, 5'000);
  } else if (const auto* cancelled = std::get_if<core::CancelAnswer>(&message)) {
    for (const auto& [request, jobs] : c.cancels)
      if (request == cancelled->request)
        for (std::size_t i = 0; i < jobs.size() && i < cancelled->items.size(); ++i) {
          findings.note(Note::cancel_answered, jobs[i], index, static_cast<std::uint32_t>(cancelled->items[i]));
          if (cancelled->items[i] == core::CancelResult::cancelled) history.told_cancelled(jobs[i]);
          if (cancelled->items[i] == core::CancelResult::unknown) findings.violation("lost", jobs[i], "cancel answered unknown for an acknowledged job");
        }
  } else if (const auto* watched = std::get_if<core::WatchAnswer>(&message)) {
    for (const JobId& id : watched->unknown) findings.violation("lost", numbers.number(id), "watch answered unknown for an acknowledged job");
  } else if (const auto* pushed = std::get_if<core::ModelAnswer>(&message)) {
    const bool expected = play ? pushed->record.name == play->model(static_cast<std::uint32_t>(c.models_pushed)).name
                               : c.models_pushed < kModels && pushed->record.name == "m" + std::to_string(c.models_pushed);
    if (pushed->ok && expected) ++c.models_pushed;
    ask_turn(index, 500);
  }
}

}  // namespace gq::sim

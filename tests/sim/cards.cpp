// cards.cpp - see play.h: attempts and models on cards whose compute is shared, and what stopping them costs.
#include <algorithm>

#include "tests/sim/play.h"
#include "tests/sim/sim.h"

namespace gq::sim {
namespace {

constexpr std::uint32_t kCards = 16;  ///< below it other happenings are numbered

}  // namespace

// ---- progress

/// Everything that computes on a card has had its equal share since it was last counted.
void Play::count(std::uint32_t at) {
  Card& card = cards_[at];
  const std::int64_t now = std::min(world_.now_us(), record_.length_us);
  const std::int64_t from = std::exchange(card.counted_us, now);
  const auto computing = std::count_if(card.shares.begin(), card.shares.end(), [](const Share& s) { return !s.paused; });
  if (computing == 0 || now <= from) return;
  for (Share& s : card.shares) {
    if (s.paused) continue;
    s.done_ns = std::min(s.done_ns + (now - from) * 1000 / computing, s.target_ns);
    const auto c = static_cast<std::size_t>(s.job_class);
    record_.classes[c].busy_ns += (now - from) * 1000 / computing;
    for (std::int64_t t = from; t < now;) {
      const std::int64_t to = std::min(now, (t / record_.bin_us + 1) * record_.bin_us);
      record_.busy[at][c][static_cast<std::size_t>(t / record_.bin_us)] += static_cast<std::int32_t>((to - t) * 1000 / computing / 64);
      t = to;
    }
  }
}

void Play::aim(Share& s) const {
  if (!s.leads) return;
  s.target_ns = work_ns(s.job);
  if (!s.pausing && !s.leaving) return;
  const std::int64_t micro = stream(s.job).micro_step_us * 1000;
  const std::int64_t from = s.leaving ? s.done_ns : std::max(s.done_ns, s.resumed_at_ns + scenario_.pause_slice_us * 1000);
  s.target_ns = std::min(s.target_ns, micro > 0 ? (from + micro - 1) / micro * micro : from);
}

void Play::wait_for_next(std::uint32_t at) {
  Card& card = cards_[at];
  ++card.stamp;
  std::int64_t soonest = INT64_MAX, computing = 0;
  for (const Share& s : card.shares) {
    if (s.paused) continue;
    ++computing;
    if (s.leads) soonest = std::min(soonest, s.target_ns - s.done_ns);
  }
  if (soonest != INT64_MAX) world_.in_us((soonest * computing + 999) / 1000, {What::play, kCards + at, card.stamp});
}

void Play::milestone(std::uint32_t at, std::uint32_t stamp) {
  Card& card = cards_[at];
  if (card.stamp != stamp) return;
  count(at);
  std::vector<std::pair<std::uint32_t, std::uint32_t>> finished;
  for (Share& s : card.shares) {
    if (s.paused || !s.leads || s.done_ns < s.target_ns) continue;
    if (s.done_ns >= work_ns(s.job)) {
      finished.emplace_back(s.worker, s.serial);
      s.paused = true;
    } else if (s.leaving) {
      world_.in_us(stream(s.job).release_takes_us, {What::worker_yield, s.worker, s.serial});
      s.paused = true;                 // computes no more; its memory is on the way out
    } else {
      s.paused = true;
      s.pausing = false;
    }
  }
  pause_and_resume(card);
  wait_for_next(at);
  for (const auto& [worker, serial] : finished) world_.run_ended(worker, serial);
}

/// Who pauses for whom is the policy's word; it holds per card, while the other one computes there.
void Play::pause_and_resume(Card& card) {
  for (Share& s : card.shares) {
    const auto& for_whom = scenario_.policy.of(s.job_class).pause_for;
    const bool stands = !for_whom.empty() && std::any_of(card.shares.begin(), card.shares.end(), [&](const Share& other) {
      return &other != &s && !other.paused && std::find(for_whom.begin(), for_whom.end(), other.job_class) != for_whom.end();
    });
    if (s.leaving || s.done_ns >= work_ns(s.job)) continue;
    if (stands && !s.paused) s.pausing = true;
    if (!stands) {
      s.pausing = false;
      if (std::exchange(s.paused, false)) s.resumed_at_ns = s.done_ns;
    }
  }
  for (Share& s : card.shares) aim(s);
}

// ---- attempts

std::uint64_t Play::step_of(const Run& run) const {
  const std::int64_t step_ns = stream(run.job).optimizer_step_us * 1000;
  if (step_ns == 0 || run.devices_count == 0) return run.resumed.step;
  for (const Share* s : shares_of(run))
    if (s->leads) return static_cast<std::uint64_t>(s->done_ns / step_ns);
  return run.resumed.step;
}

std::vector<Play::Share*> Play::shares_of(const Run& run) const {
  std::vector<Share*> found;
  const auto& cards = on_.find(run.job);
  if (cards == on_.end()) return found;
  for (const std::uint32_t at : cards->second)
    for (const Share& s : cards_[at].shares)
      if (s.job == run.job && s.serial == run.serial) found.push_back(const_cast<Share*>(&s));
  return found;
}

void Play::assigned(std::uint32_t worker, const Run& run) {
  if (run.held.value == 0) return;
  for (std::uint16_t i = 0; i < run.devices_count; ++i)
    open_block(worker, run.serial, {world_.workers[worker].devices[run.devices[i]].global, world_.now_us(), -1, run.held, run.job_class, run.job, UINT16_MAX, Stop::none});
}

void Play::began(std::uint32_t worker, const Run& run) {
  JobRow& row = rows_[run.job];
  const Stream& s = stream(run.job);
  ClassRecord& of = record_.classes[static_cast<std::size_t>(s.job_class)];
  if (row.first_began_us < 0) {
    row.first_began_us = world_.now_us();
    ++of.started;
    of.waits_us.push_back(world_.now_us() - record_.jobs[run.job].at_us);
  }
  const std::uint64_t step = run.resumed.blob.empty() ? 0 : run.resumed.step;
  if (row.stopped != Stop::none) charge_loss(run.job, step);
  auto& cards = on_[run.job];
  cards.clear();
  for (std::uint16_t i = 0; i < run.devices_count; ++i) {
    const std::uint32_t at = world_.workers[worker].devices[run.devices[i]].global;
    cards.push_back(at);
    count(at);
    Share share;
    share.worker = worker;
    share.serial = run.serial;
    share.job = run.job;
    share.job_class = run.job_class;
    share.leads = i == 0;
    share.done_ns = share.resumed_at_ns = static_cast<std::int64_t>(step) * s.optimizer_step_us * 1000;
    share.target_ns = INT64_MAX;
    cards_[at].shares.push_back(share);
    pause_and_resume(cards_[at]);
    wait_for_next(at);
  }
  if (run.checkpoints && s.checkpoint_every_us > 0) world_.in_us(s.checkpoint_every_us, {What::run_checkpoint, worker, run.serial});
}

void Play::asked_to_leave(std::uint32_t worker, Run& run) {
  const auto shares = shares_of(run);
  if (shares.empty()) return world_.in_us(1'000, {What::worker_yield, worker, run.serial});
  const std::uint32_t at = on_[run.job].front();
  count(at);
  for (Share* s : shares)
    if (s->leads) {
      s->leaving = true;
      s->pausing = s->paused = false;
      aim(*s);
    }
  wait_for_next(at);
}

/// What was computed beyond what it goes on from is computed again.
void Play::charge_loss(JobNumber job, std::uint64_t step) {
  JobRow& row = rows_[job];
  const Stream& s = stream(job);
  ClassRecord& of = record_.classes[static_cast<std::size_t>(s.job_class)];
  const std::int64_t step_ns = s.optimizer_step_us * 1000;
  const std::int64_t lost_ns = std::max<std::int64_t>(0, row.furthest_ns - static_cast<std::int64_t>(step) * step_ns);
  const std::uint64_t reached = step_ns == 0 ? 0 : static_cast<std::uint64_t>(row.furthest_ns / step_ns);
  const std::uint64_t steps = reached > step ? reached - step : 0;
  const bool asked = row.stopped == Stop::for_class || row.stopped == Stop::window || row.stopped == Stop::by_hand;
  (asked ? of.steps_lost_asked : of.steps_lost) += steps;
  (asked ? of.redone_asked_ns : of.redone_ns) += lost_ns;
  row.stopped = Stop::none;
  row.furthest_ns -= lost_ns;
}

void Play::take_off(const Run& run) {
  const auto found = on_.find(run.job);
  if (found == on_.end()) return;
  for (const std::uint32_t at : found->second) {
    count(at);
    auto& shares = cards_[at].shares;
    for (std::size_t i = shares.size(); i-- > 0;) {
      if (shares[i].job != run.job || shares[i].serial != run.serial) continue;
      if (shares[i].leads) rows_[run.job].furthest_ns = std::max(rows_[run.job].furthest_ns, shares[i].done_ns);
      shares.erase(shares.begin() + static_cast<std::ptrdiff_t>(i));
    }
    pause_and_resume(cards_[at]);
    wait_for_next(at);
  }
  on_.erase(found);
}

void Play::open_block(std::uint32_t worker, std::uint32_t serial, const Block& block) {
  open_[std::uint64_t{worker} << 32U | serial].push_back(record_.blocks.size());
  record_.blocks.push_back(block);
}

/// A serial is an attempt's, and that of the model it loaded, which stays when the attempt ends.
void Play::close_blocks(std::uint32_t worker, std::uint32_t serial, bool model, Stop why) {
  const auto found = open_.find(std::uint64_t{worker} << 32U | serial);
  if (found == open_.end()) return;
  std::erase_if(found->second, [&](std::size_t i) {
    Block& b = record_.blocks[i];
    if ((b.job == kNoJob) != model) return false;
    b.to_us = world_.now_us();
    b.stopped = why;
    promised_[b.card] -= b.size;
    return true;
  });
  if (found->second.empty()) open_.erase(found);
}

void Play::refused(const core::Assign& assign) {
  const JobNumber job = world_.numbers.number(assign.grant.job);
  for (const std::string& uuid : assign.devices) promised_[std::stoul(uuid.substr(4))] -= assign.granted;
  if (const std::uint16_t m = stream(job).model; m != UINT16_MAX && assign.granted.value > 0 && loading_[m] > 0) --loading_[m];
  rows_[job].granted = false;
  waiting_[record_.jobs[job].stream].insert(job);
}

/// Why it was asked: the store has it from the core.
void Play::note_stop(std::uint32_t worker, const Run& run, Stop why) {
  ClassRecord& of = record_.classes[static_cast<std::size_t>(run.job_class)];
  JobClass by{};
  if (why == Stop::other) {
    const core::JobRecord* r = world_.store.find(run.job);
    if (r != nullptr && !r->dynamic.leave_for.empty()) {
      why = Stop::for_class;
      const JobNumber whom = world_.numbers.number(r->dynamic.leave_for);
      if (whom < rows_.size()) by = stream(whom).job_class;
      ++of.preempted_by[static_cast<std::size_t>(by)];
    } else if (r != nullptr) {
      why = r->dynamic.leave_reason.find("window") != std::string::npos ? Stop::window : Stop::by_hand;
    }
  }
  ++of.stops[static_cast<std::size_t>(why)];
  rows_[run.job].stopped = why;
  for (std::uint16_t i = 0; i < run.devices_count; ++i)
    record_.marks.push_back({world_.workers[worker].devices[run.devices[i]].global, world_.now_us(), why, run.job_class, by, run.job});
  close_blocks(worker, run.serial, false, why);
}

void Play::released(std::uint32_t worker, const Run& run) {
  take_off(run);
  note_stop(worker, run, Stop::other);
}

void Play::ended(std::uint32_t worker, const Run& run, Outcome outcome) {
  take_off(run);
  JobRow& row = rows_[run.job];
  if (outcome == Outcome::lost) note_stop(worker, run, Stop::lost);
  else if (outcome == Outcome::yielded && run.stop == Run::Stop::kill) note_stop(worker, run, Stop::killed);
  else if (outcome == Outcome::yielded && !run.released && run.began) note_stop(worker, run, Stop::other);
  close_blocks(worker, run.serial, false, Stop::none);
  if (outcome == Outcome::succeeded) return;
  row.granted = false;
  row.waiting_since_us = world_.now_us() + 100'000;
  waiting_[record_.jobs[run.job].stream].insert(run.job);
}

// ---- models

void Play::model_in(std::uint32_t worker, const Warm& m) {
  std::uint16_t index = 0;
  const std::string name = m.model.substr(0, m.model.find('@'));
  while (index < scenario_.models.size() && scenario_.models[index].name != name) ++index;
  if (loading_[index] > 0) --loading_[index];
  open_block(worker, m.serial, {world_.workers[worker].devices[m.device].global, world_.now_us(), -1, m.size, m.job_class, kNoJob, index, Stop::none});
}

void Play::model_gone(std::uint32_t worker, const Warm& m) { close_blocks(worker, m.serial, true, Stop::none); }

}  // namespace gq::sim

#include "worker/runtime/attempt_run.h"

#include "common/log.h"

namespace gq::worker {
namespace {

constexpr Duration kLogInterval = 200ms;
constexpr Duration kPauseInterval = 1s;

void warn_not_saved(const Grant& grant, const Error& why) { gq::log::warn("checkpoint_not_saved", {{"job", to_string(grant.job)}, {"reason", why.what}}); }

}  // namespace

AttemptRun::AttemptRun(ChildContext& context, Job j, Allotment memory, std::function<void(const Grant&)> forget)
    : c(context), job(std::move(j)), memory_(std::move(memory)), forget_(std::move(forget)), log_timer_(context.io), pause_timer_(context.io) {}

void AttemptRun::begin() {
  c.reports.started(grant());   // fetching inputs is part of the attempt: it holds its devices already
  gather(job, c, [self = shared_from_this()](Result<std::shared_ptr<Gathered>> got) {
    if (self->over) return;
    if (!got) return self->end(failed(self->grant(), got.error(), got.error().code != Errc::internal));
    self->gathered = std::move(*got);
    self->make_folder();
  });
}

void AttemptRun::make_folder() {
  auto made = AttemptFolder::make(c.scratch, grant(), c.disk);
  if (!made) return end(failed(grant(), made.error(), false));
  folder = std::move(*made);
  log = std::make_unique<JobLog>(folder->path() + "/log");
  launch();
}

void AttemptRun::print(std::string_view text) {
  log->add(text);
  if (log_armed_) return;
  log_armed_ = true;
  log_timer_.expires_after(kLogInterval);
  log_timer_.async_wait([self = shared_from_this()](const ErrorCode& ec) {
    self->log_armed_ = false;
    if (!ec && !self->over) self->send_log();
  });
}

void AttemptRun::send_log() {
  while (log && log->pending()) {
    std::uint64_t offset = 0;
    std::string bytes = log->take(offset);
    c.reports.log(grant(), offset, std::move(bytes));
  }
}

void AttemptRun::keep_checkpoint(const std::string& file, std::uint64_t step, std::function<void()> then) {
  ++keeping_;
  c.blobs.keep_file(file, [self = shared_from_this(), step, then = std::move(then)](Result<Pinned> kept) {
    --self->keeping_;
    if (!kept) {
      warn_not_saved(self->grant(), kept.error());
    } else if (!self->newest_ || step >= self->newest_step_) {
      self->newest_ = std::move(*kept);
      self->newest_step_ = step;
      self->tell_checkpoint();
    }
    then();
  });
}

void AttemptRun::tell_checkpoint() {
  c.blobs.store_again(newest_->digest, [self = shared_from_this(), step = newest_step_](Result<Pinned> stored) {
    if (!stored) return warn_not_saved(self->grant(), stored.error());
    if (self->over || step < self->told_step_) return;   // transfers may overtake each other
    self->told_ = (*stored)->digest;
    self->told_step_ = step;
    self->c.reports.checkpoint(self->grant(), self->told_, step);
  });
}

void AttemptRun::let_go() {
  memory_.reset();
  if (!over) c.reports.released(grant());
}

// ---- pauses

void AttemptRun::allow_pauses(std::uint8_t classes, std::function<void(bool)> hold) {
  if (classes == 0 || job.item.devices.empty()) return;
  pause_ = c.pauses.join(job.item.devices, classes, [weak = weak_from_this(), hold = std::move(hold)](bool held) {
    const auto self = weak.lock();
    if (!self || self->over) return;
    hold(held);
    self->tell_pause();
  });
}

void AttemptRun::end_pauses() {
  if (!pause_) return;
  pause_->leave();
  paused_before_ += pause_->paused();
  pause_.reset();
}

void AttemptRun::tell_pause() {
  if (std::exchange(pause_armed_, true)) return;
  pause_timer_.expires_after(told_progress_.metrics.contains("paused_s") ? kPauseInterval : Duration{});   // the first one at once
  pause_timer_.async_wait([weak = weak_from_this()](const ErrorCode& ec) {
    const auto self = weak.lock();
    if (ec || !self || self->over) return;
    self->pause_armed_ = false;
    self->report_progress(self->told_progress_);
    if (self->pause_ && self->pause_->held()) self->tell_pause();
  });
}

void AttemptRun::report_progress(wire::Progress progress) {
  progress.grant = grant();
  if (const Duration stood = paused(); pause_armed_ || stood > Duration{} || progress.metrics.contains("paused_s")) {
    progress.metrics["paused"] = pause_ && pause_->held() ? 1 : 0;
    progress.metrics["paused_s"] = std::chrono::duration<double>(stood).count();
  }
  told_progress_ = progress;
  c.reports.progress(std::move(progress));
}

void AttemptRun::end(session::Ending ending) {
  if (std::exchange(over, true)) return;
  end_pauses();
  pause_timer_.cancel();
  const auto self = shared_from_this();
  send_log();
  log_timer_.cancel();
  memory_.reset();
  if (newest_ && newest_->digest != told_ && ending.outcome != Outcome::succeeded) {
    ending.checkpoint = newest_->digest;
    ending.checkpoint_step = newest_step_;
    ending.stored_here = true;
  }
  forget_(grant());
  c.reports.ended(std::move(ending));
}

void AttemptRun::end_as(Outcome outcome) {
  session::Ending ending;
  ending.grant = grant();
  ending.outcome = outcome;
  end(std::move(ending));
}

}  // namespace gq::worker

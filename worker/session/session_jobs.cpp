// session_jobs.cpp - grants: taken, stopped, ended, reported until they have a verdict; and the credit that follows from them.
#include <algorithm>

#include "worker/session/session.h"

namespace gq::session {
namespace {

constexpr Duration kProgressInterval = 250ms;
constexpr std::uint8_t kStartLane = 1;   // core::LaneKind
constexpr std::uint8_t kWarmLane = 2;

/// What is reported of a job that stopped because it was told to.
void word_the_stop(StopCause cause, wire::EndedItem& end) {
  const auto say = [&](Outcome outcome, Errc code, const char* what) {
    end.outcome = static_cast<std::uint8_t>(outcome);
    end.code = to_string(code);
    end.what = what;
  };
  switch (cause) {
    case StopCause::cancel: return say(Outcome::cancelled, Errc::cancelled, "cancelled while it ran");
    case StopCause::timeout: return say(Outcome::timed_out, Errc::timed_out, "ran longer than its timeout");
    case StopCause::shutdown: return say(Outcome::lost, Errc::worker_lost, "the worker was stopped");
    case StopCause::fenced: return say(Outcome::lost, Errc::worker_lost, "exclusive, and the broker was out of reach for most of a lease");
    case StopCause::revoked:
    case StopCause::orphaned: return;   // never reported
  }
}

}  // namespace

// ---- what the broker says

void Session::on_assign(Instant now, wire::Assign&& message, std::string_view body, Actions& out) {
  if (!term_is_current(message.term, out)) return;
  for (wire::AssignItem& item : message.items) {
    if (item.payload_bytes > body.size()) {
      out.emplace_back(Note{true, "bad_message", "an ASSIGN's payloads do not add up: ignored", ""});
      return;
    }
    const std::string_view own = body.substr(0, item.payload_bytes);
    body.remove_prefix(item.payload_bytes);
    if (saw_number(item.number)) take(now, std::move(item), own, out);
  }
}

std::optional<std::pair<Errc, std::string>> Session::objection(const wire::AssignItem& item, Actions& out) {
  if (leaving()) return {{Errc::unavailable, "the worker is draining"}};
  const auto lane = lanes_.find(item.lane);
  if (lane == lanes_.end()) return {{Errc::not_here, "lane " + std::to_string(item.lane) + " is closed"}};
  if (lane->second.held >= lane->second.capacity) return {{Errc::unavailable, "more than the credit of lane " + std::to_string(item.lane)}};
  if (std::find(options_.kinds.begin(), options_.kinds.end(), item.kind) == options_.kinds.end())
    return {{Errc::unknown_kind, "this worker has no executor for kind '" + item.kind + "'"}};
  // The same job under another attempt: the broker counts the old one as lost, so it must be gone before the new one starts.
  if (item.grant.attempt > 1)
    for (const auto& [grant, held] : held_)
      if (grant.job == item.grant.job && !held.ended) {
        const Grant old = grant;
        stop_job(old, StopCause::revoked, out);
        return {{Errc::unavailable, "attempt " + std::to_string(old.attempt) + " of it is still being stopped here"}};
      }
  return std::nullopt;
}

void Session::take(Instant, wire::AssignItem&& item, std::string_view body, Actions& out) {
  const Grant grant = item.grant;
  if (held_.contains(grant)) return;
  const auto lane = lanes_.find(item.lane);
  if (lane != lanes_.end()) ++lane->second.taken;
  if (auto no = objection(item, out)) {
    refusals_.push_back(Send{wire::Refused{grant, std::string(to_string(no->first)), std::move(no->second)}, 0, {}});
    return;
  }
  ++lane->second.held;
  Held held;
  held.lane = item.lane;
  held.kind = item.kind;
  held.exclusive = item.exclusive;
  held.timeout = Duration(item.timeout_us);
  held_.emplace(grant, std::move(held));
  out.emplace_back(StartJob{std::move(item), std::string(body)});
}

void Session::on_accepted(std::uint64_t id, const wire::Accepted& message, Actions& out) {
  if (!term_is_current(message.term, out)) return;
  ended_requests_.erase(id);
  for (const Grant& grant : message.grants) {
    const auto held = held_.find(grant);
    if (held != held_.end() && held->second.ended) drop_end(held, out);   // accepted, stale, gone: all the same to us
  }
}

void Session::stop_job(const Grant& grant, StopCause cause, Actions& out) {
  Held& held = held_.at(grant);
  if (held.stopping) {
    // A job that is not ours any more must not be reported, whatever else it was being stopped for.
    if (cause == StopCause::revoked || cause == StopCause::orphaned) held.stopping = cause;
    return;
  }
  held.stopping = cause;
  out.emplace_back(StopJob{grant, cause});
}

void Session::on_cancel(const wire::CancelJob& message, Actions& out) {
  const auto held = held_.find(message.grant);
  if (held != held_.end() && !held->second.ended) stop_job(message.grant, StopCause::cancel, out);
}

void Session::on_preempt(const wire::PreemptJob& message, Actions& out) {
  const auto held = held_.find(message.grant);
  if (held == held_.end() || held->second.ended || held->second.preempt_asked || held->second.stopping) return;
  held->second.preempt_asked = true;
  out.emplace_back(PreemptJob{message.grant, message.reason, std::chrono::milliseconds(message.deadline_ms)});
}

/// Never a model in use: a job of it that is held here, or on its way to a lane that is open, keeps it. The broker is not told so; it
/// sees the lane go on, and asks again if it still wants the room.
void Session::on_evict(const std::string& device, const std::string& model, Actions& out) {
  if (leaving()) return;
  for (const auto& [number, lane] : lanes_)
    if (lane.declared.kind == kWarmLane && lane.declared.device == device && lane.declared.model == model && lane.held == 0) {
      out.emplace_back(EvictIdle{device, model});
      return;
    }
}

void Session::revoke(const std::vector<Grant>& grants, Actions& out) {
  for (const Grant& grant : grants) {
    const auto held = held_.find(grant);
    // An end that waits for its verdict is not dropped on a revoke: the verdict may still be "accepted" (it crossed this message).
    if (held != held_.end() && !held->second.ended) stop_job(grant, StopCause::revoked, out);
  }
}

// ---- what executors say

void Session::free_lane(Held& held) {
  if (!held.lane_charged) return;
  held.lane_charged = false;
  if (const auto lane = lanes_.find(held.lane); lane != lanes_.end() && lane->second.held > 0) --lane->second.held;
}

void Session::job_started(Instant now, const Grant& grant) {
  const auto held = held_.find(grant);
  if (held == held_.end() || held->second.started || held->second.ended) return;
  held->second.started = true;
  // A start lane counts starts under way, not what runs: how much fits is the ledger's business.
  if (const auto lane = lanes_.find(held->second.lane); lane != lanes_.end() && lane->second.declared.kind == kStartLane) free_lane(held->second);
  if (held->second.timeout > Duration::zero()) timeouts_.emplace(now + held->second.timeout, grant);
  started_queue_.push_back(grant);
}

void Session::queue_end(const Grant& grant) {
  if (!std::exchange(held_.at(grant).queued, true)) ended_queue_.push_back(grant);
}

void Session::job_ended(Instant now, Ending ending, Actions& out) {
  const auto it = held_.find(ending.grant);
  if (it == held_.end() || it->second.ended) return;
  Held& held = it->second;
  free_lane(held);
  if (held.timeout > Duration::zero())
    for (auto t = timeouts_.begin(); t != timeouts_.end(); ++t)
      if (t->second == ending.grant) {
        timeouts_.erase(t);
        break;
      }
  if (held.stopping == StopCause::revoked || held.stopping == StopCause::orphaned) {
    held_.erase(it);
    check_leaving(now, out);
    return;
  }
  held.ended = true;
  wire::EndedItem& end = held.end;
  end.grant = ending.grant;
  end.started = ending.started.value_or(held.started);
  end.outcome = static_cast<std::uint8_t>(ending.outcome);
  if (ending.outcome != Outcome::succeeded && (ending.outcome != Outcome::yielded || !ending.what.empty())) {
    end.code = to_string(ending.code);
    end.what = std::move(ending.what);
  }
  if (ending.outcome == Outcome::cancelled) word_the_stop(held.stopping.value_or(StopCause::shutdown), end);
  end.blobs = std::move(ending.blobs);
  end.checkpoint = ending.checkpoint.empty() ? held.checkpoint : ending.checkpoint;
  end.checkpoint_step = ending.checkpoint.empty() ? held.checkpoint_step : ending.checkpoint_step;
  end.payload_bytes = static_cast<std::uint32_t>(ending.body.size());
  held.body = std::move(ending.body);
  if (ending.stored_here) {
    held.here = end.blobs;
    if (!ending.checkpoint.empty()) held.here.push_back(ending.checkpoint);
  }
  if (!options_.journals || !is_journaled(held, ending.outcome)) return send_blobs_then_end(ending.grant, out);
  held.waiting_journal = true;
  out.emplace_back(JournalEnd{end, held.body, held.here});
}

void Session::job_refused(const Grant& grant, Errc code, std::string what) {
  const auto it = held_.find(grant);
  if (it == held_.end() || it->second.ended) return;
  const bool tell = it->second.stopping != StopCause::revoked && it->second.stopping != StopCause::orphaned;
  free_lane(it->second);
  held_.erase(it);
  if (tell) refusals_.push_back(Send{wire::Refused{grant, std::string(to_string(code)), std::move(what)}, 0, {}});
}

void Session::job_progress(wire::Progress progress) {
  const auto it = held_.find(progress.grant);
  if (it == held_.end() || it->second.ended) return;
  if (!it->second.progress) report_queue_.push_back(progress.grant);
  it->second.progress = std::move(progress);
}

void Session::job_log(const Grant& grant, std::uint64_t offset, std::string bytes) {
  // Not kept while there is no broker: the whole log becomes an artefact at the end.
  if (link_ == Link::up && held_.contains(grant)) logs_.push_back(Send{wire::Log{grant, offset}, 0, std::move(bytes)});
}

void Session::model_log(std::string model, std::string bytes) {
  if (link_ == Link::up) logs_.push_back(Send{wire::ModelLog{std::move(model)}, 0, std::move(bytes)});
}

void Session::job_checkpoint(const Grant& grant, const BlobDigest& blob, std::uint64_t step) {
  const auto it = held_.find(grant);
  if (it == held_.end() || it->second.ended) return;
  it->second.checkpoint = blob;
  it->second.checkpoint_step = step;
  it->second.checkpoint_said = false;
  report_queue_.push_back(grant);
}

void Session::job_released(const Grant& grant) {
  const auto it = held_.find(grant);
  if (it == held_.end() || it->second.can_be_said() || it->second.released) return;
  it->second.released = true;
  report_queue_.push_back(grant);
}

// ---- capacity

void Session::open_lane(wire::Lane lane, std::uint32_t capacity) {
  const std::uint16_t number = lane.lane;
  LaneState& state = lanes_[number];
  state.declared = std::move(lane);
  state.capacity = capacity;
  lanes_changed_ = true;
}

void Session::close_lane(std::uint16_t lane) {
  const auto it = lanes_.find(lane);
  if (it == lanes_.end()) return;
  if (it->second.announced) lanes_closed_.push_back(lane);
  lanes_.erase(it);
  lanes_changed_ = true;
}

void Session::set_kinds(Instant now, std::vector<std::string> kinds, Actions& out) {
  if (kinds == options_.kinds) return;
  options_.kinds = std::move(kinds);
  if (link_ == Link::up || link_ == Link::greeting) say_hello(now, out);
}

// ---- one flush per turn of the loop

void Session::flush_started(Actions& out) {
  wire::Started message;
  for (const Grant& grant : started_queue_) {
    const auto held = held_.find(grant);
    if (held == held_.end() || held->second.ended) continue;   // folded into its end
    message.grants.push_back(grant);
    if (message.grants.size() == kLimits.items_max) {
      out.emplace_back(Send{std::move(message), 0, {}});
      message = {};
    }
  }
  started_queue_.clear();
  if (!message.grants.empty()) out.emplace_back(Send{std::move(message), 0, {}});
}

void Session::flush_ended(Instant now, Actions& out) {
  wire::Ended message;
  std::string body;
  std::vector<Grant> grants;
  const auto send = [&] {
    if (message.items.empty()) return;
    const std::uint64_t id = next_request_++;
    ended_requests_.emplace(id, std::move(grants));
    out.emplace_back(Send{std::move(message), id, std::move(body)});
    message = {};
    body = {};
    grants = {};
  };
  message.items.reserve(std::min(ended_queue_.size(), kLimits.items_max));
  for (const Grant& grant : ended_queue_) {
    const auto it = held_.find(grant);
    if (it == held_.end() || !it->second.ended || !it->second.queued) continue;
    Held& held = it->second;
    held.queued = false;
    if (!held.can_be_said()) continue;
    if (message.items.size() == kLimits.items_max || (!body.empty() && body.size() + held.body.size() > kLimits.frame_bytes_max)) send();
    held.said = now;
    if (held.progress) out.emplace_back(Send{std::move(*held.progress), 0, {}});   // its last figures, before there is nobody they are of
    held.progress.reset();
    message.items.push_back(held.end);
    body += held.body;
    grants.push_back(grant);
  }
  ended_queue_.clear();
  send();
}

void Session::flush_pull(Actions& out) {
  wire::Pull message;
  message.closed = std::move(lanes_closed_);
  lanes_closed_.clear();
  if (!leaving())
    for (auto& [number, lane] : lanes_) {
      const std::uint64_t limit = lane.taken + (lane.capacity - std::min(lane.held, lane.capacity));
      const std::uint64_t open = lane.limit_sent - std::min(lane.taken, lane.limit_sent);   // what the broker may still send
      if (!lane.announced) {
        message.opened.push_back(lane.declared);
        lane.announced = true;
      } else if (limit <= lane.limit_sent || (open * 2 > lane.capacity && (limit - lane.limit_sent) * 4 < lane.capacity)) {
        continue;   // plenty is open and little was freed: wait, so that a Pull serves many jobs
      }
      lane.limit_sent = std::max(limit, lane.limit_sent);
      message.credit.push_back({number, lane.limit_sent});
    }
  lanes_changed_ = false;
  if (!message.opened.empty() || !message.closed.empty() || !message.credit.empty()) out.emplace_back(Send{std::move(message), 0, {}});
}

void Session::flush_reports(Instant now, Actions& out) {
  std::vector<Grant> later;
  const bool progress_allowed = now >= progress_due_;
  for (const Grant& grant : report_queue_) {
    const auto it = held_.find(grant);
    if (it == held_.end() || it->second.can_be_said()) continue;   // folded into its end
    Held& held = it->second;
    if (held.released && !held.released_said) out.emplace_back(Send{wire::MemoryReleased{grant}, 0, {}});
    held.released_said = held.released;
    if (held.ended) continue;
    if (!held.checkpoint.empty() && !held.checkpoint_said)
      out.emplace_back(Send{wire::CheckpointSaved{grant, held.checkpoint, held.checkpoint_step}, 0, {}});
    held.checkpoint_said = !held.checkpoint.empty();
    if (!held.progress) continue;
    if (progress_allowed) {
      out.emplace_back(Send{std::move(*held.progress), 0, {}});
      held.progress.reset();
    } else {
      later.push_back(grant);
    }
  }
  if (progress_allowed && !report_queue_.empty()) progress_due_ = now + kProgressInterval;
  report_queue_ = std::move(later);
}

void Session::flush(Instant now, Actions& out) {
  if (link_ != Link::up || leaving_ == Leaving::left) {
    // Whatever was to be said is derived again from what is held when a WELCOME comes.
    refusals_.clear();
    return;
  }
  // A lane that is gone must be known to be gone before its jobs' ends make the broker fill it again.
  if (!lanes_closed_.empty()) flush_pull(out);
  if (!started_queue_.empty()) flush_started(out);
  if (!report_queue_.empty()) flush_reports(now, out);
  for (Send& log : logs_) out.emplace_back(std::move(log));
  logs_.clear();
  if (!ended_queue_.empty()) flush_ended(now, out);
  for (Send& refusal : refusals_) out.emplace_back(std::move(refusal));
  refusals_.clear();
  flush_pull(out);
  check_leaving(now, out);
}

}  // namespace gq::session

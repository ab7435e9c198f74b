// session.cpp - link, time, heartbeats, fences, and leaving. Jobs: session_jobs.cpp.
#include "worker/session/session.h"

#include <algorithm>

namespace gq::session {
namespace {

std::uint64_t splitmix(std::uint64_t& state) {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15ULL);
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31U);
}

bool asks_for_hello(const wire::Failure& failure) {
  const auto mentions = [](const std::string& text) {
    return text.find("HELLO") != std::string::npos || text.find("hello") != std::string::npos;
  };
  return mentions(failure.what) || mentions(failure.next);
}

}  // namespace

bool Session::is_long(const std::string& kind) { return kind == "command" || kind.rfind("train.", 0) == 0; }
bool Session::Held::can_be_said() const { return ended && !waiting_upload && !waiting_journal; }

Session::Session(Options options)
    : options_(std::move(options)),
      random_(options_.instance),
      lease_(options_.timing.lease),
      beat_interval_(options_.timing.heartbeat_interval),
      orphan_timeout_(options_.timing.orphan_timeout) {}

std::size_t Session::running() const {
  return static_cast<std::size_t>(std::count_if(held_.begin(), held_.end(), [](const auto& h) { return !h.second.ended; }));
}
std::size_t Session::journal() const { return held_.size() - running(); }

// ---- the link

void Session::start(Instant now, Actions& out) {
  seen_ = heard_ = renewed_ = now;
  dial(now, out);
}

void Session::dial(Instant now, Actions& out) {
  link_ = Link::dialling;
  link_due_ = now + options_.dial_timeout;
  out.emplace_back(Connect{});
}

Duration Session::next_backoff(Duration cap) {
  const Duration full = std::min(cap, options_.backoff_min * (INT64_C(1) << std::min(failures_in_row_, 20U)));
  ++failures_in_row_;
  const double share = 0.5 + 0.5 * static_cast<double>(splitmix(random_) >> 11U) / static_cast<double>(1ULL << 53U);
  return std::chrono::duration_cast<Duration>(full * share);
}

void Session::reconnect(Instant now, Duration wait, Actions& out) {
  link_ = Link::down;
  link_due_ = now + wait;
  out.emplace_back(Hangup{});
}

void Session::link_up(Instant now, Actions& out) {
  if (!observe(now, out) || link_ != Link::dialling) return;
  say_hello(now, out);
}

void Session::link_down(Instant now, Actions& out) {
  if (!observe(now, out) || link_ == Link::down) return;
  if (link_ == Link::up) out.emplace_back(Note{true, "broker_lost", "the link to the broker is gone; jobs go on, results are kept", ""});
  reconnect(now, next_backoff(options_.backoff_max), out);
}

void Session::refused(Instant now, const Error& why, Actions& out) {
  out.emplace_back(Note{true, "broker_refused", "error[" + std::string(to_string(why.code)) + "]: " + why.what, why.next});
  if (options_.once) {
    leaving_ = Leaving::left;
    out.emplace_back(Exit{exit_code(why.code)});
    return;
  }
  failures_in_row_ = std::max(failures_in_row_, 3U);
  reconnect(now, next_backoff(options_.refused_backoff_max), out);
}

void Session::say_hello(Instant now, Actions& out) {
  link_ = Link::greeting;
  link_due_ = now + options_.dial_timeout;
  hello_sent_ = now;
  wire::WorkerHello hello;
  hello.name = options_.name;
  hello.instance = options_.instance;
  hello.version = options_.version;
  hello.host = options_.host;
  hello.kinds = options_.kinds;
  hello.labels = options_.labels;
  hello.devices = devices_;
  for (auto& [number, lane] : lanes_) {
    lane.taken = 0;
    lane.limit_sent = leaving() ? 0 : lane.capacity - std::min(lane.held, lane.capacity);
    lane.announced = true;
    hello.lanes.push_back(lane.declared);
    hello.credit.push_back({number, lane.limit_sent});
  }
  lanes_closed_.clear();
  lanes_changed_ = false;
  for (const auto& [grant, held] : held_)
    if (held.stopping != StopCause::revoked && held.stopping != StopCause::orphaned) hello.running.push_back(grant);
  std::sort(hello.running.begin(), hello.running.end());
  out.emplace_back(Send{std::move(hello), next_request_++, {}});
}

bool Session::term_is_current(Term term, Actions& out) {
  if (term >= term_) {
    term_ = term;
    return true;
  }
  if (!dropped_note_)
    out.emplace_back(Note{true, "old_term", "a broker of term " + std::to_string(term) + " speaks, but term " + std::to_string(term_) + " leads: ignored", ""});
  dropped_note_ = true;
  return false;
}

void Session::on_welcome(Instant now, wire::WorkerWelcome&& message, Actions& out) {
  if (link_ != Link::greeting) return;
  if (!term_is_current(message.term, out)) {
    reconnect(now, next_backoff(options_.backoff_max), out);
    return;
  }
  dropped_note_ = false;
  link_ = Link::up;
  failures_in_row_ = 0;
  orphaned_ = false;
  renewed_ = hello_sent_;
  if (message.lease_ms > 0) lease_ = std::chrono::milliseconds(message.lease_ms);
  if (message.beat_ms > 0) beat_interval_ = std::chrono::milliseconds(message.beat_ms);
  beat_due_ = now + beat_interval_;
  number_max_ = message.numbered;   // what was numbered before this welcome and not taken goes back at the next beat
  number_missing_.clear();
  ended_requests_.clear();
  out.emplace_back(Welcomed{{message.broker_version, message.term, message.inline_bytes_max, message.blob_chunk_bytes}});
  revoke(message.revoke, out);

  // The broker may have forgotten, or never heard, what was said on an earlier link: all of it again.
  started_queue_.clear();
  ended_queue_.clear();
  report_queue_.clear();
  for (auto& [grant, held] : held_) {
    held.queued = false;
    held.checkpoint_said = held.released_said = false;
    if (held.ended) {
      if (held.can_be_said()) queue_end(grant);
      else if (held.released) report_queue_.push_back(grant);
    } else {
      if (held.started) started_queue_.push_back(grant);
      if (held.checkpoint_step != 0 || !held.checkpoint.empty() || held.released || held.progress) report_queue_.push_back(grant);
    }
  }
  std::sort(started_queue_.begin(), started_queue_.end());
  std::sort(ended_queue_.begin(), ended_queue_.end());
  std::sort(report_queue_.begin(), report_queue_.end());
}

void Session::on_failure(Instant now, std::uint64_t id, const wire::Failure& message, Actions& out) {
  Errc code = Errc::internal;
  parse_errc(message.code, code);
  if (link_ == Link::greeting) {
    out.emplace_back(Note{true, "hello_refused", "error[" + message.code + "]: " + message.what, message.next});
    if (options_.once && code != Errc::unavailable) {
      leaving_ = Leaving::left;
      out.emplace_back(Exit{exit_code(code)});
      return;
    }
    reconnect(now, next_backoff(code == Errc::unavailable ? options_.backoff_max : options_.refused_backoff_max), out);
    return;
  }
  if (link_ != Link::up) return;
  if (const auto request = ended_requests_.find(id); id != 0 && request != ended_requests_.end()) {
    const std::vector<Grant> grants = std::move(request->second);
    ended_requests_.erase(request);
    for (const Grant& grant : grants) {
      const auto held = held_.find(grant);
      if (held == held_.end() || !held->second.ended) continue;
      if (code == Errc::unknown_blob && !held->second.end.blobs.empty()) {
        held->second.waiting_upload = true;
        out.emplace_back(UploadAgain{grant, held->second.end.blobs});
      } else if (code == Errc::unknown_blob) {
        queue_end(grant);                 // it shared a message with the one that is to blame
      } else {
        held->second.said = now - options_.resend_after + 1s;
      }
    }
  }
  if (asks_for_hello(message)) say_hello(now, out);
}

void Session::on_beat_reply(Instant now, const wire::WorkerBeatReply& message, Actions& out) {
  if (!term_is_current(message.term, out)) return;
  const Instant sent{Duration(message.sent_us)};
  if (sent <= now) renewed_ = std::max(renewed_, sent);
  revoke(message.revoke, out);
  for (const wire::CancelJob& cancel : message.cancels) on_cancel(cancel, out);
  for (const wire::PreemptJob& preempt : message.preempts) on_preempt(preempt, out);
  for (const wire::Eviction& eviction : message.evictions) on_evict(eviction.device, eviction.model, out);
}

bool Session::saw_number(std::uint64_t number) {
  if (number > number_max_) {
    if (number - number_max_ <= 4096)
      for (std::uint64_t n = number_max_ + 1; n < number; ++n) number_missing_.insert(n);
    if (number - number_max_ > 1) missing_since_ = seen_;
    number_max_ = number;
    return true;
  }
  return number_missing_.erase(number) == 1;
}

void Session::received(Instant now, const wire::Header& header, wire::Message&& message, std::string_view body, Actions& out) {
  if (!observe(now, out)) return;   // said to a worker that was frozen since: HELLO comes first
  if (link_ != Link::greeting && link_ != Link::up) return;
  heard_ = now;
  if (auto* welcome = std::get_if<wire::WorkerWelcome>(&message)) return on_welcome(now, std::move(*welcome), out);
  if (const auto* failure = std::get_if<wire::Failure>(&message)) return on_failure(now, header.id, *failure, out);
  if (link_ != Link::up) return;    // sent before the broker read our HELLO; that did not name it, so it goes back by itself
  if (auto* assign = std::get_if<wire::Assign>(&message)) return on_assign(now, std::move(*assign), body, out);
  if (const auto* accepted = std::get_if<wire::Accepted>(&message)) return on_accepted(header.id, *accepted, out);
  if (const auto* reply = std::get_if<wire::WorkerBeatReply>(&message)) return on_beat_reply(now, *reply, out);
  if (const auto* cancel = std::get_if<wire::CancelJob>(&message)) {
    if (term_is_current(cancel->term, out) && saw_number(cancel->number)) on_cancel(*cancel, out);
    return;
  }
  if (const auto* preempt = std::get_if<wire::PreemptJob>(&message)) {
    if (term_is_current(preempt->term, out) && saw_number(preempt->number)) on_preempt(*preempt, out);
    return;
  }
  if (const auto* evict = std::get_if<wire::EvictModel>(&message)) {
    if (term_is_current(evict->term, out)) on_evict(evict->device, evict->model, out);
    return;
  }
}

// ---- time

bool Session::observe(Instant now, Actions& out) {
  const bool thawed = now - seen_ > options_.thaw_gap && link_ != Link::down && leaving_ != Leaving::left;
  seen_ = std::max(seen_, now);
  if (!thawed) return true;
  out.emplace_back(Note{true, "thawed", "this worker stood still; it says HELLO before it reports anything", ""});
  check_fences(now, out);
  out.emplace_back(Hangup{});
  dial(now, out);
  return false;
}

void Session::beat(Instant now, Actions& out) {
  wire::WorkerBeat message;
  message.sent_us = static_cast<std::uint64_t>(now.time_since_epoch().count());
  message.last_number = number_missing_.empty() ? number_max_ : *number_missing_.begin() - 1;
  message.running.reserve(held_.size());
  for (const auto& [grant, held] : held_) message.running.push_back(grant);
  std::sort(message.running.begin(), message.running.end());
  message.devices = devices_;
  out.emplace_back(Send{std::move(message), 0, {}});
  beat_due_ = now + beat_interval_;
}

void Session::check_fences(Instant now, Actions& out) {
  std::vector<std::pair<Grant, StopCause>> stops;
  const bool fence = now - renewed_ >= lease_ * 8 / 10;
  const bool orphan = now - heard_ >= orphan_timeout_;
  if (fence || orphan)
    for (const auto& [grant, held] : held_) {
      if (orphan) stops.emplace_back(grant, StopCause::orphaned);
      else if (fence && held.exclusive && !held.ended) stops.emplace_back(grant, StopCause::fenced);
    }
  if (orphan && !orphaned_) {
    orphaned_ = true;
    out.emplace_back(Note{true, "orphaned", "no broker for longer than the orphan timeout: " + std::to_string(stops.size()) + " jobs and kept results are given up", "start the broker, or raise --orphan-timeout"});
  }
  std::sort(stops.begin(), stops.end());
  for (const auto& [grant, cause] : stops) {
    const auto held = held_.find(grant);
    if (held->second.ended) drop_end(held, out);
    else stop_job(grant, cause, out);
  }
}

void Session::tick(Instant now, Actions& out) {
  if (leaving_ == Leaving::left || !observe(now, out)) return;
  while (!timeouts_.empty() && timeouts_.begin()->first <= now) {
    const Grant grant = timeouts_.begin()->second;
    timeouts_.erase(timeouts_.begin());
    if (const auto held = held_.find(grant); held != held_.end() && !held->second.ended) stop_job(grant, StopCause::timeout, out);
  }
  check_fences(now, out);
  switch (link_) {
    case Link::down:
      if (now >= link_due_) dial(now, out);
      break;
    case Link::dialling:
    case Link::greeting:
      if (now >= link_due_) {
        out.emplace_back(Note{true, "broker_unreachable", "error[UNREACHABLE]: the broker does not answer", "is it running? `gpuq doctor` looks at the way there"});
        reconnect(now, next_backoff(options_.backoff_max), out);
      }
      break;
    case Link::up:
      if (now - heard_ >= options_.timing.silence) {
        out.emplace_back(Note{true, "broker_silent", "nothing heard for " + std::to_string(options_.timing.silence / 1s) + " s; jobs go on, a new link is made", ""});
        reconnect(now, next_backoff(options_.backoff_max), out);
        break;
      }
      if (!number_missing_.empty() && now - missing_since_ >= options_.timing.silence) {
        out.emplace_back(Note{true, "message_lost", "a numbered message of the broker never came; HELLO repairs that", ""});
        say_hello(now, out);
        break;
      }
      if (now >= beat_due_) {
        beat(now, out);
        for (const auto& [grant, held] : held_)
          if (held.can_be_said() && now - held.said >= options_.resend_after) queue_end(grant);
      }
      break;
  }
  check_leaving(now, out);
}

Instant Session::next_wakeup() const {
  Instant due = seen_ + 1s;   // at least every second: a gap in the looks at the clock is how a thaw shows
  if (link_ == Link::up) due = std::min(due, beat_due_);
  else due = std::min(due, link_due_);
  if (!timeouts_.empty()) due = std::min(due, timeouts_.begin()->first);
  if (leaving_ == Leaving::draining || leaving_ == Leaving::stopping) due = std::min(due, leave_by_);
  if (!report_queue_.empty() && link_ == Link::up) due = std::min(due, progress_due_);
  return due;
}

// ---- leaving

void Session::drain(Instant now, Actions& out) {
  if (leaving_ != Leaving::no) return;
  leaving_ = Leaving::draining;
  leave_by_ = now + options_.drain_grace;
  out.emplace_back(Note{false, "draining", "no new jobs; " + std::to_string(running()) + " to finish or give back", ""});
  for (const auto& [number, lane] : lanes_)
    if (lane.announced) lanes_closed_.push_back(number);
  lanes_changed_ = true;
  std::vector<Grant> long_ones;
  for (auto& [grant, held] : held_)
    if (!held.ended && !held.stopping && !held.preempt_asked && is_long(held.kind)) long_ones.push_back(grant);
  std::sort(long_ones.begin(), long_ones.end());
  for (const Grant& grant : long_ones) {
    held_[grant].preempt_asked = true;
    out.emplace_back(PreemptJob{grant, "the worker is draining", options_.drain_grace});
  }
  check_leaving(now, out);
}

void Session::stop(Instant now, Actions& out) {
  if (leaving_ == Leaving::stopping || leaving_ == Leaving::left) return;
  if (leaving_ == Leaving::no) {
    for (const auto& [number, lane] : lanes_)
      if (lane.announced) lanes_closed_.push_back(number);
    lanes_changed_ = true;
  }
  leaving_ = Leaving::stopping;
  leave_by_ = now + options_.stop_grace;
  std::vector<Grant> grants;
  for (const auto& [grant, held] : held_)
    if (!held.ended) grants.push_back(grant);
  std::sort(grants.begin(), grants.end());
  for (const Grant& grant : grants) stop_job(grant, StopCause::shutdown, out);
  check_leaving(now, out);
}

void Session::check_leaving(Instant now, Actions& out) {
  if (leaving_ == Leaving::draining && now >= leave_by_) {
    stop(now, out);
    return;
  }
  if (leaving_ != Leaving::draining && leaving_ != Leaving::stopping) return;
  const bool empty = held_.empty() && refusals_.empty();
  const bool over = leaving_ == Leaving::stopping && now >= leave_by_;
  // Without a link an empty worker has nobody to say goodbye to.
  if (!over && !(empty && (link_ == Link::up ? lanes_closed_.empty() : true))) return;
  if (link_ == Link::up) out.emplace_back(Send{wire::Goodbye{"the worker was stopped"}, 0, {}});
  if (!held_.empty())
    out.emplace_back(Note{true, "left_behind", std::to_string(held_.size()) + " jobs or results were not taken by the broker in time; it runs those jobs again", ""});
  leaving_ = Leaving::left;
  out.emplace_back(Exit{0});
}

}  // namespace gq::session

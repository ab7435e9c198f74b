// log_desk.cpp - rings, progress, followers.
#include "broker/shell/log_desk.h"

#include <algorithm>
#include <utility>

namespace gq::broker {

namespace {
constexpr std::size_t kTraceBytes = 256;      // what a trace costs beside its ring, roughly
constexpr std::size_t kLastLinesBytes = 2048;
constexpr std::size_t kMetricsMax = 64;
}  // namespace

LogDesk::Trace& LogDesk::touch(const wire::Grant& grant) {
  if (const auto it = by_job_.find(grant.job); it != by_job_.end()) {
    traces_.splice(traces_.begin(), traces_, it->second);
  } else {
    traces_.push_front(Trace{});
    traces_.front().job = grant.job;
    by_job_[grant.job] = traces_.begin();
    bytes_ += kTraceBytes;
  }
  Trace& trace = traces_.front();
  if (grant.attempt != trace.attempt) {
    if (trace.attempt != 0 && trace.end > 0) append(trace, "[gpuq] attempt " + std::to_string(grant.attempt) + "\n");
    trace.attempt = grant.attempt;
    trace.base = trace.end;
  }
  while (bytes_ > bytes_max_ && traces_.size() > 1) forget(traces_.back().job);
  return trace;
}

void LogDesk::append(Trace& trace, std::string_view bytes) {
  bytes_ -= trace.ring.size();
  if (bytes.size() >= ring_bytes_) {
    trace.ring.assign(bytes.substr(bytes.size() - ring_bytes_));
  } else {
    if (trace.ring.size() + bytes.size() > 2 * ring_bytes_) trace.ring.erase(0, trace.ring.size() + bytes.size() - ring_bytes_);
    trace.ring.append(bytes);
  }
  trace.end += bytes.size();
  bytes_ += trace.ring.size();
}

JobId LogDesk::stream_of(std::string_view model) {
  constexpr std::uint64_t kNoTime = std::uint64_t{1} << 63U;   // a job's id begins with its milliseconds
  return {std::hash<std::string_view>{}(model) | kNoTime, std::hash<std::string>{}("of " + std::string(model))};
}

void LogDesk::model_said(std::string_view model, std::string_view bytes) {
  append(touch({.job = stream_of(model), .attempt = 1, .nonce = 0}), bytes);
  if (const std::size_t at = model.find('@'); at != std::string_view::npos) append(touch({.job = stream_of(model.substr(0, at)), .attempt = 1, .nonce = 0}), bytes);
}

void LogDesk::wrote(const wire::Grant& grant, std::uint64_t offset, std::string_view bytes) {
  Trace& trace = touch(grant);
  const std::uint64_t seen = trace.end - trace.base;   // of this attempt
  if (offset < seen) {                                 // sent before: skip what is here
    const std::uint64_t doubled = seen - offset;
    if (doubled >= bytes.size()) return;
    bytes.remove_prefix(static_cast<std::size_t>(doubled));
  } else if (offset > seen) {                          // bytes were lost on the way, or this broker was not there to hear them
    const std::uint64_t lost = offset - seen;
    append(trace, "[gpuq] " + std::to_string(lost) + " bytes are only in the job's own log\n");
    trace.base = trace.end - offset;
    // base may wrap below zero; only end - base is ever used
  }
  append(trace, bytes);
}

void LogDesk::progressed(wire::Progress&& progress) {
  Trace& trace = touch(progress.grant);
  trace.step = progress.step;
  trace.total = progress.total;
  if (progress.metrics.size() <= kMetricsMax) trace.metrics = std::move(progress.metrics);
}

void LogDesk::forget(JobId job) {
  const auto it = by_job_.find(job);
  if (it == by_job_.end()) return;
  bytes_ -= kTraceBytes + it->second->ring.size();
  traces_.erase(it->second);
  by_job_.erase(it);
}

void LogDesk::clear() {
  traces_.clear();
  by_job_.clear();
  followers_.clear();
  bytes_ = 0;
}

LogChunk LogDesk::read(JobId job, std::uint64_t offset) const {
  const auto it = by_job_.find(job);
  if (it == by_job_.end()) return {.bytes = {}, .offset = offset, .next = offset};
  const Trace& trace = *it->second;
  const std::uint64_t kept = std::min<std::uint64_t>(trace.ring.size(), ring_bytes_);
  const std::uint64_t from = std::clamp(offset, trace.end - kept, trace.end);
  return {.bytes = trace.ring.substr(trace.ring.size() - static_cast<std::size_t>(trace.end - from)), .offset = from, .next = trace.end};
}

void LogDesk::describe(wire::JobStatus& status) const {
  const auto it = by_job_.find(status.id);
  if (it == by_job_.end()) return;
  const Trace& trace = *it->second;
  status.progress_step = trace.step;
  status.progress_total = trace.total;
  status.metrics = trace.metrics;
  std::string_view tail(trace.ring);
  if (tail.size() > kLastLinesBytes) {
    tail.remove_prefix(tail.size() - kLastLinesBytes);
    if (const auto newline = tail.find('\n'); newline != std::string_view::npos) tail.remove_prefix(newline + 1);
  }
  status.last_lines = tail;
}

void LogDesk::follow(JobId job, LogFollower follower) { followers_[job].push_back(follower); }

std::vector<std::pair<LogFollower, LogChunk>> LogDesk::news(JobId job) {
  std::vector<std::pair<LogFollower, LogChunk>> out;
  const auto it = followers_.find(job);
  if (it == followers_.end()) return out;
  for (LogFollower& follower : it->second) {
    LogChunk chunk = read(job, follower.next);
    if (chunk.bytes.empty()) continue;
    follower.next = chunk.next;
    out.emplace_back(follower, std::move(chunk));
  }
  return out;
}

std::vector<LogFollower> LogDesk::stop_following(JobId job) {
  const auto it = followers_.find(job);
  if (it == followers_.end()) return {};
  std::vector<LogFollower> out = std::move(it->second);
  followers_.erase(it);
  return out;
}

void LogDesk::drop_peer(PeerId peer) {
  for (auto it = followers_.begin(); it != followers_.end();) {
    std::erase_if(it->second, [peer](const LogFollower& f) { return f.peer == peer; });
    it = it->second.empty() ? followers_.erase(it) : std::next(it);
  }
}

}  // namespace gq::broker

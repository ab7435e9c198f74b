// convert.cpp - field by field; nothing here decides anything.
#include "client/lib/convert.h"

#include <algorithm>

#include "common/vocabulary/job.h"
#include "common/wire/job_body.h"

namespace gq::client {

namespace {
std::string hex_or_empty(const BlobDigest& digest) { return digest.empty() ? std::string() : to_string(digest); }
std::string id_or_empty(const JobId& id) { return id.empty() ? std::string() : to_string(id); }
std::string state_text(std::uint8_t s) { return s < kJobStates ? std::string(to_string(static_cast<JobState>(s))) : "unknown"; }
std::string class_text(std::uint8_t c) { return c < kJobClasses ? std::string(to_string(static_cast<JobClass>(c))) : "unknown"; }
std::string kind_of_device(std::uint8_t kind) {
  switch (kind) {
    case 0: return "cpu";
    case 1: return "cuda";
    case 2: return "mps";
    case 3: return "simulated";
    default: return "device";
  }
}
}  // namespace

gpuq::Error to_public(const Error& error) { return {std::string(to_string(error.code)), error.what, error.next}; }

Error from_failure(const wire::Failure& failure) {
  Errc code = Errc::internal;
  if (parse_errc(failure.code, code)) return {code, failure.what, failure.next};
  return {Errc::internal, failure.code + ": " + failure.what, failure.next};
}

gpuq::Submitted to_public(const wire::SubmittedItem& item) {
  gpuq::Submitted out;
  out.id = to_string(item.id);
  out.existing = item.existing;
  out.ok = item.ok;
  out.durable = item.durability != 1;
  if (!item.ok) out.code = item.code, out.what = item.what, out.next = item.next;
  return out;
}

gpuq::Submitted refusal(std::string id, const Error& error) {
  gpuq::Submitted out;
  out.id = std::move(id);
  out.ok = false;
  out.code = to_string(error.code);
  out.what = error.what;
  out.next = error.next;
  return out;
}

Result<gpuq::JobResult> to_public(wire::NotifyItem&& item, std::string_view payload) {
  gpuq::JobResult out;
  out.id = to_string(item.id);
  out.state = state_text(item.state);
  out.code = std::move(item.code);
  out.what = std::move(item.what);
  out.attempt = static_cast<int>(item.attempt);
  out.worker = std::move(item.worker);
  out.device = std::move(item.device);
  out.model_version = std::move(item.model_version);
  out.submitted_ms = item.submitted_ms;
  out.started_ms = item.started_ms;
  out.ended_ms = item.ended_ms;
  if (payload.empty()) return out;
  auto body = wire::decode_result_body(std::as_bytes(std::span(payload.data(), payload.size())));
  if (!body) return tl::unexpected(body.error());
  out.values = std::move(body->values);
  out.parts.reserve(body->parts.size());
  for (wire::Part& part : body->parts) {
    gpuq::Part to;
    to.name = std::move(part.name);
    to.media = std::move(part.media);
    to.blob = hex_or_empty(part.blob);
    to.share = std::move(part.share);
    to.share_mtime_ms = part.share_mtime_ms;
    to.size = !to.share.empty() ? part.share_bytes : part.blob.empty() ? part.bytes.size() : part.blob_bytes;
    to.bytes = std::move(part.bytes);
    out.parts.push_back(std::move(to));
  }
  return out;
}

gpuq::JobStatus to_public(const wire::JobStatus& s) {
  gpuq::JobStatus out;
  out.id = to_string(s.id);
  out.found = s.found;
  if (!s.found) return out;
  out.kind = s.kind; out.job_class = class_text(s.job_class); out.state = state_text(s.state); out.model = s.model;
  out.model_version = s.model_version; out.label = s.label; out.owner = s.owner; out.worker = s.worker; out.device = s.device;
  out.code = s.code; out.what = s.what; out.reason = s.reason; out.on_preempt = s.on_preempt;
  out.cancel_asked = s.cancel_asked; out.priority = s.priority;
  out.attempt = static_cast<int>(s.attempt); out.failures = static_cast<int>(s.failures); out.losses = static_cast<int>(s.losses);
  out.preemptions = static_cast<int>(s.preemptions); out.retries = static_cast<int>(s.retries);
  out.budget_min_mib = s.budget_min_mib; out.budget_max_mib = s.budget_max_mib; out.granted_mib = s.granted_mib;
  out.submitted_ms = s.submitted_ms; out.started_ms = s.started_ms; out.ended_ms = s.ended_ms; out.due_ms = s.due_ms; out.deadline_ms = s.deadline_ms;
  out.ahead = s.ahead; out.result_bytes = s.result_bytes; out.checkpoint_step = s.checkpoint_step;
  out.progress_step = s.progress_step; out.progress_total = s.progress_total; out.metrics = s.metrics;
  out.checkpoint = hex_or_empty(s.checkpoint); out.last_lines = s.last_lines; out.retry_of = id_or_empty(s.retry_of);
  for (const BlobDigest& blob : s.result_blobs) out.result_blobs.push_back(to_string(blob));
  for (const JobId& id : s.after) out.after.push_back(to_string(id));
  out.durable = s.durability != 1;
  out.held = s.held; out.evictions = static_cast<int>(s.evictions); out.leave_reason = s.leave_reason; out.leave_for = id_or_empty(s.leave_for);
  return out;
}

gpuq::WorkerStatus to_public(const wire::WorkerStatus& s) {
  gpuq::WorkerStatus out;
  out.name = s.name; out.host = s.host; out.version = s.version; out.state = s.state;
  out.since_beat_ms = s.since_beat_ms; out.labels = s.labels; out.kinds = s.kinds; out.running = static_cast<int>(s.running);
  for (const wire::DeviceStatus& d : s.devices) {
    gpuq::DeviceStatus to;
    to.uuid = d.device.uuid; to.name = d.device.name; to.kind = kind_of_device(d.device.kind); to.index = d.device.index;
    to.healthy = d.device.healthy; to.temperature_c = d.device.temperature_c; to.utilization_pct = d.device.utilization_pct;
    to.total_mib = d.device.total_mib; to.driver_mib = d.device.driver_mib; to.used_mib = d.device.used_mib; to.used_by_us_mib = d.device.used_by_us_mib;
    to.headroom_mib = d.headroom_mib; to.foreign_mib = d.foreign_mib; to.granted_mib = d.granted_mib; to.free_mib = d.free_mib;
    to.holders = d.holders; to.warm = d.warm; to.state = d.state; to.reserved = d.reserved;
    out.devices.push_back(std::move(to));
  }
  return out;
}

gpuq::Model to_public(const wire::Model& m) {
  gpuq::Model out;
  out.name = m.name; out.version = m.version; out.runtime = m.runtime; out.metadata = m.metadata; out.owner = m.owner;
  out.blob = hex_or_empty(m.blob); out.bytes = m.bytes; out.budget_mib = m.budget_mib; out.pushed_ms = m.pushed_ms; out.promoted = m.promoted; out.promoted_ms = m.promoted_ms;
  return out;
}

gpuq::Top to_public(const wire::TopReply& t) {
  gpuq::Top out;
  out.broker_version = t.broker_version; out.store = t.store; out.space = t.space; out.term = t.term; out.uptime_ms = t.uptime_ms;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t s = 0; s < 10; ++s) out.jobs[c][s] = t.by_class_and_state[c][s];
  out.submitted = t.submitted; out.succeeded = t.succeeded; out.failed = t.failed; out.lost = t.lost; out.stale = t.stale; out.assigned = t.assigned;
  out.queued_bytes = t.queued_bytes; out.final_bytes = t.final_bytes; out.broker_bytes = t.broker_bytes; out.commits = t.commits;
  out.commit_p50_ms = t.commit_p50_ms; out.commit_p99_ms = t.commit_p99_ms; out.jobs_per_commit = static_cast<double>(t.jobs_per_commit_milli) / 1000.0;
  out.preempted = t.preempted; out.evicted_models = t.evicted_models; out.plans_made = t.plans_made; out.plans_expired = t.plans_expired;
  out.killed_at_deadline = t.killed_at_deadline; out.switches = t.switches;
  return out;
}

gpuq::CommandResult to_public(const wire::CommandItem& item) { return {item.ok, item.text, item.code, item.what, item.next}; }

gpuq::Explanation to_public(const wire::Explanation& e) {
  gpuq::Explanation out;
  out.job = id_or_empty(e.job); out.state = state_text(e.state); out.summary = e.summary; out.would_start = e.would_start; out.never = e.never;
  out.ahead = e.ahead; out.places_looked_at = e.places_looked_at;
  for (const wire::PlaceVerdict& p : e.places)
    out.places.push_back({p.worker, p.host, p.device, p.index, p.warm, p.constraint, p.sentence, p.lacking_mib, p.until_ms});
  for (const wire::RefusalCount& r : e.refusals) out.refusals.push_back({r.constraint, r.count});
  for (const wire::Remedy& r : e.remedies) {
    gpuq::Remedy to{r.kind, r.text, r.when_ms, r.budget_mib, {}};
    for (const JobId& id : r.jobs) to.jobs.push_back(to_string(id));
    out.remedies.push_back(std::move(to));
  }
  return out;
}

gpuq::PolicyPlan to_public(const wire::PlanPolicyReply& p) {
  const auto changes = [](const std::vector<wire::PlanChange>& from) {
    std::vector<gpuq::PolicyPlan::Change> to;
    for (const wire::PlanChange& change : from) to.push_back({id_or_empty(change.job), change.text});
    return to;
  };
  return {p.warnings, changes(p.stranded), changes(p.would_start), changes(p.would_wait)};
}

gpuq::Configuration to_public(const wire::ConfigReply& c) {
  gpuq::Configuration out{c.file, c.loaded_ms, {}, c.warnings};
  for (const wire::ConfigSetting& s : c.settings) out.settings.push_back({s.key, s.value, s.origin, s.where});
  return out;
}

std::vector<std::string> kind_names() {
  std::vector<std::string> names;
  for (const KindTraits& kind : kKinds) names.emplace_back(kind.name);
  return names;
}

std::string kinds_text() {
  std::string text;
  for (const KindTraits& kind : kKinds) text += (text.empty() ? "" : ", ") + std::string(kind.name);
  return text;
}

std::string closest(std::string_view word, const std::vector<std::string>& words) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : words) {   // Levenshtein with adjacent swaps, one row at a time
    const std::size_t n = candidate.size();
    std::vector<std::size_t> before, row(n + 1), previous(n + 1);
    for (std::size_t j = 0; j <= n; ++j) previous[j] = j;
    for (std::size_t i = 1; i <= word.size(); ++i) {
      row[0] = i;
      for (std::size_t j = 1; j <= n; ++j) {
        const std::size_t cost = word[i - 1] == candidate[j - 1] ? 0 : 1;
        row[j] = std::min({row[j - 1] + 1, previous[j] + 1, previous[j - 1] + cost});
        if (i > 1 && j > 1 && word[i - 1] == candidate[j - 2] && word[i - 2] == candidate[j - 1]) row[j] = std::min(row[j], before[j - 2] + 1);
      }
      before = previous;
      previous = row;
    }
    if (previous[n] < best_distance) best_distance = previous[n], best = candidate;
  }
  return best;
}

}  // namespace gq::client

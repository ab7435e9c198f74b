// translate_out.cpp - the core's words put on the wire.
#include <utility>

#include "broker/shell/translate.h"

namespace gq::broker {

namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& w : words) text.append(text.empty() ? "" : ",").append(w);
  return text;
}

/// A job's error: nothing for a success, and nothing while there is none.
void set_error(const core::JobDynamic& now, std::string& code, std::string& what) {
  if (now.state == JobState::succeeded && now.error != Errc::result_expired) return;   // that one tells of the result, not of the job
  if (now.error_text.empty() && !is_terminal(now.state)) return;
  code = to_string(now.error);
  what = now.error_text;
}

std::uint8_t number(auto value) { return static_cast<std::uint8_t>(value); }

wire::Device device_out(const core::DeviceReport& d) {
  return {.uuid = d.uuid,
          .name = d.name,
          .kind = number(d.kind),
          .index = d.index,
          .total_mib = d.total.value,
          .driver_mib = d.driver.value,
          .used_mib = d.used.value,
          .used_by_us_mib = d.used_by_us.value,
          .temperature_c = d.temperature_c,
          .utilization_pct = d.utilization_pct,
          .healthy = d.healthy};
}

}  // namespace

wire::Grant to_wire(const core::Grant& g) { return {g.job, g.attempt, g.nonce}; }

std::vector<wire::Grant> to_wire(const std::vector<core::Grant>& grants) {
  std::vector<wire::Grant> out;
  out.reserve(grants.size());
  for (const core::Grant& g : grants) out.push_back(to_wire(g));
  return out;
}

wire::Failure to_wire(const Error& error) { return {std::string(to_string(error.code)), error.what, error.next}; }

wire::SubmittedItem to_wire(const core::SubmitOutcome& outcome) {
  wire::SubmittedItem item{.id = outcome.id, .ok = outcome.ok, .existing = outcome.existing, .code = {}, .what = {}, .next = {}, .durability = static_cast<std::uint8_t>(outcome.durable ? 0 : 1)};
  if (!outcome.ok) {
    item.code = to_string(outcome.error.code);
    item.what = outcome.error.what;
    item.next = outcome.error.next;
  }
  return item;
}

wire::NotifyItem to_wire(JobId job, const core::JobDynamic& now, WallTime submitted) {
  wire::NotifyItem item;
  item.id = job;
  item.state = number(now.state);
  item.attempt = now.attempt;
  set_error(now, item.code, item.what);
  item.worker = now.worker;
  item.device = joined(now.devices);
  item.model_version = now.model_version;
  item.submitted_ms = submitted.ms != 0 ? submitted.ms : static_cast<std::int64_t>(job.hi >> 16U);   // a job id begins with its time
  item.started_ms = now.started.ms;
  item.ended_ms = now.ended.ms;
  item.blobs = now.result_blobs;
  return item;
}

wire::AssignItem to_wire(core::Assign&& a) {
  wire::AssignItem item;
  item.number = a.number;
  item.grant = to_wire(a.grant);
  item.lane = a.lane;
  item.devices = std::move(a.devices);
  item.granted_mib = a.granted.value;
  item.kind = kKinds[a.needs.kind].name;
  item.job_class = number(a.needs.job_class);
  item.priority = a.priority;
  item.on_preempt = number(a.needs.on_preempt);
  item.exclusive = a.needs.exclusive;
  item.timeout_us = a.timeout.count();
  if (!a.model.name.empty()) item.model = to_wire(a.model);
  item.resume = a.resume.blob;
  item.resume_step = a.resume.step;
  item.owner = std::move(a.owner);
  item.pause_for = a.pause_for;
  item.after = std::move(a.after);
  return item;
}

wire::CancelJob to_wire(const core::Cancel& c, Term term) { return {term, c.number, to_wire(c.grant), c.reason}; }

wire::PreemptJob to_wire(const core::Preempt& p, Term term) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(p.deadline).count();
  return {term, p.number, to_wire(p.grant), p.reason, static_cast<std::uint32_t>(ms < 0 ? 0 : ms)};
}

wire::WorkerBeatReply to_wire(const core::BeatAnswer& answer, std::uint64_t sent_us, Term term) {
  wire::WorkerBeatReply reply{.sent_us = sent_us, .term = term, .revoke = to_wire(answer.revoke), .cancels = {}, .preempts = {}, .evictions = {}};
  for (const core::Cancel& c : answer.cancels) reply.cancels.push_back(to_wire(c, term));
  for (const core::Preempt& p : answer.preempts) reply.preempts.push_back(to_wire(p, term));
  for (const core::EvictModel& e : answer.evictions) reply.evictions.push_back({e.device, e.model});
  return reply;
}

wire::Accepted to_wire(const core::EndsAnswer& answer, Term term) {
  wire::Accepted accepted{.term = term, .grants = to_wire(answer.grants), .verdicts = {}};
  accepted.verdicts.reserve(answer.verdicts.size());
  for (const core::EndVerdict v : answer.verdicts) accepted.verdicts.push_back(number(v));
  return accepted;
}

wire::Model to_wire(const core::ModelRecord& m) {
  return {.name = m.name,
          .version = m.version,
          .runtime = m.runtime,
          .metadata = m.metadata,
          .owner = m.owner,
          .blob = m.blob,
          .bytes = m.bytes,
          .budget_mib = m.budget.value,
          .pushed_ms = m.pushed.ms,
          .promoted = m.promoted,
          .promoted_ms = m.promoted_at.ms};
}

wire::JobStatus to_wire(const core::JobRecord& record) {
  const core::JobFixed& f = record.fixed;
  const core::JobDynamic& d = record.dynamic;
  wire::JobStatus s;
  s.id = f.id;
  s.found = true;
  s.kind = kKinds[f.needs.kind].name;
  s.job_class = number(f.needs.job_class);
  s.state = number(d.state);
  s.priority = f.priority;
  s.model = f.needs.model;
  s.model_version = d.model_version;
  s.label = f.label;
  s.owner = f.owner;
  s.worker = d.worker;
  s.device = joined(d.devices);
  set_error(d, s.code, s.what);
  s.on_preempt = to_string(f.needs.on_preempt);
  s.budget_min_mib = f.needs.budget_min.value;
  s.budget_max_mib = f.needs.budget_max.value;
  s.granted_mib = d.granted.value;
  s.attempt = d.attempt;
  s.failures = d.failures;
  s.losses = d.losses;
  s.preemptions = d.preemptions;
  s.retries = f.retries;
  s.submitted_ms = f.submitted.ms;
  s.started_ms = d.started.ms;
  s.ended_ms = d.ended.ms;
  s.due_ms = d.due.ms;
  s.deadline_ms = f.deadline.ms;
  s.result_bytes = d.result_bytes;
  s.result_blobs = d.result_blobs;
  s.retry_of = f.retry_of;
  s.after = f.after;
  s.cancel_asked = d.cancel_asked;
  s.checkpoint_step = d.checkpoint.step;
  s.checkpoint = d.checkpoint.blob;
  s.held = d.held;
  s.evictions = d.evictions;
  s.leave_reason = d.leave_reason;
  s.leave_for = d.leave_for;
  s.durability = f.durable ? 0 : 1;
  return s;
}

wire::JobStatus to_wire(const core::JobView& view) {
  wire::JobStatus s = to_wire(view.record);
  s.ahead = view.ahead;
  s.reason = view.reason;
  return s;
}

wire::WorkerStatus to_wire(const core::WorkerView& view) {
  wire::WorkerStatus s;
  s.name = view.name;
  s.host = view.host;
  s.version = view.version;
  s.state = view.state;
  s.since_beat_ms = std::chrono::duration_cast<std::chrono::milliseconds>(view.since_beat).count();
  s.labels = view.labels;
  for (const KindIndex kind : view.kinds) s.kinds.emplace_back(kKinds[kind].name);
  s.running = view.running;
  for (const core::DeviceView& d : view.devices)
    s.devices.push_back({.device = device_out(d.report),
                         .headroom_mib = d.headroom.value,
                         .foreign_mib = d.foreign.value,
                         .granted_mib = d.granted.value,
                         .free_mib = d.free.value,
                         .holders = d.holders,
                         .warm = d.warm,
                         .state = d.state,
                         .reserved = d.reserved});
  return s;
}

}  // namespace gq::broker

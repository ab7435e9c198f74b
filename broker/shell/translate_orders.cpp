// translate_orders.cpp - operators' words: orders in, what was done, why a job waits and what a policy says out.
#include <algorithm>
#include <utility>

#include "broker/shell/translate.h"
#include "common/vocabulary/limits.h"

namespace gq::broker {

namespace {

constexpr std::size_t kReasonMax = 200;
constexpr std::int64_t kSpanMax = 366LL * 24 * 3'600'000;
constexpr std::size_t kChangesShown = 1000;

Error bad(std::string what, std::string next = {}) { return {Errc::bad_message, std::move(what), std::move(next)}; }
std::string shown(const std::string& text) { return "'" + text.substr(0, kLimits.name_chars_max) + "'"; }
bool is_plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7F; });
}

std::optional<Error> wrong_order(const wire::Command& c) {
  if (c.reason.size() > kReasonMax) return Error{Errc::over_limit, "a reason has at most " + std::to_string(kReasonMax) + " bytes", "say it shorter"};
  if (!is_plain(c.reason)) return bad("a reason is one line of printable text");
  if (c.deadline_ms < 0 || c.deadline_ms > kSpanMax) return bad("a deadline is a span from now of at most 366 days", "--deadline 30min");
  return std::nullopt;
}

Duration span_of(std::int64_t ms) { return std::chrono::milliseconds(ms); }

std::optional<Error> wrong_update(const wire::UpdateJob& u) {
  if (u.job.empty()) return bad("an update that names no job");
  if (u.budget_min_mib.has_value() != u.budget_max_mib.has_value()) return bad("device memory is changed as a range or not at all", "--vram 2GiB..8GiB");
  if (u.timeout_ms && (*u.timeout_ms < 0 || *u.timeout_ms > kSpanMax)) return bad("a timeout is a span of at most 366 days; 0 = none");
  if ((u.deadline_ms && *u.deadline_ms < 0) || (u.not_before_ms && *u.not_before_ms < 0)) return bad("a time is negative");
  if (u.where)
    for (const std::string& term : *u.where)
      if (!is_plain(term)) return bad("a --where term is not printable");
  return std::nullopt;
}

std::string_view kind_of(core::Remedy::Kind kind) {
  constexpr std::array<std::string_view, 10> kNames{"none_needed", "wait_until", "wait_for_jobs", "victims", "smaller_budget",
                                                    "release_hold", "resume_class", "undrain", "add_worker", "change_policy"};
  static_assert(static_cast<std::size_t>(core::Remedy::Kind::change_policy) + 1 == kNames.size());
  return kNames[static_cast<std::size_t>(kind)];
}

std::vector<wire::PlanChange> changes_out(const std::vector<core::PolicyPlan::Change>& changes) {
  std::vector<wire::PlanChange> out;
  for (const auto& change : changes) {
    if (out.size() == kChangesShown) break;
    out.push_back({change.job, change.text});
  }
  return out;
}

}  // namespace

// ---- in

Result<std::variant<core::JobCommand, core::FleetCommand>> to_core(wire::Command&& c, PeerId peer, std::uint64_t request, const std::string& by) {
  using Order = std::variant<core::JobCommand, core::FleetCommand>;
  if (auto wrong = wrong_order(c)) return tl::unexpected(std::move(*wrong));
  constexpr std::array<std::pair<std::string_view, core::JobVerb>, 3> kJobVerbs{
      {{"preempt", core::JobVerb::preempt}, {"hold", core::JobVerb::hold}, {"release", core::JobVerb::release}}};
  for (const auto& [name, verb] : kJobVerbs) {
    if (c.verb != name) continue;
    if (c.jobs.empty()) return tl::unexpected(bad(c.verb + " names no job"));
    if (!c.target.empty()) return tl::unexpected(bad(c.verb + " is about jobs, not about " + shown(c.target)));
    return Order{core::JobCommand{peer, request, verb, by, std::move(c.reason), span_of(c.deadline_ms), std::move(c.jobs)}};
  }
  constexpr std::array<std::pair<std::string_view, core::FleetVerb>, 4> kFleetVerbs{{{"drain", core::FleetVerb::drain},
                                                                                     {"undrain", core::FleetVerb::undrain},
                                                                                     {"pause", core::FleetVerb::pause_class},
                                                                                     {"resume", core::FleetVerb::resume_class}}};
  for (const auto& [name, verb] : kFleetVerbs) {
    if (c.verb != name) continue;
    const bool of_class = verb == core::FleetVerb::pause_class || verb == core::FleetVerb::resume_class;
    if (c.target.empty()) return tl::unexpected(bad(c.verb + (of_class ? " names no class" : " names no worker or device")));
    if (!c.jobs.empty()) return tl::unexpected(bad(c.verb + (of_class ? " is about a class, not about jobs" : " is about a worker or a device, not about jobs")));
    if (!is_plain(c.target)) return tl::unexpected(bad("the target of " + c.verb + " is not printable"));
    return Order{core::FleetCommand{peer, request, verb, std::move(c.target), by, std::move(c.reason), span_of(c.deadline_ms)}};
  }
  return fail(Errc::bad_message, "no order is called " + shown(c.verb), "orders: preempt, hold, release, drain, undrain, pause, resume");
}

Result<core::UpdateReceived> to_core(wire::UpdateJob&& u, PeerId peer, std::uint64_t request, const std::string& by) {
  if (auto wrong = wrong_update(u)) return tl::unexpected(std::move(*wrong));
  core::JobUpdate out;
  out.priority = u.priority;
  if (u.deadline_ms) out.deadline = WallTime{*u.deadline_ms};
  if (u.not_before_ms) out.not_before = WallTime{*u.not_before_ms};
  if (u.timeout_ms) out.timeout = span_of(*u.timeout_ms);
  out.retries = u.retries;
  if (u.job_class) out.job_class = static_cast<JobClass>(*u.job_class);
  if (u.budget_min_mib) out.budget = std::pair{Mib{*u.budget_min_mib}, Mib{std::min(*u.budget_max_mib, kRestOfDevice.value)}};
  if (u.on_preempt) out.on_preempt = static_cast<OnPreempt>(*u.on_preempt);
  out.where = std::move(u.where);
  return core::UpdateReceived{peer, request, by, u.job, std::move(out)};
}

// ---- out

wire::CommandReply to_wire(const core::CommandAnswer& answer) {
  wire::CommandReply reply;
  reply.items.reserve(answer.items.size());
  for (const core::CommandOutcome& o : answer.items) {
    auto& item = reply.items.emplace_back(wire::CommandItem{.ok = o.ok, .text = o.text, .code = {}, .what = {}, .next = {}});
    if (o.ok) continue;
    item.code = to_string(o.error.code);
    item.what = o.error.what;
    item.next = o.error.next;
  }
  return reply;
}

wire::EvictModel to_wire(const core::EvictModel& evict, Term term) { return {term, evict.device, evict.model}; }

wire::Explanation to_wire(const core::Explanation& e) {
  wire::Explanation out;
  out.job = e.job;
  out.state = static_cast<std::uint8_t>(e.state);
  out.summary = e.summary;
  out.would_start = e.would_start;
  out.ahead = e.ahead;
  out.never = e.never;
  for (const core::PlaceVerdict& p : e.places)
    out.places.push_back({p.worker, p.host, p.device, p.index, p.warm, p.constraint, p.sentence, p.lacking.value, p.until.ms});
  out.places_looked_at = e.places_looked_at;
  for (const auto& [constraint, count] : e.refusals) out.refusals.push_back({constraint, count});
  for (const core::Remedy& r : e.remedies) out.remedies.push_back({std::string(kind_of(r.kind)), r.text, r.when.ms, r.jobs, r.budget.value});
  return out;
}

wire::PlanPolicyReply to_wire(const core::PolicyPlan& plan, const std::vector<std::string>& warnings) {
  wire::PlanPolicyReply reply;
  reply.ok = true;
  reply.warnings = warnings;
  reply.warnings.insert(reply.warnings.end(), plan.warnings.begin(), plan.warnings.end());
  reply.stranded = changes_out(plan.stranded);
  reply.would_start = changes_out(plan.would_start);
  reply.would_wait = changes_out(plan.would_wait);
  return reply;
}

wire::ConfigReply to_wire(const policy::Loaded& loaded) {
  wire::ConfigReply reply{.file = loaded.file, .loaded_ms = loaded.loaded_ms, .settings = {}, .warnings = loaded.warnings};
  for (const EffectiveSetting& s : loaded.effective) reply.settings.push_back({s.key, s.value, std::string(to_string(s.origin)), s.where});
  return reply;
}

/// "class synthesis is paused by ann: quiet hours".
std::string in_words(const core::OperatorSetting& s) {
  std::string text = s.kind == core::OperatorSetting::Kind::pause_class    ? "class " + s.target + " is paused"
                     : s.kind == core::OperatorSetting::Kind::drain_worker ? "worker " + s.target + " is drained"
                                                                           : "device " + s.target + " is drained";
  if (!s.by.empty()) text += " by " + s.by;
  if (!s.reason.empty()) text += ": " + s.reason;
  return text;
}

}  // namespace gq::broker

// operate.cpp - commands to the scheduler, and questions about what it would do.
//
// A command is sent again on a new link like every question: each is a wish for a state ("held", "drained"), not a toggle, so
// hearing it twice changes nothing; a second preempt finds the job gone from its device.
#include <algorithm>

#include "client/include/gpuq/client.h"
#include "client/lib/convert.h"
#include "client/lib/prepare.h"
#include "client/lib/state.h"

namespace gpuq {

using namespace gq::client;
using gq::Errc;

namespace {

[[noreturn]] void usage(const std::string& what, const std::string& next) { throw Error("USAGE", what, next); }

std::int64_t span_ms(std::chrono::milliseconds span, std::string_view of) {
  if (span < std::chrono::milliseconds::zero()) usage("the deadline of " + std::string(of) + " lies in the past", "name a span from now, or none");
  return span.count();
}

void judge_reason(const std::string& reason) {
  if (reason.size() > 200) throw Error("OVER_LIMIT", "a reason has at most 200 bytes, this one " + std::to_string(reason.size()), "say it shorter");
}

std::string class_or_throw(const std::string& text) {
  if (!gq::parse_job_class(text)) usage("there is no class '" + text + "'", "use inference, training or synthesis");
  return text;
}

gq::wire::UpdateJob to_wire(const gq::JobId& job, const JobUpdate& change) {
  gq::wire::UpdateJob out;
  out.job = job;
  if (change.priority) {
    if (*change.priority < 0 || *change.priority > 9) throw Error("OVER_LIMIT", "priority " + std::to_string(*change.priority) + " is not 0..9", "9 is served first, 5 is the default");
    out.priority = static_cast<std::uint8_t>(*change.priority);
  }
  if (change.retries) {
    if (*change.retries < 0) usage("retries must not be negative", "");
    out.retries = static_cast<std::uint32_t>(*change.retries);
  }
  out.deadline_ms = change.deadline_ms;
  out.not_before_ms = change.not_before_ms;
  if (change.timeout) out.timeout_ms = span_ms(*change.timeout, "an attempt");
  if (change.job_class) out.job_class = static_cast<std::uint8_t>(*gq::parse_job_class(class_or_throw(*change.job_class)));
  if (change.on_preempt) {
    const auto how = gq::parse_on_preempt(*change.on_preempt);
    if (!how) usage("there is no on_preempt '" + *change.on_preempt + "'", "use checkpoint, pause, restart or never");
    out.on_preempt = static_cast<std::uint8_t>(*how);
  }
  if (change.vram_mib) {
    const auto [least, most] = *change.vram_mib;
    if (least < 0 || (most != 0 && most < least)) usage("the memory range is upside down", "for example 2GiB..8GiB");
    out.budget_min_mib = least;
    out.budget_max_mib = most == 0 ? least : std::min(most, gq::kRestOfDevice.value);
  }
  out.where = change.where;
  if (out.where) std::sort(out.where->begin(), out.where->end());
  return out;
}

bool is_empty(const JobUpdate& u) {
  return !u.priority && !u.deadline_ms && !u.not_before_ms && !u.timeout && !u.retries && !u.job_class && !u.on_preempt && !u.vram_mib && !u.where;
}

// Client::State is nobody's business but the client's, hence its type is a parameter here.

[[noreturn]] void wrong_count(std::size_t answered, std::size_t asked) {
  throw Error("PROTOCOL", "the broker answered about " + std::to_string(answered) + " things instead of " + std::to_string(asked), "update gpuq on both sides: gpuq version");
}

template <class S>
std::vector<CommandResult> command(S& state, const char* verb, const std::vector<std::string>& ids, const std::string& reason, std::int64_t deadline_ms) {
  judge_reason(reason);
  std::vector<CommandResult> out;
  state.for_each_page(ids, [&](std::vector<gq::JobId> jobs) {
    const std::size_t asked = jobs.size();
    Answer answer = state.ask(gq::wire::Command{verb, std::move(jobs), {}, reason, deadline_ms});
    const auto& reply = state.template expect<gq::wire::CommandReply>(answer);
    if (reply.items.size() != asked) wrong_count(reply.items.size(), asked);
    for (const auto& item : reply.items) out.push_back(to_public(item));
  });
  return out;
}

/// To one job or one target: what was done, or Error.
template <class S, class M>
std::string order(S& state, const M& message) {
  Answer answer = state.ask(message);
  const auto& reply = state.template expect<gq::wire::CommandReply>(answer);
  if (reply.items.size() != 1) wrong_count(reply.items.size(), 1);
  const auto& item = reply.items.front();
  if (!item.ok) throw Error(item.code, item.what, item.next);
  return item.text;
}

}  // namespace

std::vector<CommandResult> Client::preempt(const std::vector<std::string>& ids, const std::string& reason, std::chrono::milliseconds deadline) {
  return command(*state_, "preempt", ids, reason, span_ms(deadline, "a preemption"));
}
std::vector<CommandResult> Client::hold(const std::vector<std::string>& ids, const std::string& reason) { return command(*state_, "hold", ids, reason, 0); }
std::vector<CommandResult> Client::release(const std::vector<std::string>& ids) { return command(*state_, "release", ids, {}, 0); }

std::string Client::update(const std::string& id, const JobUpdate& change) {
  const gq::JobId job = State::job_id(id);
  if (is_empty(change)) usage("there is nothing to change", "name at least one field");
  return order(*state_, to_wire(job, change));
}

std::string Client::drain(const std::string& target, const std::string& reason, std::chrono::milliseconds deadline) {
  judge_reason(reason);
  return order(*state_, gq::wire::Command{"drain", {}, target, reason, span_ms(deadline, "a drain")});
}
std::string Client::undrain(const std::string& target) { return order(*state_, gq::wire::Command{"undrain", {}, target, {}, 0}); }
std::string Client::pause_class(const std::string& job_class, const std::string& reason) {
  judge_reason(reason);
  return order(*state_, gq::wire::Command{"pause", {}, class_or_throw(job_class), reason, 0});
}
std::string Client::resume_class(const std::string& job_class) { return order(*state_, gq::wire::Command{"resume", {}, class_or_throw(job_class), {}, 0}); }

Explanation Client::explain(const std::string& id) {
  Answer answer = state_->ask(gq::wire::ExplainQuery{State::job_id(id)});
  return to_public(state_->expect<gq::wire::ExplainReply>(answer).explanation);
}

Explanation Client::plan(JobSpec spec) {
  auto job = prepare(std::move(spec));
  if (!job) throw to_public(job.error());
  gq::wire::PlanSubmit question{std::move((*job)->item)};
  question.item.payload_bytes = 0;   // where it runs depends on the record alone: nothing is uploaded for a plan
  Answer answer = state_->ask(question);
  return to_public(state_->expect<gq::wire::ExplainReply>(answer).explanation);
}

PolicyPlan Client::plan_policy(const std::string& toml, const std::string& name) {
  Answer answer = state_->ask(gq::wire::PlanPolicy{toml, name});
  const auto& reply = state_->expect<gq::wire::PlanPolicyReply>(answer);
  if (!reply.ok) throw Error(reply.code, reply.what, reply.next);
  return to_public(reply);
}

Configuration Client::config() {
  Answer answer = state_->ask(gq::wire::ConfigQuery{false});
  return to_public(state_->expect<gq::wire::ConfigReply>(answer));
}

Configuration Client::reload_config() {
  Answer answer = state_->ask(gq::wire::ConfigQuery{true});
  return to_public(state_->expect<gq::wire::ConfigReply>(answer));
}

}  // namespace gpuq

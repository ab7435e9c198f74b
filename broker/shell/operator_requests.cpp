// operator_requests.cpp - what operators order, and the policy in force: the wire's words to the core and back.
//
// Orders about jobs may be given by the key that submitted them and by admins; those about workers, devices, classes and the policy file need an admin
// key. While the store is away nothing can be ordered: an order is answered when it is durable.
#include "broker/shell/broker_state.h"
#include "common/config/clock.h"
#include "common/log.h"

namespace gq::broker {

void Broker::State::on_command(Peer& peer, std::uint64_t request, wire::Command&& command) {
  const std::string verb = command.verb;
  auto order = to_core(std::move(command), peer.id, request, peer.name);
  if (!order) return refuse(peer, request, order.error());
  if (auto* fleet = std::get_if<core::FleetCommand>(&*order)) {
    if (needs_admin(peer, request, verb + " of " + fleet->target)) return;
    if (refused_while_down(peer, request)) return;
    log::info("order", {{"verb", verb}, {"target", fleet->target}, {"by", peer.name}, {"reason", fleet->reason}});
    return step(std::move(*fleet));
  }
  if (refused_while_down(peer, request)) return;
  auto& jobs = std::get<core::JobCommand>(*order);
  log::info("order", {{"verb", verb}, {"jobs", std::to_string(jobs.jobs.size())}, {"by", peer.name}, {"reason", jobs.reason}});
  jobs.scope = scope_of(peer);
  step(std::move(jobs));
}

void Broker::State::on_update_job(Peer& peer, std::uint64_t request, wire::UpdateJob&& update) {
  const JobId job = update.job;
  auto event = to_core(std::move(update), peer.id, request, peer.name);
  if (!event) return refuse(peer, request, event.error());
  if (refused_while_down(peer, request)) return;
  log::info("order", {{"verb", "update"}, {"job", to_string(job)}, {"by", peer.name}});
  event->scope = scope_of(peer);
  step(std::move(*event));
}

// ---- questions about what would be: nothing is changed by asking

void Broker::State::on_explain(Peer& peer, std::uint64_t request, const wire::ExplainQuery& query) {
  const auto explanation = core->explain(query.job, now());
  if (!explanation) return refuse(peer, request, {Errc::not_found, "there is no job " + to_string(query.job), "gpuq list shows the jobs that are remembered"});
  reply(peer, request, wire::ExplainReply{to_wire(*explanation)});
}

void Broker::State::on_plan_submit(Peer& peer, std::uint64_t request, wire::PlanSubmit&& plan) {
  if (plan.item.id.empty()) plan.item.id = {1, 1};   // not looked at
  auto item = to_core(std::move(plan.item), {}, pool);
  if (!item) return refuse(peer, request, item.error());
  item->fixed.owner = peer.name;
  const auto explanation = core->plan(item->fixed, now());
  if (!explanation) return refuse(peer, request, explanation.error());
  reply(peer, request, wire::ExplainReply{to_wire(*explanation)});
}

void Broker::State::on_plan_policy(Peer& peer, std::uint64_t request, const wire::PlanPolicy& plan) {
  const auto loaded = config.policy->try_text(plan.text, plan.name.empty() ? "the policy" : plan.name.substr(0, 256));
  if (!loaded) {
    const Error& why = loaded.error();
    return say(peer, wire::PlanPolicyReply{.ok = false, .code = std::string(to_string(why.code)), .what = why.what, .next = why.next, .warnings = {}, .stranded = {}, .would_start = {}, .would_wait = {}}, request);
  }
  reply(peer, request, to_wire(core->plan(loaded->policy, now()), loaded->warnings));
}

/// Not a job's state: answered while the store is away, too. A file that is not taken is the answer's error; nothing has changed then.
void Broker::State::on_config(Peer& peer, std::uint64_t request, const wire::ConfigQuery& query) {
  if (query.reload) {
    if (needs_admin(peer, request, "a reload of the policy")) return;
    log::info("reload_asked", {{"by", peer.name}});
    if (auto loaded = reload_policy(); !loaded) return refuse(peer, request, loaded.error());
  }
  auto answer = to_wire(config.policy->current());
  for (std::string& warning : core->plan(core->policy(), now()).warnings) answer.warnings.push_back(std::move(warning));   // what only the fleet can tell
  say(peer, answer, request);
}

}  // namespace gq::broker

// follow_policy.cpp - the core follows the policy file: at a reload, and anew before the known spans of its windows run out.
//
// A file that is wrong changes nothing: what is in force stays in force, and the log says what to mend. One that is right is
// followed at once; what it means for the devices and jobs that are here is asked of the core first, and said.
#include "broker/shell/broker_state.h"
#include "common/config/clock.h"
#include "common/log.h"

namespace gq::broker {

namespace {
constexpr std::size_t kStrandedNamed = 8;   // in the log; gpuq plan --config names them all beforehand
}

Result<policy::Loaded> Broker::State::reload_policy() {
  auto loaded = config.policy->reload();
  if (!loaded) {
    log::error("policy_refused", {{"what", loaded.error().what}, {"next", loaded.error().next}, {"in_force", "the policy loaded before"}});
    return loaded;
  }
  core::PolicyPlan plan;
  if (serving()) plan = core->plan(loaded->policy, now());
  follow_policy();
  log::info("policy_loaded", {{"file", loaded->file.empty() ? "none" : loaded->file}, {"windows", std::to_string(loaded->policy.windows.size())},
                              {"stranded", std::to_string(plan.stranded.size())}});
  loaded->warnings.insert(loaded->warnings.end(), plan.warnings.begin(), plan.warnings.end());
  for (const std::string& warning : loaded->warnings) log::warn("policy", {{"warning", warning}});
  for (std::size_t i = 0; i < plan.stranded.size() && i < kStrandedNamed; ++i)
    log::warn("policy_strands", {{"job", to_string(plan.stranded[i].job)}, {"what", plan.stranded[i].text}});
  return loaded;
}

void Broker::State::follow_policy() {
  config.core.policy = config.policy->current().policy;   // also for a core that is made anew
  if (serving()) step(core::PolicyLoaded{config.core.policy});
}

void Broker::State::renew_windows() {
  if (!config.policy->renew_windows()) return;
  follow_policy();
  log::info("policy_windows_renewed", {{"windows", std::to_string(config.core.policy.windows.size())}});
}

Result<policy::Loaded> Broker::reload_policy() {
  auto loaded = state_->reload_policy();
  if (state_->serving()) state_->end_turn();
  return loaded;
}

}  // namespace gq::broker

// core_commands.h - a Story with an operator in it.
#pragma once

#include "tests/unit/core_story.h"

namespace gq::core::story {

class Commands : public Story {
 protected:
  void order(JobVerb verb, std::vector<JobId> jobs, std::string reason = {}, Duration deadline = {}) {
    say(JobCommand{kClient, ++request, verb, "ann", std::move(reason), deadline, std::move(jobs)});
  }
  void fleet(FleetVerb verb, std::string target, Duration deadline = {}, std::string reason = {}) {
    say(FleetCommand{kClient, ++request, verb, std::move(target), "ann", std::move(reason), deadline});
  }
  void update(JobId job, const std::function<void(JobUpdate&)>& change) {
    JobUpdate u;
    change(u);
    say(UpdateReceived{kClient, ++request, "ann", job, std::move(u)});
  }
  Effect said(const std::vector<std::string>& texts) {
    CommandAnswer answer{kClient, request, {}};
    for (const std::string& text : texts) answer.items.push_back({true, {}, text});
    return Send{answer};
  }
  Effect refused(Errc code, std::string what, std::string next) {
    return Send{CommandAnswer{kClient, request, {{false, {code, std::move(what), std::move(next)}, {}}}}};
  }
  /// The one answer of the newest command; the test has looked at the effects already or does not care.
  CommandOutcome answer() {
    CommandOutcome found;
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* a = std::get_if<CommandAnswer>(&s->message)) found = a->items.at(0);
    return found;
  }
  void reload() {
    core = std::make_unique<Core>(config);
    core->load(store.image(), now);
    core->check_invariants();
    batch = 0;
    seen.clear();
  }
  std::vector<Preempt> asked_to_leave() {
    std::vector<Preempt> all;
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* p = std::get_if<Preempt>(&s->message)) all.push_back(*p);
    return all;
  }
  static SubmitItem echo(std::uint64_t n, std::uint8_t priority = 5) {
    return with(item(n, "echo"), [&](SubmitItem& i) { i.fixed.priority = priority; });
  }
};

}  // namespace gq::core::story

// core_preempt_story.h - a story with one small policy in mind: inference over training over synthesis, no minimum run times
// unless a test sets them, a grace of ten seconds, and no models to load unless a test pushes one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/unit/core_story.h"

namespace gq::core::story {

class PreemptStory : public Story {
 protected:
  explicit PreemptStory(const std::function<void(CoreConfig&)>& change = {}) : Story(plain(change)) {}
  static CoreConfig plain(const std::function<void(CoreConfig&)>& change) {
    CoreConfig c = fresh();
    for (ClassPolicy& of : c.policy.classes) {
      of.min_run = {};
      of.grace = 10s;
      of.budget = {};
    }
    if (change) change(c);
    return c;
  }

  /// A command of a class: needs no model, holds exactly this much.
  static SubmitItem job(std::uint64_t n, JobClass c, Mib size, std::uint16_t devices = 1) {
    return with(item(n, "command"), [&](SubmitItem& i) {
      i.fixed.needs.job_class = c;
      i.fixed.needs.budget_min = i.fixed.needs.budget_max = size;
      i.fixed.needs.devices = devices;
    });
  }
  static SubmitItem inference(std::uint64_t n, Mib size) { return job(n, JobClass::inference, size); }
  static SubmitItem train(std::uint64_t n, Mib size) { return job(n, JobClass::training, size); }
  static SubmitItem synthesis(std::uint64_t n, Mib size) { return job(n, JobClass::synthesis, size); }

  /// Submitted, assigned by now and STARTED.
  JobId running(PeerId peer, SubmitItem i) {
    const JobId id = submitted(std::move(i));
    EXPECT_EQ(state(id), JobState::running) << "it did not start";
    started(peer, id);
    return id;
  }
  PeerId gpu_worker(const std::string& name, const WorkerSpec& spec) {
    const PeerId peer = worker(name, spec);
    keep_beating(name);
    return peer;
  }
  /// Time passes; heartbeats list what was granted, as workers do.
  void wait(Duration d) {
    for (; d > Duration{0}; d -= std::min<Duration>(d, 500ms)) {
      ListFilter all;
      all.limit = 500;
      for (auto& [name, beat] : beating) beat.running.clear();
      for (const JobRecord& r : core->list(all))
        if (is_granted(r.dynamic.state) && beating.contains(r.dynamic.worker))
          beating[r.dynamic.worker].running.push_back({r.fixed.id, r.dynamic.attempt, r.dynamic.nonce});
      after(std::min<Duration>(d, 500ms));
    }
  }
  void yields(PeerId peer, JobId id, std::uint64_t step = 0) {
    ends(peer, id, Outcome::yielded, [&](AttemptEnd& e) {
      e.error_text = {};
      if (step != 0) e.checkpoint = {blob(9), step};
    });
  }
  void released(PeerId peer, JobId id) { say(MemoryReleased{peer, grant(id)}); }

  /// Whom the last facts asked to leave, in order.
  std::vector<JobId> asked_now() {
    std::vector<JobId> ids;
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* p = std::get_if<Preempt>(&s->message)) ids.push_back(p->grant.job);
    return ids;
  }
  std::vector<std::string> evicted_now() {
    std::vector<std::string> models;
    for (const Effect& e : effects())
      if (const auto* s = std::get_if<Send>(&e))
        if (const auto* m = std::get_if<EvictModel>(&s->message)) models.push_back(m->device + " " + m->model.substr(0, m->model.find('@')));
    return models;
  }
  using Jobs = std::vector<JobId>;
};

}  // namespace gq::core::story

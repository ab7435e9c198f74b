// kept_jobs.h - bodies and results of jobs with durability none: what the store keeps of others lies here, and goes with this process.
//
// Bounded by the core (CoreConfig::undurable_bytes_max), which refuses submits beyond it and forgets a job when it is fetched.
#pragma once

#include <unordered_map>

#include "broker/core/record.h"
#include "broker/shell/token_pool.h"
#include "common/vocabulary/ids.h"

namespace gq::broker {

class KeptJobs {
 public:
  /// A mutation of such a job. Bytes behind tokens are taken from `pool`, a retry's body from its origin.
  void keep(const core::Mutation& mutation, const TokenPool& pool) {
    if (const auto* created = std::get_if<core::JobCreated>(&mutation)) {
      SharedBytes body = created->body_of.empty() ? pool.find(created->body) : body_of(created->body_of);
      jobs_[created->record.fixed.id].body = std::move(body);
    } else if (const auto* stored = std::get_if<core::ResultStored>(&mutation)) {
      jobs_[stored->id].result = pool.find(stored->result);
    } else if (const auto* forgotten = std::get_if<core::JobForgotten>(&mutation)) {
      jobs_.erase(forgotten->id);
    }
  }
  [[nodiscard]] bool contains(JobId job) const { return jobs_.contains(job); }
  [[nodiscard]] SharedBytes body_of(JobId job) const {
    const auto it = jobs_.find(job);
    return it == jobs_.end() ? nullptr : it->second.body;
  }
  [[nodiscard]] SharedBytes result_of(JobId job) const {
    const auto it = jobs_.find(job);
    return it == jobs_.end() ? nullptr : it->second.result;
  }
  void clear() { jobs_.clear(); }

 private:
  struct Kept { SharedBytes body, result; };
  std::unordered_map<JobId, Kept> jobs_;
};

}  // namespace gq::broker

// body_cache.h - bodies of jobs created a moment ago, so that a job submitted and assigned at once is not read back from the store.
//
// Bounded by bytes, oldest out first: payloads of waiting jobs stay in the store, not here. Bytes are content, never a decision.
#pragma once

#include <cstddef>
#include <deque>
#include <unordered_map>

#include "broker/shell/token_pool.h"
#include "common/vocabulary/ids.h"

namespace gq::broker {

class BodyCache {
 public:
  explicit BodyCache(std::size_t bytes_max = std::size_t{8} << 20U) : bytes_max_(bytes_max) {}

  void add(JobId job, const SharedBytes& body) {
    if (!body || body->size() > bytes_max_) return;
    if (!bodies_.emplace(job, body).second) return;
    order_.push_back(job);
    bytes_ += cost(body);
    while (bytes_ > bytes_max_ || order_.size() > 2 * bodies_.size() + 64) {
      const JobId oldest = order_.front();
      order_.pop_front();
      take(oldest);
    }
  }
  [[nodiscard]] bool contains(JobId job) const { return bodies_.contains(job); }
  SharedBytes take(JobId job) {
    const auto it = bodies_.find(job);
    if (it == bodies_.end()) return nullptr;
    SharedBytes body = std::move(it->second);
    bytes_ -= cost(body);
    bodies_.erase(it);
    return body;
  }
  void clear() {
    bodies_.clear();
    order_.clear();
    bytes_ = 0;
  }

 private:
  static std::size_t cost(const SharedBytes& body) { return body->size() + 128; }

  std::size_t bytes_max_;
  std::size_t bytes_{};
  std::unordered_map<JobId, SharedBytes> bodies_;
  std::deque<JobId> order_;   ///< may name jobs that were taken already
};

}  // namespace gq::broker

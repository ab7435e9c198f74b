// coalescer.h - many submits, few messages: up to 256 items and 1 MiB each. Pure.
//
// Items leave in the order they came. An item whose caller has given up (its batch is done) is dropped on the way out.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <vector>

#include "client/lib/prepare.h"
#include "common/vocabulary/limits.h"

namespace gq::client {

class Coalescer {
 public:
  explicit Coalescer(std::size_t items_max = kLimits.items_max, std::size_t bytes_max = kLimits.frame_bytes_max)
      : items_max_(items_max), bytes_max_(bytes_max) {}

  void add(PreparedPtr item) { queue_.push_back(std::move(item)); }
  [[nodiscard]] bool empty() const { return queue_.empty(); }
  [[nodiscard]] std::size_t size() const { return queue_.size(); }
  /// The next message's items; empty when there is nothing to send.
  std::vector<PreparedPtr> next_message();
  void clear() { queue_.clear(); }

 private:
  std::size_t items_max_, bytes_max_;
  std::deque<PreparedPtr> queue_;
};

/// The wire form: items and their payloads, concatenated.
struct SubmitFrames { wire::Submit message; std::string body; };
SubmitFrames to_frames(const std::vector<PreparedPtr>& items);

}  // namespace gq::client

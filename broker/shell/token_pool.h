// token_pool.h - the bytes behind the core's Tokens, for the length of one step.
//
// A step that gets a token uses it in its own effects or not at all (JobCreated.body, ResultStored.result, JobNotice.result), so the
// pool is cleared after each step. Numbers are never used twice: a stale token finds nothing.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "broker/core/record.h"

namespace gq::broker {

using Bytes = std::string;
using SharedBytes = std::shared_ptr<const Bytes>;

class TokenPool {
 public:
  /// 0 for no bytes.
  core::Token add(std::string_view bytes) {
    if (bytes.empty()) return 0;
    held_.push_back(std::make_shared<const Bytes>(bytes));
    return first_ + held_.size() - 1;
  }
  [[nodiscard]] SharedBytes find(core::Token token) const {
    if (token < first_ || token - first_ >= held_.size()) return nullptr;
    return held_[static_cast<std::size_t>(token - first_)];
  }
  void clear() {
    first_ += held_.size();
    held_.clear();
  }

 private:
  core::Token first_{1};
  std::vector<SharedBytes> held_;
};

}  // namespace gq::broker

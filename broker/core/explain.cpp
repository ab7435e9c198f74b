// explain.cpp - why a job waits, from the scheduler's own constraints.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

const Policy& Core::policy() const { return state_->config.policy; }

std::vector<OperatorSetting> Core::settings() const {
  std::vector<OperatorSetting> all;
  for (const auto& [key, setting] : state_->settings) all.push_back(setting);
  return all;
}

}  // namespace gq::core

// rules.cpp - the policy, resolved for the devices that are here.
#include <algorithm>

#include "broker/core/placement.h"

namespace gq::core {

void Core::State::on_policy_loaded(PolicyLoaded& e) { config.policy = std::move(e.policy); }

void Core::State::on_window_timer() {}

}  // namespace gq::core

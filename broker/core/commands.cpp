// commands.cpp - what people switch by hand: hold, release, preempt, update, drain, pause.
#include <algorithm>

#include "broker/core/state.h"

namespace gq::core {

void Core::State::on_job_command(JobCommand& e) { send(CommandAnswer{e.peer, e.request, {}}); }

void Core::State::on_update(UpdateReceived& e) { send(CommandAnswer{e.peer, e.request, {}}); }

void Core::State::on_fleet_command(FleetCommand& e) { send(CommandAnswer{e.peer, e.request, {}}); }

void Core::State::on_drain_timer(Index, std::uint64_t) {}

}  // namespace gq::core

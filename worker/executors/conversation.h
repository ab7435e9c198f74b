// conversation.h - what both children say alike: the answer to hello, lines for people, failures.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "worker/child/frame.h"
#include "worker/executors/backend.h"
#include "worker/executors/failure.h"

namespace gq::exec {

/// Waits for `hello`, opens the device it names and says `ready`. Null: the supervisor was told why, or is gone.
std::unique_ptr<Backend> greet(child::Channel& channel, std::initializer_list<const char*> kinds, std::string& scratch);

void say_log(child::Channel& channel, std::uint64_t id, const std::string& text);
void say_failed(child::Channel& channel, std::uint64_t id, const Failure& failure);

}  // namespace gq::exec

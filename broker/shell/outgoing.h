// outgoing.h - what waits at the commit gate: a message of the core, an answer that is encoded already, or a deed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <variant>

#include "broker/core/effects.h"
#include "broker/shell/token_pool.h"

namespace gq::broker {

/// An answer built from what the core showed: it reveals job state, so it leaves behind all earlier commits like a Send.
struct Frames {
  PeerId peer;
  std::uint64_t request{};
  std::string head, body;
};

struct Outgoing {
  std::variant<core::Message, Frames, std::function<void()>> what;
  SharedBytes bytes;   ///< Assign: the body, when it is at hand; JobNotice: the result, when its step brought it
};

}  // namespace gq::broker

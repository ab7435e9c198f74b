// command_inputs.h - what a command finds in its folder before it starts.
#pragma once

#include "common/vocabulary/errors.h"
#include "worker/runtime/attempt.h"

namespace gq::worker {

/// Its parts and what its parents brought as files below in/, the working directory's snapshot below work/, its checkpoint unpacked.
/// On the disk thread. BAD_INPUT, STORAGE_FULL.
Result<void> lay_out(const Gathered& gathered, const AttemptFolder& folder);

}  // namespace gq::worker

// fsck.h - `gpuq-broker fsck`: is what the data directory and its Redis hold whole? And, when asked, the repair.
#pragma once

#include "broker/shell/options.h"

namespace gq::broker {

/// 0: whole, or everything was repaired. 1: damage is left. Otherwise the exit code of the error that it says.
int run_fsck(const Options& options);

}  // namespace gq::broker

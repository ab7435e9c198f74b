// daemon.h - the broker process put together: keys and their self-test, ports, blobs, the managed Redis, the store, HTTP, signals.
//
// Order matters. The key check proves itself before a public port is bound; ports are bound before the namespace is taken over, so
// that a second broker started by mistake ends with PORT_IN_USE and deposes nobody; nothing is read from a port until the image
// is loaded.
#pragma once

#include "broker/shell/options.h"

namespace gq::broker {

/// Runs until a signal or a failure ends it; what the process exits with.
int run_daemon(const Options& options);

}  // namespace gq::broker

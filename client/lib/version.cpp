// version.cpp - the one place that is compiled with the project's version.
#include "client/lib/version.h"

namespace gq::client {
const char* const kVersion = GPUQ_VERSION;
}  // namespace gq::client

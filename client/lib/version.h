// version.h - what this build calls itself.
#pragma once

namespace gq::client {
extern const char* const kVersion;
}  // namespace gq::client

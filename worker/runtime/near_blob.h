// near_blob.h - a blob of a broker on this machine: its file is copied instead of travelling through a socket.
#pragma once

#include <cstdint>
#include <string>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"

namespace gq::worker {

/// A copy of `source` is made at `target` and verified (SHA-256; a brief name cannot be, and is nobody else's by chance), so it does not
/// matter whose file may be called so here. Not a link: what
/// is handed to jobs must never be the broker's own file. Blocks.
/// Errors: NOT_FOUND (no such file here, not readable, or other content), STORAGE_FULL, INTERNAL. `target` is gone then.
Result<void> take_near_blob(const std::string& source, const std::string& target, const BlobDigest& digest, std::uint64_t total);

}  // namespace gq::worker

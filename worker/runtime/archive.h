// archive.h - a folder as one file and back: ustar with regular files and folders only, so that `tar` opens it too.
// A command's checkpoint folder travels like this. Unpacking writes below the target only: no absolute names, no "..", no links.
#pragma once

#include <string>

#include "common/vocabulary/errors.h"

namespace gq::worker {

Result<void> pack_folder(const std::string& folder, const std::string& archive);
Result<void> unpack_folder(const std::string& archive, const std::string& folder);

}  // namespace gq::worker

// archive.h - a folder as one file and back: ustar with regular files and folders only, so that `tar` opens it too.
// A command's checkpoint folder travels like this, and the packs of a working directory do. Unpacking writes below the target only: no
// absolute names, no "..", no links. Who may run a file survives, times and owners do not.
#pragma once

#include <string>

#include "common/vocabulary/errors.h"

namespace gq::worker {

Result<void> pack_folder(const std::string& folder, const std::string& archive);
/// `what` it is and the code of its damage, for the message. STORAGE_FULL: the target has no room.
struct ArchiveWords {
  const char* what = "the checkpoint archive";
  Errc damaged = Errc::checkpoint_corrupt;
};
Result<void> unpack_folder(const std::string& archive, const std::string& folder, ArchiveWords words = {});

}  // namespace gq::worker

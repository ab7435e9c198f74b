// snapshot.h - a working directory as it is now, in a few pieces named by their content.
//
// A piece (*pack*) is an uncompressed tar of whole files. A large file is a pack of its own; small ones share packs in the order of their
// paths, and where a pack ends depends on names, not on what came before. So a change touches one pack or two, the others are in the
// blob store already, and equal folders are equal bytes whoever packs them: an upload that was cut goes on where it stopped.
// What is in a folder is looked at first and read afterwards, so that a folder over the limit costs a glance.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/vocabulary/errors.h"

namespace gq::cli {

struct SnapshotEntry {
  std::string name;                      ///< relative to the folder
  std::uint64_t bytes{};
  bool is_folder{}, is_program{};
};
struct SnapshotList {
  std::vector<SnapshotEntry> entries;    ///< sorted by name
  std::uint64_t bytes{}, files{};
  std::vector<std::string> links;        ///< left out: they lead outside, nowhere or to a folder
};

/// NOT_FOUND, BAD_INPUT, TOO_LARGE (the biggest folders are named).
Result<SnapshotList> list_snapshot(const std::string& folder);
/// One pack after the other; stops at the first failure, its own or the receiver's. BAD_INPUT: a file that cannot be read.
Result<void> pack_snapshot(const std::string& folder, const SnapshotList& list, const std::function<Result<void>(std::string&& pack)>& each);

}  // namespace gq::cli

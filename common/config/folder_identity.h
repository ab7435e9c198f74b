// folder_identity.h - is the folder at this path, here, the one that somebody saw at that path, there?
#pragma once

#include <string>

namespace gq::config {

/// Says which folder `path` is, on whatever host it is looked at: inode and time of birth, which travel with the file system (a bind
/// mount, NFS, a reboot), and this boot's id and device number, for file systems that tell no birth. Empty: no folder there.
std::string folder_identity(const std::string& path);
/// `theirs` came from folder_identity(). A copy of a folder, at the same path on another host, is another folder.
bool is_same_folder(const std::string& path, const std::string& theirs);

}  // namespace gq::config

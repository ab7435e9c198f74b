#include "common/config/folder_identity.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

namespace gq::config {
namespace {

struct Identity {
  std::string inode, birth, boot, device;   // birth is "-" where the file system has none
};

Identity parse(const std::string& text) {
  Identity out;
  std::istringstream(text) >> out.inode >> out.birth >> out.boot >> out.device;
  return out;
}

}  // namespace

std::string folder_identity(const std::string& path) {
  struct statx s {};
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_SYNC_AS_STAT, STATX_TYPE | STATX_INO | STATX_BTIME, &s) != 0 || !S_ISDIR(s.stx_mode)) return {};
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  const bool has_birth = (s.stx_mask & STATX_BTIME) != 0U && s.stx_btime.tv_sec != 0;
  return std::to_string(s.stx_ino) + ' ' + (has_birth ? std::to_string(s.stx_btime.tv_sec) + '.' + std::to_string(s.stx_btime.tv_nsec) : "-") + ' ' +
         (boot.empty() ? "-" : boot) + ' ' + std::to_string(s.stx_dev_major) + ':' + std::to_string(s.stx_dev_minor);
}

bool is_same_folder(const std::string& path, const std::string& theirs) {
  const Identity here = parse(folder_identity(path));
  const Identity there = parse(theirs);
  if (here.inode.empty() || here.inode != there.inode) return false;
  if (here.birth != "-" && here.birth == there.birth) return true;
  return here.boot != "-" && here.boot == there.boot && here.device == there.device && here.birth == there.birth;
}

}  // namespace gq::config

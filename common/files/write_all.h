// write_all.h - all of it, whatever a write() takes at a time.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace gq::files {

/// False: errno says why, and some of it may be written.
inline bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace gq::files

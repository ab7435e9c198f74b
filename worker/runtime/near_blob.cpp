// near_blob.cpp - see near_blob.h.
#include "worker/runtime/near_blob.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "common/files/write_all.h"
#include "worker/runtime/sha256.h"

namespace gq::worker {
namespace {

struct File {
  int fd{-1};
  explicit File(int opened) : fd(opened) {}
  ~File() {
    if (fd >= 0) ::close(fd);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
};

Error not_here(const std::string& what) { return {Errc::not_found, what, "it is fetched from the broker then"}; }

}  // namespace

Result<void> take_near_blob(const std::string& source, const std::string& target, const BlobDigest& digest, std::uint64_t total) {
  const File from(::open(source.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat info{};
  if (from.fd < 0 || ::fstat(from.fd, &info) != 0) return tl::unexpected(not_here(source + ": " + std::strerror(errno)));
  if (!S_ISREG(info.st_mode) || static_cast<std::uint64_t>(info.st_size) != total) return tl::unexpected(not_here(source + " is another file here"));

  ::unlink(target.c_str());
  const File to(::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0400));
  const auto give_up = [&](Error why) -> Result<void> {
    ::unlink(target.c_str());
    return tl::unexpected(std::move(why));
  };
  const auto disk_error = [&] { return Error{errno == ENOSPC ? Errc::storage_full : Errc::internal, target + ": " + std::strerror(errno), "look at the worker's --scratch folder"}; };
  if (to.fd < 0) return give_up(disk_error());

  Sha256 hash;
  std::string buffer(std::size_t{1} << 20U, '\0');
  std::uint64_t seen = 0;
  for (;;) {
    const ssize_t n = ::read(from.fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return give_up(not_here(source + ": " + std::strerror(errno)));
    if (n == 0) break;
    const std::string_view piece(buffer.data(), static_cast<std::size_t>(n));
    if (!is_brief_name(digest)) hash.add(piece);
    seen += piece.size();
    if (!files::write_all(to.fd, piece)) return give_up(disk_error());
  }
  if (seen != total || (!is_brief_name(digest) && hash.finish() != digest)) return give_up(not_here(source + " has other content here"));
  return {};
}

}  // namespace gq::worker

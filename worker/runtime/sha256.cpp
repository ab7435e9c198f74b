#include "worker/runtime/sha256.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace gq::worker {
namespace {

Error disk_error(const std::string& path) { return {Errc::internal, path + ": " + std::strerror(errno), "look at the worker's --scratch folder"}; }

}  // namespace

Sha256::Sha256() : state_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(state_), EVP_sha256(), nullptr); }
Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(state_)); }
Sha256::Sha256(Sha256&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
Sha256& Sha256::operator=(Sha256&& other) noexcept {
  std::swap(state_, other.state_);
  return *this;
}
void Sha256::add(std::string_view bytes) { EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(state_), bytes.data(), bytes.size()); }
BlobDigest Sha256::finish() {
  BlobDigest digest;
  EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(state_), digest.bytes.data(), nullptr);
  return digest;
}

Result<BlobDigest> sha256_of_file(const std::string& path, std::uint64_t& bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return tl::unexpected(disk_error(path));
  Sha256 hash;
  std::string buffer(1U << 20U, '\0');
  bytes = 0;
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      Error error = disk_error(path);
      ::close(fd);
      return tl::unexpected(std::move(error));
    }
    if (n == 0) break;
    hash.add(std::string_view(buffer.data(), static_cast<std::size_t>(n)));
    bytes += static_cast<std::uint64_t>(n);
  }
  ::close(fd);
  return hash.finish();
}

}  // namespace gq::worker

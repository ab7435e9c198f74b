// blob_files.cpp - write, verify, fsync, rename, fsync the folder.
#include "broker/store/blob_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace gq::store {

namespace {

constexpr std::size_t kReadersMax = 16;
constexpr std::size_t kReadMax = 4U << 20U;

tl::unexpected<Error> io_error(const std::string& what) {
  const int code = errno;
  if (code == ENOSPC || code == EDQUOT || code == EFBIG)
    return fail(Errc::storage_full, what + ": " + std::strerror(code), "free space on the disk of the data directory");
  return fail(Errc::unavailable, what + ": " + std::strerror(code),
              "look at the disk and the permissions of the data directory");
}

/// A new name is durable only once its folder is.
Result<void> sync_folder(const std::filesystem::path& folder) {
  const Descriptor fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return io_error("cannot fsync " + folder.string());
  return {};
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
  check(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1, "OpenSSL has no SHA-256");
}
void Sha256::update(std::string_view bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
BlobDigest Sha256::finish() {
  BlobDigest digest;
  unsigned length = 0;
  EVP_DigestFinal_ex(context_.get(), digest.bytes.data(), &length);
  return digest;
}

BlobDigest digest_of(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}
Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

std::filesystem::path BlobFiles::path_of(const BlobDigest& digest) const {
  const std::string hex = to_string(digest);
  return dir_ / hex.substr(0, 2) / hex.substr(2, 2) / hex;
}
std::filesystem::path BlobFiles::tmp_of(const BlobDigest& digest) const { return dir_ / "tmp" / to_string(digest); }

std::filesystem::path BlobFiles::brief_of(const BlobDigest& digest) const { return dir_ / "brief" / to_string(digest); }

Result<std::vector<BlobFiles::Found>> BlobFiles::open() {
  std::error_code error;
  for (const char* folder : {"tmp", "brief", "near"}) {
    std::filesystem::create_directories(dir_ / folder, error);
    if (error)
      return fail(Errc::unavailable, "cannot make " + dir_.string() + ": " + error.message(),
                  "choose another --data-dir");
    for (const auto& left : std::filesystem::directory_iterator(dir_ / folder, error))
      std::filesystem::remove(left.path(), error);
  }
  std::filesystem::permissions(near_folder(), std::filesystem::perms::owner_all, error);
  if (auto synced = sync_folder(dir_); !synced) return tl::unexpected<Error>(synced.error());

  std::vector<Found> found;
  for (std::filesystem::recursive_directory_iterator at(dir_, error), end; !error && at != end; at.increment(error)) {
    const auto digest = parse_blob_digest(at->path().filename().string());
    if (!digest || at.depth() != 2 || !at->is_regular_file() || at->path() != path_of(*digest)) continue;
    found.push_back({*digest, at->file_size()});
  }
  if (error)
    return fail(Errc::unavailable, "cannot list " + dir_.string() + ": " + error.message(), "look at its permissions");
  return found;
}

Result<std::uint64_t> BlobFiles::begin(const BlobDigest& digest) {
  if (const auto it = uploads_.find(digest); it != uploads_.end()) return it->second.offset;
  Upload upload;
  upload.file = Descriptor(::open(tmp_of(digest).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!upload.file) return io_error("cannot make " + tmp_of(digest).string());
  uploads_.emplace(digest, std::move(upload));
  return std::uint64_t{0};
}

Result<std::uint64_t> BlobFiles::append(const BlobDigest& digest, std::uint64_t offset, std::string_view chunk) {
  const auto it = uploads_.find(digest);
  if (it == uploads_.end())
    return fail(Errc::not_found, "no upload of blob " + to_string(digest) + " is under way", "begin it again");
  Upload& upload = it->second;
  if (offset > upload.offset || offset + chunk.size() <= upload.offset) return upload.offset;   // a gap, or already here
  chunk.remove_prefix(static_cast<std::size_t>(upload.offset - offset));
  std::string_view rest = chunk;
  while (!rest.empty()) {
    const auto n = ::write(upload.file.get(), rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      auto error = io_error("cannot write blob " + to_string(digest));
      abandon(digest);
      return error;
    }
    rest.remove_prefix(static_cast<std::size_t>(n));
  }
  if (!is_brief_name(digest)) upload.hash.update(chunk);
  upload.offset += chunk.size();
  return upload.offset;
}

Result<void> BlobFiles::make_folder_of(const BlobDigest& digest) {
  const auto second = path_of(digest).parent_path(), first = second.parent_path();
  for (const auto& folder : {first, second}) {
    if (::mkdir(folder.c_str(), 0700) == 0) {
      if (auto synced = sync_folder(folder.parent_path()); !synced) return synced;
    } else if (errno != EEXIST) {
      return io_error("cannot make " + folder.string());
    }
  }
  return {};
}

/// Its bytes, then its name.
Result<void> BlobFiles::settle(const Descriptor& file, const std::filesystem::path& from, const BlobDigest& digest) {
  if (::fsync(file.get()) != 0) return io_error("cannot fsync blob " + to_string(digest));
  if (auto made = make_folder_of(digest); !made) return made;
  if (::rename(from.c_str(), path_of(digest).c_str()) != 0) return io_error("cannot rename blob " + to_string(digest));
  return sync_folder(path_of(digest).parent_path());
}

Result<void> BlobFiles::promote(const BlobDigest& digest) {
  const Descriptor file(::open(brief_of(digest).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file) return settle(file, brief_of(digest), digest);
  if (::access(path_of(digest).c_str(), F_OK) == 0) return {};
  return io_error("cannot keep blob " + to_string(digest));
}

Result<void> BlobFiles::finish(const BlobDigest& digest, std::uint64_t size, bool brief) {
  const auto it = uploads_.find(digest);
  if (it == uploads_.end())
    return fail(Errc::not_found, "no upload of blob " + to_string(digest) + " is under way", "begin it again");
  Upload& upload = it->second;
  if (upload.offset < size)   // may still come: the upload stays
    return fail(Errc::bad_message,
                "blob " + to_string(digest) + " has " + std::to_string(upload.offset) + " of " + std::to_string(size) +
                    " bytes",
                "send the rest");
  const auto whole = [&]() -> Result<void> {
    if (const BlobDigest got = is_brief_name(digest) ? digest : upload.hash.finish(); got != digest)
      return fail(Errc::bad_input, "the bytes sent as blob " + to_string(digest) + " hash to " + to_string(got),
                  "send it again; the file may have changed while it was sent");
    if (!brief) return settle(upload.file, tmp_of(digest), digest);
    if (::rename(tmp_of(digest).c_str(), brief_of(digest).c_str()) != 0) return io_error("cannot rename blob " + to_string(digest));
    return {};
  }();
  if (!whole) {
    abandon(digest);
    return whole;
  }
  uploads_.erase(it);
  return {};
}

/// Whoever can write into the folder is this user: what is checked here guards against mistakes.
Result<void> BlobFiles::adopt(const BlobDigest& name, std::uint64_t size, const std::string& file) {
  const std::filesystem::path path = near_folder() / file;
  const Descriptor opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat stat {};
  if (!opened || ::fstat(opened.get(), &stat) != 0 || !S_ISREG(stat.st_mode) || static_cast<std::uint64_t>(stat.st_size) != size || stat.st_nlink != 1) {
    ::unlink(path.c_str());
    return fail(Errc::not_found, "there is no file '" + file + "' of " + std::to_string(size) + " bytes in " + near_folder().string(), "send its bytes");
  }
  if (::rename(path.c_str(), brief_of(name).c_str()) != 0) return io_error("cannot rename blob " + to_string(name));
  return {};
}

void BlobFiles::sweep_near(std::chrono::milliseconds older_than) {
  std::error_code error;
  const auto now = std::filesystem::file_time_type::clock::now();
  for (const auto& left : std::filesystem::directory_iterator(near_folder(), error))
    if (now - left.last_write_time(error) > older_than && !error) std::filesystem::remove(left.path(), error);
}

void BlobFiles::abandon(const BlobDigest& digest) {
  uploads_.erase(digest);
  ::unlink(tmp_of(digest).c_str());
}

Result<BlobChunk> BlobFiles::read(const BlobDigest& digest, std::uint64_t offset, std::size_t length) {
  auto it = reading_.begin();
  while (it != reading_.end() && it->digest != digest) ++it;
  if (it == reading_.end()) {
    Descriptor file(::open(path_of(digest).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!file) file = Descriptor(::open(brief_of(digest).c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat stat {};
    if (!file || ::fstat(file.get(), &stat) != 0)
      return fail(Errc::unknown_blob, "there is no blob " + to_string(digest),
                  "it may have been collected: send it again");
    reading_.push_front({digest, std::move(file), static_cast<std::uint64_t>(stat.st_size)});
    if (reading_.size() > kReadersMax) reading_.pop_back();
  } else {
    reading_.splice(reading_.begin(), reading_, it);
  }
  const Open& open = reading_.front();
  BlobChunk chunk;
  chunk.total = open.size;
  if (offset > open.size)
    return fail(Errc::bad_message,
                "offset " + std::to_string(offset) + " is behind the end of blob " + to_string(digest));
  chunk.bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>(std::min(length, kReadMax), open.size - offset)));
  std::size_t have = 0;
  while (have < chunk.bytes.size()) {
    const auto n = ::pread(open.file.get(), chunk.bytes.data() + have, chunk.bytes.size() - have,
                           static_cast<off_t>(offset + have));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return io_error("cannot read blob " + to_string(digest));
    have += static_cast<std::size_t>(n);
  }
  return chunk;
}

void BlobFiles::remove(const BlobDigest& digest) {
  reading_.remove_if([&](const Open& open) { return open.digest == digest; });
  ::unlink(path_of(digest).c_str());
  ::unlink(brief_of(digest).c_str());
}

}  // namespace gq::store

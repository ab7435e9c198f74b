#include "common/files/shares.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "common/vocabulary/limits.h"

#include "common/files/write_all.h"

namespace gq::files {
namespace {

namespace fs = std::filesystem;

int open_beneath(int root, const char* path, std::uint64_t flags, std::uint64_t mode = 0) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  for (;;) {
    const long fd = ::syscall(SYS_openat2, root, path, &how, sizeof how);
    if (fd >= 0 || (errno != EINTR && errno != EAGAIN)) return static_cast<int>(fd);   // EAGAIN: somebody renames on the way; looked up anew
  }
}

struct Closer {
  int fd;
  ~Closer() {
    if (fd >= 0) ::close(fd);
  }
};

bool is_share_name(std::string_view name) {
  if (name.empty() || name.size() > kLimits.name_chars_max || std::isalnum(static_cast<unsigned char>(name.front())) == 0) return false;
  return std::all_of(name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-'; });
}

Error trouble(const ShareRef& ref, int error) {
  const std::string what = "share " + ref.name + ": '" + ref.path + "' ";
  switch (error) {
    case ENOENT: return {Errc::bad_input, what + "is not there", "is the share the same folder on both sides?"};
    case ELOOP:
    case EXDEV: return {Errc::bad_input, what + "is a symbolic link or lies behind one", "name the file itself; links are never followed out of a share"};
    case ENOTDIR: return {Errc::bad_input, what + "leads through something that is no folder", "check the path"};
    case EACCES:
    case EPERM: return {Errc::bad_input, what + "may not be opened: " + std::strerror(error), "give the worker's user access to it"};
    case ENOSPC:
    case EDQUOT: return {Errc::storage_full, what + "cannot be written: " + std::strerror(error), "free space on the share"};
    default: return {Errc::bad_input, what + "cannot be used: " + std::strerror(error), "check the share on this host"};
  }
}

/// Folders of `path` below `root`, made as needed; an fd of the last one, or -1.
int make_folders(int root, const std::string& path) {
  int at = ::fcntl(root, F_DUPFD_CLOEXEC, 0);
  std::size_t begin = 0;
  for (std::size_t end = 0; at >= 0 && (end = path.find('/', begin)) != std::string::npos; begin = end + 1) {
    const std::string name = path.substr(begin, end - begin);
    const Closer parent{at};
    if (::mkdirat(at, name.c_str(), 0777) != 0 && errno != EEXIST) return -1;
    at = open_beneath(parent.fd, name.c_str(), O_RDONLY | O_DIRECTORY);
  }
  return at;
}

bool copy(int from, int to) {
  std::array<char, 256U << 10U> buffer{};
  for (;;) {
    const ssize_t n = ::read(from, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n == 0;
    if (!write_all(to, {buffer.data(), static_cast<std::size_t>(n)})) return false;
  }
}

}  // namespace

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.front() == '/' || path.back() == '/' || path.size() > 1024 || path.find('\0') != std::string_view::npos) return false;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view component = path.substr(0, end);
    if (component.empty() || component == "." || component == "..") return false;
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return true;
}

std::string share_label(std::string_view name) { return "share=" + std::string(name); }

Result<ShareRef> parse_share_ref(std::string_view text) {
  const std::size_t slash = text.find('/');
  ShareRef ref{std::string(text.substr(0, slash)), slash == std::string_view::npos ? std::string() : std::string(text.substr(slash + 1))};
  if (!is_share_name(ref.name) || !is_safe_path(ref.path))
    return fail(Errc::usage, "'" + std::string(text.substr(0, 120)) + "' names nothing on a share", "share:NAME/path, below the share's folder, without '..'");
  return ref;
}

SharedFile::SharedFile(int fd, std::uint64_t b, std::int64_t m, bool folder)
    : path("/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd)), bytes(b), mtime_ms(m), is_folder(folder), fd_(fd) {}
SharedFile::~SharedFile() { ::close(fd_); }

Result<Shares> Shares::open(const std::vector<std::string>& declared) {
  Shares shares;
  if (declared.size() > kMax) return fail(Errc::over_limit, std::to_string(declared.size()) + " shares, at most " + std::to_string(kMax) + " are known", "share a folder above them");
  for (const std::string& text : declared) {
    const std::size_t equals = text.find('=');
    const std::string name = text.substr(0, equals), folder = equals == std::string::npos ? std::string() : text.substr(equals + 1);
    if (!is_share_name(name) || folder.empty()) return fail(Errc::usage, "--share '" + text + "' is not NAME=DIR", "--share boards=/data/boards");
    if (shares.has(name)) return fail(Errc::usage, "share " + name + " is named twice", "one folder for each name");
    std::error_code ec;
    const std::string real = fs::canonical(folder, ec).string();
    const int fd = ec ? -1 : ::open(real.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail(Errc::usage, "--share " + text + ": " + (ec ? ec.message() : std::strerror(errno)), "name a folder that is there");
    shares.roots_.push_back({name, real, std::shared_ptr<const int>(new int(fd), [](const int* open) {
                               ::close(*open);
                               delete open;
                             })});
    if (const int probe = open_beneath(fd, ".", O_RDONLY | O_DIRECTORY); probe >= 0) ::close(probe);
    else return fail(Errc::usage, "--share needs openat2, which this kernel does not offer: " + std::string(std::strerror(errno)), "Linux 5.6 or later");
  }
  return shares;
}

const Shares::Root* Shares::root_of(std::string_view name) const {
  const auto it = std::find_if(roots_.begin(), roots_.end(), [&](const Root& r) { return r.name == name; });
  return it == roots_.end() ? nullptr : &*it;
}

std::vector<std::string> Shares::names() const {
  std::vector<std::string> out;
  for (const Root& root : roots_) out.push_back(root.name);
  return out;
}

Result<std::pair<const Shares::Root*, ShareRef>> Shares::resolve(std::string_view reference) const {
  auto ref = parse_share_ref(reference);
  if (!ref) return tl::unexpected(Error{Errc::bad_input, ref.error().what, ref.error().next});
  const Root* root = root_of(ref->name);
  if (root == nullptr) return fail(Errc::not_here, "there is no share " + ref->name + " here", "--share " + ref->name + "=DIR, or upload the file instead");
  return std::pair(root, std::move(*ref));
}

Result<SharedFilePtr> Shares::find(std::string_view reference) const {
  auto place = resolve(reference);
  if (!place) return tl::unexpected(place.error());
  const auto& [root, ref] = *place;
  Closer open{open_beneath(*root->fd, ref.path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY)};   // NONBLOCK: a FIFO must not hold us
  if (open.fd < 0) return tl::unexpected(trouble(ref, errno));
  struct stat status {};
  if (::fstat(open.fd, &status) != 0) return tl::unexpected(trouble(ref, errno));
  const bool folder = S_ISDIR(status.st_mode);
  if (!folder && !S_ISREG(status.st_mode)) return fail(Errc::bad_input, "share " + ref.name + ": '" + ref.path + "' is neither a file nor a folder", "name a regular file");
  const std::int64_t mtime_ms = static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1000 + status.st_mtim.tv_nsec / 1'000'000;
  return std::make_shared<const SharedFile>(std::exchange(open.fd, -1), folder ? 0 : static_cast<std::uint64_t>(status.st_size), mtime_ms, folder);
}

Result<void> Shares::put(std::string_view reference, const std::string& from) const {
  auto place = resolve(reference);
  if (!place) return tl::unexpected(place.error());
  const auto& [root, ref] = *place;
  const Closer source{::open(from.c_str(), O_RDONLY | O_CLOEXEC)};
  if (source.fd < 0) return fail(Errc::internal, "cannot read " + from + ": " + std::strerror(errno));
  const Closer folder{make_folders(*root->fd, ref.path)};
  if (folder.fd < 0) return tl::unexpected(trouble(ref, errno));
  const std::string name = ref.path.substr(ref.path.rfind('/') + 1);
  std::uint64_t unique = 0;   // other hosts write here, too
  while (::getrandom(&unique, sizeof unique, 0) != static_cast<ssize_t>(sizeof unique)) {}
  const std::string temporary = ".gpuq-" + std::to_string(unique) + ".part";
  Closer target{open_beneath(folder.fd, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666)};
  bool written = target.fd >= 0 && copy(source.fd, target.fd) && ::fsync(target.fd) == 0;
  written = written && ::renameat(folder.fd, temporary.c_str(), folder.fd, name.c_str()) == 0 && ::fsync(folder.fd) == 0;
  if (written) return {};
  const int error = errno;
  ::unlinkat(folder.fd, temporary.c_str(), 0);
  return tl::unexpected(trouble(ref, error));
}

std::optional<std::string> Shares::reference_to(const std::string& path) const {
  std::error_code ec;
  const std::string real = fs::canonical(path, ec).string();
  if (ec) return std::nullopt;
  const Root* best = nullptr;
  for (const Root& root : roots_)
    if (real.size() > root.folder.size() + 1 && real.compare(0, root.folder.size(), root.folder) == 0 && (real[root.folder.size()] == '/' || root.folder == "/") &&
        (best == nullptr || root.folder.size() > best->folder.size()))
      best = &root;
  if (best == nullptr) return std::nullopt;
  std::string reference = best->name + "/" + real.substr(best->folder == "/" ? 1 : best->folder.size() + 1);
  if (!find(reference)) return std::nullopt;
  return reference;
}

}  // namespace gq::files

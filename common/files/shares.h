// shares.h - folders that several hosts see, by name: "boards/run1/a.png" is run1/a.png beneath whatever folder this host calls boards.
//
// Everything is opened beneath the root by openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS: no "..", no
// absolute path and no symbolic link leads out, whatever somebody swaps meanwhile. Who is handed a file gets a path that names the open
// file itself (/proc/PID/fd/N), so that nothing is looked up a second time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary/errors.h"

namespace gq::files {

/// A relative path that stays below its root: 1 to 1024 bytes, no empty, "." or ".." component, no NUL.
bool is_safe_path(std::string_view path);

struct ShareRef {
  std::string name;           ///< 1..64 letters, digits, '.', '_' or '-', beginning with a letter or digit
  std::string path;           ///< safe, below the share's root
};
/// "NAME/path". USAGE.
Result<ShareRef> parse_share_ref(std::string_view text);

/// A file or folder of a share, open. `path` is good as long as this lives, for every process of the same user.
class SharedFile {
 public:
  SharedFile(int fd, std::uint64_t bytes, std::int64_t mtime_ms, bool is_folder);
  ~SharedFile();
  SharedFile(const SharedFile&) = delete;
  SharedFile& operator=(const SharedFile&) = delete;
  [[nodiscard]] int fd() const { return fd_; }
  std::string path;
  std::uint64_t bytes;        ///< 0 for a folder
  std::int64_t mtime_ms;      ///< UTC
  bool is_folder;

 private:
  int fd_;
};
using SharedFilePtr = std::shared_ptr<const SharedFile>;

class Shares {
 public:
  static constexpr std::size_t kMax = 16;   ///< as many as a job may ask for labels

  Shares() = default;
  /// Each "NAME=DIR". USAGE: no such form, a name twice, no folder there, a kernel without openat2.
  static Result<Shares> open(const std::vector<std::string>& declared);

  /// A regular file or a folder, for reading. NOT_HERE: this host has no such share. BAD_INPUT: it is not there, is no file or folder, or
  /// a symbolic link is on the way.
  [[nodiscard]] Result<SharedFilePtr> find(std::string_view reference) const;
  /// A copy of `from` under that name: folders are made, the file is written beside it, fsynced and renamed over what was there.
  /// NOT_HERE, BAD_INPUT, STORAGE_FULL.
  [[nodiscard]] Result<void> put(std::string_view reference, const std::string& from) const;

  /// "NAME/path" when this absolute path lies below one of the roots and no link is on the way; the deepest root wins.
  [[nodiscard]] std::optional<std::string> reference_to(const std::string& path) const;
  [[nodiscard]] bool has(std::string_view name) const { return root_of(name) != nullptr; }
  [[nodiscard]] bool empty() const { return roots_.empty(); }
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  struct Root {
    std::string name, folder;  ///< folder: canonical
    std::shared_ptr<const int> fd;
  };
  [[nodiscard]] const Root* root_of(std::string_view name) const;
  [[nodiscard]] Result<std::pair<const Root*, ShareRef>> resolve(std::string_view reference) const;
  std::vector<Root> roots_;
};

/// The label by which a worker says that it has a share, and a job that it needs it.
std::string share_label(std::string_view name);

}  // namespace gq::files

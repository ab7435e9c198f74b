#include "worker/runtime/command_inputs.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "common/files/write_all.h"
#include "worker/runtime/archive.h"

namespace gq::worker {
namespace {

namespace fs = std::filesystem;

/// One part as a file below in/, under the name that it is gathered by.
Result<void> lay_part(const wire::Part& part, const std::string& name, const Gathered& gathered, const AttemptFolder& folder) {
  if (!is_safe_path(part.name)) return fail(Errc::bad_input, "'" + part.name.substr(0, 80) + "' is no name for an input file", "use a relative path without '..'");
  std::error_code ec;
  const fs::path target = fs::path(folder.in()) / name;
  fs::create_directories(target.parent_path(), ec);
  if (const auto file = gathered.files.find(name); file != gathered.files.end()) {
    // A copy: the job owns its folder and may write there; cached content must stay what its name says.
    fs::copy_file(file->second->path, target, fs::copy_options::overwrite_existing, ec);
    if (!ec) fs::permissions(target, fs::perms::owner_read | fs::perms::owner_write, ec);
  } else if (const auto shared = gathered.shared.find(name); shared != gathered.shared.end()) {
    fs::create_symlink(shared->second->path, target, ec);   // by reference: the open file itself, whoever renames it
  } else if (part.share.empty()) {
    const int fd = ::open(target.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || !files::write_all(fd, part.bytes)) ec = std::error_code(errno, std::generic_category());
    if (fd >= 0) ::close(fd);
  }
  if (ec) return fail(ec == std::errc::no_space_on_device ? Errc::storage_full : Errc::bad_input, "input " + name + ": " + ec.message());
  return {};
}

}  // namespace

Result<void> lay_out(const Gathered& gathered, const AttemptFolder& folder) {
  for (const Pinned& pack : gathered.snapshot)
    if (auto unpacked = unpack_folder(pack->path, folder.work(), {.what = "a pack of the working directory", .damaged = Errc::bad_input}); !unpacked) return unpacked;
  for (const wire::Part& part : gathered.body.parts) {
    if (part.media == wire::kSnapshotMedia) continue;
    if (auto laid = lay_part(part, part.name, gathered, folder); !laid) return laid;
  }
  for (const auto& [parent, result] : gathered.parents) {
    std::error_code ec;
    fs::create_directory(fs::path(folder.in()) / to_string(parent), ec);   // there, though it brought nothing
    for (const wire::Part& part : result.parts)
      if (auto laid = lay_part(part, to_string(parent) + "/" + part.name, gathered, folder); !laid) return laid;
  }
  if (gathered.resume) return unpack_folder(gathered.resume->path, folder.checkpoint());
  return {};
}

}  // namespace gq::worker

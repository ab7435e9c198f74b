#include "client/cli/snapshot.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "client/cli/ignore.h"
#include "client/cli/pack.h"
#include "client/cli/text.h"
#include "common/vocabulary/limits.h"

namespace gq::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kEntriesSeenMax = 1'000'000;      // a folder with more is not looked through to its end
constexpr std::uint64_t kPackBytesMin = 1U << 20U;
constexpr std::uint64_t kPacksAbout = 128;              // their names travel with the job and are kept with it
constexpr std::uint64_t kBoundaryEvery = 64;            // names, on average
constexpr std::size_t kBiggestNamed = 5;

/// 64-bit FNV-1a: the same everywhere, for ever, because it decides where packs end.
std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 14695981039346656037ULL;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return hash ^ (hash >> 32U);
}

class Lister {
 public:
  explicit Lister(fs::path root) : root_(std::move(root)) {}

  Result<SnapshotList> list() {
    std::error_code error;
    const auto status = fs::status(root_, error);
    if (!fs::exists(status)) return fail(Errc::not_found, "there is no folder " + root_.string(), "check --workdir");
    if (!fs::is_directory(status)) return fail(Errc::bad_input, root_.string() + " is not a folder", "check --workdir");
    real_root_ = fs::canonical(root_, error);
    if (std::ifstream in(root_ / ".gpuqignore", std::ios::binary); in) ignore_.add(std::string(std::istreambuf_iterator<char>(in), {}));
    if (auto walked = walk(); !walked) return tl::unexpected(walked.error());
    if (list_.bytes > kLimits.snapshot_bytes_max || list_.files > kLimits.snapshot_files_max) return too_large();
    std::sort(list_.entries.begin(), list_.entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return std::move(list_);
  }

 private:
  Result<void> walk() {
    std::error_code error;
    fs::recursive_directory_iterator it(root_, error);   // does not follow links: a loop of them is a few links
    for (const fs::recursive_directory_iterator end; !error && it != end; it.increment(error)) {
      if (++seen_ > kEntriesSeenMax) break;
      const std::string name = it->path().lexically_relative(root_).generic_string();
      std::error_code ignored;
      const auto type = it->symlink_status(ignored).type();
      const bool is_folder = type == fs::file_type::directory;
      // A virtual environment is bound to its place and its host, whatever it is called.
      if (ignore_.leaves_out(name, is_folder) || (is_folder && fs::exists(it->path() / "pyvenv.cfg", ignored))) {
        if (is_folder) it.disable_recursion_pending();
        continue;
      }
      if (is_folder) list_.entries.push_back({name, 0, true, false});
      else if (type == fs::file_type::regular || (type == fs::file_type::symlink && leads_inside(it->path()))) add_file(it->path(), name);
      else list_.links.push_back(name);
    }
    if (error) return fail(Errc::bad_input, "cannot look through " + root_.string() + ": " + error.message(), "check its permissions, or name what to leave out in .gpuqignore");
    return {};
  }

  [[nodiscard]] bool leads_inside(const fs::path& link) const {
    std::error_code error;
    const fs::path target = fs::canonical(link, error);
    return !error && fs::is_regular_file(target, error) && !target.lexically_relative(real_root_).generic_string().starts_with("..");
  }

  void add_file(const fs::path& path, const std::string& name) {
    std::error_code error;
    const std::uint64_t bytes = fs::file_size(path, error);
    const bool is_program = (fs::status(path, error).permissions() & fs::perms::owner_exec) != fs::perms::none;
    list_.bytes += error ? 0 : bytes;
    ++list_.files;
    auto& of_folder = by_folder_[name.find('/') == std::string::npos ? name : name.substr(0, name.find('/')) + "/"];
    of_folder.first += error ? 0 : bytes;
    ++of_folder.second;
    if (list_.files <= kLimits.snapshot_files_max) list_.entries.push_back({name, error ? 0 : bytes, false, is_program});
  }

  [[nodiscard]] tl::unexpected<Error> too_large() const {
    const bool by_bytes = list_.bytes > kLimits.snapshot_bytes_max;
    std::vector<std::pair<std::uint64_t, std::string>> biggest;
    for (const auto& [name, size] : by_folder_) biggest.emplace_back(by_bytes ? size.first : size.second, name);
    std::sort(biggest.rbegin(), biggest.rend());
    std::string named;
    for (std::size_t i = 0; i < std::min(kBiggestNamed, biggest.size()); ++i)
      named += (i == 0 ? "" : ", ") + biggest[i].second + " " + (by_bytes ? bytes_text(biggest[i].first) : std::to_string(biggest[i].first));
    const std::string what = by_bytes ? bytes_text(list_.bytes) + ", a copy that travels with a job may have " + bytes_text(kLimits.snapshot_bytes_max)
                                      : std::to_string(list_.files) + " files, a copy that travels with a job may have " + std::to_string(kLimits.snapshot_files_max);
    return tl::unexpected(Error{Errc::too_large, root_.string() + " holds " + (seen_ > kEntriesSeenMax ? "at least " : "") + what + "; the biggest: " + named,
                                "name what the job does not need in " + (root_ / ".gpuqignore").string() + " (lines as in .gitignore), or leave --workdir out where the worker sees this folder"});
  }

  fs::path root_, real_root_;
  Ignore ignore_;
  SnapshotList list_;
  std::size_t seen_{};
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> by_folder_;
};

}  // namespace

Result<SnapshotList> list_snapshot(const std::string& folder) { return Lister(folder).list(); }

Result<void> pack_snapshot(const std::string& folder, const SnapshotList& list, const std::function<Result<void>(std::string&& pack)>& each) {
  const std::uint64_t pack_bytes = std::max(kPackBytesMin, std::bit_ceil(list.bytes / kPacksAbout));
  std::string shared;
  const auto close = [&](std::string& pack) -> Result<void> {
    pack.append(1024, '\0');
    auto taken = each(std::move(pack));
    pack.clear();
    return taken;
  };
  for (const SnapshotEntry& entry : list.entries) {
    std::string bytes;
    if (!entry.is_folder) {
      errno = 0;
      std::ifstream in(fs::path(folder) / entry.name, std::ios::binary);
      bytes.assign(std::istreambuf_iterator<char>(in), {});
      if (!in.is_open() || in.bad())
        return fail(Errc::bad_input, "cannot read " + (fs::path(folder) / entry.name).string() + ": " + std::strerror(errno), "check its permissions, or name it in .gpuqignore");
    }
    std::string own;
    std::string& pack = bytes.size() >= pack_bytes ? own : shared;
    append_tar(pack, entry.name, bytes, {.type = entry.is_folder ? '5' : '0', .mode = entry.is_folder || entry.is_program ? 0755U : 0644U});
    if (&pack == &own || pack.size() >= pack_bytes || (pack.size() >= pack_bytes / 2 && hash_of(entry.name) % kBoundaryEvery == 0))
      if (auto closed = close(pack); !closed) return closed;
  }
  return shared.empty() && !list.entries.empty() ? Result<void>{} : close(shared);   // an empty folder is one, too
}

}  // namespace gq::cli

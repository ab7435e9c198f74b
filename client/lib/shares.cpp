// shares.cpp - inputs and artefacts by reference: what lies on a folder that this host and a worker both see need not travel.
#include "common/files/shares.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client/lib/convert.h"
#include "client/lib/state.h"

namespace gpuq {

using gq::client::to_public;

namespace {

constexpr std::chrono::seconds kServedFor{10};        // how long an answer about who has which share is good
constexpr std::string_view kPrefix = "share:";
constexpr std::size_t kPieceBytes = std::size_t{1} << 20U;

std::string media_of(std::string_view path) {
  if (path.ends_with(".png")) return "image/png";
  if (path.ends_with(".jpg") || path.ends_with(".jpeg")) return "image/jpeg";
  if (path.ends_with(".json")) return "application/json";
  if (path.ends_with(".txt") || path.ends_with(".csv")) return "text/plain";
  return "application/octet-stream";
}

}  // namespace

std::optional<Part> Client::by_reference(const std::string& name, const std::string& path) {
  State& s = *state_;
  const bool is_explicit = path.starts_with(kPrefix);
  std::string reference = is_explicit ? path.substr(kPrefix.size()) : s.shares.reference_to(path).value_or("");
  if (reference.empty() && !is_explicit) return std::nullopt;
  const auto ref = gq::files::parse_share_ref(reference);
  if (!ref) throw to_public(ref.error());
  if (!is_explicit) {   // a worker without the share would leave the job waiting; the bytes can travel
    const std::lock_guard lock(s.shares_mutex);
    if (const auto now = std::chrono::steady_clock::now(); now >= s.served_until) {
      s.served_labels.clear();
      for (const WorkerStatus& worker : workers())
        if (worker.state == "live") s.served_labels.insert(s.served_labels.end(), worker.labels.begin(), worker.labels.end());
      s.served_until = now + kServedFor;
    }
    if (std::find(s.served_labels.begin(), s.served_labels.end(), gq::files::share_label(ref->name)) == s.served_labels.end()) return std::nullopt;
  }
  Part part;
  part.name = name;
  part.media = media_of(ref->path);
  part.share = std::move(reference);
  if (!s.shares.has(ref->name)) return part;   // not seen from here: the worker looks
  auto file = s.shares.find(part.share);
  if (!file) throw to_public(file.error());
  part.size = (*file)->bytes;
  part.share_mtime_ms = (*file)->is_folder ? 0 : (*file)->mtime_ms;
  if ((*file)->is_folder) part.media = "inode/directory";
  return part;
}

void Client::State::read_shared(const Part& part, const std::function<gq::Result<void>(std::uint64_t, std::string_view)>& take) {
  auto file = shares.find(part.share);
  if (!file) throw to_public(file.error());
  if ((*file)->is_folder) throw Error("BAD_INPUT", "part '" + part.name + "' is the folder share:" + part.share, "look at it where the share is");
  std::string piece(kPieceBytes, '\0');
  for (std::uint64_t offset = 0;;) {
    const ssize_t n = ::pread((*file)->fd(), piece.data(), piece.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error("BAD_INPUT", "cannot read share:" + part.share + ": " + std::strerror(errno), "check the share on this host");
    if (n == 0) return;
    if (auto taken = take(offset, std::string_view(piece).substr(0, static_cast<std::size_t>(n))); !taken) throw to_public(taken.error());
    offset += static_cast<std::uint64_t>(n);
  }
}

std::string Client::State::read_shared(const Part& part) {
  std::string bytes;
  read_shared(part, [&](std::uint64_t, std::string_view piece) {
    bytes.append(piece);
    return gq::Result<void>();
  });
  return bytes;
}

}  // namespace gpuq

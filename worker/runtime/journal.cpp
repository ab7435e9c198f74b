#include "worker/runtime/journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "common/files/write_all.h"
#include "common/log.h"
#include "common/wire/codec.h"
#include "worker/runtime/sha256.h"

namespace gq::worker {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kMagic = "GQJ1";
constexpr std::size_t kDigestBytes = 32;
constexpr std::uint64_t kEntryMax = 64U << 20U;

void put(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

/// Takes bytes off the front; past the end everything is empty and `good` is false.
struct Cut {
  std::string_view rest;
  bool good{true};
  std::string_view bytes(std::size_t n) {
    good = good && n <= rest.size();
    const std::string_view out = good ? rest.substr(0, n) : std::string_view();
    if (good) rest.remove_prefix(n);
    return out;
  }
  std::uint64_t number(int n) {
    std::uint64_t out = 0;
    const std::string_view raw = bytes(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < raw.size(); ++i) out |= std::uint64_t{static_cast<unsigned char>(raw[i])} << (8 * i);
    return out;
  }
  std::string_view counted() { return bytes(number(4)); }
};

std::string digest_of(std::string_view bytes) {
  Sha256 hash;
  hash.add(bytes);
  const BlobDigest digest = hash.finish();
  return {reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()};
}

Result<void> write_durably(const std::string& folder, const std::string& path, const std::string& bytes) {
  const auto broken = [&](int fd) -> Result<void> {
    const int why = errno;
    if (fd >= 0) ::close(fd);
    return fail(why == ENOSPC ? Errc::storage_full : Errc::internal, path + ": " + std::strerror(why), "look at the worker's --scratch folder");
  };
  const std::string temporary = path + ".tmp";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return broken(fd);
  if (!files::write_all(fd, bytes) || ::fsync(fd) != 0) return broken(fd);
  ::close(fd);
  if (::rename(temporary.c_str(), path.c_str()) != 0) return broken(-1);
  const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0 || ::fsync(directory) != 0) return broken(directory);
  ::close(directory);
  return {};
}

}  // namespace

std::string encode_entry(const Journal::Entry& entry) {
  std::string out(kMagic);
  put(out, static_cast<std::uint64_t>(entry.written.ms), 8);
  const std::string head = wire::encode(wire::Ended{{entry.what.end}}, 0);
  put(out, head.size(), 4);
  out += head;
  put(out, entry.what.here.size(), 4);
  for (const BlobDigest& blob : entry.what.here) out.append(reinterpret_cast<const char*>(blob.bytes.data()), blob.bytes.size());
  put(out, entry.what.body.size(), 4);
  out += entry.what.body;
  return out + digest_of(out);
}

std::optional<Journal::Entry> decode_entry(std::string_view bytes) {
  if (bytes.size() < kMagic.size() + kDigestBytes) return std::nullopt;
  const std::string_view content = bytes.substr(0, bytes.size() - kDigestBytes);
  if (content.substr(0, kMagic.size()) != kMagic || digest_of(content) != bytes.substr(content.size())) return std::nullopt;
  Cut cut{content.substr(kMagic.size())};
  Journal::Entry entry;
  entry.written.ms = static_cast<std::int64_t>(cut.number(8));
  auto head = wire::decode(cut.counted());
  const std::uint64_t blobs = cut.number(4);
  for (std::uint64_t i = 0; i < blobs && cut.good; ++i) {
    const std::string_view raw = cut.bytes(kDigestBytes);
    BlobDigest& digest = entry.what.here.emplace_back();
    std::copy(raw.begin(), raw.end(), reinterpret_cast<char*>(digest.bytes.data()));
  }
  entry.what.body = cut.counted();
  if (!cut.good || !cut.rest.empty() || !head) return std::nullopt;
  auto* ended = std::get_if<wire::Ended>(&head->message);
  if (ended == nullptr || ended->items.size() != 1) return std::nullopt;
  entry.what.end = std::move(ended->items[0]);
  return entry;
}

Journal::Journal(asio::io_context& io, asio::thread_pool& disk, std::string folder) : io_(io), disk_(disk), folder_(std::move(folder)) {
  ::mkdir(folder_.c_str(), 0700);
}

std::string Journal::path_of(const wire::Grant& grant) const {
  return folder_ + "/" + to_string(grant.job) + "-" + std::to_string(grant.attempt) + "-" + std::to_string(grant.nonce);
}

std::vector<Journal::Entry> Journal::read(WallTime now, Duration keep) {
  std::vector<Entry> out;
  std::error_code ec;
  for (const auto& file : fs::directory_iterator(folder_, ec)) {
    std::error_code ignored;
    const bool readable = file.is_regular_file(ignored) && file.file_size(ignored) <= kEntryMax && !ignored;
    std::ifstream in(file.path(), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(in), {});
    std::optional<Entry> entry = readable && file.path().extension() != ".tmp" ? decode_entry(bytes) : std::nullopt;
    const bool current = entry && now.ms - entry->written.ms <= keep / 1ms;
    if (current) {
      out.push_back(std::move(*entry));
      continue;
    }
    if (file.path().extension() != ".tmp")
      log::warn("journal_entry_dropped", {{"file", file.path().filename().string()}, {"reason", entry ? "older than the orphan timeout" : "damaged"}});
    fs::remove(file.path(), ignored);
  }
  std::sort(out.begin(), out.end(), [](const Entry& a, const Entry& b) { return std::pair(a.written, a.what.end.grant) < std::pair(b.written, b.what.end.grant); });
  return out;
}

void Journal::write(Entry entry, std::function<void(Result<void>)> done) {
  asio::post(disk_, [this, path = path_of(entry.what.end.grant), bytes = encode_entry(entry), done = std::move(done)]() mutable {
    asio::post(io_, [done = std::move(done), written = write_durably(folder_, path, bytes)] { done(written); });
  });
}

void Journal::forget(const wire::Grant& grant) {
  asio::post(disk_, [path = path_of(grant)] { ::unlink(path.c_str()); });
}

}  // namespace gq::worker

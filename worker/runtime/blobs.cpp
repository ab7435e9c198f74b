// blobs.cpp - the cache, and what travels for it; see blobs.h. What the link tells is in blobs_link.cpp.
#include "worker/runtime/blobs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "common/files/write_all.h"
#include "worker/runtime/near_blob.h"
#include "worker/runtime/transfers.h"

namespace gq::worker {
namespace {

constexpr std::size_t kWindow = 4;   // chunks under way per transfer
namespace fs = std::filesystem;

Error disk_error(const std::string& what) {
  return {errno == ENOSPC ? Errc::storage_full : Errc::internal, what + ": " + std::strerror(errno), "look at the worker's --scratch folder"};
}

bool sync_path(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool synced = ::fsync(fd) == 0;
  ::close(fd);
  return synced;
}

}  // namespace

Blobs::Blobs(asio::io_context& io, asio::thread_pool& disk, SendFn send, std::string folder, std::uint64_t cache_bytes)
    : io_(io), disk_(disk), send_(std::move(send)), folder_(std::move(folder)), cache_bytes_(cache_bytes), alive_(std::make_shared<bool>(true)) {
  std::error_code ignored;
  fs::create_directories(folder_, ignored);
  scan();
}
Blobs::~Blobs() = default;

std::string Blobs::path_of(const BlobDigest& digest) const { return folder_ + "/" + to_string(digest); }

void Blobs::scan() {
  std::vector<std::pair<fs::file_time_type, BlobDigest>> found;
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(folder_, ec)) {
    const auto digest = parse_blob_digest(entry.path().filename().string());
    if (!digest) {
      fs::remove(entry.path(), ec);   // a transfer that an earlier worker did not finish
      continue;
    }
    found.emplace_back(entry.last_write_time(ec), *digest);
  }
  std::sort(found.begin(), found.end());
  for (const auto& [time, digest] : found) remember(digest, fs::file_size(path_of(digest), ec));
  // Nothing is evicted yet: what the journal needs is pinned first.
}

Pinned Blobs::remember(const BlobDigest& digest, std::uint64_t bytes) {
  Entry& entry = cache_[digest];
  if (!entry.file) {
    entry.file = std::make_shared<CachedFile>(CachedFile{path_of(digest), digest, bytes});
    held_bytes_ += bytes;
  }
  entry.used = ++uses_;
  return entry.file;
}

void Blobs::evict() {
  while (held_bytes_ > cache_bytes_) {
    auto oldest = cache_.end();
    for (auto it = cache_.begin(); it != cache_.end(); ++it)
      if (it->second.file.use_count() == 1 && (oldest == cache_.end() || it->second.used < oldest->second.used)) oldest = it;
    if (oldest == cache_.end()) return;   // all in use: over for a while
    held_bytes_ -= oldest->second.file->bytes;
    ::unlink(oldest->second.file->path.c_str());
    cache_.erase(oldest);
  }
}

/// What has a name and no digest is asked for once: it leaves when nobody holds it any more.
void Blobs::forget_brief() {
  BlobDigest first;
  std::copy(kBriefName.begin(), kBriefName.end(), first.bytes.begin());
  for (auto it = cache_.lower_bound(first); it != cache_.end() && is_brief_name(it->first);) {
    if (it->second.file.use_count() != 1) {
      ++it;
      continue;
    }
    held_bytes_ -= it->second.file->bytes;
    ::unlink(it->second.file->path.c_str());
    it = cache_.erase(it);
  }
}

// ---- fetching

void Blobs::fetch(const BlobDigest& digest, Fetched done) {
  if (const auto it = cache_.find(digest); it != cache_.end()) {
    it->second.used = ++uses_;
    asio::post(io_, [done = std::move(done), file = Pinned(it->second.file)] { done(file); });
    return;
  }
  std::shared_ptr<Get>& get = gets_[digest];
  if (!get) {
    get = std::make_shared<Get>();
    get->digest = digest;
    get->temporary = folder_ + "/tmp-" + std::to_string(next_temporary_++);
    get->fd = ::open(get->temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (get->fd < 0) {
      Error error = disk_error(get->temporary);
      gets_.erase(digest);
      asio::post(io_, [done = std::move(done), error = std::move(error)] { done(tl::unexpected(error)); });
      return;
    }
  }
  get->waiting.push_back(std::move(done));
  pump(get);
}

void Blobs::pump(const std::shared_ptr<Get>& get) {
  while (up_ && !get->taking_near && get->ids.size() < (get->total ? kWindow : 1) && (!get->total || get->asked < *get->total)) {
    const std::uint64_t id = next_id_++;
    if (!send_(wire::BlobGet{get->digest, get->asked, static_cast<std::uint32_t>(chunk_bytes_), near_ && !get->total}, id, {})) return;
    get->asked += chunk_bytes_;
    get->ids.push_back(id);
    get_ids_[id] = get;
  }
}

void Blobs::got(const std::shared_ptr<Get>& get, const wire::BlobGetReply& reply, std::string_view body) {
  get->silent = 0;
  get->total = reply.total;
  if (!reply.path.empty() && get->received == 0) return take_near(get, reply.path);
  if (reply.offset != get->received || (body.empty() && reply.total > get->received)) {   // an answer from before a restart
    for (const std::uint64_t id : get->ids) get_ids_.erase(id);
    get->ids.clear();
    get->asked = get->received;
    return pump(get);
  }
  if (!files::write_all(get->fd, body)) return finish(get, tl::unexpected(disk_error("fetching blob " + to_string(get->digest).substr(0, 12))));
  if (!is_brief_name(get->digest)) get->hash.add(body);
  get->received += body.size();
  if (body.size() != chunk_bytes_ && get->received < *get->total && get->ids.empty()) get->asked = get->received;
  if (get->received < *get->total) return pump(get);
  if (!is_brief_name(get->digest) && get->hash.finish() != get->digest)
    return finish(get, fail(Errc::unknown_blob, "blob " + to_string(get->digest).substr(0, 12) + " arrived with other content than its name says", "the broker's disk may be damaged: stop it and run there: gpuq fsck --deep"));
  ::fchmod(get->fd, 0400);
  if (::rename(get->temporary.c_str(), path_of(get->digest).c_str()) != 0) return finish(get, tl::unexpected(disk_error("keeping a fetched blob")));
  finish(get, remember(get->digest, get->received));
}

void Blobs::take_near(const std::shared_ptr<Get>& get, const std::string& path) {
  get->taking_near = true;
  asio::post(disk_, [this, alive = std::weak_ptr<bool>(alive_), get, path, target = get->temporary + "-near", total = *get->total] {
    Result<void> taken = take_near_blob(path, target, get->digest, total);
    asio::post(io_, [this, alive, get, target, total, taken = std::move(taken)] {
      if (alive.expired()) return;
      get->taking_near = false;
      if (taken && ::rename(target.c_str(), path_of(get->digest).c_str()) == 0) {
        ::unlink(get->temporary.c_str());
        return finish(get, remember(get->digest, total));
      }
      ::unlink(target.c_str());
      if (!taken && taken.error().code == Errc::storage_full) return finish(get, tl::unexpected(taken.error()));
      near_ = false;   // another machine behind a tunnel, another user, another file system's view
      get->asked = 0;
      pump(get);
    });
  });
}

void Blobs::finish(const std::shared_ptr<Get>& get, Result<Pinned> result) {
  if (!result) ::unlink(get->temporary.c_str());
  for (const std::uint64_t id : get->ids) get_ids_.erase(id);
  const std::vector<Fetched> waiting = std::move(get->waiting);
  gets_.erase(get->digest);
  for (const Fetched& done : waiting) done(result);
  evict();
}

// ---- storing

/// A copy, not a link: the writer may still hold the file open, and content under a digest must never change.
void Blobs::take_in(const std::string& path, bool durable, Stored done) {
  const std::string temporary = folder_ + "/tmp-" + std::to_string(next_temporary_++);
  asio::post(disk_, [this, alive = std::weak_ptr<bool>(alive_), path, temporary, durable, done = std::move(done)]() mutable {
    std::error_code ec;
    Result<BlobDigest> digest = fail(Errc::internal, "not a file: " + path);
    std::uint64_t bytes = 0;
    if (fs::is_regular_file(fs::symlink_status(path, ec)) && fs::copy_file(path, temporary, fs::copy_options::overwrite_existing, ec) && !ec) {
      fs::permissions(temporary, fs::perms::owner_read, ec);
      digest = sha256_of_file(temporary, bytes);
      if (digest && durable && !sync_path(temporary)) digest = tl::unexpected(disk_error(temporary));
    } else if (ec) {
      digest = fail(ec == std::errc::no_space_on_device ? Errc::storage_full : Errc::internal, path + ": " + ec.message(), "look at the worker's --scratch folder");
    }
    asio::post(io_, [this, alive, temporary, durable, digest = std::move(digest), bytes, done = std::move(done)]() mutable {
      if (alive.expired()) return;
      if (!digest) {
        ::unlink(temporary.c_str());
        return done(tl::unexpected(digest.error()));
      }
      if (::rename(temporary.c_str(), path_of(*digest).c_str()) != 0) return done(tl::unexpected(disk_error(temporary)));
      const Pinned file = remember(*digest, bytes);
      if (!durable) return done(file);
      asio::post(disk_, [this, folder = folder_, file, done = std::move(done)]() mutable {   // the name, too
        sync_path(folder);
        asio::post(io_, [file, done = std::move(done)] { done(file); });
      });
    });
  });
}

Result<Pinned> Blobs::take_in_bytes(std::string_view bytes, bool durable) {
  Sha256 hash;
  hash.add(bytes);
  const BlobDigest digest = hash.finish();
  const std::string temporary = folder_ + "/tmp-" + std::to_string(next_temporary_++);
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0400);
  bool written = fd >= 0 && files::write_all(fd, bytes);
  if (written && durable) written = ::fsync(fd) == 0;
  if (written) written = ::rename(temporary.c_str(), path_of(digest).c_str()) == 0;
  if (written && durable) sync_path(folder_);
  Error error = disk_error(temporary);
  if (fd >= 0) ::close(fd);
  if (written) return Pinned(remember(digest, bytes.size()));
  ::unlink(temporary.c_str());
  return tl::unexpected(std::move(error));
}

void Blobs::store_file(const std::string& path, Stored done) {
  take_in(path, false, [this, done = std::move(done)](Result<Pinned> file) mutable {
    if (file) begin_put(std::move(*file), std::move(done));
    else done(std::move(file));
  });
}

void Blobs::store_bytes(std::string bytes, Stored done) {
  Result<Pinned> file = take_in_bytes(bytes, false);
  if (file) return begin_put(std::move(*file), std::move(done));
  asio::post(io_, [done = std::move(done), file = std::move(file)] { done(file); });
}

void Blobs::keep_file(const std::string& path, Stored done) { take_in(path, true, std::move(done)); }
void Blobs::keep_bytes(std::string bytes, Stored done) {
  asio::post(io_, [done = std::move(done), file = take_in_bytes(bytes, true)] { done(file); });
}

Pinned Blobs::find(const BlobDigest& digest) const {
  const auto it = cache_.find(digest);
  return it == cache_.end() ? nullptr : Pinned(it->second.file);
}

bool Blobs::store_again(const BlobDigest& digest, Stored done) {
  const auto it = cache_.find(digest);
  if (it == cache_.end()) return false;
  begin_put(it->second.file, std::move(done));
  return true;
}

void Blobs::begin_put(Pinned file, Stored done) {
  std::shared_ptr<Put>& put = puts_[file->digest];
  if (!put) {
    put = std::make_shared<Put>();
    put->file = file;
    put->fd = ::open(file->path.c_str(), O_RDONLY | O_CLOEXEC);
    if (put->fd < 0) {
      Error error = disk_error(file->path);
      puts_.erase(file->digest);
      return done(tl::unexpected(std::move(error)));
    }
  }
  put->waiting.push_back(std::move(done));
  pump(put);
}

void Blobs::pump(const std::shared_ptr<Put>& put) {
  if (!up_) return;
  const auto send = [&](std::uint64_t offset, std::string_view chunk) {
    const std::uint64_t id = next_id_++;
    if (!send_(wire::BlobPut{put->file->digest, put->file->bytes, offset}, id, chunk)) return false;
    put->ids.push_back(id);
    put_ids_[id] = put;
    return true;
  };
  if (!put->asked_where) {
    put->asked_where = send(0, {});
    return;
  }
  std::string chunk;
  while (put->answered_where && put->ids.size() < kWindow && put->sent < put->file->bytes) {
    chunk.resize(static_cast<std::size_t>(std::min(chunk_bytes_, put->file->bytes - put->sent)));
    const ssize_t n = ::pread(put->fd, chunk.data(), chunk.size(), static_cast<off_t>(put->sent));
    if (n != static_cast<ssize_t>(chunk.size())) return finish(put, tl::unexpected(disk_error(put->file->path)));
    if (!send(put->sent, chunk)) return;
    put->sent += chunk.size();
  }
}

void Blobs::stored(const std::shared_ptr<Put>& put, const wire::BlobPutReply& reply) {
  put->silent = 0;
  if (reply.complete) return finish(put, put->file);
  // Resume, or a rewind; plain progress never reaches behind what was sent.
  if (!put->answered_where || (put->ids.empty() && reply.next != put->sent)) put->sent = std::min(reply.next, put->file->bytes);
  put->answered_where = true;
  pump(put);
}

void Blobs::finish(const std::shared_ptr<Put>& put, Result<Pinned> result) {
  for (const std::uint64_t id : put->ids) put_ids_.erase(id);
  const std::vector<Stored> waiting = std::move(put->waiting);
  puts_.erase(put->file->digest);
  for (const Stored& done : waiting) done(result);
  evict();
}

}  // namespace gq::worker

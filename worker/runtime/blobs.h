// blobs.h - content from and to the broker's blob store, over the worker's own connection; a cache of what was fetched or stored.
//
// Chunks travel with a small window, resume after a lost link, and are verified (SHA-256) before anyone may open the file. A cached
// file is pinned while somebody holds its shared_ptr; the least recently used ones leave when the cache is over its bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/net/asio.h"
#include "common/vocabulary/errors.h"
#include "common/wire/messages.h"
#include "worker/runtime/sha256.h"

namespace gq::worker {

struct CachedFile {
  std::string path;
  BlobDigest digest;
  std::uint64_t bytes{};
};
using Pinned = std::shared_ptr<const CachedFile>;

class Blobs {
 public:
  using SendFn = std::function<bool(wire::Message message, std::uint64_t id, std::string_view body)>;   ///< false: no link now
  using Fetched = std::function<void(Result<Pinned>)>;
  using Stored = std::function<void(Result<Pinned>)>;
  /// `disk` runs what would hold up the loop: hashing, copying, removing.
  Blobs(asio::io_context& io, asio::thread_pool& disk, SendFn send, std::string folder, std::uint64_t cache_bytes);
  ~Blobs();

  void fetch(const BlobDigest& digest, Fetched done);
  /// Copies the file into the cache first (link when possible), so the caller may change or remove it at once after `done`.
  void store_file(const std::string& path, Stored done);
  void store_bytes(std::string bytes, Stored done);
  /// Into the cache only, durably: the broker gets it later, by store_again().
  void keep_file(const std::string& path, Stored done);
  void keep_bytes(std::string bytes, Stored done);
  [[nodiscard]] Pinned find(const BlobDigest& digest) const;   ///< null: no copy here
  /// Sends a cached blob again; false when there is no copy.
  bool store_again(const BlobDigest& digest, Stored done);

  /// `near`: the broker may be on this machine, so its files are asked for by name first (near_blob.h).
  void link_up(std::uint64_t chunk_bytes, bool near);
  void link_down();
  /// Answers whose request id has this bit are ours.
  static constexpr std::uint64_t kIdBit = std::uint64_t{1} << 63U;
  void received(std::uint64_t id, const wire::Message& message, std::string_view body);
  void tick();                                     ///< about once per second: asks again for what was not answered

 private:
  struct Get;
  struct Put;
  struct Entry { std::shared_ptr<CachedFile> file; std::uint64_t used{}; };
  void pump(const std::shared_ptr<Get>& get);
  void pump(const std::shared_ptr<Put>& put);
  void got(const std::shared_ptr<Get>& get, const wire::BlobGetReply& reply, std::string_view body);
  void stored(const std::shared_ptr<Put>& put, const wire::BlobPutReply& reply);
  void take_near(const std::shared_ptr<Get>& get, const std::string& path);
  void finish(const std::shared_ptr<Get>& get, Result<Pinned> result);
  void finish(const std::shared_ptr<Put>& put, Result<Pinned> result);
  void begin_put(Pinned file, Stored done);
  void take_in(const std::string& path, bool durable, Stored done);
  Result<Pinned> take_in_bytes(std::string_view bytes, bool durable);
  Pinned remember(const BlobDigest& digest, std::uint64_t bytes);
  void evict();
  void forget_brief();
  void scan();
  [[nodiscard]] std::string path_of(const BlobDigest& digest) const;

  asio::io_context& io_;
  asio::thread_pool& disk_;
  SendFn send_;
  std::string folder_;
  std::uint64_t cache_bytes_;
  std::uint64_t held_bytes_{};
  std::uint64_t uses_{};
  std::uint64_t chunk_bytes_{256U << 10U};
  std::uint64_t next_id_{kIdBit | 1U};
  std::uint64_t next_temporary_{1};
  bool up_{};
  bool near_{};                  ///< until a file was not there
  std::map<BlobDigest, Entry> cache_;
  std::map<BlobDigest, std::shared_ptr<Get>> gets_;
  std::map<std::uint64_t, std::shared_ptr<Get>> get_ids_;
  std::map<BlobDigest, std::shared_ptr<Put>> puts_;
  std::map<std::uint64_t, std::shared_ptr<Put>> put_ids_;
  std::shared_ptr<bool> alive_;
};

}  // namespace gq::worker

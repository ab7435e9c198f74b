// blobs.h - large bytes by content: files named by their SHA-256, on disk (file and directory fsynced) before anyone may name them.
//
// Layout: DIR/ab/cd/<64 hex> for whole blobs, DIR/tmp/<64 hex> while one is being uploaded, DIR/brief/<64 hex> for those of jobs with
// durability none: never fsynced, gone with the broker, and moved to their place when somebody wants them durable. DIR/near: where clients of
// this user on this machine put whole brief ones for adopt(). Those may have a name instead of a digest (is_brief_name); nothing verifies them. A name is always the hex of a parsed
// BlobDigest, so no text from outside ever becomes part of a path.
// Invariant: a file under its final name is whole and hashes to its name; a crash leaves at most files in tmp/ and brief/, swept at open().
//
// All calls are made on the loop's thread and call back there, never from inside the call; file I/O and hashing happen on one
// worker thread of the store's own, in call order, because an fsync on the broker's loop would stall everybody.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/core/record.h"
#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"
#include "common/vocabulary/limits.h"
#include "common/vocabulary/units.h"

namespace boost::asio {
class io_context;
}

namespace gq::store {

struct BlobOptions {
  std::filesystem::path dir;                       ///< made when missing
  std::uint64_t quota_bytes = 64ULL << 30U;        ///< whole blobs plus uploads under way
  std::uint64_t blob_bytes_max = kLimits.blob_bytes_max;
  std::chrono::milliseconds grace = std::chrono::hours(1);           ///< unnamed blobs live this long after upload or last unreference
  std::chrono::milliseconds brief_grace = std::chrono::seconds(10);  ///< likewise, those that are not durable
  std::chrono::milliseconds near_patience = std::chrono::minutes(10);  ///< files put near that nobody spoke of are dropped
  std::chrono::milliseconds upload_patience = std::chrono::hours(1); ///< an upload untouched this long is dropped
  std::function<Instant()> clock;                  ///< empty = the steady clock
};

struct BlobStatistics {
  std::uint64_t blobs{}, bytes{}, referenced{}, referenced_bytes{}, uploads{}, upload_bytes{}, quota_bytes{};
  std::uint64_t stored{}, collected{}, bytes_in{}, bytes_out{}, digest_mismatches{};  ///< since open()
};

struct UploadState {
  std::uint64_t offset{};   ///< send from here
  bool complete{};          ///< it is stored: nothing to send
};
struct BlobChunk {
  std::string bytes;
  std::uint64_t total{};    ///< size of the whole blob
};

class BlobStore {
 public:
  virtual ~BlobStore() = default;   ///< waits for the worker's current piece of work

  /// Make the folders, sweep tmp/, count what is there.
  virtual void open(std::function<void(Result<void>)> done) = 0;

  // ---- upload: begin, append…, finish. Any number of senders may upload the same digest; each byte is written once.
  // `brief`: this sender does not need it on disk. One who does gets it there, also when it was uploaded briefly before.
  /// Where to go on. TOO_LARGE, STORAGE_FULL (with the figures), BAD_MESSAGE (another size was announced for this digest).
  virtual void begin_upload(BlobDigest digest, std::uint64_t size, std::function<void(Result<UploadState>)> done, bool brief = false) = 0;
  /// Bytes at `offset`. Those already here are skipped; a gap is answered with the offset to send from (nothing is written).
  virtual void append(BlobDigest digest, std::uint64_t offset, std::string chunk, std::function<void(Result<UploadState>)> done, bool brief = false) = 0;
  /// Verify, fsync, rename, fsync the directory. A mismatch (BAD_INPUT) removes what was uploaded; too few bytes: BAD_MESSAGE.
  virtual void finish(BlobDigest digest, std::function<void(Result<void>)> done, bool brief = false) = 0;
  virtual void abandon(BlobDigest digest) = 0;
  /// The file NEAR/`file` is this brief blob. NOT_FOUND (no such file, or not of that size), BAD_MESSAGE (no file name), else as begin_upload.
  virtual void adopt(BlobDigest name, std::uint64_t size, const std::string& file, std::function<void(Result<void>)> done) = 0;
  [[nodiscard]] virtual std::filesystem::path near_folder() const = 0;
  /// All of the above for bytes at hand.
  virtual void put(std::string bytes, std::function<void(Result<BlobDigest>)> done) = 0;

  // ---- reading
  virtual void read(BlobDigest digest, std::uint64_t offset, std::size_t length, std::function<void(Result<BlobChunk>)> done) = 0;
  [[nodiscard]] virtual bool contains(const BlobDigest& digest) const = 0;   ///< whole and durable
  [[nodiscard]] virtual bool holds(const BlobDigest& digest) const = 0;      ///< whole
  [[nodiscard]] virtual std::optional<std::uint64_t> size_of(const BlobDigest& digest) const = 0;
  /// For those who share this machine's file system (read only!).
  [[nodiscard]] virtual std::filesystem::path path_of(const BlobDigest& digest) const = 0;

  // ---- who names what. Fed with everything that is committed; a blob that no record names is collected after the grace.
  virtual void load(const core::Image& image) = 0;      ///< replaces all counts
  virtual void observe(const core::Mutation& mutation) = 0;
  [[nodiscard]] virtual std::uint32_t references(const BlobDigest& digest) const = 0;
  /// Remove what is unnamed for longer than the grace, some at a time; `done` gets how many. Call it every ten seconds or so: brief ones are
  /// looked at each time, all of them once a minute.
  virtual void collect(std::function<void(std::size_t removed)> done) = 0;

  [[nodiscard]] virtual BlobStatistics statistics() const = 0;
};

std::unique_ptr<BlobStore> make_blob_store(boost::asio::io_context& io, BlobOptions options);

/// SHA-256 of bytes at hand.
BlobDigest digest_of(std::string_view bytes);

}  // namespace gq::store

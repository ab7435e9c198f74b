// prepare.h - a JobSpec made ready for the wire, in the caller's thread: checked, encoded, hashed, large parts set aside.
#pragma once

#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/units.h"
#include "common/wire/messages.h"

namespace gq::client {

/// Bytes on their way into the blob store: in memory, or a file that is read as it goes.
struct BlobSource {
  BlobDigest digest;
  std::uint64_t total{};
  std::string bytes;
  int fd{-1};
  BlobSource() = default;
  BlobSource(const BlobSource&) = delete;
  BlobSource& operator=(const BlobSource&) = delete;
  ~BlobSource();
  [[nodiscard]] Result<std::string> read(std::uint64_t offset, std::size_t bytes_max) const;
};
using BlobSourcePtr = std::shared_ptr<const BlobSource>;

/// One call of submit: answered as a whole.
struct Batch {
  std::vector<gpuq::Submitted> answers;
  std::size_t left{};
  std::promise<std::vector<gpuq::Submitted>> promise;
  std::vector<JobId> jobs;
  Instant deadline{};
  bool done{};
  std::optional<Error> last;     ///< why it is not answered yet, for the one who times out
};

struct Prepared {
  wire::SubmitItem item;
  std::string payload;           ///< encoded job body
  std::vector<BlobSourcePtr> uploads;
  std::size_t uploads_left{};
  std::uint32_t sends{};         ///< how often it went out; bounds re-uploads
  std::shared_ptr<Batch> batch;
  std::size_t index{};           ///< in the batch
  [[nodiscard]] std::size_t wire_bytes() const;
};
using PreparedPtr = std::shared_ptr<Prepared>;

Result<PreparedPtr> prepare(gpuq::JobSpec&& spec);
/// Equal specs have equal digests; the id is no part of it.
Digest128 digest_of(const wire::SubmitItem& item, std::string_view payload);

JobId new_job_id();
BlobDigest sha256(std::string_view bytes);
Result<BlobSourcePtr> open_blob_file(const std::string& path);   ///< hashed by reading it once
BlobSourcePtr blob_of(std::string bytes);
BlobSourcePtr brief_blob_of(std::string bytes);                   ///< with a name of its own instead of a digest (is_brief_name)

/// Incremental SHA-256, for what is read or received in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::string_view bytes);
  BlobDigest finish();
 private:
  void* context_;
};

}  // namespace gq::client

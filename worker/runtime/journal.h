// journal.h - how long jobs ended, on disk until the broker has taken it: SCRATCH/journal/JOB-ATTEMPT-NONCE.
//
// An entry is written (fsync of file and folder) before its end is said, and removed at its verdict; so a worker that is killed in
// between says it again when it is back, instead of hours of work running twice. The result's blobs lie in the cache, fsynced.
//   "GQJ1" | u64 wall ms | u32 n, head (an Ended with one item, as on the wire) | u32 n, n x 32 B blobs only here | u32 n, body | SHA-256
// little endian. A torn or altered file is dropped: the job then runs again.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/net/asio.h"
#include "worker/session/session.h"

namespace gq::worker {

class Journal {
 public:
  struct Entry {
    session::JournalEnd what;
    WallTime written;
  };
  Journal(asio::io_context& io, asio::thread_pool& disk, std::string folder);
  /// What is left of earlier processes, oldest first. Removes what is damaged and what was written longer than `keep` ago.
  std::vector<Entry> read(WallTime now, Duration keep);
  void write(Entry entry, std::function<void(Result<void>)> done);
  void forget(const wire::Grant& grant);

 private:
  [[nodiscard]] std::string path_of(const wire::Grant& grant) const;
  asio::io_context& io_;
  asio::thread_pool& disk_;
  std::string folder_;
};

std::string encode_entry(const Journal::Entry& entry);
std::optional<Journal::Entry> decode_entry(std::string_view bytes);

}  // namespace gq::worker

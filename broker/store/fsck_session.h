// fsck_session.h - reads a namespace whole and writes repairs: straight-line, over one connection, for a program that does nothing else.
//
// No broker may lead meanwhile: what is read in pages would not belong together. A repair first moves the term by the same
// compare-and-set as a broker's take-over, then each of its transactions stands behind a WATCH of the term: a broker that starts all the
// same ends the repair, not the other way round.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/store/command.h"
#include "broker/store/fsck.h"
#include "broker/store/redis_connection.h"
#include "broker/store/server_checks.h"

namespace gq::store {

class FsckSession {
 public:
  FsckSession(boost::asio::io_context& io, RedisOptions options);

  /// Connect, log in, make sure that nobody leads. UNAVAILABLE, REFUSED, DATA_DIR_IN_USE (a broker leads).
  Result<void> open();
  /// Everything. Unknown keys are listed up to a hundred.
  Result<RawNamespace> read();
  /// Moves the term; from then on a broker that led before is fenced. FENCED: somebody else moved it. The codes of check_server: what
  /// this Redis is asked to keep, it would not.
  Result<void> take_term();
  /// One transaction. REDIS_CORRUPT with Redis' own words when a command of it failed.
  Result<void> apply(const std::vector<Command>& commands);

 private:
  Result<std::vector<Reply>> ask(CommandBuffer commands);
  Result<Reply> ask_one(CommandBuffer commands);
  Result<void> nobody_leads();
  Result<void> scan(RawNamespace& raw);
  Result<void> read_sets(RawNamespace& raw);
  Result<void> read_records(RawNamespace& raw);
  Result<void> read_hashes(RawNamespace& raw);
  bool take_job_key(RawNamespace& raw, const std::string& key) const;

  boost::asio::io_context& io_;
  RedisOptions options_;
  Keys keys_;
  std::unique_ptr<RedisConnection> connection_;
  std::optional<Error> lost_;
  ServerFacts facts_;
  std::string term_;   ///< as moved by us
};

/// Blobs of `named` that are not below `dir` (DATA/blobs), or, `deep`, whose bytes are not what their name says. Damaged files are
/// moved to DIR/quarantine, so that the same content can be sent again.
std::vector<Finding> look_at_blobs(const std::string& dir, const std::vector<NamedBlob>& named, bool deep);

}  // namespace gq::store

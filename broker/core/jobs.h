// jobs.h - every job the core knows, at about 200 bytes each.
//
// What most jobs never use (unique key, parents, blobs, label, dates, texts) lies in an Extra that only those jobs have that
// need it; equal Needs are kept once, in their shape. JobRecord is put together from these pieces when it leaves the core.
//
// Marks that must survive a restart are kept in the record's own fields:
//   ended != 0 while not final  = the newest attempt's end was accepted; the same grant again changes nothing
//   nonce == 0 in a final state = it became final without the word of its newest grant; that grant is stale now
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "broker/core/containers.h"
#include "broker/core/record.h"

namespace gq::core {

struct Job {
  JobId id;
  Digest128 digest;
  std::uint64_t seq{};            ///< 0 = this slot is free
  std::int64_t submitted_ms{};
  Nonce nonce{};
  std::int64_t started_ms{};
  std::int64_t ended_ms{};
  std::int64_t due_ms{};
  Duration timeout{};
  std::int64_t granted_mib{};
  Index shape{kNone};
  Index owner{};                  ///< text
  Index worker{};                 ///< text: name of the newest grant's worker
  Index device{};                 ///< text: UUID; further ones in Extra
  Index model_version{};          ///< text
  Index hold{kNone};              ///< while granted
  Index extra{kNone};
  Index watcher{kNone};           ///< first watching client; further ones in Extra
  Attempt attempt{};
  std::uint32_t failures{};
  std::uint32_t losses{};
  std::uint32_t preemptions{};
  std::uint32_t own_losses{};
  std::uint32_t retries{};
  std::uint32_t body_bytes{};
  std::uint32_t result_bytes{};
  std::uint16_t evictions{};
  std::uint32_t changed{};        ///< low bits of the batch of its last mutation
  JobState state{JobState::blocked};
  std::uint8_t priority{};
  Errc error{Errc::internal};
  bool cancel_asked : 1 {};
  bool fetched : 1 {};
  bool queued : 1 {};             ///< an entry stands in its shape's line (it may be stale)
  bool result_expired : 1 {};
  bool held : 1 {};               ///< ready, but in no line: an operator holds it
  bool kept_for_heirs : 1 {};     ///< final, and its time to be dropped has come before theirs to end
  bool durable : 1 {true};        ///< false: what happens to it is kept in memory only
};

struct Extra {
  WallTime not_before{};
  WallTime deadline{};
  std::string unique;
  std::vector<JobId> after;
  std::vector<BlobDigest> blobs;
  JobId retry_of;
  std::string label;
  std::vector<Index> more_devices;   ///< text, behind Job::device
  Checkpoint checkpoint;
  std::string error_text;
  std::string leave_reason;
  JobId leave_for;
  std::vector<BlobDigest> result_blobs;
  std::vector<Index> more_watchers;
  std::vector<Entry> children;       ///< jobs that come after this one and still wait
  std::uint32_t parents_left{};      ///< blocked: how many have not succeeded yet
  std::uint32_t heirs{};             ///< unfinished jobs that come after this one: they will want its result
};

/// JobId -> slot: open addressing over slots and 32 bits of hash; the ids are read from the jobs themselves, once per hit.
/// A thousand small tables, so that none of them ever takes a noticeable time to grow.
class JobTable {
 public:
  [[nodiscard]] Index find(const JobId& id) const;
  Index add(const JobId& id);              ///< the id must be new
  void drop(Index slot);
  Job& operator[](Index slot) { return pool_[slot]; }
  const Job& operator[](Index slot) const { return pool_[slot]; }
  [[nodiscard]] Index extent() const { return pool_.extent(); }
  [[nodiscard]] std::size_t size() const { return pool_.live(); }
  [[nodiscard]] std::uint64_t bytes() const { return pool_.bytes() + bytes_; }

 private:
  struct Cell {
    std::uint32_t hash{};
    Index slot{kNone};
  };
  struct Shard {
    std::vector<Cell> cells = std::vector<Cell>(4);
    std::uint32_t used{};
  };
  static constexpr unsigned kShardBits = 10;
  static std::uint32_t hash_of(const JobId& id);
  static void place(std::vector<Cell>& cells, Cell cell);
  void grow(Shard& shard);
  [[nodiscard]] Shard& shard_of(std::uint32_t hash) { return shards_[hash >> (32U - kShardBits)]; }
  [[nodiscard]] const Shard& shard_of(std::uint32_t hash) const { return shards_[hash >> (32U - kShardBits)]; }
  Pool<Job, 12> pool_;
  std::vector<Shard> shards_ = std::vector<Shard>(std::size_t{1} << kShardBits);
  std::uint64_t bytes_ = (std::uint64_t{1} << kShardBits) * (sizeof(Shard) + 4 * sizeof(Cell));
};

}  // namespace gq::core

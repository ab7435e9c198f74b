// layout.h - the keys of a namespace and the packed records in them.
//
//   gpuq:{ns}:term            STRING  "<number> <random>": who leads; moved by CAS only, never expires
//   gpuq:{ns}:leader          STRING  PX 2000: a hint for standbys, decides nothing
//   gpuq:{ns}:batch           STRING  number of the last applied batch
//   gpuq:{ns}:j:<id>          STRING  packed JobFixed; written once, and again by `gpuq update`
//   gpuq:{ns}:d:<id>          STRING  packed JobDynamic; absent = JobDynamic{}, a ready job that never started
//   gpuq:{ns}:b:<id>          STRING  body, read in the batch that grants the job
//   gpuq:{ns}:r:<id>          STRING  result
//   gpuq:{ns}:blocked         ZSET    by seq        \.
//   gpuq:{ns}:waiting         ZSET    by due ms      |  each job id is in exactly one of these,
//   gpuq:{ns}:ready:<class>   ZSET    by seq         |  and in the one that its state names
//   gpuq:{ns}:running         ZSET    by started ms  |  (yielding counts as running)
//   gpuq:{ns}:final           ZSET    by ended ms   /
//   gpuq:{ns}:tombs           HASH    id -> packed digest and end, of forgotten jobs
//   gpuq:{ns}:unique          HASH    unique key -> id
//   gpuq:{ns}:models          HASH    name@version -> packed ModelRecord
//   gpuq:{ns}:settings        HASH    "drain_worker w1" -> packed OperatorSetting
// <id> is the 26-character text of the job id, so that redis-cli shows what people see.
//
// Why STRINGs and not a HASH per job: MSET, MGET and UNLINK take any number of keys, so a batch of 256 lives is about a dozen
// commands, and a STRING's size depends on no option of the server. Redis memory per job (tests/bench/redis_layouts.py: 100,000
// jobs, 200 B body, Redis 7.0.15 with Debian's jemalloc, the set of its state included):
//
//   1315 B  HASH of 10 small fields + body as a field (one value > 64 B turns the HASH into a hashtable)
//    678 B  HASH of packed chunks <= 64 B, body in its own STRING
//    619 B  HASH of 10 small fields + body, hash-max-listpack-value 1024 (own Redis: not ours to set)
//    555 B  HASH of one packed field + body, hash-max-listpack-value 1024
//    555 B  one STRING of record and body together (COPY for a retry and a lost body could not be told apart)
//    662 B  STRING record, STRING body              <- this one, queued; any configuration
//    896 B  the same with the STRING d:, running
// 16 raw bytes instead of 26 characters save nothing: both fall into the same size classes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "broker/core/record.h"
#include "common/vocabulary/errors.h"

namespace gq::store {

/// The sets by state. Names as in the key.
enum class StateSet : std::uint8_t { blocked, waiting, ready_inference, ready_training, ready_synthesis, running, final };
inline constexpr std::size_t kStateSets = 7;
StateSet set_of(JobState state, JobClass job_class);
/// What its id is sorted by in that set.
std::int64_t score_of(const core::JobDynamic& dynamic, std::uint64_t seq);

struct Keys {
  explicit Keys(const std::string& name_space);
  std::string term, leader, batch, tombs, unique, models, settings;
  std::string fixed, dynamic, body, result;     ///< prefixes; the id follows
  std::array<std::string, kStateSets> sets;
  [[nodiscard]] const std::string& set(StateSet s) const { return sets[static_cast<std::size_t>(s)]; }
};

// Packed records: a version byte, then fields in order; integers as varints, strings with their length. What only few jobs have is
// there when a flag says so: a job that never was on hold or preempted looks as it did before there were holds and preemptions.
inline constexpr std::uint8_t kRecordVersion = 1;
std::string encode(const core::JobFixed& fixed);           ///< without the id: the key has it
std::string encode(const core::JobDynamic& dynamic);
std::string encode(const core::ModelRecord& model);
std::string encode(const core::OperatorSetting& setting);
std::string field_of(core::OperatorSetting::Kind kind, const std::string& target);
std::string encode_tombstone(const Digest128& digest, WallTime ended);
void append_encoded(const core::JobFixed& fixed, std::string& out);
void append_encoded(const core::JobDynamic& dynamic, std::string& out);

// Decoders never trust: a short, long or odd record is an error that says what is odd. The caller adds the key's name.
Result<core::JobFixed> decode_fixed(JobId id, std::string_view bytes);
Result<core::JobDynamic> decode_dynamic(std::string_view bytes);
Result<core::ModelRecord> decode_model(std::string_view bytes);
Result<core::OperatorSetting> decode_setting(std::string_view bytes);
Result<core::Image::Tombstone> decode_tombstone(JobId id, std::string_view bytes);

}  // namespace gq::store

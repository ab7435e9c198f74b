// fsck.h - is what a namespace holds whole? Pure: what was read goes in, findings and the commands that repair them come out.
//
// Where record and set disagree, the record decides: it says what the job is, a set only says where to look. Nothing is deleted and
// nothing is made up: a job whose state cannot be read is not guessed to be ready (it may have run), it goes with all of its keys to
// gpuq:{ns}:quarantine:<when>:…, where no broker looks, and the finding says whose job it was.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/store/layout.h"

namespace gq::store {

/// A value as it lies there: absent, of a type that is not ours, or bytes.
struct RawValue {
  bool there{};
  std::optional<std::string> bytes;   ///< nullopt though there = of a foreign type
};

/// All that lies there of one job.
struct RawJob {
  RawValue fixed, dynamic;
  bool body{}, result{};
  struct Place { StateSet set{}; std::int64_t score{}; };
  std::vector<Place> places;
};

struct RawNamespace {
  RawValue term, batch;
  std::map<JobId, RawJob> jobs;                              ///< of every key and every member of a set
  std::vector<std::pair<StateSet, std::string>> odd_members; ///< that are no job id
  std::vector<std::string> odd_types;                        ///< sets and hashes of a foreign type: whole keys
  std::vector<std::string> unknown_keys;                     ///< in our namespace, and none of ours
  std::map<std::string, std::string> models, settings, tombs, unique;
  std::uint64_t quarantined{};                               ///< keys that an earlier repair put aside
};

/// What a finding is called, for people and programs; never changed once released.
enum class FindingKind : std::uint8_t {
  no_term, bad_batch, foreign_type, bad_member, no_record, bad_record, no_state, bad_state, in_no_set, in_wrong_set, in_two_sets, wrong_score,
  seq_twice, no_body, no_result, bad_model, bad_setting, bad_tombstone, bad_unique, no_blob, bad_blob, scheduler_refuses, unknown_key, quarantined,
};
std::string_view to_string(FindingKind kind);   ///< "in_no_set"

using Command = std::vector<std::string>;       ///< of Redis, argument by argument
struct Finding {
  FindingKind kind{};
  std::string where;        ///< key, or path of a file
  std::string what;         ///< one sentence
  std::string repair;       ///< what --repair does, in words; empty = it can do nothing
  std::vector<Command> commands;                               ///< one transaction
  std::vector<std::pair<std::string, std::string>> moves;      ///< files: from, to
  bool note{};              ///< worth knowing, no damage
};

struct Examined {
  std::vector<Finding> findings;   ///< damage first, notes last; in order of kind, then place
  core::Image image;               ///< of what is sound: what a broker would load once all is repaired
  [[nodiscard]] std::size_t damages() const;
};

/// `stamp` names what is put aside: letters and digits.
Examined examine(const RawNamespace& raw, const Keys& keys, std::string_view stamp);

/// Blobs that the image names, with the first that names each: "job 01J…", "model detector@1a2b…".
struct NamedBlob {
  BlobDigest digest;
  std::string by;
  std::string needed;       ///< what happens without it; empty = nothing any more, it only can be fetched no longer
};
std::vector<NamedBlob> blobs_named_by(const core::Image& image);

}  // namespace gq::store

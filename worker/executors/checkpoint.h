// checkpoint.h - training state on disk that is either whole or recognisably not.
//
// File: "GPUQCKPT" | u32 version | u32 header bytes | header (JSON: job, attempt, step) | u64 payload bytes | u64 checksum of everything
// else | payload. Written as name.tmp.<pid>, fsync, rename, fsync of the folder; the last two are kept, so that a torn write or a
// rotten sector costs one period, never the job. Standard library and POSIX only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "worker/executors/failure.h"

namespace gq::exec {

struct CheckpointHeader {
  std::string job;
  std::int64_t attempt{};
  std::int64_t step{};
  bool operator==(const CheckpointHeader&) const = default;
};
struct Checkpoint {
  CheckpointHeader header;
  std::string payload;
  std::string path;
};

inline constexpr std::size_t kCheckpointsKept = 2;

std::string encode_checkpoint(const CheckpointHeader& header, std::string_view payload);
Expected<Checkpoint> decode_checkpoint(std::string_view bytes);

/// Durable when it returns. Yields the path.
Expected<std::string> write_checkpoint(const std::string& folder, const CheckpointHeader& header, std::string_view payload);

/// The newest whole checkpoint among `resume` (a file or a folder; may be empty) and those in `folder`. What could not be used is said
/// in `warnings`, one line each; a checkpoint of another job is never used. nullopt: start from zero.
std::optional<Checkpoint> find_checkpoint(const std::string& folder, const std::string& resume, const std::string& job,
                                          std::vector<std::string>& warnings);

/// tmp + fsync + rename + fsync of the folder, for any file.
Expected<Done> write_durably(const std::string& path, std::string_view bytes);

}  // namespace gq::exec

// job_body.h - what a submit's payload and a result's payload hold. Client and worker read it; the broker never does.
//
// Both are one msgpack map (string keys, unknown ignored) with the same notion of a *part*: a named piece of data that
// lies inline, in the blob store, or behind a share. Limits on decode as for messages.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"

namespace gq::wire {

struct Part {
  std::string name;          ///< "image", "detections", "stdout", or a path below the output folder for artefacts
  std::string media;         ///< "image/png", "application/json", "application/x-gpuq-tensor", "application/octet-stream"
  std::string bytes;         ///< inline; empty when blob or share is set
  BlobDigest blob;           ///< content in the blob store
  std::uint64_t blob_bytes{};
  std::string share{};       ///< "NAME/path"
  std::uint64_t share_bytes{};      ///< as the submitter saw it there: a share that shows another file is noticed. 0 = not looked at, or a folder
  std::int64_t share_mtime_ms{};    ///< likewise; 0 = not looked at
  bool operator==(const Part&) const = default;
};

/// Parts of this media type are no inputs: unpacked one after the other they are the folder that the job runs in, unless the worker sees the
/// very folder it was made from.
inline constexpr std::string_view kSnapshotMedia = "application/x-gpuq-snapshot";

struct JobBody {
  std::map<std::string, std::string> params;   ///< --set
  std::vector<std::string> argv;               ///< command
  std::map<std::string, std::string> env;
  std::string cwd;
  std::vector<Part> parts;                     ///< inputs
  std::string outputs{};                       ///< "NAME/path" on a share: artefacts are written there; empty = they come with the result
  std::string cwd_identity{};                  ///< which folder cwd was for the submitter (config::folder_identity); empty = any of that name
  bool per_device{};                           ///< one process for each device, with RANK, WORLD_SIZE, MASTER_ADDR, … as torchrun sets them
  bool operator==(const JobBody&) const = default;
};

struct ResultBody {
  std::map<std::string, std::string> values;   ///< small facts: exit_code, images_per_s, model
  std::vector<Part> parts;                     ///< outputs and artefacts
  bool operator==(const ResultBody&) const = default;
};

std::string encode(const JobBody& body);
std::string encode(const ResultBody& body);
Result<JobBody> decode_job_body(std::span<const std::byte> bytes);
Result<ResultBody> decode_result_body(std::span<const std::byte> bytes);

}  // namespace gq::wire

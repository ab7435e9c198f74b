// job_json.h - a job as JSON, in the words of the other clients. Pure; its input is hostile.
//
//   {"kind": "detect", "model": "boards", "class": "inference", "priority": 7, "params": {"conf": 0.4}, "vram": "2GiB..rest",
//    "parts": [{"name": "image", "media": "image/png", "base64": "…"}], "timeout_s": 60, …}
// What is not known is an error that names it: a misspelt "deadline" must not become a job without one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"

namespace gq::http {

inline constexpr std::size_t kPartsMax = 64;

struct JobAsked : gpuq::JobSpec {
  std::string array;   ///< "0-9": a job for each index, gpuq::array_of(); empty = one job
};

/// Errors: BAD_MESSAGE (no JSON, a field unknown, doubled, or of another type), OVER_LIMIT.
Result<JobAsked> job_of(std::string_view json);
std::vector<std::string> job_field_names();    ///< what openapi.json must describe; a test looks
std::vector<std::string> part_field_names();

}  // namespace gq::http

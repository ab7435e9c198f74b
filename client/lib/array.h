// array.h - `gpuq submit --array 0-9 -- …` and gpuq::array_of: one command job for each index, told apart by $GPUQ_ARRAY_INDEX. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"

namespace gq::client {

inline constexpr std::size_t kArrayMax = 10'000;

/// "0-9", "0-90:10" (step), "1,4,7", and these mixed; in the order written. USAGE, OVER_LIMIT.
Result<std::vector<std::uint32_t>> parse_array(std::string_view text);
/// A job for each index of a command: GPUQ_ARRAY_INDEX, GPUQ_ARRAY_COUNT, its label and unique key with the index behind, its id counted up
/// from the one given, so that the same command said again makes no second array.
Result<std::vector<gpuq::JobSpec>> array_of(const gpuq::JobSpec& job, const std::vector<std::uint32_t>& indices);

}  // namespace gq::client

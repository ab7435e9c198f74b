// model_content.h - files that no runtime serves, known by their first and last bytes before anything is uploaded. What is not recognised
// passes: the worker that loads it has the last word (BAD_MODEL).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/vocabulary/errors.h"

namespace gq::client {

inline constexpr std::size_t kContentHead = 4096;            ///< bytes looked at from the start
inline constexpr std::size_t kZipDirectoryMax = 16u << 20u;  ///< a longer list of entries is not read: the file passes

/// BAD_MODEL with what the file is and what to do instead. `head`: its first kContentHead bytes; `entries`: of a zip, its central
/// directory (the names lie in it as they are), nullopt when that was not read.
std::optional<Error> not_servable(const std::string& path, std::string_view head, const std::optional<std::string>& entries);
std::optional<Error> not_servable(const std::string& path);  ///< a file that cannot be read passes: the upload says why

}  // namespace gq::client

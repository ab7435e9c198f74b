// pack.h - a folder as one part (uncompressed tar), and a result's parts as files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"

namespace gq::cli {

/// ustar with GNU long names, files sorted by path so that equal folders are equal bytes. Links and devices are left out.
Result<std::string> pack_folder(const std::string& folder, std::size_t bytes_max);

struct TarEntry {
  char type = '0';                       ///< '5' is a folder
  unsigned mode = 0644;
};
/// One file (with its long name, if it has one) behind what is there. An archive ends with 1024 zero bytes.
void append_tar(std::string& tar, const std::string& name, std::string_view bytes, TarEntry entry = {});

/// Writes each part below `dir` (all of them, or `only` this one) and returns the paths. A name that would leave `dir` is refused.
std::vector<std::string> save_parts(gpuq::Client& client, const gpuq::JobResult& result, const std::string& dir, const std::string& only);

/// "images/a.png" yes; "", "/etc/x", "../x", "a/../../x" no.
bool is_inside(const std::string& name);

}  // namespace gq::cli

// tar.h - lists what an uncompressed tar (ustar, GNU long names, pax paths) holds, with the place of every file. Nothing is unpacked,
// so no path can leave anywhere; names that try ("..", absolute) are refused all the same, because the archive is then not honest.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/executors/failure.h"

namespace gq::exec {

struct StoredFile {
  std::string path;         ///< as the data set names it: relative, '/' between parts
  std::string file;         ///< the file on disk that holds it
  std::uint64_t offset{};   ///< where it begins there
  std::uint64_t size{};
};

Expected<std::vector<StoredFile>> list_tar(const std::string& file);
Expected<std::string> read_stored(const StoredFile& stored);

}  // namespace gq::exec

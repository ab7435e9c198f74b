// sha256.h - the name that content has: of bytes as they come, or of a file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"

namespace gq::worker {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void add(std::string_view bytes);
  BlobDigest finish();

 private:
  void* state_;
};
Result<BlobDigest> sha256_of_file(const std::string& path, std::uint64_t& bytes);

}  // namespace gq::worker

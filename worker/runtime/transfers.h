// transfers.h - one blob on its way from or to the broker. The inside of Blobs.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "worker/runtime/blobs.h"
#include "worker/runtime/sha256.h"

namespace gq::worker {

struct Blobs::Get {
  BlobDigest digest;
  std::string temporary;
  int fd{-1};
  Sha256 hash;
  std::uint64_t received{};        ///< in order; chunks arrive in the order they were asked for
  std::uint64_t asked{};
  std::optional<std::uint64_t> total;
  std::vector<std::uint64_t> ids;
  std::vector<Fetched> waiting;
  int silent{};
  bool taking_near{};              ///< the broker's file is being read; nothing is asked meanwhile
  ~Get() {
    if (fd >= 0) ::close(fd);
  }
};

struct Blobs::Put {
  Pinned file;
  int fd{-1};
  bool asked_where{};
  bool answered_where{};
  std::uint64_t sent{};
  std::vector<std::uint64_t> ids;
  std::vector<Stored> waiting;
  int silent{};
  ~Put() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace gq::worker

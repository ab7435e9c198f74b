// entropy.h - 64 random bits for each step, from the kernel, fetched 4 KiB at a time.
#pragma once

#include <sys/random.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/vocabulary/errors.h"

namespace gq::broker {

class Entropy {
 public:
  std::uint64_t next() {
    if (at_ == words_.size()) refill();
    return words_[at_++];
  }

 private:
  void refill() {
    std::size_t have = 0;
    while (have < sizeof words_) {
      const ssize_t n = getrandom(reinterpret_cast<char*>(words_.data()) + have, sizeof words_ - have, 0);
      if (n > 0) have += static_cast<std::size_t>(n);   // EINTR before the pool is ready: ask again
    }
    at_ = 0;
  }

  std::array<std::uint64_t, 512> words_{};
  std::size_t at_{words_.size()};
};

}  // namespace gq::broker

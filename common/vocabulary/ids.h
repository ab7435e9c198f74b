// ids.h - names of things that outlive a message: jobs, blobs, devices; and small numbers for things that do not.
//
// A JobId is 128 random-enough bits made by the client library (ULID layout: 48 bits of milliseconds, 80 random bits),
// so that a submit can be resent without making a second job. Its text is 26 characters of Crockford base32.
// A Digest128 is xxh3-128 over bytes: it recognises the same spec again, it is no security boundary.
// A BlobDigest is SHA-256: it names content, so a lie about content must be infeasible.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace gq {

struct JobId {
  std::uint64_t hi{};
  std::uint64_t lo{};
  auto operator<=>(const JobId&) const = default;
  [[nodiscard]] bool empty() const { return hi == 0 && lo == 0; }
};

/// 26 upper-case characters of Crockford base32; the inverse of parse_job_id.
std::string to_string(const JobId& id);
/// Accepts exactly 26 characters, either case, 'I'/'L' as 1 and 'O' as 0; the first must be 0..7.
std::optional<JobId> parse_job_id(std::string_view text);
/// A ULID from a wall time in milliseconds and 80 random bits.
JobId make_job_id(std::uint64_t wall_ms, std::uint64_t random_hi16, std::uint64_t random_lo64);

struct Digest128 {
  std::uint64_t hi{};
  std::uint64_t lo{};
  auto operator<=>(const Digest128&) const = default;
};

struct BlobDigest {
  std::array<std::uint8_t, 32> bytes{};
  auto operator<=>(const BlobDigest&) const = default;
  [[nodiscard]] bool empty() const { return *this == BlobDigest{}; }
};

/// A blob that only jobs with durability none name may have a name where others have a digest: these eight bytes, then 24 random ones. Its
/// content is authenticated by the connections it travels on, hashed by nobody, and never kept on disk.
inline constexpr std::array<std::uint8_t, 8> kBriefName{'g', 'p', 'u', 'q', 'b', 'r', 'f', '1'};
[[nodiscard]] inline bool is_brief_name(const BlobDigest& digest) { return std::equal(kBriefName.begin(), kBriefName.end(), digest.bytes.begin()); }

/// 64 lower-case hexadecimal characters.
std::string to_string(const BlobDigest& digest);
std::optional<BlobDigest> parse_blob_digest(std::string_view text);

/// A number that names something only inside one process (a peer's connection, an interned worker).
template <class Tag>
struct Id {
  std::uint64_t value{};
  auto operator<=>(const Id&) const = default;
};

using PeerId = Id<struct PeerTag>;    ///< one connection of a client or worker, never used again after it ends
using Attempt = std::uint32_t;        ///< grows at every start of a job; 0 = never started
using Nonce = std::uint64_t;          ///< 64 random bits of one grant; with the attempt it is the fence
using Term = std::uint64_t;           ///< which broker leads

}  // namespace gq

template <>
struct std::hash<gq::JobId> {
  std::size_t operator()(const gq::JobId& id) const noexcept {
    return static_cast<std::size_t>(id.lo ^ (id.hi * 0x9E3779B97F4A7C15ULL));
  }
};
template <>
struct std::hash<gq::BlobDigest> {
  std::size_t operator()(const gq::BlobDigest& d) const noexcept {
    std::size_t h = 0;   // the last bytes: those of brief names begin alike
    for (std::size_t i = d.bytes.size() - sizeof h; i < d.bytes.size(); ++i) h = (h << 8U) | d.bytes[i];
    return h;
  }
};
template <class Tag>
struct std::hash<gq::Id<Tag>> {
  std::size_t operator()(const gq::Id<Tag>& id) const noexcept { return std::hash<std::uint64_t>{}(id.value); }
};

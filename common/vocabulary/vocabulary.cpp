// vocabulary.cpp - the words as text and back.
#include <cstdio>
#include <cstdlib>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/ids.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/units.h"

namespace gq {

namespace {

__extension__ using Wide = unsigned __int128;  // both compilers have it; ISO C++ does not

constexpr std::string_view kBase32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

int base32_value(char c) {
  if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  if (c == 'I' || c == 'L') c = '1';
  if (c == 'O') c = '0';
  const auto at = kBase32.find(c);
  return at == std::string_view::npos ? -1 : static_cast<int>(at);
}

template <class Enum, std::size_t N>
std::optional<Enum> find_text(const std::array<std::string_view, N>& words, std::string_view text) {
  for (std::size_t i = 0; i < N; ++i)
    if (words[i] == text) return static_cast<Enum>(i);
  return std::nullopt;
}

constexpr std::array<std::string_view, kJobClasses> kClassWords{"inference", "training", "synthesis"};
constexpr std::array<std::string_view, kJobStates> kStateWords{"blocked",   "waiting", "ready",     "running", "yielding",
                                                               "succeeded", "failed",  "cancelled", "expired", "quarantined"};
constexpr std::array<std::string_view, 14> kVerbWords{"unblock", "defer", "come_due", "dispatch", "refuse",     "preempt", "yield",
                                                      "succeed", "retry", "fail",     "lose",     "quarantine", "cancel",  "expire"};
constexpr std::array<std::string_view, 4> kPreemptWords{"checkpoint", "pause", "restart", "never"};
constexpr std::array<std::string_view, 8> kOutcomeWords{"succeeded", "failed",    "failed_final", "yielded",
                                                        "cancelled", "timed_out", "crashed",      "lost"};

constexpr std::string_view kErrcWords[] = {
#define GQ_TEXT(name, text, exit_code) text,
    GQ_ERROR_CODES(GQ_TEXT)
#undef GQ_TEXT
};
constexpr int kErrcExits[] = {
#define GQ_EXIT(name, text, exit_code) exit_code,
    GQ_ERROR_CODES(GQ_EXIT)
#undef GQ_EXIT
};

template <class Enum, class Words>
std::string_view word(const Words& words, Enum value) {
  const auto i = static_cast<std::size_t>(value);
  return i < std::size(words) ? words[i] : std::string_view{"?"};
}

}  // namespace

std::string to_string(const JobId& id) {
  std::string text(26, '0');
  Wide value = (static_cast<Wide>(id.hi) << 64U) | id.lo;
  for (std::size_t i = 26; i-- > 0;) {
    text[i] = kBase32[static_cast<std::size_t>(value & 31U)];
    value >>= 5U;
  }
  return text;
}

std::optional<JobId> parse_job_id(std::string_view text) {
  if (text.size() != 26 || base32_value(text[0]) > 7) return std::nullopt;
  Wide value = 0;
  for (const char c : text) {
    const int v = base32_value(c);
    if (v < 0) return std::nullopt;
    value = (value << 5U) | static_cast<unsigned>(v);
  }
  return JobId{static_cast<std::uint64_t>(value >> 64U), static_cast<std::uint64_t>(value)};
}

JobId make_job_id(std::uint64_t wall_ms, std::uint64_t random_hi16, std::uint64_t random_lo64) {
  return {(wall_ms << 16U) | (random_hi16 & 0xFFFFU), random_lo64};
}

std::string to_string(const BlobDigest& digest) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::string text;
  text.reserve(64);
  for (const std::uint8_t b : digest.bytes) {
    text += hex[b >> 4U];
    text += hex[b & 15U];
  }
  return text;
}

std::optional<BlobDigest> parse_blob_digest(std::string_view text) {
  if (text.size() != 64) return std::nullopt;
  BlobDigest digest;
  for (std::size_t i = 0; i < 64; ++i) {
    const char c = text[i];
    int v = 0;
    if (c >= '0' && c <= '9') v = c - '0';
    else if (c >= 'a' && c <= 'f') v = c - 'a' + 10;
    else return std::nullopt;
    digest.bytes[i / 2] = static_cast<std::uint8_t>((digest.bytes[i / 2] << 4U) | v);
  }
  return digest;
}

std::optional<Mib> parse_mib(std::string_view text) {
  std::int64_t value = 0;
  std::size_t i = 0;
  for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
    value = value * 10 + (text[i] - '0');
    if (value > (INT64_C(1) << 40)) return std::nullopt;
  }
  if (i == 0) return std::nullopt;
  const std::string_view unit = text.substr(i);
  if (unit == "MiB" || unit == "M" || unit == "m") return Mib{value};
  if ((unit == "GiB" || unit == "G" || unit == "g") && value <= (INT64_C(1) << 30)) return Mib{value * 1024};
  return std::nullopt;
}

std::string to_string(Mib size) {
  char text[32];
  if (size.value < 10 * 1024) std::snprintf(text, sizeof text, "%lld MiB", static_cast<long long>(size.value));
  else std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(size.value) / 1024.0);
  return text;
}

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  std::int64_t total = 0;
  if (text.empty()) return std::nullopt;
  while (!text.empty()) {
    std::int64_t value = 0;
    std::size_t i = 0;
    for (; i < text.size() && text[i] >= '0' && text[i] <= '9'; ++i) {
      value = value * 10 + (text[i] - '0');
      if (value > INT64_C(1'000'000'000'000)) return std::nullopt;
    }
    if (i == 0) return std::nullopt;
    std::size_t j = i;
    while (j < text.size() && !(text[j] >= '0' && text[j] <= '9')) ++j;
    const std::string_view unit = text.substr(i, j - i);
    std::int64_t scale = 0;
    if (unit == "ms") scale = 1;
    else if (unit == "s") scale = 1000;
    else if (unit == "min" || unit == "m") scale = 60'000;
    else if (unit == "h") scale = 3'600'000;
    else if (unit == "d") scale = 86'400'000;
    else return std::nullopt;
    constexpr std::int64_t kMost = INT64_C(100) * 365 * 86'400'000;  // a century: far from any overflow
    if (value > kMost / scale || total > kMost - value * scale) return std::nullopt;
    total += value * scale;
    text.remove_prefix(j);
  }
  return std::chrono::milliseconds{total};
}

std::string_view to_string(Errc code) { return word(kErrcWords, code); }
bool parse_errc(std::string_view text, Errc& code) {
  for (std::size_t i = 0; i < std::size(kErrcWords); ++i)
    if (kErrcWords[i] == text) {
      code = static_cast<Errc>(i);
      return true;
    }
  return false;
}
int exit_code(Errc code) {
  const auto i = static_cast<std::size_t>(code);
  return i < std::size(kErrcExits) ? kErrcExits[i] : 5;
}

void check_failed(std::string_view reason, const Place& where) {
  std::fprintf(stderr, "gpuq: broken invariant: %.*s (%s:%d, %s)\n", static_cast<int>(reason.size()), reason.data(), where.file, where.line,
               where.function);
  std::abort();
}

std::string_view to_string(JobClass c) { return word(kClassWords, c); }
std::string_view to_string(JobState s) { return word(kStateWords, s); }
std::string_view to_string(Verb v) { return word(kVerbWords, v); }
std::string_view to_string(OnPreempt p) { return word(kPreemptWords, p); }
std::string_view to_string(Outcome o) { return word(kOutcomeWords, o); }
std::optional<JobClass> parse_job_class(std::string_view text) { return find_text<JobClass>(kClassWords, text); }
std::optional<JobState> parse_job_state(std::string_view text) { return find_text<JobState>(kStateWords, text); }
std::optional<OnPreempt> parse_on_preempt(std::string_view text) { return find_text<OnPreempt>(kPreemptWords, text); }

}  // namespace gq

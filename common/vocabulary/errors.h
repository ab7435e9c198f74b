// errors.h - the closed list of error codes, and the one type that carries a failure.
//
// An expected failure is a value: Result<T> = T or Error{code, what happened to what, what to do next}. A broken
// invariant of ours is check(): it prints and aborts, in release builds too. A test asserts that every code
// below is explained in ARCHITECTURE.md and that the page names no other.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace gq {

// X(enumerator, TEXT, exit code of the CLI when a command ends in it)
#define GQ_ERROR_CODES(X)                    \
  X(usage, "USAGE", 2)                       \
  X(bad_message, "BAD_MESSAGE", 2)           \
  X(protocol, "PROTOCOL", 5)                 \
  X(not_found, "NOT_FOUND", 3)               \
  X(unknown_kind, "UNKNOWN_KIND", 2)         \
  X(unknown_model, "UNKNOWN_MODEL", 3)       \
  X(unknown_blob, "UNKNOWN_BLOB", 3)         \
  X(id_conflict, "ID_CONFLICT", 2)           \
  X(duplicate, "DUPLICATE", 2)               \
  X(gone, "GONE", 3)                         \
  X(stale, "STALE", 1)                       \
  X(refused, "REFUSED", 4)                   \
  X(key_refused, "KEY_REFUSED", 4)           \
  X(zap_selftest, "ZAP_SELFTEST", 5)         \
  X(unreachable, "UNREACHABLE", 5)           \
  X(unavailable, "UNAVAILABLE", 5)           \
  X(timed_out, "TIMED_OUT", 6)               \
  X(cancelled, "CANCELLED", 1)               \
  X(expired, "EXPIRED", 1)                   \
  X(quarantined, "QUARANTINED", 1)           \
  X(dependency_failed, "DEPENDENCY_FAILED", 1) \
  X(no_fit, "NO_FIT", 1)                     \
  X(over_limit, "OVER_LIMIT", 2)             \
  X(queue_full, "QUEUE_FULL", 5)             \
  X(storage_full, "STORAGE_FULL", 5)         \
  X(too_large, "TOO_LARGE", 2)               \
  X(payload_lost, "PAYLOAD_LOST", 1)         \
  X(result_expired, "RESULT_EXPIRED", 3)     \
  X(fenced, "FENCED", 5)                     \
  X(data_dir_in_use, "DATA_DIR_IN_USE", 5)   \
  X(port_in_use, "PORT_IN_USE", 5)           \
  X(redis_policy, "REDIS_POLICY", 5)         \
  X(redis_version, "REDIS_VERSION", 5)       \
  X(redis_durability, "REDIS_DURABILITY", 5) \
  X(redis_role, "REDIS_ROLE", 5)             \
  X(redis_budget, "REDIS_BUDGET", 5)         \
  X(redis_corrupt, "REDIS_CORRUPT", 5)       \
  X(no_device, "NO_DEVICE", 5)               \
  X(bad_image, "BAD_IMAGE", 1)               \
  X(bad_model, "BAD_MODEL", 1)               \
  X(bad_input, "BAD_INPUT", 1)               \
  X(job_failed, "JOB_FAILED", 1)             \
  X(child_crashed, "CHILD_CRASHED", 1)       \
  X(oom, "OOM", 1)                           \
  X(checkpoint_corrupt, "CHECKPOINT_CORRUPT", 1) \
  X(worker_lost, "WORKER_LOST", 1)           \
  X(not_here, "NOT_HERE", 1)                 \
  X(internal, "INTERNAL", 5)                 \
  X(condition_false, "CONDITION_FALSE", 1)

enum class Errc : std::uint8_t {
#define GQ_ENUMERATE(name, text, exit_code) name,
  GQ_ERROR_CODES(GQ_ENUMERATE)
#undef GQ_ENUMERATE
};

std::string_view to_string(Errc code);      ///< "NO_FIT"; the stable text seen by users and programs
bool parse_errc(std::string_view text, Errc& code);
int exit_code(Errc code);                   ///< what a CLI command that ends in this code exits with

struct Error {
  Errc code{Errc::internal};
  std::string what;  ///< what happened, to what: one line, no trailing stop
  std::string next;  ///< what to do next: a command or a sentence; may be empty
  bool operator==(const Error&) const = default;
};

template <class T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(Errc code, std::string what, std::string next = {}) {
  return tl::unexpected<Error>(Error{code, std::move(what), std::move(next)});
}

/// Where a call stands. std::source_location by hand: clang 14 has none with libstdc++ 12, and the fuzzers are built with clang.
struct Place {
  const char* file;
  int line;
  const char* function;
  static constexpr Place here(const char* f = __builtin_FILE(), int l = __builtin_LINE(), const char* n = __builtin_FUNCTION()) {
    return {f, l, n};
  }
};

/// A broken invariant of ours stops the program here, now, with the place and the reason.
[[noreturn]] void check_failed(std::string_view reason, const Place& where);
inline void check(bool holds, std::string_view reason, const Place& where = Place::here()) {
  if (!holds) [[unlikely]] check_failed(reason, where);
}

template <class... F>
struct overloaded : F... {
  using F::operator()...;
};
template <class... F>
overloaded(F...) -> overloaded<F...>;

}  // namespace gq

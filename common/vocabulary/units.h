// units.h - time and memory as types. Nothing here reads a clock: time arrives as an argument.
//
// Instant is a point of the shell's steady clock: leases, timeouts and back-off are measured on it.
// WallTime is UTC milliseconds since 1970: only for what a person named as a date (not before, deadline), for display
// and for what must mean the same after a restart. A Moment is both, read together once per turn of the loop.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gq {

using namespace std::chrono_literals;

struct SteadyTag {
  using duration = std::chrono::microseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<SteadyTag>;
  static constexpr bool is_steady = true;  // deliberately no now()
};
using Duration = std::chrono::microseconds;
using Instant = std::chrono::time_point<SteadyTag, Duration>;

struct WallTime {
  std::int64_t ms{};
  auto operator<=>(const WallTime&) const = default;
};
inline WallTime operator+(WallTime t, std::chrono::milliseconds d) { return {t.ms + d.count()}; }

struct Moment {
  Instant steady{};
  WallTime wall{};
};

/// Device memory. Always whole MiB: ledgers are exact to one.
struct Mib {
  std::int64_t value{};
  auto operator<=>(const Mib&) const = default;
};
inline Mib operator+(Mib a, Mib b) { return {a.value + b.value}; }
inline Mib operator-(Mib a, Mib b) { return {a.value - b.value}; }
inline Mib& operator+=(Mib& a, Mib b) { a.value += b.value; return a; }
inline Mib& operator-=(Mib& a, Mib b) { a.value -= b.value; return a; }

/// "8GiB", "8G", "8192MiB", "8192M" (M and G mean MiB and GiB) -> Mib; nullopt when it is none of these.
std::optional<Mib> parse_mib(std::string_view text);
/// "512 MiB" below 10 GiB, "12.0 GiB" above.
std::string to_string(Mib size);
/// "250ms", "30s", "15min", "2h", "1d", also "1h30min"; nullopt when it is none of these.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);

}  // namespace gq

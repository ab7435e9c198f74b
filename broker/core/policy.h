// policy.h - what the operator wants, as plain data: the ladder, budgets, windows, reservations, exclusions, caps.
//
// The core knows no time zones and no files: whoever loads a policy turns each window's text and zone into spans of UTC time that
// cover at least kWindowHorizon from now, and sends a fresh policy before they run out. Outside all spans a window is closed.
// A default-constructed Policy is what holds without a file.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/vocabulary/job.h"
#include "common/vocabulary/units.h"

namespace gq::core {

/// [open, close) in UTC milliseconds.
struct Span {
  std::int64_t open_ms{};
  std::int64_t close_ms{};
  bool operator==(const Span&) const = default;
};

struct Window {
  std::string text;               ///< as written: "22:00-07:00, sat-sun"
  std::string zone;               ///< IANA name
  std::vector<Span> spans;        ///< sorted, disjoint, not touching
  [[nodiscard]] bool open_at(std::int64_t ms) const;
  [[nodiscard]] std::optional<std::int64_t> closes_after(std::int64_t ms) const;  ///< open at ms: when it closes next
  [[nodiscard]] std::optional<std::int64_t> opens_after(std::int64_t ms) const;   ///< closed at ms: when it opens next, as far as known
  bool operator==(const Window&) const = default;
};
using WindowIndex = std::uint16_t;
inline constexpr WindowIndex kAlways = UINT16_MAX;
inline constexpr std::int64_t kWindowHorizonMs = 28LL * 24 * 3'600'000;

/// Which devices are meant. A bare index names a device only while one host is known.
struct DeviceSelector {
  enum class Kind : std::uint8_t { any, uuid, label, host_index, index } kind{Kind::any};
  std::string text;               ///< uuid; label "key=value" or "key" (any value); host
  std::uint16_t index{};          ///< PCI order on that host
  bool operator==(const DeviceSelector&) const = default;
};
std::string to_string(const DeviceSelector& selector);  ///< as it is written in the file

/// Memory of a device kept for a class: others see what is free minus what is reserved and not yet used by that class.
struct Reservation {
  enum class Size : std::uint8_t { mib, percent, loaded } kind{Size::mib};
  JobClass for_class{JobClass::inference};
  DeviceSelector device;
  Mib size{};                     ///< mib
  std::uint32_t percent{};        ///< percent of the device's capacity
  WindowIndex when{kAlways};      ///< `loaded`: no model warm for the class is evicted for another class meanwhile
  bool operator==(const Reservation&) const = default;
};

struct ClassPolicy {
  Mib budget{};                           ///< largest grant of a job that names no budget, clamped to the card; 0 = the kind's default
  WindowIndex window{kAlways};            ///< jobs start inside only, and leave before it closes
  std::vector<DeviceSelector> devices;    ///< empty = all
  std::vector<JobClass> not_beside;       ///< per device, in both directions
  std::vector<JobClass> pause_for;        ///< held by the worker while such a job is queued or runs on the card
  bool preemptible{true};
  Duration min_run{};                     ///< not preempted before; nothing starts that cannot reach it in its window
  std::vector<JobClass> min_run_ignored_by;
  std::uint32_t preemptions_max{10};      ///< taken off the device this often by higher classes: then it may finish
  std::uint32_t protect_after{3};         ///< from here on min_run grows by itself with each further preemption
  Duration grace{std::chrono::seconds{30}};             ///< from PREEMPT to the kill
  Duration checkpoint_interval{std::chrono::minutes{5}};  ///< caps the cost of stopping a job: never checkpointing is no shield
  std::uint32_t running_max{};            ///< 0 = no cap
  std::uint32_t queued_max{};             ///< 0 = no cap; beyond it submits get QUEUE_FULL
  bool durable{true};                     ///< of a job that does not say, of a kind that answers and without a unique key: false = kept in memory only
  bool cloud{true};                       ///< may start on rented devices: of workers with a label cloud=PROVIDER
  bool operator==(const ClassPolicy&) const = default;
};

struct DevicePolicy {
  DeviceSelector device;
  std::optional<std::uint32_t> headroom_pct;
  std::optional<Mib> headroom;
  std::optional<std::int16_t> hold_at_c, resume_at_c;
  std::vector<std::string> labels;        ///< what `label:` finds, beside the worker's own
  bool operator==(const DevicePolicy&) const = default;
};

struct TenantPolicy {
  std::string name;                       ///< a key's name; "*" = everyone else, each for itself
  std::uint32_t running_max{}, queued_max{};  ///< 0 = no cap
  double weight{1.0};                     ///< under fair sharing: of two who always wait, one with twice the weight gets twice as much
  bool operator==(const TenantPolicy&) const = default;
};

enum class Packing : std::uint8_t { best_fit, fgd, automatic };  ///< automatic: fgd above kFgdDevices devices
inline constexpr std::size_t kFgdDevices = 8;

struct Policy {
  Policy();                               ///< the built-in one
  std::array<JobClass, kJobClasses> ladder{JobClass::inference, JobClass::training, JobClass::synthesis};  ///< highest first
  std::array<ClassPolicy, kJobClasses> classes;   ///< by JobClass
  std::vector<Reservation> reservations;
  std::vector<DevicePolicy> devices;
  std::vector<TenantPolicy> tenants;
  std::vector<Window> windows;
  std::uint32_t headroom_pct{5};          ///< of a device's total, never granted (0 on a CPU)
  std::int16_t hold_at_c{83}, resume_at_c{75};
  bool aging{true};                       ///< off = strict priority inside a class
  Duration aging_step{std::chrono::minutes{10}};
  Duration reserve_after{std::chrono::minutes{10}};   ///< a gang, or a job too large for what is left, waits this long; then room is kept for it
  Duration model_idle_min{std::chrono::seconds{10}};  ///< a lower class evicts only models idle for so long
  bool fair{false};                       ///< tenants of a class take turns by decaying GPU-seconds
  Duration fair_half_life{std::chrono::hours{24}};
  Packing packing{Packing::automatic};

  [[nodiscard]] const ClassPolicy& of(JobClass c) const { return classes[static_cast<std::size_t>(c)]; }
  ClassPolicy& of(JobClass c) { return classes[static_cast<std::size_t>(c)]; }
  [[nodiscard]] std::uint8_t rank(JobClass c) const;   ///< 0 = highest
  /// Bit n: a job of class `c` is held beside class n. One that asks to be paused is, for every class above its own if the policy names none.
  [[nodiscard]] std::uint8_t pauses_for(JobClass c, OnPreempt wish) const;
  [[nodiscard]] bool excludes(JobClass a, JobClass b) const;  ///< either is not_beside the other
  [[nodiscard]] const Window* window(WindowIndex i) const { return i == kAlways ? nullptr : &windows[i]; }
  bool operator==(const Policy&) const = default;
};

}  // namespace gq::core

// settings.h - every key that gpuq.toml may have, with its kind, default and a line of help: the one list behind --config,
// GPUQ_*, `gpuq config show` and `gpuq plan --config`.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "common/config/config.h"
#include "common/vocabulary/job.h"
#include "common/vocabulary/limits.h"

namespace gq::policy {

/// [broker]: counts from the next start on. Keys are named as the flags, with _ for -.
std::vector<Setting> broker_settings();
/// [policy], [class.*], [device.*], [tenant.*]: followed from the moment they are loaded. Defaults are those of core::Policy.
std::vector<Setting> policy_settings();
/// Both, for a program that reads the file.
std::vector<Setting> file_settings();

/// [broker.timing], and --timing NAME=DURATION with - for _.
struct NamedTiming { std::string_view name; Duration Timing::*field; };
inline constexpr std::array kTimings{
    NamedTiming{"heartbeat", &Timing::heartbeat_interval}, NamedTiming{"silence", &Timing::silence},
    NamedTiming{"lease", &Timing::lease},                  NamedTiming{"restart_grace", &Timing::restart_grace},
    NamedTiming{"offer_timeout", &Timing::offer_timeout},  NamedTiming{"probe_span", &Timing::rescue_probe_span},
    NamedTiming{"hello_wait", &Timing::rescue_hello_wait}, NamedTiming{"beat_age", &Timing::rescue_beat_age},
    NamedTiming{"own_stall", &Timing::own_stall},          NamedTiming{"timeout_margin", &Timing::timeout_margin},
    NamedTiming{"yield_deadline", &Timing::yield_deadline},NamedTiming{"backoff_min", &Timing::retry_backoff_min},
    NamedTiming{"backoff_max", &Timing::retry_backoff_max},NamedTiming{"refuse_backoff", &Timing::refuse_backoff},
    NamedTiming{"tombstone", &Timing::tombstone},          NamedTiming{"retention", &Timing::result_retention},
    NamedTiming{"undurable_retention", &Timing::undurable_retention},
    NamedTiming{"orphan_timeout", &Timing::orphan_timeout}};

/// As it is typed: "30s", "1h30min", "8GiB", "512MiB".
std::string typed(Duration duration);
std::string typed(Mib size);

/// A budget that takes whatever the card has: "rest".
inline constexpr Mib kRest = kRestOfDevice;

}  // namespace gq::policy

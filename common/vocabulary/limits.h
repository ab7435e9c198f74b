// limits.h - every bound has a name, a default and a reason.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/vocabulary/units.h"

namespace gq {

struct Timing {
  Duration heartbeat_interval = 1s;      // both ways, on the thread that does the work
  Duration silence = 5s;                 // a worker unheard this long gets no new work
  Duration lease = 10s;                  // must outlive several heartbeats
  Duration restart_grace = 15s;          // after a broker start no loss is declared: a fleet needs this long to dial in
  Duration offer_timeout = 5s;           // ASSIGN unanswered this long after commit (and processed) goes back
  Duration rescue_probe_span = 10ms;     // link probes after a DISCONNECTED event
  Duration rescue_hello_wait = 1s;       // a reconnecting worker may still say HELLO
  Duration rescue_beat_age = 3s;         // beat younger than this when the link went = sudden death
  Duration own_stall = 1s;               // a larger gap between two steps is our own stall
  Duration timeout_margin = 5s;          // the broker enforces a job's timeout this much later than the worker
  Duration yield_deadline = 30s;         // default deadline of a preemption
  Duration plan_margin = 10s;            // room is kept this much longer than the last deadline of those who leave for it
  Duration replan = 500ms;               // a shape that fits nowhere looks for victims at most this often
  Duration replan_soon = 100ms;          // or this often, when what it had planned became impossible
  Duration retry_backoff_min = 1s;
  Duration retry_backoff_max = 5min;
  Duration refuse_backoff = 1s;          // shape x device after a REFUSED
  Duration aging_step = 10min;           // one priority step is worth this much waiting
  Duration tombstone = 1h;               // an id is remembered at least this long after the end
  Duration result_retention = 24h;       // by age
  Duration undurable_retention = 60s;    // likewise, of a job with durability none: its caller waits, or has left
  Duration orphan_timeout = 15min;       // a worker without a broker keeps its jobs this long
};
inline constexpr Timing kTiming{};
static_assert(kTiming.lease >= 5 * kTiming.heartbeat_interval, "a lease must outlive several heartbeats");

struct Limits {
  std::size_t frame_bytes_max = 1U << 20U;          // one wire frame
  std::size_t frame_bytes_hard = 4U << 20U;         // ZMQ_MAXMSGSIZE
  std::size_t items_max = 256;                      // per hot message, and jobs per commit
  std::size_t batch_bytes_max = 4U << 20U;          // written plus read per commit
  std::size_t inline_bytes_max = 64U << 10U;        // larger parts go to the blob store
  std::size_t blob_bytes_max = std::size_t{8} << 30U;
  std::size_t blob_chunk_bytes = 256U << 10U;
  std::size_t log_ring_bytes = 256U << 10U;
  std::size_t name_chars_max = 64;
  std::size_t where_max = 16;
  std::size_t after_max = 256;
  std::uint32_t retries_max = 100;
  std::uint32_t own_losses_max = 3;                 // then quarantined
  std::size_t workers_max = 20'000;
  std::size_t jobs_max = 5'000'000;                 // unfinished jobs in one namespace
  std::size_t image_pixels_max = 64U << 20U;        // 8192 x 8192
  std::size_t image_bytes_max = 64U << 20U;
  std::size_t snapshot_bytes_max = std::size_t{1} << 30U;   // of a working directory that travels with a job; data sets belong in parts
  std::size_t snapshot_files_max = 20'000;
};
inline constexpr Limits kLimits{};

}  // namespace gq

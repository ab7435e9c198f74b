// rows.h - what the simulated world is made of, as flat rows; a happening names a row by number.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "broker/core/core.h"
#include "tests/checker/job_numbers.h"
#include "tests/sim/wheel.h"

namespace gq::sim {

using checker::JobNumber;
using checker::kNoJob;

enum class Side : std::uint8_t { worker, client };

/// One end's connection to the broker. An epoch is one connection: what travels on an older one is gone with it.
struct Link {
  std::uint32_t epoch{};
  bool open{};             ///< the transport is there
  bool dialling{};
  Tick up_last{};          ///< nothing overtakes within a connection
  Tick down_last{};
  Tick up_cut_until{};     ///< partition: what is sent arrives afterwards
  Tick down_cut_until{};
  std::int64_t slow_us{};  ///< added to each hop
};

struct Warm {              ///< a model on a device
  std::uint32_t serial{};
  std::uint16_t lane{};    ///< 0 = still loading
  std::uint16_t device{};
  bool excused{};
  std::uint32_t active{};
  std::int64_t last_used_us{};
  std::string model;       ///< NAME@VERSION
  Mib size{};
  JobClass job_class{};    ///< of who loaded it
  bool leaving{};          ///< asked to leave its device
};

struct Run {
  core::Grant grant;
  core::Checkpoint resumed;       ///< what it was handed to go on from
  JobClass job_class{};
  OnPreempt on_preempt{};
  std::int64_t began_us{};
  JobNumber job{kNoJob};
  std::uint32_t serial{};
  std::uint16_t lane{};
  std::uint16_t devices_count{};
  std::uint16_t devices[4]{};   ///< index into the worker's devices
  Mib held{};                   ///< on each of them, of its own (not the shared model)
  std::uint32_t warm{};         ///< serial of the model it uses; 0 = none
  bool ends_by_timeout{};
  bool began{}, excused{}, holds_lane{true}, loads_model{};
  bool released{};                ///< asked to leave: off the device, its state not yet durable
  bool checkpoints{};             ///< its state survives it
  enum class Stop : std::uint8_t { none, yield, kill, cancel, revoke } stop{};
};

struct LaneRow {
  std::uint16_t lane{};
  core::LaneKind kind{};
  std::uint16_t device{};
  std::uint32_t capacity{};
  std::uint32_t held{};
  std::uint64_t announced{};    ///< cumulative limit, as last said
  std::uint64_t used{};         ///< assignments seen since HELLO
  std::string model;            ///< warm
};

struct Held {                   ///< a RESULT not yet answered
  core::AttemptEnd end;
  Tick sent{};
};

struct WorkerDevice {
  std::uint32_t global{};       ///< row of the physical device; two workers may report one
  std::string uuid;
  Mib total{}, driver{};
};

struct WorkerRow {
  std::string name, host;
  std::uint64_t instance{};
  Link link;
  bool alive{}, frozen{}, welcomed{}, draining{};
  std::uint64_t number_max{};   ///< of the broker's numbered messages on this connection
  std::uint64_t number_gap{};   ///< first one that never came; 0 = none
  Tick gap_since{};
  Tick greeted{};               ///< when HELLO was said
  Tick heard{};                 ///< last word of the broker
  Tick judged{};                ///< last beat or HELLO of this worker that the broker processed
  Tick thaw_at{};
  std::uint32_t next_serial{1};
  std::uint16_t next_lane{};
  std::uint64_t request{};
  bool flush_asked{};
  std::vector<WorkerDevice> devices;
  std::vector<std::string> labels;
  std::vector<KindIndex> kinds;
  std::vector<Run> runs;
  std::vector<LaneRow> lanes;
  std::vector<Warm> warm;
  std::vector<Held> held;
  std::vector<core::Grant> said_started;     ///< waiting for the flush
  std::vector<core::LaneDeclared> opened;
  std::vector<std::uint16_t> closed;
  std::vector<core::Message> stopped_inbox;  ///< what arrived while frozen
  bool beat_on{};                            ///< its beat is scheduled
};

struct PhysicalDevice {
  std::vector<std::uint32_t> offered_by;     ///< workers
  Mib total{}, driver{}, foreign{};
  Mib used{};                                ///< by everything of ours on it, excused or not
  std::int16_t temperature_c{50};
  bool broken{};                             ///< its worker reports it as unhealthy
};

inline LaneRow* find_lane(WorkerRow& w, std::uint16_t number) {
  for (LaneRow& lane : w.lanes)
    if (lane.lane == number) return &lane;
  return nullptr;
}
inline std::size_t find_run(const WorkerRow& w, std::uint32_t serial) {
  for (std::size_t i = 0; i < w.runs.size(); ++i)
    if (w.runs[i].serial == serial) return i;
  return SIZE_MAX;
}
inline Warm* find_warm(WorkerRow& w, std::uint32_t serial) {
  for (Warm& m : w.warm)
    if (m.serial == serial) return &m;
  return nullptr;
}

struct ClientRow {
  std::vector<JobNumber> to_submit;          ///< scenarios: arrived, not yet sent
  Link link;
  std::uint64_t request{};
  std::uint64_t models_pushed{};
  std::vector<JobNumber> outstanding;        ///< the batch in question
  std::uint64_t outstanding_request{};
  Tick sent{};
  Tick rewatched{};
  Tick think_until{};
  std::vector<JobNumber> mine;               ///< acknowledged, not yet noticed (swept now and then)
  std::vector<JobNumber> to_fetch;
  std::vector<std::pair<std::uint64_t, std::vector<JobNumber>>> cancels;  ///< request, jobs
  std::vector<std::pair<std::uint64_t, std::pair<JobNumber, JobNumber>>> retries;
  Tick turn_at{};
};

struct Batch {
  std::vector<core::Mutation> mutations;
  std::vector<core::Message> sends;
  std::uint64_t number{};
  std::uint32_t jobs{};
};

}  // namespace gq::sim

// devices.h - which devices this worker offers, and what is measured of them once a second on a thread of its own.
//
//   --devices auto       every NVIDIA card (NVML), else Apple's MPS where built for it, else this host's CPU
//   --devices cpu        the CPU alone: "CPU-<worker>", its total is --cpu-memory, its use the resident memory of our children
//   --devices UUID,…     exactly these cards; an unknown one is NO_DEVICE with the list of what is there
//   --simulate-gpus A,B  pretend cards "GPU-sim-<worker>-<i>" for tests; their children run on the CPU
//                        $GPUQ_SIM_DEVICES names a file that says how they fare, read every second; lines such as
//                        "0 temperature=91 foreign=3000 xid=79 utilization=50" (index, then what is not as usual; MiB, degrees C)
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/net/asio.h"
#include "common/vocabulary/errors.h"
#include "common/vocabulary/units.h"
#include "common/wire/messages.h"

namespace gq::worker {

enum class DeviceKind : std::uint8_t { cpu, cuda, mps, simulated };   // as core::DeviceKind, the wire's numbers
std::string_view to_string(DeviceKind kind);
inline bool is_card(const wire::Device* device) { return device != nullptr && static_cast<DeviceKind>(device->kind) == DeviceKind::cuda; }

struct DeviceChoice {
  std::string devices = "auto";
  std::string simulate;         ///< "24GiB,8GiB"
  Mib cpu_memory{};             ///< 0 = half of this host's memory
};

class Devices {
 public:
  using Changed = std::function<void(std::vector<wire::Device>)>;
  /// Looks once, in the calling thread.
  static Result<std::unique_ptr<Devices>> find(const DeviceChoice& choice, const std::string& worker);
  ~Devices();
  /// Starts the monitor; `changed` runs on `io` about every second.
  void watch(asio::io_context& io, Changed changed);
  [[nodiscard]] const std::vector<wire::Device>& list() const;
  [[nodiscard]] const wire::Device* by_uuid(const std::string& uuid) const;
  /// Which process groups of ours live on a device: what they use is told apart from foreign use.
  void add_group(const std::string& uuid, pid_t group);
  void remove_group(const std::string& uuid, pid_t group);
  /// What this group of ours holds there, as last measured; nullopt where that cannot be seen (pretend cards, some containers).
  [[nodiscard]] std::optional<std::int64_t> group_mib(const std::string& uuid, pid_t group) const;
  /// So much of what others use there is expected: not counted as foreign until the last copy is gone.
  using Booking = std::shared_ptr<const void>;
  Booking book(const std::vector<std::string>& uuids, std::int64_t mib);
  /// A group of ours has ended there since the last measurement: what it says of our use is too much.
  [[nodiscard]] bool is_outdated(const std::string& uuid) const { return outdated_.contains(uuid); }
  /// `done` (on `io`) once a child that says it has let go of its memory measurably holds at most `left_mib` on the device, or is gone. At
  /// once where that cannot be measured (no card, no figures per process): then the child's word has to do.
  void when_freed(asio::io_context& io, const std::string& uuid, pid_t group, std::int64_t left_mib, std::function<void()> done);

 private:
  Devices();
  struct State;
  std::shared_ptr<State> state_;
  std::map<std::string, std::uint64_t> outdated_;   ///< by device: which removal the next measurement must have seen
};

/// Resident MiB of all processes whose group is in `groups`.
std::map<pid_t, std::int64_t> resident_mib_by_group(const std::set<pid_t>& groups);
Mib host_memory();

}  // namespace gq::worker

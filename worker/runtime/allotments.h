// allotments.h - what this worker has promised of each device's memory, until it is really free: the last look before a start.
//
// The broker's ledger decides what fits; this one knows what the broker cannot: a child that was revoked (or belongs to a lease lost
// while this worker was frozen) and is still dying, and a foreign process that came since the last heartbeat. A start that does not
// fit is refused with NO_FIT: the job keeps its place, and the broker tries that device again a little later.
//
//   room = total - driver - foreign (measured) - max(promised, measured use of our children - 5 %)
//
// The measured half counts on cards only: resident memory is no measure of what a budget on a CPU will need.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/wire/messages.h"

namespace gq::worker {

class Devices;

/// Booked memory; given back when the last copy is gone.
using Allotment = std::shared_ptr<const void>;

class Allotments {
 public:
  explicit Allotments(const Devices& devices) : devices_(devices), promised_(std::make_shared<Promised>()) {}
  /// `mib` on each of them, or NO_FIT and nothing.
  Result<Allotment> book(const std::vector<std::string>& uuids, std::int64_t mib);
  [[nodiscard]] std::int64_t promised(const std::string& uuid) const;

 private:
  using Promised = std::map<std::string, std::int64_t>;
  const Devices& devices_;
  std::shared_ptr<Promised> promised_;
};

/// What may still be promised of a device, by its last measurement. `current` = no child of ours has ended since.
std::int64_t room_on(const wire::Device& device, std::int64_t promised_mib, bool current = true);

}  // namespace gq::worker

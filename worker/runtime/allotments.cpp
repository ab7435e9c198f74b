#include "worker/runtime/allotments.h"

#include <algorithm>

#include "worker/runtime/devices.h"

namespace gq::worker {
namespace {

constexpr std::int64_t kOvershootShare = 20;   // of the card, 5 %: contexts and allocators are not exact to the MiB, budgets are

}  // namespace

std::int64_t room_on(const wire::Device& device, std::int64_t promised_mib, bool current) {
  const std::int64_t foreign = std::max<std::int64_t>(0, device.used_mib - device.driver_mib - device.used_by_us_mib);
  const bool measured = static_cast<DeviceKind>(device.kind) == DeviceKind::cuda;
  const std::int64_t ours = measured && current ? device.used_by_us_mib - device.total_mib / kOvershootShare : 0;
  return device.total_mib - device.driver_mib - foreign - std::max(promised_mib, ours);
}

std::int64_t Allotments::promised(const std::string& uuid) const {
  const auto it = promised_->find(uuid);
  return it == promised_->end() ? 0 : it->second;
}

Result<Allotment> Allotments::book(const std::vector<std::string>& uuids, std::int64_t mib) {
  for (const std::string& uuid : uuids) {
    const wire::Device* device = devices_.by_uuid(uuid);
    if (device == nullptr) return fail(Errc::not_here, "no device " + uuid + " here");
    if (const std::int64_t room = room_on(*device, promised(uuid), !devices_.is_outdated(uuid)); mib > room)
      return fail(Errc::no_fit, std::to_string(mib) + " MiB do not fit " + uuid + " now: " + std::to_string(std::max<std::int64_t>(0, room)) +
                                    " MiB are really free, " + std::to_string(promised(uuid)) + " MiB belong to children that live");
  }
  for (const std::string& uuid : uuids) (*promised_)[uuid] += mib;
  // The map is shared: a run may outlive this object when the worker ends.
  return Allotment(nullptr, [promised = promised_, uuids, mib](const void*) {
    for (const std::string& uuid : uuids) (*promised)[uuid] -= mib;
  });
}

}  // namespace gq::worker

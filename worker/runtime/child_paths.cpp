#include "worker/runtime/child_paths.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "worker/runtime/devices.h"

namespace gq::worker {

std::string child_program(const std::string& name) {
  std::string folder;
  if (const char* chosen = std::getenv("GPUQ_LIBEXEC"); chosen != nullptr && *chosen != '\0') {
    folder = chosen;
  } else {
    std::error_code ec;
    folder = std::filesystem::read_symlink("/proc/self/exe", ec).parent_path().string();
  }
  std::string path = folder + "/" + name;
  return ::access(path.c_str(), X_OK) == 0 ? path : std::string();
}

std::string python_file(const std::string& name) {
  std::string folder;
  if (const char* chosen = std::getenv("GPUQ_PYTHON_DIR"); chosen != nullptr && *chosen != '\0') {
    folder = chosen;
  } else {
    std::error_code ec;
    folder = std::filesystem::read_symlink("/proc/self/exe", ec).parent_path().parent_path().string() + "/share/gpuq/python";
  }
  std::error_code ec;
  const std::string path = std::filesystem::canonical(folder + "/" + name, ec).string();
  return ec ? std::string() : path;
}

std::string visible_devices(const Devices& devices, const std::vector<std::string>& uuids) {
  std::string out;
  for (const std::string& uuid : uuids) {
    const wire::Device* device = devices.by_uuid(uuid);
    if (device != nullptr && static_cast<DeviceKind>(device->kind) == DeviceKind::cuda) out += (out.empty() ? "" : ",") + uuid;
  }
  return out;
}

}  // namespace gq::worker

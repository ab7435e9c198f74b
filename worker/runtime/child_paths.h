// child_paths.h - where the programs for children are, and what their managers share.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/net/asio.h"
#include "common/vocabulary/units.h"

namespace gq::worker {

class Processes;
class Devices;
class Blobs;
class ParentResults;
class Reports;
class Allotments;
class Pauses;
}  // namespace gq::worker
namespace gq::files {
class Shares;
}
namespace gq::worker {

struct ChildContext {
  asio::io_context& io;
  Processes& processes;
  Devices& devices;
  Blobs& blobs;
  ParentResults& parents;
  asio::thread_pool& disk;
  Reports& reports;
  Allotments& allotments;
  Pauses& pauses;
  const files::Shares& shares;
  std::string scratch;
  Duration term_grace{};
};

/// $GPUQ_LIBEXEC/NAME, else NAME beside the running program; empty when there is none.
std::string child_program(const std::string& name);
/// NAME below $GPUQ_PYTHON_DIR, else below ../share/gpuq/python of the running program; empty when it is not there.
std::string python_file(const std::string& name);
/// CUDA_VISIBLE_DEVICES for these devices: UUIDs of cards, nothing for CPU and simulated ones.
std::string visible_devices(const Devices& devices, const std::vector<std::string>& uuids);

}  // namespace gq::worker

// openb.h - replays a trace in the openb format through the packing code: how full does a fleet get before nothing fits any more?
//
// Nodes: sn, cpu_milli, memory_mib, gpu, model. Tasks: name, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec ("A|B", empty = any);
// further columns are ignored, the order is free. 1000 milli are one card. The protocol is that of FGD's authors: shuffle the tasks with
// the seed, append tasks drawn with replacement until they ask for `tune` times the fleet's cards, place one at a time; nobody leaves,
// nothing is tried twice; CPU and memory are hard limits. The result is the share of all cards that is allocated at the end.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "broker/core/packing.h"
#include "common/vocabulary/errors.h"

namespace gq::sim {

inline constexpr std::int64_t kCard = 1000;  // milli

struct OpenbTrace {
  std::vector<core::PackNode> nodes;
  std::vector<core::PackTask> tasks;
  std::int64_t capacity{};              ///< milli of all cards
};
Result<OpenbTrace> read_openb(std::istream& nodes, const std::string& nodes_name, std::istream& tasks, const std::string& tasks_name);

struct OpenbResult {
  std::uint64_t seed{};
  std::uint64_t tasks{}, placed{};
  double allocated_pct{};               ///< of all cards
  double fragmented_pct{};              ///< free, but of no use to a task of the usual mix, in % of all cards
  std::uint64_t trace_hash{};           ///< of every decision
  std::uint64_t ratings{};
  double seconds{};
};
OpenbResult replay_openb(const OpenbTrace& trace, core::PackPolicy policy, std::uint64_t seed, double tune);

/// gpuq-sim --openb NODES.csv TASKS.csv --policy random|best-fit|fgd [--seeds 42..51] [--tune 1.3] [--json FILE]; the exit code.
int openb_main(int argc, char** argv, const std::string& commit, const std::string& machine);

}  // namespace gq::sim

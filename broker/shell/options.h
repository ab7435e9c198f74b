// options.h - what gpuq-broker is told, with its defaults and their reasons. Flag > GPUQ_* > --config file > default.
//
// The file is gpuq.toml: [broker] has the flags below under their own names, the other sections are the policy (broker/policy).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "broker/policy/source.h"
#include "broker/store/redis_store.h"
#include "common/vocabulary/errors.h"
#include "common/vocabulary/limits.h"

namespace gq::broker {

/// `gpuq-broker fsck`: look at the data instead of serving it.
struct FsckOptions {
  bool repair{}, deep{}, json{};
};

struct Options {
  std::string data_dir;                                    ///< $XDG_STATE_HOME/gpuq or ~/.local/state/gpuq
  std::string redis;                                       ///< empty = a managed child in the data directory
  store::Durability durability = store::Durability::always;
  std::uint64_t redis_budget_bytes = 0;                    ///< demanded when that Redis has maxmemory 0
  std::optional<std::uint32_t> redis_replicas;             ///< that must have a batch before its effects leave; unset = 1 with sentinels, else 0
  std::uint64_t redis_memory_bytes = 0;                    ///< of the managed child; 0 = its default
  std::uint64_t blob_quota_bytes = 0;
  std::uint64_t queued_bytes_max = 0;
  std::string space;
  std::string listen_clients, listen_workers;
  std::string listen_http;                                 ///< "none" = no HTTP
  std::string keys_dir;                                    ///< DATA/keys
  bool insecure = false;
  bool memory_store = false;
  int ready_fd = -1;
  Timing timing{};
  std::optional<FsckOptions> fsck;
  std::shared_ptr<policy::PolicySource> policy;            ///< never empty
};

/// nullopt: --help or --version was asked for and printed. Errors: USAGE.
Result<std::optional<Options>> parse_options(int argc, const char* const* argv);

}  // namespace gq::broker

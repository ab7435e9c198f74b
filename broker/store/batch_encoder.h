// batch_encoder.h - mutations to native commands: the net effect of one batch, grouped into variadic commands.
//
// A batch is atomic, so only its net effect counts: of a job that is submitted, granted and ended in one batch there is one
// record and one ZADD. All writes to STRINGs become one MSET, all reads of bodies one MGET (first, so it sees what was there
// before), all deletions one UNLINK, and each set gets at most one ZREM and one ZADD. No two commands touch the same key or
// member, so their order among each other means nothing; 256 whole lives are about a dozen commands.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/store/command.h"
#include "broker/store/layout.h"
#include "broker/store/store.h"

namespace gq::store {

struct EncodedBatch {
  std::uint64_t number{};
  CommandBuffer commands;          ///< what goes between MULTI and SET batch
  std::vector<JobId> reads;        ///< when not empty, the first command is the MGET of these jobs' bodies
  std::unordered_map<JobId, std::shared_ptr<const Bytes>> known;   ///< bodies asked for that this batch itself brought
};

EncodedBatch encode_batch(const Batch& batch, const Keys& keys);

}  // namespace gq::store

// store.h - journal and recovery image behind one interface: Redis, or memory for tests.
//
// The shell writes one batch at a time. A batch is atomic, in order, and fenced by the term: a deposed broker's batch is never
// applied. How a Redis store keeps that promise through lost replies, restarts and fail-overs is its own affair
// (design-correctness 1); what comes out here is only: applied, not applied and why, or "you no longer lead".
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/core/record.h"
#include "common/vocabulary/errors.h"

namespace gq::store {

using Bytes = std::string;  ///< raw bytes

/// A mutation with the bytes its token stands for, when it has one (JobCreated.body, ResultStored.result).
struct BatchItem {
  core::Mutation mutation;
  std::shared_ptr<const Bytes> bytes;
};
struct Batch {
  std::uint64_t number{};            ///< previous + 1
  std::vector<BatchItem> items;
};

struct Committed {
  std::uint64_t number{};
  std::unordered_map<JobId, std::shared_ptr<const Bytes>> payloads;  ///< for each PayloadRead; null = missing in the store
};

struct Opened {
  Term term{};
  std::uint64_t batch{};             ///< number of the last applied batch
  core::Image image;
  std::uint64_t bytes_used{};        ///< of the store, at load
  std::uint64_t bytes_max{};
  bool brand_new{};                  ///< this namespace was empty
};

/// Told on the loop's thread, never from inside a call into the store.
struct Watcher {
  std::function<void(Error why)> down;         ///< commits wait: answer new submits with why.code (UNAVAILABLE, STORAGE_FULL)
  std::function<void()> up;
  std::function<void(Error why)> fenced;       ///< somebody else leads, or the image is corrupt: stop, say why, exit
  std::function<void(Error why)> reload;       ///< what the store holds is not what this core believes: open() again with a new core
};

/// Found bytes in the order asked for; null where there is none. UNAVAILABLE while the store cannot be reached: ask again.
using ReadDone = std::function<void(Result<std::vector<std::shared_ptr<const Bytes>>>)>;

/// One thread, the io_context's: every call is made there and every callback comes from there, never from inside a call.
class Store {
 public:
  virtual ~Store() = default;
  /// Take over the namespace (move the term), then read the image. May be called again after Watcher::reload.
  virtual void open(std::function<void(Result<Opened>)> done) = 0;
  /// One in flight. `done` is called exactly once, only when it has been applied: while it cannot be, the store keeps the same
  /// bytes, tries again with back-off and says down/up; fenced and reload end the batch without `done`.
  virtual void commit(Batch batch, std::function<void(Committed)> done) = 0;
  /// Result bytes of final jobs, by plain reads; null where there is none.
  virtual void read_results(std::vector<JobId> jobs, ReadDone done) = 0;
  /// Bodies, by plain reads (rule 1.4: reply lost although applied; `gpuq status` of a waiting job).
  virtual void read_payloads(std::vector<JobId> jobs, ReadDone done) = 0;
  [[nodiscard]] virtual std::string describe() const = 0;   ///< for people: "redis 7.0.15 managed, fsync always"
  virtual void close() = 0;
};

}  // namespace gq::store

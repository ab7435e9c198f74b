// memory_store.h - the Store of tests and of the simulator's bigger brother: no disk, no socket, every fault on demand.
//
// A MemoryDisk is what survives: open() of a second MemoryStore on the same disk moves the term and fences the first, exactly as
// two brokers on one Redis namespace. Callbacks come from the io_context, never from inside a call, as with Redis.
#pragma once

#include <chrono>
#include <map>
#include <memory>

#include "broker/store/store.h"

namespace boost::asio {
class io_context;
}

namespace gq::store {

/// What is durable: the plainest possible model of the recovery image. Tests may look and meddle.
struct MemoryDisk {
  struct Job {
    core::JobRecord record;
    std::shared_ptr<const Bytes> body, result;
  };
  Term term{};
  std::uint64_t batch{};
  std::map<JobId, Job> jobs;
  std::map<std::pair<std::string, std::string>, core::ModelRecord> models;  ///< by name and version
  std::map<std::pair<core::OperatorSetting::Kind, std::string>, core::OperatorSetting> settings;  ///< by kind and target
  std::map<JobId, core::Image::Tombstone> tombstones;
  std::map<std::string, JobId> unique;

  void apply(const BatchItem& item);
  [[nodiscard]] core::Image image() const;
  [[nodiscard]] std::shared_ptr<const Bytes> body(JobId id) const;
  [[nodiscard]] std::uint64_t bytes() const;
};

class MemoryStore : public Store {
 public:
  // ---- faults, for tests
  /// Nothing is applied until come_up(); Watcher.down is told with `why` (UNAVAILABLE, STORAGE_FULL, …).
  virtual void go_down(Error why) = 0;
  virtual void come_up() = 0;
  /// Each commit takes this long from now on.
  virtual void set_delay(std::chrono::microseconds delay) = 0;
  /// The next commit is applied but its reply is lost: down, up, payloads read again, done.
  virtual void lose_next_reply() = 0;
  /// The next batch is not applied and its `done` never called; Watcher.reload(why) comes instead.
  virtual void drop_next_batch(Error why) = 0;
  /// The next batch is applied, its `done` never called; Watcher.reload(why) comes instead.
  virtual void apply_next_batch_and_reload(Error why) = 0;
  virtual void fence(Error why) = 0;
  [[nodiscard]] virtual MemoryDisk& disk() = 0;
};

std::unique_ptr<MemoryStore> make_memory_store(boost::asio::io_context& io, Watcher watcher,
                                               std::shared_ptr<MemoryDisk> disk = std::make_shared<MemoryDisk>());

}  // namespace gq::store

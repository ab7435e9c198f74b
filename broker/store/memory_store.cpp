// memory_store.cpp - applying a batch to maps, and the faults.
#include "broker/store/memory_store.h"

#include <deque>
#include <optional>

#include "common/net/asio.h"

namespace gq::store {

void MemoryDisk::apply(const BatchItem& item) {
  static const auto nothing = std::make_shared<const Bytes>();
  std::visit(overloaded{
                 [&](const core::JobCreated& m) {
                   auto bytes = m.body_of.empty() ? item.bytes : body(m.body_of);
                   if (!bytes && m.body_of.empty()) bytes = nothing;
                   jobs[m.record.fixed.id] = {m.record, std::move(bytes), nullptr};
                 },
                 [&](const core::JobChanged& m) {
                   const auto it = jobs.find(m.id);
                   if (it != jobs.end()) it->second.record.dynamic = m.now;
                 },
                 [&](const core::PayloadRead&) {},
                 [&](const core::ResultStored& m) {
                   const auto it = jobs.find(m.id);
                   if (it != jobs.end()) it->second.result = item.bytes ? item.bytes : nothing;
                 },
                 [&](const core::ResultDropped& m) {
                   const auto it = jobs.find(m.id);
                   if (it != jobs.end()) it->second.result = nullptr;
                 },
                 [&](const core::JobForgotten& m) {
                   jobs.erase(m.id);
                   if (m.tombstone) tombstones.insert_or_assign(m.id, core::Image::Tombstone{m.id, m.digest, m.ended});
                 },
                 [&](const core::TombstoneDropped& m) { tombstones.erase(m.id); },
                 [&](const core::UniqueTaken& m) { unique[m.key] = m.id; },
                 [&](const core::UniqueReleased& m) { unique.erase(m.key); },
                 [&](const core::ModelStored& m) { models[{m.record.name, m.record.version}] = m.record; },
                 [&](const core::ModelRemoved& m) { models.erase({m.name, m.version}); },
                 [&](const core::JobRevised& m) {
                   const auto it = jobs.find(m.fixed.id);
                   if (it != jobs.end()) it->second.record.fixed = m.fixed;
                 },
                 [&](const core::SettingStored& m) { settings[{m.setting.kind, m.setting.target}] = m.setting; },
                 [&](const core::SettingDropped& m) { settings.erase({m.kind, m.target}); },
             },
             item.mutation);
}

core::Image MemoryDisk::image() const {
  core::Image image;
  for (const auto& [id, job] : jobs) image.jobs.push_back(job.record);
  for (const auto& [name, model] : models) image.models.push_back(model);
  for (const auto& [id, tombstone] : tombstones) image.tombstones.push_back(tombstone);
  for (const auto& [key, setting] : settings) image.settings.push_back(setting);
  return image;
}

std::shared_ptr<const Bytes> MemoryDisk::body(JobId id) const {
  const auto it = jobs.find(id);
  return it == jobs.end() ? nullptr : it->second.body;
}

std::uint64_t MemoryDisk::bytes() const {
  std::uint64_t total = 0;
  for (const auto& [id, job] : jobs)
    total += 400 + (job.body ? job.body->size() : 0) + (job.result ? job.result->size() : 0);
  return total;
}

namespace {

class Memory final : public MemoryStore {
 public:
  Memory(asio::io_context& io, Watcher watcher, std::shared_ptr<MemoryDisk> disk)
      : io_(io), watcher_(std::move(watcher)), disk_(std::move(disk)), timer_(io) {}
  ~Memory() override { *alive_ = false; }

  void open(std::function<void(Result<Opened>)> done) override {
    later([this, done = std::move(done)] {
      if (down_) return done(tl::unexpected<Error>(*down_));
      commit_.reset();
      term_ = ++disk_->term;
      Opened opened{.term = term_, .batch = disk_->batch, .image = disk_->image(), .bytes_used = disk_->bytes(),
                    .bytes_max = 0, .brand_new = term_ == 1};
      open_ = true;
      done(std::move(opened));
    });
  }

  void commit(Batch batch, std::function<void(Committed)> done) override {
    check(!commit_, "a second commit while one is in flight");
    check(open_, "a commit before open()");
    commit_.emplace(Pending{std::move(batch), std::move(done)});
    timer_.expires_after(delay_);
    const auto alive = alive_;
    timer_.async_wait([this, alive](ErrorCode error) {
      if (!error && *alive) try_commit();
    });
  }

  void read_results(std::vector<JobId> jobs, ReadDone done) override {
    read(std::move(jobs), std::move(done), [this](JobId id) -> std::shared_ptr<const Bytes> {
      const auto it = disk_->jobs.find(id);
      return it == disk_->jobs.end() ? nullptr : it->second.result;
    });
  }
  void read_payloads(std::vector<JobId> jobs, ReadDone done) override {
    read(std::move(jobs), std::move(done), [this](JobId id) { return disk_->body(id); });
  }

  [[nodiscard]] std::string describe() const override { return "memory (nothing survives this process)"; }
  void close() override {
    open_ = false;
    commit_.reset();
    timer_.cancel();
    *alive_ = false;
    alive_ = std::make_shared<bool>(true);
  }

  void go_down(Error why) override {
    down_ = why;
    later([this, why] { if (watcher_.down) watcher_.down(why); });
  }
  void come_up() override {
    down_.reset();
    later([this] {
      if (watcher_.up) watcher_.up();
      try_commit();
    });
  }
  void set_delay(std::chrono::microseconds delay) override { delay_ = delay; }
  void lose_next_reply() override { lose_reply_ = true; }
  void drop_next_batch(Error why) override { drop_ = std::move(why); }
  void apply_next_batch_and_reload(Error why) override { apply_and_reload_ = std::move(why); }
  void fence(Error why) override {
    open_ = false;
    commit_.reset();
    later([this, why] { if (watcher_.fenced) watcher_.fenced(why); });
  }
  MemoryDisk& disk() override { return *disk_; }

 private:
  struct Pending {
    Batch batch;
    std::function<void(Committed)> done;
  };

  template <class F>
  void later(F f) {
    asio::post(io_, [alive = alive_, f = std::move(f)] {
      if (*alive) f();
    });
  }

  void try_commit() {
    if (!commit_ || down_ || !open_) return;
    if (disk_->term != term_)
      return fence({Errc::fenced, "another broker has taken over this namespace", "stop one of the two brokers"});
    Pending pending = std::move(*commit_);
    commit_.reset();
    if (auto why = std::exchange(drop_, std::nullopt)) return reload(*why);
    check(pending.batch.number == disk_->batch + 1, "batch numbers must follow one another");

    Committed committed{.number = pending.batch.number, .payloads = {}};
    for (const auto& item : pending.batch.items) {   // a read sees what this batch created and what it forgets later
      if (const auto* read = std::get_if<core::PayloadRead>(&item.mutation))
        committed.payloads[read->id] = disk_->body(read->id);
      disk_->apply(item);
    }
    disk_->batch = pending.batch.number;
    if (auto why = std::exchange(apply_and_reload_, std::nullopt)) return reload(*why);
    if (std::exchange(lose_reply_, false)) {
      if (watcher_.down) watcher_.down({Errc::unavailable, "the reply to a batch was lost", "gpuq reads it again"});
      return later([this, done = std::move(pending.done), committed = std::move(committed)] {
        if (watcher_.up) watcher_.up();
        done(committed);
      });
    }
    pending.done(std::move(committed));
  }

  void reload(Error why) {
    open_ = false;
    later([this, why] { if (watcher_.reload) watcher_.reload(why); });
  }

  template <class Find>
  void read(std::vector<JobId> jobs, ReadDone done, Find find) {
    later([this, jobs = std::move(jobs), done = std::move(done), find] {
      if (down_) return done(tl::unexpected<Error>(*down_));
      std::vector<std::shared_ptr<const Bytes>> found;
      found.reserve(jobs.size());
      for (const JobId id : jobs) found.push_back(find(id));
      done(std::move(found));
    });
  }

  asio::io_context& io_;
  Watcher watcher_;
  std::shared_ptr<MemoryDisk> disk_;
  asio::steady_timer timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  Term term_{};
  bool open_{};
  std::optional<Pending> commit_;
  std::chrono::microseconds delay_{0};
  std::optional<Error> down_, drop_, apply_and_reload_;
  bool lose_reply_{};
};

}  // namespace

std::unique_ptr<MemoryStore> make_memory_store(asio::io_context& io, Watcher watcher, std::shared_ptr<MemoryDisk> disk) {
  return std::make_unique<Memory>(io, std::move(watcher), std::move(disk));
}

}  // namespace gq::store

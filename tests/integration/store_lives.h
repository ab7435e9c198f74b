// store_lives.h - batches of random lives for a store, and the plain model of what must be there afterwards.
//
// Records hold what the types can hold, not what a core would write: a store must keep anything.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "broker/store/memory_store.h"
#include "tests/integration/store_driver.h"

namespace gq::test {

using store::BatchItem;

class Lives {
 public:
  explicit Lives(std::uint64_t seed) : random_(seed) {}

  std::vector<BatchItem> batch(std::size_t size) {
    std::vector<BatchItem> items;
    while (items.size() < size) add(items);
    for (const auto& i : items) model.apply(i);
    return items;
  }
  store::MemoryDisk model;

 private:
  std::uint64_t any(std::uint64_t below) { return random_() % below; }
  std::string any_text(std::size_t longest) {
    std::string s(any(longest + 1), '\0');
    for (auto& c : s) c = static_cast<char>(random_());
    return s;
  }
  BlobDigest any_blob() {
    BlobDigest d;
    for (auto& b : d.bytes) b = static_cast<std::uint8_t>(random_());
    return d;
  }
  WallTime any_time() { return {static_cast<std::int64_t>(any(2'000'000'000'000))}; }

  core::JobRecord any_job() {
    core::JobRecord r;
    auto& f = r.fixed;
    f.id = job_id(++made_);
    f.seq = any(1ULL << 50U);
    f.submitted = any_time(), f.digest = {random_(), random_()};
    f.needs.kind = static_cast<KindIndex>(any(kKinds.size()));
    f.needs.job_class = static_cast<JobClass>(any(kJobClasses));
    f.needs.model = any_text(20), f.needs.budget_min = {static_cast<std::int64_t>(any(1 << 20))};
    f.needs.budget_max = any(2) == 0 ? kRestOfDevice : f.needs.budget_min;
    f.needs.devices = static_cast<std::uint16_t>(any(9)), f.needs.on_preempt = static_cast<OnPreempt>(any(4));
    f.needs.exclusive = any(2) == 0;
    for (auto n = any(3); n > 0; --n) f.needs.where.push_back(any_text(30));
    f.priority = static_cast<std::uint8_t>(any(10)), f.not_before = any_time(), f.deadline = any_time();
    f.timeout = Duration(static_cast<std::int64_t>(any(1ULL << 40U))), f.retries = static_cast<std::uint32_t>(any(100));
    f.unique = any_text(10), f.owner = any_text(12), f.label = any_text(40), f.body_bytes = static_cast<std::uint32_t>(random_());
    for (auto n = any(4); n > 0; --n) f.after.push_back({random_(), random_()});
    for (auto n = any(3); n > 0; --n) f.blobs.push_back(any_blob());
    if (any(4) == 0) f.retry_of = {random_(), random_()};
    if (any(2) == 0) r.dynamic = any_dynamic();
    return r;
  }
  core::JobDynamic any_dynamic() {
    core::JobDynamic d;
    d.state = static_cast<JobState>(any(kJobStates)), d.attempt = static_cast<Attempt>(random_()), d.nonce = random_();
    d.failures = static_cast<std::uint32_t>(any(5)), d.losses = static_cast<std::uint32_t>(any(5));
    d.own_losses = static_cast<std::uint32_t>(any(3)), d.preemptions = static_cast<std::uint32_t>(any(9));
    d.worker = any_text(20);
    for (auto n = any(3); n > 0; --n) d.devices.push_back(any_text(40));
    d.granted = {static_cast<std::int64_t>(any(80'000))}, d.cancel_asked = any(2) == 0, d.fetched = any(2) == 0;
    d.due = any_time(), d.started = any_time(), d.ended = any_time();
    if (any(2) == 0) d.checkpoint.blob = any_blob();
    d.checkpoint.step = any(1 << 30), d.model_version = any_text(12);
    d.error = static_cast<Errc>(any(static_cast<std::uint64_t>(Errc::not_here) + 2)), d.error_text = any_text(300);
    d.result_bytes = static_cast<std::uint32_t>(random_());
    for (auto n = any(3); n > 0; --n) d.result_blobs.push_back(any_blob());
    d.held = any(4) == 0;
    if (any(3) == 0) d.evictions = static_cast<std::uint32_t>(any(9)), d.leave_reason = any_text(200), d.leave_for = {any(2) * random_(), random_()};
    return d;
  }

  void add(std::vector<BatchItem>& items) {
    if (live_.empty() || any(5) < 2) {
      auto job = any_job();
      live_.push_back(job);
      return items.push_back(created(job, any_text(300)));
    }
    const auto at = any(live_.size());
    core::JobRecord& job = live_[at];
    switch (any(11)) {
      case 8: {   // a ready job may change its class; the change is told as well then
        core::JobFixed& f = job.fixed;
        f.priority = static_cast<std::uint8_t>(any(10)), f.label = any_text(40), f.deadline = any_time();
        const bool ready = job.dynamic.state == JobState::ready;
        if (ready) f.needs.job_class = static_cast<JobClass>(any(kJobClasses));
        items.push_back(item(core::JobRevised{f}));
        if (ready) items.push_back(item(core::JobChanged{f.id, JobState::ready, job.dynamic, f.seq, f.needs.job_class}));
        return;
      }
      case 9: {
        core::OperatorSetting s;
        s.kind = static_cast<core::OperatorSetting::Kind>(any(3)), s.target = std::string(1, static_cast<char>('a' + any(3)));
        if (any(3) == 0) return items.push_back(item(core::SettingDropped{s.kind, s.target}));
        s.deadline = any_time(), s.reason = any_text(30), s.by = any_text(9), s.at = any_time();
        return items.push_back(item(core::SettingStored{s}));
      }
      case 0: case 1: case 2: {
        const JobState from = job.dynamic.state;
        job.dynamic = any_dynamic();
        return items.push_back(item(core::JobChanged{job.fixed.id, from, job.dynamic, job.fixed.seq, job.fixed.needs.job_class}));
      }
      case 3: return items.push_back(item(core::ResultStored{job.fixed.id, 1, 1, 1}, any_text(200)));
      case 4: return items.push_back(item(core::ResultDropped{job.fixed.id}));
      case 5: {
        items.push_back(item(core::JobForgotten{job.fixed.id, job.dynamic.state, any(2) == 0, {random_(), random_()}, any_time()}));
        forgotten_.push_back(job.fixed.id);
        live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(at));
        return;
      }
      case 6:
        if (forgotten_.empty()) return;
        items.push_back(item(core::TombstoneDropped{forgotten_.back()}));
        return forgotten_.pop_back();
      default: {
        core::ModelRecord m;
        m.name = std::string(1, static_cast<char>('a' + any(4))), m.version = std::to_string(any(3));
        if (any(3) == 0) return items.push_back(item(core::ModelRemoved{m.name, m.version}));
        m.blob = any_blob(), m.bytes = random_(), m.metadata = any_text(100), m.promoted = any(2) == 0;
        return items.push_back(item(core::ModelStored{m}));
      }
    }
  }

  std::mt19937_64 random_;
  std::uint64_t made_{};
  std::vector<core::JobRecord> live_;
  std::vector<JobId> forgotten_;
};

}  // namespace gq::test

// store_driver.h - drives a Store from a test, step by step: each verb runs the loop until it is answered or a deadline passes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "broker/store/store.h"
#include "common/net/asio.h"

namespace gq::test {

using namespace std::chrono_literals;

template <class Predicate>
bool run_until(asio::io_context& io, Predicate holds, std::chrono::milliseconds patience = 15s) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    io.restart();
    io.run_one_for(20ms);
  }
  return true;
}

/// One broker's view of a store: what it was told, in order.
struct StoreDriver {
  explicit StoreDriver(asio::io_context& loop) : io(loop) {}

  store::Watcher watcher() {
    return {.down = [this](Error why) { told.push_back("down " + std::string(to_string(why.code))), last = why; },
            .up = [this] { told.emplace_back("up"); },
            .fenced = [this](Error why) { told.push_back("fenced " + std::string(to_string(why.code))), last = why; },
            .reload = [this](Error why) { told.push_back("reload " + std::string(to_string(why.code))), last = why; }};
  }

  Result<store::Opened> try_open() {
    std::optional<Result<store::Opened>> answer;
    store->open([&](Result<store::Opened> opened) { answer = std::move(opened); });
    if (!run_until(io, [&] { return answer.has_value(); }, 30s)) return fail(Errc::timed_out, "open() never answered");
    if (*answer) next = (*answer)->batch + 1;
    return std::move(*answer);
  }
  store::Opened open() {
    auto opened = try_open();
    if (!opened) {
      ADD_FAILURE() << to_string(opened.error().code) << ": " << opened.error().what;
      return {};
    }
    return std::move(*opened);
  }

  /// Sends it off; `done` counts when it is answered.
  void start_commit(std::vector<store::BatchItem> items) {
    committed.reset();
    store->commit({next++, std::move(items)}, [this](store::Committed c) { committed = std::move(c); });
  }
  store::Committed commit(std::vector<store::BatchItem> items) {
    start_commit(std::move(items));
    return wait_committed();
  }
  store::Committed wait_committed(std::chrono::milliseconds patience = 15s) {
    if (!run_until(io, [&] { return committed.has_value(); }, patience)) {
      ADD_FAILURE() << "batch " << next - 1 << " was never committed; told: " << story();
      return {};
    }
    return std::move(*committed);
  }
  bool wait_told(const std::string& word, std::chrono::milliseconds patience = 15s) {
    return run_until(io, [&] { return std::find(told.begin(), told.end(), word) != told.end(); }, patience);
  }
  [[nodiscard]] std::string story() const {
    std::string all;
    for (const auto& t : told) all += (all.empty() ? "" : ", ") + t;
    return all;
  }

  Result<std::vector<std::shared_ptr<const store::Bytes>>> results(std::vector<JobId> ids) {
    return read([&](store::ReadDone done) { store->read_results(ids, std::move(done)); });
  }
  Result<std::vector<std::shared_ptr<const store::Bytes>>> payloads(std::vector<JobId> ids) {
    return read([&](store::ReadDone done) { store->read_payloads(ids, std::move(done)); });
  }

  asio::io_context& io;
  std::unique_ptr<store::Store> store;
  std::uint64_t next{1};
  std::optional<store::Committed> committed;
  std::vector<std::string> told;
  Error last;

 private:
  template <class Ask>
  Result<std::vector<std::shared_ptr<const store::Bytes>>> read(Ask ask) {
    std::optional<Result<std::vector<std::shared_ptr<const store::Bytes>>>> answer;
    ask([&](Result<std::vector<std::shared_ptr<const store::Bytes>>> found) { answer = std::move(found); });
    if (!run_until(io, [&] { return answer.has_value(); })) return fail(Errc::timed_out, "a read was never answered");
    return std::move(*answer);
  }
};

// ---- mutations of ordinary lives

inline store::BatchItem item(core::Mutation mutation, std::optional<std::string> bytes = {}) {
  return {std::move(mutation), bytes ? std::make_shared<const store::Bytes>(std::move(*bytes)) : nullptr};
}

inline JobId job_id(std::uint64_t n) { return make_job_id(1'760'000'000'000 + n, n & 0xFFFFU, n * 0x9E3779B97F4A7C15ULL + 1); }

inline core::JobRecord a_job(std::uint64_t n, std::uint32_t body_bytes = 0) {
  core::JobRecord r;
  r.fixed.id = job_id(n);
  r.fixed.seq = n;
  r.fixed.submitted = {1'760'000'000'000 + static_cast<std::int64_t>(n)};
  r.fixed.digest = {n * 77, n * 99};
  r.fixed.needs.kind = *kind_index("echo");
  r.fixed.owner = "backend";
  r.fixed.label = "a job";
  r.fixed.body_bytes = body_bytes;
  return r;
}

inline store::BatchItem created(const core::JobRecord& r, std::string body) { return item(core::JobCreated{r, 1, {}}, std::move(body)); }

/// The job moves on; returns the mutation and remembers the new state in `r`.
inline store::BatchItem moved(core::JobRecord& r, JobState to, std::function<void(core::JobDynamic&)> edit = {}) {
  const JobState from = r.dynamic.state;
  r.dynamic.state = to;
  if (to == JobState::running && from != to) {
    ++r.dynamic.attempt;
    r.dynamic.nonce = 0x1234567890ABCDEFULL + r.fixed.seq;
    r.dynamic.worker = "anna";
    r.dynamic.devices = {"GPU-0ad1e8d4-9c1f-4f8e-a7a5-0123456789ab"};
    r.dynamic.granted = {1024};
    r.dynamic.started = r.fixed.submitted + 5ms;
  }
  if (is_terminal(to) && from != to) r.dynamic.ended = r.fixed.submitted + 9ms;
  if (edit) edit(r.dynamic);
  return item(core::JobChanged{r.fixed.id, from, r.dynamic, r.fixed.seq, r.fixed.needs.job_class});
}

/// Sorted, so that images compare.
inline core::Image sorted(core::Image image) {
  std::sort(image.jobs.begin(), image.jobs.end(), [](const auto& a, const auto& b) { return a.fixed.id < b.fixed.id; });
  std::sort(image.models.begin(), image.models.end(),
            [](const auto& a, const auto& b) { return std::tie(a.name, a.version) < std::tie(b.name, b.version); });
  std::sort(image.tombstones.begin(), image.tombstones.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  std::sort(image.settings.begin(), image.settings.end(), [](const auto& a, const auto& b) { return std::tie(a.kind, a.target) < std::tie(b.kind, b.target); });
  return image;
}
inline void expect_equal(const core::Image& got, const core::Image& wanted) {
  const auto a = sorted(got), b = sorted(wanted);
  EXPECT_EQ(a.jobs.size(), b.jobs.size());
  EXPECT_TRUE(a.jobs == b.jobs);
  EXPECT_TRUE(a.models == b.models);
  EXPECT_TRUE(a.settings == b.settings);
  ASSERT_EQ(a.tombstones.size(), b.tombstones.size());
  for (std::size_t i = 0; i < a.tombstones.size(); ++i) {
    EXPECT_EQ(a.tombstones[i].id, b.tombstones[i].id);
    EXPECT_EQ(a.tombstones[i].digest, b.tombstones[i].digest);
    EXPECT_EQ(a.tombstones[i].ended, b.tombstones[i].ended);
  }
}

}  // namespace gq::test

// batcher.h - requests wait here until a device is free; then, and not on a timer, the next batch is formed.
//
// The batch is chosen as late as possible: the first request by priority (9 first), then nearest deadline, then arrival; with it go the
// next ones in the same order that share its key (model and input size), up to the cap. So an urgent request that arrives while the
// device computes still leads the next batch, and a busy model cannot starve another: arrival decides among equals.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace gq::exec {

/// Sizes a model is warmed for: 1, 2, 4 … up to `max`.
std::vector<int> batch_buckets(int max);
/// The bucket that runs `count` requests. padded: the smallest that holds them (a GPU computes the rest for nothing); otherwise the largest
/// that they fill (a CPU would pay for the padding).
int choose_bucket(int count, int cap, bool padded);

template <class Work>
class Batcher {
 public:
  struct Request {
    std::uint64_t id{};
    std::string key;
    int priority = 5;
    std::int64_t deadline_ms = INT64_MAX;
    Work work;
    std::uint64_t arrival{};
  };

  void push(Request request) {
    {
      const std::lock_guard lock(mutex_);
      request.arrival = arrivals_++;
      waiting_.push_back(std::move(request));
    }
    changed_.notify_one();
  }

  /// Blocks until there is something to do; empty: closed and drained. `cap(key)` is asked at that moment.
  std::vector<Request> take(const std::function<int(const std::string&)>& cap) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
    std::vector<Request> out;
    if (waiting_.empty()) return out;
    std::sort(waiting_.begin(), waiting_.end(), [](const Request& a, const Request& b) {
      if (a.priority != b.priority) return a.priority > b.priority;
      if (a.deadline_ms != b.deadline_ms) return a.deadline_ms < b.deadline_ms;
      return a.arrival < b.arrival;
    });
    const std::string key = waiting_.front().key;
    const auto most = static_cast<std::size_t>(std::max(1, cap(key)));
    std::vector<Request> rest;
    for (auto& r : waiting_) (r.key == key && out.size() < most ? out : rest).push_back(std::move(r));
    waiting_ = std::move(rest);
    if (!waiting_.empty()) changed_.notify_one();   // another device thread may take the rest
    return out;
  }

  /// A request that still waits is taken out; nullopt: it runs already, or is unknown.
  std::optional<Work> withdraw(std::uint64_t id) {
    const std::lock_guard lock(mutex_);
    const auto it = std::find_if(waiting_.begin(), waiting_.end(), [&](const Request& r) { return r.id == id; });
    if (it == waiting_.end()) return std::nullopt;
    std::optional<Work> out(std::move(it->work));
    waiting_.erase(it);
    return out;
  }

  void close() {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Request> waiting_;
  std::uint64_t arrivals_{};
  bool closed_{};
};

/// Out of memory: halve, and remember. Runs items [0, count) through `forward(begin, size)`, which answers false when memory ran out
/// (and has freed the cache). A part of 1 that still fails is given to `give_up(index)`. Returns the largest size that worked, 0 if none:
/// the model's new cap. At most log2(count) + 2 tries for any one item.
int run_with_ladder(int count, const std::function<bool(int begin, int size)>& forward, const std::function<void(int index)>& give_up);

}  // namespace gq::exec

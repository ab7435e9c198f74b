// modelhost_work.h - one job on its way through a modelhost, and how its inputs are read. Internal to modelhost.cpp.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "worker/child/frame.h"
#include "worker/executors/model.h"
#include "worker/executors/tensor_part.h"

namespace gq::exec {

using Clock = std::chrono::steady_clock;
inline double ms_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double, std::milli>(b - a).count(); }

/// A closable queue for threads that take one thing at a time.
template <class T>
class Queue {
 public:
  void push(T item) {
    {
      const std::lock_guard lock(mutex_);
      items_.push_back(std::move(item));
    }
    changed_.notify_one();
  }
  bool take(T& out) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || !items_.empty(); });
    if (items_.empty()) return false;
    out = std::move(items_.front());
    items_.pop_front();
    return true;
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
  std::deque<T> items_;
  bool closed_{};
};

/// One job between the frame that brought it and the frame that answers it.
struct Work {
  std::uint64_t id{};
  std::shared_ptr<Model> model;
  child::Frame frame;
  DetectParams params;
  Prepared image;
  std::vector<NamedTensor> tensors;   ///< kind infer
  bool infers{};
  Clock::time_point ready{};
  double decode_ms{};
};
using WorkPtr = std::shared_ptr<Work>;

/// What a process may hold whose models were granted these (MiB, by name). 0 = nobody said: one of them has no budget, or there is none.
std::int64_t joint_budget(const std::map<std::string, std::int64_t>& budgets);

/// Decodes the job's image, or its tensors: what the device thread needs. Slow, and anybody's thread.
Expected<Done> read_inputs(Work& work);

}  // namespace gq::exec

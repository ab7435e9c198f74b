// commit_gate.h - what may leave when: mutations gather into batches, sends wait for the batch they depend on.
//
// One batch is in flight, one gathers; when the gathering one reaches a bound it is sealed behind the one in flight and a new one
// begins, so a batch never grows past a bound by more than one step. A send leaves when the batch of its own step *and all earlier
// ones* are committed, also when its own step wrote nothing:
//   its step wrote something, or something gathers -> with the gathering batch
//   nothing gathers, a batch is in flight           -> with the newest batch that is not committed yet
//   neither                                         -> at once
// Pure: no store, no socket, no clock. `Item` is what one mutation becomes, `Send` is whatever waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/limits.h"

namespace gq::broker {

/// What a batch costs: jobs at one step of their life (the largest of the three counts), and bytes written plus read.
struct BatchWeight {
  std::size_t created{}, started{}, other{};
  std::size_t bytes{};
  BatchWeight& operator+=(const BatchWeight& w) {
    created += w.created;
    started += w.started;
    other += w.other;
    bytes += w.bytes;
    return *this;
  }
};

struct GateBounds {
  std::size_t jobs = kLimits.items_max;
  std::size_t bytes = kLimits.batch_bytes_max;
};

template <class Item, class Send>
class CommitGate {
 public:
  struct Cut {
    std::uint64_t number{};
    std::vector<Item> items;
    BatchWeight weight;
    bool sealed{};   ///< its number was told by take_sealed() already
  };

  explicit CommitGate(std::uint64_t last_committed, GateBounds bounds = {}) : bounds_(bounds), last_cut_(last_committed) {}

  /// One step: all its mutations, then all its sends. Both vectors are emptied, their capacity stays. Sends that wait for nothing
  /// come out of released().
  void push(std::vector<Item>& items, const BatchWeight& weight, std::vector<Send>& sends) {
    if (!items.empty()) {
      if (waiting_.empty() || waiting_.back().sealed) waiting_.emplace_back();
      Pending& gathering = waiting_.back();
      move_to(items, gathering.items);
      gathering.weight += weight;
      gathering.sealed = over(gathering.weight);
      if (gathering.sealed) just_sealed_ = last_cut_ + waiting_.size();
    }
    if (sends.empty()) return;
    if (!waiting_.empty()) move_to(sends, waiting_.back().sends);
    else if (in_flight_) move_to(sends, flying_);
    else move_to(sends, released_);
  }

  /// The next batch to write; nullopt while one is in flight or nothing gathers.
  std::optional<Cut> cut() {
    if (in_flight_ || waiting_.empty()) return std::nullopt;
    Pending& next = waiting_.front();
    Cut cut{.number = ++last_cut_, .items = std::move(next.items), .weight = next.weight, .sealed = next.sealed};
    flying_ = std::move(next.sends);
    waiting_.pop_front();
    in_flight_ = true;
    return cut;
  }

  /// The batch in flight is durable: its sends are free, in the order they were pushed.
  void committed(std::uint64_t number) {
    check(in_flight_ && number == last_cut_, "a batch was committed that is not the one in flight");
    in_flight_ = false;
    move_to(flying_, released_);
  }

  /// The number of the batch that the newest push sealed: later steps go into a later one. Comes out once.
  std::optional<std::uint64_t> take_sealed() { return std::exchange(just_sealed_, std::nullopt); }

  /// Everything that still waits, in order: for the day the store turns out to hold something else than we believe.
  std::vector<Send> abandon() {
    std::vector<Send> all = std::move(flying_);
    for (Pending& pending : waiting_) move_to(pending.sends, all);
    waiting_.clear();
    flying_.clear();
    in_flight_ = false;
    return all;
  }

  /// Sends that may leave now; each comes out once.
  [[nodiscard]] std::vector<Send>& released() { return released_; }

  /// A sealed batch waits behind the one in flight: take no new work from clients.
  [[nodiscard]] bool full() const { return waiting_.size() > 1 || (!waiting_.empty() && waiting_.front().sealed); }
  [[nodiscard]] bool in_flight() const { return in_flight_; }
  [[nodiscard]] bool gathering() const { return !waiting_.empty(); }
  [[nodiscard]] std::uint64_t last_cut() const { return last_cut_; }

 private:
  struct Pending {
    std::vector<Item> items;
    std::vector<Send> sends;
    BatchWeight weight;
    bool sealed{};
  };

  [[nodiscard]] bool over(const BatchWeight& w) const {
    return w.created >= bounds_.jobs || w.started >= bounds_.jobs || w.other >= bounds_.jobs || w.bytes >= bounds_.bytes;
  }
  template <class T>
  static void move_to(std::vector<T>& from, std::vector<T>& to) {
    if (to.empty()) {
      to.swap(from);
    } else {
      to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
    }
    from.clear();
  }

  GateBounds bounds_;
  std::deque<Pending> waiting_;   ///< all but the last are sealed
  std::vector<Send> flying_;      ///< waits for the batch in flight
  std::vector<Send> released_;
  std::optional<std::uint64_t> just_sealed_;
  std::uint64_t last_cut_;
  bool in_flight_{};
};

}  // namespace gq::broker

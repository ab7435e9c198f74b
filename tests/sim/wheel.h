// wheel.h - the simulated clock's queue: a timing wheel of 100 us ticks, a heap behind it for what lies further away.
//
// Everything that happens in one tick happens in the order in which it was asked for, so a run is a function of its seed. Cost per
// event is a push and a read; ten million events are a second.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace gq::sim {

using Tick = std::int64_t;
inline constexpr std::int64_t kTickUs = 100;

enum class What : std::uint8_t {
  up,             ///< a packet reaches the broker            a = packet
  down,           ///< a packet reaches a worker or client    a = packet
  worker_flush, worker_beat, worker_connect, worker_start, worker_thaw, worker_yield,
  run_started, run_ended,                                  // a = worker, b = run
  client_turn, client_connect, client_resend, client_cancel,
  batch_apply, batch_reply, store_up, store_down_seen, broker_start, broker_wake, broker_thaw, links_gone,
  fault, heal, sample, progress,
  run_checkpoint, model_out, operate,                      // a = worker, b = run or model
  play,                                                    // a = what, b = which: see play.h
};
struct Happening {
  What what{};
  std::uint32_t a{};
  std::uint32_t b{};
};

class Wheel {
 public:
  [[nodiscard]] Tick now() const { return now_; }
  [[nodiscard]] std::uint64_t pending() const { return pending_; }
  void at(Tick tick, Happening what) {
    if (tick <= now_) tick = now_ + 1;
    ++pending_;
    if (tick < now_ + kSpan) {
      const std::size_t at = static_cast<std::size_t>(tick) & kMask;
      slots_[at].push_back(what);
      occupied_[at >> 6U] |= std::uint64_t{1} << (at & 63U);
    }
    else {
      far_.push_back({tick, ++far_seq_, what});
      std::push_heap(far_.begin(), far_.end(), later);
    }
  }
  /// Moves to the next tick and hands out what happens in it; the caller processes it and may schedule later ticks only.
  /// What lay far off comes first: it was asked for earlier.
  const std::vector<Happening>& advance() {
    ++now_;
    std::vector<Happening>& slot = slots_[static_cast<std::size_t>(now_) & kMask];
    current_.clear();
    while (!far_.empty() && far_.front().tick <= now_) {
      current_.push_back(far_.front().what);
      std::pop_heap(far_.begin(), far_.end(), later);
      far_.pop_back();
    }
    const std::size_t at = static_cast<std::size_t>(now_) & kMask;
    occupied_[at >> 6U] &= ~(std::uint64_t{1} << (at & 63U));
    if (current_.empty()) current_.swap(slot);
    else {
      current_.insert(current_.end(), slot.begin(), slot.end());
      slot.clear();
    }
    pending_ -= current_.size();
    return current_;
  }

  /// The next tick in which something happens, but no later than `limit`.
  [[nodiscard]] Tick next(Tick limit) const {
    if (!far_.empty()) limit = std::min(limit, std::max(far_.front().tick, now_ + 1));
    const Tick end = std::min(limit, now_ + kSpan);
    for (Tick tick = now_ + 1; tick < end;) {
      const std::size_t at = static_cast<std::size_t>(tick) & kMask;
      const std::uint64_t word = occupied_[at >> 6U] >> (at & 63U);
      if (word != 0) return std::min(end, tick + std::countr_zero(word));
      tick += static_cast<Tick>(64 - (at & 63U));
    }
    return limit;
  }
  /// Nothing happens before `tick`: time stands just before it.
  void skip_to(Tick tick) { now_ = std::max(now_, tick - 1); }

 private:
  static constexpr Tick kSpan = 1 << 15;
  static constexpr std::size_t kMask = static_cast<std::size_t>(kSpan) - 1;
  struct Far {
    Tick tick;
    std::uint64_t seq;
    Happening what;
  };
  static bool later(const Far& x, const Far& y) { return x.tick != y.tick ? x.tick > y.tick : x.seq > y.seq; }
  Tick now_{};
  std::uint64_t pending_{};
  std::uint64_t far_seq_{};
  std::vector<std::vector<Happening>> slots_ = std::vector<std::vector<Happening>>(static_cast<std::size_t>(kSpan));
  std::vector<std::uint64_t> occupied_ = std::vector<std::uint64_t>(static_cast<std::size_t>(kSpan) / 64);  ///< a bit per slot
  std::vector<Happening> current_;
  std::vector<Far> far_;
};

__extension__ using Wide = unsigned __int128;

/// Small, fast, the same everywhere (the standard's distributions are not).
class Rng {
 public:
  explicit Rng(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ULL + 0x1234567ULL) { (void)bits(); }
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31U);
  }
  /// 0 .. n-1
  std::uint64_t below(std::uint64_t n) { return n == 0 ? 0 : static_cast<std::uint64_t>((static_cast<Wide>(bits()) * n) >> 64U); }
  std::int64_t between(std::int64_t low, std::int64_t high) { return low + static_cast<std::int64_t>(below(static_cast<std::uint64_t>(high - low + 1))); }
  bool one_in(std::uint64_t n) { return n != 0 && below(n) == 0; }
  bool chance_ppm(std::uint64_t ppm) { return below(1'000'000) < ppm; }

 private:
  std::uint64_t state_;
};

}  // namespace gq::sim

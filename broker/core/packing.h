// packing.h - where a task leaves the least memory behind that nobody can use.
//
// Fragmentation as in FGD (Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient
// Descent", USENIX ATC'23): the free memory of a node that a task drawn from the usual mix could not use there. A task goes where
// that expectation drops most. The drop is rated in 100 steps only: finer ones chase noise and pack worse; equal steps go to the best
// fit, equal fits to the lowest index, so that nothing depends on the order of a container.
//
// Two forms of one rule. Packer: nodes with several devices, CPU and memory; a rating is cached per shape and node, and only what a
// placement touched is rated again. DevicePacking: a device by itself, as the scheduler sees it; what is left over is then a step
// function of the free memory, so the best device is found by a few look-ups in the list of devices by free memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "broker/core/containers.h"

namespace gq::core {

inline constexpr std::uint32_t kPackingSteps = 100;
/// The drop of fragmentation (in amount x weight) as a step: floor(100 x logistic(drop in whole devices)). No drop at all = 50.
std::uint32_t packing_step(std::int64_t drop, std::uint64_t weight, std::int64_t whole_device);

// ---- nodes with several devices

struct PackTask {
  std::int64_t cpu{}, memory{};
  std::uint32_t devices{};           ///< 0 = uses none
  std::int64_t share{};              ///< of each of them
  std::uint64_t models{~0ULL};       ///< bit set of the device models that will do
  auto operator<=>(const PackTask&) const = default;
};
struct PackNode {
  std::int64_t cpu{}, memory{};      ///< free
  std::uint32_t model{};             ///< of its devices, below 64
  std::vector<std::int64_t> free;    ///< per device
};
struct TypicalTask {
  PackTask task;
  std::uint64_t weight{};            ///< how often it comes, relative to the others
};
/// The most frequent tasks that make up at least `percent` of all, ties to the smaller task. Without percent: all of them.
std::vector<TypicalTask> typical_tasks(const std::vector<PackTask>& seen, std::uint32_t percent = 100);
/// Sum over the mix of weight x free amount that such a task could not use on this node.
std::int64_t fragmentation(const PackNode& node, const std::vector<TypicalTask>& mix);

enum class PackPolicy : std::uint8_t { random, best_fit, fgd };

class Packer {
 public:
  struct Options {
    PackPolicy policy{PackPolicy::fgd};
    std::int64_t whole_device{1000};     ///< what an empty device has
    std::int64_t cpu_unit{128'000};      ///< best fit weighs free CPU and free devices alike, in parts of the largest node
    std::int64_t devices_unit{8};
  };
  struct Spot {
    Index node{kNone};
    std::vector<std::uint32_t> devices;
    bool operator==(const Spot&) const = default;
  };

  Packer(std::vector<PackNode> nodes, std::vector<TypicalTask> mix, Options options);
  /// Equal tasks are one shape.
  Index shape_of(const PackTask& task);
  /// Where the next task of this shape should go; nullopt = fits nowhere. `random` is used by that policy alone.
  std::optional<Spot> pick(Index shape, std::uint64_t random = 0);
  void place(Index shape, const Spot& spot);
  void remove(Index shape, const Spot& spot);
  /// Rates up to `devices` devices whose rating for this shape is out of date; how many nodes are left to do. For whoever must not
  /// stall over a shape never seen before, or a new mix: a few hundred devices at a time; pick() does what is left.
  std::size_t refresh(Index shape, std::size_t devices);
  void set_mix(std::vector<TypicalTask> mix);
  [[nodiscard]] const std::vector<PackNode>& nodes() const { return nodes_; }
  [[nodiscard]] std::uint64_t ratings() const { return ratings_; }  ///< how often a (shape, node) was rated

 private:
  struct Rating {                     ///< smaller is better
    std::uint32_t lost_steps{};       ///< kPackingSteps - step
    std::int64_t left{};              ///< after placing: the less, the better the fit
    Index node{};
    auto operator<=>(const Rating&) const = default;
  };
  struct Known {
    std::optional<Rating> rating;     ///< nullopt = does not fit
    std::uint32_t device{};           ///< the one for a share
    std::uint64_t version{};          ///< of the node when it was rated; 0 = never
  };
  struct Shape {
    PackTask task;
    std::vector<Known> known;         ///< by node
    std::set<Rating> order;
    std::uint64_t read{};             ///< how much of the log it has seen, dropped entries included
    Index cold{};                     ///< nodes from here on have not been looked at since the mix, or too much else, changed
  };
  void take(PackNode& node, const PackTask& task, const Spot& spot, int sign) const;
  [[nodiscard]] std::int64_t left_after(const PackNode& node, const PackTask& task) const;
  void rate(Shape& shape, Index node);
  void touch(Index node);
  [[nodiscard]] Spot spot_at(const Shape& shape, Index node, std::uint32_t device) const;
  [[nodiscard]] std::optional<Spot> pick_random(const Shape& shape, std::uint64_t random) const;

  std::vector<PackNode> nodes_;
  std::vector<TypicalTask> mix_;
  std::uint64_t weight_{};
  Options options_;
  std::vector<std::uint64_t> versions_;      ///< by node, from 1
  std::vector<std::int64_t> fragments_;      ///< by node, as of its version
  std::vector<Index> touched_;               ///< the log of touched nodes, its oldest entries dropped
  std::uint64_t dropped_{};
  std::map<PackTask, Index> shape_index_;
  std::vector<Shape> shapes_;
  std::uint64_t ratings_{};
};

// ---- a device by itself

/// How often jobs ask for how much of a device, the past counting less and less. Bounded; equal histories are equal.
class AskMix {
 public:
  void count(std::int64_t ask);
  /// Changes only now and then, so that what is derived from the mix may be kept meanwhile.
  [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
  [[nodiscard]] const std::map<std::int64_t, std::uint64_t>& asks() const { return published_; }

 private:
  static constexpr std::size_t kAsksMax = 64;
  static constexpr std::uint64_t kEpochMax = 4096;  ///< asks from one epoch to the next; then all weights are halved
  void trim();
  std::map<std::int64_t, std::uint64_t> counts_, published_;
  std::uint64_t since_{};
  std::uint64_t due_{8};
  std::uint32_t epoch_{};
};

/// Devices with [from, to) free are rated `step` at best, at `from`; inside, the less is free the better the rating.
struct Preference {
  std::uint32_t step{};
  std::int64_t from{}, to{};
  std::int64_t drop{};                ///< at `from`
  std::int64_t slope{};               ///< of the drop, downwards, per MiB more
  bool operator==(const Preference&) const = default;
};

/// The usual mix of jobs, and what follows from it for a job that takes `need` of one device.
class DevicePacking {
 public:
  void count(std::int64_t ask) { mix_.count(ask); }
  /// Every amount of free memory from `need` on, the best first. Worth walking only until `step` falls below that of a device found
  /// already. Kept until the mix changes; the reference is good until the next call.
  const std::vector<Preference>& preferences(std::int64_t need, std::int64_t whole_device);
  /// What a device with so much free is rated, within this preference.
  [[nodiscard]] std::uint32_t step_at(const Preference& p, std::int64_t free, std::int64_t whole_device) const {
    return p.slope == 0 ? p.step : packing_step(p.drop - (free - p.from) * p.slope, weight_, whole_device);
  }

 private:
  struct Kept {
    std::int64_t need{-1}, whole_device{};
    std::uint32_t epoch{};
    std::vector<Preference> preferences;
  };
  void derive(std::int64_t need, std::int64_t whole_device, std::vector<Preference>& all) const;
  [[nodiscard]] std::int64_t unmet(std::int64_t free) const;
  AskMix mix_;
  std::uint32_t epoch_{UINT32_MAX};                                ///< of the mix that the next two are made of
  std::uint64_t weight_{};
  std::vector<std::pair<std::int64_t, std::int64_t>> unmet_above_;  ///< ask, weight of all that ask for it or more
  std::vector<Kept> kept_ = std::vector<Kept>(251);                 ///< by need, each new one in the place of an older one
};

}  // namespace gq::core

// training_plan.h - what a training run looks at, and in which order: all of it follows from the seed, nothing from what ran before.
// Internal to the trainer; no LibTorch here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "worker/executors/dataset.h"
#include "worker/executors/training.h"

namespace gq::exec {

/// Counter-based randomness (splitmix64): a value is a function of where it is used, never of what was drawn before.
std::uint64_t mix(std::uint64_t x);

struct Item {
  std::size_t sample{};
  std::int64_t box = -1;   ///< -1: background, anywhere
};

/// Which item each place of the run trains on. Only the permutation of the current epoch is kept.
class Sampler {
 public:
  Sampler(const std::vector<Sample>& samples, const std::vector<std::size_t>& chosen, std::uint64_t seed);
  [[nodiscard]] std::size_t size() const { return items_.size(); }
  const Item& at(std::uint64_t place);

 private:
  std::uint64_t seed_;
  std::vector<Item> items_;
  std::vector<std::size_t> order_;
  std::uint64_t epoch_{};
};

struct Split {
  std::vector<std::size_t> train, validate;
};
Split split(std::size_t count, double fraction, std::uint64_t seed);

inline int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
/// The side a model trained on these images detects at: the largest image, within reason.
int native_size(const Dataset& data);
double scheduled_lr(const TrainParams& p, std::int64_t step);

}  // namespace gq::exec

// packing.cpp - fragmentation, its drop in steps, and the cache of ratings.
#include "broker/core/packing.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "common/vocabulary/errors.h"

namespace gq::core {

namespace {
constexpr std::int64_t kMillionths = 1'000'000;

/// floor(100 x logistic(x)) >= k exactly when x >= log(k / (100 - k)); in millionths of a device, so that no rounding decides.
const std::array<std::int64_t, kPackingSteps - 1>& thresholds() {
  static const auto table = [] {
    std::array<std::int64_t, kPackingSteps - 1> t{};
    for (std::size_t k = 1; k < kPackingSteps; ++k)
      t[k - 1] = std::llround(1e6 * std::log(static_cast<double>(k) / static_cast<double>(kPackingSteps - k)));
    return t;
  }();
  return table;
}

/// What is free on devices with less left than asked.
std::int64_t too_small(const PackNode& node, std::int64_t share) {
  std::int64_t sum = 0;
  for (const std::int64_t free : node.free)
    if (free < share) sum += free;
  return sum;
}

bool runs_on(const PackNode& node, const PackTask& task) {
  if (node.cpu < task.cpu || node.memory < task.memory) return false;
  if (task.devices == 0) return true;
  if ((task.models >> node.model & 1U) == 0) return false;
  return static_cast<std::uint32_t>(std::count_if(node.free.begin(), node.free.end(), [&](std::int64_t f) { return f >= task.share; })) >= task.devices;
}
}  // namespace

std::uint32_t packing_step(std::int64_t drop, std::uint64_t weight, std::int64_t whole_device) {
  const std::int64_t unit = static_cast<std::int64_t>(weight) * whole_device;
  if (unit <= 0) return kPackingSteps / 2;
  // Rounded down, and in two parts: drop x 1,000,000 need not fit.
  std::int64_t whole = drop / unit, rest = drop % unit;
  if (rest < 0) { rest += unit; --whole; }
  const std::int64_t x = std::clamp<std::int64_t>(whole, -100, 100) * kMillionths + rest * kMillionths / unit;
  const auto& t = thresholds();
  return static_cast<std::uint32_t>(std::upper_bound(t.begin(), t.end(), x) - t.begin());
}

std::vector<TypicalTask> typical_tasks(const std::vector<PackTask>& seen, std::uint32_t percent) {
  std::map<PackTask, std::uint64_t> counts;
  for (const PackTask& task : seen) ++counts[task];
  std::vector<TypicalTask> all;
  for (const auto& [task, count] : counts) all.push_back({task, count});
  std::stable_sort(all.begin(), all.end(), [](const TypicalTask& a, const TypicalTask& b) { return a.weight > b.weight; });
  std::uint64_t covered = 0;
  std::size_t n = 0;
  while (n < all.size() && covered * 100 < seen.size() * percent) covered += all[n++].weight;
  all.resize(n);
  return all;
}

std::int64_t fragmentation(const PackNode& node, const std::vector<TypicalTask>& mix) {
  std::int64_t idle = 0;
  for (const std::int64_t free : node.free) idle += free;
  if (idle == 0) return 0;
  std::int64_t sum = 0;
  for (const TypicalTask& m : mix) {
    const bool usable = m.task.devices > 0 && runs_on(node, m.task);  // whoever uses no device leaves all of it idle
    sum += static_cast<std::int64_t>(m.weight) * (usable ? too_small(node, m.task.share) : idle);
  }
  return sum;
}

// ---- nodes with several devices

Packer::Packer(std::vector<PackNode> nodes, std::vector<TypicalTask> mix, Options options)
    : nodes_(std::move(nodes)), options_(options), versions_(nodes_.size(), 1) {
  set_mix(std::move(mix));
}

void Packer::set_mix(std::vector<TypicalTask> mix) {
  mix_ = std::move(mix);
  weight_ = 0;
  for (const TypicalTask& m : mix_) weight_ += m.weight;
  fragments_.clear();
  for (const PackNode& node : nodes_) fragments_.push_back(fragmentation(node, mix_));
  for (Shape& shape : shapes_) {
    shape.order.clear();
    shape.known.assign(nodes_.size(), {});
    shape.cold = 0;
    shape.read = dropped_ + touched_.size();
  }
}

Index Packer::shape_of(const PackTask& task) {
  const auto [it, is_new] = shape_index_.try_emplace(task, static_cast<Index>(shapes_.size()));
  if (is_new) {
    Shape& shape = shapes_.emplace_back();
    shape.task = task;
    shape.known.assign(nodes_.size(), {});
    shape.read = dropped_ + touched_.size();
  }
  return it->second;
}

void Packer::take(PackNode& node, const PackTask& task, const Spot& spot, int sign) const {
  node.cpu -= sign * task.cpu;
  node.memory -= sign * task.memory;
  for (const std::uint32_t device : spot.devices) {
    node.free[device] -= sign * task.share;
    check(node.free[device] >= 0, "a task was packed where it does not fit");
  }
  check(node.cpu >= 0 && node.memory >= 0, "a task was packed where it does not fit");
}

/// Half for the CPU, half for the devices, each as a part of the largest node: cross-multiplied, so whole numbers.
std::int64_t Packer::left_after(const PackNode& node, const PackTask& task) const {
  std::int64_t idle = -static_cast<std::int64_t>(task.devices) * task.share;
  for (const std::int64_t free : node.free) idle += free;
  return (node.cpu - task.cpu) * options_.devices_unit * options_.whole_device + idle * options_.cpu_unit;
}

void Packer::rate(Shape& shape, Index index) {
  ++ratings_;
  Known& known = shape.known[index];
  if (known.rating) shape.order.erase(*known.rating);
  known = {std::nullopt, 0, versions_[index]};
  const PackNode& node = nodes_[index];
  const PackTask& task = shape.task;
  if (!runs_on(node, task)) return;
  Rating best{kPackingSteps, left_after(node, task), index};
  const bool one_share = task.devices == 1;
  if (options_.policy != PackPolicy::fgd) {
    if (one_share)  // the tightest device
      for (std::uint32_t d = 0, tightest = UINT32_MAX; d < node.free.size(); ++d)
        if (node.free[d] >= task.share && (tightest == UINT32_MAX || node.free[d] < node.free[tightest])) known.device = tightest = d;
  } else {
    PackNode after = node;
    const auto step_of = [&](const std::vector<std::uint32_t>& devices) {
      const Spot spot{index, devices};
      take(after, task, spot, 1);
      const std::uint32_t step = packing_step(fragments_[index] - fragmentation(after, mix_), weight_, options_.whole_device);
      take(after, task, spot, -1);
      return step;
    };
    if (one_share) {
      std::uint32_t best_step = 0;
      bool any = false;
      for (std::uint32_t d = 0; d < node.free.size(); ++d) {
        if (node.free[d] < task.share) continue;
        // Equally free devices of a node are one and the same choice.
        if (std::find(node.free.begin(), node.free.begin() + d, node.free[d]) != node.free.begin() + d) continue;
        const std::uint32_t step = step_of({d});
        if (any && (step < best_step || (step == best_step && node.free[d] >= node.free[known.device]))) continue;
        any = true;
        best_step = step;
        known.device = d;
      }
      best.lost_steps = kPackingSteps - best_step;
    } else {
      best.lost_steps = kPackingSteps - step_of(spot_at(shape, index, 0).devices);
    }
  }
  known.rating = best;
  shape.order.insert(best);
}

/// For a share the device that was rated best; for several devices the tightest that suffice, the lowest first.
Packer::Spot Packer::spot_at(const Shape& shape, Index index, std::uint32_t device) const {
  Spot spot{index, {}};
  const PackTask& task = shape.task;
  if (task.devices == 1) spot.devices.push_back(device);
  if (task.devices <= 1) return spot;
  const PackNode& node = nodes_[index];
  std::vector<std::pair<std::int64_t, std::uint32_t>> fitting;
  for (std::uint32_t d = 0; d < node.free.size(); ++d)
    if (node.free[d] >= task.share) fitting.emplace_back(node.free[d], d);
  std::sort(fitting.begin(), fitting.end());
  for (std::uint32_t i = 0; i < task.devices; ++i) spot.devices.push_back(fitting[i].second);
  return spot;
}

std::size_t Packer::refresh(Index index, std::size_t devices) {
  Shape& shape = shapes_[index];
  const std::uint64_t end = dropped_ + touched_.size();
  if (shape.read < dropped_) {  // it was not asked for so long that part of the log is gone: look at every node
    shape.read = end;
    shape.cold = 0;
  }
  std::size_t done = 0;
  const auto rate_if_stale = [&](Index node) {
    if (shape.known[node].version == versions_[node]) return;
    rate(shape, node);
    done += std::max<std::size_t>(1, nodes_[node].free.size());
  };
  for (; shape.cold < nodes_.size() && done < devices; ++shape.cold) rate_if_stale(shape.cold);
  for (; shape.read < end && done < devices; ++shape.read) {
    const Index node = touched_[shape.read - dropped_];
    if (node < shape.cold) rate_if_stale(node);
  }
  return nodes_.size() - shape.cold + (end - shape.read);
}

std::optional<Packer::Spot> Packer::pick(Index index, std::uint64_t random) {
  Shape& shape = shapes_[index];
  if (options_.policy == PackPolicy::random) return pick_random(shape, random);
  (void)refresh(index, SIZE_MAX);
  if (shape.order.empty()) return std::nullopt;
  const Index node = shape.order.begin()->node;
  return spot_at(shape, node, shape.known[node].device);
}

std::optional<Packer::Spot> Packer::pick_random(const Shape& shape, std::uint64_t random) const {
  std::vector<Index> fitting;
  for (Index i = 0; i < nodes_.size(); ++i)
    if (runs_on(nodes_[i], shape.task)) fitting.push_back(i);
  if (fitting.empty()) return std::nullopt;
  const Index node = fitting[random % fitting.size()];
  random /= fitting.size();
  std::vector<std::uint32_t> devices;
  for (std::uint32_t d = 0; d < nodes_[node].free.size(); ++d)
    if (nodes_[node].free[d] >= shape.task.share) devices.push_back(d);
  return spot_at(shape, node, devices.empty() ? 0 : devices[random % devices.size()]);
}

void Packer::place(Index shape, const Spot& spot) {
  take(nodes_[spot.node], shapes_[shape].task, spot, 1);
  touch(spot.node);
}

void Packer::remove(Index shape, const Spot& spot) {
  take(nodes_[spot.node], shapes_[shape].task, spot, -1);
  touch(spot.node);
}

void Packer::touch(Index node) {
  ++versions_[node];
  fragments_[node] = fragmentation(nodes_[node], mix_);
  touched_.push_back(node);
  if (touched_.size() < 2 * nodes_.size() + 64) return;
  const std::size_t old = touched_.size() / 2;
  touched_.erase(touched_.begin(), touched_.begin() + static_cast<std::ptrdiff_t>(old));
  dropped_ += old;
}

// ---- a device by itself

void AskMix::count(std::int64_t ask) {
  ++counts_[ask];
  if (counts_.size() > 4 * kAsksMax) trim();
  if (++since_ < due_) return;
  since_ = 0;
  due_ = std::min(2 * due_, kEpochMax);
  trim();
  if (counts_ != published_) {
    published_ = counts_;
    ++epoch_;
  }
  if (due_ < kEpochMax) return;
  for (auto it = counts_.begin(); it != counts_.end();) it = (it->second /= 2) == 0 ? counts_.erase(it) : std::next(it);
}

/// The most frequent stay; among equals the larger asks, which are the harder ones to place.
void AskMix::trim() {
  if (counts_.size() <= kAsksMax) return;
  std::vector<std::pair<std::uint64_t, std::int64_t>> by_weight;
  for (const auto& [ask, weight] : counts_) by_weight.emplace_back(weight, ask);
  const auto kept = by_weight.end() - static_cast<std::ptrdiff_t>(kAsksMax);
  std::nth_element(by_weight.begin(), kept, by_weight.end());
  for (auto it = by_weight.begin(); it != kept; ++it) counts_.erase(it->second);
}

/// Weight of all that ask for more than what is free: to them it is lost.
std::int64_t DevicePacking::unmet(std::int64_t free) const {
  const auto it = std::upper_bound(unmet_above_.begin(), unmet_above_.end(), free, [](std::int64_t f, const auto& above) { return f < above.first; });
  return it == unmet_above_.end() ? 0 : it->second;
}

const std::vector<Preference>& DevicePacking::preferences(std::int64_t need, std::int64_t whole_device) {
  if (epoch_ != mix_.epoch()) {
    epoch_ = mix_.epoch();
    unmet_above_.assign(mix_.asks().begin(), mix_.asks().end());
    std::int64_t above = 0;
    for (auto it = unmet_above_.rbegin(); it != unmet_above_.rend(); ++it) it->second = above += it->second;
    weight_ = static_cast<std::uint64_t>(above);
  }
  Kept& kept = kept_[static_cast<std::uint64_t>(need) % kept_.size()];
  if (kept.need != need || kept.whole_device != whole_device || kept.epoch != epoch_) {
    kept.need = need;
    kept.whole_device = whole_device;
    kept.epoch = epoch_;
    derive(need, whole_device, kept.preferences);
  }
  return kept.preferences;
}

void DevicePacking::derive(std::int64_t need, std::int64_t whole_device, std::vector<Preference>& all) const {
  // The rating can only jump where one more task fits before placing (free = its ask), or after it (free = its ask + need).
  std::vector<std::int64_t> from{need};
  for (const auto& [ask, above] : unmet_above_) {
    if (ask > need) from.push_back(ask);
    from.push_back(ask + need);
  }
  std::sort(from.begin(), from.end());
  from.erase(std::unique(from.begin(), from.end()), from.end());
  all.clear();
  for (std::size_t i = 0; i < from.size(); ++i) {
    const std::int64_t before = unmet(from[i]), after = unmet(from[i] - need);
    Preference p{0, from[i], i + 1 < from.size() ? from[i + 1] : INT64_MAX, from[i] * before - (from[i] - need) * after, after - before};
    p.step = packing_step(p.drop, weight_, whole_device);
    all.push_back(p);
  }
  std::stable_sort(all.begin(), all.end(), [](const Preference& a, const Preference& b) { return a.step > b.step; });
}

}  // namespace gq::core

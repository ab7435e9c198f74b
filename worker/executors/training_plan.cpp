#include "worker/executors/training_plan.h"

#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>

namespace gq::exec {
namespace {

constexpr float kIgnoreBelow = 0.5F;       // a box cut below this share of itself teaches nothing

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() { return mix(state_++); }
  double unit() { return static_cast<double>(next() >> 11U) * 0x1p-53; }
  std::int64_t below(std::int64_t n) { return n <= 0 ? 0 : static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(n)); }

 private:
  std::uint64_t state_;
};

}  // namespace

std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30U)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27U)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31U);
}

Sampler::Sampler(const std::vector<Sample>& samples, const std::vector<std::size_t>& chosen, std::uint64_t seed) : seed_(seed) {
  for (const std::size_t s : chosen) {
    for (std::size_t b = 0; b < samples[s].labels.size(); ++b) items_.push_back({s, static_cast<std::int64_t>(b)});
    items_.push_back({s, -1});
  }
}

const Item& Sampler::at(std::uint64_t place) {
  const std::uint64_t epoch = place / items_.size();
  if (order_.empty() || epoch != epoch_) {
    order_.resize(items_.size());
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    Draw draw(mix(seed_ ^ mix(epoch + 1)));
    for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[static_cast<std::size_t>(draw.below(static_cast<std::int64_t>(i)))]);
    epoch_ = epoch;
  }
  return items_[order_[place % items_.size()]];
}

Split split(std::size_t count, double fraction, std::uint64_t seed) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  Draw draw(mix(seed ^ 0x73706c6974U));
  for (std::size_t i = count; i > 1; --i) std::swap(order[i - 1], order[static_cast<std::size_t>(draw.below(static_cast<std::int64_t>(i)))]);
  const auto held = std::min(count - 1, static_cast<std::size_t>(std::lround(fraction * static_cast<double>(count))));
  Split out{.train = {order.begin() + static_cast<std::ptrdiff_t>(held), order.end()}, .validate = {order.begin(), order.begin() + static_cast<std::ptrdiff_t>(held)}};
  std::sort(out.train.begin(), out.train.end());
  std::sort(out.validate.begin(), out.validate.end());
  return out;
}

int native_size(const Dataset& data) {
  int side = 64;
  for (const auto& s : data.samples) side = std::max({side, s.image.width, s.image.height});
  return round_up(std::min(side, 1280), kNetMultiple);
}

double scheduled_lr(const TrainParams& p, std::int64_t step) {
  const double warm = std::max(1.0, std::min(50.0, static_cast<double>(p.steps) * 0.08)), at = static_cast<double>(step);
  if (at < warm) return p.lr * (0.1 + 0.9 * at / warm);
  const double part = (at - warm) / std::max(1.0, static_cast<double>(p.steps) - warm);
  return p.lr * (0.02 + 0.98 * 0.5 * (1 + std::cos(std::numbers::pi * part)));
}

Expected<TrainParams> parse_train_params(const std::map<std::string, std::string>& params) {
  TrainParams out;
  struct Whole { const char* name; std::int64_t low, high; std::function<void(std::int64_t)> set; };
  struct Real { const char* name; double low, high; double* target; };
  const Whole wholes[]{{"steps", 1, 10'000'000, [&](auto v) { out.steps = v; }},
                       {"epochs", 1, 100'000, [&](auto v) { out.epochs = v; }},
                       {"batch", 1, 256, [&](auto v) { out.batch = static_cast<int>(v); }},
                       {"imgsz", 64, 2048, [&](auto v) { out.imgsz = static_cast<int>(v); }},
                       {"seed", 0, INT64_MAX, [&](auto v) { out.seed = static_cast<std::uint64_t>(v); }},
                       {"checkpoint_every", 0, 1'000'000, [&](auto v) { out.checkpoint_every = v; }}};
  const Real reals[]{{"lr", 1e-7, 1, &out.lr}, {"weight_decay", 0, 1, &out.weight_decay}, {"val_fraction", 0, 0.5, &out.val_fraction}};
  for (const auto& [key, text] : params) {
    if (key == "data_dir") continue;
    if (key == "init_model") {
      out.init_model = text;
      continue;
    }
    if (key == "amp") {
      if (text != "auto" && text != "on" && text != "off") return bad_input("parameter amp=" + text + " is none of auto, on, off");
      out.amp = text;
      continue;
    }
    bool known = false;
    for (const auto& w : wholes) {
      if (key != w.name) continue;
      known = true;
      std::int64_t v{};
      if (!read_number(text, v) || v < w.low || v > w.high)
        return bad_input("parameter " + key + "=" + text + " is not a whole number from " + std::to_string(w.low) + " to " + std::to_string(w.high));
      w.set(v);
    }
    for (const auto& r : reals) {
      if (key != r.name) continue;
      known = true;
      double v{};
      if (!read_number(text, v) || v < r.low || v > r.high) return bad_input("parameter " + key + "=" + text + " is out of range");
      *r.target = v;
    }
    if (!known) return bad_input("train.detector knows no parameter '" + key + "'", "it knows steps, epochs, batch, lr, weight_decay, imgsz, seed, checkpoint_every, val_fraction, amp, init_model, data_dir");
  }
  if (out.imgsz % kNetMultiple != 0) return bad_input("parameter imgsz=" + std::to_string(out.imgsz) + " is no multiple of 16");
  return out;
}

Crop make_crop(const Sample& sample, const Box* around, int side, std::uint64_t random) {
  Draw draw(random);
  const image::Image& source = sample.image;
  int left = 0, top = 0;
  if (around != nullptr) {   // the box's middle lands anywhere in the inner 80 % of the crop
    left = static_cast<int>((around->x1 + around->x2) / 2 - static_cast<float>(side * (0.1 + 0.8 * draw.unit())));
    top = static_cast<int>((around->y1 + around->y2) / 2 - static_cast<float>(side * (0.1 + 0.8 * draw.unit())));
  } else {
    left = static_cast<int>(draw.below(source.width - side + 1));
    top = static_cast<int>(draw.below(source.height - side + 1));
  }
  left = std::clamp(left, std::min(0, source.width - side), std::max(0, source.width - side));
  top = std::clamp(top, std::min(0, source.height - side), std::max(0, source.height - side));
  const auto turn = draw.below(8);   // the eight symmetries of a square
  const bool flip_x = (turn & 1) != 0, flip_y = (turn & 2) != 0, swap = (turn & 4) != 0;

  Crop out{.image = image::Image(side, side, 1), .boxes = {}};
  for (int y = 0; y < side; ++y) {
    for (int x = 0; x < side; ++x) {
      int u = swap ? y : x, v = swap ? x : y;
      if (flip_x) u = side - 1 - u;
      if (flip_y) v = side - 1 - v;
      const int sx = left + u, sy = top + v;
      if (sx >= 0 && sy >= 0 && sx < source.width && sy < source.height) out.image.pixels[out.image.at(x, y)] = source.pixels[source.at(sx, sy)];
    }
  }
  const auto edge = static_cast<float>(side);
  for (const Box& b : sample.labels) {
    Box c{b.x1 - static_cast<float>(left), b.y1 - static_cast<float>(top), b.x2 - static_cast<float>(left), b.y2 - static_cast<float>(top), 0, b.label};
    const float whole = (c.x2 - c.x1) * (c.y2 - c.y1);
    c = {std::max(c.x1, 0.0F), std::max(c.y1, 0.0F), std::min(c.x2, edge), std::min(c.y2, edge), 0, b.label};
    if (c.x2 <= c.x1 || c.y2 <= c.y1) continue;
    if ((c.x2 - c.x1) * (c.y2 - c.y1) < kIgnoreBelow * whole) c.label = -1;
    if (flip_x) c = {edge - c.x2, c.y1, edge - c.x1, c.y2, 0, c.label};
    if (flip_y) c = {c.x1, edge - c.y2, c.x2, edge - c.y1, 0, c.label};
    if (swap) c = {c.y1, c.x1, c.y2, c.x2, 0, c.label};
    out.boxes.push_back(c);
  }
  return out;
}

}  // namespace gq::exec

#include "worker/executors/letterbox.h"

#include <algorithm>
#include <cmath>

namespace gq::exec {
namespace {

constexpr float kFill = 114.0F / 255.0F;

/// Where one output row or column reads: two neighbours and the weight of the second.
struct Tap {
  int low{}, high{};
  float weight{};
};

std::vector<Tap> taps(int source, int scaled) {
  std::vector<Tap> out(static_cast<std::size_t>(scaled));
  const double step = static_cast<double>(source) / scaled;
  for (int i = 0; i < scaled; ++i) {
    const double at = std::clamp((i + 0.5) * step - 0.5, 0.0, static_cast<double>(source - 1));
    const int low = static_cast<int>(at);
    out[static_cast<std::size_t>(i)] = {low, std::min(low + 1, source - 1), static_cast<float>(at - low)};
  }
  return out;
}

/// One channel of one pixel as the network wants it.
float sample(const image::Image& image, int x, int y, int channel, int channels_out) {
  const std::uint8_t* p = image.pixels.data() + image.at(x, y);
  if (image.channels == 1) return p[0];
  if (channels_out == 1) return 0.299F * p[0] + 0.587F * p[1] + 0.114F * p[2];
  return p[channel];
}

}  // namespace

float Letterbox::back_x(float x) const {
  return std::clamp(static_cast<float>((static_cast<double>(x) - left) / scale), 0.0F, static_cast<float>(source_width));
}
float Letterbox::back_y(float y) const {
  return std::clamp(static_cast<float>((static_cast<double>(y) - top) / scale), 0.0F, static_cast<float>(source_height));
}

Letterbox plan_letterbox(int source_width, int source_height, int width, int height) {
  Letterbox plan{.source_width = source_width, .source_height = source_height, .width = width, .height = height};
  plan.scale = std::min(static_cast<double>(height) / source_height, static_cast<double>(width) / source_width);
  plan.scaled_width = std::clamp(static_cast<int>(std::lround(source_width * plan.scale)), 1, width);
  plan.scaled_height = std::clamp(static_cast<int>(std::lround(source_height * plan.scale)), 1, height);
  plan.left = std::max(0, static_cast<int>(std::lround((width - plan.scaled_width) / 2.0 - 0.1)));
  plan.top = std::max(0, static_cast<int>(std::lround((height - plan.scaled_height) / 2.0 - 0.1)));
  return plan;
}

void letterbox_cpu(const image::Image& source, const Letterbox& plan, int channels, float* out) {
  const auto plane = static_cast<std::size_t>(plan.width) * static_cast<std::size_t>(plan.height);
  const auto columns = taps(source.width, plan.scaled_width);
  const auto rows = taps(source.height, plan.scaled_height);
  // A gray image gives the same plane three times: compute it once.
  const int distinct = source.channels == 1 ? 1 : channels;
  for (int c = 0; c < distinct; ++c) {
    float* target = out + plane * static_cast<std::size_t>(c);
    std::fill(target, target + plane, kFill);
    for (int y = 0; y < plan.scaled_height; ++y) {
      const Tap& row = rows[static_cast<std::size_t>(y)];
      float* line = target + static_cast<std::size_t>(plan.top + y) * static_cast<std::size_t>(plan.width) + plan.left;
      for (int x = 0; x < plan.scaled_width; ++x) {
        const Tap& column = columns[static_cast<std::size_t>(x)];
        const float a = sample(source, column.low, row.low, c, channels), b = sample(source, column.high, row.low, c, channels);
        const float d = sample(source, column.low, row.high, c, channels), e = sample(source, column.high, row.high, c, channels);
        const float above = a + (b - a) * column.weight, below = d + (e - d) * column.weight;
        line[x] = (above + (below - above) * row.weight) * (1.0F / 255.0F);
      }
    }
  }
  for (int c = distinct; c < channels; ++c) std::copy(out, out + plane, out + plane * static_cast<std::size_t>(c));
}

}  // namespace gq::exec

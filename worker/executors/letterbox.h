// letterbox.h - an image of any size into a network's fixed square, and boxes back into the image.
//
// The conventions of the Ultralytics family, so that exported models see what they were trained on: scale r = min(H/h, W/w),
// new size round(w*r) x round(h*r), the rest is split between both sides (left = round(d - 0.1), right = round(d + 0.1)) and filled
// with 114; bilinear with half-pixel centres; RGB / 255, no mean or deviation; a gray image fills all channels.
// The CUDA kernel in cuda/kernels.cu does the same; tests/gpu compares the two.
#pragma once

#include <vector>

#include "common/image/image.h"

namespace gq::exec {

struct Letterbox {
  int source_width{}, source_height{};
  int width{}, height{};          ///< of the network's input
  int scaled_width{}, scaled_height{};
  int left{}, top{};
  double scale{1.0};
  bool operator==(const Letterbox&) const = default;

  /// A coordinate of the network's input in pixels of the image, clipped to it.
  [[nodiscard]] float back_x(float x) const;
  [[nodiscard]] float back_y(float y) const;
};

Letterbox plan_letterbox(int source_width, int source_height, int width, int height);

/// Writes channels x height x width floats in [0, 1]. channels: 1 (a colour image is turned to luma) or 3.
void letterbox_cpu(const image::Image& source, const Letterbox& plan, int channels, float* out);

}  // namespace gq::exec

// exec_scripts.h - small TorchScript models for tests, written from source text. The one place in the tests that sees LibTorch.
#pragma once

#include <string>
#include <vector>

namespace gq::exec::testing {

/// A module whose `forward` is `source` ("def forward(self, x): …"), saved to `path`, with config.txt when `metadata` is not empty.
void write_script(const std::string& path, const std::string& source, const std::string& metadata = {});

/// Answers raw boxes [N, 4 + classes, cells]: the same `boxes` (cx, cy, w, h, score of class 0, score of class 1 …) for every image.
std::string raw_detector(const std::vector<std::vector<float>>& boxes);
/// Answers [N, K, 6]: x1, y1, x2, y2, score, class.
std::string end_to_end_detector(const std::vector<std::vector<float>>& boxes);

}  // namespace gq::exec::testing

// dataset.h - the demo's pictures: drawn ones or a folder in the DeepPCB layout; packed as a tar for the trainer; scored.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/image/board.h"
#include "gpuq/client.h"

namespace gpuq::demo {

struct Sample {
  std::string name;
  std::string file;                          ///< encoded JPEG or PNG, as it will be submitted
  std::string extension;                     ///< "png" | "jpg"
  std::vector<gq::image::Label> labels;
};

/// `count` seeded boards.
std::vector<Sample> draw_samples(std::uint64_t seed, int count, int size);
/// Every NAME_test.{jpg,png} with its NAME.txt; throws std::runtime_error naming the file that is wrong.
std::vector<Sample> read_samples(const std::string& folder);
/// An uncompressed ustar archive with NAME_test.EXT and NAME.txt of each sample.
std::string to_tar(const std::vector<Sample>& samples);

struct Score {
  int found{}, wrong{}, missed{};            ///< true positives, false positives, false negatives
  [[nodiscard]] double precision() const { return found + wrong == 0 ? 0 : static_cast<double>(found) / (found + wrong); }
  [[nodiscard]] double recall() const { return found + missed == 0 ? 0 : static_cast<double>(found) / (found + missed); }
};
/// Greedy by score: a detection counts when its class matches a label not yet taken and IoU >= iou_min (DeepPCB's metric: 0.33).
Score score(const std::vector<Detection>& detections, const std::vector<gq::image::Label>& labels, float iou_min, std::map<int, Score>* by_type = nullptr);
/// RGB picture: labels green, detections red with class and score. PNG bytes.
std::string annotate(const Sample& sample, const std::vector<Detection>& detections);

}  // namespace gpuq::demo

// detection.h - boxes: suppression of duplicates, agreement with labels, the parameters of a detect job and its answer as JSON.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "worker/executors/failure.h"

namespace gq::exec {

inline constexpr int kNetMultiple = 16;     ///< input sizes of our own net are multiples of this

struct Box {
  float x1{}, y1{}, x2{}, y2{};
  float score{};
  int label{};
  bool operator==(const Box&) const = default;
};
float iou(const Box& a, const Box& b);

/// What a detect job may ask for. Unknown names and values out of range are BAD_INPUT: a typing error must not pass silently.
struct DetectParams {
  double conf = 0.35;     ///< boxes below are dropped; 0..1
  double iou = 0.45;      ///< of two boxes of one class that overlap more, the weaker goes; 0..1
  int max_det = 300;      ///< at most this many boxes per image; 1..10000
  int imgsz = 0;          ///< the network's input; 0 = the model's own; 32..4096
};
Expected<DetectParams> parse_detect_params(const std::map<std::string, std::string>& params);

/// Greedy suppression, best score first (equal scores: the earlier box first), within a class only: classes are moved apart by 7680
/// pixels each, so that one comparison serves. A box goes when its overlap with a kept one is > `iou_threshold`.
std::vector<Box> suppress(std::vector<Box> candidates, double iou_threshold, int max_det);
inline constexpr float kClassOffset = 7680.0F;
inline constexpr std::size_t kCandidatesMax = 30'000;   ///< the best this many take part

/// Predictions against labels at one overlap threshold: each label is matched at most once, best score first, same class.
struct Agreement {
  std::size_t matched{}, predicted{}, labelled{};
  [[nodiscard]] double precision() const { return predicted == 0 ? 0 : static_cast<double>(matched) / static_cast<double>(predicted); }
  [[nodiscard]] double recall() const { return labelled == 0 ? 0 : static_cast<double>(matched) / static_cast<double>(labelled); }
  Agreement& operator+=(const Agreement& other);
};
Agreement compare(std::vector<Box> predictions, const std::vector<Box>& labels, double iou_threshold, bool same_class = true);

struct DetectTimes {
  double queue_ms{}, decode_ms{}, infer_ms{};
};
/// {"boxes":[{"x1":…,"score":…,"label":…,"name":…}],"width":…,"height":…,"model":…,"ms":{…}}
std::string detections_json(const std::vector<Box>& boxes, const std::vector<std::string>& names, int width, int height,
                            const std::string& model, const DetectTimes& times);
std::string class_name(const std::vector<std::string>& names, int label);   ///< "class 7" when the model names none

/// Strict number reading, shared by all parameters.
bool read_number(const std::string& text, double& out);
bool read_number(const std::string& text, std::int64_t& out);

}  // namespace gq::exec

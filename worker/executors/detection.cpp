#include "worker/executors/detection.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "worker/executors/json.h"

namespace gq::exec {
namespace {

template <class T>
bool read_all(const std::string& text, T& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc{} && end == text.data() + text.size() && !text.empty();
}

double rounded(float v, double unit) { return std::round(static_cast<double>(v) / unit) * unit; }

}  // namespace

bool read_number(const std::string& text, double& out) { return read_all(text, out) && std::isfinite(out); }
bool read_number(const std::string& text, std::int64_t& out) { return read_all(text, out); }

float iou(const Box& a, const Box& b) {
  const float w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1), h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  if (w <= 0 || h <= 0) return 0;
  const float both = w * h;
  return both / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - both);
}

Expected<DetectParams> parse_detect_params(const std::map<std::string, std::string>& params) {
  DetectParams out;
  for (const auto& [key, text] : params) {
    double real{};
    std::int64_t whole{};
    if (key == "conf" || key == "iou") {
      if (!read_number(text, real) || real < 0 || real > 1)
        return bad_input("parameter " + key + "=" + text + " is not a number from 0 to 1", "for example --set " + key + "=0.35");
      (key == "conf" ? out.conf : out.iou) = real;
    } else if (key == "max_det") {
      if (!read_number(text, whole) || whole < 1 || whole > 10'000)
        return bad_input("parameter max_det=" + text + " is not a whole number from 1 to 10000");
      out.max_det = static_cast<int>(whole);
    } else if (key == "imgsz") {
      if (!read_number(text, whole) || whole < 32 || whole > 4096)
        return bad_input("parameter imgsz=" + text + " is not a whole number from 32 to 4096");
      out.imgsz = static_cast<int>(whole);
    } else {
      return bad_input("detect knows no parameter '" + key + "'", "it knows conf, iou, max_det and imgsz");
    }
  }
  return out;
}

std::vector<Box> suppress(std::vector<Box> candidates, double iou_threshold, int max_det) {
  std::stable_sort(candidates.begin(), candidates.end(), [](const Box& a, const Box& b) { return a.score > b.score; });
  if (candidates.size() > kCandidatesMax) candidates.resize(kCandidatesMax);
  std::vector<Box> kept, kept_moved;
  for (const Box& box : candidates) {
    if (kept.size() == static_cast<std::size_t>(max_det)) break;
    const float offset = kClassOffset * static_cast<float>(box.label);
    const Box moved{box.x1 + offset, box.y1 + offset, box.x2 + offset, box.y2 + offset, box.score, box.label};
    const bool hidden = std::any_of(kept_moved.begin(), kept_moved.end(), [&](const Box& other) {
      return static_cast<double>(iou(moved, other)) > iou_threshold;
    });
    if (hidden) continue;
    kept.push_back(box);
    kept_moved.push_back(moved);
  }
  return kept;
}

Agreement& Agreement::operator+=(const Agreement& other) {
  matched += other.matched;
  predicted += other.predicted;
  labelled += other.labelled;
  return *this;
}

Agreement compare(std::vector<Box> predictions, const std::vector<Box>& labels, double iou_threshold, bool same_class) {
  std::stable_sort(predictions.begin(), predictions.end(), [](const Box& a, const Box& b) { return a.score > b.score; });
  std::vector<bool> taken(labels.size(), false);
  Agreement out{.matched = 0, .predicted = predictions.size(), .labelled = labels.size()};
  for (const Box& p : predictions) {
    std::size_t best = labels.size();
    double best_iou = iou_threshold;
    for (std::size_t i = 0; i < labels.size(); ++i) {
      if (taken[i] || (same_class && labels[i].label != p.label)) continue;
      if (const double overlap = static_cast<double>(iou(p, labels[i])); overlap >= best_iou) {
        best = i;
        best_iou = overlap;
      }
    }
    if (best == labels.size()) continue;
    taken[best] = true;
    ++out.matched;
  }
  return out;
}

std::string class_name(const std::vector<std::string>& names, int label) {
  if (label >= 0 && static_cast<std::size_t>(label) < names.size()) return names[static_cast<std::size_t>(label)];
  return "class " + std::to_string(label);
}

std::string detections_json(const std::vector<Box>& boxes, const std::vector<std::string>& names, int width, int height,
                            const std::string& model, const DetectTimes& times) {
  Json::Array items;
  for (const Box& b : boxes) {
    items.emplace_back(Json::Object{{"x1", rounded(b.x1, 0.01)}, {"y1", rounded(b.y1, 0.01)}, {"x2", rounded(b.x2, 0.01)},
                                    {"y2", rounded(b.y2, 0.01)}, {"score", rounded(b.score, 0.0001)}, {"label", b.label},
                                    {"name", class_name(names, b.label)}});
  }
  Json::Object ms{{"queue", times.queue_ms}, {"decode", times.decode_ms}, {"infer", times.infer_ms}};
  return Json(Json::Object{{"boxes", std::move(items)}, {"width", width}, {"height", height}, {"model", model},
                           {"ms", std::move(ms)}}).dump();
}

}  // namespace gq::exec

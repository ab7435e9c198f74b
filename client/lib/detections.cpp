// detections.cpp - the "detections" part of a detect result: JSON, made by the worker.
//
//   {"boxes": [{"x1", "y1", "x2", "y2", "score": 0.9, "label": 3, "name": "spur"}, …], "width", "height", "model", …}
// unknown keys are ignored; a bare array of boxes is read as well.
#include <nlohmann/json.hpp>

#include "client/include/gpuq/client.h"

namespace gpuq {

namespace {
[[noreturn]] void broken(const std::string& why) {
  throw Error("BAD_MESSAGE", "the detections of this result cannot be read: " + why, "gpuq result JOB -d DIR, and look at the part 'detections'");
}
}  // namespace

std::vector<Detection> parse_detections(const JobResult& result) {
  const Part* part = result.part("detections");
  if (part == nullptr) return {};
  if (part->bytes.empty() && !part->blob.empty()) broken("the part is large and was not fetched");
  const auto json = nlohmann::json::parse(part->bytes, nullptr, false);
  if (json.is_discarded()) broken("not JSON");
  const auto* list = &json;
  if (json.is_object()) {
    const auto it = json.find("boxes");
    if (it == json.end()) broken("no 'boxes'");
    list = &*it;
  }
  if (!list->is_array()) broken("'boxes' is no list");
  std::vector<Detection> out;
  out.reserve(list->size());
  for (const auto& one : *list) {
    if (!one.is_object()) broken("an entry is no object");
    const auto number = [&](const nlohmann::json& value) {
      if (!value.is_number()) broken("a coordinate is no number");
      return value.get<float>();
    };
    const auto named = [&](const char* key) {
      const auto it = one.find(key);
      if (it == one.end()) broken(std::string("an entry has no '") + key + "'");
      return number(*it);
    };
    Detection d{};
    d.x1 = named("x1"), d.y1 = named("y1"), d.x2 = named("x2"), d.y2 = named("y2");
    d.score = named("score");
    if (const auto label = one.find("label"); label != one.end() && label->is_number_integer()) d.label = label->get<int>();
    if (const auto name = one.find("name"); name != one.end() && name->is_string()) d.name = name->get<std::string>();
    out.push_back(std::move(d));
  }
  return out;
}

}  // namespace gpuq

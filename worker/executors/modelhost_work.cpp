#include "worker/executors/modelhost_work.h"

#include <map>
#include <string>

namespace gq::exec {
namespace {

/// The job's inputs: bytes that came inline, or the file that holds them.
Expected<std::map<std::string, std::string>> read_parts(const child::Frame& frame) {
  std::map<std::string, std::string> out = frame.with_prefix("part.");
  for (const auto& [name, path] : frame.with_prefix("file.")) {
    std::string bytes, why;
    if (!image::read_file(path, bytes, why)) return bad_input("part '" + name + "' cannot be read: " + why);
    out[name] = std::move(bytes);
  }
  return out;
}

Expected<Done> read_image(Work& work) {
  auto params = parse_detect_params(work.frame.with_prefix("param."));
  if (!params) return params.failure();
  work.params = *params;
  auto parts = read_parts(work.frame);
  if (!parts) return parts.failure();
  if (parts->size() != 1)
    return bad_input("detect takes one image, this job has " + std::to_string(parts->size()) + " parts", "submit one job per image: gpuq submit detect --model M IMAGE…");
  const auto& [name, bytes] = *parts->begin();
  image::Image picture;
  std::string why;
  if (!image::decode(bytes, picture, why)) return bad_image(name + ": " + why, "JPEG or PNG, whole, at most 64 Mpixel");
  auto prepared = work.model->prepare(std::move(picture), work.params.imgsz);
  if (!prepared) return prepared.failure();
  work.image = std::move(*prepared);
  return Done{};
}

Expected<Done> read_tensors(Work& work) {
  if (const auto params = work.frame.with_prefix("param."); !params.empty()) return bad_input("infer knows no parameter '" + params.begin()->first + "'");
  auto parts = read_parts(work.frame);
  if (!parts) return parts.failure();
  if (parts->empty()) return bad_input("infer needs at least one tensor part", "media type " + std::string(kTensorMedia));
  for (const auto& [name, bytes] : *parts) {
    auto tensor = decode_tensor_part(name, bytes);
    if (!tensor) return tensor.failure();
    work.tensors.push_back(std::move(*tensor));
  }
  return Done{};
}

}  // namespace

Expected<Done> read_inputs(Work& work) { return work.infers ? read_tensors(work) : read_image(work); }

std::int64_t joint_budget(const std::map<std::string, std::int64_t>& budgets) {
  std::int64_t sum = 0;
  for (const auto& [name, mib] : budgets) {
    if (mib <= 0) return 0;
    sum += mib;
  }
  return sum;
}

}  // namespace gq::exec

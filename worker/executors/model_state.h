// model_state.h - a model's inside, shared by its loading (model_load.cpp) and its use (model.cpp). LibTorch types: for those two only.
#pragma once

#include <torch/script.h>

#include <atomic>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "worker/executors/detector_net.h"
#include "worker/executors/model.h"
#include "worker/executors/torch_device.h"

namespace gq::exec {

bool is_oom(const c10::Error& e);
std::string short_what(const std::exception& e);   ///< the reason, without the listing of the script's code

struct Model::State {
  explicit State(const Backend& b) : backend(b), device(torch_device(b)) {}
  const Backend& backend;
  torch::Device device;
  ModelInfo info;
  std::int64_t budget_mib{};             ///< for error texts
  std::optional<torch::jit::Module> script;
  DetectorNet net{nullptr};
  bool bf16 = false;                   // own net in bf16 on the CPU
  bool padded = false;
  std::atomic<int> cap{1};
  std::atomic<int> untroubled{0};

  torch::Tensor forward(const torch::Tensor& input);
  /// Nullopt: the shape fits one of the layouts.
  std::optional<Failure> judge(const torch::Tensor& out, std::int64_t batch) const;
  torch::Tensor blank(int batch) const {
    return torch::full({batch, info.channels, info.height, info.width}, 114.0 / 255.0, torch::TensorOptions().device(device));
  }

  Expected<Done> warm(int batch_max, bool must_detect);
  torch::Tensor upload(const std::vector<DetectItem>& items, int bucket);
  std::vector<DetectAnswer> read_boxes(const torch::Tensor& out, const std::vector<DetectItem>& items);
  std::vector<std::vector<Box>> candidates_on_cpu(const torch::Tensor& raw, const std::vector<DetectItem>& items);
  std::vector<std::vector<Box>> suppress_on_cuda(const torch::Tensor& raw, const std::vector<DetectItem>& items);
};

}  // namespace gq::exec

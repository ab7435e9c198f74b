// torch_device.h - what executors' LibTorch files share: the device of a backend, and autocast.
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include "worker/executors/backend.h"

namespace gq::exec {

inline torch::Device torch_device(const Backend& backend) {
  switch (backend.kind()) {
    case DeviceKind::cuda: return {torch::kCUDA, 0};   // CUDA_VISIBLE_DEVICES names the one card by UUID
    case DeviceKind::mps: return {torch::kMPS};
    case DeviceKind::cpu: break;
  }
  return {torch::kCPU};
}

/// bf16 around forward and loss. Autocast is per thread.
class Autocast {
 public:
  Autocast(at::DeviceType device, bool on) : device_(device), was_(at::autocast::is_autocast_enabled(device)) {
    at::autocast::set_autocast_enabled(device_, on);
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, was_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  at::DeviceType device_;
  bool was_;
};

}  // namespace gq::exec

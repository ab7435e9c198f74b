// detector_net.h - gpuq's own detector: small, anchor-free, one shot, one channel, fully convolutional.
//
// A 4x4 space-to-depth stem (nothing is lost and the widest layers vanish), residual stages at strides 4, 8 and 16, stride 16 merged
// back into 8, and one 1x1 head: per cell of 8x8 pixels the class logits and a box (centre offset in cells, log of the size over
// kPriorPixels). A cell learns to speak for a box when its middle lies within 1.5 cells of the box's middle.
// This header sees LibTorch; only executors' own .cpp files include it.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

#include "worker/executors/detection.h"
#include "worker/executors/failure.h"
#include "worker/executors/tensor_file.h"

namespace gq::exec {

inline constexpr int kNetStride = 8;        ///< of the output
inline constexpr float kPriorPixels = 32.0F;

struct ConvBlockImpl : torch::nn::Module {
  ConvBlockImpl(int in, int out, int kernel, int stride, bool activate);
  torch::Tensor forward(const torch::Tensor& x);
  void fold();   ///< batch normalisation into the weights; inference only, once
  torch::nn::Conv2d conv{nullptr};
  torch::nn::BatchNorm2d norm{nullptr};
  bool activate;
};
TORCH_MODULE(ConvBlock);

struct ResidualImpl : torch::nn::Module {
  explicit ResidualImpl(int width);
  torch::Tensor forward(const torch::Tensor& x);
  ConvBlock first{nullptr}, second{nullptr};
};
TORCH_MODULE(Residual);

struct DetectorNetImpl : torch::nn::Module {
  explicit DetectorNetImpl(int classes);
  torch::Tensor forward(torch::Tensor x);   ///< [N,1,H,W] in [0,1] -> [N, classes + 4, H/8, W/8]
  void fold();
  int classes;
  std::vector<ConvBlock> blocks;            ///< every convolution with its normalisation, for fold()
  torch::nn::Sequential stem{nullptr}, middle{nullptr}, deep{nullptr};
  ConvBlock lateral{nullptr}, merge{nullptr};
  torch::nn::Conv2d head{nullptr};
};
TORCH_MODULE(DetectorNet);

/// Convolution weights to channels_last: twice the speed on CPUs with AVX512.
void use_channels_last(torch::nn::Module& module);

/// Cell outputs to boxes and scores in input pixels, in the raw layout of the Ultralytics family: [N, 4 + classes, cells].
torch::Tensor decode_output(const torch::Tensor& output, int classes);

/// One crop's boxes (input pixels) as targets; boxes with `label` -1 are to be ignored, neither learned nor punished.
struct Targets {
  torch::Tensor scores;      ///< [cells, classes] float
  torch::Tensor weights;     ///< [cells, 1] 0 = ignore
  torch::Tensor positives;   ///< [P] indices of cells
  torch::Tensor boxes;       ///< [P,4] cx, cy, w, h in pixels
};
Targets assign_targets(const std::vector<std::vector<Box>>& batch, int height, int width, int classes);

struct Loss {
  torch::Tensor total;
  torch::Tensor score, box;
};
Loss detector_loss(const torch::Tensor& output, const Targets& targets, int classes);

/// Model file <-> network. Metadata: format, version, classes, imgsz, metrics (JSON), checksum of the tensors.
NamedTensor to_named(const std::string& name, const torch::Tensor& tensor);
Expected<torch::Tensor> from_named(const NamedTensor& named);
TensorFile net_to_file(DetectorNet& net);
Expected<Done> net_from_file(DetectorNet& net, const TensorFile& file, const std::string& prefix = {});

}  // namespace gq::exec

#include "worker/executors/detector_net.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace gq::exec {
namespace {

namespace nn = torch::nn;
namespace F = torch::nn::functional;

constexpr int kUnshuffle = 4;
constexpr float kRadiusCells = 1.5F;

struct DtypeName {
  at::ScalarType type;
  const char* name;
};
constexpr DtypeName kDtypeNames[]{{at::kFloat, "F32"}, {at::kHalf, "F16"}, {at::kBFloat16, "BF16"}, {at::kDouble, "F64"}, {at::kLong, "I64"},
                                  {at::kInt, "I32"}, {at::kShort, "I16"}, {at::kChar, "I8"}, {at::kByte, "U8"}, {at::kBool, "BOOL"}};

}  // namespace

ConvBlockImpl::ConvBlockImpl(int in, int out, int kernel, int stride, bool activate_) : activate(activate_) {
  conv = register_module("conv", nn::Conv2d(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(kernel / 2).bias(false)));
  norm = register_module("norm", nn::BatchNorm2d(nn::BatchNorm2dOptions(out).momentum(0.1)));
  nn::init::kaiming_normal_(conv->weight, 0.0, torch::kFanOut, torch::kReLU);
}

torch::Tensor ConvBlockImpl::forward(const torch::Tensor& x) {
  torch::Tensor y = conv->forward(x);
  if (norm) y = norm->forward(y);
  return activate ? y.relu_() : y;
}

void ConvBlockImpl::fold() {
  torch::NoGradGuard quiet;
  const torch::Tensor scale = norm->weight / (norm->running_var + norm->options.eps()).sqrt();
  const auto& o = conv->options;
  const auto padding = std::get<torch::ExpandingArray<2>>(o.padding());
  nn::Conv2d folded(nn::Conv2dOptions(o.in_channels(), o.out_channels(), o.kernel_size()).stride(o.stride()).padding(padding));
  folded->weight.set_data((conv->weight * scale.reshape({-1, 1, 1, 1})).contiguous());
  folded->bias.set_data((norm->bias - norm->running_mean * scale).contiguous());
  conv = replace_module("conv", folded);
  unregister_module("norm");
  norm = nullptr;
}

ResidualImpl::ResidualImpl(int width) {
  first = register_module("first", ConvBlock(width, width, 3, 1, true));
  second = register_module("second", ConvBlock(width, width, 3, 1, false));
  nn::init::constant_(second->norm->weight, 0.2);   // a residual stage begins close to the identity: deep stages learn at once
}

torch::Tensor ResidualImpl::forward(const torch::Tensor& x) { return (second->forward(first->forward(x)) + x).relu_(); }

DetectorNetImpl::DetectorNetImpl(int classes_) : classes(classes_) {
  const auto conv = [&](int in, int out, int kernel, int stride) {
    blocks.emplace_back(in, out, kernel, stride, true);
    return blocks.back();
  };
  const auto residual = [&](int width) {
    Residual r(width);
    blocks.push_back(r->first);
    blocks.push_back(r->second);
    return r;
  };
  stem = register_module("stem", nn::Sequential(conv(kUnshuffle * kUnshuffle, 32, 3, 1), residual(32)));
  middle = register_module("middle", nn::Sequential(conv(32, 64, 3, 2), residual(64), residual(64)));
  deep = register_module("deep", nn::Sequential(conv(64, 96, 3, 2), residual(96)));
  lateral = register_module("lateral", conv(96, 64, 1, 1));
  merge = register_module("merge", conv(64, 64, 3, 1));
  head = register_module("head", nn::Conv2d(nn::Conv2dOptions(64, classes + 4, 1)));
  torch::NoGradGuard quiet;
  nn::init::normal_(head->weight, 0.0, 0.01);
  head->bias.zero_();
  head->bias.slice(0, 0, classes).fill_(-4.0);   // nearly every cell is background: start by saying so
}

torch::Tensor DetectorNetImpl::forward(torch::Tensor x) {
  x = torch::pixel_unshuffle(x, kUnshuffle).contiguous(at::MemoryFormat::ChannelsLast);
  const torch::Tensor fine = middle->forward(stem->forward(x - 0.5));
  const torch::Tensor coarse = lateral->forward(deep->forward(fine));
  const torch::Tensor up = F::interpolate(coarse, F::InterpolateFuncOptions().scale_factor(std::vector<double>{2, 2}).mode(torch::kNearest));
  return head->forward(merge->forward(fine + up));
}

void DetectorNetImpl::fold() {
  for (auto& block : blocks) block->fold();
}

void use_channels_last(nn::Module& module) {
  torch::NoGradGuard quiet;
  for (auto& p : module.parameters())
    if (p.dim() == 4) p.set_data(p.contiguous(at::MemoryFormat::ChannelsLast));
}

namespace {
/// [M,4] raw box outputs at cells (column, row) -> cx, cy, w, h in pixels.
torch::Tensor raw_to_boxes(const torch::Tensor& raw, const torch::Tensor& middles) {
  const torch::Tensor centres = middles + raw.slice(-1, 0, 2) * kNetStride;
  const torch::Tensor sizes = raw.slice(-1, 2, 4).clamp(-3.0, 3.0).exp() * kPriorPixels;
  return torch::cat({centres, sizes}, -1);
}
torch::Tensor cell_middles(std::int64_t height, std::int64_t width, const torch::TensorOptions& options) {
  const torch::Tensor y = (torch::arange(height, options) + 0.5) * kNetStride, x = (torch::arange(width, options) + 0.5) * kNetStride;
  return torch::stack({x.reshape({1, width}).expand({height, width}), y.reshape({height, 1}).expand({height, width})}, -1).reshape({-1, 2});
}
}  // namespace

torch::Tensor decode_output(const torch::Tensor& output, int classes) {
  const auto n = output.size(0), cells = output.size(2) * output.size(3);
  const torch::Tensor flat = output.to(torch::kFloat).permute({0, 2, 3, 1}).reshape({n, cells, classes + 4});
  const torch::Tensor boxes = raw_to_boxes(flat.slice(2, classes, classes + 4), cell_middles(output.size(2), output.size(3), flat.options()));
  return torch::cat({boxes, flat.slice(2, 0, classes).sigmoid()}, 2).transpose(1, 2);
}

Targets assign_targets(const std::vector<std::vector<Box>>& batch, int height, int width, int classes) {
  const int rows = height / kNetStride, columns = width / kNetStride;
  const auto cells = static_cast<std::int64_t>(batch.size()) * rows * columns;
  Targets out;
  out.scores = torch::zeros({cells, classes});
  out.weights = torch::ones({cells, 1});
  std::vector<std::int64_t> positives;
  std::vector<float> boxes;
  auto* scores = out.scores.data_ptr<float>();
  auto* weights = out.weights.data_ptr<float>();
  std::vector<float> owner(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
  std::vector<const Box*> winner(owner.size());
  for (std::size_t image = 0; image < batch.size(); ++image) {
    std::fill(owner.begin(), owner.end(), 1e9F);
    std::fill(winner.begin(), winner.end(), nullptr);
    const auto base = static_cast<std::int64_t>(image) * rows * columns;
    for (const Box& b : batch[image]) {
      const float cx = (b.x1 + b.x2) / 2 / kNetStride, cy = (b.y1 + b.y2) / 2 / kNetStride;   // in cells
      const bool ignored = b.label < 0;
      const float half_w = ignored ? (b.x2 - b.x1) / 2 / kNetStride : kRadiusCells, half_h = ignored ? (b.y2 - b.y1) / 2 / kNetStride : kRadiusCells;
      for (int row = std::max(0, static_cast<int>(cy - half_h)); row < rows && static_cast<float>(row) <= cy + half_h; ++row) {
        for (int column = std::max(0, static_cast<int>(cx - half_w)); column < columns && static_cast<float>(column) <= cx + half_w; ++column) {
          const float dx = static_cast<float>(column) + 0.5F - cx, dy = static_cast<float>(row) + 0.5F - cy;
          if (std::fabs(dx) > half_w || std::fabs(dy) > half_h) continue;
          const auto cell = static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) + static_cast<std::size_t>(column);
          if (ignored) {
            weights[base + static_cast<std::int64_t>(cell)] = 0;
          } else if (const float distance = dx * dx + dy * dy; distance < owner[cell]) {   // nearest middle wins a contested cell
            owner[cell] = distance;
            winner[cell] = &b;
          }
        }
      }
    }
    for (std::size_t cell = 0; cell < winner.size(); ++cell) {
      if (winner[cell] == nullptr) continue;
      const Box& b = *winner[cell];
      const auto index = base + static_cast<std::int64_t>(cell);
      scores[index * classes + b.label] = 1;
      weights[index] = 1;
      positives.push_back(index);
      boxes.insert(boxes.end(), {(b.x1 + b.x2) / 2, (b.y1 + b.y2) / 2, b.x2 - b.x1, b.y2 - b.y1});
    }
  }
  const auto count = static_cast<std::int64_t>(positives.size());
  out.positives = torch::tensor(positives, torch::kLong);
  out.boxes = torch::tensor(boxes, torch::kFloat).reshape({count, 4});
  return out;
}

Loss detector_loss(const torch::Tensor& output, const Targets& t, int classes) {
  const auto rows = output.size(2), columns = output.size(3), n = output.size(0);
  const torch::Tensor flat = output.to(torch::kFloat).permute({0, 2, 3, 1}).reshape({-1, classes + 4});
  const double positives = std::max<double>(1.0, static_cast<double>(t.positives.size(0)));

  // Focal loss: easy background, which is nearly everything, counts next to nothing.
  const torch::Tensor logits = flat.slice(1, 0, classes);
  const torch::Tensor p = logits.sigmoid();
  const torch::Tensor miss = (p - t.scores).abs().square();
  const torch::Tensor balance = 0.6 - 0.2 * t.scores;
  const torch::Tensor entropy = F::binary_cross_entropy_with_logits(logits, t.scores, F::BinaryCrossEntropyWithLogitsFuncOptions().reduction(torch::kNone));
  Loss out;
  out.score = (entropy * miss * balance * t.weights).sum() / positives * 4.0;

  const torch::Tensor middles = cell_middles(rows, columns, flat.options()).unsqueeze(0).expand({n, rows * columns, 2}).reshape({-1, 2});
  const torch::Tensor raw = flat.slice(1, classes, classes + 4).index_select(0, t.positives);
  const torch::Tensor boxes = raw_to_boxes(raw, middles.index_select(0, t.positives));
  const torch::Tensor half = boxes.slice(1, 2, 4) / 2, half_want = t.boxes.slice(1, 2, 4) / 2;
  const torch::Tensor centre = boxes.slice(1, 0, 2), centre_want = t.boxes.slice(1, 0, 2);
  const torch::Tensor low = torch::maximum(centre - half, centre_want - half_want), high = torch::minimum(centre + half, centre_want + half_want);
  const torch::Tensor inner = (high - low).clamp_min(0).prod(1);
  const torch::Tensor joined = boxes.slice(1, 2, 4).prod(1) + t.boxes.slice(1, 2, 4).prod(1) - inner;
  const torch::Tensor overlap = inner / joined.clamp_min(1e-6);
  const torch::Tensor near = F::smooth_l1_loss((centre - centre_want) / kNetStride, torch::zeros_like(centre), F::SmoothL1LossFuncOptions().reduction(torch::kSum));
  const torch::Tensor size = F::smooth_l1_loss(raw.slice(1, 2, 4), (t.boxes.slice(1, 2, 4) / kPriorPixels).log(), F::SmoothL1LossFuncOptions().reduction(torch::kSum));
  out.box = ((1 - overlap).sum() + near * 0.5 + size * 0.5) / positives;
  out.total = out.score + out.box;
  return out;
}

NamedTensor to_named(const std::string& name, const torch::Tensor& tensor) {
  const torch::Tensor t = tensor.detach().to(torch::kCPU).contiguous();
  NamedTensor out{.name = name, .dtype = "", .shape = t.sizes().vec(), .bytes = {}};
  for (const auto& d : kDtypeNames)
    if (d.type == t.scalar_type()) out.dtype = d.name;
  TORCH_CHECK(!out.dtype.empty(), "no name for dtype ", t.scalar_type());
  out.bytes.assign(static_cast<const char*>(t.data_ptr()), t.nbytes());
  return out;
}

Expected<torch::Tensor> from_named(const NamedTensor& named) {
  for (const auto& d : kDtypeNames) {
    if (named.dtype != d.name) continue;
    torch::Tensor t = torch::empty(named.shape, torch::TensorOptions().dtype(d.type));
    if (t.nbytes() != named.bytes.size()) return bad_input("tensor " + named.name + " has the wrong number of bytes");
    if (!named.bytes.empty()) std::memcpy(t.data_ptr(), named.bytes.data(), named.bytes.size());
    return t;
  }
  return bad_input("tensor " + named.name + " has an unknown type " + named.dtype);
}

TensorFile net_to_file(DetectorNet& net) {
  TensorFile out;
  for (const auto& p : net->named_parameters()) out.tensors.push_back(to_named(p.key(), p.value()));
  for (const auto& b : net->named_buffers()) out.tensors.push_back(to_named(b.key(), b.value()));
  return out;
}

Expected<Done> net_from_file(DetectorNet& net, const TensorFile& file, const std::string& prefix) {
  torch::NoGradGuard quiet;
  const auto load = [&](const std::string& name, torch::Tensor& target) -> Expected<Done> {
    const NamedTensor* named = file.find(prefix + name);
    if (named == nullptr) return bad_model("the file has no tensor " + prefix + name, "it was made for another version of the detector");
    if (named->shape != target.sizes().vec()) return bad_model("tensor " + prefix + name + " has another shape than this detector", "it was made for other classes");
    auto source = from_named(*named);
    if (!source) return source.failure();
    target.copy_(*source);
    return Done{};
  };
  for (auto& p : net->named_parameters())
    if (auto ok = load(p.key(), p.value()); !ok) return ok;
  for (auto& b : net->named_buffers())
    if (auto ok = load(b.key(), b.value()); !ok) return ok;
  return Done{};
}

}  // namespace gq::exec

#include "worker/executors/model.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "worker/executors/batcher.h"
#include "worker/executors/model_state.h"
#include "worker/executors/process.h"

namespace gq::exec {

std::function<void(const std::string&)> on_device_lost = [](const std::string& why) {
  std::fprintf(stderr, "device lost: %s\n", why.c_str());
  ::_exit(kExitDevice);
};

namespace {

constexpr std::int64_t kCandidates = 1024;   // per image on a GPU: what the suppression kernel takes
constexpr int kProbeAfter = 200;         // full batches without trouble before the cap is doubled again

std::string shape_text(const torch::Tensor& t) {
  std::ostringstream out;
  out << t.sizes();
  return out.str();
}

bool valid_rows(const ModelInfo& info, const torch::Tensor& out) {
  const auto classes = out.size(1) - 4;
  return info.names.empty() ? classes >= 1 && out.size(1) <= std::max<std::int64_t>(out.size(2), 5) : classes == static_cast<std::int64_t>(info.names.size());
}

}  // namespace

bool is_oom(const c10::Error& e) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&e) != nullptr) return true;
  const std::string_view what = e.what_without_backtrace();
  return what.find("can't allocate memory") != std::string_view::npos || what.find("out of memory") != std::string_view::npos;
}

/// The first lines of a script's error hold the reason; the rest is a listing of its code.
std::string short_what(const std::exception& e) {
  std::string text = e.what();
  if (const auto* c10 = dynamic_cast<const c10::Error*>(&e)) text = c10->what_without_backtrace();
  if (const auto at = text.find("RuntimeError: "); at != std::string::npos) text = text.substr(at + 14);
  if (text.size() > 300) text = text.substr(0, 300) + "…";
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

Model::Model(std::unique_ptr<State> state) : state_(std::move(state)) {}
Model::~Model() = default;
const ModelInfo& Model::info() const { return state_->info; }
int Model::cap() const { return state_->cap; }

torch::Tensor Model::State::forward(const torch::Tensor& input) {
  if (net) return decode_output(net->forward(bf16 ? input.to(torch::kBFloat16) : input), net->classes);
  torch::IValue out = script->forward({input});
  if (out.isTuple() && !out.toTupleRef().elements().empty()) out = out.toTupleRef().elements()[0];
  if (out.isList() && !out.toListRef().empty()) out = out.toListRef()[0];
  if (!out.isTensor()) throw std::runtime_error("the model answers no tensor but " + out.tagKind());
  return out.toTensor();
}

std::optional<Failure> Model::State::judge(const torch::Tensor& out, std::int64_t batch) const {
  if (out.dim() == 3 && out.size(0) == batch && (out.size(2) == 6 || valid_rows(info, out))) return std::nullopt;
  const std::string classes = info.names.empty() ? "classes" : std::to_string(info.names.size());
  return bad_model("model " + info.name + " answers " + shape_text(out) + " to " + std::to_string(batch) + " images",
                   "detect wants [N, 4 + " + classes + ", cells] or [N, K, 6]");
}

// ---- detecting

Expected<Prepared> Model::prepare(image::Image image, int imgsz) const {
  const ModelInfo& info = state_->info;
  int width = info.width, height = info.height;
  if (imgsz != 0 && (imgsz != width || imgsz != height)) {
    if (!info.any_size)
      return bad_input("model " + info.name + " was exported for " + std::to_string(width) + "x" + std::to_string(height) + ", not imgsz=" + std::to_string(imgsz),
                       "leave imgsz out, or export with dynamic=True");
    if (imgsz % info.multiple != 0) return bad_input("imgsz=" + std::to_string(imgsz) + " is no multiple of " + std::to_string(info.multiple));
    width = height = imgsz;
  }
  Prepared out{.plan = plan_letterbox(image.width, image.height, width, height), .pixels = {}, .image = {}};
  if (state_->backend.cuda() != nullptr) {
    out.image = std::move(image);
  } else {
    out.pixels.resize(static_cast<std::size_t>(info.channels) * static_cast<std::size_t>(width) * static_cast<std::size_t>(height));
    letterbox_cpu(image, out.plan, info.channels, out.pixels.data());
  }
  return out;
}

torch::Tensor Model::State::upload(const std::vector<DetectItem>& items, int bucket) {
  const Letterbox& first = items[0].image->plan;
  torch::Tensor input = torch::full({bucket, info.channels, first.height, first.width}, 114.0F / 255.0F, torch::TensorOptions().device(device));
  if (const CudaApi* cuda = backend.cuda()) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      const Prepared& p = *items[i].image;
      auto* bytes = const_cast<std::uint8_t*>(p.image.pixels.data());
      const torch::Tensor pixels = torch::from_blob(bytes, {static_cast<std::int64_t>(p.image.pixels.size())}, torch::kByte).to(device);
      const LetterboxJob job{pixels.data_ptr<std::uint8_t>(), input[static_cast<std::int64_t>(i)].data_ptr<float>(), p.plan.source_width, p.plan.source_height,
                             p.image.channels, p.plan.width, p.plan.height, info.channels, p.plan.scaled_width, p.plan.scaled_height, p.plan.left, p.plan.top};
      TORCH_CHECK(cuda->letterbox(&job) == 0, "the letterbox kernel could not start");
    }
  } else {
    torch::Tensor host = device.is_cpu() ? input : torch::empty(input.sizes());
    for (std::size_t i = 0; i < items.size(); ++i)
      std::copy(items[i].image->pixels.begin(), items[i].image->pixels.end(), host[static_cast<std::int64_t>(i)].data_ptr<float>());
    if (!device.is_cpu()) input.slice(0, 0, static_cast<std::int64_t>(items.size())).copy_(host.slice(0, 0, static_cast<std::int64_t>(items.size())));
  }
  return input.contiguous(at::MemoryFormat::ChannelsLast);
}

std::vector<std::vector<Box>> Model::State::candidates_on_cpu(const torch::Tensor& raw, const std::vector<DetectItem>& items) {
  const torch::Tensor host = raw.to(torch::kCPU, torch::kFloat).contiguous();
  const auto rows = host.size(1), cells = host.size(2);
  std::vector<std::vector<Box>> out(items.size());
  std::vector<float> best(static_cast<std::size_t>(cells));
  std::vector<int> label(static_cast<std::size_t>(cells));
  for (std::size_t i = 0; i < items.size(); ++i) {
    const float* v = host.data_ptr<float>() + static_cast<std::int64_t>(i) * rows * cells;
    std::copy(v + 4 * cells, v + 5 * cells, best.begin());
    std::fill(label.begin(), label.end(), 0);
    for (std::int64_t c = 5; c < rows; ++c) {   // class by class: the memory lies that way
      for (std::int64_t a = 0; a < cells; ++a) {
        if (v[c * cells + a] > best[static_cast<std::size_t>(a)]) {
          best[static_cast<std::size_t>(a)] = v[c * cells + a];
          label[static_cast<std::size_t>(a)] = static_cast<int>(c - 4);
        }
      }
    }
    const auto threshold = static_cast<float>(items[i].params.conf);
    for (std::int64_t a = 0; a < cells; ++a) {
      const float score = best[static_cast<std::size_t>(a)];
      if (!(score >= threshold)) continue;
      const float cx = v[a], cy = v[cells + a], w = v[2 * cells + a], h = v[3 * cells + a];
      out[i].push_back({cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score, label[static_cast<std::size_t>(a)]});
    }
    out[i] = suppress(std::move(out[i]), items[i].params.iou, items[i].params.max_det);
  }
  return out;
}

/// Threshold and the best 1024 on the device, suppression there too, one copy back for the whole batch.
std::vector<std::vector<Box>> Model::State::suppress_on_cuda(const torch::Tensor& raw, const std::vector<DetectItem>& items) {
  const auto n = static_cast<std::int64_t>(items.size());
  const torch::Tensor all = raw.slice(0, 0, n).to(torch::kFloat);
  auto [scores, labels] = all.slice(1, 4).max(1);
  const auto count = std::min(kCandidates, all.size(2));
  auto [top, index] = scores.topk(count, 1);
  std::vector<float> conf, overlap;
  for (const auto& item : items) {
    conf.push_back(static_cast<float>(item.params.conf));
    overlap.push_back(static_cast<float>(item.params.iou));
  }
  const torch::Tensor thresholds = torch::tensor(conf).to(device).unsqueeze(1), overlaps = torch::tensor(overlap).to(device);
  const torch::Tensor valid = (top >= thresholds).sum(1).to(torch::kInt);
  const torch::Tensor centre = all.slice(1, 0, 2).transpose(1, 2).gather(1, index.unsqueeze(2).expand({n, count, 2}));
  const torch::Tensor half = all.slice(1, 2, 4).transpose(1, 2).gather(1, index.unsqueeze(2).expand({n, count, 2})) / 2;
  const torch::Tensor boxes = torch::cat({centre - half, centre + half}, 2);
  const torch::Tensor classes = labels.gather(1, index).to(torch::kFloat).unsqueeze(2);
  const torch::Tensor moved = (boxes + classes * kClassOffset).contiguous();
  torch::Tensor keep = torch::zeros({n, count}, torch::TensorOptions().dtype(torch::kByte).device(device));
  torch::Tensor mask = torch::empty({n, count, (count + 63) / 64}, torch::TensorOptions().dtype(torch::kLong).device(device));
  TORCH_CHECK(backend.cuda()->nms(moved.data_ptr<float>(), valid.data_ptr<std::int32_t>(), reinterpret_cast<std::uint64_t*>(mask.data_ptr<std::int64_t>()),
                                  keep.data_ptr<std::uint8_t>(), static_cast<std::int32_t>(n), static_cast<std::int32_t>(count), overlaps.data_ptr<float>()) == 0,
              "the suppression kernel could not start");
  const torch::Tensor packed = torch::cat({boxes, top.unsqueeze(2), classes, keep.to(torch::kFloat).unsqueeze(2)}, 2).to(torch::kCPU).contiguous();
  std::vector<std::vector<Box>> out(items.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const float* v = packed.data_ptr<float>() + static_cast<std::int64_t>(i) * count * 7;
    for (std::int64_t k = 0; k < count && out[i].size() < static_cast<std::size_t>(items[i].params.max_det); ++k, v += 7)
      if (v[6] != 0) out[i].push_back({v[0], v[1], v[2], v[3], v[4], static_cast<int>(v[5])});
  }
  return out;
}

std::vector<DetectAnswer> Model::State::read_boxes(const torch::Tensor& out, const std::vector<DetectItem>& items) {
  std::vector<std::vector<Box>> found;
  if (out.size(2) == 6) {
    const torch::Tensor host = out.to(torch::kCPU, torch::kFloat).contiguous();
    found.resize(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      const float* v = host.data_ptr<float>() + static_cast<std::int64_t>(i) * host.size(1) * 6;
      for (std::int64_t k = 0; k < host.size(1); ++k, v += 6)
        if (static_cast<double>(v[4]) >= items[i].params.conf) found[i].push_back({v[0], v[1], v[2], v[3], v[4], static_cast<int>(v[5])});
      std::stable_sort(found[i].begin(), found[i].end(), [](const Box& a, const Box& b) { return a.score > b.score; });
      if (found[i].size() > static_cast<std::size_t>(items[i].params.max_det)) found[i].resize(static_cast<std::size_t>(items[i].params.max_det));
    }
  } else {
    found = backend.cuda() != nullptr ? suppress_on_cuda(out, items) : candidates_on_cpu(out, items);
  }
  std::vector<DetectAnswer> answers;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Letterbox& plan = items[i].image->plan;
    std::vector<Box> boxes;
    for (const Box& b : found[i]) {
      const Box back{plan.back_x(b.x1), plan.back_y(b.y1), plan.back_x(b.x2), plan.back_y(b.y2), b.score, b.label};
      if (back.x2 > back.x1 && back.y2 > back.y1) boxes.push_back(back);   // what lies in the fill, or is no number, is no box of the image
    }
    answers.emplace_back(std::move(boxes));
  }
  return answers;
}

std::vector<DetectAnswer> Model::detect(const std::vector<DetectItem>& items) {
  State& s = *state_;
  const c10::InferenceMode inference;
  std::vector<DetectAnswer> answers(items.size(), DetectAnswer(Failure{"INTERNAL", "not computed", {}}));
  if (!s.info.detects) {
    for (auto& a : answers) a = bad_input("model " + s.info.name + " is no detector", "use infer, or push a model with the output [N, 4 + classes, cells]");
    return answers;
  }
  bool troubled = false;
  const auto forward = [&](int begin, int size) -> bool {
    const std::vector<DetectItem> part(items.begin() + begin, items.begin() + begin + size);
    try {
      const torch::Tensor out = s.forward(s.upload(part, choose_bucket(size, s.info.batch_max, true)));
      if (auto wrong = s.judge(out, out.dim() > 0 ? std::max<std::int64_t>(out.size(0), size) : size)) {
        for (int i = 0; i < size; ++i) answers[static_cast<std::size_t>(begin + i)] = *wrong;
        return true;
      }
      auto read = s.read_boxes(out, part);
      std::move(read.begin(), read.end(), answers.begin() + begin);
      return true;
    } catch (const std::exception& e) {
      const auto* c10 = dynamic_cast<const c10::Error*>(&e);
      const bool oom = (c10 != nullptr && is_oom(*c10)) || dynamic_cast<const std::bad_alloc*>(&e) != nullptr;
      std::string why;
      if (!oom && !s.backend.synchronize(why)) on_device_lost(why);
      s.backend.empty_cache();
      if (oom) {
        troubled = true;
        return false;
      }
      if (size > 1) return false;   // whose fault was it? alone, each shows
      answers[static_cast<std::size_t>(begin)] = bad_model("model " + s.info.name + " failed: " + short_what(e));
      return true;
    }
  };
  const int worked = run_with_ladder(static_cast<int>(items.size()), forward, [&](int index) {
    answers[static_cast<std::size_t>(index)] = Failure{"OOM", "one image does not fit the memory left beside model " + s.info.name, "a larger --vram or a smaller imgsz"};
  });
  if (troubled && worked < static_cast<int>(items.size())) {
    s.cap = std::max(1, worked);
    s.untroubled = 0;
  } else if (s.cap < s.info.batch_max && static_cast<int>(items.size()) >= s.cap && ++s.untroubled >= kProbeAfter) {
    s.cap = std::min(s.info.batch_max, s.cap * 2);
    s.untroubled = 0;
  }
  return answers;
}

// ---- any other model

Expected<std::vector<NamedTensor>> Model::infer(const std::vector<NamedTensor>& inputs) {
  State& s = *state_;
  if (!s.script) return bad_input("model " + s.info.name + " is a detector", "use kind detect");
  const c10::InferenceMode inference;
  try {
    const auto& arguments = s.script->get_method("forward").function().getSchema().arguments();
    std::string wanted;
    for (std::size_t i = 1; i < arguments.size(); ++i) wanted += (i > 1 ? ", " : "") + arguments[i].name();
    std::vector<torch::IValue> positional;
    std::size_t used = 0;
    for (std::size_t i = 1; i < arguments.size(); ++i) {
      const NamedTensor* named = nullptr;
      for (const auto& input : inputs)
        if (input.name == arguments[i].name() || (inputs.size() == 1 && arguments.size() == 2)) named = &input;
      if (named == nullptr && arguments[i].default_value()) {
        positional.emplace_back(*arguments[i].default_value());
        continue;
      }
      if (named == nullptr) return bad_input("part '" + arguments[i].name() + "' is missing", "model " + s.info.name + " wants: " + wanted);
      auto tensor = from_named(*named);
      if (!tensor) return tensor.failure();
      positional.emplace_back(tensor->to(s.device));
      ++used;
    }
    if (used != inputs.size()) return bad_input("a part is none of the model's inputs", "model " + s.info.name + " wants: " + wanted);

    const torch::IValue answer = s.script->forward(positional);
    std::vector<NamedTensor> out;
    const auto add = [&](const std::string& name, const torch::IValue& value) { out.push_back(to_named(name, value.toTensor())); };
    if (answer.isTensor()) {
      add("output", answer);
    } else if (answer.isTuple() || answer.isList()) {
      const auto items = answer.isTuple() ? answer.toTupleRef().elements().vec() : answer.toListRef().vec();
      for (std::size_t i = 0; i < items.size(); ++i) add("output" + std::to_string(i), items[i]);
    } else if (answer.isGenericDict()) {
      for (const auto& entry : answer.toGenericDict()) add(entry.key().toStringRef(), entry.value());
    } else {
      return bad_model("model " + s.info.name + " answers no tensor but " + answer.tagKind());
    }
    return out;
  } catch (const std::exception& e) {
    const auto* c10 = dynamic_cast<const c10::Error*>(&e);
    std::string why;
    if (c10 != nullptr && is_oom(*c10)) {
      s.backend.empty_cache();
      return Failure{"OOM", "the inputs do not fit the memory left beside model " + s.info.name, "a larger --vram"};
    }
    if (!s.backend.synchronize(why)) on_device_lost(why);
    return bad_input("model " + s.info.name + " refused the inputs: " + short_what(e));
  }
}

}  // namespace gq::exec

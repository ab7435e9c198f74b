#include "worker/executors/training.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "worker/executors/checkpoint.h"
#include "worker/executors/detector_net.h"
#include "worker/executors/json.h"
#include "worker/executors/torch_device.h"
#include "worker/executors/training_plan.h"

namespace gq::exec {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kWatchImages = 16;   // validated along the way; the end looks at all of them
constexpr double kMatchIou = 0.33;         // DeepPCB's measure

class Trainer {
 public:
  Trainer(const TrainRequest& request, const Backend& backend, const TrainHooks& hooks)
      : request_(request), params_(request.params), backend_(backend), hooks_(hooks), device_(torch_device(backend)) {}

  Expected<TrainResult> run() {
    if (auto ok = prepare(); !ok) return ok.failure();
    while (step_ < params_.steps) {
      hooks_.stand_while_held();
      if (hooks_.should_cancel()) return TrainResult{.end = TrainEnd::cancelled, .step = step_, .model_path = {}, .metrics_json = {}, .weights_hash = {}, .names = {}};
      if (hooks_.should_yield()) return leave();
      if (hooks_.should_save() || (params_.checkpoint_every > 0 && step_ > first_step_ && step_ % params_.checkpoint_every == 0)) {
        if (auto ok = save(snapshot()); !ok) return ok.failure();
      }
      micro_step();
      if (step_ % watch_every_ == 0 && step_ < params_.steps) watch();
    }
    return finish();
  }

 private:
  Expected<Done> prepare() {
    auto data = read_dataset(request_.dataset);
    if (!data) return data.failure();
    data_ = std::move(*data);
    classes_ = static_cast<int>(data_.names.size());
    split_ = split(data_.samples.size(), params_.val_fraction, params_.seed);
    sampler_.emplace(data_.samples, split_.train, params_.seed);
    const auto per_epoch = static_cast<std::int64_t>((sampler_->size() + static_cast<std::size_t>(params_.batch) - 1) / static_cast<std::size_t>(params_.batch));
    if (params_.steps == 0) params_.steps = params_.epochs > 0 ? params_.epochs * per_epoch : 500;
    watch_every_ = std::max<std::int64_t>(1, (params_.steps + 4) / 5);
    amp_ = params_.amp == "on" || (params_.amp == "auto" && backend_.bf16());

    torch::manual_seed(params_.seed);
    net_ = DetectorNet(classes_);
    if (!params_.init_model.empty())
      if (auto ok = begin_with(params_.init_model); !ok) return ok;
    use_channels_last(*net_);
    net_->to(device_);
    optimizer_ = std::make_unique<torch::optim::AdamW>(net_->parameters(), torch::optim::AdamWOptions(params_.lr).weight_decay(params_.weight_decay));
    hooks_.log(std::to_string(data_.samples.size()) + " images, " + std::to_string(split_.validate.size()) + " kept for validation, " +
               std::to_string(sampler_->size()) + " crops per epoch, " + std::to_string(params_.steps) + " steps of " +
               std::to_string(params_.batch) + ", bf16 " + (amp_ ? "on" : "off") + ", on " + backend_.name());
    resume();
    return Done{};
  }

  Expected<Done> begin_with(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream bytes;
    bytes << in.rdbuf();
    if (!in) return Failure{"UNKNOWN_MODEL", "init_model " + path + " cannot be read", {}};
    auto file = decode_tensors(bytes.str());
    if (!file) return file.failure();
    return net_from_file(net_, *file);
  }

  void resume() {
    std::vector<std::string> warnings;
    auto found = find_checkpoint(request_.checkpoint_dir, request_.resume, request_.job, warnings);
    for (const auto& w : warnings) hooks_.log("warning: " + w);
    if (found) {
      if (auto ok = restore(found->payload); !ok) {
        hooks_.log("warning: checkpoint " + found->path + " is not used: " + ok.failure().what);
        found.reset();
      }
    }
    if (found) {
      hooks_.log("resumed at step " + std::to_string(step_) + " from " + found->path);
    } else if (!request_.resume.empty() || !warnings.empty()) {
      hooks_.log("warning: no usable checkpoint, training starts from zero");
    }
    first_step_ = step_;
  }

  // ---- the step

  void micro_step() {
    const auto began = Clock::now();
    std::vector<std::vector<Box>> boxes;
    torch::Tensor input = torch::empty({params_.batch, 1, params_.imgsz, params_.imgsz});
    auto* pixels = input.data_ptr<float>();
    const auto plane = static_cast<std::size_t>(params_.imgsz) * static_cast<std::size_t>(params_.imgsz);
    for (int k = 0; k < params_.batch; ++k) {
      const std::uint64_t place = static_cast<std::uint64_t>(step_) * static_cast<std::uint64_t>(params_.batch) + static_cast<std::uint64_t>(k);
      const Item& item = sampler_->at(place);
      const Sample& sample = data_.samples[item.sample];
      Crop crop = make_crop(sample, item.box < 0 ? nullptr : &sample.labels[static_cast<std::size_t>(item.box)], params_.imgsz,
                            mix(params_.seed * 0x2545f4914f6cdd1dU + place));
      float* out = pixels + plane * static_cast<std::size_t>(k);
      for (std::size_t i = 0; i < plane; ++i) out[i] = static_cast<float>(crop.image.pixels[i]) * (1.0F / 255.0F);
      boxes.push_back(std::move(crop.boxes));
    }
    Targets targets = assign_targets(boxes, params_.imgsz, params_.imgsz, classes_);
    if (device_.type() != torch::kCPU) {
      input = input.to(device_);
      targets = {targets.scores.to(device_), targets.weights.to(device_), targets.positives.to(device_), targets.boxes.to(device_)};
    }
    const double lr = scheduled_lr(params_, step_);
    for (auto& group : optimizer_->param_groups()) group.options().set_lr(lr);

    net_->train();
    optimizer_->zero_grad();
    Loss loss;
    {
      const Autocast autocast(device_.type(), amp_);
      loss = detector_loss(net_->forward(input), targets, classes_);
    }
    loss.total.backward();   // outside autocast: each operation's backward takes the type of its forward
    torch::nn::utils::clip_grad_norm_(net_->parameters(), 10.0);
    optimizer_->step();
    ++step_;

    const double now_loss = loss.total.item<double>();
    smooth_loss_ = smooth_loss_ == 0 ? now_loss : 0.9 * smooth_loss_ + 0.1 * now_loss;
    images_ += params_.batch;
    const auto now = Clock::now();
    busy_s_ += std::chrono::duration<double>(now - began).count();
    if (now - reported_ >= std::chrono::milliseconds(400) || step_ == params_.steps) {
      reported_ = now;
      hooks_.progress({step_, params_.steps, {{"loss", smooth_loss_}, {"lr", lr}, {"images_per_s", static_cast<double>(images_) / busy_s_}}});
    }
  }

  // ---- how good it is

  /// Whole images of one size at a time through the net, as detection will see them. Asks between images whether to leave.
  std::optional<Agreement> validate(const std::vector<std::size_t>& chosen) {
    const c10::InferenceMode inference;
    net_->eval();
    Agreement out;
    for (const std::size_t index : chosen) {
      if (hooks_.should_yield() || hooks_.should_cancel()) return std::nullopt;
      const Sample& s = data_.samples[index];
      const int w = round_up(s.image.width, kNetMultiple), h = round_up(s.image.height, kNetMultiple);
      torch::Tensor input = torch::zeros({1, 1, h, w});
      auto* pixels = input.data_ptr<float>();
      for (int y = 0; y < s.image.height; ++y)
        for (int x = 0; x < s.image.width; ++x) pixels[y * w + x] = static_cast<float>(s.image.pixels[s.image.at(x, y)]) * (1.0F / 255.0F);
      torch::Tensor raw;
      {
        const Autocast autocast(device_.type(), amp_);
        raw = decode_output(net_->forward(input.to(device_)), classes_).to(torch::kCPU).contiguous();
      }
      out += compare(suppress(boxes_above(raw[0], 0.35F), 0.45, 300), s.labels, kMatchIou);
    }
    return out;
  }

  std::vector<Box> boxes_above(const torch::Tensor& raw, float threshold) const {   // [4 + classes, cells]
    std::vector<Box> out;
    const auto cells = raw.size(1);
    const auto* v = raw.data_ptr<float>();
    for (std::int64_t i = 0; i < cells; ++i) {
      int label = 0;
      for (int c = 1; c < classes_; ++c)
        if (v[(4 + c) * cells + i] > v[(4 + label) * cells + i]) label = c;
      const float score = v[(4 + label) * cells + i], cx = v[i], cy = v[cells + i], w = v[2 * cells + i], h = v[3 * cells + i];
      if (score >= threshold) out.push_back({cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score, label});
    }
    return out;
  }

  void watch() {
    if (split_.validate.empty()) return;
    auto some = split_.validate;
    some.resize(std::min(some.size(), kWatchImages));
    const auto agreement = validate(some);
    if (!agreement) return;
    hooks_.progress({step_, params_.steps, {{"loss", smooth_loss_}, {"precision", agreement->precision()}, {"recall", agreement->recall()}}});
    hooks_.log("step " + std::to_string(step_) + ": precision " + std::to_string(agreement->precision()) + ", recall " + std::to_string(agreement->recall()));
  }

  // ---- state in and out

  torch::optim::AdamWParamState* state_of(const torch::Tensor& p) {
    const auto it = optimizer_->state().find(p.unsafeGetTensorImpl());
    return it == optimizer_->state().end() ? nullptr : static_cast<torch::optim::AdamWParamState*>(it->second.get());
  }

  /// What must be equal for a checkpoint to fit this run: the code's and the request's half of "same configuration".
  std::string configuration() const {
    return Json(Json::Object{{"kind", "train.detector"}, {"steps", params_.steps}, {"batch", params_.batch}, {"lr", params_.lr},
                             {"weight_decay", params_.weight_decay}, {"imgsz", params_.imgsz}, {"seed", std::to_string(params_.seed)},
                             {"val_fraction", params_.val_fraction}, {"classes", classes_}, {"items", static_cast<std::int64_t>(sampler_->size())}}).dump();
  }

  std::string snapshot() {
    TensorFile file;
    for (const auto& p : net_->named_parameters()) {
      file.tensors.push_back(to_named("net." + p.key(), p.value()));
      if (const auto* s = state_of(p.value())) {
        file.tensors.push_back(to_named("adamw.exp_avg." + p.key(), s->exp_avg()));
        file.tensors.push_back(to_named("adamw.exp_avg_sq." + p.key(), s->exp_avg_sq()));
        file.metadata["adamw.step." + p.key()] = std::to_string(s->step());
      }
    }
    for (const auto& b : net_->named_buffers()) file.tensors.push_back(to_named("net." + b.key(), b.value()));
    file.tensors.push_back(to_named("rng.cpu", at::detail::getDefaultCPUGenerator().get_state()));
    const auto& options = static_cast<torch::optim::AdamWOptions&>(optimizer_->param_groups()[0].options());
    file.metadata["adamw.betas"] = std::to_string(std::get<0>(options.betas())) + " " + std::to_string(std::get<1>(options.betas()));
    file.metadata["configuration"] = configuration();
    file.metadata["threads"] = std::to_string(at::get_num_threads());
    file.metadata["step"] = std::to_string(step_);
    const std::uint64_t place = static_cast<std::uint64_t>(step_) * static_cast<std::uint64_t>(params_.batch);
    file.metadata["seed"] = std::to_string(params_.seed);
    file.metadata["epoch"] = std::to_string(place / sampler_->size());
    file.metadata["cursor"] = std::to_string(place % sampler_->size());
    file.metadata["smooth_loss"] = std::to_string(smooth_loss_);
    return encode_tensors(file);
  }

  Expected<Done> restore(const std::string& payload) {
    auto file = decode_tensors(payload);
    if (!file) return file.failure();
    if (const auto& theirs = file->metadata["configuration"]; theirs != configuration())
      return Failure{"CHECKPOINT_CORRUPT", "it was made with other parameters or data (" + theirs + ", now " + configuration() + ")", {}};
    if (const auto& threads = file->metadata["threads"]; threads != std::to_string(at::get_num_threads()))
      hooks_.log("warning: the checkpoint was made with " + threads + " threads, now " + std::to_string(at::get_num_threads()) + ": not bit-equal");
    std::int64_t step{};
    if (!read_number(file->metadata["step"], step) || step < 0 || step > params_.steps) return Failure{"CHECKPOINT_CORRUPT", "its step is not of this run", {}};
    if (auto ok = net_from_file(net_, *file, "net."); !ok) return ok;
    optimizer_->state().clear();
    for (const auto& p : net_->named_parameters()) {
      const NamedTensor* average = file->find("adamw.exp_avg." + p.key());
      const NamedTensor* square = file->find("adamw.exp_avg_sq." + p.key());
      std::int64_t count{};
      if (average == nullptr || square == nullptr) continue;   // saved before the first step
      auto a = from_named(*average);
      auto b = from_named(*square);
      if (!a || !b || !read_number(file->metadata["adamw.step." + p.key()], count)) return Failure{"CHECKPOINT_CORRUPT", "optimizer state of " + p.key(), {}};
      auto state = std::make_unique<torch::optim::AdamWParamState>();
      state->step(count);
      // Same strides as the parameter, or the update would round differently.
      state->exp_avg(torch::empty_like(p.value()).copy_(*a));
      state->exp_avg_sq(torch::empty_like(p.value()).copy_(*b));
      optimizer_->state()[p.value().unsafeGetTensorImpl()] = std::move(state);
    }
    if (const NamedTensor* rng = file->find("rng.cpu"))
      if (auto state = from_named(*rng)) at::Generator(at::detail::getDefaultCPUGenerator()).set_state(*state);
    double loss{};
    if (read_number(file->metadata["smooth_loss"], loss)) smooth_loss_ = loss;
    step_ = step;
    return Done{};
  }

  Expected<Done> save(const std::string& payload) {
    if (request_.checkpoint_dir.empty()) return Done{};
    auto path = write_checkpoint(request_.checkpoint_dir, {request_.job, request_.attempt, step_}, payload);
    if (!path) return path.failure();
    hooks_.checkpointed(step_, *path);
    return Done{};
  }

  /// Asked to leave: memory first, because that is what the asker waits for; then the disk.
  Expected<TrainResult> leave() {
    const std::string state = snapshot();
    optimizer_.reset();
    net_ = nullptr;
    backend_.empty_cache();
    hooks_.released(step_);
    if (auto ok = save(state); !ok) return ok.failure();
    return TrainResult{.end = TrainEnd::yielded, .step = step_, .model_path = {}, .metrics_json = {}, .weights_hash = {}, .names = data_.names};
  }

  Expected<TrainResult> finish() {
    std::optional<Agreement> agreement;
    if (!split_.validate.empty()) {
      agreement = validate(split_.validate);
      if (!agreement) return hooks_.should_cancel() ? TrainResult{.end = TrainEnd::cancelled, .step = step_, .model_path = {}, .metrics_json = {}, .weights_hash = {}, .names = {}} : leave();
    }
    Json::Object metrics{{"steps", step_}, {"images", images_}, {"images_per_s", busy_s_ > 0 ? static_cast<double>(images_) / busy_s_ : 0}, {"loss", smooth_loss_}};
    if (agreement) {
      metrics.emplace_back("precision", agreement->precision());
      metrics.emplace_back("recall", agreement->recall());
      metrics.emplace_back("validation_images", static_cast<std::int64_t>(split_.validate.size()));
      metrics.emplace_back("iou", kMatchIou);
    }
    TrainResult result{.end = TrainEnd::finished, .step = step_, .model_path = {}, .metrics_json = {}, .weights_hash = {}, .names = data_.names};
    TensorFile file = net_to_file(net_);
    std::string all;
    for (const auto& t : file.tensors) all += t.bytes;
    result.weights_hash = checksum(all);
    Json::Array names;
    for (const auto& n : data_.names) names.emplace_back(n);
    file.metadata = {{"format", "gpuq-detector"}, {"version", "1"}, {"checksum", std::to_string(result.weights_hash)},
                     {"info", Json(Json::Object{{"names", names}, {"imgsz", native_size(data_)}, {"stride", kNetMultiple}, {"metrics", metrics}}).dump()}};
    metrics.emplace_back("weights_hash", std::to_string(result.weights_hash));
    result.metrics_json = Json(metrics).dump();
    std::error_code error;
    std::filesystem::create_directories(request_.output_dir, error);
    result.model_path = (std::filesystem::path(request_.output_dir) / "detector.safetensors").string();
    if (auto ok = write_durably(result.model_path, encode_tensors(file)); !ok) return ok.failure();
    if (auto ok = write_durably((std::filesystem::path(request_.output_dir) / "metrics.json").string(), result.metrics_json); !ok) return ok.failure();
    TrainProgress last{step_, params_.steps, {{"loss", smooth_loss_}}};
    if (agreement) {
      last.metrics.emplace_back("precision", agreement->precision());
      last.metrics.emplace_back("recall", agreement->recall());
    }
    hooks_.progress(last);
    return result;
  }

  TrainRequest request_;
  TrainParams params_;
  const Backend& backend_;
  TrainHooks hooks_;
  torch::Device device_;
  Dataset data_;
  Split split_;
  std::optional<Sampler> sampler_;
  DetectorNet net_{nullptr};
  std::unique_ptr<torch::optim::AdamW> optimizer_;
  int classes_{};
  bool amp_{};
  std::int64_t step_{}, first_step_ = 0, watch_every_ = 1, images_{};
  double smooth_loss_{}, busy_s_{};
  Clock::time_point reported_{};
};

}  // namespace

Expected<TrainResult> train_detector(const TrainRequest& request, const Backend& backend, const TrainHooks& hooks) {
  try {
    return Trainer(request, backend, hooks).run();
  } catch (const c10::OutOfMemoryError&) {
    return Failure{"OOM", "the training does not fit its budget", "a smaller --set batch= or imgsz=, or a larger --vram"};
  } catch (const c10::Error& e) {
    std::string why;
    if (!backend.synchronize(why)) return Failure{"DEVICE_LOST", why, {}};
    return Failure{"INTERNAL", e.what_without_backtrace(), {}};
  } catch (const std::exception& e) {
    return Failure{"INTERNAL", e.what(), {}};
  }
}

}  // namespace gq::exec

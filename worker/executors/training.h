// training.h - train.detector: the loop that learns gpuq's detector from labelled images, and can leave at any step.
//
// State is (weights, optimizer, step); everything else follows from the seed: item k of a run is known from (seed, k) alone, so resume
// needs no stream of random numbers, and on the CPU a run that was interrupted ends bit-equal to one that was not (same thread count).
// No LibTorch in this header: the program and the tests drive it through hooks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "worker/executors/backend.h"
#include "worker/executors/dataset.h"
#include "worker/executors/failure.h"

namespace gq::exec {

struct TrainParams {
  std::int64_t steps = 0;              ///< 0: epochs decide; both 0: 500 steps
  std::int64_t epochs = 0;             ///< an epoch visits every box once, and one background crop per image
  int batch = 16;                      ///< 1..256; one micro-step
  double lr = 3e-3;                    ///< the highest of a warm-up and cosine schedule
  double weight_decay = 1e-2;
  int imgsz = 192;                     ///< side of the training crops, a multiple of 16; detection runs on whole images
  std::uint64_t seed = 1;
  std::int64_t checkpoint_every = 100; ///< steps; 0 = only when asked to leave
  double val_fraction = 0.1;           ///< of the images, kept apart by the seed; 0..0.5
  std::string amp = "auto";            ///< bf16: auto (where it pays), on, off
  std::string init_model;              ///< path of a detector file to begin with
};
Expected<TrainParams> parse_train_params(const std::map<std::string, std::string>& params);   ///< ignores data_dir (the program's)

struct TrainProgress {
  std::int64_t step{}, total{};
  std::vector<std::pair<std::string, double>> metrics;   ///< loss, lr, images_per_s; precision and recall after a validation
};
struct TrainHooks {
  std::function<void(const TrainProgress&)> progress = [](const auto&) {};
  std::function<void(const std::string&)> log = [](const auto&) {};
  std::function<bool()> should_yield = [] { return false; };    ///< asked before every micro-step
  std::function<void()> stand_while_held = [] {};               ///< called before every micro-step; returns when it may compute
  std::function<bool()> should_cancel = [] { return false; };
  std::function<bool()> should_save = [] { return false; };     ///< asked like should_yield: save and go on
  std::function<void(std::int64_t)> released = [](auto) {};     ///< device memory is free; the checkpoint is not yet durable
  std::function<void(std::int64_t, const std::string&)> checkpointed = [](auto, const auto&) {};
};
struct TrainRequest {
  TrainParams params;
  std::string dataset;                 ///< folder or tar
  std::string checkpoint_dir, output_dir;
  std::string resume;                  ///< a checkpoint or a folder of them; may be empty
  std::string job;
  std::int64_t attempt{};
};
enum class TrainEnd : std::uint8_t { finished, yielded, cancelled };
struct TrainResult {
  TrainEnd end{};
  std::int64_t step{};
  std::string model_path;              ///< finished: the detector file
  std::string metrics_json;
  std::uint64_t weights_hash{};        ///< finished: equal hash = equal bits
  std::vector<std::string> names;
};

Expected<TrainResult> train_detector(const TrainRequest& request, const Backend& backend, const TrainHooks& hooks);

/// Exposed for tests: the crop that item `index` of the run is.
struct Crop {
  image::Image image;
  std::vector<Box> boxes;              ///< label -1: cut off too far, to be ignored
};
Crop make_crop(const Sample& sample, const Box* around, int side, std::uint64_t random);

}  // namespace gq::exec

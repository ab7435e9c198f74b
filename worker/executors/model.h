// model.h - one warm model on the device: TorchScript in the Ultralytics layouts, gpuq's own detector, or any script for `infer`.
//
// Output layouts of a detector, told apart by shape alone:
//   [N, 4 + classes, cells]  cx, cy, w, h in network pixels, then one score per class (no objectness); suppression is ours
//   [N, K, 6]                x1, y1, x2, y2, score, class: an end-to-end head, already suppressed
// Metadata (imgsz, names, stride) come from the extra file config.txt of a script, or from the header of our own format; what is missing
// there comes from the registry's JSON. TorchScript can run code: models are as trusted as the programs of whoever may push them.
// No LibTorch type here.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/image/image.h"
#include "worker/executors/backend.h"
#include "worker/executors/detection.h"
#include "worker/executors/failure.h"
#include "worker/executors/letterbox.h"
#include "worker/executors/tensor_file.h"

namespace gq::exec {

struct ModelInfo {
  std::string name;                 ///< NAME@VERSION, as results name it
  std::string runtime;              ///< torchscript, gpuq-detector
  int width = 640, height = 640;    ///< of the network's input unless a request says otherwise
  int channels = 3;
  int multiple = 32;                ///< input sizes are multiples of this
  bool any_size = false;            ///< may run at another size than width x height
  bool detects = false;             ///< a forward with an image worked and gave boxes
  std::vector<std::string> names;
  int batch_max = 1;
  std::int64_t used_mib{};
};

struct LoadRequest {
  std::string name, path, runtime;  ///< runtime may be empty: the file's content decides
  std::string metadata;             ///< the registry's JSON; may be empty
  int batch_max = 0;                ///< 0: 32 on a GPU, 4 on a CPU
  std::int64_t budget_mib = 0;      ///< for error texts; Backend::limit_memory is what holds
};

/// An image on its way: what decode threads leave behind for the device thread.
struct Prepared {
  Letterbox plan;
  std::vector<float> pixels;        ///< channels x height x width, when the CPU does the letterbox
  image::Image image;               ///< when the device does it
};
struct DetectItem {
  const Prepared* image{};
  DetectParams params;
};
using DetectAnswer = Expected<std::vector<Box>>;

class Model {
 public:
  /// Reads, moves to the device, warms every batch bucket. Slow: never on the thread that infers.
  static Expected<std::shared_ptr<Model>> load(const LoadRequest& request, const Backend& backend);
  ~Model();

  [[nodiscard]] const ModelInfo& info() const;
  [[nodiscard]] int cap() const;    ///< the largest batch to try now: lowered by OOM, raised again after a while

  /// Any thread. `imgsz` 0 = the model's own.
  [[nodiscard]] Expected<Prepared> prepare(image::Image image, int imgsz) const;
  /// One batch, all of one input size; an answer per item, and one item's trouble stays its own.
  std::vector<DetectAnswer> detect(const std::vector<DetectItem>& items);
  Expected<std::vector<NamedTensor>> infer(const std::vector<NamedTensor>& inputs);

  struct State;

 private:
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// A poisoned device ends the process (exit 70); tests replace it.
extern std::function<void(const std::string& why)> on_device_lost;

}  // namespace gq::exec

// model_file.h - model.toml, the page that makes a folder a Python model. The command line reads it before a push, the worker when it loads.
//
//   entry = "ocr:Reader"            needed: file ocr.py (or package ocr/) of the folder, class Reader; or "gpuq:onnx" and the like
//   interpreter = "/opt/ocr-env"    a python, a venv or a conda environment on the worker; "python3" from its PATH
//   kinds = ["infer"]               what it answers: infer, detect
//   vram = "2GiB"                   device memory of one process, CUDA context included; 0 = the kind's default
//   max_batch = 1                   requests in one call of predict, 1..4096
//   instances = 1                   processes per device, 1..16, each with memory of its own: requests go to the least busy
//   setup_timeout = "2min"          setup and warm-up; then it is killed
//   warmup = true                   call the model's warmup() before it counts as ready, when it has one
//   env.NAME = "value"              more of its environment
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/units.h"

namespace gq {

struct ModelFile {
  static constexpr std::int64_t kBatchMax = 4096, kInstancesMax = 16;
  std::string entry, interpreter;
  std::vector<std::string> kinds;
  Mib vram{};
  std::int64_t max_batch{1};
  std::int64_t instances{1};
  std::chrono::milliseconds setup_timeout{};
  bool warmup{true};
  std::map<std::string, std::string> env;

  /// BAD_MODEL with line and column.
  static Result<ModelFile> parse(std::string_view toml, const std::string& name);
  /// model.toml of that folder, and that its entry is there. BAD_MODEL.
  static Result<ModelFile> read(const std::string& folder);
  /// Device memory of all its processes together; 0 = the kind's default, for the one that there is.
  [[nodiscard]] Mib budget() const;
  /// The program to start: `interpreter`, or bin/python of the folder that it names. BAD_MODEL when it is not there.
  [[nodiscard]] Result<std::string> python() const;
};

}  // namespace gq

#include "tests/unit/exec_scripts.h"

#include <torch/script.h>

#include <sstream>

namespace gq::exec::testing {
namespace {

std::string table(const std::vector<std::vector<float>>& rows) {
  std::ostringstream out;
  out << "[";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    out << (i == 0 ? "[" : ", [");
    for (std::size_t k = 0; k < rows[i].size(); ++k) out << (k == 0 ? "" : ", ") << std::showpoint << rows[i][k];
    out << "]";
  }
  return out.str() + "]";
}

}  // namespace

void write_script(const std::string& path, const std::string& source, const std::string& metadata) {
  torch::jit::Module module("model");
  module.register_attribute("training", c10::BoolType::get(), true);
  module.define(source);
  torch::jit::ExtraFilesMap extra;
  if (!metadata.empty()) extra["config.txt"] = metadata;
  module.save(path, extra);
}

std::string raw_detector(const std::vector<std::vector<float>>& boxes) {
  return "def forward(self, x):\n    y = torch.tensor(" + table(boxes) + ")\n    return y.t().unsqueeze(0).repeat([x.size(0), 1, 1])\n";
}

std::string end_to_end_detector(const std::vector<std::vector<float>>& boxes) {
  return "def forward(self, x):\n    y = torch.tensor(" + table(boxes) + ")\n    return y.unsqueeze(0).repeat([x.size(0), 1, 1])\n";
}

}  // namespace gq::exec::testing

// doctor.h - one finding, and how findings are shown.
#pragma once

#include <string>
#include <vector>

#include "client/cli/cli.h"

namespace gq::cli {

struct Finding {
  enum Grade : std::uint8_t { ok, warn, red };
  std::string name;
  Grade grade = ok;
  std::string what, why, fix;
};

int print_findings(Cli& cli, const std::vector<Finding>& findings);

}  // namespace gq::cli

// crash_points.cpp - reads the one environment variable once.
#include "broker/shell/crash_points.h"

#include <unistd.h>

#include <charconv>
#include <cstdlib>

namespace gq::broker {

const std::vector<std::string_view>& crash_site_names() {
  static const std::vector<std::string_view> names{"recv-submit",   "stepped-submit", "before-commit", "in-commit",
                                                   "after-commit",  "mid-release",    "after-release", "recv-ended",
                                                   "stepped-ended", "after-assign",   "after-accepted"};
  return names;
}

namespace {

struct Planned {
  CrashSite site{CrashSite::none};
  unsigned passes_left{1};
};

Planned read_plan() {
  const char* text = std::getenv("GPUQ_CRASH_AT");
  if (text == nullptr) return {};
  std::string_view site(text);
  Planned plan;
  if (const auto colon = site.find(':'); colon != std::string_view::npos) {
    const std::string_view n = site.substr(colon + 1);
    std::from_chars(n.data(), n.data() + n.size(), plan.passes_left);
    site = site.substr(0, colon);
  }
  const auto& names = crash_site_names();
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == site) plan.site = static_cast<CrashSite>(i);
  return plan;
}

}  // namespace

void crash_at(CrashSite site) {
  static Planned plan = read_plan();
  if (site != plan.site || plan.site == CrashSite::none) [[likely]] return;
  if (--plan.passes_left == 0) _exit(137);
}

}  // namespace gq::broker

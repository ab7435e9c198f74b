// policy.cpp - the built-in policy, and the little arithmetic of windows.
#include "broker/core/policy.h"

#include <algorithm>

namespace gq::core {

namespace {
/// The first span that has not closed at `ms`.
auto span_at(const std::vector<Span>& spans, std::int64_t ms) {
  return std::upper_bound(spans.begin(), spans.end(), ms, [](std::int64_t t, const Span& s) { return t < s.close_ms; });
}
bool has(const std::vector<JobClass>& list, JobClass c) { return std::find(list.begin(), list.end(), c) != list.end(); }
}  // namespace

bool Window::open_at(std::int64_t ms) const {
  const auto at = span_at(spans, ms);
  return at != spans.end() && at->open_ms <= ms;
}

std::optional<std::int64_t> Window::closes_after(std::int64_t ms) const {
  const auto at = span_at(spans, ms);
  if (at == spans.end() || at->open_ms > ms) return std::nullopt;
  return at->close_ms;
}

std::optional<std::int64_t> Window::opens_after(std::int64_t ms) const {
  const auto at = span_at(spans, ms);
  if (at == spans.end() || at->open_ms <= ms) return std::nullopt;
  return at->open_ms;
}

std::string to_string(const DeviceSelector& s) {
  switch (s.kind) {
    case DeviceSelector::Kind::any: return "*";
    case DeviceSelector::Kind::uuid: return s.text;
    case DeviceSelector::Kind::label: return "label:" + s.text;
    case DeviceSelector::Kind::host_index: return s.text + "/" + std::to_string(s.index);
    case DeviceSelector::Kind::index: return std::to_string(s.index);
  }
  return {};
}

Policy::Policy() {
  using namespace std::chrono_literals;
  ClassPolicy& inference = of(JobClass::inference);
  inference.budget = {6 * 1024};
  ClassPolicy& training = of(JobClass::training);
  training.budget = {12 * 1024};
  training.min_run = 30s;
  ClassPolicy& synthesis = of(JobClass::synthesis);
  synthesis.budget = {4 * 1024};
  synthesis.min_run = 10s;
  synthesis.min_run_ignored_by = {JobClass::inference};
  synthesis.checkpoint_interval = 1min;
}

std::uint8_t Policy::rank(JobClass c) const {
  return static_cast<std::uint8_t>(std::find(ladder.begin(), ladder.end(), c) - ladder.begin());
}

std::uint8_t Policy::pauses_for(JobClass c, OnPreempt wish) const {
  unsigned bits = 0;
  for (const JobClass other : of(c).pause_for) bits |= 1U << static_cast<unsigned>(other);
  if (bits == 0 && wish == OnPreempt::pause)
    for (const JobClass other : ladder)
      if (rank(other) < rank(c)) bits |= 1U << static_cast<unsigned>(other);
  return static_cast<std::uint8_t>(bits);
}

bool Policy::excludes(JobClass a, JobClass b) const { return has(of(a).not_beside, b) || has(of(b).not_beside, a); }

}  // namespace gq::core

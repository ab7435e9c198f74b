// reader_reservations.cpp - windows, and what is reserved when. See reader.h.
#include "broker/policy/reader.h"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

namespace gq::policy {

namespace {

// A file is written by people, but any client may ask what one would change: reading it must not cost a second.
constexpr std::size_t kReservationsMax = 64;   // of a class
constexpr std::size_t kWindowsMax = 64;        // different ones

/// From when on how much more, or less, of a device is reserved.
struct Step {
  std::int64_t at_ms;
  std::int32_t percent;
  std::size_t reservation;
};

}  // namespace

Result<std::string> Reader::zone(const std::string& key, const std::string& class_key) {
  for (const std::string& from : {key, class_key, std::string("policy.time_zone")}) {
    if (from.empty()) continue;
    const std::string name = config_.text(from);
    if (name.empty()) continue;
    if (name == "local" && !local_zone_.empty()) return local_zone_;
    auto resolved = resolve_zone(name, tz_variable_);
    if (!resolved && name != "local") return tl::unexpected(about(from, resolved.error()));
    if (name != "local") return resolved;
    local_zone_ = resolved.value_or("UTC");
    const std::string reason = resolved ? "is this machine's, " + local_zone_ : "is taken as UTC: " + resolved.error().what;
    if (!resolved || !config_.given(from)) warnings_.push_back("the time zone of windows that name none " + reason + "; to choose it: [policy] time_zone = \"" + local_zone_ + "\"");
    return local_zone_;
  }
  return std::string("UTC");
}

Result<core::WindowIndex> Reader::window(const std::string& key, const std::string& zone_key, const std::string& class_zone_key) {
  auto parsed = parse_window(config_.text(key));
  if (!parsed) return tl::unexpected(about(key, parsed.error()));
  for (const std::string& warning : parsed->warnings) warnings_.push_back(config_.where(key) + ": " + key + ": " + warning);
  if (config_.given(zone_key))   // a wrong name is told even where it is not needed
    if (auto named = zone(zone_key, class_zone_key); !named) return tl::unexpected(named.error());
  if (parsed->always) return core::kAlways;
  auto name = zone(zone_key, class_zone_key);
  if (!name) return tl::unexpected(name.error());
  const auto [known, fresh] = known_windows_.try_emplace({config_.text(key), *name}, static_cast<core::WindowIndex>(policy_.windows.size()));
  if (!fresh) return known->second;
  if (policy_.windows.size() == kWindowsMax) return tl::unexpected(wrong(key, "is one of more than " + std::to_string(kWindowsMax) + " different windows", "use the same text where the same is meant"));
  auto spans = window_spans(parsed->items, *name, now_.ms - kSpansBackMs, now_.ms + kSpansAheadMs);
  if (!spans) return tl::unexpected(about(key, spans.error()));
  if (spans->empty()) return tl::unexpected(wrong(key, "never opens in the next weeks", "look at its days and at the clock changes of " + *name));
  policy_.windows.push_back({config_.text(key), *name, std::move(*spans)});
  return known->second;
}

/// Jobs start only when min_run still fits, and are asked to leave `grace` before the end: both must be shorter than the window.
Result<void> Reader::window_long_enough(JobClass c) const {
  const core::ClassPolicy& of = policy_.of(c);
  const core::Window* open = policy_.window(of.window);
  if (open == nullptr) return {};
  std::int64_t longest = 0;
  for (const core::Span& span : open->spans) longest = std::max(longest, span.close_ms - span.open_ms);
  const std::string prefix = "class." + std::string(to_string(c)) + ".";
  const Duration length = std::chrono::milliseconds(longest);
  if (length > of.min_run && length > of.grace) return {};
  return tl::unexpected(wrong(prefix + "window", "is never open long enough for a job to start: " + std::to_string(longest / 60'000) + " min, and min_run or grace is no shorter",
                              "make it longer, or " + prefix + "min_run and grace shorter"));
}

Result<void> Reader::reservations(JobClass c) {
  const std::string list = "class." + std::string(to_string(c)) + ".reserve";
  const auto places = config_.tables(list);
  if (places.size() > kReservationsMax)
    return fail(Errc::usage, places[kReservationsMax] + ": " + list + " has more than " + std::to_string(kReservationsMax) + " entries", "give devices a label and reserve by it");
  for (std::size_t i = 0; i < places.size(); ++i) {
    auto one = reservation(c, list + "[" + std::to_string(i) + "]", places[i]);
    if (!one) return tl::unexpected(one.error());
    const auto same = [&](const core::Reservation& r) { return r.for_class == c && r.device == one->device && r.kind == one->kind && r.when == one->when; };
    const auto before = std::find_if(policy_.reservations.begin(), policy_.reservations.end(), same);
    if (before != policy_.reservations.end())
      return fail(Errc::usage, places[i] + ": " + list + "[" + std::to_string(i) + "]: " + to_string(one->device) + " has such a reservation already, in " +
                                   places_[static_cast<std::size_t>(before - policy_.reservations.begin())],
                  "write one with the size that is meant");
    const auto& allowed = policy_.of(c).devices;
    const auto exact = [](const core::DeviceSelector& s) { return s.kind != core::DeviceSelector::Kind::any && s.kind != core::DeviceSelector::Kind::label; };
    if (exact(one->device) && !allowed.empty() && std::all_of(allowed.begin(), allowed.end(), exact) && std::find(allowed.begin(), allowed.end(), one->device) == allowed.end())
      warnings_.push_back(places[i] + ": " + to_string(one->device) + " is reserved for " + std::string(to_string(c)) + ", but class." + std::string(to_string(c)) + ".devices does not name it");
    policy_.reservations.push_back(std::move(*one));
    places_.push_back(places[i]);
  }
  return {};
}

Result<core::Reservation> Reader::reservation(JobClass c, const std::string& key, const std::string& place) {
  using Size = core::Reservation::Size;
  core::Reservation out;
  out.for_class = c;
  for (const char* needed : {"device", "vram"})
    if (!config_.given(key + "." + needed)) return fail(Errc::usage, place + ": " + key + " has no " + needed, "write {device = \"host1/0\", vram = \"6GiB\"}");
  auto device = parse_selector(config_.text(key + ".device"));
  if (!device) return tl::unexpected(about(key + ".device", device.error()));
  out.device = std::move(*device);
  const std::string vram = config_.text(key + ".vram");
  if (vram == "loaded") {
    out.kind = Size::loaded;
  } else if (vram.ends_with('%')) {
    out.kind = Size::percent;
    auto part = percent(key + ".vram", vram);
    if (!part) return tl::unexpected(part.error());
    out.percent = *part;
  } else if (const auto size = parse_mib(vram)) {
    out.size = *size;
  } else {
    return tl::unexpected(wrong(key + ".vram", "'" + vram + "' is no amount of memory", "write a size \"6GiB\", a part of the card \"25%\", or \"loaded\""));
  }
  if (out.kind != Size::loaded && out.size == Mib{} && out.percent == 0) return tl::unexpected(wrong(key + ".vram", "'" + vram + "' reserves nothing", "leave the reservation out"));
  auto when = window(key + ".when", key + ".time_zone", "class." + std::string(to_string(c)) + ".time_zone");
  if (!when) return tl::unexpected(when.error());
  out.when = *when;
  return out;
}

/// What classes have reserved of one device at the same time is at most the whole of it; of several reservations of one class the
/// largest counts. (Sizes depend on the card: the fleet tells.)
Result<void> Reader::reserved_in_all() const {
  const auto& all = policy_.reservations;
  std::set<std::string> looked_at;
  for (const core::Reservation& one : all) {
    if (!looked_at.insert(to_string(one.device)).second) continue;
    std::vector<Step> steps;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool here = all[i].device == one.device || all[i].device.kind == core::DeviceSelector::Kind::any;
      if (!here || all[i].kind != core::Reservation::Size::percent) continue;
      const auto part = static_cast<std::int32_t>(all[i].percent);
      if (const core::Window* window = policy_.window(all[i].when)) {
        for (const core::Span& span : window->spans) steps.insert(steps.end(), {{span.open_ms, part, i}, {span.close_ms, -part, i}});
      } else {
        steps.push_back({INT64_MIN, part, i});
      }
    }
    std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return std::tie(a.at_ms, a.percent, a.reservation) < std::tie(b.at_ms, b.percent, b.reservation); });
    std::array<std::multiset<std::int32_t>, kJobClasses> open;
    for (const Step& step : steps) {
      auto& parts = open[static_cast<std::size_t>(all[step.reservation].for_class)];
      if (step.percent > 0) parts.insert(step.percent);
      else parts.erase(parts.find(-step.percent));
      std::int32_t sum = 0;
      for (const auto& of_class : open) sum += of_class.empty() ? 0 : *of_class.rbegin();
      if (sum > 100)
        return fail(Errc::usage, places_[step.reservation] + ": reservations of " + to_string(one.device) + " that hold at the same time add up to " + std::to_string(sum) + "% of it",
                    "make one of them smaller, or give them windows that do not overlap");
    }
  }
  return {};
}

}  // namespace gq::policy

// reader.cpp - the ladder, the classes, devices and tenants. See reader.h.
#include "broker/policy/reader.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <tuple>

#include "broker/policy/settings.h"
#include "common/config/config_path.h"
#include "common/config/nearest.h"

namespace gq::policy {

namespace {

constexpr std::uint32_t kCountMax = 1'000'000'000;
constexpr std::size_t kSectionsMax = 4096;   // devices and tenants: a file is written by people

std::string plain(const std::string& quoted_name) { return config::split_path(quoted_name).front(); }

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return text.starts_with(p); });
}

std::optional<std::uint16_t> parse_index(std::string_view text) {
  std::uint16_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Result<core::DeviceSelector> parse_selector(const std::string& text) {
  using Kind = core::DeviceSelector::Kind;
  if (text == "*") return core::DeviceSelector{};
  if (text.starts_with("label:") && text.size() > 6) return core::DeviceSelector{Kind::label, text.substr(6), 0};
  const auto slash = text.rfind('/');
  if (text.starts_with("MIG-") || (slash == std::string::npos && starts_with_any(text, {"GPU-", "CPU-", "MPS-"})))
    return core::DeviceSelector{Kind::uuid, text, 0};
  if (const auto index = parse_index(text)) return core::DeviceSelector{Kind::index, "", *index};
  if (slash != std::string::npos && slash > 0)
    if (const auto index = parse_index(std::string_view(text).substr(slash + 1))) return core::DeviceSelector{Kind::host_index, text.substr(0, slash), *index};
  return fail(Errc::usage, "'" + text + "' names no device", "write a UUID (GPU-…), label:NAME, HOST/INDEX, an INDEX while one host is known, or * for every device");
}

Error Reader::wrong(const std::string& key, const std::string& what, const std::string& next) const {
  const std::string place = config_.where(key);
  return Error{Errc::usage, place + (place == key || place.empty() ? "" : ": ") + (place == key ? "" : key) + ": " + what, next};
}

Result<std::uint32_t> Reader::count(const std::string& key) const {
  const std::int64_t value = config_.number(key);
  if (value < 0 || value > kCountMax) return tl::unexpected(wrong(key, std::to_string(value) + " is not from 0 to " + std::to_string(kCountMax), "0 means no cap where it is a cap"));
  return static_cast<std::uint32_t>(value);
}

Result<std::uint32_t> Reader::percent(const std::string& key, const std::string& text) const {
  const std::string_view digits = std::string_view(text).substr(0, text.size() - 1);   // the caller saw the '%'
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size()) return tl::unexpected(wrong(key, "'" + text + "' is no whole percentage", "write for example \"25%\""));
  if (value > 100) return tl::unexpected(wrong(key, "'" + text + "' is more than the whole device", "at most 100%"));
  return value;
}

Result<std::vector<JobClass>> Reader::classes(const std::string& key) const {
  std::vector<JobClass> list;
  for (const std::string& word : config_.list(key)) {
    const auto c = parse_job_class(word);
    if (!c) {
      const std::string meant = nearest({"inference", "training", "synthesis"}, word);
      return tl::unexpected(wrong(key, "'" + word + "' is no class", meant.empty() ? "classes are inference, training and synthesis" : "did you mean " + meant + "?"));
    }
    if (std::find(list.begin(), list.end(), *c) == list.end()) list.push_back(*c);
  }
  return list;
}

Result<core::Policy> Reader::read() {
  if (auto done = general(); !done) return tl::unexpected(done.error());
  for (const JobClass c : policy_.ladder)
    if (auto done = one_class(c); !done) return tl::unexpected(done.error());
  if (auto done = reserved_in_all(); !done) return tl::unexpected(done.error());
  if (auto done = devices(); !done) return tl::unexpected(done.error());
  if (auto done = tenants(); !done) return tl::unexpected(done.error());
  return std::move(policy_);
}

Result<void> Reader::ladder() {
  const std::string key = "policy.ladder";
  std::vector<JobClass> order;
  for (const std::string& word : config_.list(key)) {
    const auto c = parse_job_class(word);
    if (c && std::find(order.begin(), order.end(), *c) != order.end())
      return tl::unexpected(wrong(key, "'" + word + "' stands in it twice, so it would be above and below itself", "name every class once, the highest first"));
    if (c) order.push_back(*c);
  }
  if (auto known = classes(key); !known) return tl::unexpected(known.error());
  for (std::size_t c = 0; c < kJobClasses; ++c)
    if (std::find(order.begin(), order.end(), static_cast<JobClass>(c)) == order.end())
      return tl::unexpected(wrong(key, "'" + std::string(to_string(static_cast<JobClass>(c))) + "' is missing", "name every class once, the highest first"));
  std::copy(order.begin(), order.end(), policy_.ladder.begin());
  return {};
}

Result<void> Reader::general() {
  if (auto done = ladder(); !done) return done;
  const std::string aging = config_.text("policy.aging");
  policy_.aging = aging != "off";
  if (policy_.aging) {
    const auto step = parse_duration(aging);
    if (!step || *step < std::chrono::seconds(1)) return tl::unexpected(wrong("policy.aging", "'" + aging + "' is neither \"off\" nor a duration of a second or more", "write for example \"10min\""));
    policy_.aging_step = *step;
  }
  const std::string headroom = config_.text("policy.headroom");
  if (!headroom.ends_with('%')) return tl::unexpected(wrong("policy.headroom", "'" + headroom + "' is no percentage", "write for example \"5%\"; amounts are given per device: [device.\"host1/0\"] headroom = \"1GiB\""));
  auto part = percent("policy.headroom", headroom);
  if (!part) return tl::unexpected(part.error());
  if (*part > 90) return tl::unexpected(wrong("policy.headroom", "'" + headroom + "' leaves nothing to grant", "5% is usual"));
  policy_.headroom_pct = *part;
  std::optional<std::int16_t> hold, resume;
  if (auto done = temperatures("policy.", hold, resume); !done) return done;
  policy_.hold_at_c = *hold;
  policy_.resume_at_c = *resume;
  policy_.reserve_after = config_.duration("policy.reserve_after");
  policy_.model_idle_min = config_.duration("policy.model_idle_min");
  policy_.fair = config_.boolean("policy.fair");
  policy_.fair_half_life = config_.duration("policy.fair_half_life");
  if (policy_.fair_half_life < 1min) return tl::unexpected(wrong("policy.fair_half_life", "shorter than a minute", "24h is usual"));
  const std::string packing = config_.text("policy.packing");
  if (packing == "auto") policy_.packing = core::Packing::automatic;
  else if (packing == "best-fit") policy_.packing = core::Packing::best_fit;
  else if (packing == "fgd") policy_.packing = core::Packing::fgd;
  else return tl::unexpected(wrong("policy.packing", "'" + packing + "' is no way of packing", "\"auto\", \"best-fit\" or \"fgd\""));
  return {};
}

/// `hold` and `resume` stay empty where nothing is given and the key's default is 0 ("as everywhere").
Result<void> Reader::temperatures(const std::string& prefix, std::optional<std::int16_t>& hold, std::optional<std::int16_t>& resume) const {
  for (const auto& [name, out] : {std::pair{"hold_at_c", &hold}, {"resume_at_c", &resume}}) {
    const std::string key = prefix + name;
    const std::int64_t value = config_.number(key);
    if (!config_.given(key) && value == 0) continue;
    if (value < 1 || value > 150) return tl::unexpected(wrong(key, std::to_string(value) + " degrees Celsius is no temperature to work at", "83 and 75 are the defaults"));
    *out = static_cast<std::int16_t>(value);
  }
  const std::int16_t up = hold.value_or(policy_.hold_at_c), down = resume.value_or(policy_.resume_at_c);
  const std::string key = prefix + (config_.given(prefix + "resume_at_c") ? "resume_at_c" : "hold_at_c");
  if (down >= up)
    return tl::unexpected(wrong(key, "a device held at " + std::to_string(up) + " C would resume at " + std::to_string(down) + " C, which is not cooler", "let resume_at_c be some degrees below hold_at_c"));
  return {};
}

Result<void> Reader::one_class(JobClass c) {
  const std::string prefix = "class." + std::string(to_string(c)) + ".";
  core::ClassPolicy& out = policy_.of(c);
  const std::string budget = config_.text(prefix + "budget");
  if (budget == "rest") out.budget = kRest;
  else if (budget == "kind") out.budget = {};
  else if (const auto size = parse_mib(budget); size && size->value > 0) out.budget = *size;
  else return tl::unexpected(wrong(prefix + "budget", "'" + budget + "' is no budget", "write a size such as \"12GiB\", \"rest\" for whatever the card has, or \"kind\" for the kind's own default"));
  const std::string cloud = config_.text(prefix + "cloud");
  if (cloud != "never" && cloud != "allowed") return tl::unexpected(wrong(prefix + "cloud", "'" + cloud + "' is no answer", "\"allowed\" or \"never\""));
  out.cloud = cloud == "allowed";
  const std::string durability = config_.text(prefix + "durability");
  if (durability != "always" && durability != "none") return tl::unexpected(wrong(prefix + "durability", "'" + durability + "' is no answer", "\"always\" or \"none\""));
  out.durable = durability == "always";
  out.preemptible = config_.boolean(prefix + "preemptible");
  out.min_run = config_.duration(prefix + "min_run");
  out.grace = config_.duration(prefix + "grace");
  out.checkpoint_interval = config_.duration(prefix + "checkpoint_interval");
  for (const auto& [name, field] : {std::pair{"preemptions_max", &out.preemptions_max}, {"protect_after", &out.protect_after}, {"running_max", &out.running_max}, {"queued_max", &out.queued_max}}) {
    auto number = count(prefix + name);
    if (!number) return tl::unexpected(number.error());
    *field = *number;
  }
  if (auto done = class_lists(c); !done) return done;
  auto when = window(prefix + "window", prefix + "time_zone", "");
  if (!when) return tl::unexpected(when.error());
  out.window = *when;
  if (auto fits = window_long_enough(c); !fits) return fits;
  return reservations(c);
}

Result<void> Reader::class_lists(JobClass c) {
  const std::string own(to_string(c)), prefix = "class." + own + ".";
  core::ClassPolicy& out = policy_.of(c);
  out.devices.clear();
  for (const std::string& word : config_.list(prefix + "devices")) {
    auto selector = parse_selector(word);
    if (!selector) return tl::unexpected(about(prefix + "devices", selector.error()));
    out.devices.push_back(std::move(*selector));
  }
  for (const auto& [name, field] : {std::pair{"not_beside", &out.not_beside}, {"pause_for", &out.pause_for}, {"min_run_ignored_by", &out.min_run_ignored_by}}) {
    auto list = classes(prefix + name);
    if (!list) return tl::unexpected(list.error());
    *field = std::move(*list);
    if (std::find(field->begin(), field->end(), c) != field->end())
      return tl::unexpected(wrong(prefix + name, "names " + own + " itself", "name other classes; to run one job at a time: running_max = 1"));
  }
  for (const JobClass other : out.pause_for)
    if (policy_.rank(other) > policy_.rank(c))
      return tl::unexpected(wrong(prefix + "pause_for", std::string(to_string(other)) + " is below " + own + " in the ladder", "a class is held only for those above it"));
  return {};
}

Result<void> Reader::devices() {
  const auto names = config_.names("device.*");
  if (names.size() > kSectionsMax) return fail(Errc::usage, "more than " + std::to_string(kSectionsMax) + " [device.*] sections", "give devices a label and write one section for it");
  std::vector<std::pair<std::string, core::DeviceSelector>> seen;
  for (const std::string& name : names) {
    const std::string prefix = "device." + name + ".";
    const auto keys = {"headroom", "hold_at_c", "resume_at_c", "labels"};
    const auto given = std::find_if(keys.begin(), keys.end(), [&](const char* key) { return config_.given(prefix + key); });
    auto selector = parse_selector(plain(name));
    if (!selector) return tl::unexpected(about(prefix + (given == keys.end() ? "labels" : *given), selector.error()));
    core::DevicePolicy device;
    device.device = std::move(*selector);
    if (config_.given(prefix + "headroom")) {
      const std::string text = config_.text(prefix + "headroom");
      if (text.ends_with('%')) {
        auto part = percent(prefix + "headroom", text);
        if (!part) return tl::unexpected(part.error());
        device.headroom_pct = *part;
      } else if (const auto size = parse_mib(text)) {
        device.headroom = *size;
      } else {
        return tl::unexpected(wrong(prefix + "headroom", "'" + text + "' is neither a percentage nor a size", "write \"10%\" or \"1GiB\""));
      }
    }
    if (auto done = temperatures(prefix, device.hold_at_c, device.resume_at_c); !done) return done;
    device.labels = config_.list(prefix + "labels");
    if (device.device.kind == core::DeviceSelector::Kind::label && !device.labels.empty())
      return tl::unexpected(wrong(prefix + "labels", "devices chosen by a label cannot be given labels", "name them by UUID or HOST/INDEX"));
    policy_.devices.push_back(std::move(device));
  }
  return {};
}

Result<void> Reader::tenants() {
  const auto names = config_.names("tenant.*");
  if (names.size() > kSectionsMax) return fail(Errc::usage, "more than " + std::to_string(kSectionsMax) + " [tenant.*] sections", "[tenant.\"*\"] stands for everyone who is not named");
  for (const std::string& name : names) {
    const std::string prefix = "tenant." + name + ".";
    core::TenantPolicy tenant;
    tenant.name = plain(name);
    for (const auto& [key, field] : {std::pair{"running_max", &tenant.running_max}, {"queued_max", &tenant.queued_max}}) {
      auto number = count(prefix + key);
      if (!number) return tl::unexpected(number.error());
      *field = *number;
    }
    tenant.weight = config_.real(prefix + "weight");
    if (!(tenant.weight >= 0.001 && tenant.weight <= 1000.0)) return tl::unexpected(wrong(prefix + "weight", "is not from 0.001 to 1000", "1 is everybody's share"));
    if (config_.given(prefix + "weight") && !policy_.fair) warnings_.push_back(config_.where(prefix + "weight") + ": " + prefix + "weight counts only with policy.fair = true");
    policy_.tenants.push_back(std::move(tenant));
  }
  return {};
}

}  // namespace gq::policy

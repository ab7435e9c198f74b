// source.cpp - see source.h.
#include "broker/policy/source.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "broker/policy/settings.h"
#include "broker/policy/windows.h"
#include "common/config/clock.h"

namespace gq::policy {

namespace {

constexpr std::size_t kTextMax = 256U << 10U;   // of a file that a client sends along; a person's is a hundred lines

/// What counts only from the next start on, and was changed meanwhile.
std::vector<std::string> waiting_for_a_restart(const std::vector<EffectiveSetting>& old, const std::vector<EffectiveSetting>& now) {
  std::vector<std::string> warnings;
  for (const EffectiveSetting& setting : now) {
    if (!setting.key.starts_with("broker.")) continue;
    const auto same = std::find_if(old.begin(), old.end(), [&](const EffectiveSetting& o) { return o.key == setting.key; });
    if (same != old.end() && same->value != setting.value) warnings.push_back(setting.key + " has changed: it counts from the broker's next start on");
  }
  return warnings;
}

}  // namespace

PolicySource::PolicySource() : PolicySource("", {}, [](const char*) -> const char* { return nullptr; }, {}) {
  const auto config = Config::parse(file_settings(), "", "", environment_);
  check(config.has_value(), "the defaults of the settings are in order");
  started_with_ = *config;
  current_ = *policy_of(config, "");
}

PolicySource::PolicySource(std::string file, std::vector<Flag> flags, Config::Environment environment, Clock clock)
    : file_(std::move(file)), flags_(std::move(flags)), environment_(std::move(environment)), clock_(clock ? std::move(clock) : [] { return now().wall; }) {}

Result<PolicySource> PolicySource::open(std::string file, std::vector<Flag> flags, Config::Environment environment, Clock clock) {
  PolicySource source(std::move(file), std::move(flags), std::move(environment), std::move(clock));
  auto config = source.with_flags(Config::load(file_settings(), source.file_, source.environment_));
  auto loaded = source.policy_of(config, source.file_);
  if (!loaded) return tl::unexpected(loaded.error());
  source.current_ = std::move(*loaded);
  source.started_with_ = std::move(*config);
  return source;
}

Result<Config> PolicySource::with_flags(Result<Config> config) const {
  if (!config) return config;
  for (const Flag& flag : flags_)
    if (auto taken = config->set_flag(flag.key, flag.value, flag.flag); !taken) return tl::unexpected(taken.error());
  return config;
}

Result<Loaded> PolicySource::policy_of(const Result<Config>& config, const std::string& name) const {
  if (!config) return tl::unexpected(config.error());
  return from_config(*config, name, clock_(), environment_);
}

Result<Loaded> PolicySource::reload() {
  const auto config = with_flags(Config::load(file_settings(), file_, environment_));
  auto loaded = policy_of(config, file_);
  if (!loaded) return loaded;
  auto later = waiting_for_a_restart(started_with_.effective(), config->effective());
  std::move(later.begin(), later.end(), std::back_inserter(loaded->warnings));
  current_ = *loaded;
  return loaded;
}

Result<Loaded> PolicySource::try_text(std::string_view text, const std::string& name) const {
  if (text.size() > kTextMax) return fail(Errc::too_large, name + " has " + std::to_string(text.size() >> 10U) + " KiB, a policy has at most " + std::to_string(kTextMax >> 10U), "is it the right file?");
  return policy_of(with_flags(Config::parse(file_settings(), text, name, environment_)), name);
}

bool PolicySource::renew_windows() {
  if (current_.policy.windows.empty()) return false;
  const std::int64_t at = clock_().ms;
  const std::int64_t due = current_.loaded_ms + kSpansAheadMs - core::kWindowHorizonMs - kDayMs;
  if (at < due && at >= current_.loaded_ms - kDayMs) return false;
  if (!renew_spans(current_.policy, at)) return false;   // a zone has left the system: what is known stays in force while it lasts
  current_.loaded_ms = at;
  return true;
}

}  // namespace gq::policy

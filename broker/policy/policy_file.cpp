// policy_file.cpp - see policy_file.h.
#include "broker/policy/policy_file.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "broker/policy/reader.h"
#include "broker/policy/settings.h"

namespace gq::policy {

namespace {

const char* variable(const Config::Environment& environment, const char* name) { return environment ? environment(name) : std::getenv(name); }

/// redis://user:secret@host -> redis://user:***@host
std::string masked(std::string url) {
  const auto scheme = url.find("://"), at = url.rfind('@');
  if (scheme == std::string::npos || at == std::string::npos || at < scheme) return url;
  const auto colon = url.find(':', scheme + 3);
  if (colon == std::string::npos || colon > at) return url;
  return url.replace(colon + 1, at - colon - 1, "***");
}

}  // namespace

Result<Loaded> from_config(const Config& config, const std::string& file, WallTime now, const Config::Environment& environment) {
  Reader reader(config, now, variable(environment, "TZ"));
  auto policy = reader.read();
  if (!policy) return tl::unexpected(policy.error());
  Loaded loaded{std::move(*policy), config.effective(), reader.warnings(), file, now.ms};
  for (EffectiveSetting& setting : loaded.effective) {
    if (setting.key == "broker.redis") setting.value = masked(setting.value);
    if (setting.value == "local" && setting.key.ends_with("time_zone") && !reader.local_zone().empty()) setting.value += " (" + reader.local_zone() + ")";
  }
  return loaded;
}

Result<Loaded> load(const std::string& file, WallTime now, const Config::Environment& environment) {
  auto config = Config::load(file_settings(), file, environment);
  if (!config) return tl::unexpected(config.error());
  return from_config(*config, file, now, environment);
}

Result<Loaded> parse(std::string_view text, const std::string& name, WallTime now, const Config::Environment& environment) {
  auto config = Config::parse(file_settings(), text, name, environment);
  if (!config) return tl::unexpected(config.error());
  return from_config(*config, name, now, environment);
}

std::string to_text(const std::vector<EffectiveSetting>& settings) {
  std::size_t width = 0;
  for (const EffectiveSetting& s : settings) width = std::max(width, s.key.size() + 3 + s.value.size());
  width = std::min<std::size_t>(width, 72);
  std::string text;
  for (const EffectiveSetting& s : settings) {
    const std::string line = s.key + " = " + s.value;
    text += line + std::string(line.size() < width ? width - line.size() : 0, ' ') + "  # " + (s.where.empty() ? std::string(to_string(s.origin)) : s.where) + "\n";
  }
  return text;
}

}  // namespace gq::policy

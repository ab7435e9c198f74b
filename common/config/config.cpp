// config.cpp - see config.h. A list lies as its items separated by commas, so an item has none.
#include "common/config/config.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "common/config/config_path.h"
#include "common/config/config_toml.h"

namespace gq {

namespace {

std::optional<std::int64_t> parse_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}
std::optional<double> parse_real(const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') return std::nullopt;
  return value;
}
std::optional<bool> parse_boolean(std::string_view text) {
  if (text == "true" || text == "yes" || text == "on" || text == "1") return true;
  if (text == "false" || text == "no" || text == "off" || text == "0") return false;
  return std::nullopt;
}

bool fits(SettingType type, const std::string& text) {
  switch (type) {
    case SettingType::text:
    case SettingType::list: return true;
    case SettingType::number: return parse_number(text).has_value();
    case SettingType::real: return parse_real(text).has_value();
    case SettingType::boolean: return parse_boolean(text).has_value();
    case SettingType::duration: return parse_duration(text).has_value();
    case SettingType::memory: return parse_mib(text).has_value();
  }
  return false;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t at = text.find(separator);
    std::string_view part = text.substr(0, at);
    while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
    while (!part.empty() && part.back() == ' ') part.remove_suffix(1);
    if (!part.empty()) parts.emplace_back(part);
    if (at == std::string_view::npos) break;
    text.remove_prefix(at + 1);
  }
  return parts;
}

std::string environment_name(std::string_view key) {
  std::string name = "GPUQ_";
  for (const char c : key) name += c == '.' || c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return name;
}

}  // namespace

std::string_view expected(SettingType type) {
  switch (type) {
    case SettingType::text: return "a text";
    case SettingType::number: return "a whole number";
    case SettingType::real: return "a number";
    case SettingType::boolean: return "true or false";
    case SettingType::duration: return "a duration such as \"250ms\", \"30s\" or \"1h30min\"";
    case SettingType::memory: return "a size such as \"512MiB\" or \"8GiB\"";
    case SettingType::list: return "a list of texts";
  }
  return "?";
}

std::string_view to_string(Origin origin) {
  switch (origin) {
    case Origin::fallback: return "default";
    case Origin::file: return "file";
    case Origin::environment: return "environment";
    case Origin::flag: return "flag";
  }
  return "?";
}

Result<Config> Config::load(std::vector<Setting> settings, const std::string& file, const Environment& environment) {
  if (file.empty()) return parse(std::move(settings), "", "", environment);
  std::ifstream in(file);
  std::error_code unknown;
  if (!in || std::filesystem::is_directory(file, unknown)) return fail(Errc::usage, "cannot read the configuration " + file, "name a file that exists, or none");
  const std::string text(std::istreambuf_iterator<char>(in), {});
  return parse(std::move(settings), text, file, environment);
}

Result<Config> Config::parse(std::vector<Setting> settings, std::string_view toml_text, const std::string& name, const Environment& environment) {
  Config config;
  config.settings_ = std::move(settings);
  for (const Setting& setting : config.settings_) config.paths_.push_back(config::split_path(setting.key));
  for (const Setting& setting : config.settings_)
    check(setting.fallback.empty() || fits(setting.type, setting.fallback), "the default of a setting is not of its own type");
  if (auto read = TomlReader{config, name}.read(toml_text); !read) return tl::unexpected(read.error());
  if (auto read = config.read_environment(environment); !read) return tl::unexpected(read.error());
  return config;
}

Result<void> Config::read_environment(const Environment& environment) {
  for (const Setting& setting : settings_) {
    if (config::is_pattern(setting.key)) continue;
    const std::string name = environment_name(setting.key);
    const char* value = environment ? environment(name.c_str()) : std::getenv(name.c_str());
    if (value == nullptr) continue;
    if (auto taken = take(setting.key, value, Origin::environment, name); !taken) return taken;
  }
  return {};
}

Result<void> Config::set_flag(const std::string& key, const std::string& value, const std::string& flag) {
  check(declared(key) != nullptr, "a flag for a setting that was not declared");
  return take(key, value, Origin::flag, flag);
}

Result<void> Config::take(const std::string& key, std::string value, Origin origin, std::string where) {
  const Setting* setting = declared(key);
  if (!fits(setting->type, value))
    return fail(Errc::usage, where + ": " + key + " = '" + value + "' is not " + std::string(expected(setting->type)), setting->help);
  Value& now = values_[key];
  if (now.where.empty() || origin >= now.origin) now = {std::move(value), origin, std::move(where)};
  return {};
}

const Setting* Config::declared(std::string_view key) const {
  const auto path = config::split_path(key);
  for (std::size_t i = 0; i < settings_.size(); ++i)
    if (config::matches(paths_[i], path)) return &settings_[i];
  return nullptr;
}

std::string Config::value_of(const std::string& key, SettingType type) const {
  const Setting* setting = declared(key);
  check(setting != nullptr && setting->type == type, "a setting is asked for that was not declared, or as another type");
  const auto given = values_.find(key);
  return given != values_.end() ? given->second.text : setting->fallback;
}

std::string Config::text(const std::string& key) const { return value_of(key, SettingType::text); }
std::int64_t Config::number(const std::string& key) const { return parse_number(value_of(key, SettingType::number)).value_or(0); }
double Config::real(const std::string& key) const { return parse_real(value_of(key, SettingType::real)).value_or(0.0); }
bool Config::boolean(const std::string& key) const { return parse_boolean(value_of(key, SettingType::boolean)).value_or(false); }
std::chrono::milliseconds Config::duration(const std::string& key) const {
  return parse_duration(value_of(key, SettingType::duration)).value_or(std::chrono::milliseconds{});
}
Mib Config::memory(const std::string& key) const { return parse_mib(value_of(key, SettingType::memory)).value_or(Mib{}); }
std::vector<std::string> Config::list(const std::string& key) const { return split(value_of(key, SettingType::list), ','); }
bool Config::given(const std::string& key) const { return values_.contains(key); }
std::string Config::where(const std::string& key) const {
  const auto value = values_.find(key);
  return value == values_.end() ? std::string() : value->second.where;
}
std::vector<std::string> Config::tables(const std::string& key) const {
  const auto list = tables_.find(key);
  return list == tables_.end() ? std::vector<std::string>{} : list->second;
}

std::vector<std::string> Config::names(const std::string& pattern) const {
  const auto wanted = config::split_path(pattern);
  std::set<std::string> found;
  for (const auto& [key, value] : values_) {
    const auto parts = config::split_path(key);
    if (parts.size() < wanted.size()) continue;
    std::string name;
    bool same = true;
    for (std::size_t i = 0; i < wanted.size() && same; ++i) {
      if (wanted[i] == "*") name = config::quoted(parts[i]);
      else same = wanted[i] == parts[i];
    }
    if (same && !name.empty()) found.insert(name);
  }
  return {found.begin(), found.end()};
}

std::vector<EffectiveSetting> Config::effective() const {
  std::vector<EffectiveSetting> all;
  for (const auto& [key, value] : values_) all.push_back({key, value.text, value.origin, value.where});
  for (const Setting& setting : settings_)
    if (!config::is_pattern(setting.key) && !values_.contains(setting.key)) all.push_back({setting.key, setting.fallback, Origin::fallback, ""});
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  return all;
}

}  // namespace gq

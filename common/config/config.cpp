// config.cpp - see config.h. A list lies as its items separated by commas, so an item has none.
#include "common/config/config.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <toml++/toml.h>

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

bool matches(std::string_view pattern, std::string_view key) {
  const auto wanted = split(pattern, '.'), got = split(key, '.');
  return wanted.size() == got.size() && std::equal(wanted.begin(), wanted.end(), got.begin(), [](const auto& w, const auto& g) { return w == "*" || w == g; });
}

std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j)
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)}));
  }
  return row[b.size()];
}

std::string nearest(const std::vector<Setting>& settings, std::string_view key) {
  std::string best;
  std::size_t least = key.size() / 3 + 1;
  for (const Setting& setting : settings)
    if (const std::size_t d = distance(setting.key, key); d < least) {
      least = d;
      best = setting.key;
    }
  return best;
}

std::string environment_name(std::string_view key) {
  std::string name = "GPUQ_";
  for (const char c : key) name += c == '.' || c == '-' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return name;
}

}  // namespace

std::string_view to_string(Origin origin) {
  switch (origin) {
    case Origin::fallback: return "default";
    case Origin::file: return "file";
    case Origin::environment: return "environment";
    case Origin::flag: return "flag";
  }
  return "?";
}

/// Walks a parsed document; every leaf becomes one value of the configuration.
struct TomlReader {
  Config& config;
  const std::string& name;

  std::string place(const toml::source_region& source) const {
    return name + ":" + std::to_string(source.begin.line) + ":" + std::to_string(source.begin.column);
  }
  static std::optional<std::string> as_text(const toml::node& node) {
    if (const auto* text = node.as_string()) return text->get();
    if (const auto* number = node.as_integer()) return std::to_string(number->get());
    if (const auto* truth = node.as_boolean()) return truth->get() ? "true" : "false";
    if (const auto* real = node.as_floating_point()) {
      std::ostringstream out;
      out.precision(17);
      out << real->get();
      return out.str();
    }
    return std::nullopt;
  }
  Result<void> table(const toml::table& table, const std::string& prefix) {
    for (const auto& [key, node] : table) {
      const std::string full = prefix.empty() ? std::string(key.str()) : prefix + "." + std::string(key.str());
      const Setting* setting = config.declared(full);
      if (setting == nullptr && node.is_table()) {
        if (auto inner = this->table(*node.as_table(), full); !inner) return inner;
        continue;
      }
      const std::string at = place(key.source());
      if (setting == nullptr) {
        const std::string meant = nearest(config.settings_, full);
        return fail(Errc::usage, at + ": unknown key " + full, meant.empty() ? "see the keys with: gpuq config show" : "did you mean " + meant + "?");
      }
      auto value = leaf(*setting, node);
      if (!value) return fail(Errc::usage, at + ": " + full + " is not " + std::string(expected(setting->type)), setting->help);
      if (auto taken = config.take(full, std::move(*value), Origin::file, at); !taken) return taken;
    }
    return {};
  }
  static std::optional<std::string> leaf(const Setting& setting, const toml::node& node) {
    if (setting.type == SettingType::list) {
      const auto* array = node.as_array();
      if (array == nullptr) return std::nullopt;
      std::string joined;
      for (const auto& element : *array) {
        const auto item = as_text(element);
        if (!item || item->find(',') != std::string::npos) return std::nullopt;
        (joined += joined.empty() ? "" : ",") += *item;
      }
      return joined;
    }
    const bool quoted = node.is_string();
    const bool wants_text = setting.type == SettingType::text || setting.type == SettingType::duration || setting.type == SettingType::memory;
    if (quoted != wants_text) return std::nullopt;  // "8" is no number, 8 is no text
    return as_text(node);
  }
};

Result<Config> Config::load(std::vector<Setting> settings, const std::string& file, const Environment& environment) {
  if (file.empty()) return parse(std::move(settings), "", "", environment);
  std::ifstream in(file);
  if (!in) return fail(Errc::usage, "cannot read the configuration " + file, "name a file that exists, or none");
  const std::string text(std::istreambuf_iterator<char>(in), {});
  return parse(std::move(settings), text, file, environment);
}

Result<Config> Config::parse(std::vector<Setting> settings, std::string_view toml_text, const std::string& name, const Environment& environment) {
  Config config;
  config.settings_ = std::move(settings);
  for (const Setting& setting : config.settings_)
    check(setting.fallback.empty() || fits(setting.type, setting.fallback), "the default of a setting is not of its own type");
  try {
    const toml::table document = toml::parse(toml_text, name);
    if (auto read = TomlReader{config, name}.table(document, ""); !read) return tl::unexpected(read.error());
  } catch (const toml::parse_error& error) {
    const auto& at = error.source().begin;
    return fail(Errc::usage, name + ":" + std::to_string(at.line) + ":" + std::to_string(at.column) + ": " + std::string(error.description()),
                "the file must be toml");
  }
  if (auto read = config.read_environment(environment); !read) return tl::unexpected(read.error());
  return config;
}

Result<void> Config::read_environment(const Environment& environment) {
  for (const Setting& setting : settings_) {
    if (setting.key.find('*') != std::string::npos) continue;
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
  for (const Setting& setting : settings_)
    if (setting.key == key || matches(setting.key, key)) return &setting;
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

std::vector<std::string> Config::names(const std::string& pattern) const {
  const auto wanted = split(pattern, '.');
  std::set<std::string> found;
  for (const auto& [key, value] : values_) {
    const auto parts = split(key, '.');
    if (parts.size() < wanted.size()) continue;
    std::string name;
    bool same = true;
    for (std::size_t i = 0; i < wanted.size() && same; ++i) {
      if (wanted[i] == "*") name = parts[i];
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
    if (setting.key.find('*') == std::string::npos && !values_.contains(setting.key)) all.push_back({setting.key, setting.fallback, Origin::fallback, ""});
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
  return all;
}

}  // namespace gq

// config.h - what a program is told: flag > environment (GPUQ_*) > file (toml) > default. Every value knows where it came from.
//
// A program declares its settings as one table; an unknown key, a value of the wrong kind or a file that is no toml is an error
// USAGE with file:line:column and, where one is near, the key that was meant. `*` in a key stands for any one name:
// "class.*.window"; `[]` behind a name for a list of tables: "class.*.reserve[].device" (config_path.h). Values are checked when
// they are read, so a getter never fails; asking for a key that was not declared is a broken invariant.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/vocabulary/errors.h"
#include "common/vocabulary/units.h"

namespace gq {

enum class SettingType : std::uint8_t { text, number, real, boolean, duration, memory, list };

struct Setting {
  std::string key;       ///< "broker.client_port", "class.*.window"; its environment name is GPUQ_BROKER_CLIENT_PORT
  SettingType type{SettingType::text};
  std::string fallback;  ///< as it would be typed; a list is separated by commas
  std::string help;
};

enum class Origin : std::uint8_t { fallback, file, environment, flag };
std::string_view to_string(Origin origin);

struct EffectiveSetting {
  std::string key, value;
  Origin origin{};
  std::string where;     ///< "/etc/gpuq/gpuq.toml:3:8", "GPUQ_BROKER_CLIENT_PORT", "--client-port"; empty for a default
  bool operator==(const EffectiveSetting&) const = default;
};

class Config {
 public:
  using Environment = std::function<const char*(const char* name)>;   ///< getenv unless a test says otherwise
  /// `file` empty = none; a named file must exist.
  static Result<Config> load(std::vector<Setting> settings, const std::string& file, const Environment& environment = {});
  /// As load(), from text; `name` stands in error messages.
  static Result<Config> parse(std::vector<Setting> settings, std::string_view toml, const std::string& name, const Environment& environment = {});
  /// A flag of the command line; beats everything.
  Result<void> set_flag(const std::string& key, const std::string& value, const std::string& flag);

  [[nodiscard]] std::string text(const std::string& key) const;
  [[nodiscard]] std::int64_t number(const std::string& key) const;
  [[nodiscard]] double real(const std::string& key) const;
  [[nodiscard]] bool boolean(const std::string& key) const;
  [[nodiscard]] std::chrono::milliseconds duration(const std::string& key) const;
  [[nodiscard]] Mib memory(const std::string& key) const;
  [[nodiscard]] std::vector<std::string> list(const std::string& key) const;
  [[nodiscard]] bool given(const std::string& key) const;              ///< by anything but the default
  /// Where the value comes from, for messages: "gpuq.toml:3:8", "GPUQ_…", "--flag"; empty for a default.
  [[nodiscard]] std::string where(const std::string& key) const;
  /// The names that stand for the `*` of "class.*" in what was given, sorted; as keys have them, so perhaps in quotes.
  [[nodiscard]] std::vector<std::string> names(const std::string& pattern) const;
  /// The tables of the list `key` ("class.inference.reserve"), as places in the file; the i-th one's values lie under key[i].
  [[nodiscard]] std::vector<std::string> tables(const std::string& key) const;
  /// For `gpuq config show`: every declared key (those with `*` or `[]` as far as given), sorted.
  [[nodiscard]] std::vector<EffectiveSetting> effective() const;

 private:
  struct Value {
    std::string text;
    Origin origin{};
    std::string where;
  };
  [[nodiscard]] const Setting* declared(std::string_view key) const;
  [[nodiscard]] std::string value_of(const std::string& key, SettingType type) const;
  Result<void> take(const std::string& key, std::string value, Origin origin, std::string where);
  Result<void> read_environment(const Environment& environment);
  friend struct TomlReader;
  std::vector<Setting> settings_;
  std::vector<std::vector<std::string>> paths_;               ///< of settings_, split
  std::map<std::string, Value> values_;
  std::map<std::string, std::vector<std::string>> tables_;
};

}  // namespace gq

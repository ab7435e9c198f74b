// config_toml.cpp - see config_toml.h. The toml library is seen here and nowhere else.
#include "common/config/config_toml.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <toml++/toml.h>

#include "common/config/config_path.h"
#include "common/config/nearest.h"

namespace gq {

using config::quoted;
using config::split_path;

namespace {

constexpr std::size_t kDepthMax = 16;     // of tables and arrays within each other
constexpr std::size_t kNamesMax = 64;     // dots on one line, outside of strings

/// The end of the string that begins at `at`, behind its last quote.
std::size_t string_end(std::string_view text, std::size_t at) {
  const char quote = text[at];
  const std::string_view three = text.substr(at, 3);
  const bool multi = three.size() == 3 && three[1] == quote && three[2] == quote;
  for (std::size_t i = at + (multi ? 3 : 1); i < text.size(); ++i) {
    if (text[i] == '\\' && quote == '"') ++i;
    else if (!multi && (text[i] == quote || text[i] == '\n')) return i + 1;
    else if (multi && text.substr(i, 3) == three) {
      while (i + 3 < text.size() && text[i + 3] == quote) ++i;   // """" ends with its last three
      return i + 3;
    }
  }
  return text.size();
}

/// The library descends once for each name of a dotted key and each bracket, when it reads and when it frees: a text from a stranger
/// must not choose how deep. Returns the line that goes too far.
std::optional<std::size_t> too_deep(std::string_view text) {
  std::size_t line = 1, names = 0, depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    switch (text[i]) {
      case '\n': ++line, names = 0; break;
      case '#': i = std::min(text.find('\n', i), text.size()) - 1; break;
      case '"':
      case '\'': {
        const std::size_t end = string_end(text, i);
        line += static_cast<std::size_t>(std::count(text.begin() + static_cast<std::ptrdiff_t>(i), text.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
        i = end - 1;
        break;
      }
      case '.': ++names; break;
      case '[':
      case '{': ++depth; break;
      case ']':
      case '}': depth -= depth > 0 ? 1 : 0; break;
      default: break;
    }
    if (names > kNamesMax || depth > kDepthMax) return line;
  }
  return std::nullopt;
}

}  // namespace

struct TomlReader::Walk {
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

  static std::optional<std::string> leaf(const Setting& setting, const toml::node& node) {
    if (setting.type == SettingType::list) {
      const auto* array = node.as_array();
      if (array == nullptr) return std::nullopt;
      std::string joined;
      for (const auto& element : *array) {
        const auto item = as_text(element);
        if (!item || item->empty() || item->find(',') != std::string::npos) return std::nullopt;
        (joined += joined.empty() ? "" : ",") += *item;
      }
      return joined;
    }
    const bool quoted_text = node.is_string();
    const bool wants_text = setting.type == SettingType::text || setting.type == SettingType::duration || setting.type == SettingType::memory;
    if (quoted_text != wants_text) return std::nullopt;  // "8" is no number, 8 is no text
    return as_text(node);
  }

  /// Is something declared whose path begins as `path` does, its last name perhaps as a list?
  bool leads_somewhere(std::vector<std::string> path, bool list) const {
    if (list) path.back() += "[0]";
    return std::any_of(config.paths_.begin(), config.paths_.end(), [&](const std::vector<std::string>& known) {
      return known.size() > path.size() && known[path.size() - 1].ends_with("[]") == list && config::matches({known.begin(), known.begin() + static_cast<std::ptrdiff_t>(path.size())}, path);
    });
  }

  Result<void> table(const toml::table& table, const std::string& prefix) const {
    for (const auto& [key, node] : table) {
      const std::string full = prefix.empty() ? quoted(key.str()) : prefix + "." + quoted(key.str());
      if (auto read = entry(full, node, place(key.source())); !read) return read;
    }
    return {};
  }

  Result<void> entry(const std::string& full, const toml::node& node, const std::string& at) const {
    const Setting* setting = config.declared(full);
    const auto path = split_path(full);
    if (setting == nullptr && leads_somewhere(path, true)) return list_of_tables(full, node, at);
    if (setting == nullptr && node.is_table() && (!node.as_table()->empty() || leads_somewhere(path, false))) return table(*node.as_table(), full);
    if (setting == nullptr) {
      const std::string meant = likely(path, full);
      return fail(Errc::usage, at + ": unknown key " + full, meant.empty() ? "see the keys with: gpuq config show" : "did you mean " + meant + "?");
    }
    auto value = leaf(*setting, node);
    if (!value) return fail(Errc::usage, at + ": " + full + " is not " + std::string(expected(setting->type)), setting->help);
    return config.take(full, std::move(*value), Origin::file, at);
  }

  /// [{…}, {…}], [[…]], or a single table.
  Result<void> list_of_tables(const std::string& full, const toml::node& node, const std::string& at) const {
    const auto wrong = [&] { return fail(Errc::usage, at + ": " + full + " is not a list of tables", "write " + full + " = [{name = \"value\", …}, …]"); };
    std::vector<const toml::table*> tables;
    if (const auto* one = node.as_table()) tables.push_back(one);
    else if (const auto* many = node.as_array()) {
      for (const auto& element : *many) {
        if (!element.is_table()) return wrong();
        tables.push_back(element.as_table());
      }
    } else {
      return wrong();
    }
    for (std::size_t i = 0; i < tables.size(); ++i) {
      config.tables_[full].push_back(tables[i]->source().begin.line == 0 ? at : place(tables[i]->source()));
      if (auto read = table(*tables[i], full + "[" + std::to_string(i) + "]"); !read) return read;
    }
    return {};
  }

  /// The key that was meant: one that looks alike, else the one that ends alike and stands in another section.
  std::string likely(const std::vector<std::string>& path, const std::string& full) const {
    std::vector<std::string> words, same_end;
    for (const auto& known : config.paths_) {
      words.push_back(config::filled(known, path));
      if (known.back() == path.back()) same_end.push_back(words.back());
    }
    const std::string alike = nearest(words, full);
    return !alike.empty() ? alike : same_end.empty() ? std::string() : same_end.front();
  }
};

Result<void> TomlReader::read(std::string_view text) const {
  if (const auto line = too_deep(text)) return fail(Errc::usage, name + ":" + std::to_string(*line) + ":1: nested deeper than any setting", "is it the right file?");
  try {
    const toml::table document = toml::parse(text, name);
    return Walk{config, name}.table(document, "");
  } catch (const toml::parse_error& error) {
    const auto& at = error.source().begin;
    return fail(Errc::usage, name + ":" + std::to_string(at.line) + ":" + std::to_string(at.column) + ": " + std::string(error.description()),
                "the file must be toml");
  }
}

}  // namespace gq

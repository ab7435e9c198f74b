// config_path.cpp - see config_path.h.
#include "common/config/config_path.h"

#include <algorithm>

namespace gq::config {

namespace {

bool bare(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-'; }
bool is_list(std::string_view name) { return name.ends_with("[]"); }

/// "reserve[]" against "reserve[3]".
bool same_name(std::string_view pattern, std::string_view name) {
  if (pattern == "*" || pattern == name) return true;
  return is_list(pattern) && name.ends_with(']') && name.substr(0, name.rfind('[') + 1) == pattern.substr(0, pattern.size() - 1);
}

}  // namespace

std::string quoted(std::string_view name) {
  if (!name.empty() && std::all_of(name.begin(), name.end(), bare)) return std::string(name);
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::vector<std::string> split_path(std::string_view key) {
  std::vector<std::string> names{""};
  bool inside = false;
  for (std::size_t i = 0; i < key.size(); ++i) {
    if (key[i] == '"') inside = !inside;
    else if (key[i] == '\\' && inside && i + 1 < key.size()) names.back() += key[++i];
    else if (key[i] == '.' && !inside) names.emplace_back();
    else names.back() += key[i];
  }
  return names;
}

bool matches(const std::vector<std::string>& pattern, const std::vector<std::string>& path) {
  return pattern.size() == path.size() && std::equal(pattern.begin(), pattern.end(), path.begin(), same_name);
}

std::string filled(const std::vector<std::string>& pattern, const std::vector<std::string>& path) {
  std::string key;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const bool open = pattern[i] == "*" || is_list(pattern[i]);
    const bool own = open && pattern.size() == path.size() && same_name(pattern[i], path[i]);
    const std::string& name = own ? path[i] : pattern[i];
    (key += key.empty() ? "" : ".") += own && pattern[i] == "*" ? quoted(name) : name;
  }
  return key;
}

}  // namespace gq::config

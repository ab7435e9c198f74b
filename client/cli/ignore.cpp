#include "client/cli/ignore.h"

#include <algorithm>

namespace gq::cli {
namespace {

constexpr std::string_view kNeverNeeded =
    ".git/\n.hg/\n.svn/\n__pycache__/\n*.pyc\n.venv/\nnode_modules/\n.ipynb_checkpoints/\n.mypy_cache/\n.pytest_cache/\n.ruff_cache/\n.tox/\n"
    ".DS_Store\n";

/// "[a-c]" at the beginning of `pattern`: does it hold `c`, and where does it end? end = npos: no closing bracket.
bool in_class(std::string_view pattern, char c, std::size_t& end) {
  std::size_t i = 1;
  const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
  if (negated) ++i;
  bool found = false;
  for (const std::size_t first = i; i < pattern.size() && (pattern[i] != ']' || i == first); ++i) {
    const char low = pattern[i];
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' && pattern[i + 2] != ']') i += 2;
    found |= low <= c && c <= pattern[i];
  }
  end = i < pattern.size() ? i : std::string_view::npos;
  return found != negated;
}

}  // namespace

bool matches_glob(std::string_view pattern, std::string_view path) {
  while (!pattern.empty()) {
    if (pattern.starts_with("**")) {
      if (pattern.size() == 2) return true;
      if (pattern[2] == '/') {   // no folder, or any number of them
        for (std::string_view rest = path;;) {
          if (matches_glob(pattern.substr(3), rest)) return true;
          const std::size_t slash = rest.find('/');
          if (slash == std::string_view::npos) return false;
          rest.remove_prefix(slash + 1);
        }
      }
    }
    if (pattern.front() == '*') {
      for (std::size_t i = 0;; ++i) {
        if (matches_glob(pattern.substr(1), path.substr(i))) return true;
        if (i == path.size() || path[i] == '/') return false;
      }
    }
    if (path.empty()) return false;
    std::size_t used = 1;
    if (pattern.front() == '[' && path.front() != '/') {
      const bool holds = in_class(pattern, path.front(), used);
      if (used == std::string_view::npos ? path.front() != '[' : !holds) return false;
      used = used == std::string_view::npos ? 1 : used + 1;
    } else if (pattern.front() == '\\' && pattern.size() > 1) {
      if (pattern[1] != path.front()) return false;
      used = 2;
    } else if (pattern.front() == '?' ? path.front() == '/' : pattern.front() != path.front()) {
      return false;
    }
    pattern.remove_prefix(used);
    path.remove_prefix(1);
  }
  return path.empty();
}

Ignore::Ignore(std::string_view lines) {
  add(kNeverNeeded);
  add(lines);
}

void Ignore::add(std::string_view lines) {
  while (!lines.empty()) {
    std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.remove_suffix(1);
    if (line.empty() || line.front() == '#') continue;
    Rule rule;
    if (line.front() == '!') rule.keeps = true, line.remove_prefix(1);
    if (line.ends_with('/')) rule.folders_only = true, line.remove_suffix(1);
    rule.bound = line.find('/') != std::string_view::npos;
    if (line.starts_with('/')) line.remove_prefix(1);
    if (line.empty()) continue;
    rule.pattern = line;
    rules_.push_back(std::move(rule));
  }
}

bool Ignore::leaves_out(std::string_view path, bool is_folder) const {
  const std::string_view name = path.substr(path.rfind('/') + 1);   // npos + 1 = 0
  for (auto rule = rules_.rbegin(); rule != rules_.rend(); ++rule)
    if ((is_folder || !rule->folders_only) && matches_glob(rule->pattern, rule->bound ? path : name)) return !rule->keeps;
  return false;
}

}  // namespace gq::cli

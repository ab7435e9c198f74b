// query.cpp - see query.h.
#include "client/http/query.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "common/config/nearest.h"

namespace gq::http {

namespace {

[[noreturn]] void give_up(std::string what, std::string next = "GET /api/v1/openapi.json says what there is") { throw gpuq::Error("BAD_MESSAGE", std::move(what), std::move(next)); }

/// The whole of `text` is one number.
template <class Number, class... Format>
std::optional<Number> whole(const std::string& text, Format... format) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value, format...);
  if (error != std::errc{} || stopped != end) return std::nullopt;
  return value;
}

int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/// nullopt: a %-escape that is none, or a NUL.
std::optional<std::string> decode(std::string_view text, bool plus_is_space) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i] == '+' && plus_is_space ? ' ' : text[i];
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return std::nullopt;
    out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  if (out.find('\0') != std::string::npos) return std::nullopt;
  return out;
}

}  // namespace

Result<Target> read_target(std::string_view target) {
  const auto wrong = [] { return fail(Errc::bad_message, "the address has a wrong %-escape", "escape as %XX; a name has no '/'"); };
  Target out;
  const std::size_t mark = target.find('?');
  std::string_view path = target.substr(0, mark);
  while (!path.empty()) {
    path.remove_prefix(1);   // the '/'
    const std::size_t end = std::min(path.find('/'), path.size());
    auto segment = decode(path.substr(0, end), false);
    if (!segment || segment->find('/') != std::string::npos) return wrong();
    out.path.push_back(std::move(*segment));
    path.remove_prefix(end);
  }
  std::string_view query = mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    query.remove_prefix(std::min(end + 1, query.size()));
    if (pair.empty()) continue;
    const std::size_t equals = std::min(pair.find('='), pair.size());
    const auto name = decode(pair.substr(0, equals), true), value = decode(pair.substr(std::min(equals + 1, pair.size())), true);
    if (!name || !value) return wrong();
    if (!out.query.emplace(*name, *value).second) return fail(Errc::bad_message, "?" + name->substr(0, 64) + "= stands there twice", "say it once");
  }
  return out;
}

Query::Query(const std::map<std::string, std::string>& query, const std::vector<std::string>& known) : query_(query) {
  for (const auto& [name, value] : query_) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string near = nearest(known, name);
    give_up("there is no query parameter '" + name.substr(0, 64) + "' here" + (near.empty() ? "" : ", did you mean '" + near + "'?"));
  }
}

std::string Query::text(const std::string& name) const {
  const auto at = query_.find(name);
  return at == query_.end() ? "" : at->second;
}

std::int64_t Query::number(const std::string& name, std::int64_t fallback, std::int64_t low, std::int64_t high) const {
  const auto at = query_.find(name);
  if (at == query_.end()) return fallback;
  const auto value = whole<std::int64_t>(at->second);
  if (!value || *value < low || *value > high) give_up("?" + name + "= is no whole number of " + std::to_string(low) + ".." + std::to_string(high));
  return *value;
}

std::chrono::milliseconds Query::seconds(const std::string& name, std::chrono::milliseconds fallback, std::chrono::milliseconds high) const {
  const auto at = query_.find(name);
  if (at == query_.end()) return fallback;
  const auto value = whole<double>(at->second, std::chars_format::fixed);
  if (!value || !(*value >= 0) || *value * 1000 > static_cast<double>(high.count()))
    give_up("?" + name + "= is no number of seconds up to " + std::to_string(high.count() / 1000), "ask again when that time is over: GET /api/v1/jobs/ID");
  return std::chrono::milliseconds(static_cast<std::int64_t>(*value * 1000));
}

bool Query::truth(const std::string& name) const {
  const std::string value = text(name);
  if (value.empty() || value == "false" || value == "0") return false;
  if (value == "true" || value == "1") return true;
  give_up("?" + name + "= is neither true nor false");
}

}  // namespace gq::http

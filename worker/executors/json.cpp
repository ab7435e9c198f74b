#include "worker/executors/json.h"

#include <charconv>
#include <cmath>
#include <cstdio>

namespace gq::exec {
namespace {

constexpr int kDepthMax = 32;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::optional<Json> document() {
    auto value = parse_value(0);
    skip_space();
    if (!value || at_ != text_.size()) return std::nullopt;
    return value;
  }

 private:
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  std::optional<Json> parse_value(int depth) {
    if (depth > kDepthMax) return std::nullopt;
    skip_space();
    if (at_ >= text_.size()) return std::nullopt;
    switch (text_[at_]) {
      case '{': return parse_object(depth);
      case '[': return parse_array(depth);
      case '"': {
        auto s = parse_string();
        if (!s) return std::nullopt;
        return Json(std::move(*s));
      }
      case 't': return take_word("true") ? std::optional<Json>(Json(true)) : std::nullopt;
      case 'f': return take_word("false") ? std::optional<Json>(Json(false)) : std::nullopt;
      case 'n': return take_word("null") ? std::optional<Json>(Json()) : std::nullopt;
      default: return parse_number();
    }
  }

  std::optional<Json> parse_number() {
    double v{};
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), v);
    if (error != std::errc{} || end == begin) return std::nullopt;
    at_ += static_cast<std::size_t>(end - begin);
    return Json(v);
  }

  std::optional<Json> parse_array(int depth) {
    ++at_;
    Json::Array items;
    if (take(']')) return Json(std::move(items));
    do {
      auto item = parse_value(depth + 1);
      if (!item) return std::nullopt;
      items.push_back(std::move(*item));
    } while (take(','));
    if (!take(']')) return std::nullopt;
    return Json(std::move(items));
  }

  std::optional<Json> parse_object(int depth) {
    ++at_;
    Json::Object members;
    if (take('}')) return Json(std::move(members));
    do {
      skip_space();
      auto key = parse_string();
      if (!key || !take(':')) return std::nullopt;
      auto value = parse_value(depth + 1);
      if (!value) return std::nullopt;
      members.emplace_back(std::move(*key), std::move(*value));
    } while (take(','));
    if (!take('}')) return std::nullopt;
    return Json(std::move(members));
  }

  std::optional<std::string> parse_string() {
    if (at_ >= text_.size() || text_[at_] != '"') return std::nullopt;
    ++at_;
    std::string out;
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) return std::nullopt;
      if (c != '\\') {
        out += c;
        continue;
      }
      if (at_ >= text_.size()) return std::nullopt;
      switch (const char e = text_[at_++]; e) {
        case '"': case '\\': case '/': out += e; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': {
          std::uint32_t code{};
          if (!hex4(code)) return std::nullopt;
          if (code >= 0xD800 && code < 0xDC00) {
            std::uint32_t low{};
            if (!take_word("\\u") || !hex4(low) || low < 0xDC00 || low > 0xDFFF) return std::nullopt;
            code = 0x10000 + ((code - 0xD800) << 10U) + (low - 0xDC00);
          }
          append_utf8(out, code);
          break;
        }
        default: return std::nullopt;
      }
    }
    return std::nullopt;
  }

  bool hex4(std::uint32_t& code) {
    if (at_ + 4 > text_.size()) return false;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + at_ + 4, code, 16);
    if (error != std::errc{} || end != text_.data() + at_ + 4) return false;
    at_ += 4;
    return true;
  }
  static void append_utf8(std::string& out, std::uint32_t c) {
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x800) {
      out += static_cast<char>(0xC0U | (c >> 6U));
      out += static_cast<char>(0x80U | (c & 0x3FU));
    } else if (c < 0x10000) {
      out += static_cast<char>(0xE0U | (c >> 12U));
      out += static_cast<char>(0x80U | ((c >> 6U) & 0x3FU));
      out += static_cast<char>(0x80U | (c & 0x3FU));
    } else {
      out += static_cast<char>(0xF0U | (c >> 18U));
      out += static_cast<char>(0x80U | ((c >> 12U) & 0x3FU));
      out += static_cast<char>(0x80U | ((c >> 6U) & 0x3FU));
      out += static_cast<char>(0x80U | (c & 0x3FU));
    }
  }

  std::string_view text_;
  std::size_t at_{};
};

void write_string(std::string& out, std::string_view s) {
  out += '"';
  for (const char c : s) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char buffer[8];
          std::snprintf(buffer, sizeof buffer, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
          out += buffer;
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void write_number(std::string& out, double v) {
  if (!std::isfinite(v)) {
    out += "null";
    return;
  }
  char buffer[40];
  if (v == std::floor(v) && std::fabs(v) < 9e15) {
    std::snprintf(buffer, sizeof buffer, "%lld", static_cast<long long>(v));
  } else {
    std::snprintf(buffer, sizeof buffer, "%.7g", v);
  }
  out += buffer;
}

void write(std::string& out, const Json& j) {
  if (const auto b = j.boolean()) {
    out += *b ? "true" : "false";
  } else if (const auto n = j.number()) {
    write_number(out, *n);
  } else if (const auto* s = j.text()) {
    write_string(out, *s);
  } else if (const auto* a = j.array()) {
    out += '[';
    for (std::size_t i = 0; i < a->size(); ++i) {
      if (i != 0) out += ',';
      write(out, (*a)[i]);
    }
    out += ']';
  } else if (const auto* o = j.object()) {
    out += '{';
    for (std::size_t i = 0; i < o->size(); ++i) {
      if (i != 0) out += ',';
      write_string(out, (*o)[i].first);
      out += ':';
      write(out, (*o)[i].second);
    }
    out += '}';
  } else {
    out += "null";
  }
}

}  // namespace

std::optional<bool> Json::boolean() const {
  if (const auto* b = std::get_if<bool>(&value_)) return *b;
  return std::nullopt;
}
std::optional<double> Json::number() const {
  if (const auto* n = std::get_if<double>(&value_)) return *n;
  return std::nullopt;
}
const Json* Json::find(std::string_view key) const {
  if (const auto* members = object())
    for (const auto& [name, value] : *members)
      if (name == key) return &value;
  return nullptr;
}
std::string Json::dump() const {
  std::string out;
  write(out, *this);
  return out;
}

std::optional<Json> parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace gq::exec

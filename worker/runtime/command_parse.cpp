// command_parse.cpp - the pure parts of command: progress lines and the environment.
#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "worker/runtime/command.h"

namespace gq::worker {
namespace {

constexpr std::size_t kMetricsMax = 64;
constexpr std::size_t kKeyMax = 64;
constexpr std::int64_t kContextMib = 700;   // a CUDA context and its libraries' code, as gpuq.job counts it

class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text) {}
  void skip(std::string_view set) {
    while (!text_.empty() && set.find(text_.front()) != std::string_view::npos) text_.remove_prefix(1);
  }
  bool take(char c) {
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::string key(bool quoted) {
    std::string out;
    while (!text_.empty() && out.size() <= kKeyMax) {
      const char c = text_.front();
      if (quoted ? c == '"' : (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_' && c != '.' && c != '/' && c != '-')) break;
      out += c;
      text_.remove_prefix(1);
    }
    return out;
  }
  std::optional<double> number() {
    if (text_.substr(0, 4) == "true") return text_.remove_prefix(4), 1.0;
    if (text_.substr(0, 5) == "false") return text_.remove_prefix(5), 0.0;
    const std::string copy(text_.substr(0, 40));
    char* end = nullptr;
    const double value = std::strtod(copy.c_str(), &end);
    if (end == copy.c_str()) return std::nullopt;
    text_.remove_prefix(static_cast<std::size_t>(end - copy.c_str()));
    return value;
  }
  [[nodiscard]] bool empty() const { return text_.empty(); }

 private:
  std::string_view text_;
};

bool put(ProgressLine& line, const std::string& key, double value) {
  if (key.empty() || key.size() > kKeyMax) return false;
  if (key == "step" || key == "total") {
    if (!(value >= 0) || value > 1e15) return false;
    (key == "step" ? line.step : line.total) = value;
  } else if (key == "checkpoint") {
    line.checkpoint = value != 0;
  } else if (std::isfinite(value) && line.metrics.size() < kMetricsMax) {
    line.metrics[key] = value;
  }
  return true;
}

}  // namespace

std::optional<ProgressLine> parse_progress(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n,";
  ProgressLine line;
  Cursor in(text);
  in.skip(kSpace);
  const bool json = in.take('{');
  bool any = false;
  for (;;) {
    in.skip(kSpace);
    if (json && in.take('}')) {
      in.skip(kSpace);
      return in.empty() && any ? std::optional(line) : std::nullopt;
    }
    if (in.empty()) return !json && any ? std::optional(line) : std::nullopt;
    if (json && !in.take('"')) return std::nullopt;
    const std::string key = in.key(json);
    if (json && !in.take('"')) return std::nullopt;
    in.skip(" \t");
    if (!in.take(json ? ':' : '=')) return std::nullopt;
    in.skip(" \t");
    const auto value = in.number();
    if (!value || !put(line, key, *value)) return std::nullopt;
    any = true;
  }
}

std::map<std::string, std::string> framework_limits(std::int64_t granted_mib, std::int64_t card_mib) {
  if (granted_mib <= 0 || card_mib <= 0) return {};
  const std::int64_t room = std::max(granted_mib - kContextMib, granted_mib / 2);
  std::array<char, 32> fraction{};
  std::snprintf(fraction.data(), fraction.size(), "%.5f", std::min(1.0, static_cast<double>(room) / static_cast<double>(card_mib)));
  return {{"XLA_PYTHON_CLIENT_PREALLOCATE", "false"},   // else JAX takes three quarters of the card at once
          {"XLA_PYTHON_CLIENT_MEM_FRACTION", fraction.data()},
          {"TF_FORCE_GPU_ALLOW_GROWTH", "true"},        // TensorFlow has no limit by variable; else it takes the whole card at once
          {"CUPY_GPU_MEMORY_LIMIT", std::to_string(room << 20U)}};
}

std::vector<std::string> command_environment(const std::map<std::string, std::string>& submitted, const std::map<std::string, std::string>& own) {
  std::map<std::string, std::string> all;
  for (const char* key : {"PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LANG"})
    if (const char* value = std::getenv(key)) all[key] = value;
  all.try_emplace("PATH", "/usr/local/bin:/usr/bin:/bin");
  for (const auto& [key, value] : submitted)
    if (!key.empty() && key.find('=') == std::string::npos && key.find('\0') == std::string::npos && value.find('\0') == std::string::npos) all[key] = value;
  for (const auto& [key, value] : own) all[key] = value;
  std::vector<std::string> out;
  out.reserve(all.size());
  for (const auto& [key, value] : all) out.push_back(key + "=" + value);
  return out;
}

}  // namespace gq::worker

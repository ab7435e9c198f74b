#include "broker/shell/model_condition.h"

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace gq::broker {
namespace {

constexpr std::size_t kConditionMax = 512;   // bytes

std::string shown(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

struct Reader {
  std::string_view all;
  std::size_t at{};

  void space() {
    while (at < all.size() && (all[at] == ' ' || all[at] == '\t')) ++at;
  }
  [[nodiscard]] bool done() {
    space();
    return at == all.size();
  }
  bool take(std::string_view word) {
    space();
    if (all.substr(at, word.size()) != word) return false;
    at += word.size();
    return true;
  }
  std::string_view name() {
    space();
    const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto belongs = [&](char c) { return is_letter(c) || (c >= '0' && c <= '9') || std::string_view("_.-@/()").find(c) != std::string_view::npos; };
    const std::size_t begin = at;
    if (at < all.size() && is_letter(all[at]))
      while (at < all.size() && belongs(all[at])) ++at;
    return all.substr(begin, at - begin);
  }
  std::optional<double> number() {
    space();
    double value = 0;
    const auto [end, error] = std::from_chars(all.data() + at, all.data() + all.size(), value);
    if (error != std::errc{}) return std::nullopt;
    at = static_cast<std::size_t>(end - all.data());
    return value;
  }
  [[nodiscard]] Error wrong(const std::string& what) const {
    return {Errc::usage, "the condition '" + std::string(all) + "' is none: at column " + std::to_string(at + 1) + " " + what, "--if 'map50 > current' or --if 'map50 >= 0.8 and recall > current - 0.01'"};
  }
};

Result<double> value_of(const std::string& metric, const ModelMetrics& metrics, const char* whose) {
  if (const auto it = metrics.find(metric); it != metrics.end()) return it->second;
  std::string has;
  for (const auto& [name, value] : metrics) has += (has.empty() ? "" : ", ") + name;
  return fail(Errc::bad_input, std::string(whose) + " has no metric '" + metric + "'", has.empty() ? "it has none: gpuq model push NAME --from JOB keeps those of a training" : "it has: " + has);
}

}  // namespace

ModelMetrics metrics_of(const std::string& metadata) {
  ModelMetrics out;
  const auto json = nlohmann::json::parse(metadata, nullptr, false);
  if (!json.is_object() || !json.contains("metrics") || !json["metrics"].is_object()) return out;
  for (const auto& [name, value] : json["metrics"].items())
    if (value.is_number()) out[name] = value.get<double>();
  return out;
}

Result<std::string> judge_promotion(std::string_view condition, const ModelMetrics& candidate, const std::optional<ModelMetrics>& current) {
  if (condition.size() > kConditionMax) return fail(Errc::over_limit, "a condition has at most " + std::to_string(kConditionMax) + " bytes", "");
  Reader in{condition};
  std::string said, not_true;
  do {
    const std::string metric(in.name());
    if (metric.empty()) return tl::unexpected(in.wrong("a metric's name is missing"));
    std::string op;
    for (const char* one : {">=", "<=", ">", "<"})
      if (in.take(one)) {
        op = one;
        break;
      }
    if (op.empty()) return tl::unexpected(in.wrong("one of > >= < <= is missing"));
    const bool relative = in.take("current");
    double bound = 0;
    if (relative) {
      if (const double sign = in.take("+") ? 1 : in.take("-") ? -1 : 0; sign != 0) {
        const auto by = in.number();
        if (!by) return tl::unexpected(in.wrong("a number is missing"));
        bound = sign * *by;
      }
    } else {
      const auto value = in.number();
      if (!value) return tl::unexpected(in.wrong("a number or 'current' is missing"));
      bound = *value;
    }
    const auto value = value_of(metric, candidate, "the version");
    if (!value) return tl::unexpected(value.error());
    if (relative && !current) continue;   // nothing to be better than
    if (relative) {
      const auto now = value_of(metric, *current, "the promoted version");
      if (!now) return tl::unexpected(now.error());
      bound += *now;
    }
    const bool holds = op == ">" ? *value > bound : op == ">=" ? *value >= bound : op == "<" ? *value < bound : *value <= bound;
    const std::string words = metric + " " + shown(*value) + " " + op + " " + shown(bound);
    (holds ? said : not_true) += ((holds ? said : not_true).empty() ? "" : ", ") + words;
  } while (in.take("and"));
  if (!in.done()) return tl::unexpected(in.wrong("'and' or the end is missing"));
  if (!not_true.empty()) return fail(Errc::condition_false, "it does not hold that " + not_true, "gpuq model diff shows both; without --if it is promoted all the same");
  return said;
}

}  // namespace gq::broker

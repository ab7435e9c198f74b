// json.h - the little JSON executors need: model metadata in, results and metrics out. Bounded depth and size; a malformed text is
// nullopt, never an exception. Numbers are doubles; object keys keep their order.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace gq::exec {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;
  Json(bool v) : value_(v) {}                                     // NOLINT: literals read like JSON
  Json(double v) : value_(v) {}                                   // NOLINT
  Json(int v) : value_(static_cast<double>(v)) {}                 // NOLINT
  Json(std::int64_t v) : value_(static_cast<double>(v)) {}        // NOLINT
  Json(std::string v) : value_(std::move(v)) {}                   // NOLINT
  Json(std::string_view v) : value_(std::string(v)) {}            // NOLINT
  Json(const char* v) : value_(std::string(v)) {}                 // NOLINT
  Json(Array v) : value_(std::move(v)) {}                         // NOLINT
  Json(Object v) : value_(std::move(v)) {}                        // NOLINT

  [[nodiscard]] bool is_null() const { return value_.index() == 0; }
  [[nodiscard]] std::optional<bool> boolean() const;
  [[nodiscard]] std::optional<double> number() const;
  [[nodiscard]] const std::string* text() const { return std::get_if<std::string>(&value_); }
  [[nodiscard]] const Array* array() const { return std::get_if<Array>(&value_); }
  [[nodiscard]] const Object* object() const { return std::get_if<Object>(&value_); }
  [[nodiscard]] const Json* find(std::string_view key) const;     ///< nullptr: no object or no such key
  [[nodiscard]] std::string dump() const;

 private:
  std::variant<std::monostate, bool, double, std::string, Array, Object> value_;
};

std::optional<Json> parse_json(std::string_view text);

}  // namespace gq::exec

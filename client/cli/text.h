// text.h - small words in and out: sizes, times, ages, tables, JSON of the public structs.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "client/include/gpuq/client.h"
#include "common/vocabulary/errors.h"

namespace gq::cli {

std::int64_t wall_now_ms();

struct VramRange { std::int64_t min_mib{}, max_mib{}; bool operator==(const VramRange&) const = default; };
/// "6GiB", "2GiB..8GiB", "2GiB..rest"
Result<VramRange> parse_vram(std::string_view text);
/// A duration from now ("2h"), "22:30" (the next one, local), "2026-11-21T10:00[:00][Z|+09:00]" (local without a zone).
Result<std::int64_t> parse_when(std::string_view text, std::int64_t now_ms);
Result<std::chrono::milliseconds> parse_span(std::string_view text);
/// "k=v" -> {k, v}; error when there is no '=' or no key.
Result<std::pair<std::string, std::string>> parse_pair(const std::string& text, std::string_view option);

std::string age(std::int64_t ms);                       ///< "340ms", "12s", "4m12s", "3h05m", "2d04h"
std::string stamp(std::int64_t wall_ms);                ///< "2026-11-21 10:00:00Z", "-" for 0
std::string when(std::int64_t wall_ms, std::int64_t now_ms);  ///< of a time to come: "22:00:00Z (in 3h05m)", with its date when that is another day's; "-" for 0
std::string ahead_text(std::uint64_t ahead);            ///< "3 ahead", "many ahead"
nlohmann::ordered_json ahead_json(std::uint64_t ahead); ///< null = more than were counted
std::string mib(std::int64_t value);                    ///< "512 MiB", "12.0 GiB"
std::string bytes_text(std::uint64_t bytes);
std::string media_of(std::string_view name, std::string_view bytes);
bool is_text(std::string_view bytes);                   ///< printable UTF-8

/// Left-aligned columns, two spaces apart, no trailing blanks.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  void print(std::ostream& out, bool with_header = true) const;
 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

nlohmann::ordered_json to_json(const gpuq::JobStatus& job);
nlohmann::ordered_json to_json(const gpuq::JobResult& result);
nlohmann::ordered_json to_json(const gpuq::WorkerStatus& worker);
nlohmann::ordered_json to_json(const gpuq::Model& model);
nlohmann::ordered_json to_json(const gpuq::Top& top);
nlohmann::ordered_json to_json(const gpuq::Submitted& submitted);
nlohmann::ordered_json to_json(const std::vector<gpuq::Detection>& detections);

/// {"schema_version": 1, key: [items]} or one line per item, each with its schema_version.
void print_json(std::ostream& out, bool lines, std::string_view key, const std::vector<nlohmann::ordered_json>& items);
/// The same for an answer that is one thing: {"schema_version": 1, key: object}, or its fields beside schema_version on one line.
void print_object(std::ostream& out, bool line, std::string_view key, const nlohmann::ordered_json& object);

}  // namespace gq::cli
